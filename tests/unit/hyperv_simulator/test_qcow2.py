"""What the simulator reads in a qcow2 header is what qemu-img says."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from hvdrivers.hyperv.simulator.state.qcow2 import qcow2_info
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
