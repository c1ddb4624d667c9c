"""Two clients on one machine: whatever meets, the outcome is that of one after the other."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from hvdrivers.contract import errors
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.driverkit.deadline import current_deadline
from hvdrivers.libvirt.pools import volume_xml
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import Bandwidth, OvsVif, VifQos
from hvdrivers.models.volume import DiskQos, PoolVolume, VolumeAttachment, VolumeSpec
from tests.integration.libvirt.faults import answered, script
from tests.integration.libvirt.machines import Host, Machine, local
from tests.peers.openvswitch import OvsBridge
from tests.peers.starting import held_start, meanwhile
from tests.peers.waiting import wait_until

S = InstanceState


def listed(machine: Machine, driver: ComputeDriver) -> InstanceState:
    """The state, for which this client's list and look agree."""
    state = driver.get_instance(machine.uuid).state
    assert {each.uuid: each.state for each in driver.list_instances()}[machine.uuid] is state
    return state


def test_a_start_that_is_under_way(own: Host, other: ComputeDriver) -> None:
    """Reads see the state from before; changes wait until it has ended, and have effect on the
    machine that runs; or they say that it is busy."""
    driver = own.driver
    with own.volume() as volume, own.made_empty() as machine:
        attachment = VolumeAttachment(volume=volume)
        with held_start(
            own.peer, str(machine.uuid), lambda: other.power_on(machine.uuid)
        ) as starting:
            assert listed(machine, driver) is S.STOPPED
            with pytest.raises(errors.DeviceBusy) as busy:
                driver.attach_volume(machine.uuid, attachment, timeout=5)
            assert busy.value.retryable
            attaching = meanwhile(lambda: driver.attach_volume(machine.uuid, attachment))
            naming = meanwhile(lambda: other.set_metadata(machine.uuid, {"a": "b"}))
            starting.let_go()
            for each in (starting.start, attaching, naming):
                each.result(60)
        assert machine.state is S.RUNNING
        assert machine.has(volume.volume_id) == (True, True)
        assert machine.info.metadata == {"a": "b"}
        driver.power_off(machine.uuid)
        driver.detach_volume(machine.uuid, volume.volume_id)


@pytest.mark.parametrize("suspended", [False, True])
def test_a_start_and_one_that_leaves_it_paused(
    own: Host, other: ComputeDriver, suspended: bool
) -> None:
    """One of them comes first, and the other is refused in the state that it finds: neither says
    that it has done what the other has undone."""
    ways: dict[str, tuple[Callable[[ComputeDriver, UUID], object], InstanceState]] = {
        "power_on": (lambda client, uuid: client.power_on(uuid), S.RUNNING),
        "start_paused": (lambda client, uuid: client.start_paused(uuid), S.PAUSED),
    }
    for late, early in (("power_on", "start_paused"), ("start_paused", "power_on")):
        with own.empty_machine(start=suspended) as machine:
            if suspended:
                own.driver.suspend(machine.uuid)

            def first(_name: str, send: Any, early: str = early, at: UUID = machine.uuid) -> Any:
                ways[early][0](other, at)
                return send()

            with script(own.raw, "Domain.createWithFlags", first) as seam:
                with pytest.raises(errors.InvalidState) as refused:
                    ways[late][0](own.driver, machine.uuid)
                assert seam.reached
            assert "possible" in str(refused.value.hint)
            assert listed(machine, other) is ways[early][1]


def test_a_start_that_takes_long_keeps_no_other_machine(own: Host, other: ComputeDriver) -> None:
    """Who has a volume is asked of libvirt, and of no QEMU that is being started."""
    with (
        own.volume() as one,
        own.volume() as two,
        own.made_empty() as slow,
        own.empty_machine() as quick,
    ):
        slow.attach(one)
        with held_start(own.peer, str(slow.uuid), lambda: other.power_on(slow.uuid)) as starting:
            own.driver.attach_volume(quick.uuid, VolumeAttachment(volume=two), timeout=20)
            with pytest.raises(errors.DeviceBusy):
                own.driver.attach_volume(quick.uuid, VolumeAttachment(volume=one), timeout=20)
            starting.let_go()
            starting.start.result(60)
        for machine, volume in ((slow, one), (quick, two)):
            own.driver.power_off(machine.uuid)
            own.driver.detach_volume(machine.uuid, volume.volume_id)


