"""The host itself: inventory, CIM classes, event log, storage, iSCSI, exports, migration."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hvdrivers.hyperv.simulator.host import SimulatedHost
from hvdrivers.hyperv.simulator.state.host import HostDevice, Switch
from tests.integration.hyperv_simulator.conftest import Engine, PowerShellError

NEW = "$vm = New-VM -Name {0} -Generation 2 -MemoryStartupBytes 512MB -NoVHD"
TARGET = "iqn.2026-01.example:one"


def test_the_units_of_memory_differ_by_source(engine: Engine, host: SimulatedHost) -> None:
    assert engine(
        "(Get-VMHost).MemoryCapacity;"
        "(Get-CimInstance -ClassName Win32_OperatingSystem).TotalVisibleMemorySize;"
        "(Get-VMHostNumaNode | Measure-Object -Property MemoryTotal -Sum).Sum"
    ) == [64 << 30, 64 << 20, 64 << 10]


def test_the_event_log_is_numbered_and_filtered(engine: Engine, host: SimulatedHost) -> None:
    log = "Microsoft-Windows-Hyper-V-Worker-Admin"
    with pytest.raises(PowerShellError) as caught:
        engine(f"Get-WinEvent -LogName {log} -MaxEvents 1")
    assert caught.value.code == "NoMatchingEventsFound"
    engine(f"{NEW.format('e')}; Start-VM e; Restart-VM e -Force; Stop-VM e -TurnOff -Force")
    assert engine(
        f"Get-WinEvent -LogName {log} -Oldest -FilterXPath '*[System[EventRecordID > 1]]'"
        " |"
        " ForEach-Object { $_.RecordId, $_.Id }"
    ) == [2, 18512, 3, 18502]
    assert (
        engine.one(
            f"(Get-WinEvent -FilterHashtable @{{ LogName = '{log}'; Id = 18500 }})"
            ".Properties[1].Value"
            " -eq (Get-VM e).Id"
        )
        is True
    )


def test_cim_classes_of_machines(engine: Engine, host: SimulatedHost) -> None:
    engine(f"{NEW.format('kvp')}; Start-VM kvp")
    (machine,) = host.state.machines.values()
    with host.world.lock:
        guest = machine.guest
        assert guest is not None
        assert host.state.wait_for(guest.heartbeat, 60)
    (name, items) = engine(
        "$m = Get-CimInstance -Namespace root/virtualization/v2 -ClassName Msvm_ComputerSystem"
        " -Filter \"ElementName = 'kvp'\"; $m.Name;"
        "(Get-CimAssociatedInstance -InputObject $m -ResultClassName Msvm_KvpExchangeComponent)"
        ".GuestIntrinsicExchangeItems -join ''"
    )
    assert name == str(machine.id).upper()
    assert "Simulated Linux" in items
    assert engine(
        "$s = Get-CimInstance -Namespace root/virtualization/v2 -ClassName"
        " Msvm_VirtualSystemManagementService;"
        "$d = Get-CimInstance -Namespace root/virtualization/v2 -ClassName"
        " Msvm_VirtualSystemSettingData;"
        "$r = Invoke-CimMethod -InputObject $s -MethodName GetVirtualSystemThumbnailImage"
        " -Arguments"
        " @{ TargetSystem = $d; WidthPixels = [uint16]8; HeightPixels = [uint16]4 };"
        "$r.ReturnValue; $r.ImageData.Length"
    ) == [0, 64]


def test_a_tpm_needs_a_key_protector_and_fixes_the_template(engine: Engine) -> None:
    engine(NEW.format("t"))
    with pytest.raises(PowerShellError):
        engine("Enable-VMTPM -VMName t")
    engine("Set-VMKeyProtector -VMName t -NewLocalKeyProtector; Enable-VMTPM -VMName t")
    with pytest.raises(PowerShellError) as caught:
        engine("Set-VMFirmware -VMName t -SecureBootTemplate MicrosoftUEFICertificateAuthority")
    assert caught.value.id == "OperationFailed,Microsoft.HyperV.PowerShell.Commands.SetVMFirmware"


def test_an_iscsi_disk_is_offline_until_a_machine_has_it(
    engine: Engine, host: SimulatedHost
) -> None:
    target = host.state.storage.add_target(TARGET, "10.0.0.5", chap=("user", "secret-secret"))
    with pytest.raises(PowerShellError) as caught:
        engine("New-IscsiTargetPortal -TargetPortalAddress 10.0.0.6")
    assert caught.value.code == "HRESULT 0xefff0003"
    engine("$null = New-IscsiTargetPortal -TargetPortalAddress 10.0.0.5")
    with pytest.raises(PowerShellError) as caught:
        engine(f"Connect-IscsiTarget -NodeAddress {TARGET}")
    assert caught.value.code == "HRESULT 0xefff0009"
    assert engine(
        f"$null = Connect-IscsiTarget -NodeAddress {TARGET} -AuthenticationType ONEWAYCHAP"
        " -ChapUsername user -ChapSecret secret-secret -IsPersistent $true;"
        "$d = Get-IscsiSession | Get-Disk; $d.UniqueId; $d.IsOffline;"
        f"{NEW.format('i')};"
        "(Add-VMHardDiskDrive -VM $vm -DiskNumber $d.Number -Passthru).DiskNumber"
    ) == [target.luns[0].unique_id, True, 1]
    engine("Start-VM i")
    with pytest.raises(PowerShellError) as caught:
        engine(f"Disconnect-IscsiTarget -NodeAddress {TARGET} -Confirm:$false")
    assert caught.value.code == "HRESULT 0xefff0040"
    engine("Stop-VM i -TurnOff -Force; Get-VMHardDiskDrive -VMName i | Remove-VMHardDiskDrive")
    engine(f"Disconnect-IscsiTarget -NodeAddress {TARGET} -Confirm:$false")
    assert list(host.state.storage.disks) == [0]


def test_disks_of_the_host_need_an_administrator(engine: Engine, host: SimulatedHost) -> None:
    host.state.administrator = False
    try:
        with pytest.raises(PowerShellError) as caught:
            engine("Get-Disk")
        assert caught.value.hresult == 0x80070005
    finally:
        host.state.administrator = True


def test_a_device_is_dismounted_assigned_and_given_back(
    engine: Engine, host: SimulatedHost
) -> None:
    path = "PCIROOT(0)#PCI(0300)#PCI(0000)"
    host.state.hardware.devices.append(HostDevice("PCI\\VEN_10DE\\1", path, "Some GPU"))
    try:
        engine(f"{NEW.format('d')}; Set-VM d -AutomaticStopAction TurnOff")
        with pytest.raises(PowerShellError):
            engine(f"Add-VMAssignableDevice -VMName d -LocationPath '{path}'")
        with pytest.raises(PowerShellError):
            engine(f"Dismount-VMHostAssignableDevice -Force -LocationPath '{path}'")
        engine(
            "Get-CimInstance Win32_PnPEntity | Where-Object DeviceID -like 'PCI*' |"
            " Invoke-CimMethod -MethodName Disable"
        )
        engine(f"Dismount-VMHostAssignableDevice -Force -LocationPath '{path}'")
        assert engine.one("(Get-VMHostAssignableDevice).LocationPath") == path
        engine(f"Add-VMAssignableDevice -VMName d -LocationPath '{path}'")
        assert engine("Get-VMHostAssignableDevice") == []
        engine("Remove-VM d -Force")
        engine(f"Mount-VMHostAssignableDevice -LocationPath '{path}'")
        assert host.state.hardware.devices[0].dismounted is False
    finally:
        host.state.hardware.devices.clear()


def test_an_exported_machine_is_imported_as_a_copy(engine: Engine, host: SimulatedHost) -> None:
    engine(
        "$null = New-VHD -Path C:\\d\\x.vhdx -SizeBytes 64MB;"
        "$null = New-VM -Name x -Generation 2 -VHDPath C:\\d\\x.vhdx; Set-VM x -Notes mine;"
        "Checkpoint-VM x; Export-VM x -Path C:\\out"
    )
    (original,) = host.state.machines.values()
    file = f"C:\\out\\x\\Virtual Machines\\{str(original.id).upper()}.vmcx"
    with pytest.raises(PowerShellError) as caught:
        engine(f"Import-VM -Path '{file}' -Copy")
    assert caught.value.hresult == 0x80070050
    identity = engine.one(
        f"(Import-VM -Path '{file}' -Copy -GenerateNewId -VhdDestinationPath C:\\imp).Id.ToString()"
    )
    copied = next(m for m in host.state.machines.values() if str(m.id) == identity)
    assert (copied.config.notes, len(copied.checkpoints)) == ("mine", 1)
    chain = host.state.disks.chain(copied.config.drives[0].path)
    assert [path.startswith("C:\\imp\\") for path in chain] == [True, True]


@pytest.fixture
def second(host: SimulatedHost) -> Iterator[SimulatedHost]:
    other = SimulatedHost("HV2", world=host.world)
    host.meet(other)
    yield other
    host.state.peers.pop("hv2")
    host.state.delegation = False
    other.close()


def test_a_move_names_what_speaks_against_it_and_then_takes_the_disks(
    engine: Engine, host: SimulatedHost, second: SimulatedHost
) -> None:
    switch = Switch("lan")
    host.state.switches[switch.id] = switch
    engine(
        "$null = New-VHD -Path C:\\d\\m.vhdx -SizeBytes 64MB;"
        "$null = New-VM -Name m -Generation 2 -VHDPath C:\\d\\m.vhdx -SwitchName lan; Start-VM m"
    )
    move = "-VM (Get-VM m) -DestinationHost HV2 -IncludeStorage -DestinationStoragePath C:\\new"
    with pytest.raises(PowerShellError) as caught:
        engine(f"Move-VM {move}")
    assert caught.value.hresult == 0x80070005
    host.state.delegation = True
    told = engine(f"(Compare-VM {move}).Incompatibilities.Message")
    assert len(told) == 3
    second.state.switches[switch.id] = Switch("lan")
    engine("Enable-VMMigration")
    second.state.settings.migration = True
    (machine,) = host.state.machines.values()
    engine(f"Move-VM {move}")
    assert host.state.machines == {}
    assert second.state.machines == {machine.id: machine}
    assert machine.state == "Running"
    assert machine.config.drives[0].path == "C:\\new\\Virtual Hard Disks\\m.vhdx"
    assert second.state.files.file(machine.config.drives[0].path).is_file()
    assert not host.state.files.file("C:\\d\\m.vhdx").exists()


def test_storage_moves_and_keeps_its_chain(engine: Engine, host: SimulatedHost) -> None:
    engine(
        "$null = New-VHD -Path C:\\d\\s.vhdx -SizeBytes 64MB;"
        "$null = New-VM -Name s -Generation 2 -VHDPath C:\\d\\s.vhdx; Checkpoint-VM s;"
        "Move-VMStorage -Name s -DestinationStoragePath C:\\elsewhere"
    )
    (machine,) = host.state.machines.values()
    chain = host.state.disks.chain(machine.config.drives[0].path)
    assert len(chain) == 2
    assert all(path.startswith("C:\\elsewhere\\") for path in chain)
    assert list(host.state.files.file("C:\\d").iterdir()) == []


def test_what_is_not_played_says_so(engine: Engine) -> None:
    with pytest.raises(PowerShellError) as caught:
        engine("Get-VMReplication")
    assert caught.value.code == "NotSupported"
