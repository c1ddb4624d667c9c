"""Two processes at once in the middle of one operation each: what comes of it is what some order of
the two gives, every error is one of the contract's, and nothing is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import pytest
from pyVmomi import vmodl

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.models.host import HostPowerAction
from hvdrivers.models.migration import Destination
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import NetworkVif
from hvdrivers.models.volume import FcdVolume, Volume, VolumeAttachment, VolumeSpec
from hvdrivers.vmware.conformance import served
from hvdrivers.vmware.conformance.observer import VmwareObserver
from hvdrivers.vmware.conformance.raw_server import RawServer
from hvdrivers.vmware.driver import VmwareDriver
from tests.integration.vmware.client import stopped
from tests.integration.vmware.conftest import SpecFactory, answers, connected
from tests.integration.vmware.test_by_hand import foreign
from tests.integration.vmware.test_luns import mappings, told
from tests.peers.fixtures import started
from tests.peers.vcsim import VcsimPeer
from tests.peers.vcsim.array import SECRET, VcsimArray
from tests.peers.waiting import wait_until


@dataclass
class Scene:
    """A server, this process's driver, and what the two meet at."""

    peer: VcsimPeer
    raw: VmwareDriver
    driver: ComputeDriver
    server: RawServer
    spec: SpecFactory
    array: VcsimArray

    def spawned(self, **changes: Any) -> UUID:
        """A machine that runs."""
        return self.driver.spawn(self.spec(**{"start": True, **changes})).uuid

    def shown(self, uuid: UUID) -> list[str]:
        """Its volumes."""
        return [each.volume_id for each in self.driver.get_instance(uuid).volumes]

    def others_host(self, uuid: UUID) -> str:
        """A host of the cluster on which the machine does not run."""
        row = self.raw.reader.one(self.raw.machines.get(uuid).obj, "runtime.host")
        hosts = self.raw.places.surroundings().hosts
        return next(str(h["name"]) for h in hosts if h.obj != row["runtime.host"])


@pytest.fixture
def scene(
    peer: VcsimPeer, driver: VmwareDriver, guarded_driver: ComputeDriver, spec: SpecFactory
) -> Iterator[Scene]:
    server = RawServer(driver.config)
    observer = VmwareObserver(server, driver.config.directory, driver.config.compute)
    guarded_driver.destroy(guarded_driver.spawn(spec()).uuid)  # the folders are there now
    clean = observer.residue()
    yield Scene(peer, driver, guarded_driver, server, spec, VcsimArray(peer))
    for each in guarded_driver.list_instances():
        guarded_driver.destroy(each.uuid)
    for volume in guarded_driver.list_volumes():
        guarded_driver.delete_volume(volume.volume_id)
    left = observer.residue()
    server.drop()
    assert left == clean
    assert told(peer) == set()


def plain(volume: Volume) -> dict[str, Any]:
    """An attachment as one process tells it another one: with its secret."""
    text = VolumeAttachment(volume=volume).model_dump(mode="json")
    if text["volume"]["data"].get("auth_password"):
        text["volume"]["data"]["auth_password"] = SECRET
    return text


def test_spawn(scene: Scene) -> None:
    """The second one waits for what becomes of the first."""
    made = "CloneVM_Task" if scene.peer.mode == "vpx" else "CreateVM_Task"
    wanted = scene.spec(start=True)
    given = wanted.model_dump(mode="json")
    with stopped(scene.peer.options, "spawn", given, before=made) as other:
        with pytest.raises(errors.DeviceBusy) as caught:
            scene.driver.spawn(wanted, timeout=2)
        assert "destroy() removes" in (caught.value.hint or "")
        assert other.go() == "done"
    with pytest.raises(errors.InstanceExists):
        scene.driver.spawn(wanted)
    assert scene.driver.get_instance(wanted.uuid).state is InstanceState.RUNNING


@pytest.mark.parametrize("before", ["machine", "ReconfigVM_Task"])
def test_a_client_that_dies_while_it_spawns(scene: Scene, before: str) -> None:
    made = "CloneVM_Task" if scene.peer.mode == "vpx" else "CreateVM_Task"
    wanted = scene.spec(start=True)
    call = made if before == "machine" else before
    given = wanted.model_dump(mode="json")
    with stopped(scene.peer.options, "spawn", given, before=call) as other:
        other.die()
    scene.driver.destroy(wanted.uuid)
    assert scene.driver.spawn(wanted).state is InstanceState.RUNNING


