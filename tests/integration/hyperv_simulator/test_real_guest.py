"""Real guests: Start-VM boots the machine's disk in QEMU, and the guest sees what the host does."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator

import pytest

from hvdrivers.hyperv.simulator.guests.qemu import QemuGuest, QemuGuests
from hvdrivers.hyperv.simulator.host import SimulatedHost
from hvdrivers.hyperv.simulator.state.machine import Machine
from hvdrivers.testing.guestimage import GuestImageUnavailable, build_guest_image
from tests.integration.hyperv_simulator.conftest import Engine
from tests.peers.precondition import missing

_PATIENCE = 180.0
"""Seconds; a guest without KVM on a busy machine is slow."""


@pytest.fixture(scope="module", autouse=True)
def _real(host: SimulatedHost) -> Iterator[None]:
    if shutil.which("qemu-system-x86_64") is None:
        missing("qemu-system-x86_64 is not installed")
    played = host.state.guests
    host.state.guests = QemuGuests(host.state, uefi=False)
    yield
    host.state.guests = played


@pytest.fixture
def machine(engine: Engine, host: SimulatedHost) -> Machine:
    try:
        image = build_guest_image()
    except GuestImageUnavailable as error:
        missing(str(error))
    folder = host.state.files.file("C:\\img")
    folder.mkdir()
    subprocess.run(
        ["qemu-img", "convert", "-O", "vhdx", str(image), str(folder / "base.vhdx")], check=True
    )
    engine(
        "$null = New-VHD C:\\img\\root.vhdx -ParentPath C:\\img\\base.vhdx -Differencing;"
        "Resize-VHD C:\\img\\root.vhdx -SizeBytes 128MB;"
        "$vm = New-VM real -Generation 2 -MemoryStartupBytes 384MB -VHDPath C:\\img\\root.vhdx;"
        "$null = New-VMSwitch lan -SwitchType Private;"
        "Connect-VMNetworkAdapter -VMName real -SwitchName lan;"
        "Set-VM real -CheckpointType Standard;"
        "Set-VMComPort -VMName real -Number 1 -Path \\\\.\\pipe\\console; Start-VM real"
    )
    (found,) = host.state.machines.values()
    return found


@pytest.fixture
def until(host: SimulatedHost) -> Callable[[Callable[[], bool], str], None]:
    def wait(holds: Callable[[], bool], what: str) -> None:
        with host.world.lock:
            assert host.state.wait_for(holds, _PATIENCE), what

    return wait


def said(machine: Machine) -> str:
    assert isinstance(machine.guest, QemuGuest)
    return machine.guest.serial.written.decode("utf-8", "replace")


def ready(machine: Machine) -> bool:
    return machine.guest is not None and machine.guest.heartbeat()


def test_a_machine_boots_its_own_disk_and_lives_through_all_of_it(
    engine: Engine,
    host: SimulatedHost,
    machine: Machine,
    until: Callable[[Callable[[], bool], str], None],
) -> None:
    until(lambda: ready(machine), "it boots")
    assert "root disk sda 128 MiB" in said(machine)
    until(lambda: "address eth0" in said(machine), "it has an address")
    assert engine("(Get-VMNetworkAdapter -VMName real).IPAddresses")[0].startswith("10.")

    engine(
        "$null = New-VHD C:\\img\\data.vhdx -SizeBytes 32MB;"
        "Add-VMHardDiskDrive -VMName real -Path C:\\img\\data.vhdx"
    )
    until(lambda: "disk sdb 32 MiB" in said(machine), "a disk is plugged")
    engine("Checkpoint-VM real -SnapshotName one")
    engine("Resize-VHD (Get-VMHardDiskDrive -VMName real)[1].Path -SizeBytes 64MB")
    until(lambda: "disk sdb 64 MiB resized" in said(machine), "the disk grows")
    engine("Get-VMHardDiskDrive -VMName real | Select-Object -Last 1 | Remove-VMHardDiskDrive")
    until(lambda: "disk sdb removed" in said(machine), "the disk is unplugged")
    engine("Add-VMNetworkAdapter -VMName real -SwitchName lan")
    until(lambda: "nic eth1" in said(machine), "an adapter is plugged")

    engine(
        "$p = [IO.Pipes.NamedPipeClientStream]::new('.', 'console'); $p.Connect(5000);"
        '$p.Write([Text.Encoding]::ASCII.GetBytes("ping`n"), 0, 5); $p.Flush();'
        "$reader = [IO.StreamReader]::new($p);"
        "while ($reader.ReadLine() -notmatch 'hv-guest: pong') { }; $p.Dispose()"
    )

    engine("Get-VMSnapshot -VMName real | Remove-VMSnapshot")
    until(lambda: machine.merging == 0, "the disks merge while it runs")
    assert machine.config.drives[0].path == "C:\\img\\root.vhdx"

    engine("Save-VM real; Start-VM real")
    assert machine.state == "Running"
    engine("Restart-VM real -Force")
    until(lambda: ready(machine) and "boot number 2" in said(machine), "it boots again")
    engine("Stop-VM real -Force")
    assert machine.state == "Off"
    ids = [
        record.event for record in host.state.log.records["Microsoft-Windows-Hyper-V-Worker-Admin"]
    ]
    assert ids == [18500, 18510, 18596, 18512, 18504]


def test_a_checkpoint_brings_the_memory_back(
    engine: Engine, machine: Machine, until: Callable[[Callable[[], bool], str], None]
) -> None:
    until(lambda: ready(machine) and "address eth0" in said(machine), "it boots")
    engine(
        "Checkpoint-VM real -SnapshotName warm; Stop-VM real -TurnOff -Force;"
        "Restore-VMSnapshot -VMName real -Name warm -Confirm:$false"
    )
    assert machine.state == "Saved"
    engine("Start-VM real")
    until(lambda: "tick" in said(machine), "the guest goes on")
    assert "boot number" not in said(machine)
    assert ready(machine)
    assert engine("(Get-VMNetworkAdapter -VMName real).IPAddresses")[0].startswith("10.")
    engine("Stop-VM real")
    assert machine.state == "Off"


def test_the_disks_move_while_the_guest_runs(
    engine: Engine,
    host: SimulatedHost,
    machine: Machine,
    until: Callable[[Callable[[], bool], str], None],
) -> None:
    until(lambda: ready(machine), "it boots")
    engine("Set-VMMemory -VMName real -StartupBytes 448MB")
    engine("Move-VMStorage -Name real -DestinationStoragePath C:\\moved")
    assert machine.config.drives[0].path == "C:\\moved\\Virtual Hard Disks\\root.vhdx"
    assert not host.state.files.file("C:\\img\\root.vhdx").exists()
    assert host.state.files.file("C:\\img\\base.vhdx").exists()
    until(lambda: "tick" in said(machine), "the guest goes on")
    assert "boot number" not in said(machine)
