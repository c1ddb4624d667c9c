"""What others have reported of shared memory, firmware variables, iSCSI and backups by other
programs over libvirt, tried with this driver. Each test names the report; the trackers are on
github.com."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import UUID

import pytest

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.guest import Share
from hvdrivers.models.instance import Firmware, Flavor
from hvdrivers.models.migration import BlockerKind
from hvdrivers.models.state import InstanceState
from tests.integration.libvirt.machines import Host, Machine
from tests.integration.libvirt.test_remote_volumes import iscsi, secrets
from tests.integration.libvirt.test_shares import directory
from tests.integration.libvirt.theirs import theirs
from tests.peers.fixtures import started
from tests.peers.libvirtd import LibvirtPeer
from tests.peers.tgt import IscsiServer

S = InstanceState


# ---- memory that is shared -----------------------------------------------------------------------


def _memory(peer: LibvirtPeer, uuid: UUID) -> list[bool]:
    """Of each piece of memory that QEMU has, whether it is shared."""
    said = peer.virsh("qemu-monitor-command", str(uuid), "--hmp", "info memdev")
    return [line.split()[-1] == "true" for line in said.splitlines() if "share:" in line]


def test_all_memory_of_a_machine_with_a_share_is_shared(host: Host) -> None:
    """vagrant-libvirt/vagrant-libvirt#1460 and #1806: "virtiofs requires shared memory", of a
    share that is plugged into a machine whose memory is not."""
    flavor = Flavor(vcpus=1, memory_mib=64, max_memory_mib=1024)
    with host.unchanged(), directory(host) as (path, _), host.empty_machine(flavor=flavor) as m:
        share = Share(tag="data", path=path)
        with pytest.raises(errors.InvalidState) as refused:
            host.driver.attach_share(m.uuid, share)
        assert "stopped" in (refused.value.hint or "")
        host.driver.power_off(m.uuid)
        host.driver.attach_share(m.uuid, share)
        host.driver.power_on(m.uuid)
        host.driver.hot_resize_memory(m.uuid, 192)
        assert _memory(host.peer, m.uuid) == [True, True]
        host.driver.power_off(m.uuid)
        host.driver.power_on(m.uuid)
        assert set(_memory(host.peer, m.uuid)) == {True}


@pytest.mark.parametrize("access", ["private", None])
def test_a_share_in_a_machine_with_cells(own: Host, access: str | None) -> None:
    """vagrant-libvirt/vagrant-libvirt#1049: the memory of each NUMA cell has an access mode of its
    own, which counts more than the machine's."""
    more = f" memAccess='{access}'" if access else ""
    cells = (
        "<cpu><numa><cell id='0' cpus='0-1' memory='64' unit='MiB'" + more + "/></numa></cpu>"
        "<features><acpi/></features>"
    )
    with theirs(own, more=cells) as machine, directory(own) as (path, _):
        own.driver.adopt(machine.uuid)
        own.driver.attach_share(machine.uuid, Share(tag="data", path=path))
        own.driver.power_on(machine.uuid)
        assert _memory(own.peer, machine.uuid) == [True]
        own.driver.power_off(machine.uuid)
        own.driver.detach_share(machine.uuid, "data")
        own.driver.power_on(machine.uuid)


# ---- firmware variables --------------------------------------------------------------------------


def test_what_changes_a_definition_keeps_the_firmwares_variables(host: Host) -> None:
    """dmacvicar/terraform-provider-libvirt#1270 and #1203: "cannot undefine domain with nvram", of
    a machine that is changed, and of one that is removed. To remove the variables with it would
    lose the boot entries and keys of one that has got more memory."""
    if (reason := host.driver.why_not(Capability.UEFI)) is not None:
        pytest.skip(f"precondition missing: {reason}")
    mark = b"a boot entry of the guest"
    driver = host.driver
    with host.unchanged(), host.volume() as volume, directory(host) as (path, _):
        with host.empty_machine(firmware=Firmware.UEFI) as machine:
            found = machine.xml().findtext("os/nvram")
            assert found
            driver.power_off(machine.uuid)
            store = host.peer.path(found)
            with store.open("r+b") as variables:
                variables.seek(-4096, 2)
                variables.write(mark)
            before = store.read_bytes()
            driver.rename(machine.uuid, "renamed")
            driver.set_metadata(machine.uuid, {"a": "b"})
            driver.resize(machine.uuid, Flavor(vcpus=2, memory_mib=96))
            driver.attach_share(machine.uuid, Share(tag="data", path=path))
            machine.attach(volume)
            driver.detach_share(machine.uuid, "data")
            driver.detach_volume(machine.uuid, volume.volume_id)
            assert store.read_bytes() == before
            driver.power_on(machine.uuid)
            assert machine.xml().findtext("os/nvram") == found
            assert mark in store.read_bytes()
            driver.power_off(machine.uuid)
        assert not store.exists()


