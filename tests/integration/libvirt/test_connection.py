"""Connections that cannot be made, break, fall silent, and come back."""

from __future__ import annotations

import gc
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import libvirt
import pytest

from hvdrivers.contract import errors
from hvdrivers.guard import TOLERANCE, guarded
from hvdrivers.libvirt import accelerator
from hvdrivers.libvirt.config import LibvirtConfig
from hvdrivers.libvirt.driver import LibvirtDriver
from hvdrivers.models.cloudinit import CloudInit
from hvdrivers.models.events import LifecycleEvent, LifecycleKind, ResyncEvent
from hvdrivers.models.image import FileImage, ImageFormat
from hvdrivers.models.state import InstanceState
from tests.integration.libvirt.conftest import SpecFactory, connect, residue
from tests.integration.libvirt.faults import cut, script, vendor_error
from tests.peers.libvirtd import LibvirtPeer
from tests.peers.observer import VirshError
from tests.peers.waiting import wait_until


@pytest.fixture
def host(peer: LibvirtPeer) -> Iterator[LibvirtDriver]:
    made = connect(peer, connect_timeout=5)
    yield made
    made.close()


def test_no_socket(tmp_path: Path) -> None:
    with pytest.raises(errors.ConnectionFailed) as caught:
        LibvirtDriver.connect(
            LibvirtConfig(uri=f"qemu+unix:///system?socket={tmp_path}/none", virt_type="qemu")
        )
    assert type(caught.value) is errors.ConnectionFailed
    assert caught.value.retryable


def test_a_port_that_refuses() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound, and not listening
        with pytest.raises(errors.ConnectionFailed):
            LibvirtDriver.connect(
                LibvirtConfig(uri=f"qemu+tcp://127.0.0.1:{free.getsockname()[1]}/system")
            )


def test_an_unknown_name() -> None:
    with pytest.raises(errors.ConnectionFailed):
        LibvirtDriver.connect(LibvirtConfig(uri="qemu+tcp://no-such-host.invalid/system"))


def test_a_host_that_accepts_and_never_answers() -> None:
    """Nor do attempts pile up: each keeps a thread until the host says something."""
    before = set(threading.enumerate())
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        driver = LibvirtDriver(
            LibvirtConfig(
                uri=f"qemu+tcp://127.0.0.1:{silent.getsockname()[1]}/system",
                virt_type="qemu",
                connect_timeout=0.2,
            )
        )
        began = time.monotonic()
        for _ in range(8):
            with pytest.raises(errors.ConnectionFailed, match="did not answer"):
                driver.ping()
        assert time.monotonic() - began < 8 * 0.2 + 20
        assert len(set(threading.enumerate()) - before) <= 4 + 1  # and libvirt's event thread
        driver.close()
        # threads that wait for the same attempt share its end; one after the other needs 16 s
        driver = LibvirtDriver(driver.config.model_copy(update={"connect_timeout": 2.0}))
        began = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            waiting = [pool.submit(driver.ping) for _ in range(8)]
            assert all(isinstance(each.exception(), errors.ConnectionFailed) for each in waiting)
        assert time.monotonic() - began < 8 * 2.0
        driver.close()
        while True:  # the host hangs up, and the attempts end
            silent.settimeout(0.1)
            try:
                silent.accept()[0].close()
            except TimeoutError:
                break
    wait_until(
        lambda: not any("open" in each.name for each in threading.enumerate()),
        timeout=120,
        what="no attempt is left",
    )


def test_every_transport(peer: LibvirtPeer) -> None:
    uris = [peer.uri]
    if peer.privileged:
        uris.append(peer.tcp_uri)
    for uri in uris:
        with closing(LibvirtDriver.connect(LibvirtConfig(uri=uri, virt_type="qemu"))) as driver:
            assert driver.facts.host_uuid() == peer.host_uuid


def test_the_library_s_own_test_driver() -> None:
    """No keepalive, few events, no firmware: what is missing is refused and not guessed."""
    config = LibvirtConfig(uri="test:///default", virt_type="qemu")
    with closing(LibvirtDriver.connect(config)) as driver:
        assert driver.list_instances() == []
        assert len(driver.list_foreign()) == 1
        assert driver.host().product == "TEST"


def test_close_leaves_nothing(peer: LibvirtPeer) -> None:
    connect(peer).close()  # the event thread, once a process
    gc.collect()
    threads, files = set(threading.enumerate()), descriptors()
    driver = connect(peer)
    stream = driver.watch()
    assert isinstance(stream.next(timeout=60), ResyncEvent)
    cut(driver, peer)
    driver.list_instances()
    driver.close()
    driver.close()
    assert stream.closed
    with pytest.raises(errors.ConnectionFailed) as caught:
        driver.ping()
    assert not caught.value.retryable
    del driver, stream, caught
    gc.collect()
    wait_until(lambda: set(threading.enumerate()) <= threads, timeout=60, what="no thread is left")
    # libvirt's event thread closes what the first connection had, some time after close()
    wait_until(lambda: descriptors() <= files, timeout=60, what="no descriptor is left")