def test_spawn_and_destroy(scene: Scene) -> None:
    """Just before the spawn says that the machine is built."""
    wanted = scene.spec(start=True)
    given = wanted.model_dump(mode="json")
    with stopped(scene.peer.options, "spawn", given, before="ReconfigVM_Task") as other:
        scene.driver.destroy(wanted.uuid)
        assert other.go() == "DeviceBusy"
    assert scene.driver.list_instances() == []


def _pool(scene: Scene) -> Volume:
    return scene.driver.create_volume(VolumeSpec(size_bytes=1 << 20))


def test_attach_of_two_volumes(scene: Scene) -> None:
    uuid = scene.spawned()
    one, two = _pool(scene), _pool(scene)
    before = "ReconfigVM_Task"
    with stopped(scene.peer.options, "attach_volume", uuid, plain(one), before=before) as other:
        scene.driver.attach_volume(uuid, VolumeAttachment(volume=two))
        scene.driver.plug_vif(uuid, NetworkVif(id="n", network="VM Network"))
        assert other.go() == "done"
    assert sorted(scene.shown(uuid)) == sorted([one.volume_id, two.volume_id])
    assert [each.id for each in scene.driver.get_instance(uuid).vifs] == ["n"]


def test_attach_and_destroy(scene: Scene) -> None:
    """Also of a LUN, whose mapping is a file in the folder of the instance, which has gone."""
    with scene.array.export(Capability.VOLUME_ISCSI) as lun:
        for volume, before in (
            (_pool(scene), "ReconfigVM_Task"),
            (lun, "MakeDirectory"),
        ):
            uuid = scene.spawned()
            begun = stopped(scene.peer.options, "attach_volume", uuid, plain(volume), before=before)
            with begun as other:
                scene.driver.destroy(uuid)
                assert other.go() == "InstanceNotFound"
            assert not scene.raw.files.exists(f"{scene.raw.folders.instance(uuid)}/")
            inside = scene.raw.files.search(
                scene.raw.places.datastores().datastores["LocalDS_0"]["browser"],
                scene.raw.folders.path("instances"),
            )
            assert str(uuid) not in {each.name for each in inside}


def test_one_lun_for_two_machines(scene: Scene) -> None:
    one, two = scene.spawned(), scene.spawned()
    with scene.array.export(Capability.VOLUME_ISCSI) as volume:
        before = "ReconfigVM_Task"
        begun = stopped(scene.peer.options, "attach_volume", one, plain(volume), before=before)
        with begun as other:
            scene.driver.attach_volume(two, VolumeAttachment(volume=volume))
            assert other.go() == "DeviceBusy"
        assert (scene.shown(one), scene.shown(two)) == ([], [volume.volume_id])
        assert (mappings(scene.raw, one), len(mappings(scene.raw, two))) == ([], 1)
        scene.driver.detach_volume(two, volume.volume_id)


def test_one_lun_for_one_machine(scene: Scene) -> None:
    """A client that repeats the call of another one, which still runs."""
    uuid = scene.spawned()
    with scene.array.export(Capability.VOLUME_ISCSI) as volume:
        before = "ReconfigVM_Task"
        begun = stopped(scene.peer.options, "attach_volume", uuid, plain(volume), before=before)
        with begun as other:
            scene.driver.attach_volume(uuid, VolumeAttachment(volume=volume))
            assert other.go() == "done"
        assert scene.shown(uuid) == [volume.volume_id]
        assert len(mappings(scene.raw, uuid)) == 1
        scene.driver.detach_volume(uuid, volume.volume_id)


