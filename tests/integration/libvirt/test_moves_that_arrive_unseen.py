"""Migrations whose end one of both hosts does not hear of.

The destination has the machine, and did not get to say so: libvirt's client lets the machine go on
at the source, too. Or the source is not told that it has arrived there: libvirt's client takes no
notice, and the source keeps the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from hvdrivers.contract import errors
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.guard import guarded
from hvdrivers.libvirt.driver import LibvirtDriver
from hvdrivers.models.migration import Destination
from hvdrivers.models.state import InstanceState
from tests.integration.libvirt.faults import script
from tests.integration.libvirt.machines import Host, Machine
from tests.integration.libvirt.test_cut_migrations import states
from tests.integration.libvirt.test_migration import without_pools
from tests.peers.fixtures import started
from tests.peers.libvirtd import LibvirtPeer
from tests.peers.proxy import LibvirtProxy

_FINISH = 306
"""REMOTE_PROC_DOMAIN_MIGRATE_FINISH3_PARAMS of libvirt's remote_protocol.x: the destination starts
the machine."""
_CONFIRM = 307
"""REMOTE_PROC_DOMAIN_MIGRATE_CONFIRM3_PARAMS: the source removes it."""


@pytest.fixture(scope="module")
def peers() -> Iterator[tuple[LibvirtPeer, LibvirtPeer]]:
    with ExitStack() as stack:
        made = [stack.enter_context(started(LibvirtPeer)) for _ in range(2)]
        yield made[0], made[1]


@pytest.fixture(params=["copied", "shared"])
def pair(
    request: pytest.FixtureRequest,
    peers: tuple[LibvirtPeer, LibvirtPeer],
    guest_image: Path,
    tmp_path: Path,
) -> Iterator[tuple[Host, Host]]:
    options: dict[str, Any] = {}
    if request.param == "shared":
        options = {"pool": "shared", "console_pool": "logs", "pool_path": tmp_path}
    with ExitStack() as stack:
        made = [Host(each, guest_image, **options) for each in peers]
        for each in made:
            if options:
                stack.callback(without_pools, each.peer, "shared", "logs")
            stack.callback(each.close)
        yield made[0], made[1]


@pytest.fixture
def proxy(peers: tuple[LibvirtPeer, LibvirtPeer]) -> Iterator[LibvirtProxy]:
    """Before the destination's daemon."""
    peer = peers[1]
    with LibvirtProxy(peer.socket, peer.root / "unseen") as made:
        yield made


@pytest.fixture
def is_copied(pair: tuple[Host, Host]) -> bool:
    return pair[0].raw.config.pool != "shared"


@pytest.fixture(params=[True, False], ids=["live", "cold"])
def machine(request: pytest.FixtureRequest, pair: tuple[Host, Host]) -> Iterator[Machine]:
    """A machine of the first host, wherever it is at the end. Both hosts are then as before."""
    here, there = pair
    residue = [each.residue() for each in pair]
    made = here.made(here.empty(start=request.param))
    try:
        yield made
        for each in pair:
            each.driver.destroy(made.uuid)
        for each, before in zip(pair, residue, strict=True):
            for pool in ("shared", "logs") if here.raw.config.pool == "shared" else ():
                each.peer.virsh("pool-refresh", pool)  # the other host has deleted files of it
            each.compare(before)
    finally:
        for each in (there, here):
            each.driver.destroy(made.uuid)


def migrate(pair: tuple[Host, Host], machine: Machine, proxy: LibvirtProxy) -> None:
    here, there = pair
    move(here.driver, machine, Destination(host=proxy.uri(there.peer.uri), address="127.0.0.1"))


def move(driver: ComputeDriver, machine: Machine, destination: Destination) -> None:
    stopped = machine.state is InstanceState.STOPPED
    (driver.cold_migrate if stopped else driver.live_migrate)(machine.uuid, destination)