def test_a_driver_that_is_dropped_leaves_nothing(peer: LibvirtPeer) -> None:
    """Without close(): with its callbacks registered, and a stream that nobody has any more."""
    connect(peer).close()  # the event thread, once a process
    gc.collect()
    threads, files = set(threading.enumerate()), descriptors()
    driver = guarded(connect(peer))
    driver.watch().next(timeout=60)
    driver.list_instances()
    with pytest.warns(ResourceWarning, match="unclosed driver libvirt"):  # noqa: PT031
        del driver
        gc.collect()
    wait_until(lambda: set(threading.enumerate()) <= threads, timeout=120, what="no thread is left")
    wait_until(lambda: descriptors() <= files, timeout=120, what="no descriptor is left")


def descriptors() -> set[str]:
    """What is open, without numbers: by what it is."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the listing's own
            found.append(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
    return set(found)


def test_a_broken_connection_is_replaced_and_streams_resynchronise(
    host: LibvirtDriver, peer: LibvirtPeer, spec: SpecFactory
) -> None:
    with host.watch() as stream:
        assert isinstance(stream.next(timeout=60), ResyncEvent)
        made = spec()
        host.spawn(made)
        event = stream.next(timeout=60)
        assert isinstance(event, LifecycleEvent)
        assert event.kind is LifecycleKind.CREATED
        cut(host, peer)
        peer.virsh("undefine", str(made.uuid))  # nobody tells us
        event = stream.next(timeout=60)
        while isinstance(event, LifecycleEvent):
            event = stream.next(timeout=60)
        assert isinstance(event, ResyncEvent)
        assert made.uuid not in event.states
    host.destroy(made.uuid)


def test_a_connection_that_breaks_while_it_is_set_up_is_not_used(
    host: LibvirtDriver, peer: LibvirtPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its callbacks it would live, and miss every event."""
    host.hub.ensure()
    cut(host, peer)
    register = libvirt.virConnect.domainEventRegisterAny
    registered: list[int] = []

    def breaks(self: Any, domain: Any, event: int, callback: Any, opaque: Any) -> Any:
        if len(registered) == 3:
            registered.clear()
            monkeypatch.setattr(libvirt.virConnect, "domainEventRegisterAny", register)
            raise vendor_error(libvirt.VIR_ERR_RPC, "broken")
        registered.append(event)
        return register(self, domain, event, callback, opaque)

    monkeypatch.setattr(libvirt.virConnect, "domainEventRegisterAny", breaks)
    with pytest.raises(errors.ConnectionFailed), host.hub.listening():
        pass
    generation = host.hub.generation
    with host.watch() as stream:
        assert isinstance(stream.next(timeout=60), ResyncEvent)
    assert host.hub.generation == generation + 1


def test_a_stopped_pool_is_started_at_the_next_call(host: LibvirtDriver, peer: LibvirtPeer) -> None:
    host.list_cached_images()
    peer.virsh("pool-destroy", "hvdrivers")
    failed: list[errors.HypervisorFault] = []
    try:
        host.list_cached_images()  # a link that has not looked the pool up yet starts it at once
    except errors.HypervisorFault as error:
        failed.append(error)
    assert all(error.retryable for error in failed)
    host.list_cached_images()
    assert "running" in peer.virsh("pool-info", "hvdrivers")


def test_the_daemon_dies_during_an_upload(
    peer: LibvirtPeer, host: LibvirtDriver, spec: SpecFactory
) -> None:
    guest = spec(start=True)
    host.spawn(guest)
    pid = peer.qemu_pid(str(guest.uuid))
    before = residue(peer)
    path = peer.root / "big.raw"
    path.write_bytes(os.urandom(2_000_000))
    image = FileImage(path=path, format=ImageFormat.RAW)

    def kill(_name: str, send: Any) -> Any:
        result = send()
        peer.kill()
        return result

    with script(host, "Stream.send", kill), pytest.raises(errors.OutcomeUnknown):
        host.cache_image(image)
    peer.start()
    assert peer.qemu_pid(str(guest.uuid)) == pid
    assert host.get_instance(guest.uuid).state is InstanceState.RUNNING
    cached = host.cache_image(image)
    assert cached.size_bytes >= 2_000_000
    host.evict_image(cached.key)
    assert residue(peer) == before
    host.destroy(guest.uuid)


def test_the_daemon_dies_during_a_spawn(
    peer: LibvirtPeer, host: LibvirtDriver, spec: SpecFactory
) -> None:
    host.cache_image(spec().image)
    before = residue(peer)
    for call in ("StoragePool.createXML", "Connect.createXML", "Connect.defineXMLFlags"):
        made = spec(start=True, cloud_init=CloudInit(hostname="h"))

        def kill(_name: str, send: Any) -> Any:
            threading.Thread(target=peer.kill).start()
            return send()

        with script(host, call, kill) as seam, suppress(errors.HypervisorError):
            host.spawn(made)
        assert seam.reached
        wait_until(lambda: not peer._running("libvirtd"), timeout=120, what="dead")
        peer.start()
        host.destroy(made.uuid)
        left = residue(peer) - before
        assert not left, (call, left)


