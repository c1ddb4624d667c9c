"""migrate_storage() of machines that others have made, and that adopt() has taken over."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from hvdrivers.contract import errors
from hvdrivers.guard import guarded
from hvdrivers.models.state import InstanceState
from tests.integration.libvirt.machines import Host
from tests.integration.libvirt.test_adopted_snapshots import value_in, write
from tests.integration.libvirt.test_budgets import calls, look_at_users, numbers
from tests.integration.libvirt.theirs import Theirs, at_each_cut, is_foreign, theirs

pytestmark = pytest.mark.usefixtures("impatient")

S = InstanceState
POOL = "hvdrivers"
"""The driver's own."""


def adopted(own: Host, machine: Theirs, *, on: bool) -> None:
    """Two disks, whose bytes are 1 and 2."""
    first, second = machine.volume(), machine.volume()
    odd = machine.disk(second, "sda").replace("bus='virtio'", "bus='sata'")
    machine.define(
        disks=[
            machine.disk(first).replace(
                "type='qcow2'", "type='qcow2' iothread='1' discard='unmap'"
            ),
            odd,
        ],
        more="<iothreads>1</iothreads><features><acpi/></features>",
    )
    for value, file in enumerate(machine.files[-2:], 1):
        write(file, value)
    if on:
        machine.start()
    own.driver.adopt(machine.uuid)


def now_at(machine: Theirs) -> list[Path]:
    return [
        machine.peer.path(each.attrib["file"])
        for each in machine.xml("--inactive").iterfind("devices/disk/source")
    ]


@pytest.mark.parametrize("on", [False, True], ids=["off", "on"])
def test_there_and_back(own: Host, on: bool) -> None:
    """It stays ours, and on; the old files go; what follows finds the new ones."""
    driver = own.driver
    with theirs(own, disks=[]) as machine:
        adopted(own, machine, on=on)
        uuid, old = machine.uuid, machine.files[-2:]
        mark, info = own.raw.identity.marks()[uuid], driver.get_instance(uuid)
        for pool in (POOL, "default", POOL):
            driver.migrate_storage(uuid, pool)
            assert driver.get_instance(uuid) == info
            assert not any(each.exists() for each in old)
            old = now_at(machine)
            assert len(old) == 2
            assert all(each.exists() for each in old)
        assert own.raw.identity.marks()[uuid] == mark
        made = driver.create_snapshot(uuid, "there")
        driver.delete_snapshot(uuid, made.id)
        if on:
            driver.power_off(uuid)
        assert [value_in(each) for each in now_at(machine)] == [1, 2]
        driver.power_on(uuid)
        driver.destroy(uuid)
        assert not any(each.exists() for each in old)


@pytest.mark.parametrize("on", [False, True], ids=["off", "on"])
def test_each_changing_call_is_lost(own: Host, on: bool) -> None:
    """The machine has every byte, another call brings it there, and destroy() leaves nothing."""
    driver, number = own.driver, count(1)

    def begin(machine: Theirs) -> Callable[[], object]:
        adopted(own, machine, on=on)
        return lambda: guarded(own.raw).migrate_storage(machine.uuid, POOL)

    def then(machine: Theirs, what: str) -> None:
        uuid, old = machine.uuid, machine.files[-2:]
        assert not is_foreign(driver, uuid), what
        assert all(each.exists() for each in now_at(machine)), what
        if next(number) % 2:
            driver.migrate_storage(uuid, POOL)
            assert not any(each.exists() for each in old), what
        with suppress(errors.InvalidState):
            driver.power_off(uuid)
        assert [value_in(each) for each in now_at(machine)] == [1, 2], what
        driver.destroy(uuid)
        own.peer.virsh("pool-refresh", POOL)

    at_each_cut(own, begin, then, least=16)


def test_disks_that_cannot_are_named(own: Host) -> None:
    driver = own.driver
    with theirs(own, disks=[]) as machine:
        path, raw = machine.volume(), machine.volume(format_="raw")
        machine.define(disks=[machine.disk(path), machine.disk(raw, "vdb", "raw")])
        driver.adopt(machine.uuid)
        with pytest.raises(errors.InvalidRequest, match="the disk vdb is not qcow2"):
            driver.migrate_storage(machine.uuid, POOL)
        assert [each.name for each in now_at(machine)] == [each.name for each in machine.files]
    with theirs(own, disks=[]) as machine:
        name = Path(machine.volume()).name
        by_pool = (
            "<disk type='volume' device='disk'><driver name='qemu' type='qcow2'/>"
            f"<source pool='default' volume='{name}'/><target dev='vda' bus='virtio'/></disk>"
        )
        machine.define(disks=[by_pool])
        write(machine.files[0], 9)
        machine.start()
        driver.adopt(machine.uuid)
        with pytest.raises(errors.InvalidRequest, match="the disk vda is named by its"):
            driver.migrate_storage(machine.uuid, POOL)
        driver.power_off(machine.uuid)
        driver.migrate_storage(machine.uuid, POOL)
        (now,) = now_at(machine)
        assert value_in(now) == 9
        assert not machine.files[0].exists()


def test_a_file_that_others_use_stays(own: Host) -> None:
    """Somebody has made an overlay over the disk since: that keeps its base."""
    driver = own.driver
    with theirs(own) as machine:
        driver.adopt(machine.uuid)
        base = machine.files[0]
        machine.overlay(f"{machine.peer.images}/{base.name}")
        driver.migrate_storage(machine.uuid, POOL)
        (now,) = now_at(machine)
        assert now != base
        assert base.exists()
        driver.destroy(machine.uuid)
        assert base.exists()
        assert not now.exists()


def test_the_calls_that_it_takes(own: Host) -> None:
    raw = own.raw
    with theirs(own) as machine:
        raw.adopt(machine.uuid)
        # the fewest of some: a connection that was idle for long is looked at first
        there = (calls(raw, lambda: raw.migrate_storage(machine.uuid, "default")) for _ in range(3))
        assert min(there) <= 9 + 1
        look = look_at_users(raw, volumes=1, machines=1)
        found = calls(raw, lambda: raw.migrate_storage(machine.uuid, POOL))
        assert found <= 35 + 5 + look
        assert {35, 5} <= set(numbers("migrate_storage"))
