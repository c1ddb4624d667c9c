"""Want of room in another storage pool than the driver's own, which has enough of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from hvdrivers.contract import errors
from hvdrivers.models.instance import Flavor
from tests.integration.libvirt.machines import Host
from tests.integration.libvirt.test_relocation import small_pool

_GIB = 1 << 30


@contextmanager
def full(host: Host, pool: str) -> Iterator[None]:
    """The pool has no room in the block."""
    remote = host.raw.connection.remote.storagePoolLookupByName(pool)
    remote.refresh(0)
    size = int(remote.info()[3])
    host.peer.inside("sh", "-c", f"cat /dev/zero >/var/lib/libvirt/{pool}/fill", check=False)
    remote.refresh(0)
    assert size
    assert int(remote.info()[3]) == 0
    try:
        yield
    finally:
        host.peer.inside("rm", f"/var/lib/libvirt/{pool}/fill")
        remote.refresh(0)


def refused(pool: str, call: Callable[[], object]) -> None:
    with pytest.raises(errors.InsufficientResources, match=f"'{pool}'") as caught:
        call()
    assert caught.value.hint


@pytest.mark.parametrize("start", [True, False], ids=["on", "off"])
def test_disks_that_have_moved_there(own: Host, start: bool) -> None:
    with small_pool(own.peer, 4 << 20) as pool, own.made_empty() as machine:
        own.driver.migrate_storage(machine.uuid, pool)
        if start:
            own.driver.power_on(machine.uuid)
        with full(own, pool):
            refused(pool, lambda: own.driver.create_snapshot(machine.uuid, "one"))
            if start:
                refused(pool, lambda: own.driver.create_snapshot(machine.uuid, "two", memory=True))
            assert own.driver.list_snapshots(machine.uuid) == []
        own.driver.create_snapshot(machine.uuid, "three")


def test_a_root_disk_that_has_moved_there_grows(own: Host) -> None:
    with small_pool(own.peer, 4 << 20) as pool, own.made_empty() as machine:
        own.driver.migrate_storage(machine.uuid, pool)
        flavor = Flavor(vcpus=1, memory_mib=64, disk_gib=1000)
        with full(own, pool):
            refused(pool, lambda: own.driver.resize(machine.uuid, flavor))
        assert machine.info.flavor.disk_gib != 1000


@pytest.mark.parametrize("start", [True, False], ids=["on", "off"])
def test_a_volume_there_grows(own: Host, start: bool) -> None:
    with (
        small_pool(own.peer, 4 << 20) as pool,
        own.made_empty() as machine,
        own.volume(pool=pool) as volume,
    ):
        volume_id = volume.volume_id
        machine.attach(volume)
        if start:
            own.driver.power_on(machine.uuid)
        with full(own, pool):
            refused(pool, lambda: own.driver.extend_volume(machine.uuid, volume_id, 1000 * _GIB))
        assert own.driver.get_volume(volume_id).capacity_bytes == 8 << 20
        own.driver.extend_volume(machine.uuid, volume_id, 16 << 20)
        assert own.driver.get_volume(volume_id).capacity_bytes == 16 << 20
        own.driver.power_off(machine.uuid)  # it would not let go of the volume
        own.driver.detach_volume(machine.uuid, volume_id)


def test_a_root_disk_that_has_moved_there_is_made_anew(own: Host) -> None:
    with small_pool(own.peer, 4 << 20) as pool, own.made_empty() as machine:
        own.driver.migrate_storage(machine.uuid, pool)
        image = own.empty().image
        assert image is not None
        before = machine.xml(inactive=True).find("devices/disk/source")
        assert before is not None
        with full(own, pool):
            refused(pool, lambda: own.driver.rebuild(machine.uuid, image))
            after = machine.xml(inactive=True).find("devices/disk/source")
            assert after is not None
            assert after.attrib == before.attrib
        own.driver.rebuild(machine.uuid, image)