def test_a_start_that_fails_while_it_is_waited_for(own: Host, other: ComputeDriver) -> None:
    driver = own.driver
    with own.made_empty() as machine:
        with held_start(
            own.peer, str(machine.uuid), lambda: other.power_on(machine.uuid)
        ) as starting:
            naming = meanwhile(lambda: driver.set_metadata(machine.uuid, {"c": "d"}))
            starting.kill()
            with pytest.raises(errors.HypervisorError):
                starting.start.result(60)
            naming.result(60)
        assert machine.state is S.STOPPED
        assert machine.info.metadata == {"c": "d"}


@pytest.mark.parametrize("goes_on", [True, False])
def test_a_spawn_that_is_under_way(own: Host, other: ComputeDriver, goes_on: bool) -> None:
    """A second spawn of the UUID waits until the first has ended: InstanceExists says that there is
    an instance, and a start may fail."""
    driver = own.driver
    spec = own.empty()
    try:
        with held_start(own.peer, str(spec.uuid), lambda: other.spawn(spec)) as spawning:
            assert listed(Machine(own, spec.uuid), driver) is S.BUILDING
            with pytest.raises(errors.DeviceBusy) as busy:
                driver.spawn(spec, timeout=5)
            assert busy.value.retryable
            second = meanwhile(lambda: driver.spawn(spec))
            if goes_on:
                spawning.let_go()
                spawning.start.result(60)
                with pytest.raises(errors.InstanceExists):
                    second.result(60)
            else:
                spawning.kill()
                with pytest.raises(errors.HypervisorError):
                    spawning.start.result(60)
                second.result(60)
        assert listed(Machine(own, spec.uuid), driver) is S.RUNNING
    finally:
        driver.destroy(spec.uuid)


@pytest.mark.parametrize("goes_on", [True, False])
def test_a_resume_that_is_under_way(own: Host, other: ComputeDriver, goes_on: bool) -> None:
    """power_off() ends it, whether it comes to its end or not, and the memory is gone."""
    driver = own.driver
    with own.empty_machine() as machine:
        driver.suspend(machine.uuid)
        with held_start(
            own.peer, str(machine.uuid), lambda: other.resume(machine.uuid)
        ) as resuming:
            assert listed(machine, driver) is S.SUSPENDED
            ending = meanwhile(lambda: driver.power_off(machine.uuid))
            if goes_on:
                resuming.let_go()
                resuming.start.result(60)
            else:
                resuming.kill()
                with pytest.raises(errors.HypervisorError):
                    resuming.start.result(60)
            ending.result(60)
        assert machine.state is S.STOPPED
        assert own.peer.virsh("list", "--all", "--with-managed-save", "--name").split() == []


