"""Hosts that are reached over SSH, as ``docs/libvirt.md`` says: a real server on loopback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from hvdrivers import connect
from hvdrivers.contract import errors
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.guard import guarded
from hvdrivers.libvirt.config import LibvirtConfig
from hvdrivers.libvirt.conformance.seam import lose_the_reply
from hvdrivers.libvirt.driver import LibvirtDriver
from hvdrivers.models.events import LifecycleEvent, ResyncEvent
from hvdrivers.models.image import FileImage, ImageFormat
from hvdrivers.models.instance import Flavor, InstanceSpec
from hvdrivers.models.state import InstanceState
from tests.integration.libvirt.faults import Send, script, sees_the_end
from tests.integration.libvirt.machines import Host
from tests.peers.fixtures import started
from tests.peers.libvirtd import LibvirtPeer
from tests.peers.observer import VirshError
from tests.peers.sshd import SshServer
from tests.peers.waiting import wait_until

MOST_CALLS = 60
"""Of an operation that is cut at each of its calls: more than any makes."""


@pytest.fixture(scope="module")
def server(peer: LibvirtPeer) -> Iterator[SshServer]:
    with started(lambda: SshServer(peer)) as made:
        yield made


@pytest.fixture
def spec(tmp_path: Path) -> InstanceSpec:
    image = tmp_path / "empty.raw"
    image.write_bytes(bytes(1 << 20))
    return InstanceSpec(
        name="far",
        flavor=Flavor(vcpus=1, memory_mib=64),
        image=FileImage(path=image, format=ImageFormat.RAW),
    )


def test_a_machine_over_ssh(peer: LibvirtPeer, server: SshServer, spec: InstanceSpec) -> None:
    """Its disk is sent over the login, and its events come back over it."""
    with (
        connect(server.uri(), virt_type="qemu") as driver,
        closing(driver.watch()) as stream,
    ):
        assert isinstance(stream.next(30), ResyncEvent)
        driver.spawn(spec)
        assert str(spec.uuid) in peer.virsh("list", "--uuid")
        driver.power_off(spec.uuid)
        found = []
        while InstanceState.STOPPED not in found:
            event = stream.next(60)
            assert event is not None, found
            if isinstance(event, LifecycleEvent) and event.uuid == spec.uuid:
                found.append(event.state)
        target = Path(f"/tmp/{spec.uuid}.raw")
        try:
            driver.snapshot_to_image(spec.uuid, target, ImageFormat.RAW)
            assert target.read_bytes() == bytes(1 << 20)
        finally:
            target.unlink(missing_ok=True)
        driver.destroy(spec.uuid)
        assert driver.list_instances() == []


@pytest.mark.parametrize(("key", "known"), [("stranger", True), ("key", False)])
def test_who_is_not_let_in(server: SshServer, key: str, known: bool) -> None:
    """A key that the server does not know; a server whose key nobody knows."""
    with pytest.raises(errors.ConnectionFailed) as refused:
        connect(server.uri(key=key, known=known))
    assert "ssh" in (refused.value.hint or "")
    assert "known_hosts" in (refused.value.hint or "")
    # ssh's own words
    assert ("Permission denied" if known else "Host key verification failed") in str(refused.value)


def test_a_server_that_ends_and_comes_back(
    peer: LibvirtPeer, server: SshServer, spec: InstanceSpec
) -> None:
    """Each login goes with it: what is under way is a typed error, and the next call logs in."""
    with connect(server.uri(), virt_type="qemu") as driver:
        driver.spawn(spec)
        server.kill()
        with pytest.raises(errors.ConnectionFailed):
            driver.list_instances(timeout=20)
        server.start()
        _logs_in(driver, spec)
        assert driver.get_instance(spec.uuid).state is InstanceState.RUNNING
        driver.destroy(spec.uuid)
    assert str(spec.uuid) not in peer.virsh("list", "--all", "--uuid")


def _logs_in(driver: ComputeDriver, spec: InstanceSpec) -> None:
    """Wait until a call sees the only instance again."""

    def there() -> bool:
        try:
            return [each.uuid for each in driver.list_instances(timeout=20)] == [spec.uuid]
        except errors.ConnectionFailed:
            return False

    wait_until(there, timeout=60, what="the next call logs in")


def test_a_server_that_comes_back_with_another_key(
    peer: LibvirtPeer, server: SshServer, spec: InstanceSpec
) -> None:
    """Nobody is let in its place, until its new key is known: then the same connection goes on."""
    known = server.root / "ssh.known"
    with connect(server.uri(), virt_type="qemu") as driver:
        driver.spawn(spec)
        server.kill()
        server.change_key()
        server.start()
        for _ in range(2):
            with pytest.raises(errors.ConnectionFailed) as refused:
                driver.list_instances(timeout=20)
        assert "IDENTIFICATION HAS CHANGED" in str(refused.value)
        assert "known_hosts" in (refused.value.hint or "")
        assert str(spec.uuid) in peer.virsh("list", "--uuid")
        known.write_text(server.known())
        _logs_in(driver, spec)
        driver.destroy(spec.uuid)
    assert str(spec.uuid) not in peer.virsh("list", "--all", "--uuid")


@pytest.mark.parametrize("lost", [False, True], ids=["cut before", "reply lost"])
@pytest.mark.parametrize(
    "operation", ["destroy", "create_snapshot", "snapshot_to_image", "begin_backup"]
)
def test_cut_at_each_call(
    own: Host, server: SshServer, tmp_path: Path, operation: str, lost: bool
) -> None:
    """The login ends at the first call of an operation, at its second, and so on: a typed error
    each time, every look agrees, a repetition converges, and nothing is left."""
    config = LibvirtConfig(uri=server.uri(), virt_type="qemu", host_root=own.peer.host_root)
    far = LibvirtDriver.connect(config)
    far.host()
    target = tmp_path / "copy.raw"

    def fault(_name: str, send: Send) -> object:
        links = far.connection.links.links

        def cut() -> None:
            server.cut()
            sees_the_end(links)

        if lost:
            lose_the_reply(send, config, cut)
        cut()
        return send()

    with closing(guarded(far)) as driver, own.unchanged():
        spec = own.empty(start=operation != "snapshot_to_image")
        arguments = {
            "destroy": (spec.uuid,),
            "create_snapshot": (spec.uuid, "one"),
            "snapshot_to_image": (spec.uuid, target, ImageFormat.RAW),
            "begin_backup": (spec.uuid,),
        }[operation]
        failed = 0
        there = False
        for number in range(MOST_CALLS):
            if not there:
                own.driver.spawn(spec)
                there = True
            done = False
            with (
                script(far, number, fault) as seam,
                suppress(errors.ConnectionFailed, errors.OutcomeUnknown),
            ):
                getattr(driver, operation)(*arguments)
                done = True
            listed = [each.uuid for each in own.driver.list_instances()]
            for each in listed:
                own.driver.get_instance(each)
            if spec.uuid not in listed:
                with pytest.raises(errors.InstanceNotFound):
                    own.driver.get_instance(spec.uuid)
            failed += not done
            if not done:
                if operation == "begin_backup":
                    driver.end_backup(spec.uuid)
                assert not target.exists(), seam.calls[number]
                getattr(driver, operation)(*arguments)
            there = operation != "destroy"
            if operation == "create_snapshot":
                (one,) = driver.list_snapshots(spec.uuid)
                driver.delete_snapshot(spec.uuid, one.id)
            elif operation == "snapshot_to_image":
                assert target.read_bytes() == bytes(1 << 20)
                target.unlink()
            elif operation == "begin_backup":
                driver.end_backup(spec.uuid)
            if not seam.reached:
                break
        else:
            pytest.fail(f"{operation} makes {MOST_CALLS} calls or more: {seam.calls}")
        assert failed > 2
        driver.destroy(spec.uuid)


@pytest.mark.parametrize(
    ("operation", "call"),
    [
        ("begin_backup", "Domain.backupBegin"),
        ("end_backup", "Domain.abortJob"),
        ("create_snapshot", "Domain.monitor[snapshot-save]"),
    ],
)
def test_a_reply_that_is_lost(own: Host, server: SshServer, operation: str, call: str) -> None:
    """Of an increment, of the end of one, and of a snapshot with memory: the caller learns that it
    does not know, a repetition converges, and nothing is left."""
    config = LibvirtConfig(uri=server.uri(), virt_type="qemu", host_root=own.peer.host_root)
    far = LibvirtDriver.connect(config)
    far.host()

    def lost(_name: str, send: Send) -> object:
        def cut() -> None:
            server.cut()
            sees_the_end(far.connection.links.links)

        return lose_the_reply(send, config, cut)

    with closing(guarded(far)) as driver, own.unchanged(), own.empty_machine() as machine:
        uuid = machine.uuid
        since = driver.begin_backup(uuid).id
        if operation != "end_backup":
            driver.end_backup(uuid)
        act: Callable[[], object] = {
            "begin_backup": lambda: driver.begin_backup(uuid, since=since),
            "end_backup": lambda: driver.end_backup(uuid, since),
            "create_snapshot": lambda: driver.create_snapshot(uuid, "one", memory=True),
        }[operation]
        with script(far, call, lost) as seam, pytest.raises(errors.OutcomeUnknown):
            act()
        assert seam.reached
        assert own.driver.list_snapshots(uuid) == []
        with pytest.raises(VirshError):  # no backup is open
            own.peer.virsh("backup-dumpxml", str(uuid))
        act()
        driver.end_backup(uuid)
