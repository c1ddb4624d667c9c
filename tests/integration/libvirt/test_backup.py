"""Backups of real guests: restored byte for byte, and what accidents make of the points in time."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import libvirt
import pytest

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.guard import guarded
from hvdrivers.libvirt.driver import LibvirtDriver
from hvdrivers.libvirt.nbd import backups_elsewhere
from hvdrivers.libvirt.points import MOST
from hvdrivers.models.image import ImageFormat
from hvdrivers.models.instance import Flavor
from hvdrivers.models.snapshot import Backup
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import VolumeAttachment, VolumeSpec
from tests.integration.libvirt.faults import Send, script
from tests.integration.libvirt.machines import BOOT, Host, Machine
from tests.integration.libvirt.test_budgets import calls, numbers
from tests.peers.libvirtd import LibvirtPeer
from tests.peers.waiting import wait_until

S = InstanceState


@pytest.fixture(scope="module")
def host(libvirt_peer: LibvirtPeer, guest_image: Path) -> Iterator[Host]:
    made = _on(libvirt_peer, guest_image)
    yield made
    made.close()


def _on(peer: LibvirtPeer, image: Path) -> Host:
    return Host(peer, image, host_root=peer.host_root)


@pytest.fixture
def empty(host: Host) -> Iterator[Machine]:
    with host.unchanged(), host.empty_machine() as machine:
        yield machine


def content(backup: Backup, disk: str, folder: Path) -> bytes:
    """The whole disk at the point in time, as other software reads it."""
    target = folder / f"{backup.id}.{disk}"
    assert backup.location is not None
    source = backup.location.replace("nbd+unix:///", f"nbd+unix:///{disk}", 1)
    command = ["qemu-img", "convert", "-f", "raw", "-O", "raw", source, str(target)]
    subprocess.run(command, check=True, capture_output=True)
    return target.read_bytes()


def restored(before: bytes, backup: Backup, now: bytes, disk: str) -> bytes:
    """What a restore makes of the copy before and the ranges that the backup names."""
    found = bytearray(before)
    for each in backup.extents:
        if each.disk == disk:
            end = each.offset + each.length
            found[each.offset : end] = bytes(each.length) if each.zero else now[each.offset : end]
    return bytes(found)


def ended(machine: Machine, since: str | None = None) -> Backup:
    driver = machine.host.driver
    backup = driver.begin_backup(machine.uuid, since=since)
    driver.end_backup(machine.uuid, backup.id)
    return backup


def test_restored_byte_for_byte(host: Host, tmp_path: Path) -> None:
    """A full backup and two increments, of a guest that writes, deletes and runs on; its volume is
    left out."""
    driver = host.driver
    with host.unchanged(), host.volume() as volume, host.machine() as machine:
        machine.booted()
        machine.attach(volume)
        machine.run("dd if=/dev/urandom of=/disk/one bs=1k count=200; sync", timeout=BOOT)
        full = driver.begin_backup(machine.uuid)
        assert full.disks == ("root",)
        write = "dd if=/dev/urandom of=/disk/two bs=1k count=150; rm /disk/one; sync"
        machine.run(write, timeout=BOOT)
        copy = content(full, "root", tmp_path)
        assert restored(bytes(len(copy)), full, copy, "root") == copy
        driver.end_backup(machine.uuid, full.id)
        since = full.id
        for number in range(2):
            write = f"dd if=/dev/urandom of=/disk/more{number} bs=1k count=100; sync"
            machine.run(write, timeout=BOOT)
            increment = driver.begin_backup(machine.uuid, since=since)
            assert sum(each.length for each in increment.extents) < len(copy) // 4
            now = content(increment, "root", tmp_path)
            assert now != copy
            copy = restored(copy, increment, now, "root")
            assert copy == now
            driver.end_backup(machine.uuid)
            since = increment.id
        driver.detach_volume(machine.uuid, volume.volume_id)


def test_points_outlive_power_and_not_accidents(empty: Machine) -> None:
    """They are in the disk's file, where QEMU writes them at its end; one that was killed has not,
    and then a point is gone, rather than wrong. abbbi/virtnbdbackup#185 and #266: no further backup
    could be made as the bitmap of an earlier one was missing or broken."""
    driver, peer = empty.host.driver, empty.host.peer
    first = ended(empty)
    driver.power_off(empty.uuid)
    driver.rename(empty.uuid, "other")
    driver.power_on(empty.uuid)
    second = ended(empty, first.id)
    assert second.extents == ()
    os.kill(peer.qemu_pid(str(empty.uuid)), signal.SIGKILL)
    empty.host.driver.power_off(empty.uuid)
    driver.power_on(empty.uuid)
    for gone in (first, second):
        with pytest.raises(errors.VolumeNotFound):
            driver.begin_backup(empty.uuid, since=gone.id)
    third = ended(empty)
    assert ended(empty, third.id).since == third.id


@pytest.mark.parametrize("then", ["destroy", "begin_backup"])
def test_a_host_that_loses_power_meanwhile(guest_image: Path, then: str) -> None:
    """What the guest overwrote is in a file that nobody has come to remove."""
    with LibvirtPeer() as peer, closing(_on(peer, guest_image)) as own:
        machine = own.made(own.empty())
        backup = own.driver.begin_backup(machine.uuid)
        number = backup.id.removeprefix("hv-")
        (scratch,) = peer.root.rglob(f"{machine.uuid}.{number}.root")
        qemu = peer.qemu_pid(str(machine.uuid))
        peer.kill()
        os.kill(qemu, signal.SIGKILL)
        # a host that starts anew knows of no machine that ran
        (status,) = peer.folder("run").rglob(f"*{machine.uuid}*.xml")
        status.unlink()
        peer.start()
        assert scratch.exists()
        if then == "begin_backup":
            own.driver.power_off(machine.uuid)
            own.driver.power_on(machine.uuid)
            ended(machine)
            assert not scratch.exists()
        own.driver.destroy(machine.uuid)
        assert not scratch.exists()


def test_no_room_for_what_the_guest_overwrites(host: Host) -> None:
    """QEMU stops the guest at that write. The end of the backup makes room, and it goes on."""
    folder = "/var/lib/libvirt/small"
    host.peer.inside("mkdir", "-p", folder)
    write = "dd if=/dev/urandom of=/dev/vdb bs=1M count=60 conv=fsync"
    with host.unchanged(), host.peer.small(folder, 120 << 20):
        root = host.peer.host_root
        small = Host(host.peer, host.image, pool="small", pool_path=folder, host_root=root)
        flavor = Flavor(vcpus=1, memory_mib=192, ephemeral_gib=1)
        with closing(small), small.machine(flavor=flavor) as machine:
            machine.booted()
            machine.run(write, timeout=BOOT)
            small.driver.begin_backup(machine.uuid)
            said = machine.said()
            machine.type(f"{write}; echo hv-guest: wrote $?")
            wait_until(lambda: machine.info.state is S.PAUSED, timeout=BOOT, what="it stops")
            small.driver.end_backup(machine.uuid)
            assert machine.state is S.PAUSED
            small.driver.unpause(machine.uuid)
            assert machine.console.expect(r"wrote (\d+)", timeout=BOOT, after=said)[1] == "0"
        host.peer.virsh("pool-destroy", "small")
        host.peer.virsh("pool-undefine", "small")


def test_only_so_many_points_are_kept(empty: Machine) -> None:
    made = [ended(empty)]
    for _ in range(MOST):
        made.append(ended(empty, made[-1].id))
    with pytest.raises(errors.VolumeNotFound):
        ended(empty, made[0].id)
    assert ended(empty, made[2].id).since == made[2].id


@pytest.mark.parametrize("state", [S.RUNNING, S.STOPPED])
@pytest.mark.parametrize("memory", [False, True], ids=["disks", "memory"])
def test_a_revert_drops_the_points(empty: Machine, state: InstanceState, memory: bool) -> None:
    """QEMU brings no disk back that has some; nobody but QEMU removes them."""
    driver, uuid = empty.host.driver, empty.uuid
    snapshot = driver.create_snapshot(uuid, "before", memory=memory)
    point = ended(empty)
    if state is S.STOPPED:
        driver.power_off(uuid)
    driver.revert_snapshot(uuid, snapshot.id)
    assert empty.state is (S.RUNNING if memory else S.STOPPED)
    driver.power_on(uuid)
    with pytest.raises(errors.VolumeNotFound):
        driver.begin_backup(uuid, since=point.id)
    ended(empty)


def test_while_one_is_open(empty: Machine) -> None:
    """What would be in its way is refused, and waits; a machine that goes off ends it."""
    driver, uuid = empty.host.driver, empty.uuid
    driver.create_snapshot(uuid, "before")
    backup = driver.begin_backup(uuid)
    for refused in (
        lambda: driver.create_snapshot(uuid, "meanwhile"),
        lambda: driver.revert_snapshot(uuid, driver.list_snapshots(uuid)[0].id),
        lambda: driver.snapshot_to_image(uuid, empty.host.peer.root / "image"),
        lambda: driver.suspend(uuid),
    ):
        with pytest.raises((errors.DeviceBusy, errors.OperationTimeout)):
            refused()
        assert empty.state is S.RUNNING
    driver.pause(uuid)
    driver.unpause(uuid)
    driver.power_off(uuid)
    driver.end_backup(uuid, backup.id)
    driver.power_on(uuid)
    assert ended(empty, backup.id).since == backup.id


@pytest.mark.parametrize("ended_by", ["end_backup", "power_off"])
def test_another_client_ends_it_as_it_begins(empty: Machine, ended_by: str) -> None:
    """Before it is known what there is to copy: as if the other had come first."""
    driver, uuid = empty.host.driver, empty.uuid
    with closing(guarded(LibvirtDriver.connect(empty.host.raw.config))) as other:

        def meanwhile(_name: str, send: Send) -> Any:
            getattr(other, ended_by)(uuid)
            return send()

        call = "Domain.listAllCheckpoints"  # the first one after it has begun
        with script(empty.host.raw, call, meanwhile) as seam:
            if ended_by == "power_off":
                with pytest.raises(errors.InvalidState):
                    driver.begin_backup(uuid)
                driver.power_on(uuid)
                ended(empty)
            else:
                backup = driver.begin_backup(uuid)
                with pytest.raises(errors.DeviceBusy):
                    other.begin_backup(uuid)
                other.end_backup(uuid, "hv-backup-9-00000000")  # another one
                assert empty.host.peer.virsh("backup-dumpxml", str(uuid))
                other.end_backup(uuid, backup.id)
                driver.end_backup(uuid, backup.id)
                assert ended(empty, backup.id).since == backup.id
        assert seam.reached


class Dying:
    """A seam of a process that dies after so many calls."""

    def __init__(self, calls: int) -> None:
        self._left = calls

    def __call__(self, _: str, send: Send) -> Any:
        if self._left <= 0:
            raise errors.ConnectionFailed("the process is dead")
        self._left -= 1
        return send()


@pytest.mark.usefixtures("impatient")
def test_a_client_that_dies(empty: Machine) -> None:
    """Whatever call was its last: another client closes the backup, and makes the next one."""
    driver, uuid, raw = empty.host.driver, empty.uuid, empty.host.raw
    point = ended(empty)
    for number in itertools.count():
        with closing(LibvirtDriver.connect(raw.config)) as dying:
            dying.connection.seam = Dying(number)
            try:
                dying.begin_backup(uuid, since=point.id)
            except errors.HypervisorError:
                finished = False
            else:
                finished = True
            dying.connection.seam = None
        driver.end_backup(uuid)
        if finished:
            break
        point = ended(empty)
    assert number > 13
    with closing(libvirt.open(empty.host.peer.uri)) as bare:
        assert bare.lookupByUUIDString(str(uuid)).listAllCheckpoints(0) == []


def test_budgets(host: Host, empty: Machine) -> None:
    raw, uuid = host.raw, empty.uuid
    raw.connection.links.spare = lambda: None  # type: ignore[method-assign]
    raw.pools.path(raw.pools.disks())
    made: list[Backup] = []
    assert calls(raw, lambda: made.append(raw.begin_backup(uuid))) == 12
    assert calls(raw, lambda: raw.end_backup(uuid)) - 6 in range(20)
    assert calls(raw, lambda: made.append(raw.begin_backup(uuid, since=made[0].id))) == 12 + 2
    raw.end_backup(uuid)
    assert calls(raw, lambda: raw.end_backup(uuid)) == 3
    assert {12, 2} <= set(numbers("begin_backup"))
    made.append(raw.begin_backup(uuid))
    assert calls(raw, lambda: raw.end_backup(uuid, made[-1].id)) - 8 in range(20)
    assert calls(raw, lambda: raw.end_backup(uuid, made[-1].id)) == 5
    assert {3, 6, 2} <= set(numbers("end_backup"))


def test_a_host_whose_files_are_not_here(libvirt_peer: LibvirtPeer, guest_image: Path) -> None:
    """A process that sees another file system is told so, and the backup does not stay open."""
    with closing(Host(libvirt_peer, guest_image)) as far, far.empty_machine() as machine:
        with pytest.raises(errors.NotSupported, match="host_root"):
            far.driver.begin_backup(machine.uuid)
        machine.host.driver.create_snapshot(machine.uuid, "nothing is open")
    assert backups_elsewhere("qemu+ssh://root@far/system", None) is not None
    assert backups_elsewhere("qemu:///system", None) is None
    assert Capability.INCREMENTAL_BACKUP in far.driver.capabilities


def test_disks_that_cannot_be_backed_up(host: Host) -> None:
    """A machine that boots from a volume has no disk of its own."""
    volume = host.driver.create_volume(
        VolumeSpec(name="boots", size_bytes=1 << 20, format=ImageFormat.RAW)
    )
    attached = (VolumeAttachment(volume=volume, boot_index=0),)
    with host.empty_machine(image=None, volumes=attached) as machine:
        with pytest.raises(errors.InvalidRequest):
            host.driver.begin_backup(machine.uuid)
        host.driver.end_backup(machine.uuid)
    host.driver.delete_volume("boots")


def test_the_socket_is_closed_to_others(empty: Machine) -> None:
    backup = empty.host.driver.begin_backup(empty.uuid)
    assert backup.location is not None
    path = Path(backup.location.partition("socket=")[2])
    assert path.is_socket()
    assert path.parent.stat().st_mode & 0o007 == 0
    empty.host.driver.end_backup(empty.uuid)
    assert not path.exists()


def test_the_end_of_one_is_not_the_end_of_the_next(host: Host, empty: Machine) -> None:
    """Another client ends it in the moment before, and would open one of its own: libvirt has no
    word for which backup it is to end."""
    uuid = empty.uuid
    first = host.driver.begin_backup(uuid).id
    with closing(guarded(LibvirtDriver.connect(host.raw.config))) as other:

        def meanwhile(_name: str, send: Send) -> Any:
            other.end_backup(uuid)
            with pytest.raises((errors.DeviceBusy, errors.OperationTimeout)):
                other.begin_backup(uuid, timeout=1)
            return send()

        with script(host.raw, "Domain.abortJob", meanwhile) as seam:
            host.driver.end_backup(uuid, first)
        assert seam.reached
        second = other.begin_backup(uuid)
        host.driver.end_backup(uuid, first)
        with pytest.raises(errors.DeviceBusy, match=second.id):
            other.begin_backup(uuid)
        other.end_backup(uuid, second.id)
