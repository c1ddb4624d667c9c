"""Backups of machines that others have made, and that adopt() has taken over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from hvdrivers.contract import errors
from hvdrivers.guard import guarded
from hvdrivers.libvirt.backup_job import job_of
from hvdrivers.models.snapshot import Backup
from tests.integration.libvirt.machines import Host
from tests.integration.libvirt.test_adopted_snapshots import write
from tests.integration.libvirt.test_backup import content
from tests.integration.libvirt.test_budgets import calls, numbers
from tests.integration.libvirt.theirs import Theirs, cuts, theirs
from tests.peers.libvirtd import LibvirtPeer

pytestmark = pytest.mark.usefixtures("impatient")

_CHANNEL = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"


@pytest.fixture(scope="module")
def host(libvirt_peer: LibvirtPeer, guest_image: Path) -> Iterator[Host]:
    made = Host(libvirt_peer, guest_image, host_root=libvirt_peer.host_root)
    yield made
    made.close()


def adopted(own: Host, machine: Theirs) -> None:
    """Two disks on two buses, whose bytes are 1 and 2, and a channel; it runs."""
    first, second = machine.volume(version="3"), machine.volume(version="3")
    machine.define(
        disks=[
            machine.disk(first),
            machine.disk(second, "sda").replace("virtio", "sata"),
        ],
        devices=_CHANNEL,
    )
    for value, each in enumerate(machine.files, 1):
        write(each, value)
    machine.start()
    own.driver.adopt(machine.uuid)


def test_whole_and_since_a_point(host: Host, tmp_path: Path) -> None:
    driver = host.driver
    with theirs(host, disks=[]) as machine:
        adopted(host, machine)
        mark = host.raw.identity.marks()[machine.uuid]
        full = driver.begin_backup(machine.uuid)
        assert set(full.disks) == {"root", "disk1"}
        for value, each in enumerate(("root", "disk1"), 1):
            read = content(full, each, tmp_path)
            assert len(read) == 8 << 20
            assert read[: 1 << 20] == bytes([value]) * (1 << 20)
        with pytest.raises(errors.DeviceBusy):
            driver.create_snapshot(machine.uuid, "meanwhile")
        driver.end_backup(machine.uuid, full.id)
        since = driver.begin_backup(machine.uuid, since=full.id)
        assert since.extents == ()
        driver.end_backup(machine.uuid)
        # points are in the disks, as others have made them: what goes back drops them
        snapshot = driver.create_snapshot(machine.uuid, "one")
        driver.revert_snapshot(machine.uuid, snapshot.id)
        driver.power_on(machine.uuid)
        with pytest.raises(errors.VolumeNotFound):
            driver.begin_backup(machine.uuid, since=since.id)
        assert host.raw.identity.marks()[machine.uuid] == mark
        driver.begin_backup(machine.uuid)  # open to the end
        driver.destroy(machine.uuid)
        assert not any(each.exists() for each in machine.files)


def test_disks_that_cannot_are_named(host: Host) -> None:
    driver = host.driver
    with theirs(host, devices=_CHANNEL) as machine:
        machine.start()
        driver.adopt(machine.uuid)
        with pytest.raises(errors.NotSupported, match="the disk vda is qcow2 of version 2") as old:
            driver.begin_backup(machine.uuid)
        assert "qemu-img amend" in (old.value.hint or "")
    with theirs(host, disks=[]) as machine:
        raw = machine.volume(format_="raw")
        machine.define(disks=[machine.disk(raw, format_="raw")], devices=_CHANNEL)
        machine.start()
        driver.adopt(machine.uuid)
        with pytest.raises(errors.InvalidRequest, match="the disk vda of"):
            driver.begin_backup(machine.uuid)
    with theirs(host, disks=[]) as machine:
        machine.define(disks=[machine.disk(machine.volume(version="3"))])
        machine.start()
        driver.adopt(machine.uuid)
        with pytest.raises(errors.NotSupported, match="no channel") as without:
            driver.begin_backup(machine.uuid)
        assert "attach-device" in (without.value.hint or "")
        assert job_of(host.raw.domains.find(machine.uuid)) is None


def test_each_changing_call_is_lost(host: Host) -> None:
    """Another client closes what there is of it, and makes the next."""
    raw, driver, lost = host.raw, host.driver, 0
    with theirs(host, disks=[]) as machine:
        adopted(host, machine)
        uuid = machine.uuid
        point = driver.begin_backup(uuid).id
        driver.end_backup(uuid)
        mark = raw.identity.marks()[uuid]

        def begin() -> Callable[[], object]:
            return lambda: guarded(raw).begin_backup(uuid, since=point)

        for what in cuts(raw, begin):
            lost += 1
            driver.end_backup(uuid)
            driver.begin_backup(uuid, since=point)
            driver.end_backup(uuid)
            point = driver.begin_backup(uuid).id
            driver.end_backup(uuid)
            assert not raw.domains.find(uuid).listAllCheckpoints(0), what
            assert raw.identity.marks()[uuid] == mark
            assert "hv-snapshot" not in host.peer.virsh("list", "--all", "--name"), what
            scratch = host.peer.path(raw.pools.disk_path("")).glob(f"{uuid}*")
            assert not list(scratch), what
        assert lost >= 8
        with suppress(errors.HypervisorError):
            driver.end_backup(uuid)


def test_the_calls_that_it_takes(host: Host) -> None:
    raw = host.raw
    with theirs(host, disks=[]) as machine:
        adopted(host, machine)
        made: list[Backup] = []
        assert calls(raw, lambda: made.append(raw.begin_backup(machine.uuid))) == 12 + 1
        assert calls(raw, lambda: raw.end_backup(machine.uuid)) - 7 in range(20)
        since = made[0].id
        assert calls(raw, lambda: raw.begin_backup(machine.uuid, since=since)) == 12 + 2 + 1
        assert {12, 2, 1} <= set(numbers("begin_backup"))
        assert 1 in numbers("end_backup")