@pytest.fixture
def changing(own: Host, ovs_bridge: OvsBridge) -> Iterator[dict[str, Any]]:
    """Every operation that changes a machine's devices or record: how it is prepared, done, and
    seen to be done, by a client and a machine."""
    with own.volume() as volume:
        vif = OvsVif(id=str(uuid4()), address="52:54:00:00:05:01", bridge=ovs_bridge.name)
        attachment = VolumeAttachment(volume=volume)
        volume_id = volume.volume_id

        def attach(client: ComputeDriver, on: Machine) -> object:
            return client.attach_volume(on.uuid, attachment)

        def detach(client: ComputeDriver, on: Machine) -> object:
            return client.detach_volume(on.uuid, volume_id, timeout=_PATIENCE)

        def plug(client: ComputeDriver, on: Machine) -> object:
            return client.plug_vif(on.uuid, vif)

        def unplug(client: ComputeDriver, on: Machine) -> object:
            return client.unplug_vif(on.uuid, vif.id, timeout=_PATIENCE)

        def limit_disk(client: ComputeDriver, on: Machine) -> object:
            return client.set_disk_qos(on.uuid, volume_id, DiskQos(total_iops_sec=50))

        def limit_vif(client: ComputeDriver, on: Machine) -> object:
            return client.set_vif_qos(on.uuid, vif.id, VifQos(inbound=Bandwidth(average=800)))

        def label(client: ComputeDriver, on: Machine) -> object:
            return client.set_metadata(on.uuid, {"k": "v"})

        def both(path: str) -> Callable[[Machine], list[bool]]:
            """Whether it is in what runs (if it runs), and in the definition."""
            return lambda on: [
                on.xml(inactive=part).find(path) is not None
                for part in ((False, True) if on.state is S.RUNNING else (True,))
            ]

        disk, interface = f"devices/disk[serial='{volume_id}']", "devices/interface"
        yield {
            "attach_volume": ([], attach, both(disk), True),
            "detach_volume": ([attach], detach, both(disk), False),
            "plug_vif": ([], plug, both(interface), True),
            "unplug_vif": ([plug], unplug, both(interface), False),
            "set_disk_qos": ([attach], limit_disk, both(f"{disk}/iotune/total_iops_sec"), True),
            "set_vif_qos": ([plug], limit_vif, both(f"{interface}/bandwidth/inbound"), True),
            "set_metadata": ([], label, lambda on: [on.info.metadata == {"k": "v"}], True),
        }


_PATIENCE = 15.0
"""Seconds for detach_volume() and unplug_vif(): another client may switch a machine on meanwhile,
and a guest that never lets go is waited for as long."""
_CHANGES = {
    "attach_volume": "Domain.attachDeviceFlags",
    "detach_volume": "Domain.detachDeviceFlags",
    "plug_vif": "Domain.attachDeviceFlags",
    "unplug_vif": "Domain.detachDeviceFlags",
    "set_disk_qos": "Domain.setBlockIoTune",
    "set_vif_qos": "Domain.setInterfaceParameters",
    "set_metadata": "Domain.setMetadata",
}


@pytest.mark.parametrize("name", _CHANGES)
@pytest.mark.parametrize("starts", [True, False], ids=["starts", "stops"])
def test_the_machine_starts_or_stops_before_the_change_is_sent(
    own: Host, other: ComputeDriver, changing: dict[str, Any], name: str, starts: bool
) -> None:
    """The change has effect on the machine as it is at the end. A guest that never lets go keeps
    its device, both ways."""
    prepare, act, seen, expected = changing[name]
    with own.empty_machine(start=not starts) as machine:
        for each in prepare:
            each(own.driver, machine)

        def first(_name: str, send: Callable[[], Any]) -> Any:
            (other.power_on if starts else other.power_off)(machine.uuid)
            deadline = current_deadline()  # however long the other one took
            deadline.at = max(deadline.at, time.monotonic() + 2)
            return send()

        call = _CHANGES[name]
        if not starts and name in {"detach_volume", "unplug_vif"}:
            call = "Domain.detachDeviceAlias"
        with script(own.raw, call, first) as seam:
            try:
                act(own.driver, machine)
            except errors.DeviceBusy:
                assert starts
                assert name in {"detach_volume", "unplug_vif"}
                expected = True
        assert seam.reached
        assert machine.state is (S.RUNNING if starts else S.STOPPED)
        if expected and name in {"detach_volume", "unplug_vif"}:
            assert seen(machine)[0]  # the guest has it; calling again is right
            other.power_off(machine.uuid)
            act(own.driver, machine)
            expected = False
        assert seen(machine) == [expected] * len(seen(machine))
        other.power_off(machine.uuid)
        for undo in ("detach_volume", "unplug_vif"):
            changing[undo][1](own.driver, machine)


