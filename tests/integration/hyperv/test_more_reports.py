"""More of what users of other tools for Hyper-V have reported, tried on this driver."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

import pytest

from hvdrivers.contract import errors
from hvdrivers.contract.power import RebootKind
from hvdrivers.guard import guarded
from hvdrivers.hyperv.driver import HypervDriver
from hvdrivers.hyperv.simulator.errors import E_ACCESS_DENIED, E_OUT_OF_MEMORY
from hvdrivers.hyperv.simulator.guests.played import Behaviour, PlayedGuest, PlayedGuests
from hvdrivers.hyperv.simulator.state.eventlog import EVENTS, WORKER
from hvdrivers.hyperv.simulator.state.host import Switch
from hvdrivers.hyperv.simulator.state.machine import STATE_NUMBERS, Machine
from hvdrivers.hyperv.simulator.wsman_faults import FaultRule, Strike
from hvdrivers.models.cloudinit import CloudInit
from hvdrivers.models.image import FileImage, ImageFormat
from hvdrivers.models.instance import Flavor
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import HypervVif
from hvdrivers.models.volume import VolumeAttachment, parse_connection_info
from tests.integration.hyperv.site import SWITCH, Site, spec
from tests.integration.hyperv.test_operations import machine_of
from tests.peers.waiting import wait_until

LIMITATION = 0xC03A001A
"""Disk files must not be compressed, encrypted or sparse, nor have the integrity bit of ReFS."""


@pytest.mark.parametrize("cmdlet", ["New-VHD", "Start-VM", "Convert-VHD"])
def test_folders_that_compress_what_is_in_them(site: Site, tmp_path: Path, cmdlet: str) -> None:
    """hashicorp/vagrant #5101 and #11118, hashicorp/packer #9922: no word about what to do."""
    path = tmp_path / "disk.raw"
    path.write_bytes(cmdlet.encode() + bytes(1 << 20))
    image = FileImage(path=path, format=ImageFormat.RAW)
    site.host.state.faults.fail(cmdlet, hresult=LIMITATION)
    try:
        with pytest.raises(errors.HypervisorFault) as fault:
            site.driver.spawn(spec(image))
    finally:
        site.host.state.faults.clear()
    assert not fault.value.retryable
    assert "compress" in str(fault.value.hint)
    assert site.left() == []


@pytest.fixture
def guests(site: Site) -> Iterator[PlayedGuests]:
    yield site.host.guests
    site.host.guests.default = Behaviour()


def up(site: Site, uuid: UUID) -> Machine:
    """The machine, when its guest has booted."""
    machine = machine_of(site, uuid)
    wait_until(
        lambda: machine.guest is not None and machine.guest.heartbeat(),
        timeout=60,
        what="the guest is up",
    )
    return machine


def was_turned_off(site: Site, machine: Machine) -> bool:
    """Whether somebody has pulled the machine's plug."""
    records = site.host.state.log.records[WORKER]
    ours = [each for each in records if each.vm == str(machine.id).upper()]
    return any(each.event == EVENTS["turned-off"][1] for each in ours)


def test_a_guest_that_hangs_at_its_shutdown(
    site: Site, image: FileImage, guests: PlayedGuests
) -> None:
    """taliesins/terraform-provider-hyperv #275, hashicorp/vagrant #12637, kubernetes/minikube
    #2914: the machine stays in the state Stopping, and whoever asks again gets an error."""
    driver = site.driver
    guests.default = Behaviour(obeys_shutdown=False)
    uuid = driver.spawn(spec(image)).uuid
    machine = up(site, uuid)
    with pytest.raises(errors.DeviceBusy):
        driver.reboot(uuid, RebootKind.SOFT, timeout=3)
    assert machine.state == "Stopping"
    guest = machine.guest
    assert isinstance(guest, PlayedGuest)
    # it was asked already: the next one waits for it too, and does not pull the plug
    before = site.host.state.faults.counts["Stop-VM"]
    with ThreadPoolExecutor(1) as pool:
        off = pool.submit(driver.power_off, uuid, graceful=3600)
        wait_until(
            lambda: site.host.state.faults.counts["Stop-VM"] > before or off.done(),
            timeout=60,
            what="the second asks",
        )
        with site.host.world.lock:
            guest.stop_itself()
        off.result()
    assert not was_turned_off(site, machine)
    assert driver.get_instance(uuid).state is InstanceState.STOPPED
    driver.power_on(uuid)
    up(site, uuid)
    with pytest.raises(errors.DeviceBusy):
        driver.reboot(uuid, RebootKind.SOFT, timeout=3)
    driver.destroy(uuid)
    assert site.left() == []


