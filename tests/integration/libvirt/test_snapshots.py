"""Snapshots, beyond what the suite looks at: what they leave out, and what an accident leaves."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any
from uuid import UUID

import libvirt
import pytest

from hvdrivers.contract import errors
from hvdrivers.libvirt.driver import LibvirtDriver
from hvdrivers.libvirt.naming import is_helper
from hvdrivers.models.image import ImageFormat
from hvdrivers.models.instance import Firmware, Flavor, InstanceSpec
from hvdrivers.models.snapshot import Snapshot
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import VolumeAttachment, VolumeSpec
from tests.integration.libvirt.conftest import SpecFactory, connect
from tests.integration.libvirt.faults import script
from tests.integration.libvirt.machines import Host
from tests.integration.libvirt.test_budgets import calls, numbers
from tests.peers.libvirtd import LibvirtPeer
from tests.peers.waiting import wait_until


def tags(host: Host, name: str) -> int:
    """How many snapshots a volume has in it."""
    path = host.peer.path(host.raw.pools.disk_path(name))
    with path.open("rb") as file:
        file.seek(60)  # nb_snapshots of the qcow2 header
        return int.from_bytes(file.read(4), "big")


def test_uefi_a_tpm_and_volumes_are_left_out(own: Host) -> None:
    """Libvirt's own calls refuse every one of them."""
    driver = own.driver
    shape: dict[str, Any] = {
        "firmware": Firmware.UEFI,
        "vtpm": True,
        "flavor": Flavor(vcpus=1, memory_mib=96),
    }
    with own.unchanged():
        volumes = [
            driver.create_volume(VolumeSpec(name=name, size_bytes=1 << 20, format=format_))
            for name, format_ in (("left-raw", ImageFormat.RAW), ("left-qcow2", ImageFormat.QCOW2))
        ]
        attached = tuple(VolumeAttachment(volume=each) for each in volumes)
        with own.empty_machine(**shape, volumes=attached) as machine:
            uuid, root = machine.uuid, f"{machine.uuid}.root"
            first = driver.create_snapshot(uuid, "disks \N{SNOWMAN} <&>]]>")
            memory = driver.create_snapshot(uuid, "memory", memory=True)
            assert [each.name for each in driver.list_snapshots(uuid)] == [
                first.name,
                memory.name,
            ]
            assert tags(own, root) == 2
            assert tags(own, "hv-volume-left-qcow2.qcow2") == 0
            driver.power_off(uuid)
            cold = driver.create_snapshot(uuid, "cold")
            assert tags(own, "hv-volume-left-qcow2.qcow2") == 0
            driver.revert_snapshot(uuid, memory.id)
            assert machine.state is InstanceState.RUNNING
            driver.delete_snapshot(uuid, cold.id)
            assert tags(own, root) == 2
            before = driver.get_instance(uuid)
            driver.revert_snapshot(uuid, first.id)
            after = driver.get_instance(uuid)
            assert after == before.model_copy(update={"state": InstanceState.STOPPED})
            # the device of a snapshot's memory is another one now
            driver.detach_volume(uuid, "left-raw")
            with pytest.raises(errors.InvalidRequest):
                driver.revert_snapshot(uuid, memory.id)
            driver.delete_snapshot(uuid, first.id, children=True)
            assert tags(own, root) == 0
            assert not driver.list_snapshots(uuid)
        for each in ("left-raw", "left-qcow2"):
            driver.delete_volume(each)


def test_snapshots_of_others(own: Host) -> None:
    """They are no part of the tree; where one has put a file over a disk, nothing is done."""
    driver = own.driver
    with own.unchanged(), own.empty_machine() as machine:
        uuid = machine.uuid
        with closing(libvirt.open(own.peer.uri)) as raw:
            domain = raw.lookupByUUIDString(str(uuid))
            ours = driver.create_snapshot(uuid, "ours")
            others = domain.snapshotCreateXML("<domainsnapshot><name>hv-x</name></domainsnapshot>")
            below = driver.create_snapshot(uuid, "below")
            assert [(each.name, each.parent) for each in driver.list_snapshots(uuid)] == [
                ("ours", None),
                ("below", ours.id),
            ]
            with pytest.raises(errors.VolumeNotFound):
                driver.revert_snapshot(uuid, "hv-x")
            driver.delete_snapshot(uuid, "hv-x")
            assert "hv-x" in domain.snapshotListNames()
            others.delete()
            driver.delete_snapshot(uuid, below.id)
            domain.snapshotCreateXML(
                "<domainsnapshot><name>over</name></domainsnapshot>",
                libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY,
            )
            for refused in (
                lambda: driver.create_snapshot(uuid, "more"),
                lambda: driver.revert_snapshot(uuid, ours.id),
            ):
                with pytest.raises(errors.DeviceBusy):
                    refused()
            assert machine.state is InstanceState.RUNNING


