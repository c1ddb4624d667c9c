"""`conformance run` on a machine that lacks what the target needs: it says what, and how to get
it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("winrm", reason="precondition missing: pip install '.[hyperv]'")

from hvdrivers.contract.errors import ConnectionFailed
from hvdrivers.hyperv.simulator import wsman_shell
from tests.unit.cli.conftest import Runner

HYPERV = ("conformance", "run", "hyperv", "--clause", "LIMIT-001")


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with no program on its PATH; the folder that the PATH names."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("HVDRIVERS_PWSH", raising=False)
    # no engine beside a checkout either
    monkeypatch.setattr(wsman_shell, "__file__", str(tmp_path / "a" / "b" / "c" / "d.py"))
    return folder


def program(folder: Path, name: str) -> None:
    (folder / name).write_text("#!/bin/sh\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_no_powershell(run: Runner, bare: Path, jobs: str) -> None:
    found = run(*HYPERV, "--jobs", jobs)
    assert found.code == 3
    assert "cannot start: there is no PowerShell on this machine" in found.err
    assert "name it in HVDRIVERS_PWSH" in found.err
    assert "bug" not in found.err


def test_an_engine_that_is_not_there(
    run: Runner, bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HVDRIVERS_PWSH", str(bare / "pwsh"))
    found = run(*HYPERV)
    assert found.code == 3
    assert f"HVDRIVERS_PWSH names '{bare / 'pwsh'}': there is no such program" in found.err
    assert "bug" not in found.err


def test_no_qemu(run: Runner, bare: Path) -> None:
    program(bare, "pwsh")
    found = run(*HYPERV)
    assert found.code == 3
    assert "there is no qemu-img on this machine" in found.err
    assert "apt-get install qemu-utils" in found.err
    program(bare, "qemu-img")
    found = run(*HYPERV, "--option", "guests=real")
    assert found.code == 3
    assert "there is no qemu-system-x86_64 on this machine" in found.err
    assert "apt-get install qemu-system-x86), or use guests=played" in found.err


@pytest.mark.parametrize(
    ("driver", "module"), [("hyperv", "winrm"), ("vmware", "pyVmomi"), ("libvirt", "libvirt")]
)
def test_no_package_of_the_driver(driver: str, module: str) -> None:
    text = (
        f"import sys, runpy; sys.modules[{module!r}] = None;"
        f"sys.argv = ['hvdrivers', 'conformance', 'run', {driver!r}, '--clause', 'LIMIT-001'];"
        "runpy.run_module('hvdrivers', run_name='__main__')"
    )
    found = subprocess.run(
        [sys.executable, "-c", text], check=False, capture_output=True, text=True
    )
    assert found.returncode == 1
    assert f"pip install '.[{driver}]'" in found.stderr


def test_no_host_of_vsphere(run: Runner) -> None:
    pytest.importorskip("pyVmomi", reason="precondition missing: pip install '.[vmware]'")
    found = run("conformance", "run", "vmware", "--clause", "LIMIT-001")
    assert found.code == 2
    assert "host: Field required" in found.err
    assert "give each of these by --option NAME=VALUE" in found.err


def test_no_libvirt_daemon(run: Runner, tmp_path: Path) -> None:
    pytest.importorskip("libvirt", reason="precondition missing: pip install '.[libvirt]'")
    uri = f"qemu+unix:///system?socket={tmp_path / 'none'}"
    found = run("conformance", "run", "libvirt", "--clause", "LIMIT-001", "--option", f"uri={uri}")
    assert found.code == 3
    assert "bug" not in found.err
    assert "hint: " in found.err


def test_libvirt_without_qemu(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("libvirt", reason="precondition missing: pip install '.[libvirt]'")
    from hvdrivers.libvirt.conformance.raw_host import RawHost
    from hvdrivers.libvirt.conformance.target import LibvirtTarget

    class Connects:
        @classmethod
        def connect(cls, config: object) -> object:
            return SimpleNamespace(connection=SimpleNamespace(seam=None))

    bare = SimpleNamespace(getCapabilities=lambda: "<capabilities><host/></capabilities>")
    monkeypatch.setattr(RawHost, "connect", bare)
    target = LibvirtTarget(Connects, uri="qemu:///system")  # type: ignore[arg-type]
    with pytest.raises(ConnectionFailed, match="has found no QEMU") as caught:
        target.connect()
    assert "apt-get install qemu-system-x86" in (caught.value.hint or "")