def test_a_guest_that_nobody_can_ask(site: Site, image: FileImage, guests: PlayedGuests) -> None:
    """MattHodge/PackerTemplates #18: Stop-VM fails at once, and nothing turns the machine off."""
    driver = site.driver
    guests.default = Behaviour(services=False)
    uuid = driver.spawn(spec(image)).uuid
    with pytest.raises(errors.GuestAgentUnavailable):
        driver.reboot(uuid, RebootKind.SOFT, timeout=3600)
    assert driver.get_instance(uuid).state is InstanceState.RUNNING
    driver.power_off(uuid, graceful=3600)
    assert driver.get_instance(uuid).state is InstanceState.STOPPED
    driver.destroy(uuid)


def test_an_image_of_a_little_more_than_the_disk(site: Site, tmp_path: Path) -> None:
    """SUSE-Cloud/automation #859: 8 GiB and 472 kB, and a flavor of 8 GiB."""
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        file.truncate((1 << 30) + (472 << 10))
    wanted = spec(
        FileImage(path=path, format=ImageFormat.RAW),
        flavor=Flavor(vcpus=1, memory_mib=64, disk_gib=1),
    )
    with pytest.raises(errors.ImageRejected) as rejected:
        site.driver.spawn(wanted)
    assert str((1 << 30) + (472 << 10)) in str(rejected.value)
    assert site.left() == []


def test_a_host_in_another_language(image: FileImage) -> None:
    """hashicorp/vagrant #8794 and #9451, diyan/pywinrm #181 and #247."""
    name = "Pour Acc\u00e8s Externe \u2019l\u2018 Standardv\u00e4xel"
    abroad = Site("H\u00d6ST", language="de")
    try:
        switch = Switch(name)
        abroad.host.state.switches[switch.id] = switch
        driver = abroad.driver
        nic = HypervVif(id="Netzwerkkarte \u00e4", switch=name)
        uuid = driver.spawn(spec(image, name="M\u00fcller", vifs=(nic,))).uuid
        machine = up(abroad, uuid)
        assert machine.config.adapters[0].switch == switch.id
        assert driver.guest_addresses(uuid)
        abroad.host.state.faults.fail("Save-VM", why="Der Vorgang ist fehlgeschlagen: \u00e4\u00df")
        with pytest.raises(errors.HypervisorFault, match="\u00e4\u00df"):
            driver.suspend(uuid)
        driver.reboot(uuid, RebootKind.SOFT)
        up(abroad, uuid)
        driver.power_off(uuid, graceful=3600)
        assert not was_turned_off(abroad, machine)
        point = driver.create_snapshot(uuid, "vorher")
        driver.revert_snapshot(uuid, point.id)
        driver.destroy(uuid)
        assert abroad.left() == []
    finally:
        abroad.close()