@pytest.mark.parametrize("on", [True, False], ids=["on", "off"])
def test_a_family_is_deleted_and_the_daemon_lives(own: Host, on: bool) -> None:
    """Two branches below the one that goes, and a root that stays."""
    with own.unchanged(), own.empty_machine(start=on) as machine:
        driver, uuid = own.driver, machine.uuid
        daemon = own.peer.daemon_pid
        root = driver.create_snapshot(uuid, "root")
        top = driver.create_snapshot(uuid, "top")
        for name in ("left", "leaf"):
            driver.create_snapshot(uuid, name)
        driver.revert_snapshot(uuid, top.id)
        if on:
            driver.power_on(uuid)
        driver.create_snapshot(uuid, "right")
        driver.delete_snapshot(uuid, top.id, children=True)
        assert own.peer.daemon_pid == daemon
        assert [each.id for each in driver.list_snapshots(uuid)] == [root.id]
        assert tags(own, f"{uuid}.root") == 1


def test_a_job_of_another_client_at_the_disks(own: Host) -> None:
    """A backup that another client reads lasts until it is stopped. It was begun before, or it
    begins just before QEMU is asked for the change."""
    driver = own.driver
    with own.unchanged(), own.empty_machine() as machine:
        uuid, root = machine.uuid, f"{machine.uuid}.root"
        first = driver.create_snapshot(uuid, "first")
        memory = driver.create_snapshot(uuid, "memory", memory=True)
        known = driver.list_snapshots(uuid)

        def refuses(act: Callable[[], object]) -> None:
            with pytest.raises(errors.DeviceBusy) as busy:
                act()
            assert busy.value.retryable
            assert driver.list_snapshots(uuid) == known
            assert tags(own, root) == 2
            assert machine.state is InstanceState.RUNNING

        with closing(libvirt.open(own.peer.uri)) as raw:
            domain = raw.lookupByUUIDString(str(uuid))

            def begin() -> None:
                server = f"<server transport='unix' socket='{own.peer.images}/read by others'/>"
                domain.backupBegin(f"<domainbackup mode='pull'>{server}</domainbackup>", None)

            def stop() -> None:
                domain.abortJob()
                wait_until(
                    lambda: domain.jobStats()["type"] == libvirt.VIR_DOMAIN_JOB_NONE,
                    timeout=60,
                    what="the job has ended",
                )

            def first_begin(_name: str, send: Callable[[], Any]) -> Any:
                begin()
                return send()

            begin()
            refuses(lambda: driver.create_snapshot(uuid, "more"))
            refuses(lambda: driver.create_snapshot(uuid, "more", memory=True))
            refuses(lambda: driver.delete_snapshot(uuid, first.id))
            refuses(lambda: driver.revert_snapshot(uuid, memory.id))
            stop()
            at = "Domain.monitor[transaction]"
            with script(own.raw, at, first_begin) as seam:
                refuses(lambda: driver.create_snapshot(uuid, "more"))
            assert seam.reached
            stop()
            at = "Domain.monitor[blockdev-snapshot-delete-internal-sync]"
            with script(own.raw, at, first_begin) as seam:
                refuses(lambda: driver.delete_snapshot(uuid, first.id))
            assert seam.reached
            stop()
        driver.delete_snapshot(uuid, first.id, children=True)
        assert not driver.list_snapshots(uuid)
        assert tags(own, root) == 0


def test_checkpoints_of_another_client(own: Host) -> None:
    """QEMU brings no disk back that has dirty bitmaps: a machine that was on was off then."""
    driver = own.driver
    with own.unchanged(), own.empty_machine() as machine:
        uuid = machine.uuid
        points = [
            driver.create_snapshot(uuid, "disk"),
            driver.create_snapshot(uuid, "memory", memory=True),
        ]
        with closing(libvirt.open(own.peer.uri)) as raw:
            domain = raw.lookupByUUIDString(str(uuid))
            checkpoint = domain.checkpointCreateXML(
                "<domaincheckpoint><name>of-others</name></domaincheckpoint>"
            )
            for state in (InstanceState.RUNNING, InstanceState.STOPPED):
                if state is InstanceState.STOPPED:
                    driver.power_off(uuid)
                for point in points:
                    with pytest.raises(errors.DeviceBusy, match="checkpoints") as busy:
                        driver.revert_snapshot(uuid, point.id)
                    assert not busy.value.retryable
                    assert machine.state is state
            driver.power_on(uuid)
            checkpoint.delete()
        for point in points:
            driver.revert_snapshot(uuid, point.id)


