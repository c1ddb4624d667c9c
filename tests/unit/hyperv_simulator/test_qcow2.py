"""What the simulator reads in a qcow2 header is what qemu-img says."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from hvdrivers.hyperv.simulator.state.qcow2 import grow, make_layer, qcow2_info
from tests.peers.precondition import missing


def made(file: Path, *arguments: str) -> Path:
    program = shutil.which("qemu-img")
    if program is None:
        missing("qemu-img")
    subprocess.run(
        [program, "create", "-q", "-f", "qcow2", *arguments, str(file), "5M"], check=True
    )
    return file


def told(file: Path) -> dict[str, object]:
    done = subprocess.run(
        ["qemu-img", "info", "--output=json", str(file)], check=True, capture_output=True
    )
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_it_says_what_qemu_img_says(tmp_path: Path) -> None:
    base = made(tmp_path / "b\u00e4se [1].qcow2")
    layer = made(tmp_path / "layer.qcow2", "-b", str(base), "-F", "qcow2")
    for file in (base, layer):
        info = qcow2_info(file)
        assert info is not None
        assert info == {name: told(file)[name] for name in info}
    assert "full-backing-filename" in (qcow2_info(layer) or {})


@pytest.mark.parametrize("kind", ["version", "short", "relative", "feature", "name"])
def test_what_it_does_not_make_itself_is_left_to_qemu_img(tmp_path: Path, kind: str) -> None:
    base = made(tmp_path / "base.qcow2")
    file = tmp_path / "layer.qcow2"
    name = base.name if kind == "relative" else str(base)
    made(file, "-b", name, "-F", "qcow2", *(["-o", "compat=0.10"] if kind == "version" else []))
    data = bytearray(file.read_bytes())
    if kind == "short":
        del data[60:]
    elif kind == "feature":
        data[79] |= 4  # the data is in another file
    elif kind == "name":
        data[16:20] = (1 << 31).to_bytes(4, "big")
    file.write_bytes(data)
    assert qcow2_info(file) is None


def qemu_img(*arguments: str) -> None:
    program = shutil.which("qemu-img")
    if program is None:
        missing("qemu-img")
    subprocess.run([program, *arguments], check=True, capture_output=True)


GROWTHS = [(5 << 20, 6 << 20), (512, 1 << 30), (1 << 29, (1 << 29) + 512), (1 << 20, 4 << 40)]


@pytest.mark.parametrize(("size", "more"), GROWTHS)
def test_a_layer_that_it_makes_is_one_of_qemu_img_s(tmp_path: Path, size: int, more: int) -> None:
    base = made(tmp_path / "b\u00e4se [1].qcow2")
    file = tmp_path / "layer.vhdx"
    assert make_layer(file, base, "qcow2", size)
    for expected in (size, more):
        if expected == more:
            assert grow(file, more)
        qemu_img("check", "-f", "qcow2", str(file))
        info = told(file)
        assert info["virtual-size"] == expected
        assert info["full-backing-filename"] == str(base)
        assert info["backing-filename-format"] == "qcow2"


@pytest.mark.parametrize("of_qemu_img", [False, True])
def test_what_is_in_a_disk_stays_when_it_grows(tmp_path: Path, of_qemu_img: bool) -> None:
    base = tmp_path / "base.raw"
    base.write_bytes(b"b" * (1 << 20))
    file = tmp_path / "layer.qcow2"
    if of_qemu_img:
        qemu_img(
            *("create", "-q", "-f", "qcow2", "-u", "-b", str(base), "-F", "raw"), str(file), "1M"
        )
    else:
        assert make_layer(file, base, "raw", 1 << 20)
    subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", "write -P 0x61 0 64k", str(file)],
        check=True,
        capture_output=True,
    )
    assert grow(file, 3 << 30)
    qemu_img("check", "-f", "qcow2", str(file))
    qemu_img("resize", "-q", "--shrink", "-f", "qcow2", str(file), "2M")
    out = tmp_path / "out.raw"
    qemu_img("convert", "-f", "qcow2", "-O", "raw", str(file), str(out))
    data = out.read_bytes()
    assert data == b"a" * (64 << 10) + b"b" * ((1 << 20) - (64 << 10)) + bytes(1 << 20)


@pytest.mark.parametrize("kind", ["smaller", "same", "feature", "snapshot", "largest", "odd"])
def test_what_it_does_not_grow_itself_is_left_as_it_is(tmp_path: Path, kind: str) -> None:
    file = made(tmp_path / "disk.qcow2")
    if kind == "snapshot":
        qemu_img("snapshot", "-c", "one", str(file))
    elif kind == "feature":
        data = bytearray(file.read_bytes())
        data[79] |= 1  # it was not closed
        file.write_bytes(data)
    size = {"smaller": 1 << 20, "same": 5 << 20, "largest": (4 << 40) + 512, "odd": (6 << 20) + 1}
    before = file.read_bytes()
    assert not grow(file, size.get(kind, 6 << 20))
    assert file.read_bytes() == before


def test_what_qemu_has_open_is_left_to_qemu_img(tmp_path: Path) -> None:
    file = made(tmp_path / "disk.qcow2")
    before = file.read_bytes()
    with subprocess.Popen(
        ["qemu-io", "-f", "qcow2", str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as held:
        assert held.stdin is not None
        assert held.stdout is not None
        held.stdin.write("length\n")
        held.stdin.flush()
        assert "5 MiB" in held.stdout.readline()
        assert not grow(file, 6 << 20)
        held.stdin.write("quit\n")
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "size"), [("/" + "x" * 1023, 1 << 20), ("/x", 0), ("/x", 5), ("/x", (4 << 40) + 512)]
)
def test_a_layer_that_it_cannot_make_is_left_to_qemu_img(
    tmp_path: Path, name: str, size: int
) -> None:
    file = tmp_path / "layer.qcow2"
    assert not make_layer(file, Path(name), "raw", size)
    assert not file.exists()