def test_a_nic_of_which_the_guest_tells_nothing(
    site: Site, image: FileImage, guests: PlayedGuests
) -> None:
    """hashicorp/vagrant #4346: two NICs, and no address; #12456: addresses of both families."""
    driver = site.driver
    nics = tuple(HypervVif(id=f"nic-{number}", switch=SWITCH) for number in range(2))
    guests.default = Behaviour(addresses=False)
    uuid = driver.spawn(spec(image, vifs=nics)).uuid
    up(site, uuid)
    assert driver.guest_addresses(uuid) == []
    guests.default = Behaviour()
    driver.reboot(uuid, RebootKind.SOFT)
    up(site, uuid)
    found = driver.guest_addresses(uuid)
    assert len({each.mac for each in found}) == 2
    assert {each.address.version for each in found} == {4, 6}
    driver.destroy(uuid)


def test_a_host_without_the_module(site: Site) -> None:
    """hashicorp/vagrant #3398: 'there are no virtual switches', for want of the module."""
    module = site.host.folder / "modules" / "Hyper-V"
    aside = site.host.folder / "Hyper-V.aside"
    module.rename(aside)
    try:
        with pytest.raises(errors.ConnectionFailed, match="module") as lacking:
            HypervDriver.connect(site.config)
    finally:
        aside.rename(module)
    assert lacking.value.vendor_code == "Modules_ModuleNotFound"
    assert not lacking.value.retryable


def test_another_module_with_the_same_names(site: Site, image: FileImage) -> None:
    """hashicorp/vagrant #8862, hashicorp/packer #5337: VMware's PowerCLI has a Get-VM, too."""
    other = site.host.folder / "modules" / "Aaa.VimAutomation"
    other.mkdir()
    names = "Get-VM", "New-VM", "Start-VM", "Stop-VM", "Remove-VM", "Get-VMHost", "Move-VM"
    lines = [f"function {name} {{ throw 'VMware has been called' }}" for name in names]
    quoted = ",".join(f"'{name}'" for name in names)
    (other / "Aaa.VimAutomation.psm1").write_text("\n".join(lines), encoding="utf-8")
    (other / "Aaa.VimAutomation.psd1").write_text(
        "@{ RootModule='Aaa.VimAutomation.psm1'; ModuleVersion='1.0';"
        f" FunctionsToExport=@({quoted}) }}",
        encoding="utf-8",
    )
    try:
        with guarded(HypervDriver.connect(site.config)) as driver:
            driver.destroy(driver.spawn(spec(image)).uuid)
    finally:
        shutil.rmtree(other)
    assert site.left() == []


def test_every_state_that_a_machine_can_have(site: Site, image: FileImage) -> None:
    """crc-org/crc #2309, microsoft/devhome #2868: a state that nobody had thought of."""
    driver = site.driver
    uuid = driver.spawn(spec(image, start=False)).uuid
    machine = machine_of(site, uuid)
    for state in STATE_NUMBERS:
        machine.state = state
        shown = driver.get_instance(uuid).state
        assert [each.state for each in driver.list_instances()] == [shown]
        plain = state.removesuffix("Critical")
        assert shown is EXPECTED.get(plain, InstanceState.RUNNING)
    machine.state = "Off"
    driver.destroy(uuid)
    assert site.left() == []


EXPECTED = {
    "Off": InstanceState.STOPPED,
    "Starting": InstanceState.STOPPED,
    "Saved": InstanceState.SUSPENDED,
    "FastSaved": InstanceState.SUSPENDED,
    "Paused": InstanceState.PAUSED,
    "Resuming": InstanceState.PAUSED,
}


def test_a_machine_that_does_not_start_is_off(site: Site, image: FileImage) -> None:
    """canonical/multipass #3351: too much memory, and it is shown as starting for ever."""
    driver = site.driver
    uuid = driver.spawn(spec(image, start=False)).uuid
    site.host.state.faults.fail("Start-VM", "OutOfMemory", hresult=E_OUT_OF_MEMORY)
    try:
        with pytest.raises(errors.InsufficientResources):
            driver.power_on(uuid)
    finally:
        site.host.state.faults.clear()
    assert driver.get_instance(uuid).state is InstanceState.STOPPED
    driver.power_on(uuid)
    driver.destroy(uuid)


