"""Hosts as their administrators leave them: kinds of checkpoints, names that several things have or
that differ by case alone, disks that are not merged."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import pytest

from hvdrivers.contract import errors
from hvdrivers.contract.power import RebootKind
from hvdrivers.hyperv.simulator.cmdlets.checkpoints import take
from hvdrivers.hyperv.simulator.errors import E_OUT_OF_MEMORY
from hvdrivers.hyperv.simulator.guests.played import Behaviour
from hvdrivers.hyperv.simulator.state.devices import Config, HardDrive, Slot
from hvdrivers.hyperv.simulator.state.host import Switch
from hvdrivers.hyperv.simulator.state.machine import Machine
from hvdrivers.hyperv.simulator.wsman_faults import FaultRule, Strike
from hvdrivers.models.image import FileImage, ImageFormat
from hvdrivers.models.migration import Destination
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import HypervVif
from hvdrivers.models.volume import VolumeAttachment, VolumeSpec
from tests.integration.hyperv.site import SWITCH, Site, held, spec
from tests.integration.hyperv.test_more_reports import up
from tests.integration.hyperv.test_operations import machine_of


@contextmanager
def switch(site: Site, name: str) -> Iterator[UUID]:
    """One more virtual switch."""
    made = Switch(name)
    with site.host.world.lock:
        site.host.state.switches[made.id] = made
    yield made.id
    with site.host.world.lock:
        del site.host.state.switches[made.id]


def test_a_snapshot_without_memory_of_a_machine_that_runs(site: Site, image: FileImage) -> None:
    """Hyper-V's checkpoint has the memory all the same; a revert does not bring it back."""
    driver = site.driver
    uuid = driver.spawn(spec(image)).uuid
    made = [driver.create_snapshot(uuid, name, memory=name == "b") for name in ("a", "b")]
    assert [each.with_memory for each in made] == [False, True]
    assert [each.with_memory for each in driver.list_snapshots(uuid)] == [False, True]
    driver.destroy(uuid)
    assert site.left() == []


@pytest.mark.parametrize("kind", ["Production", "ProductionOnly", "Disabled"])
def test_the_kind_of_checkpoints_that_an_administrator_wants(
    site: Site, image: FileImage, tmp_path: Path, kind: str
) -> None:
    """Production is what Windows gives a machine that was made by hand."""
    driver = site.driver
    uuid = driver.spawn(spec(image)).uuid
    machine = up(site, uuid)
    with site.host.world.lock:
        machine.config.checkpoint_type = kind
    with pytest.raises(errors.NotSupported) as refused:
        driver.create_snapshot(uuid, "a", memory=True)
    assert "-CheckpointType" in str(refused.value.hint)
    assert driver.list_snapshots(uuid) == []
    if kind == "Disabled":
        with pytest.raises(errors.NotSupported):
            driver.create_snapshot(uuid, "a")
        with pytest.raises(errors.NotSupported):
            driver.snapshot_to_image(uuid, tmp_path / "a.vhdx", ImageFormat.VHDX)
        driver.power_off(uuid)  # its disk is not open
    else:
        made = driver.create_snapshot(uuid, "a")
        assert not made.with_memory
        driver.revert_snapshot(uuid, made.id)
        assert driver.get_instance(uuid).state is InstanceState.STOPPED
    driver.snapshot_to_image(uuid, tmp_path / "a.vhdx", ImageFormat.VHDX)
    assert machine.config.checkpoint_type == kind
    driver.destroy(uuid)
    assert site.left() == []


