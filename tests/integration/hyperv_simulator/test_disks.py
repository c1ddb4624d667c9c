"""Virtual disks of the simulated host: real files, chains, merges, limits."""

from __future__ import annotations

import json
import subprocess

import pytest

from hvdrivers.hyperv.simulator.host import SimulatedHost
from tests.integration.hyperv_simulator.conftest import Engine, PowerShellError


def info(host: SimulatedHost, path: str) -> dict[str, object]:
    done = subprocess.run(
        ["qemu-img", "info", "-U", "--output=json", str(host.state.files.file(path))],
        check=True,
        capture_output=True,
    )
    told: dict[str, object] = json.loads(done.stdout)
    return told


def test_a_new_disk_is_a_real_vhdx(engine: Engine, host: SimulatedHost) -> None:
    seen = engine.one(
        "New-VHD -Path C:\\d\\new.vhdx -SizeBytes 64MB -Dynamic | "
        "Select-Object VhdType, VhdFormat, Size, Path"
    )
    assert seen == {
        "VhdType": "Dynamic",
        "VhdFormat": "VHDX",
        "Size": 64 << 20,
        "Path": "C:\\d\\new.vhdx",
    }
    told = info(host, "C:\\d\\new.vhdx")
    assert (told["format"], told["virtual-size"]) == ("vhdx", 64 << 20)


def test_a_differencing_disk_names_its_parent_and_grows(engine: Engine) -> None:
    engine("$null = New-VHD -Path C:\\d\\base.vhdx -SizeBytes 64MB -Dynamic")
    assert engine(
        "$null = New-VHD -Path C:\\d\\child.vhdx -ParentPath C:\\d\\base.vhdx -Differencing;"
        "Resize-VHD -Path C:\\d\\child.vhdx -SizeBytes 128MB;"
        "$v = Get-VHD -Path C:\\d\\child.vhdx; $v.VhdType; $v.ParentPath; $v.Size"
    ) == ["Differencing", "C:\\d\\base.vhdx", 128 << 20]


def test_a_converted_disk_is_whole_and_real(engine: Engine, host: SimulatedHost) -> None:
    engine(
        "$null = New-VHD -Path C:\\d\\b.vhdx -SizeBytes 64MB -Dynamic;"
        "$null = New-VHD -Path C:\\d\\c.vhdx -ParentPath C:\\d\\b.vhdx -Differencing;"
        "Convert-VHD -Path C:\\d\\c.vhdx -DestinationPath C:\\d\\whole.vhdx -VHDType Dynamic"
    )
    told = info(host, "C:\\d\\whole.vhdx")
    assert told["format"] == "vhdx"
    assert "backing-filename" not in told


@pytest.mark.parametrize(
    ("script", "code", "hresult"),
    [
        ("Get-VHD -Path C:\\d\\none.vhdx", "ObjectNotFound", 0x80070002),
        ("$null = New-VHD -Path C:\\d\\x.vhdx -SizeBytes 64MB; New-VHD -Path C:\\d\\x.vhdx "
         "-SizeBytes 64MB", "OperationFailed", 0x80070050),
        ("New-VHD -Path C:\\d\\full.vhdx -SizeBytes 4TB -Fixed", "OperationFailed", 0x80070070),
        ("New-VHD -Path C:\\d\\vast.vhdx -SizeBytes 65TB", "InvalidParameter", 0x80070057),
        ("Set-Content -Path C:\\d\\junk.vhdx -Value no; Get-VHD -Path C:\\d\\junk.vhdx",
         "OperationFailed", 0xC03A0002),
    ],
)  # fmt: skip
def test_errors_of_disks(
    engine: Engine, host: SimulatedHost, script: str, code: str, hresult: int
) -> None:
    host.state.files.file("C:\\d").mkdir(exist_ok=True)
    with pytest.raises(PowerShellError) as caught:
        engine(script)
    assert (caught.value.code, caught.value.hresult) == (code, hresult)


def test_checkpoints_make_layers_and_removing_them_merges(
    engine: Engine, host: SimulatedHost
) -> None:
    engine(
        "$null = New-VHD -Path C:\\d\\root.vhdx -SizeBytes 64MB -Dynamic;"
        "$null = New-VM -Name c -Generation 2 -VHDPath C:\\d\\root.vhdx;"
        "Checkpoint-VM -Name c -SnapshotName first; Checkpoint-VM -Name c -SnapshotName second;"
        "Set-VM -Name c -Notes later"
    )
    (machine,) = host.state.machines.values()
    (drive,) = machine.config.drives
    assert len(host.state.disks.chain(drive.path)) == 3
    assert engine(
        "Restore-VMSnapshot -VMName c -Name first -Confirm:$false; (Get-VM c).Notes;"
        "(Get-VMSnapshot -VMName c -Name second).ParentSnapshotName"
    ) == ["", "first"]
    engine("Get-VMSnapshot -VMName c | Remove-VMSnapshot")
    with host.world.lock:
        assert host.state.wait_for(lambda: machine.merging == 0, 60)
    assert machine.config.drives[0].path == "C:\\d\\root.vhdx"
    left = [entry.name for entry in host.state.files.file("C:\\d").iterdir()]
    assert left == ["root.vhdx"]


def test_hot_plug_is_for_scsi_only(engine: Engine) -> None:
    engine(
        "$null = New-VHD -Path C:\\d\\hot.vhdx -SizeBytes 64MB;"
        "$null = New-VM -Name g1 -Generation 1 -NoVHD; Add-VMScsiController -VMName g1; Start-VM g1"
    )
    with pytest.raises(PowerShellError) as caught:
        engine("Add-VMHardDiskDrive -VMName g1 -ControllerType IDE -Path C:\\d\\hot.vhdx")
    assert caught.value.code == "InvalidState"
    assert (
        engine.one(
            "(Add-VMHardDiskDrive -VMName g1 -ControllerType SCSI -Path C:\\d\\hot.vhdx -Passthru)"
            ".ControllerLocation"
        )
        == 0
    )
    with pytest.raises(PowerShellError) as caught:
        engine("$null = New-VM -Name g2 -VHDPath C:\\d\\hot.vhdx; Start-VM g2")
    assert caught.value.hresult == 0x80070020


def test_a_fault_rule_meets_the_call_that_it_names(engine: Engine, host: SimulatedHost) -> None:
    host.state.faults.fail("New-VHD", calls=2, hresult=0x80070020)
    engine("$null = New-VHD -Path C:\\d\\one.vhdx -SizeBytes 64MB")
    with pytest.raises(PowerShellError) as caught:
        engine("New-VHD -Path C:\\d\\two.vhdx -SizeBytes 64MB")
    assert caught.value.hresult == 0x80070020
    engine("$null = New-VHD -Path C:\\d\\two.vhdx -SizeBytes 64MB")


def test_a_machine_and_its_checkpoints_have_files_that_go_with_them(
    engine: Engine, host: SimulatedHost
) -> None:
    engine(
        "$null = New-VM -Name f -Generation 2 -NoVHD -Path C:\\f;"
        "Checkpoint-VM f -SnapshotName a; Checkpoint-VM f -SnapshotName b"
    )
    folder = host.state.files.file("C:\\f")

    def files() -> list[str]:
        return sorted({file.parent.name for file in folder.rglob("*") if file.is_file()})

    assert files() == ["Snapshots", "Virtual Machines"]
    engine("Remove-VMSnapshot -VMName f -Name a")
    assert sum(file.is_file() for file in folder.rglob("*.vmcx")) == 2
    engine("Remove-VM f -Force")
    assert files() == []
