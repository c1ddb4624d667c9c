"""Live migrations that are cut at their end, between the standstill here and the start there: the
source's daemon is killed, or the client, or both daemons."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from hvdrivers.contract import errors
from hvdrivers.contract.power import RebootKind
from hvdrivers.models.migration import Destination
from hvdrivers.models.state import InstanceState
from tests.integration.libvirt.children import context, driver_on
from tests.integration.libvirt.machines import Host, Machine
from tests.integration.libvirt.test_migration import without_pools
from tests.peers.fixtures import started
from tests.peers.libvirtd import LibvirtPeer
from tests.peers.waiting import wait_until


@pytest.fixture(scope="module")
def pair(guest_image: Path) -> Iterator[tuple[Host, Host]]:
    with ExitStack() as stack:
        made = [Host(stack.enter_context(started(LibvirtPeer)), guest_image) for _ in range(2)]
        for each in made:
            stack.callback(each.close)
        yield made[0], made[1]


def _phase(peer: LibvirtPeer, name: str) -> str | None:
    """How far libvirt has come with the migration away from a host."""
    try:
        status = peer.path(f"/run/libvirt/qemu/{name}.xml").read_text()
    except FileNotFoundError:
        return None
    found = re.search(r"phase='(\w+)'", status)
    return found[1] if found else None


def _stands_still(pair: tuple[Host, Host], machine: Machine, ended: Callable[[], bool]) -> None:
    """Wait until the guest stands still here, with that daemon stopped."""
    here, there = pair
    name = here.peer.virsh("domname", str(machine.uuid)).strip()
    wait_until(
        lambda: _phase(here.peer, name) == "perform3" or ended(),
        timeout=60,
        what="it moves",
        interval=0.005,
    )
    there.peer.sigstop()
    wait_until(
        lambda: _phase(here.peer, name) == "perform3_done" or ended(),
        timeout=120,
        what="the guest stands still here",
    )


@contextmanager
def _at_its_end(pair: tuple[Host, Host], machine: Machine) -> Iterator[Future[None]]:
    """A migration whose guest stands still here, and is not started there: that daemon does not
    hear of it. The block ends that."""
    here, there = pair
    here.peer.virsh("migrate-setspeed", str(machine.uuid), "1")  # time to stop that daemon
    with ThreadPoolExecutor(1) as pool:
        moving = pool.submit(here.driver.live_migrate, machine.uuid, there.destination())
        try:
            _stands_still(pair, machine, moving.done)
            assert not moving.done(), moving.exception()
            yield moving
        finally:
            there.peer.sigcont()


def _cut_by_both(pair: tuple[Host, Host], machine: Machine) -> None:
    """The daemons of both die at the end of a migration, and start again."""
    here, there = pair
    with _at_its_end(pair, machine) as moving:
        here.peer.kill()
        there.peer.kill()
        there.peer.start()
    with pytest.raises(errors.HypervisorError):
        moving.result(timeout=120)
    here.peer.start()


@contextmanager
def _movable(pair: tuple[Host, Host]) -> Iterator[Machine]:
    """A machine of the first host for the length of the block, wherever it is at its end. Both
    hosts are then what they were before."""
    here, there = pair
    with here.unchanged(), there.unchanged(), here.empty_machine() as machine:
        try:
            yield machine
        finally:
            there.driver.destroy(machine.uuid)


def states(pair: tuple[Host, Host], machine: Machine) -> list[str | None]:
    """The machine's state on both hosts, as virsh has it."""
    found: list[str | None] = []
    for each in pair:
        listed = each.peer.virsh("list", "--all", "--uuid").split()
        there = str(machine.uuid) in listed
        found.append(each.peer.virsh("domstate", str(machine.uuid)).strip() if there else None)
    return found


def test_it_runs_there(pair: tuple[Host, Host]) -> None:
    """The source's daemon dies, and the client starts the machine there."""
    here, there = pair
    before = here.residue()
    with _movable(pair) as machine:
        with _at_its_end(pair, machine) as moving:
            here.peer.kill()
        with pytest.raises((errors.OutcomeUnknown, errors.ConnectionFailed)):
            moving.result(timeout=120)
        here.peer.start()
        assert states(pair, machine) == ["paused", "running"]
        assert machine.state is InstanceState.PAUSED
        refused = pytest.raises(errors.InvalidState, match="cut at its end")
        with refused as caught:
            here.driver.unpause(machine.uuid)
        assert "live_migrate()" in (caught.value.hint or "")
        with refused:
            here.driver.reboot(machine.uuid, kind=RebootKind.HARD)
        with refused:
            here.driver.rename(machine.uuid, "other")
        assert states(pair, machine) == ["paused", "running"]
        here.driver.live_migrate(machine.uuid, there.destination())
        assert states(pair, machine) == [None, "running"]
        here.compare(before)
        moved = Machine(there, machine.uuid)
        assert moved.state is InstanceState.RUNNING
        there.driver.live_migrate(machine.uuid, here.destination())  # it is like any other
        assert states(pair, machine) == ["running", None]