@pytest.mark.parametrize(
    ("name", "running"),
    [
        (name, running)
        for name in _CHANGES
        for running in (True, False)
        # a machine without a guest never lets go of a device while it runs
        if not (running and name in {"detach_volume", "unplug_vif"})
    ],
)
def test_both_do_the_same_at_the_same_moment(
    own: Host, other: ComputeDriver, changing: dict[str, Any], name: str, running: bool
) -> None:
    """Either comes first, the other finds it done: both succeed."""
    prepare, act, seen, expected = changing[name]
    with own.empty_machine(start=running) as machine:
        for each in prepare:
            each(own.driver, machine)

        def first(_name: str, send: Callable[[], Any]) -> Any:
            act(other, machine)
            return send()

        with script(own.raw, _CHANGES[name], first) as seam:
            result = act(own.driver, machine)
        assert seam.reached
        if result is not None:
            assert result == act(other, machine)
        assert seen(machine) == [expected] * len(seen(machine))
        own.driver.power_off(machine.uuid)
        for undo in ("detach_volume", "unplug_vif"):
            changing[undo][1](own.driver, machine)


@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
def test_two_volumes_at_the_same_moment(own: Host, other: ComputeDriver, running: bool) -> None:
    """Both want the next free name of a device: each gets one."""
    with own.volume() as one, own.volume() as two, own.empty_machine(start=running) as machine:

        def first(_name: str, send: Callable[[], Any]) -> Any:
            other.attach_volume(machine.uuid, VolumeAttachment(volume=two))
            return send()

        with script(own.raw, "Domain.attachDeviceFlags", first) as seam:
            own.driver.attach_volume(machine.uuid, VolumeAttachment(volume=one))
        assert seam.reached
        assert {each.volume_id for each in machine.info.volumes} == {one.volume_id, two.volume_id}
        own.driver.power_off(machine.uuid)
        for each in (one, two):
            assert machine.has(each.volume_id) == (True, True)
            own.driver.detach_volume(machine.uuid, each.volume_id)


def test_a_name_that_only_the_definition_has_taken(own: Host) -> None:
    """Changed by hand: the running machine has lost what its definition still has."""
    driver = own.driver
    with own.volume() as one, own.volume() as two, own.made_empty() as machine:
        machine.attach(one)
        device = machine.info.volumes[0].device
        driver.power_on(machine.uuid)
        disk = machine.xml(inactive=True).find(f"devices/disk[serial='{one.volume_id}']")
        assert disk is not None
        driver.power_off(machine.uuid)
        driver.detach_volume(machine.uuid, one.volume_id)
        driver.power_on(machine.uuid)
        # in the definition alone
        from xml.etree import ElementTree as ET

        path = own.peer.root / "disk.xml"
        path.write_text(ET.tostring(disk, encoding="unicode"))
        own.peer.virsh("attach-device", str(machine.uuid), str(path), "--config")
        assert machine.has(one.volume_id) == (False, True)
        machine.attach(two)
        assert machine.has(two.volume_id) == (True, True)
        machine.attach(one)
        assert machine.has(one.volume_id) == (True, True)
        devices = {each.volume_id: each.device for each in machine.info.volumes}
        assert devices[one.volume_id] == device
        driver.power_off(machine.uuid)
        for each in (one, two):
            driver.detach_volume(machine.uuid, each.volume_id)


def test_metadata_of_a_suspended_machine(own: Host, other: ComputeDriver) -> None:
    """It is in the saved memory's definition and in the machine's own: a cut between the two has
    changed something, and a resume() at the same moment brings back the newer."""
    driver = own.driver
    with own.empty_machine(metadata={"v": "1"}) as machine:
        driver.suspend(machine.uuid)
        cut = errors.ConnectionFailed("cut")
        with (
            script(own.raw, "Domain.setMetadata", answered(cut)),
            pytest.raises(errors.OutcomeUnknown),
        ):
            driver.set_metadata(machine.uuid, {"v": "2"})

        def meanwhile_three(_name: str, send: Any) -> Any:
            other.set_metadata(machine.uuid, {"v": "3"})
            return send()

        with script(own.raw, "Domain.managedSaveDefineXML", meanwhile_three) as seam:
            driver.resume(machine.uuid)
        assert seam.reached
        assert machine.state is S.RUNNING
        assert machine.info.metadata == {"v": "3"}
        # a resume() that is cut before the machine is started has changed nothing
        driver.suspend(machine.uuid)
        with (
            script(own.raw, "Domain.createWithFlags", answered(cut)),
            pytest.raises(errors.ConnectionFailed),
        ):
            driver.resume(machine.uuid)
        assert machine.state is S.SUSPENDED


