"""migrate_storage() on real QEMUs: every byte, on and off; whatever cuts it, one whole machine."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

import libvirt
import pytest

from hvdrivers.contract import errors
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.guard import guarded
from hvdrivers.libvirt import relocation
from hvdrivers.libvirt.domain import own_disks_in
from hvdrivers.libvirt.driver import LibvirtDriver
from hvdrivers.models.image import FileImage, ImageFormat
from hvdrivers.models.instance import Flavor, Keep
from hvdrivers.models.progress import Progress
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import VolumeAttachment, VolumeSpec
from tests.integration.libvirt.children import Held, killed_in, race_to_do
from tests.integration.libvirt.conftest import connect
from tests.integration.libvirt.faults import INTERNAL, script
from tests.integration.libvirt.machines import BOOT, Host, Machine, local
from tests.integration.part_of_suite import WHOLE
from tests.peers.libvirtd import POOL, LibvirtPeer
from tests.peers.waiting import wait_until

S = InstanceState
OWN = "hvdrivers"
TWO_DISKS = Flavor(vcpus=1, memory_mib=64, ephemeral_gib=1)
ON_AND_OFF = pytest.mark.parametrize("start", [True, False], ids=["running", "stopped"])


def places(machine: Machine, *, inactive: bool = False) -> dict[str, str]:
    """Paths of the own disks, by role."""
    found = own_disks_in(machine.xml(inactive=inactive))
    return {role: disk.find("source").attrib["file"] for role, disk in found.items()}  # type: ignore[union-attr]


def pools_of(machine: Machine) -> set[str]:
    """Names of the pools that have a disk of the machine, as it runs and as it is defined."""
    folders = {"/var/lib/libvirt/hvdrivers/disks": OWN, machine.host.peer.images: POOL}
    paths = {*places(machine).values(), *places(machine, inactive=True).values()}
    return {folders.get(str(Path(path).parent), path) for path in paths}


def alone(host: Host, path: str) -> str:
    """A qcow2 file without what it stands on, for QEMU's tools."""
    file = {"driver": "file", "filename": str(host.peer.path(path))}
    return "json:" + json.dumps({"driver": "qcow2", "file": file, "backing": None})


def sums(machine: Machine) -> dict[str, str]:
    """Of what a guest has written to each disk."""
    found = {}
    for role, path in places(machine).items():
        raw = machine.host.peer.root / f"{machine.uuid}.raw"
        source = alone(machine.host, path)
        subprocess.run(["qemu-img", "convert", "-U", "-O", "raw", source, raw], check=True)
        with raw.open("rb") as file:
            found[role] = sha256(file.read(20 << 20)).hexdigest()
        raw.unlink()
    return found