def test_a_client_that_dies_while_it_attaches_a_lun(scene: Scene) -> None:
    uuid = scene.spawned()
    with scene.array.export(Capability.VOLUME_ISCSI) as volume:
        for before in ("RescanHba", "ReconfigVM_Task"):
            begun = stopped(scene.peer.options, "attach_volume", uuid, plain(volume), before=before)
            with begun as other:
                other.die()
            assert scene.shown(uuid) == []
            scene.driver.attach_volume(uuid, VolumeAttachment(volume=volume))
            scene.driver.detach_volume(uuid, volume.volume_id)
            assert told(scene.peer) == set()


def test_first_class_disk(scene: Scene) -> None:
    if scene.peer.mode == "esx":
        assert Capability.VOLUME_FCD in scene.raw.narrowed()
        return
    uuid = scene.spawned()
    with served.in_the_catalog(scene.server, "LocalDS_0") as disk:
        named: FcdVolume = disk.model_copy(update={"serial": "another-name"})
        before = "ReconfigVM_Task"
        begun = stopped(scene.peer.options, "attach_volume", uuid, plain(disk), before=before)
        with begun as other:
            scene.driver.attach_volume(uuid, VolumeAttachment(volume=disk))
            assert other.go() == "done"
        assert scene.shown(uuid) == [disk.volume_id]
        scene.driver.detach_volume(uuid, disk.volume_id)
        begun = stopped(scene.peer.options, "attach_volume", uuid, plain(disk), before=before)
        with begun as other:
            scene.driver.attach_volume(uuid, VolumeAttachment(volume=named))
            assert other.go() == "InvalidRequest"  # it has the disk, under the other name
        assert scene.shown(uuid) == ["another-name"]
        scene.driver.detach_volume(uuid, "another-name")


def test_two_snapshots_of_one_name(scene: Scene) -> None:
    uuid = scene.spawned()
    before = "CreateSnapshot_Task"
    with stopped(scene.peer.options, "create_snapshot", uuid, "s", before=before) as other:
        scene.driver.create_snapshot(uuid, "s")
        assert other.go() == "InvalidRequest"
    assert [each.name for each in scene.driver.list_snapshots(uuid)] == ["s"]


def test_revert_keeps_a_volume_that_came_meanwhile(scene: Scene) -> None:
    """A revert leaves volumes as they are, also those of another client that has attached one since
    the revert began."""
    before = "PUT /folder"
    uuid = scene.spawned(start=False)
    snapshot = scene.driver.create_snapshot(uuid, "s").id
    scene.driver.set_metadata(uuid, {"newer": "yes"})
    volume = _pool(scene)
    with (
        scene.array.export(Capability.VOLUME_ISCSI) as lun,
        stopped(scene.peer.options, "revert_snapshot", uuid, snapshot, before=before) as other,
    ):
        for each in (volume, lun):
            scene.driver.attach_volume(uuid, VolumeAttachment(volume=each))
        assert other.go() == "done"
        assert sorted(scene.shown(uuid)) == sorted([volume.volume_id, lun.volume_id])
        assert scene.driver.get_instance(uuid).metadata == {"newer": "yes"}
        scene.driver.detach_volume(uuid, lun.volume_id)


def test_revert_and_destroy(scene: Scene) -> None:
    before = "PUT /folder"
    uuid = scene.spawned(start=False)
    snapshot = scene.driver.create_snapshot(uuid, "s").id
    scene.driver.set_metadata(uuid, {"newer": "yes"})
    begun = stopped(scene.peer.options, "revert_snapshot", uuid, snapshot, before=before)
    with begun as other:
        scene.driver.destroy(uuid)
        assert other.go() == "InstanceNotFound"
    assert scene.driver.list_instances() == []


