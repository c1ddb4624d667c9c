"""What may happen between two backups: the increment is right, or the point is gone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hvdrivers.contract import errors
from hvdrivers.contract.power import RebootKind
from hvdrivers.libvirt.backup_job import job_of
from hvdrivers.models.image import ImageFormat
from hvdrivers.models.instance import Flavor
from hvdrivers.models.migration import BlockerKind
from hvdrivers.models.state import InstanceState
from tests.integration.libvirt.faults import script
from tests.integration.libvirt.machines import Host, Machine
from tests.integration.libvirt.test_backup import content, ended, restored
from tests.peers.fixtures import started
from tests.peers.libvirtd import LibvirtPeer
from tests.peers.waiting import wait_until

_number = itertools.count(1)


@pytest.fixture(scope="module")
def host(libvirt_peer: LibvirtPeer, guest_image: Path) -> Iterator[Host]:
    made = Host(libvirt_peer, guest_image, host_root=libvirt_peer.host_root)
    yield made
    made.close()


@pytest.fixture(scope="module")
def there(guest_image: Path) -> Iterator[Host]:
    with started(LibvirtPeer) as peer:
        made = Host(peer, guest_image, host_root=peer.host_root)
        yield made
        made.close()


def write(machine: Machine) -> None:
    """A write as a guest's: QEMU's own, through the disk's device."""
    number = next(_number)
    (device,) = [
        alias.get("name")
        for disk in machine.xml().iterfind("devices/disk[@device='disk']")
        if (alias := disk.find("alias")) is not None and "root" in (alias.get("name") or "")
    ]
    command = f"qemu-io -d /machine/peripheral/{device}/virtio-backend"
    machine.host.peer.virsh(
        "qemu-monitor-command",
        "--hmp",
        str(machine.uuid),
        f'{command} "write -P {number % 255} {number % 16 * 64}k 64k"',
    )


def _reset(machine: Machine, _there: Host, _folder: Path) -> Machine:
    machine.host.driver.reboot(machine.uuid, RebootKind.HARD)
    return machine


def _off_and_on(machine: Machine, there: Host, folder: Path) -> Machine:
    machine.host.driver.power_off(machine.uuid)
    machine.host.driver.power_on(machine.uuid)
    return machine


def _suspend(machine: Machine, there: Host, folder: Path) -> Machine:
    machine.host.driver.suspend(machine.uuid)
    machine.host.driver.resume(machine.uuid)
    return machine


def _grow(machine: Machine, there: Host, folder: Path) -> Machine:
    driver = machine.host.driver
    driver.power_off(machine.uuid)
    flavor = driver.get_instance(machine.uuid).flavor
    driver.resize(machine.uuid, flavor.model_copy(update={"disk_gib": 1}))
    driver.power_on(machine.uuid)
    return machine


def _snapshot(machine: Machine, there: Host, folder: Path) -> Machine:
    driver = machine.host.driver
    made = driver.create_snapshot(machine.uuid, "between", memory=False)
    write(machine)
    driver.delete_snapshot(machine.uuid, made.id)
    return machine


def _keep_snapshot(machine: Machine, there: Host, folder: Path) -> Machine:
    machine.host.driver.create_snapshot(machine.uuid, "kept", memory=True)
    return machine


def _revert(machine: Machine, there: Host, folder: Path) -> Machine:
    driver = machine.host.driver
    made = driver.create_snapshot(machine.uuid, "back", memory=True)
    write(machine)
    driver.revert_snapshot(machine.uuid, made.id)
    return machine


def _export(machine: Machine, there: Host, folder: Path) -> Machine:
    machine.host.driver.snapshot_to_image(machine.uuid, folder / "out.qcow2", ImageFormat.QCOW2)
    return machine


def _rebuild(machine: Machine, there: Host, folder: Path) -> Machine:
    driver = machine.host.driver
    driver.power_off(machine.uuid)
    driver.rebuild(machine.uuid, machine.host.empty().image)
    if machine.state is InstanceState.STOPPED:
        driver.power_on(machine.uuid)
    return machine


def _rescue(machine: Machine, there: Host, folder: Path) -> Machine:
    driver = machine.host.driver
    driver.rescue(machine.uuid, machine.host.empty().image)
    write(machine)
    driver.unrescue(machine.uuid)
    if machine.state is InstanceState.STOPPED:
        driver.power_on(machine.uuid)
    return machine


