"""What must not be lost: by a revert, by a process that dies in the middle, by a destroy()."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretBytes

from hvdrivers.contract import errors
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.driverkit import cut_after, cut_before
from hvdrivers.models.disk import DiskRole, OwnDisk
from hvdrivers.models.image import ImageRef
from hvdrivers.models.instance import Keep
from hvdrivers.models.seed import SeedDisc
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import NetworkVif, NicModel
from hvdrivers.models.volume import DiskBus, VolumeAttachment, VolumeSpec
from hvdrivers.vmware import claim
from hvdrivers.vmware.config import VmwareConfig
from hvdrivers.vmware.conformance.observer import VmwareObserver
from hvdrivers.vmware.conformance.raw_server import RawServer
from hvdrivers.vmware.driver import VmwareDriver
from tests.integration.vmware.conftest import SpecFactory, connected
from tests.peers.vcsim import VcsimPeer


@pytest.fixture
def volume(guarded_driver: ComputeDriver) -> Iterator[VolumeAttachment]:
    made = guarded_driver.create_volume(VolumeSpec(name="kept", size_bytes=1 << 20))
    yield VolumeAttachment(volume=made)
    guarded_driver.delete_volume(made.volume_id)


@pytest.fixture
def machine(
    guarded_driver: ComputeDriver, spec: SpecFactory, volume: VolumeAttachment
) -> Iterator[UUID]:
    del volume  # it goes after the machine
    uuid = guarded_driver.spawn(spec()).uuid
    yield uuid
    guarded_driver.destroy(uuid)


def volumes(driver: ComputeDriver) -> set[str]:
    return {each.volume_id for each in driver.list_volumes()}


def test_revert_that_died_in_the_middle_puts_back_what_is_newer(
    peer: VcsimPeer,
    driver: VmwareDriver,
    guarded_driver: ComputeDriver,
    machine: UUID,
    volume: VolumeAttachment,
) -> None:
    snapshot = guarded_driver.create_snapshot(machine, "then")
    guarded_driver.set_metadata(machine, {"newer": "yes"})
    guarded_driver.attach_volume(machine, volume)
    guarded_driver.plug_vif(machine, NetworkVif(id="newer", network="VM Network"))
    wanted = guarded_driver.get_instance(machine)
    # the process dies after the revert: it neither puts back nor undoes anything
    with (
        driver.session.seam.cut(cut_before, name="ReconfigVM_Task", repeats=100),
        pytest.raises(errors.OutcomeUnknown),
    ):
        guarded_driver.revert_snapshot(machine, snapshot.id)
    assert guarded_driver.get_instance(machine).metadata == {}
    other = connected(peer)
    other.revert_snapshot(machine, snapshot.id)
    assert other.get_instance(machine) == wanted
    # and what was written down for it is gone: the next revert keeps what is newer still
    other.set_metadata(machine, {"newest": "yes"})
    other.revert_snapshot(machine, snapshot.id)
    assert other.get_instance(machine).metadata == {"newest": "yes"}
    other.close()


def test_volume_outlives_a_machine_whose_snapshot_knows_it(
    guarded_driver: ComputeDriver, machine: UUID, volume: VolumeAttachment
) -> None:
    guarded_driver.attach_volume(machine, volume)
    guarded_driver.create_snapshot(machine, "with the volume")
    guarded_driver.detach_volume(machine, volume.volume_id)
    guarded_driver.destroy(machine)
    assert volume.volume_id in volumes(guarded_driver)


def test_attached_volume_outlives_a_machine_with_snapshots(
    guarded_driver: ComputeDriver, machine: UUID, volume: VolumeAttachment
) -> None:
    guarded_driver.create_snapshot(machine, "before")
    guarded_driver.attach_volume(machine, volume)
    guarded_driver.create_snapshot(machine, "with the volume")
    guarded_driver.destroy(machine)
    assert volume.volume_id in volumes(guarded_driver)
    assert list(guarded_driver.list_foreign()) == []


def test_kept_root_disk_has_what_came_after_a_snapshot(
    peer: VcsimPeer, guarded_driver: ComputeDriver, machine: UUID
) -> None:
    server = RawServer(VmwareConfig(**peer.options))
    guarded_driver.create_snapshot(machine, "one")
    newest = next(path for path in disks(server, machine) if str(machine) in path)
    flat = newest.replace(".vmdk", "-flat.vmdk")
    server.file(flat, b"since the snapshot")
    guarded_driver.destroy(machine, keep=frozenset({Keep.ROOT_DISK}))
    kept = f"LocalDS_0/{machine}-root"
    assert kept in volumes(guarded_driver)
    content = server.file(f"[LocalDS_0] hvdrivers/volumes/{machine}-root-flat.vmdk") or b""
    assert content.startswith(b"since the snapshot")
    guarded_driver.delete_volume(kept)
    server.drop()


@pytest.mark.parametrize("cut", [cut_before, cut_after])
def test_other_connections_are_all_there_or_none(
    driver: VmwareDriver, machine: UUID, volume: VolumeAttachment, cut: Any
) -> None:
    """Also with another model and address of a NIC, and another bus of a volume."""
    other = driver.create_volume(VolumeSpec(name="other", size_bytes=2 << 20))
    vifs = tuple(NetworkVif(id=each, network="VM Network") for each in ("one", "two"))
    for vif in vifs:
        driver.plug_vif(machine, vif)
    driver.attach_volume(machine, volume)
    before = driver.get_instance(machine)
    moved = VolumeAttachment(
        volume=other.model_copy(update={"serial": volume.volume_id}), bus=DiskBus.SATA
    )
    wired = vifs[0].model_copy(
        update={"model": NicModel.E1000E, "address": "52:54:00:0a:0b:0c", "active": False}
    )

    def reconnect() -> None:
        driver.reconnect(machine, volumes=(moved,), vifs=(wired,))

    with (
        driver.session.seam.cut(cut, name="ReconfigVM_Task", repeats=3),
        pytest.raises((errors.ConnectionFailed, errors.OutcomeUnknown)),
    ):
        reconnect()
    assert cut is cut_after or driver.get_instance(machine) == before
    reconnect()
    now = driver.get_instance(machine)
    assert [(each.volume_id, each.bus, each.size_bytes) for each in now.volumes] == [
        (volume.volume_id, DiskBus.SATA, 2 << 20)
    ]
    first, second = now.vifs
    assert (first.id, first.address, first.model) == ("one", wired.address, NicModel.E1000E)
    assert second == before.vifs[1]
    with pytest.raises(errors.DeviceBusy):
        driver.reconnect(machine, vifs=(vifs[1].model_copy(update={"address": wired.address}),))
    with pytest.raises(errors.DeviceBusy):
        driver.delete_volume(other.volume_id)
    assert driver.get_instance(machine) == now
    driver.detach_volume(machine, volume.volume_id)
    driver.delete_volume(other.volume_id)


def disks(server: RawServer, uuid: UUID) -> list[str]:
    hardware: Any = server.of(server.machine(uuid), "config.hardware.device")
    return [
        each.backing.fileName
        for each in hardware["config.hardware.device"]
        if hasattr(each, "capacityInKB")
    ]


def test_power_off_ends_what_an_interrupted_rebuild_wanted(
    driver: VmwareDriver, guarded_driver: ComputeDriver, image: ImageRef, machine: UUID
) -> None:
    guarded_driver.power_on(machine)
    with (
        driver.session.seam.cut(cut_before, name="PowerOnVM_Task", repeats=100),
        pytest.raises(errors.OutcomeUnknown),
    ):
        guarded_driver.rebuild(machine, image)
    guarded_driver.power_off(machine)
    guarded_driver.rebuild(machine, image)
    assert guarded_driver.get_instance(machine).state is InstanceState.STOPPED


def test_interrupted_rebuild_of_a_running_machine_starts_it_when_repeated(
    driver: VmwareDriver, guarded_driver: ComputeDriver, image: ImageRef, machine: UUID
) -> None:
    guarded_driver.power_on(machine)
    with (
        driver.session.seam.cut(cut_before, name="PowerOnVM_Task", repeats=100),
        pytest.raises(errors.OutcomeUnknown),
    ):
        guarded_driver.rebuild(machine, image)
    guarded_driver.rebuild(machine, image)
    assert guarded_driver.get_instance(machine).state is InstanceState.RUNNING


def test_remains_of_a_spawn_are_not_an_instance(
    driver: VmwareDriver,
    guarded_driver: ComputeDriver,
    spec: SpecFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(claim, "_LONGEST", 1.0)
    wanted = spec()
    driver.folders.ensure()
    driver.files.make_folder(driver.folders.instance(wanted.uuid))
    with pytest.raises(errors.DeviceBusy) as caught:
        guarded_driver.spawn(wanted)
    assert not caught.value.retryable
    guarded_driver.destroy(wanted.uuid)
    guarded_driver.spawn(wanted)
    guarded_driver.destroy(wanted.uuid)


def test_disks_on_two_datastores_leave_nothing(
    peer: VcsimPeer, guarded_driver: ComputeDriver, machine: UUID
) -> None:
    if peer.mode == "esx":
        with pytest.raises(errors.NotSupported):
            guarded_driver.migrate_storage(machine, "LocalDS_1")
        return
    server = RawServer(VmwareConfig(**peer.options))
    guarded_driver.migrate_storage(machine, "LocalDS_1")
    guarded_driver.create_snapshot(machine, "there")
    moved = disks(server, machine)
    assert all(path.startswith("[LocalDS_1]") for path in moved)
    guarded_driver.destroy(machine)
    assert [path for path in moved if server.file(path) is not None] == []
    base = moved[0].replace("-000002", "").replace("-000001", "")
    assert server.file(base) is None
    server.drop()


@pytest.mark.parametrize(
    "call", ["CopyVirtualDisk_Task", "CreateVM_Task", "DeleteVirtualDisk_Task"]
)
def test_kept_disk_stays_a_volume_until_the_machine_is_there(
    driver: VmwareDriver, spec: SpecFactory, call: str
) -> None:
    first = driver.spawn(spec()).uuid
    driver.destroy(first, keep=frozenset({Keep.ROOT_DISK}))
    (kept,) = driver.list_volumes()
    disks = (OwnDisk(role=DiskRole.ROOT, kept=kept.volume_id),)
    again = spec(image=None, disks=disks)
    with (
        driver.session.seam.cut(cut_before, name=call, repeats=3),
        pytest.raises(errors.HypervisorError),
    ):
        driver.spawn(again)
    assert driver.list_volumes() == [kept]
    assert driver.list_instances() == []
    driver.spawn(again)
    assert driver.list_volumes() == []
    driver.destroy(again.uuid)


def test_a_snapshot_keeps_no_rescue_disk(
    peer: VcsimPeer, driver: VmwareDriver, machine: UUID, image: ImageRef
) -> None:
    """A machine that went off while it was rescued has the rescue disk until it starts. A snapshot
    had it too, and no start could take it away any more."""
    raw = RawServer(driver.config)
    observer = VmwareObserver(raw, driver.config.directory, driver.config.compute)
    before = observer.residue()
    driver.rescue(machine, image)
    driver.power_off(machine)
    point = driver.create_snapshot(machine, "after a rescue")
    driver.power_on(machine)
    assert driver.get_instance(machine).state is InstanceState.RUNNING
    driver.rescue(machine, image)
    driver.power_off(machine)
    driver.revert_snapshot(machine, point.id)
    driver.unrescue(machine)
    assert driver.get_instance(machine).state is InstanceState.STOPPED
    driver.power_on(machine)
    assert driver.get_instance(machine).state is InstanceState.RUNNING
    driver.delete_snapshot(machine, point.id)
    driver.power_off(machine)
    assert observer.residue() == before
    raw.drop()


def test_seed_of_a_rescue_goes_with_it(
    peer: VcsimPeer, driver: VmwareDriver, machine: UUID, image: ImageRef
) -> None:
    raw = RawServer(driver.config)
    observer = VmwareObserver(raw, driver.config.directory, driver.config.compute)
    seed = SeedDisc(content=SecretBytes(b"rescue" * 512))
    before = observer.residue()
    with (
        driver.session.seam.cut(cut_before, name="PowerOnVM_Task", repeats=3),
        pytest.raises(errors.ConnectionFailed),
    ):
        driver.rescue(machine, image, seed=seed)
    assert observer.residue() == before
    driver.rescue(machine, image, seed=seed)
    assert observer.seed_disc(machine) == b"rescue" * 512
    driver.power_off(machine)
    # another process ends the rescue
    other = connected(peer)
    other.power_on(machine)
    assert observer.seed_disc(machine) == b""
    other.power_off(machine)
    assert observer.residue() == before
    other.close()
    raw.drop()