@pytest.fixture
def silence(peer: LibvirtPeer) -> Iterator[Callable[[], None]]:
    """Let the host fall silent; at the end it goes on."""
    yield peer.sigstop
    resume(peer)


def resume(peer: LibvirtPeer) -> None:
    """Let it go on. libvirtd 9.0 sometimes crashes of it (a segmentation fault while it frees the
    clients that have hung up meanwhile); the driver has to live with that too."""
    peer.sigcont()
    with suppress(VirshError):
        peer.virsh("version")
    peer.start()


def test_a_silent_host_costs_no_more_than_the_deadline(
    peer: LibvirtPeer, spec: SpecFactory, silence: Callable[[], None]
) -> None:
    raw = connect(peer, keepalive_interval=30)  # nobody but the guard
    driver = guarded(raw)
    made = spec()
    driver.spawn(made)
    silence()
    began = time.monotonic()
    with pytest.raises(errors.OperationTimeout):
        driver.list_instances(timeout=0.1)
    assert time.monotonic() - began < 0.1 + TOLERANCE + 20  # keepalive would need 30 and more
    resume(peer)
    assert [each.uuid for each in driver.list_instances()] == [made.uuid]
    driver.destroy(made.uuid)
    driver.close()


def test_keepalive_gives_a_silent_host_up(
    peer: LibvirtPeer, spec: SpecFactory, silence: Callable[[], None]
) -> None:
    raw = connect(peer, keepalive_interval=1, keepalive_count=2, connect_timeout=1)
    driver = guarded(raw)
    made = spec()
    driver.spawn(made)
    silence()
    with pytest.raises(errors.ConnectionFailed):  # a read
        driver.list_instances()
    began = time.monotonic()
    # a spare connection has gone silent too, or a new one cannot be made
    silent = "did not answer|keepalive timeout"
    with pytest.raises(errors.ConnectionFailed, match=silent):
        driver.set_metadata(made.uuid, {"a": "b"}, timeout=300)
    assert time.monotonic() - began < 200  # and not its own three hundred
    resume(peer)
    driver.set_metadata(made.uuid, {"a": "c"})

    def silent_now(_name: str, send: Any) -> Any:
        silence()
        return send()

    changing = script(raw, "Domain.setMetadata", silent_now)
    with changing, pytest.raises(errors.OutcomeUnknown):
        driver.set_metadata(made.uuid, {"a": "d"})
    resume(peer)
    assert driver.get_instance(made.uuid).metadata in ({"a": "c"}, {"a": "d"})
    driver.destroy(made.uuid)
    driver.close()


def test_an_error_that_the_client_library_has_lost(host: LibvirtDriver) -> None:
    """A read is made again; a change is not, and says what happened."""
    made: list[str] = []

    def lose() -> str:
        made.append("call")
        if len(made) < 3:
            libvirt.virResetLastError()
            raise libvirt.libvirtError("of nothing")
        return "read"

    connection = host.connection
    with connection.operation(60):
        link = connection.remote._link
        assert connection.call(link, "Connect.lookupByName", lose) == "read"
        assert len(made) == 3
        made.clear()
        with pytest.raises(errors.HypervisorFault) as fault:
            connection.call(link, "Domain.reset", lose)
        assert len(made) == 1
        assert fault.value.hint is not None
        assert "garbage collector" in fault.value.hint


class _Emulates:
    """A daemon, at which a machine for KVM is emulated: the trial needs no KVM then."""

    def __init__(self, remote: Any) -> None:
        self._remote = remote

    def createXML(self, document: str, flags: int) -> Any:
        return self._remote.createXML(document.replace('type="kvm"', 'type="qemu"'), flags)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._remote, name)


def test_a_trial_of_kvm_is_nobodys_machine(
    host: LibvirtDriver, peer: LibvirtPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No client takes it for an instance, for one whose spawn was cut, or for a machine of others.
    All trials write to one log of QEMU's. One beside another has a log of its own."""
    names: list[set[str]] = []

    def look(*_: object) -> bool:
        names.append({each.name() for each in host.connection.remote.listAllDomains(0)})
        with closing(connect(peer)) as other:
            other.complete_spawns()
            assert (list(other.list_instances()), list(other.list_foreign())) == ([], [])
            if len(names) == 1:
                assert trial()
        return True

    def trial() -> bool:
        return accelerator.kvm_works(emulates, "x86_64", "q35")

    monkeypatch.setattr(accelerator, "_speaks", look)
    emulates: Any = _Emulates(host.connection.remote)
    before = residue(peer)
    for _ in range(2):
        assert trial()
    assert residue(peer) == before
    assert [len(each) for each in names] == [1, 2, 1]
    assert names[0] == names[2]
    logs = {each.stem for each in peer.path("/var/log/libvirt/qemu").glob("hvdrivers-probe*")}
    assert logs == names[1]