_HOW = pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])


@_HOW
def test_a_volume_is_attached_after_the_deletion_has_looked(
    own: Host, other: ComputeDriver, running: bool
) -> None:
    """Whoever attaches waits for the end of the deletion, and takes the volume back."""
    volume = own.driver.create_volume(VolumeSpec(name="goes", size_bytes=8 << 20))
    with own.empty_machine(start=running) as machine:
        attaching = []

        def first(_name: str, send: Callable[[], Any]) -> Any:
            attachment = VolumeAttachment(volume=volume)
            attaching.append(
                meanwhile(lambda: other.attach_volume(machine.uuid, attachment, timeout=20))
            )
            wait_until(lambda: machine.has("goes")[1], timeout=60, what="it is attached")
            return send()

        with script(own.raw, "StorageVol.delete", first) as seam:
            own.driver.delete_volume("goes")
        assert seam.reached
        with pytest.raises(errors.VolumeNotFound):
            attaching[0].result(60)
        # a guest that lets go of nothing has it until it is switched off
        assert machine.has("goes") == (running, False)
        own.driver.delete_volume("goes")


@_HOW
def test_a_volume_is_deleted_while_it_is_being_attached(
    own: Host, other: ComputeDriver, running: bool
) -> None:
    with own.empty_machine(start=running) as machine:
        for deleted_first in (True, False):
            volume = own.driver.create_volume(VolumeSpec(name="goes", size_bytes=8 << 20))
            attachment = VolumeAttachment(volume=volume)

            def first(_name: str, send: Callable[[], Any], deleted: bool = deleted_first) -> Any:
                if deleted:
                    other.delete_volume("goes")
                    return send()
                sent = send()
                with pytest.raises(errors.DeviceBusy):
                    other.delete_volume("goes")
                return sent

            with script(own.raw, "Domain.attachDeviceFlags", first) as seam:
                if deleted_first:
                    with pytest.raises(errors.VolumeNotFound):
                        own.driver.attach_volume(machine.uuid, attachment)
                else:
                    own.driver.attach_volume(machine.uuid, attachment)
            assert seam.reached
            assert machine.has("goes") == (not deleted_first,) * 2
        own.driver.power_off(machine.uuid)
        own.driver.detach_volume(machine.uuid, "goes")
        own.driver.delete_volume("goes")


def test_a_volume_is_deleted_while_a_machine_is_made_of_it(own: Host, other: ComputeDriver) -> None:
    volume = own.driver.create_volume(VolumeSpec(name="goes", size_bytes=8 << 20))
    spec = own.empty(start=False, volumes=(VolumeAttachment(volume=volume),))

    def first(_name: str, send: Callable[[], Any]) -> Any:
        other.delete_volume("goes")
        return send()

    with (
        script(own.raw, "Connect.defineXMLFlags", first) as seam,
        pytest.raises(errors.VolumeNotFound),
    ):
        own.driver.spawn(spec)
    assert seam.reached
    with pytest.raises(errors.InstanceNotFound):
        other.get_instance(spec.uuid)
    assert not [each for each in _disks(own) if str(spec.uuid) in each]


def test_a_volume_is_deleted_while_a_machine_is_connected_to_it(
    own: Host, other: ComputeDriver
) -> None:
    def at(volume: PoolVolume) -> VolumeAttachment:
        path = own.raw.pools.disk_path(volume.data.name)
        return VolumeAttachment(volume=local(path, "disk", format="qcow2"))

    stays, goes = (
        own.driver.create_volume(VolumeSpec(name=name, size_bytes=8 << 20))
        for name in ("stays", "goes")
    )

    def first(_name: str, send: Callable[[], Any]) -> Any:
        sent = send()
        with pytest.raises(errors.DeviceBusy):
            other.delete_volume("goes")
        # as a deletion does that had looked before
        own.raw.pools.disks().storageVolLookupByName(goes.data.name).delete(0)
        return sent

    with own.made_empty() as machine:
        own.driver.attach_volume(machine.uuid, at(stays))
        with (
            script(own.raw, "Domain.blockInfo", first) as seam,
            pytest.raises(errors.VolumeNotFound),
        ):
            own.driver.reconnect(machine.uuid, volumes=(at(goes),))
        assert seam.reached
        with pytest.raises(errors.DeviceBusy):
            other.delete_volume("stays")  # it has the one that it had
        own.driver.detach_volume(machine.uuid, "disk")
    own.driver.delete_volume("stays")