def write(machine: Machine, value: int, size: str = "1M") -> None:
    """Write to each disk of a machine that is off."""
    for path in places(machine).values():
        command = ["qemu-io", "-c", f"write -P {value} 0 {size}", alone(machine.host, path)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def written(host: Host, *, start: bool, **changes: Any) -> Iterator[tuple[Machine, dict[str, str]]]:
    """A machine with two disks that have content, and the sums of that."""
    with host.made_empty(flavor=TWO_DISKS, **changes) as machine:
        write(machine, 7)
        if start:
            host.driver.power_on(machine.uuid)
        yield machine, sums(machine)


def files_of(host: Host, uuid: UUID) -> set[str]:
    """Every file of an instance on the host but the console's log."""
    return {
        line.rpartition("/")[2]
        for line in host.residue()
        if line.startswith("file ") and str(uuid) in line and ".xml" not in line
        if not line.endswith((".log", ".pid"))
    }


def is_whole(host: Host, machine: Machine, content: dict[str, str]) -> None:
    """Nothing is lost, on the host is nothing more, and the machine starts."""
    assert sums(machine) == content
    assert files_of(host, machine.uuid) == {Path(path).name for path in places(machine).values()}
    if machine.state is not S.RUNNING:
        host.driver.power_on(machine.uuid)
    assert machine.state is S.RUNNING
    assert machine.xml().find("devices/disk/mirror") is None


@ON_AND_OFF
def test_there_and_back(own: Host, start: bool) -> None:
    with own.unchanged(), written(own, start=start) as (machine, content):
        before = machine.info
        for pool in (POOL, OWN, POOL):
            told: list[Progress] = []
            own.driver.migrate_storage(machine.uuid, pool, progress=told.append)
            assert pools_of(machine) == {pool}
            assert machine.info == before
            assert told[-1].done == told[-1].total
        is_whole(own, machine, content)
        own.driver.power_off(machine.uuid)
        is_whole(own, machine, content)


def test_every_byte_while_the_guest_writes(host: Host) -> None:
    flavor = Flavor(vcpus=1, memory_mib=192, ephemeral_gib=1)
    with host.unchanged(), host.machine(flavor=flavor) as machine:
        machine.booted()
        disk = machine.sees("ephemeral")
        machine.run("rm -f /tmp/stop /tmp/done")
        # a flush each time: what QEMU has allocated is in its memory until then, and nobody sees it
        put = f"dd of=/dev/{disk} bs=4096 conv=notrunc,fsync oflag=direct"
        loop = "i=0; while [ ! -f /tmp/stop ]; do i=$((i+1)); dd if=/dev/urandom bs=4096 count=1"
        loop += f" 2>/dev/null | {put} seek=$((i%4096)) 2>/dev/null; done; sync; touch /tmp/done"
        machine.run(f"( {loop} ) &")
        for pool in (POOL, OWN):
            before = sums(machine)
            wait_until(lambda b=before: sums(machine) != b, timeout=60, what="the guest writes")
            host.driver.migrate_storage(machine.uuid, pool)
            assert pools_of(machine) == {pool}
        machine.run("touch /tmp/stop; while [ ! -f /tmp/done ]; do sleep 1; done", timeout=120)
        machine.run("echo 3 > /proc/sys/vm/drop_caches")
        said = len(machine.console.text())
        machine.run(f"dd if=/dev/{disk} bs=1M count=64 2>/dev/null | sha256sum", timeout=BOOT)
        found = re.search(r"\b[0-9a-f]{64}\b", machine.console.text()[said:])
        assert found is not None
        raw = host.peer.root / "content.raw"
        source = alone(host, places(machine)["ephemeral"])
        subprocess.run(["qemu-img", "convert", "-U", "-O", "raw", source, raw], check=True)
        with raw.open("rb") as file:
            assert sha256(file.read(64 << 20)).hexdigest() == found[0]
        raw.unlink()


# ---- what is refused -----------------------------------------------------------------------------


def test_pools_that_take_none(own: Host) -> None:
    peer = own.peer
    peer.virsh("pool-define-as", "off", "dir", "--target", "/var/lib/libvirt/off")
    peer.virsh("pool-define-as", "blocks", "logical", "--source-name", "vg", "--target", "/dev/vg")
    with own.made_empty() as machine, own.unchanged():
        for pool, error in (
            ("nowhere", errors.VolumeNotFound),
            ("off", errors.VolumeNotFound),
            ("blocks", errors.NotSupported),
            ("hvdrivers-consoles", errors.InvalidRequest),
            ("../x\n<&", errors.VolumeNotFound),
        ):
            with pytest.raises(error):
                own.driver.migrate_storage(machine.uuid, pool)
    for pool in ("off", "blocks"):
        peer.virsh("pool-undefine", pool)


@contextmanager
def small_pool(peer: LibvirtPeer, size: int) -> Iterator[str]:
    folder = "/var/lib/libvirt/small"
    peer.inside("mkdir", "-p", folder)
    with peer.small(folder, size):
        peer.virsh("pool-define-as", "small", "dir", "--target", folder)
        peer.virsh("pool-start", "small")
        try:
            yield "small"
        finally:
            peer.virsh("pool-destroy", "small")
            peer.virsh("pool-undefine", "small")


@ON_AND_OFF
@pytest.mark.parametrize("late", [False, True], ids=["seen", "found-out"])
def test_a_full_pool(own: Host, start: bool, late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is seen before anything is done, or the copy fails for want of room."""
    if late:
        monkeypatch.setattr(relocation, "require_room", lambda *_: None)
    with (
        small_pool(own.peer, 3 << 20) as pool,
        own.made_empty(flavor=TWO_DISKS) as machine,
    ):
        ephemeral = places(machine)["ephemeral"]
        command = ["qemu-io", "-c", "write -P 5 0 8M", alone(own, ephemeral)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        if start:
            own.driver.power_on(machine.uuid)
        content, at = sums(machine), places(machine)
        with own.unchanged(), pytest.raises(errors.InsufficientResources):
            own.driver.migrate_storage(machine.uuid, pool)
        assert places(machine) == at
        is_whole(own, machine, content)


@ON_AND_OFF
def test_snapshots_keep_it(own: Host, start: bool) -> None:
    with own.empty_machine(start=start) as machine:
        own.driver.migrate_storage(machine.uuid, POOL)
        made = own.driver.create_snapshot(machine.uuid, "one")
        with own.unchanged(), pytest.raises(errors.DeviceBusy) as caught:
            own.driver.migrate_storage(machine.uuid, OWN)
        assert not caught.value.retryable
        own.driver.migrate_storage(machine.uuid, POOL)
        own.driver.revert_snapshot(machine.uuid, made.id)
        own.driver.delete_snapshot(machine.uuid, made.id)
        own.driver.migrate_storage(machine.uuid, OWN)


def test_others_files_over_a_disk(own: Host) -> None:
    with own.empty_machine() as machine, own.unchanged():
        options = ("--disk-only", "--no-metadata", "--diskspec")
        over = f"{own.peer.images}/over.qcow2"
        own.peer.virsh("snapshot-create-as", str(machine.uuid), *options, f"vda,file={over}")
        with pytest.raises(errors.DeviceBusy):
            own.driver.migrate_storage(machine.uuid, POOL)
        own.peer.virsh(
            "blockcommit", str(machine.uuid), "vda", "--shallow", "--active", "--pivot", "--wait"
        )
        own.peer.path(over).unlink()
        own.peer.virsh("pool-refresh", POOL)


def test_an_open_backup_keeps_it(own: Host) -> None:
    with (
        closing(guarded(connect(own.peer, host_root=own.peer.host_root))) as near,
        own.empty_machine() as machine,
    ):
        backup = near.begin_backup(machine.uuid)
        with pytest.raises(errors.DeviceBusy):
            own.driver.migrate_storage(machine.uuid, POOL)
        near.end_backup(machine.uuid, backup.id)
        _write_as_guest(machine, 1)
        own.driver.migrate_storage(machine.uuid, POOL)
        _write_as_guest(machine, 2)
        # QEMU carries the points of backups along, and marks what is written meanwhile
        second = near.begin_backup(machine.uuid, since=backup.id)
        near.end_backup(machine.uuid, second.id)
        assert [(each.offset >> 16, each.length >> 16) for each in second.extents] == [(1, 2)]
        # of a machine that is off they are lost
        own.driver.power_off(machine.uuid)
        own.driver.migrate_storage(machine.uuid, OWN)
        own.driver.power_on(machine.uuid)
        with pytest.raises(errors.VolumeNotFound):
            near.begin_backup(machine.uuid, since=second.id)


def _write_as_guest(machine: Machine, at: int) -> None:
    """Write 64 KiB to the root disk of a running machine."""
    device = "/machine/peripheral/ua-own-root/virtio-backend"
    write = f'qemu-io -d {device} "write -P 3 {at * 64}k 64k"'
    machine.host.peer.virsh("qemu-monitor-command", str(machine.uuid), "--hmp", write)


def test_volumes_and_seeds_stay(own: Host) -> None:
    from hvdrivers.models.cloudinit import CloudInit

    with own.volume() as volume, own.volume() as boots:
        given = (VolumeAttachment(volume=volume),)
        seed = CloudInit(hostname="h")
        with own.empty_machine(volumes=given, cloud_init=seed) as machine:
            stay = places(machine)["seed"]
            own.driver.migrate_storage(machine.uuid, POOL)
            assert places(machine)["seed"] == stay
            assert machine.has(volume.volume_id) == (True, True)
            held = own.driver.get_volume(volume.volume_id)
            assert held.pool == OWN
        # a machine without a disk of its own: nothing is to be done
        given = (VolumeAttachment(volume=boots, boot_index=0),)
        with own.machine(image=None, volumes=given, start=False) as machine:
            own.driver.migrate_storage(machine.uuid, POOL)


# ---- where it lives then -------------------------------------------------------------------------


def test_lives_there(own: Host, tmp_path: Path) -> None:
    """What grows, is made anew, is copied out, is kept, or goes, is where the disk is."""
    driver = own.driver
    with own.unchanged():
        machine = own.made(own.empty(start=False))
        first = machine.info.image
        driver.migrate_storage(machine.uuid, POOL)
        driver.resize(machine.uuid, Flavor(vcpus=1, memory_mib=64, disk_gib=1))
        assert pools_of(machine) == {POOL}
        path = own.peer.root / "second.raw"
        path.write_bytes(b"\x01" * (1 << 20))
        second = FileImage(path=path, format=ImageFormat.RAW)
        for start in (False, True):
            if start:
                driver.power_on(machine.uuid)
            driver.rebuild(machine.uuid, second)
            assert pools_of(machine) == {POOL}
            image = machine.info.image
            assert image not in {None, first}
            assert len(files_of(own, machine.uuid)) == 1
        for pool in (OWN, POOL):
            driver.migrate_storage(machine.uuid, pool)
            assert machine.info.image == image
        driver.rescue(machine.uuid)
        assert machine.state is S.RESCUED
        driver.unrescue(machine.uuid)
        driver.snapshot_to_image(machine.uuid, tmp_path / "out.qcow2")
        with pytest.raises(errors.DeviceBusy):
            driver.evict_image(str(image))
        driver.destroy(machine.uuid, keep=frozenset({Keep.ROOT_DISK}))
        (kept,) = (each for each in driver.list_volumes() if str(machine.uuid) in each.volume_id)
        driver.delete_volume(kept.volume_id)


@ON_AND_OFF
def test_is_nobody_elses_under_another_name(own: Host, start: bool) -> None:
    """A symlink in a pool to a disk that has moved gives no other instance that disk."""
    with own.unchanged(), own.empty_machine(start=start) as machine, own.empty_machine() as other:
        own.driver.migrate_storage(machine.uuid, POOL)
        path = places(machine)["root"]
        link = own.peer.path(f"{own.peer.images}/innocent")
        link.symlink_to(Path(path).name)
        own.peer.virsh("pool-refresh", POOL)
        for volume in (
            local(f"{own.peer.images}/innocent", "a", format="qcow2"),
            local(path, "b", format="qcow2"),
        ):
            with pytest.raises((errors.InvalidRequest, errors.DeviceBusy)):
                other.attach(volume)
        link.unlink()
        own.peer.virsh("pool-refresh", POOL)


def test_another_host_is_no_way_from_there(own: Host, libvirt_peer: LibvirtPeer) -> None:
    from hvdrivers.models.migration import Destination

    there = Destination(host=libvirt_peer.uri)
    with own.unchanged(), own.made_empty() as machine:
        own.driver.migrate_storage(machine.uuid, POOL)
        with pytest.raises(errors.InvalidRequest, match="storage pool"):
            own.driver.prepare_move(machine.uuid)
        with pytest.raises(errors.InvalidRequest, match="storage pool"):
            own.driver.cold_migrate(machine.uuid, there)
        own.driver.migrate_storage(machine.uuid, OWN)


def test_a_pool_that_is_stopped_keeps_the_instance(own: Host) -> None:
    with own.unchanged():
        machine = own.made(own.empty(start=False))
        own.driver.migrate_storage(machine.uuid, POOL)
        own.peer.virsh("pool-destroy", POOL)
        try:
            for call in (
                lambda: own.driver.destroy(machine.uuid),
                lambda: own.driver.migrate_storage(machine.uuid, OWN),
                lambda: own.driver.rebuild(machine.uuid, own.empty().image),  # type: ignore[arg-type]
            ):
                with pytest.raises(errors.DeviceBusy) as caught:
                    call()
                assert "pool-start" in str(caught.value.hint)
            assert machine.state is S.STOPPED
        finally:
            own.peer.virsh("pool-start", POOL)
        own.driver.destroy(machine.uuid)


# ---- clients that die ----------------------------------------------------------------------------


@ON_AND_OFF
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("then", ["retry", "destroy", "back"])
@pytest.mark.usefixtures("impatient")
def test_killed_at_each_change(own: Host, start: bool, when: str, then: str) -> None:
    """One whole machine, each disk in one of both pools; the same call moves the rest, another one
    back, and destroy() finds everything."""
    step = 1 if WHOLE else 4
    with own.unchanged():
        for number in count(0, step):
            with written(own, start=start) as (machine, content):
                arguments = (machine.uuid, POOL)
                call = killed_in(
                    own.peer.uri, "migrate_storage", arguments, number, when, reads=False
                )
                assert sums(machine) == content
                if then == "destroy":
                    own.driver.destroy(machine.uuid)
                    assert not files_of(own, machine.uuid)
                else:
                    pool = POOL if then == "retry" else OWN
                    own.driver.migrate_storage(machine.uuid, pool)
                    assert pools_of(machine) == {pool}
                    is_whole(own, machine, content)
                if call is None:
                    return


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("keep", [frozenset(), frozenset({Keep.ROOT_DISK})], ids=["all", "kept"])
def test_killed_while_it_destroys(own: Host, when: str, keep: frozenset[Keep]) -> None:
    """A repeated destroy() finds what is in the other pool."""
    for number in count(0, 1 if WHOLE else 2):
        with own.unchanged():
            machine = own.made(own.empty(start=False, flavor=TWO_DISKS))
            write(machine, 7)
            own.driver.migrate_storage(machine.uuid, POOL)
            call = killed_in(
                own.peer.uri,
                "destroy",
                (machine.uuid,),
                number,
                when,
                reads=False,
                keywords={"keep": keep},
            )
            own.driver.destroy(machine.uuid, keep=keep)
            assert not files_of(own, machine.uuid) - {f"hv-volume-{machine.uuid}-root.qcow2"}
            for volume in own.driver.list_volumes():
                own.driver.delete_volume(volume.volume_id)
        if call is None:
            return


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.usefixtures("impatient")
def test_killed_while_it_rebuilds(own: Host, when: str) -> None:
    """A root disk that is made anew in the other pool is found by destroy(), however far it has
    come."""
    image = own.empty().image
    for number in count(0, 1 if WHOLE else 2):
        with own.unchanged():
            machine = own.made(own.empty(start=False))
            own.driver.migrate_storage(machine.uuid, POOL)
            arguments = (machine.uuid, image)
            call = killed_in(own.peer.uri, "rebuild", arguments, number, when, reads=False)
            own.driver.destroy(machine.uuid)
            assert not files_of(own, machine.uuid)
        if call is None:
            return


def test_others_files_over_a_moved_disk_go_with_it(own: Host) -> None:
    with own.unchanged():
        machine = own.made(own.empty())
        own.driver.migrate_storage(machine.uuid, POOL)
        options = ("--disk-only", "--no-metadata", "--diskspec")
        over = f"{own.peer.images}/over.qcow2"
        own.peer.virsh("snapshot-create-as", str(machine.uuid), *options, f"vda,file={over}")
        own.driver.destroy(machine.uuid)


@pytest.mark.usefixtures("impatient")
def test_a_dead_clients_copy_stops_nothing(own: Host) -> None:
    """The next turn at the disks ends it."""
    driver = own.driver
    with own.unchanged(), written(own, start=True) as (machine, content):
        begun = _die_while_it_copies(own, machine)
        made = driver.create_snapshot(machine.uuid, "one")
        driver.delete_snapshot(machine.uuid, made.id)
        driver.suspend(machine.uuid)
        driver.resume(machine.uuid)
        assert begun <= files_of(own, machine.uuid)
        driver.migrate_storage(machine.uuid, OWN)
        is_whole(own, machine, content)


@pytest.mark.usefixtures("impatient")
def test_suspended_after_a_dead_client(own: Host) -> None:
    """QEMU forgets the copies with the machine's end, and saved memory knows none."""
    with own.unchanged(), written(own, start=True) as (machine, content):
        _die_while_it_copies(own, machine)
        own.driver.suspend(machine.uuid)
        own.driver.resume(machine.uuid)
        own.driver.migrate_storage(machine.uuid, POOL)
        is_whole(own, machine, content)


@pytest.mark.usefixtures("impatient")
def test_off_and_on_after_a_dead_client(own: Host) -> None:
    with own.unchanged(), written(own, start=True) as (machine, content):
        _die_while_it_copies(own, machine)
        own.driver.power_off(machine.uuid)
        own.driver.power_on(machine.uuid)
        own.driver.migrate_storage(machine.uuid, POOL)
        is_whole(own, machine, content)


def _die_while_it_copies(own: Host, machine: Machine) -> set[str]:
    """The files that are there beside the machine's."""
    # a refresh, the turn, the note, and for each disk a file and its copy
    arguments = (machine.uuid, POOL)
    call = killed_in(own.peer.uri, "migrate_storage", arguments, 6, "after", reads=False)
    assert call == "Domain.blockCopy"
    assert len(machine.xml().findall("devices/disk/mirror")) == 2
    return files_of(own, machine.uuid) - {Path(path).name for path in places(machine).values()}


# ---- two clients ---------------------------------------------------------------------------------


@ON_AND_OFF
def test_two_at_once(own: Host, start: bool) -> None:
    with own.unchanged(), written(own, start=start) as (machine, content):
        for pools in ((POOL, POOL), (OWN, POOL), (OWN, OWN)):
            calls = [("migrate_storage", (machine.uuid, pool)) for pool in pools]
            assert race_to_do(own.peer.uri, calls) == ["done", "done"]
            assert pools_of(machine) <= set(pools)
            assert len(pools_of(machine)) == 1
        is_whole(own, machine, content)


Meeting = Callable[[ComputeDriver, UUID], object]


def _cut(driver: ComputeDriver, uuid: UUID) -> None:
    driver.power_off(uuid)


def _restart(driver: ComputeDriver, uuid: UUID) -> None:
    driver.power_off(uuid)
    driver.power_on(uuid)


def _start(driver: ComputeDriver, uuid: UUID) -> None:
    driver.power_on(uuid)


@pytest.mark.parametrize(
    ("start", "meet", "state"),
    [
        (True, _cut, S.STOPPED),
        (True, _restart, S.RUNNING),
        (False, _start, S.RUNNING),
    ],
    ids=["off", "restart", "on"],
)
def test_power_changes_at_each_call(
    own: Host, other: ComputeDriver, start: bool, meet: Meeting, state: S
) -> None:
    """Another client switches the machine at any moment: the move comes to its end all the same."""
    step = 1 if WHOLE else 11
    with own.unchanged():
        for number in count(0, step):
            with written(own, start=start) as (machine, content):

                def fault(_name: str, send: Any, uuid: UUID = machine.uuid) -> Any:
                    meet(other, uuid)
                    return send()

                with script(own.raw, number, fault) as seen:
                    own.driver.migrate_storage(machine.uuid, POOL)
                assert pools_of(machine) == {POOL}
                if seen.reached:
                    assert machine.state is state
                is_whole(own, machine, content)
                if not seen.reached:
                    return


def test_written_to_meanwhile(own: Host, other: ComputeDriver) -> None:
    """A machine that is off is started, writes, and is off again, between two calls: what it wrote
    is not lost."""
    with own.unchanged():
        for number in count(0, 1 if WHOLE else 4):
            with written(own, start=False) as (machine, _):

                def fault(_name: str, send: Any, machine: Machine = machine) -> Any:
                    if pools_of(machine) == {OWN}:
                        write(machine, 9, "64k")
                    return send()

                with script(own.raw, number, fault) as seen:
                    own.driver.migrate_storage(machine.uuid, POOL)
                assert pools_of(machine) == {POOL}
                found = places(machine)["root"]
                check = ["qemu-io", "-r", "-c", "read -v 0 16", alone(own, found)]
                shown = subprocess.run(check, check=True, capture_output=True, text=True).stdout
                wrote = "09 09" in shown
                if seen.reached and not wrote:
                    # it was written to after the definition had changed: nobody had the old file
                    assert seen.calls.index("Domain.updateDeviceFlags") < number
                if not seen.reached:
                    return


@ON_AND_OFF
def test_destroyed_at_each_call(own: Host, other: ComputeDriver, start: bool) -> None:
    step = 1 if WHOLE else 9
    with own.unchanged():
        for number in count(0, step):
            with written(own, start=start) as (machine, _):

                def fault(_name: str, send: Any, uuid: UUID = machine.uuid) -> Any:
                    other.destroy(uuid)
                    return send()

                with script(own.raw, number, fault) as seen, suppress(errors.InstanceNotFound):
                    own.driver.migrate_storage(machine.uuid, POOL)
                if not seen.reached:
                    return
                assert not files_of(own, machine.uuid)


@ON_AND_OFF
def test_budget(own: Host, start: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = own.raw
    # on one connection: a second one would look the pools up for itself, and tell of progress
    monkeypatch.setattr(driver.connection.links, "spare", lambda: None)
    text = " ".join((LibvirtDriver.migrate_storage.__doc__ or "").split())
    named = [int(each) for each in re.findall(r"\b\d+\b", text)]
    nothing, running, looks, off, _, further, *_ = named
    for flavor, disks in ((Flavor(vcpus=1, memory_mib=64), 1), (TWO_DISKS, 2)):
        with own.empty_machine(start=start, flavor=flavor) as machine:
            driver.get_available_resource()
            for pool in (POOL, OWN, POOL, POOL):
                there = pools_of(machine) == {pool}
                with driver.connection.counting() as calls:
                    driver.migrate_storage(machine.uuid, pool)
                made = sum(calls.values())
                if there:
                    assert made == nothing
                    continue
                made -= max(calls["Domain.blockJobInfo"] - disks, 0) * looks
                most = (running if start else off) + further * (disks - 1)
                assert most - 16 < made <= most


def test_budgets_of_what_lives_there(own: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = own.raw
    monkeypatch.setattr(driver.connection.links, "spare", lambda: None)
    image = own.empty().image
    made: dict[str, list[int]] = {"rebuild": [], "destroy": []}
    for pool in (OWN, POOL):
        for flavor in (Flavor(vcpus=1, memory_mib=64), TWO_DISKS):
            machine = own.made(own.empty(start=False, flavor=flavor))
            driver.migrate_storage(machine.uuid, pool)
            for name, arguments in (
                ("rebuild", (machine.uuid, image)),
                ("destroy", (machine.uuid,)),
            ):
                with driver.connection.counting() as calls:
                    getattr(driver, name)(*arguments)
                made[name].append(sum(calls.values()))
    assert made == {"rebuild": [26, 26, 26 + 8, 26 + 8], "destroy": [13, 14, 13 + 1, 14 + 2]}
    for name, more in (("rebuild", "8 where it is in"), ("destroy", "1 more for each disk that")):
        assert more in " ".join((getattr(LibvirtDriver, name).__doc__ or "").split())


def test_a_client_that_stands_still_is_no_danger(own: Host, impatient: None) -> None:
    """It has lost its turn, and changes nothing more."""
    with own.unchanged():
        for number in count(6, 1 if WHOLE else 9):
            with written(own, start=False) as (machine, content):
                still = Held(own.peer.uri, "migrate_storage", (machine.uuid, POOL), number)
                if still.name is not None:
                    own.driver.migrate_storage(machine.uuid, OWN)
                    own.driver.migrate_storage(machine.uuid, POOL)
                still.go_on()
                assert sums(machine) == content
                own.driver.migrate_storage(machine.uuid, OWN)
                is_whole(own, machine, content)
                if still.name is None:
                    return


@pytest.mark.parametrize("at", ["Domain.blockJobInfo", "Domain.blockJobAbort"])
def test_what_meets_a_copy(
    own: Host, other: ComputeDriver, at: str, impatient: None, tmp_path: Path
) -> None:
    """An image of a disk that is being copied is refused for the moment. A client that takes this
    one for dead ends its copy, and this one says why it has stopped."""
    with own.unchanged(), written(own, start=True) as (machine, content):
        met: list[str] = []

        def copies_out(_name: str, send: Any) -> Any:
            with pytest.raises(errors.DeviceBusy) as caught:
                other.snapshot_to_image(machine.uuid, tmp_path / "out.qcow2")
            met.append(caught.value.message)
            return send()

        with script(own.raw, at, copies_out):
            own.driver.migrate_storage(machine.uuid, POOL)
        assert ["migrate_storage" in each for each in met] == [True]
        is_whole(own, machine, content)

        def takes_over(_name: str, send: Any) -> Any:
            made = other.create_snapshot(machine.uuid, "one")
            other.delete_snapshot(machine.uuid, made.id)
            return send()

        with script(own.raw, at, takes_over), pytest.raises(errors.DeviceBusy, match="turn"):
            own.driver.migrate_storage(machine.uuid, OWN)
        assert pools_of(machine) == {POOL}
        own.driver.migrate_storage(machine.uuid, OWN)
        is_whole(own, machine, content)


# ---- faults --------------------------------------------------------------------------------------


@ON_AND_OFF
def test_an_error_at_each_call(own: Host, start: bool) -> None:
    """After a failure the disks are where they were, or all of them in the other pool."""
    with own.unchanged():
        for number in count(0, 1 if WHOLE else 7):
            with written(own, start=start) as (machine, content):

                def fault(_name: str, _send: Any) -> Any:
                    raise INTERNAL

                failed = None
                with script(own.raw, number, fault) as seen:
                    try:
                        own.driver.migrate_storage(machine.uuid, POOL)
                    except errors.HypervisorError as error:
                        failed = error
                assert sums(machine) == content
                assert len(pools_of(machine)) == 1 or isinstance(failed, errors.OutcomeUnknown)
                own.driver.migrate_storage(machine.uuid, POOL)
                assert pools_of(machine) == {POOL}
                is_whole(own, machine, content)
                if not seen.reached:
                    return


def test_no_time_left(own: Host) -> None:
    """A copy that does not come to its end in time ends, and the disks stay."""
    with own.unchanged(), written(own, start=True) as (machine, content):

        def slow(name: str, send: Any) -> Any:
            done = send()
            return done | {"cur": 0, "end": 1 << 20} if name == "Domain.blockJobInfo" else done

        at = places(machine)
        own.raw.connection.seam = slow
        try:
            with pytest.raises(errors.OperationTimeout):
                own.driver.migrate_storage(machine.uuid, POOL, timeout=3)
        finally:
            own.raw.connection.seam = None
        assert places(machine) == at
        is_whole(own, machine, content)


@ON_AND_OFF
def test_a_caller_that_gives_up(own: Host, start: bool) -> None:
    """What the caller's own function raises ends the move."""
    with own.unchanged(), written(own, start=start) as (machine, content):

        def enough(_: Progress) -> None:
            raise KeyboardInterrupt

        at = places(machine)
        with pytest.raises(KeyboardInterrupt):
            own.driver.migrate_storage(machine.uuid, POOL, progress=enough)
        assert places(machine) == at
        is_whole(own, machine, content)


def test_an_edited_note_deletes_nothing_of_others(own: Host) -> None:
    """The note is in metadata that any client of libvirt may write."""
    namespace = "https://hvdrivers.org/xmlns/libvirt/1/files"
    with own.made_empty() as machine, own.volume(pool=POOL) as volume:
        path = f"{own.peer.images}/hv-volume-{volume.volume_id}.qcow2"
        for content in (
            json.dumps({"files": [{"pool": POOL, "path": path}]}),
            json.dumps({"files": [{"pool": "no such", "path": f"/x/{machine.uuid}.root-1"}]}),
            json.dumps({"files": [{"pool": OWN, "path": places(machine)["root"]}]}),
            "{",
            "[]",
        ):
            connect = libvirt.open(own.peer.uri)
            connect.lookupByUUIDString(str(machine.uuid)).setMetadata(
                libvirt.VIR_DOMAIN_METADATA_ELEMENT,
                f"<instance>{content}</instance>",
                "hv",
                namespace,
                libvirt.VIR_DOMAIN_AFFECT_CONFIG,
            )
            connect.close()
            own.driver.migrate_storage(machine.uuid, OWN)
            own.driver.migrate_storage(machine.uuid, POOL)
            assert pools_of(machine) == {POOL}
            own.driver.migrate_storage(machine.uuid, OWN)
        own.driver.create_volume(VolumeSpec(name="still-there", size_bytes=1 << 20))
        own.driver.delete_volume("still-there")
        assert own.driver.get_volume(volume.volume_id)