def test_several_switches_of_one_name(site: Site, image: FileImage) -> None:
    """Nobody knows which network the caller means: none is guessed."""
    driver = site.driver
    info = driver.spawn(spec(image, start=False))
    machine = machine_of(site, info.uuid)
    with switch(site, SWITCH) as twin:
        for refused in (
            lambda: driver.spawn(spec(image)),
            lambda: driver.plug_vif(info.uuid, HypervVif(id="later", switch=SWITCH)),
            lambda: driver.reconnect(
                info.uuid, vifs=(HypervVif(id=info.vifs[0].id, switch=SWITCH, vlan=9),)
            ),
        ):
            with pytest.raises(errors.NetworkNotFound) as several:
                refused()
            assert "Rename-VMSwitch" in str(several.value.hint)
        # an administrator plugs it into the other one. A revert keeps what it has
        point = driver.create_snapshot(info.uuid, "a")
        with site.host.world.lock:
            machine.config.adapters[0].switch = twin
        driver.revert_snapshot(info.uuid, point.id)
        assert [each.switch for each in machine.config.adapters] == [twin]
        driver.power_on(info.uuid)
        driver.destroy(info.uuid)
    assert site.left() == []


def test_names_that_differ_by_case_alone(site: Site, image: FileImage) -> None:
    """Networks and NICs are others then; PowerShell's own tables take them for the same."""
    driver = site.driver
    mac = "52:54:00:00:00:01"
    nics = (
        HypervVif(id="lan", switch=SWITCH, address=mac),
        HypervVif(id="moves", switch=SWITCH, address="52:54:00:00:00:02"),
    )
    uuid = driver.spawn(spec(image, start=False, vifs=nics)).uuid
    point = driver.create_snapshot(uuid, "a")
    driver.unplug_vif(uuid, "lan")
    driver.plug_vif(uuid, HypervVif(id="LAN", switch=SWITCH, address=mac))
    with switch(site, SWITCH.upper()):
        driver.reconnect(uuid, vifs=(HypervVif(id="moves", switch=SWITCH.upper()),))
        before = driver.get_instance(uuid)
        assert {each.device for each in before.vifs} == {SWITCH, SWITCH.upper()}
        driver.revert_snapshot(uuid, point.id)
        assert driver.get_instance(uuid) == before
        driver.destroy(uuid)
    assert site.left() == []


def test_a_revert_keeps_what_a_nic_is_by_now(site: Site, image: FileImage) -> None:
    """A wish for a virtual function, the VLANs of a trunk, and an address that Hyper-V chooses."""
    driver, state = site.driver, site.host.state
    uuid = driver.spawn(spec(image, start=False)).uuid
    point = driver.create_snapshot(uuid, "a")
    machine = machine_of(site, uuid)
    with site.host.world.lock:
        nic = machine.config.adapters[0]
        nic.iov_weight, nic.dynamic_mac = 100, True
        nic.vlan.mode, nic.vlan.native, nic.vlan.allowed = "Trunk", 7, [8, 9, 10]
    driver.revert_snapshot(uuid, point.id)
    with site.host.world.lock:
        nic = machine.config.adapters[0]
        assert (nic.iov_weight, nic.dynamic_mac) == (100, True)
        assert (nic.vlan.mode, nic.vlan.native, nic.vlan.allowed) == ("Trunk", 7, [8, 9, 10])
        # a mode that the driver does not set: it could not put it back
        nic.vlan.mode = "Private"
    with pytest.raises(errors.NotSupported):
        driver.revert_snapshot(uuid, point.id)
    assert not list((site.host.drive / "hv" / "index").glob("*.revert"))
    driver.destroy(uuid)
    assert state.machines == {}
    assert site.left() == []


@pytest.mark.parametrize("broken", [False, True], ids=["backup", "broken"])
def test_checkpoints_that_are_not_merged(site: Site, image: FileImage, broken: bool) -> None:
    """Backup software has left a layer below the first checkpoint, or a file below the disk is
    gone: destroy() does not wait for ever."""
    driver, state = site.driver, site.host.state
    info = driver.spawn(spec(image, start=False))
    machine = machine_of(site, info.uuid)
    base = state.files.file(f"C:\\hv\\images\\{info.image}.vhdx")
    aside = base.with_name("moved.bin")
    if not broken:
        with site.host.world.lock:
            drive = machine.config.drives[0]
            layer = drive.path.replace(".vhdx", "_backup.avhdx")
            state.disks.differencing(layer, drive.path)
            drive.path = layer
    driver.create_snapshot(info.uuid, "a")
    if broken:
        base.rename(aside)
    try:
        driver.destroy(info.uuid)
        assert site.left() == []
    finally:
        if broken:
            aside.rename(base)