def test_it_does_not_run_there(pair: tuple[Host, Host]) -> None:
    """The daemons of both die, and the destination ends what nobody has started."""
    here, there = pair
    with _movable(pair) as machine:
        _cut_by_both(pair, machine)
        assert states(pair, machine) == ["paused", None]
        with pytest.raises(errors.InvalidState, match="cut at its end"):
            here.driver.unpause(machine.uuid)
        with pytest.raises(errors.HypervisorError):  # it is not known to be here either
            here.driver.live_migrate(machine.uuid, here.destination())
        assert states(pair, machine) == ["paused", None]
        there.driver.destroy(machine.uuid)  # the copies of its disks
        here.driver.live_migrate(machine.uuid, there.destination())
        assert states(pair, machine) == [None, "running"]


def test_the_caller_decides(pair: tuple[Host, Host]) -> None:
    """A destination that is gone for good keeps no machine: power_off() lets it be here."""
    here, _ = pair
    with _movable(pair) as machine:
        _cut_by_both(pair, machine)
        here.driver.power_off(machine.uuid)
        here.driver.power_on(machine.uuid)
        assert states(pair, machine) == ["running", None]


def _move_and_wait(uri: str, uuid: UUID, destination: Destination) -> None:
    driver_on(uri).live_migrate(uuid, destination)


def test_the_client_dies(pair: tuple[Host, Host]) -> None:
    """Both daemons live, and the source keeps the machine as it stands. The destination has got the
    client's last word, and starts the machine; or it has not, and ends what nobody has started."""
    here, there = pair
    with _movable(pair) as machine:
        here.peer.virsh("migrate-setspeed", str(machine.uuid), "1")
        arguments = here.peer.uri, machine.uuid, there.destination()
        child = context.Process(target=_move_and_wait, args=arguments)
        child.start()
        try:
            _stands_still(pair, machine, lambda: not child.is_alive())
            assert child.is_alive()
        finally:
            child.kill()
            child.join()
            there.peer.sigcont()
        wait_until(
            lambda: states(pair, machine) in (["paused", None], ["paused", "running"]),
            timeout=60,
            what="both have seen it",
        )
        with pytest.raises(errors.InvalidState, match="cut at its end"):
            here.driver.unpause(machine.uuid)
        if states(pair, machine)[1] is None:
            there.driver.destroy(machine.uuid)  # the copies of its disks
        here.driver.live_migrate(machine.uuid, there.destination())
        assert states(pair, machine) == [None, "running"]


def test_after_the_daemon_has_started_anew(pair: tuple[Host, Host]) -> None:
    """It takes the image below the disk for a part of the definition, and the image stays here."""
    here, there = pair
    with _movable(pair) as machine:
        here.peer.restart()
        here.driver.live_migrate(machine.uuid, there.destination())
        assert states(pair, machine) == [None, "running"]


def test_disks_of_both_hosts_outlive_it(
    pair: tuple[Host, Host], guest_image: Path, tmp_path: Path
) -> None:
    """destroy() at the source would take them away from the machine that runs there."""
    options: dict[str, Any] = {"pool": "shared", "console_pool": "logs", "pool_path": tmp_path}
    both = tuple(Host(each.peer, guest_image, **options) for each in pair)
    here, there = both
    machine = here.made(here.empty())
    try:
        with _at_its_end((here, there), machine) as moving:
            here.peer.kill()
        with pytest.raises((errors.OutcomeUnknown, errors.ConnectionFailed)):
            moving.result(timeout=120)
        here.peer.start()
        files = {each.name for each in tmp_path.rglob("*")}
        with pytest.raises(errors.DeviceBusy, match="with these disks"):
            here.driver.destroy(machine.uuid)
        here.driver.live_migrate(machine.uuid, there.destination())
        assert states((here, there), machine) == [None, "running"]
        assert {each.name for each in tmp_path.rglob("*")} == files
    finally:
        there.driver.destroy(machine.uuid)
        here.driver.destroy(machine.uuid)
        for each in both:
            each.close()
            without_pools(each.peer, "shared", "logs")