def test_migration(scene: Scene) -> None:
    if scene.peer.mode == "esx":
        assert Capability.LIVE_MIGRATION in scene.raw.narrowed()
        return
    uuid = scene.spawned()
    there = scene.others_host(uuid)
    given = Destination(host=there).model_dump(mode="json")
    before = "RelocateVM_Task"
    with stopped(scene.peer.options, "live_migrate", uuid, given, before=before) as other:
        with pytest.raises(errors.InvalidState):
            scene.driver.cold_migrate(uuid, Destination(host=there))
        scene.driver.attach_volume(uuid, VolumeAttachment(volume=(volume := _pool(scene))))
        assert other.go() == "done"
    assert scene.shown(uuid) == [volume.volume_id]
    assert scene.others_host(uuid) != there
    with stopped(scene.peer.options, "migrate_storage", uuid, "LocalDS_1", before=before) as other:
        scene.driver.power_off(uuid)
        scene.driver.rescue(uuid)  # a disk that was not there when the disks to move were read
        assert other.go() == "done"
    assert scene.driver.get_instance(uuid).state is InstanceState.RESCUED
    given = Destination(host=scene.others_host(uuid)).model_dump(mode="json")
    scene.driver.unrescue(uuid)
    scene.driver.power_on(uuid)
    with stopped(scene.peer.options, "live_migrate", uuid, given, before=before) as other:
        scene.driver.destroy(uuid)
        assert other.go() == "InstanceNotFound"


@contextmanager
def _of_others(scene: Scene) -> Iterator[UUID]:
    """A machine that the driver has not made, which a test destroys."""
    scene.raw.files.make_folder("[LocalDS_0] theirs", parents=True)
    path = f"[LocalDS_0] theirs/{uuid4()}.vmdk"
    scene.raw.files.create_disk(path, 1 << 20)
    machine = foreign(scene.server, scene.raw, path)
    yield UUID(scene.server.of(machine, "config.instanceUuid")["config.instanceUuid"])
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        scene.server.of(machine, "name")


def test_adopt(scene: Scene) -> None:
    before = "ReconfigVM_Task"
    with _of_others(scene) as uuid:
        with stopped(scene.peer.options, "adopt", uuid, before=before) as other:
            mine = scene.driver.adopt(uuid, name="mine", metadata={"a": "b"})
            assert other.go() == "done"
        assert scene.driver.get_instance(uuid) == mine
        assert (mine.name, mine.metadata) == ("mine", {"a": "b"})
        assert [each.uuid for each in scene.driver.list_instances()] == [uuid]
        scene.driver.destroy(uuid)
    with (
        _of_others(scene) as uuid,
        stopped(scene.peer.options, "adopt", uuid, before=before) as other,
    ):
        scene.driver.adopt(uuid)
        scene.driver.destroy(uuid)
        assert other.go() == "InstanceNotFound"


def test_maintenance(scene: Scene) -> None:
    """A machine that another client starts on a host whose turn has not come."""
    uuid = scene.spawned(start=False)
    before = "EnterMaintenanceMode_Task"
    with stopped(scene.peer.options, "enter_maintenance", before=before) as other:
        assert other.go() == "done"
    assert scene.driver.in_maintenance()
    with pytest.raises(errors.InsufficientResources):
        scene.driver.power_on(uuid)
    scene.driver.exit_maintenance()
    with stopped(scene.peer.options, "enter_maintenance", before=before) as other:
        scene.driver.enter_maintenance()
        assert other.go() == "done"
    assert scene.driver.in_maintenance()
    scene.driver.exit_maintenance()


def _powered(before: Callable[[ComputeDriver, UUID], None], spec: SpecFactory) -> tuple[str, bool]:
    """What comes of a host_power() while another client starts a machine; and whether the host is
    up afterwards."""
    with started(lambda: VcsimPeer("esx")) as peer:
        raw = connected(peer)
        uuid = raw.spawn(spec()).uuid
        raw.enter_maintenance()
        call, action = "ShutdownHost_Task", HostPowerAction.SHUTDOWN
        with stopped(peer.options, "host_power", action.value, before=call) as other:
            with suppress(errors.InsufficientResources):
                before(raw, uuid)
            said = other.go()
        if said == "done":
            wait_until(lambda: not answers(raw), timeout=60, what="it goes down")
        up = answers(raw)
        peer.ask("/up", "POST")
        raw.close()
    return said, up


def test_host_power(spec: SpecFactory) -> None:
    """In maintenance no machine starts, and the host is not forced: if another client ends the
    maintenance, the host itself refuses."""
    assert _powered(lambda driver, uuid: driver.power_on(uuid), spec) == ("done", False)

    def ends(driver: ComputeDriver, uuid: UUID) -> None:
        driver.exit_maintenance()
        driver.power_on(uuid)

    assert _powered(ends, spec) == ("InvalidState", True)
