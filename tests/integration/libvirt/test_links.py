"""Links: a connection may break, or hang, below any number of calls."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Any

import pytest

from hvdrivers.contract import errors
from hvdrivers.guard import TOLERANCE, guarded
from hvdrivers.libvirt.config import LibvirtConfig
from hvdrivers.libvirt.driver import LibvirtDriver
from hvdrivers.models.state import InstanceState
from tests.integration.libvirt.conftest import SpecFactory, connect
from tests.integration.libvirt.crashing import crash_free
from tests.integration.libvirt.faults import cut, script
from tests.peers.libvirtd import LibvirtPeer
from tests.peers.observer import VirshError
from tests.peers.proxy import LibvirtProxy
from tests.peers.waiting import wait_until


@pytest.fixture(autouse=True)
def running(peer: LibvirtPeer) -> None:
    """libvirtd 9.0 sometimes crashes when clients hang up in the middle of a call."""
    peer.start()


@pytest.fixture
def host(peer: LibvirtPeer) -> Iterator[LibvirtDriver]:
    made = connect(peer, connect_timeout=5)
    yield made
    made.close()


@pytest.fixture
def silence(peer: LibvirtPeer) -> Iterator[Callable[[], None]]:
    """Let the host fall silent; at the end it goes on, or is started anew: libvirtd 9.0 sometimes
    crashes when it finds that its clients have hung up."""
    yield peer.sigstop
    peer.sigcont()
    with suppress(VirshError):
        peer.virsh("version")
    peer.start()


def test_a_cut_under_eight_threads_kills_no_process(peer: LibvirtPeer) -> None:
    """A connection was closed while other threads were inside calls on it: 18 of 21 processes
    ended with a segmentation fault."""
    assert crash_free("cut", peer.uri, peer.daemon_pid, tries=8)


def test_a_look_at_a_connection_that_is_being_closed(peer: LibvirtPeer) -> None:
    """libvirt frees a connection under a thread that asks whether it lives: that thread hung for
    ever, or the heap was spoilt."""
    assert crash_free("closing", peer.uri, 200, tries=2)


def test_keepalive_gives_every_call_back(peer: LibvirtPeer, silence: Callable[[], None]) -> None:
    """Of two calls on one connection libvirt gave one back, and the other never."""
    host = connect(peer, keepalive_interval=1, keepalive_count=2, connect_timeout=1)
    with closing(host), ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: host.list_instances(), range(32)))
        reached = threading.Barrier(8)

        def together(_name: str, send: Any) -> Any:
            reached.wait(30)
            silence()
            return send()

        host.connection.seam = together
        calls = [pool.submit(host.ping) for _ in range(8)]
        for each in calls:
            assert isinstance(each.exception(60), errors.ConnectionFailed)
        host.connection.seam = None


def test_a_black_hole_keeps_no_caller(peer: LibvirtPeer) -> None:
    """Nothing gets through, and nobody is told: each caller is back by its own deadline, also those
    that have to connect first."""
    with LibvirtProxy(peer.socket, peer.root / "hole") as proxy:
        raw = LibvirtDriver.connect(
            LibvirtConfig(uri=proxy.uri(peer.uri), virt_type="qemu", keepalive_interval=60)
        )
        driver = guarded(raw)
        driver.list_instances()
        proxy.swallows = True

        def call(number: int) -> tuple[float, BaseException | None]:
            began = time.monotonic()
            error = None
            try:
                driver.list_instances(timeout=0.3 * number)
            except errors.HypervisorError as caught:
                error = caught
            return time.monotonic() - began, error

        with ThreadPoolExecutor(8) as pool:
            for took, error in pool.map(call, range(1, 9)):
                assert type(error) is errors.OperationTimeout
                assert took < 8 * 0.3 + 2 * TOLERANCE + 60  # keepalive would need minutes
        proxy.swallows = False
        proxy.cut()
        driver.list_instances()
        driver.close(timeout=1)


def test_each_caller_is_back_by_its_own_deadline(
    peer: LibvirtPeer, silence: Callable[[], None], spec: SpecFactory
) -> None:
    """On a host that has fallen silent, long before keepalive says so; and the instance is free."""
    raw = connect(peer, keepalive_interval=60)
    driver = guarded(raw)
    made = spec()
    driver.spawn(made)
    silence()
    deadlines = [0.2 * number for number in range(1, 9)]

    def call(number: int) -> tuple[float, BaseException | None]:
        began = time.monotonic()
        error: BaseException | None = None
        try:
            if number % 2:
                driver.list_instances(timeout=deadlines[number])
            else:
                driver.set_metadata(made.uuid, {"a": str(number)}, timeout=deadlines[number])
        except errors.HypervisorError as caught:
            error = caught
        return time.monotonic() - began, error

    with ThreadPoolExecutor(9) as pool:
        patient = pool.submit(driver.list_instances, timeout=600)
        for took, error in pool.map(call, range(8)):
            assert type(error) is errors.OperationTimeout, error
            assert took < deadlines[-1] + TOLERANCE + 20  # keepalive would need minutes
        assert not patient.done()  # nobody has waited for the one who has time
        assert len(driver._locks) == 0  # type: ignore[attr-defined]
        peer.sigcont()
        assert made.uuid in {each.uuid for each in patient.result(60)}
    driver.close(timeout=1)


def test_a_change_that_hangs_is_unknown_and_leaves_the_instance_free(
    peer: LibvirtPeer, silence: Callable[[], None], spec: SpecFactory
) -> None:
    raw = connect(peer, keepalive_interval=60)
    driver = guarded(raw)
    made = spec()
    driver.spawn(made)

    def silent_now(_name: str, send: Any) -> Any:
        silence()
        return send()

    with script(raw, "Domain.setMetadata", silent_now), pytest.raises(errors.OutcomeUnknown):
        driver.set_metadata(made.uuid, {"a": "b"}, timeout=1)
    assert len(driver._locks) == 0  # type: ignore[attr-defined]
    began = time.monotonic()
    with pytest.raises(errors.OperationTimeout) as caught:
        driver.power_off(made.uuid, timeout=1)
    assert time.monotonic() - began < 1 + TOLERANCE + 20  # keepalive would need minutes
    assert "nothing was sent" in str(caught.value) or "answer" in str(caught.value)
    assert len(driver._locks) == 0  # type: ignore[attr-defined]
    driver.close(timeout=1)


@pytest.mark.parametrize("with_guard", [True, False])
@pytest.mark.parametrize("name", ["Connect.lookupByUUIDString", "Domain.state", "Domain.XMLDesc"])
def test_a_look_at_one_machine_that_hangs_ends_with_its_deadline(
    peer: LibvirtPeer,
    silence: Callable[[], None],
    spec: SpecFactory,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    with_guard: bool,
) -> None:
    """Its calls are made in the guard's thread, or without a guard in the connection's own, which
    hangs at one of them. The caller does not, no call follows, and the connection is of use again
    when the host has answered."""
    raw = connect(peer, keepalive_interval=60)
    driver: Any = guarded(raw) if with_guard else raw
    if with_guard:
        monkeypatch.setattr(driver, "_tolerance", never)
    made = spec()
    with closing(raw):
        raw.spawn(made)
        sent: list[str] = []

        def silent_now(called: str, send: Any) -> Any:
            sent.append(called)
            if called == name:
                silence()
            return send()

        raw.connection.seam = silent_now
        with pytest.raises(errors.OperationTimeout, match=f"did not answer {name}"):
            driver.get_instance(made.uuid, timeout=1)
        raw.connection.seam = None
        (hung,) = [each for each in raw.connection.links.links if each.stuck]
        peer.sigcont()
        wait_until(lambda: not hung.stuck, timeout=60, what="the call comes back")
        assert sent[-1] == name
        assert hung.usable
        assert driver.get_instance(made.uuid).uuid == made.uuid
        raw.destroy(made.uuid)


def never() -> float:
    raise AssertionError("a read takes nothing back: nobody waits for it after its deadline")


def test_another_operation_within_a_look_at_one_machine(
    host: LibvirtDriver, spec: SpecFactory
) -> None:
    """Even one that has the context of the look: it does not wait for the thread that waits."""
    driver = guarded(host)
    made = spec()
    driver.spawn(made)
    states: list[InstanceState] = []

    def meanwhile(_name: str, send: Any) -> Any:
        if not states:
            states.append(driver.get_instance(made.uuid, timeout=30).state)
        return send()

    with script(host, "Domain.state", meanwhile):
        assert driver.get_instance(made.uuid, timeout=60).state is InstanceState.STOPPED
    assert states == [InstanceState.STOPPED]
    driver.destroy(made.uuid)


def test_a_machine_whose_monitor_hangs_delays_no_other_call(
    host: LibvirtDriver, peer: LibvirtPeer, spec: SpecFactory
) -> None:
    """The daemon works on five calls of a connection at a time, so five hung ones stopped it."""
    driver = guarded(host)
    made = spec(start=True)
    driver.spawn(made)
    pid = peer.qemu_pid(str(made.uuid))
    os.kill(pid, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(8) as pool:
            hung = [pool.submit(driver.pause, made.uuid, timeout=2)]
            hung += [pool.submit(driver.get_metrics, timeout=2) for _ in range(7)]
            with host.connection.counting() as calls:
                for _ in range(20):
                    assert made.uuid in {each.uuid for each in driver.list_instances(timeout=30)}
                    driver.ping(timeout=30)
            assert sum(calls.values()) >= 60
            for each in hung:
                each.exception(60)
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(
        lambda: (
            driver.get_instance(made.uuid).state in {InstanceState.RUNNING, InstanceState.PAUSED}
        ),
        timeout=60,
        what="the guest goes on",
    )
    driver.destroy(made.uuid)


def test_after_a_cut_the_next_operation_works_at_once(
    host: LibvirtDriver, peer: LibvirtPeer
) -> None:
    for _ in range(5):
        host.list_instances()
        cut(host, peer)
        with host.connection.counting() as calls:
            host.list_instances()
        # no pause, no second attempt: what it costs without the cut
        assert sum(calls.values()) == 2


def alive(driver: LibvirtDriver) -> bool:
    return any(each.alive for each in driver.connection.links.links)


def test_a_host_that_hung_up_once_is_asked_again(peer: LibvirtPeer) -> None:
    """The pause between two attempts is waited for: the next call got the last one's error, though
    the host was there again."""
    with LibvirtProxy(peer.socket, peer.root / "once") as proxy:
        config = LibvirtConfig(uri=proxy.uri(peer.uri), virt_type="qemu")
        with closing(LibvirtDriver.connect(config)) as driver:
            driver.ping()
            links = driver.connection.links
            for times in (1, 2):
                # a spare one that is still being opened would be the one that is hung up on
                wait_until(lambda: not links._attempts, timeout=60, what="no attempt is left")
                proxy.hangs_up = times
                proxy.cut()
                wait_until(lambda: not alive(driver), timeout=60, what="an end of all links")
                for _ in range(times):
                    with pytest.raises(errors.ConnectionFailed):
                        driver.ping()
                driver.ping()


def test_a_log_daemon_that_is_away_is_no_host_that_is_away(
    host: LibvirtDriver, peer: LibvirtPeer, spec: SpecFactory
) -> None:
    made = spec()
    host.spawn(made)
    peer.kill_virtlogd()
    try:
        with pytest.raises(errors.HypervisorFault) as caught:
            host.power_on(made.uuid)
    finally:
        peer.start()
    assert type(caught.value) is errors.HypervisorFault
    assert "ECONNREFUSED" in str(caught.value.vendor_code)
    host.power_on(made.uuid)
    host.destroy(made.uuid)


def test_links_are_few_when_nobody_needs_them(host: LibvirtDriver) -> None:
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda _: host.list_instances(), range(200)))
    host.list_instances()
    assert len(host.connection.links.links) <= 4 + 1  # and that of the events


def test_few_descriptors_end_in_an_error(peer: LibvirtPeer) -> None:
    """GLib ends the process where it gets none."""
    assert crash_free("descriptors", peer.uri, 64, tries=3)


def test_a_server_that_hangs_up_costs_few_descriptors() -> None:
    """Libvirt loses one in many attempts where its event loop is at work meanwhile."""
    assert crash_free("hang-up", "", 100, tries=1)


def test_a_forked_child_is_told(peer: LibvirtPeer) -> None:
    assert crash_free("fork", peer.uri, 0, tries=1)


def test_a_new_process_connects(peer: LibvirtPeer) -> None:
    with closing(LibvirtDriver.connect(LibvirtConfig(uri=peer.uri, virt_type="qemu"))) as driver:
        assert driver.host().product == "QEMU"


def test_the_link_of_the_events_is_none_that_comes_free(peer: LibvirtPeer) -> None:
    """The host takes no new connection, and only the link of the event hub is left: a call that
    waited for that one would wait until its deadline."""
    raw = connect(peer)
    driver = guarded(raw)
    away = peer.socket.with_name("away")
    with closing(driver.watch()):
        hub = raw.hub._link
        assert hub is not None
        for each in raw.connection.links.links:
            if each is not hub:
                each.connect.close()
        peer.socket.rename(away)
        try:
            with pytest.raises(errors.ConnectionFailed):
                driver.list_instances(timeout=5)
        finally:
            away.rename(peer.socket)
        assert hub.usable
        driver.list_instances()
    driver.close()