def test_a_process_that_dies_leaves_nothing_that_destroy_does_not_remove(
    own: Host, spec: SpecFactory
) -> None:
    """The second machine, through which the disks are reached, is there at that moment."""
    made = spec()
    with own.unchanged():
        own.driver.spawn(made)
        snapshot = own.driver.create_snapshot(made.uuid, "one")
        with closing(connect(own.peer)) as dying, closing(libvirt.open(own.peer.uri)) as raw:
            dead = False

            def seam(name: str, send: Any) -> Any:
                nonlocal dead
                dead = dead or name == "Domain.revertToSnapshot"
                if dead:
                    raise errors.ConnectionFailed("the process is dead")
                return send()

            dying.connection.seam = seam
            with pytest.raises(errors.OutcomeUnknown):
                dying.revert_snapshot(made.uuid, snapshot.id)
            dying.connection.seam = None
            assert [each for each in raw.listAllDomains() if is_helper(each.name())]
            assert not own.driver.list_foreign()
        own.driver.destroy(made.uuid)


@pytest.mark.parametrize("restart", ["before", "between"])
def test_the_daemon_began_anew_while_the_machine_ran(own: Host, restart: str) -> None:
    """Libvirt remembers less of the QEMU of such a run: a snapshot that is written down then has no
    CPU, and gets one when it is written down again after the run."""
    driver = own.driver
    with own.unchanged(), own.empty_machine() as machine:
        uuid = machine.uuid
        if restart == "before":
            own.peer.restart()
            driver.ping()
        first = driver.create_snapshot(uuid, "first")
        memory = driver.create_snapshot(uuid, "memory", memory=True)
        if restart == "between":
            own.peer.restart()
            driver.ping()
        driver.revert_snapshot(uuid, first.id)
        assert machine.state is InstanceState.STOPPED
        assert _current(own, uuid) == "first"
        driver.revert_snapshot(uuid, memory.id)
        assert machine.state is InstanceState.RUNNING
        assert _current(own, uuid) == "memory"
        below = driver.create_snapshot(uuid, "below")
        assert below.parent == memory.id
        driver.delete_snapshot(uuid, first.id, children=True)
        assert not driver.list_snapshots(uuid)
        assert tags(own, f"{uuid}.root") == 0


def test_the_guest_goes_off_while_its_snapshot_is_written_down(own: Host) -> None:
    """Between the two times that it is, and the daemon began anew while the guest ran."""
    with own.unchanged(), own.empty_machine() as machine:
        own.peer.restart()
        own.driver.ping()
        written = 0

        def seam(name: str, send: Any) -> Any:
            nonlocal written
            # its note, the room that is kept, and the whole
            written += name == "Domain.snapshotCreateXML"
            if name == "Domain.snapshotCreateXML" and written == 3:
                with closing(libvirt.open(own.peer.uri)) as raw:
                    raw.lookupByUUIDString(str(machine.uuid)).destroy()
            return send()

        own.raw.connection.seam = seam
        try:
            made = own.driver.create_snapshot(machine.uuid, "first")
        finally:
            own.raw.connection.seam = None
        assert written >= 3
        assert own.driver.list_snapshots(machine.uuid) == [made]
        own.driver.revert_snapshot(machine.uuid, made.id)


def _current(own: Host, uuid: UUID) -> str:
    return next(each.name for each in own.driver.list_snapshots(uuid) if each.current)


def test_budgets(peer: LibvirtPeer, spec: SpecFactory) -> None:
    with closing(connect(peer)) as host:
        host.connection.links.spare = lambda: None  # type: ignore[method-assign]
        host.pools.path(host.pools.disks())
        for start, expected in ((False, (14, 16, 17, 20)), (True, (14, 16, 21, 18))):
            uuid = _spawned(host, spec(start=start))
            one, created = _counted(host, lambda uuid=uuid: host.create_snapshot(uuid, "one"))
            two, again = _counted(host, lambda uuid=uuid: host.create_snapshot(uuid, "two"))
            back = calls(host, lambda uuid=uuid, id_=one.id: host.revert_snapshot(uuid, id_))
            if start:
                host.power_on(uuid)
            gone = calls(host, lambda uuid=uuid, id_=two.id: host.delete_snapshot(uuid, id_))
            assert (created, again, back, gone) == expected, start
            assert {created, again - 2} <= set(numbers("create_snapshot"))
            assert back - 2 in numbers("revert_snapshot")
            assert gone - 2 in numbers("delete_snapshot")
            if start:
                memory, looks = _counted(
                    host, lambda uuid=uuid: host.create_snapshot(uuid, "memory", memory=True)
                )
                listed = calls(host, lambda uuid=uuid: host.list_snapshots(uuid))
                assert listed == 4 + 2
                id_ = memory.id
                more = calls(host, lambda uuid=uuid, id_=id_: host.revert_snapshot(uuid, id_))
                # QEMU may answer a look before it is done
                assert looks >= 16 + 2, looks
                assert more >= 15 + 2, more
            host.destroy(uuid)


def _spawned(host: LibvirtDriver, made: InstanceSpec) -> UUID:
    host.spawn(made)
    return made.uuid


def _counted(host: LibvirtDriver, make: Callable[[], Snapshot]) -> tuple[Snapshot, int]:
    made: list[Snapshot] = []
    count = calls(host, lambda: made.append(make()))
    return made[0], count
