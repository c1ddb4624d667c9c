"""What the simulator reads in a qcow2 header, and writes, is what qemu-img says."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from hvdrivers.hyperv.simulator.state.qcow2 import grow_qcow2, make_qcow2, qcow2_info
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


def checked(file: Path) -> None:
    done = subprocess.run(
        ["qemu-img", "check", "--output=json", str(file)], check=True, capture_output=True
    )
    found = json.loads(done.stdout)
    assert not found.get("leaks")
    assert not found.get("corruptions")


def written_and_read(file: Path, place: int) -> None:
    """The disk can be used: qemu-io finds what it has written."""
    for command in (f"write -P 7 {place} 4096", f"read -P 7 {place} 4096"):
        done = subprocess.run(
            ["qemu-io", "-f", "qcow2", "-c", command, str(file)],
            check=True,
            capture_output=True,
            text=True,
        )
        assert "failed" not in done.stdout
        assert "4096/4096" in done.stdout


@pytest.mark.parametrize("size", [5 << 20, 512 << 20, (512 << 20) + 512, 40 << 30, 64 << 40])
def test_a_file_without_data_is_as_qemu_img_makes_it(tmp_path: Path, size: int) -> None:
    base = made(tmp_path / "b\u00e4se [1].qcow2")
    file, theirs = tmp_path / "layer.qcow2", tmp_path / "theirs.qcow2"
    assert make_qcow2(file, size, base, "qcow2")
    over = ["-u", "-b", str(base), "-F", "qcow2"]
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", *over, theirs, str(size)], check=True
    )
    apart = {"filename", "actual-size", "children"}
    assert {k: v for k, v in told(file).items() if k not in apart} == {
        k: v for k, v in told(theirs).items() if k not in apart
    }
    # all behind the first cluster: tables, reference counts, length
    assert file.read_bytes()[1 << 16 :] == theirs.read_bytes()[1 << 16 :]
    written_and_read(file, size - (1 << 20))
    checked(file)


def test_what_cannot_be_made_is_left_to_qemu_img(tmp_path: Path) -> None:
    base, file = tmp_path / "base", tmp_path / "layer"
    assert not make_qcow2(file, 1 << 20, Path("base"), "raw")
    assert not make_qcow2(file, 1 << 20, Path("/" + 1023 * "n"), "raw")
    assert not make_qcow2(tmp_path / "none" / "layer", 1 << 20, base, "raw")
    assert not file.exists()
    file.write_bytes(b"other")
    assert not make_qcow2(file, 1 << 20, base, "raw")
    assert file.read_bytes() == b"other"


@pytest.mark.parametrize("size", [5 << 20, 6 << 20, 512 << 20, (512 << 20) + 512, 2 << 40])
def test_a_disk_that_grew_is_as_qemu_img_makes_it(tmp_path: Path, size: int) -> None:
    file = made(tmp_path / "disk.qcow2")
    written_and_read(file, 1 << 20)
    assert grow_qcow2(file, size)
    assert told(file)["virtual-size"] == size
    written_and_read(file, size - (1 << 20))
    checked(file)
    assert grow_qcow2(file, size + (1 << 20))
    assert told(file)["virtual-size"] == size + (1 << 20)
    checked(file)


def test_what_does_not_only_grow_in_its_place_is_left_to_qemu_img(tmp_path: Path) -> None:
    file = made(tmp_path / "disk.qcow2")
    shot = made(tmp_path / "shot.qcow2")
    subprocess.run(["qemu-img", "snapshot", "-c", "one", str(shot)], check=True)
    raw = tmp_path / "disk.raw"
    raw.write_bytes(bytes(4096))
    for each, size in ((file, 4 << 20), (file, 5 << 40), (shot, 6 << 20), (raw, 6 << 20)):
        before = each.read_bytes()
        assert not grow_qcow2(each, size)
        assert each.read_bytes() == before
    assert not grow_qcow2(tmp_path / "none", 6 << 20)


def test_a_disk_that_qemu_has_open_is_left_to_qemu_img(tmp_path: Path) -> None:
    file = made(tmp_path / "disk.qcow2")
    with subprocess.Popen(
        ["qemu-io", "-f", "qcow2", str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as user:
        assert user.stdin is not None
        assert user.stdout is not None
        user.stdin.write(b"length\n")
        user.stdin.flush()
        assert b"MiB" in user.stdout.readline()  # it has the file open
        assert not grow_qcow2(file, 6 << 20)
        user.communicate(b"quit\n")
    assert told(file)["virtual-size"] == 5 << 20
    assert grow_qcow2(file, 6 << 20)