def test_a_volume_whose_data_is_not_merged(site: Site, image: FileImage) -> None:
    """What the guest has written since the checkpoint would go with the machine."""
    driver, state = site.driver, site.host.state
    info = driver.spawn(spec(image, start=False))
    volume = driver.create_volume(VolumeSpec(size_bytes=4 << 20))
    driver.attach_volume(info.uuid, VolumeAttachment(volume=volume))
    machine = machine_of(site, info.uuid)
    with site.host.world.lock:
        take(machine, "by hand")
    path = next((site.host.drive / "hv" / "volumes").glob("v-*.vhdx"))
    aside = path.with_name("aside.bin")
    path.rename(aside)
    for _ in range(2):
        with pytest.raises(errors.HypervisorFault) as kept:
            driver.destroy(info.uuid)
        assert kept.value.vendor_code == "Hv.NotMerged"
    assert machine.id in state.machines
    aside.rename(path)
    # what an administrator does
    with site.host.world.lock:
        drive = next(each for each in machine.config.drives if "volumes" in each.path)
        below = state.disks.look(drive.path).parent
        assert below is not None
        state.disks.merge(drive.path, below)
        drive.path = below
    driver.destroy(info.uuid)
    driver.delete_volume(volume.volume_id)
    assert site.left() == []


def test_a_disk_of_the_host_in_a_machine_that_runs(
    site: Site, image: FileImage, tmp_path: Path
) -> None:
    """Hyper-V makes no checkpoint of it, and without one the disk is open."""
    driver = site.driver
    uuid = driver.spawn(spec(image)).uuid
    machine = machine_of(site, uuid)
    with site.host.world.lock:
        drive = HardDrive(Slot("SCSI", 0, 9), "", disk_number=3)
        machine.config.drives.append(drive)
    with pytest.raises(errors.NotSupported) as refused:
        driver.snapshot_to_image(uuid, tmp_path / "a.vhdx", ImageFormat.VHDX)
    assert "power_off()" in str(refused.value.hint)
    driver.power_off(uuid)
    driver.snapshot_to_image(uuid, tmp_path / "a.vhdx", ImageFormat.VHDX)
    driver.destroy(uuid)
    assert site.left() == []


def test_an_export_of_an_instance_that_is_destroyed(
    site: Site, image: FileImage, tmp_path: Path
) -> None:
    driver = site.driver
    uuid = driver.spawn(spec(image, start=False)).uuid

    def destroy(_: object) -> None:
        site.inner.destroy(uuid)  # as another client does

    with pytest.raises(errors.InstanceNotFound):
        driver.snapshot_to_image(uuid, tmp_path / "a.vhdx", ImageFormat.VHDX, progress=destroy)
    assert list(tmp_path.iterdir()) == []
    assert site.left() == []


def test_a_machine_that_goes_off_as_its_migration_begins(site: Site, image: FileImage) -> None:
    """The error is in the contract's words."""
    second = Site("HV2", site)
    try:
        uuid = site.driver.spawn(spec(image)).uuid
        target = Destination(host=f"127.0.0.1:{second.service.port}")
        with held(site, "Compare-VM") as release, ThreadPoolExecutor(1) as pool:
            moving = pool.submit(site.driver.live_migrate, uuid, target)
            with release():
                site.inner.power_off(uuid)  # as another client does
            with pytest.raises(errors.InvalidState, match="live_migrate is not possible"):
                moving.result()
        site.driver.destroy(uuid)
        assert site.left() == second.left() == []
    finally:
        second.close()