def _disks(own: Host) -> list[str]:
    return [each.name() for each in own.raw.pools.disks().listAllVolumes(0)]


def test_a_client_has_died_in_a_deletion(own: Host, other: ComputeDriver) -> None:
    """What it has left keeps an attachment for ten minutes by the host's clock, and goes then."""
    pool = own.raw.pools.disks()
    with own.volume() as volume, own.made_empty() as machine:
        attachment = VolumeAttachment(volume=volume)
        digest = hashlib.sha256(volume.volume_id.encode()).hexdigest()[:32]
        name = f"hv-deleting-{digest}.dead"

        def left_behind(minutes: float) -> None:
            if name not in _disks(own):
                pool.createXML(volume_xml(name, 0, "raw"), 0)
            file = own.peer.path(own.raw.pools.disk_path(name))
            then = file.stat().st_mtime - 60 * minutes
            os.utime(file, (then, then))

        left_behind(8)
        with pytest.raises(errors.DeviceBusy) as busy:
            other.attach_volume(machine.uuid, attachment, timeout=5)
        assert busy.value.retryable
        assert machine.has(volume.volume_id) == (False, False)
        left_behind(3)
        other.attach_volume(machine.uuid, attachment)
        assert name not in _disks(own)
        other.detach_volume(machine.uuid, volume.volume_id)
        # the deletion of any volume clears it too
        left_behind(11)
        with own.volume():
            pass
        assert name not in _disks(own)


def test_a_deletion_cut_twice_behind_the_end_of_its_volume(own: Host) -> None:
    """The same driver deletes again: the volume has gone, and the mark stood for good."""
    lost: list[str] = []

    def seam(name: str, send: Callable[[], Any]) -> Any:
        if lost:
            raise errors.ConnectionFailed(f"the host is away: {name}")
        answer = send()
        if name == "StorageVol.delete":
            lost.append(name)
            raise errors.OutcomeUnknown("the reply is lost")
        return answer

    with own.volume() as volume:
        own.raw.connection.seam = seam
        with pytest.raises(errors.OutcomeUnknown):
            own.driver.delete_volume(volume.volume_id)
        own.raw.connection.seam = None
        assert [name for name in _disks(own) if name.startswith("hv-deleting-")]
        own.driver.delete_volume(volume.volume_id)
        assert not [name for name in _disks(own) if name.startswith("hv-deleting-")]


def test_a_deletion_that_took_too_long(own: Host, other: ComputeDriver) -> None:
    """Another client has taken its mark for that of a dead one: nothing is deleted."""
    with own.volume() as volume, own.made_empty() as machine:

        def first(_name: str, send: Callable[[], Any]) -> Any:
            for each in own.raw.pools.disks().listAllVolumes(0):
                if each.name().startswith("hv-deleting-"):
                    file = own.peer.path(own.raw.pools.disk_path(each.name()))
                    os.utime(file, (1, 1))
            other.attach_volume(machine.uuid, VolumeAttachment(volume=volume))
            listed = send()
            return [each for each in listed if each.UUIDString() != str(machine.uuid)]

        with (
            script(own.raw, "Connect.listAllDomains", first) as seam,
            pytest.raises(errors.DeviceBusy) as busy,
        ):
            own.driver.delete_volume(volume.volume_id)
        assert seam.reached
        assert busy.value.retryable
        own.driver.detach_volume(machine.uuid, volume.volume_id)