# ---- backups by others ---------------------------------------------------------------------------


def _overlay(host: Host, machine: Machine, name: str) -> Path:
    """What a backup program puts over the first disk, without a word to libvirt's list."""
    path = f"{host.peer.images}/{name}"
    host.peer.virsh(
        *("snapshot-create-as", str(machine.uuid), "--disk-only", "--no-metadata", "--atomic"),
        *("--diskspec", f"vda,snapshot=external,file={path}"),
    )
    return host.peer.path(path)


def test_a_backup_program_that_died(libvirt_peer: LibvirtPeer, guest_image: Path) -> None:
    """twilligon/backup-vm#15 and #17: a file that such a program had put over a disk stayed, and
    the next one failed ("block name doesn't match expected"). While it is there nothing is done to
    the disk, and the machine runs on; once it is merged all goes on."""
    with (
        closing(Host(libvirt_peer, guest_image, host_root=libvirt_peer.host_root)) as host,
        host.unchanged(),
        host.empty_machine() as machine,
    ):
        driver, uuid = host.driver, machine.uuid
        ours = driver.create_snapshot(uuid, "ours")
        file = _overlay(host, machine, f"tempsnap {uuid.hex[:8]}")
        for refused in (
            lambda: driver.create_snapshot(uuid, "more"),
            lambda: driver.revert_snapshot(uuid, ours.id),
            lambda: driver.begin_backup(uuid),
        ):
            with pytest.raises(errors.DeviceBusy) as told:
                refused()
            assert told.value.hint
        assert machine.state is S.RUNNING
        host.peer.virsh("blockcommit", str(uuid), "vda", "--active", "--shallow", "--pivot")
        file.unlink()
        host.peer.virsh("pool-refresh", "default")
        more = driver.create_snapshot(uuid, "more")
        driver.delete_snapshot(uuid, more.id)
        driver.delete_snapshot(uuid, ours.id)
        driver.end_backup(uuid, driver.begin_backup(uuid).id)


# ---- a volume of a server, and a migration -------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[IscsiServer]:
    with started(IscsiServer) as peer:
        yield peer


@pytest.fixture(scope="module")
def there_peer() -> Iterator[LibvirtPeer]:
    with started(LibvirtPeer) as peer:
        yield peer


def test_iscsi_around_a_migration(
    host: Host, there_peer: LibvirtPeer, server: IscsiServer, guest_image: Path
) -> None:
    """autotest/tp-libvirt#1089: volumes are plugged in and taken out before a migration and after
    it. One with a password does not move, and that is said before anything moves: the other host
    has not the password. bigstack-oss/cubecos#1269: after a migration CPUs that are plugged in
    are in QEMU and in nothing else."""
    there = Host(there_peer, guest_image)
    flavor = Flavor(vcpus=1, memory_mib=64, max_vcpus=4)
    machine, moved = host.made(host.empty(flavor=flavor)), None
    uuid, before = machine.uuid, secrets(there)
    try:
        host.driver.attach_volume(uuid, iscsi(server))
        (blocker,) = host.driver.check_live_migration(uuid, there.destination()).blockers
        assert (blocker.kind, blocker.device) == (BlockerKind.STORAGE, "san-1")
        with pytest.raises(errors.InvalidRequest, match="password"):
            host.driver.live_migrate(uuid, there.destination())
        assert machine.state is S.RUNNING
        host.driver.power_off(uuid)
        host.driver.detach_volume(uuid, "san-1")
        host.driver.power_on(uuid)
        host.driver.live_migrate(uuid, there.destination(), timeout=120)
        moved = Machine(there, uuid)
        there.driver.attach_volume(uuid, iscsi(server))
        there.driver.hot_resize_cpu(uuid, 3)
        assert moved.has("san-1") == (True, True)
        there.driver.power_off(uuid)
        there.driver.power_on(uuid)
        assert (moved.info.flavor.vcpus, moved.info.flavor.max_vcpus) == (3, 4)
        assert (secrets(host), len(secrets(there))) == (set(), len(before) + 1)
    finally:
        there.driver.destroy(uuid)
        host.driver.destroy(uuid)
        assert secrets(there) == before
        there.close()