def test_one_of_both_is_left(
    pair: tuple[Host, Host], is_copied: bool, machine: Machine, proxy: LibvirtProxy
) -> None:
    """A machine that stands still here has gone there. One that goes on here stays: QEMU holds it
    back only where both have the same disk."""
    was, lives = states(pair, machine)[0], machine.state is InstanceState.RUNNING
    proxy.loses = _FINISH
    if is_copied and lives:
        with pytest.raises(errors.ConnectionFailed, match="last answer was lost"):
            migrate(pair, machine, proxy)
        assert states(pair, machine) == [was, None]
        migrate(pair, machine, proxy)
    else:
        migrate(pair, machine, proxy)
    assert states(pair, machine) == [None, was]
    assert proxy.loses is None


def test_the_next_call_leaves_one_of_both(
    pair: tuple[Host, Host], machine: Machine, proxy: LibvirtProxy
) -> None:
    """The destination is away for longer than the first call can wait."""
    was, lives = states(pair, machine)[0], machine.state is InstanceState.RUNNING
    proxy.loses, proxy.hangs_up_then = _FINISH, 10_000
    with pytest.raises(errors.OutcomeUnknown, match="is not known") as caught:
        migrate(pair, machine, proxy)
    assert "leaves one of both" in (caught.value.hint or "")
    assert states(pair, machine)[1] == ("running" if lives else "paused")
    proxy.hangs_up = 0
    migrate(pair, machine, proxy)
    assert states(pair, machine) == [None, was]


@pytest.fixture
def source(pair: tuple[Host, Host]) -> Iterator[tuple[LibvirtProxy, ComputeDriver]]:
    """Before the daemon of the first host, and a client that comes that way."""
    here = pair[0]
    with LibvirtProxy(here.peer.socket, here.peer.root / "untold") as made:
        config = here.raw.config.model_copy(update={"uri": made.uri(here.peer.uri)})
        with closing(guarded(LibvirtDriver.connect(config))) as driver:
            yield made, driver


def test_the_source_is_not_told(
    pair: tuple[Host, Host], machine: Machine, source: tuple[LibvirtProxy, ComputeDriver]
) -> None:
    was, (proxy, driver) = states(pair, machine)[0], source
    proxy.loses_call = _CONFIRM
    move(driver, machine, pair[1].destination())
    assert proxy.loses_call is None
    assert states(pair, machine) == [None, was]


def test_the_source_is_not_told_and_away(
    pair: tuple[Host, Host], machine: Machine, source: tuple[LibvirtProxy, ComputeDriver]
) -> None:
    """It is not known what the source has: the next call leaves one. A machine that was off stands
    there with its CPUs frozen."""
    was, (proxy, driver) = states(pair, machine)[0], source
    proxy.loses_call, proxy.hangs_up_then = _CONFIRM, 10_000
    with pytest.raises(errors.OutcomeUnknown):
        move(driver, machine, pair[1].destination())
    assert states(pair, machine)[1] == was
    proxy.hangs_up = 0
    if was == "shut off":
        assert machine.state is InstanceState.PAUSED
        driver.power_off(machine.uuid)
    move(driver, machine, pair[1].destination())
    assert states(pair, machine) == [None, was]


def test_metadata_that_another_client_sets_before_it_begins(
    pair: tuple[Host, Host], machine: Machine
) -> None:
    """Between the driver's look at the definition and the beginning, from which on libvirt lets
    nobody change it."""
    here, there = pair
    was, meanwhile = states(pair, machine)[0], {"set": "meanwhile"}

    def sets(_name: str, send: Callable[[], Any]) -> Any:
        with closing(guarded(LibvirtDriver.connect(here.raw.config))) as other:
            other.set_metadata(machine.uuid, meanwhile)
        return send()

    with script(here.raw, "Domain.migrate3", sets) as seam:
        move(here.driver, machine, there.destination())
    assert seam.reached
    assert states(pair, machine) == [None, was]
    for _ in range(2):
        assert there.driver.get_instance(machine.uuid).metadata == meanwhile
        there.driver.power_off(machine.uuid)
        there.driver.power_on(machine.uuid)