def _live(machine: Machine, there: Host, folder: Path) -> Machine:
    to = there.destination()
    machine.host.driver.live_migrate(machine.uuid, to)
    return Machine(there, machine.uuid)


def _cold(machine: Machine, there: Host, folder: Path) -> Machine:
    to = there.destination()
    machine.host.driver.power_off(machine.uuid)
    machine.host.driver.cold_migrate(machine.uuid, to)
    there.driver.power_on(machine.uuid)
    return Machine(there, machine.uuid)


_GONE = (_revert, _rebuild)
"""What a point does not outlive."""


@pytest.mark.parametrize(
    "happens",
    [
        _reset,
        _off_and_on,
        _suspend,
        _grow,
        _snapshot,
        _keep_snapshot,
        _revert,
        _export,
        _rebuild,
        _rescue,
        _live,
        _cold,
    ],
    ids=lambda each: each.__name__.strip("_"),
)
def test_between(
    host: Host, there: Host, tmp_path: Path, happens: Callable[[Machine, Host, Path], Machine]
) -> None:
    with host.unchanged(), host.empty_machine(flavor=Flavor(vcpus=1, memory_mib=64)) as machine:
        driver = host.driver
        full = driver.begin_backup(machine.uuid)
        before = content(full, "root", tmp_path)
        driver.end_backup(machine.uuid, full.id)
        now_at = happens(machine, there, tmp_path)
        driver = now_at.host.driver
        try:
            write(now_at)
            if happens in _GONE:
                with pytest.raises(errors.VolumeNotFound):
                    driver.begin_backup(machine.uuid, since=full.id)
                full = ended(now_at)
                write(now_at)
            increment = driver.begin_backup(machine.uuid, since=full.id)
            assert 0 < sum(each.length for each in increment.extents) < 1 << 20
            if happens not in _GONE:
                now = content(increment, "root", tmp_path)
                padded = before + bytes(len(now) - len(before))
                assert restored(padded, increment, now, "root") == now != before
            driver.end_backup(machine.uuid, increment.id)
        finally:
            there.driver.destroy(machine.uuid)


def _begun_by_others(machine: Machine) -> None:
    """Other software reads it."""
    socket = f"{machine.host.peer.images}/read-by-others"
    file = machine.host.peer.root / "others.xml"
    file.write_text(
        f"<domainbackup mode='pull'><server transport='unix' socket='{socket}'/></domainbackup>"
    )
    machine.host.peer.virsh("backup-begin", str(machine.uuid), str(file))


def _begun_by_us(machine: Machine) -> None:
    machine.host.driver.begin_backup(machine.uuid)


@pytest.mark.parametrize("begin", [_begun_by_us, _begun_by_others], ids=["ours", "theirs"])
def test_what_cannot_be_while_one_is_open_is_refused_at_once(
    host: Host, there: Host, tmp_path: Path, begin: Callable[[Machine], None]
) -> None:
    """Libvirt makes them wait for half a minute. So the call that would wait is not made."""
    driver, to = host.driver, there.destination()
    target = tmp_path / "copy.raw"
    with host.unchanged(), host.empty_machine() as machine:
        uuid = machine.uuid
        begin(machine)
        with script(host.raw) as seam:
            for act in (
                lambda: driver.suspend(uuid),
                lambda: driver.snapshot_to_image(uuid, target, ImageFormat.RAW),
            ):
                with pytest.raises(errors.DeviceBusy) as refused:
                    act()
                assert "end_backup()" in str(refused.value.hint)
                assert not refused.value.retryable
            (blocker,) = driver.check_live_migration(uuid, to).blockers
            assert blocker.kind is BlockerKind.STATE
            assert "end_backup()" in str(blocker.hint)
            with pytest.raises(errors.InvalidRequest, match="backup of the machine is open"):
                driver.live_migrate(uuid, to)
        waiting = {"Domain.managedSave", "Domain.backupBegin", "Domain.migrateToURI3"}
        assert not waiting & set(seam.calls)
        assert machine.state is InstanceState.RUNNING
        assert not target.exists()
        host.peer.virsh("domjobabort", str(uuid))
        wait_until(
            lambda: job_of(host.raw.domains.find(uuid)) is None, timeout=60, what="it has ended"
        )
        driver.suspend(uuid)