def test_calls_while_the_host_is_away_leave_no_shells(site: Site, image: FileImage) -> None:
    """Each kept a PowerShell for two hours, and the thirtieth was one too many for the service."""
    driver = site.driver
    uuid = driver.spawn(spec(image, start=False)).uuid
    for number in range(3):
        with site.service.faults.add(FaultRule(Strike.CUT_BEFORE, nth=None)):
            for _ in range(2):
                with pytest.raises((errors.OutcomeUnknown, errors.ConnectionFailed)):
                    driver.rename(uuid, f"name-{number}")
        driver.ping()
        assert len(site.service.shells()) == 1
    driver.destroy(uuid)


def test_a_service_that_may_not_open_a_disc(site: Site, image: FileImage) -> None:
    """hashicorp/packer #7500 and #7672: the user is in Hyper-V Administrators, and Hyper-V's own
    service may not read the folder. Nobody said that it is about the service."""
    site.host.state.faults.fail("Add-VMDvdDrive", hresult=E_ACCESS_DENIED)
    try:
        with pytest.raises(errors.PermissionDenied) as refused:
            site.driver.spawn(spec(image, cloud_init=CloudInit(user_data="#!/bin/sh\n")))
    finally:
        site.host.state.faults.clear()
    assert "service" in str(refused.value.hint)
    assert site.left() == []


@pytest.mark.parametrize("finds", [False, True], ids=["absent", "seen by Test-Path"])
def test_a_path_that_only_looks_like_a_share(
    site: Site, image: FileImage, tmp_path: Path, finds: bool
) -> None:
    r"""MicrosoftDocs/windows-powershell-docs #2286: a disk below \\wsl$, or \\wsl.localhost, is
    there for the shell, and Add-VMHardDiskDrive says 0x80070043."""
    state = site.host.state
    data = {"export": "//wsl.localhost/Ubuntu", "name": "disk.vhdx", "format": "vhdx"}
    info = {"driver_volume_type": "smbfs", "serial": "wsl", "data": data}
    attachment = VolumeAttachment(volume=parse_connection_info(info))
    uuid = site.driver.spawn(spec(image)).uuid
    before = site.driver.get_instance(uuid), site.left()
    state.delegation = True
    if finds:
        with site.host.world.lock:
            state.files.share("wsl.localhost", "Ubuntu", tmp_path)
            state.disks.create("\\\\wsl.localhost\\Ubuntu\\disk.vhdx", 4 << 20, "Dynamic")
        state.faults.fail("Add-VMHardDiskDrive", hresult=0x80070043)
    try:
        with pytest.raises(errors.VolumeNotFound):
            site.driver.attach_volume(uuid, attachment)
    finally:
        state.faults.clear()
        state.delegation = False
        if finds:
            state.files.unshare("wsl.localhost", "Ubuntu")
    assert (site.driver.get_instance(uuid), site.left()) == before
    site.driver.destroy(uuid)


def test_a_merge_that_backup_software_has_stopped(site: Site, image: FileImage) -> None:
    """bareos/bareos #2624 and #2820: after a backup with a reference point Hyper-V merges the disks
    no more, and the machine runs from an .avhdx without a checkpoint."""
    driver, state = site.driver, site.host.state
    uuid = driver.spawn(spec(image, start=False)).uuid
    with site.host.world.lock:
        drive = machine_of(site, uuid).config.drives[0]
        layer = drive.path.replace(".vhdx", "_backup.avhdx")
        state.disks.differencing(layer, drive.path)
        drive.path = layer
    before = driver.get_instance(uuid)
    driver.power_on(uuid)
    assert driver.get_instance(uuid).volumes == before.volumes
    snapshot = driver.create_snapshot(uuid, "mine", memory=False)
    driver.delete_snapshot(uuid, snapshot.id)
    assert driver.list_snapshots(uuid) == []
    driver.power_off(uuid)
    driver.destroy(uuid)
    assert site.left() == []