def test_the_end_of_a_rescue_that_fails(site: Site, image: FileImage) -> None:
    """The rescue disk is gone, and the machine is off: the error does not say that nothing has
    changed."""
    driver, faults = site.driver, site.host.state.faults
    uuid = driver.spawn(spec(image)).uuid
    driver.rescue(uuid)
    faults.fail("Start-VM", "OutOfMemory", hresult=E_OUT_OF_MEMORY, calls=1)
    with pytest.raises(errors.OutcomeUnknown, match="power_on"):
        driver.unrescue(uuid)
    faults.clear()
    assert driver.get_instance(uuid).state is InstanceState.STOPPED
    driver.power_on(uuid)
    assert driver.get_instance(uuid).state is InstanceState.RUNNING
    driver.destroy(uuid)
    assert site.left() == []


def test_a_reboot_that_ends_half_way(site: Site, image: FileImage) -> None:
    driver, faults = site.driver, site.host.state.faults
    site.host.guests.default = Behaviour()
    uuid = driver.spawn(spec(image)).uuid
    up(site, uuid)
    faults.fail("Start-VM", "OutOfMemory", hresult=E_OUT_OF_MEMORY, calls=1)
    with pytest.raises(errors.OutcomeUnknown, match="power_on"):
        driver.reboot(uuid, RebootKind.SOFT)
    faults.clear()
    assert driver.get_instance(uuid).state is InstanceState.STOPPED
    driver.destroy(uuid)
    assert site.left() == []


def test_a_machine_of_a_cluster_and_a_replica(site: Site, image: FileImage) -> None:
    """Somebody else decides where it is, and what is on its disks."""
    driver, state = site.driver, site.host.state
    uuid = driver.spawn(spec(image)).uuid
    machine = machine_of(site, uuid)
    stranger = Machine(host=state, config=Config(name="theirs", generation=2), path="C:\\elsewhere")
    with site.host.world.lock:
        machine.clustered = stranger.clustered = True
        state.machines[stranger.id] = stranger
    with pytest.raises(errors.NotSupported) as refused:
        driver.destroy(uuid)
    assert "Remove-ClusterGroup" in str(refused.value.hint)
    assert driver.get_instance(uuid).state is InstanceState.RUNNING
    with pytest.raises(errors.NotSupported):
        driver.adopt(stranger.id)
    with site.host.world.lock:
        machine.clustered = stranger.clustered = False
        stranger.replication_mode = "Replica"
    with pytest.raises(errors.NotSupported):
        driver.adopt(stranger.id)
    assert [each.uuid for each in driver.list_foreign()] == [stranger.id]
    with site.host.world.lock:
        del state.machines[stranger.id]
    driver.destroy(uuid)
    assert site.left() == []


def test_a_checkpoint_of_backup_software(site: Site, image: FileImage) -> None:
    """Hyper-V's manager neither applies nor deletes it; a backup leaves it."""
    driver = site.driver
    uuid = driver.spawn(spec(image, start=False)).uuid
    with site.host.world.lock:
        point = take(machine_of(site, uuid), "backup")
        point.kind = "Recovery"
    assert [each.id for each in driver.list_snapshots(uuid)] == [str(point.id)]
    with pytest.raises(errors.InvalidRequest, match="Recovery"):
        driver.revert_snapshot(uuid, str(point.id))
    driver.delete_snapshot(uuid, str(point.id))
    driver.destroy(uuid)
    assert site.left() == []


def test_a_migration_that_fails_and_loses_a_reply(site: Site, image: FileImage) -> None:
    """What was prepared at the destination is removed all the same."""
    second = Site("HV2", site)
    try:
        uuid = site.driver.spawn(spec(image)).uuid
        before = site.driver.get_instance(uuid)
        target = Destination(host=f"127.0.0.1:{second.service.port}")
        site.host.state.faults.fail("Move-VM", hresult=0x80070070)
        rule = FaultRule(Strike.SHELL_LOST_AFTER, action="Send", contains=b" MoveSettle ")
        with second.service.faults.add(rule), pytest.raises(errors.InsufficientResources):
            site.driver.live_migrate(uuid, target)
        site.host.state.faults.clear()
        assert rule.hits == 1
        assert second.left() == []
        assert site.driver.get_instance(uuid) == before
        site.driver.destroy(uuid)
        assert site.left() == []
    finally:
        site.host.state.faults.clear()
        second.close()
