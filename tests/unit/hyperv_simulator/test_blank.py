"""Every empty VHDX is one, though qemu-img made only the first of its size."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from hvdrivers.hyperv.simulator.errors import CmdletError
from hvdrivers.hyperv.simulator.state.files import WindowsFiles
from hvdrivers.hyperv.simulator.state.vhd import DiskStore
from tests.peers.precondition import missing

MIB = 1 << 20


@pytest.fixture
def store(tmp_path: Path) -> DiskStore:
    if shutil.which("qemu-img") is None:
        missing("qemu-img")
    return DiskStore(WindowsFiles(tmp_path))


def said(file: Path) -> dict[str, object]:
    done = subprocess.run(
        ["qemu-img", "info", "--output=json", str(file)], check=True, capture_output=True
    )
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_the_second_of_a_size_is_as_the_first(store: DiskStore, tmp_path: Path) -> None:
    made = [store.create(f"C:\\{number}.vhdx", 64 * MIB, "Dynamic") for number in range(2)]
    other = store.create("C:\\other.vhdx", 128 * MIB, "Dynamic")
    files = [tmp_path / f"{number}.vhdx" for number in range(2)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert said(files[1])["format"] == "vhdx"
    assert said(files[1])["virtual-size"] == made[1].size == 64 * MIB
    assert said(tmp_path / "other.vhdx")["virtual-size"] == other.size == 128 * MIB
    assert made[0].identifier != made[1].identifier
    assert made[0].file_size == made[1].file_size
    subprocess.run(["qemu-img", "check", "-q", str(files[1])], check=True)


def test_what_is_written_into_one_is_in_no_other(store: DiskStore, tmp_path: Path) -> None:
    store.create("C:\\0.vhdx", 64 * MIB, "Dynamic")
    store.create("C:\\1.vhdx", 64 * MIB, "Dynamic")
    before = (tmp_path / "0.vhdx").read_bytes()
    subprocess.run(
        ["qemu-io", "-f", "vhdx", "-c", "write -P 7 1M 4k", str(tmp_path / "1.vhdx")],
        check=True,
        capture_output=True,
    )
    store.create("C:\\2.vhdx", 64 * MIB, "Dynamic")
    assert (tmp_path / "0.vhdx").read_bytes() == before == (tmp_path / "2.vhdx").read_bytes()


def test_one_that_grew_at_once_is_told_as_that(store: DiskStore) -> None:
    """The time of its change may be the one of its making."""
    store.create("C:\\base.vhdx", 64 * MIB, "Dynamic")
    for number in range(20):
        path = f"C:\\{number}.vhdx"
        assert store.differencing(path, "C:\\base.vhdx").size == 64 * MIB
        assert store.resize(path, 128 * MIB).size == 128 * MIB


def test_a_file_that_is_there_is_refused(store: DiskStore) -> None:
    store.create("C:\\0.vhdx", 64 * MIB, "Dynamic")
    with pytest.raises(CmdletError):
        store.create("C:\\0.vhdx", 64 * MIB, "Dynamic")
