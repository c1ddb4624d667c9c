"""Hosts that are reached over SSH, as ``docs/libvirt.md`` says: a real server on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from hvdrivers import connect
from hvdrivers.contract import errors
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.models.events import LifecycleEvent, ResyncEvent
from hvdrivers.models.image import FileImage, ImageFormat
from hvdrivers.models.instance import Flavor, InstanceSpec
from hvdrivers.models.state import InstanceState
from tests.peers.fixtures import started
from tests.peers.libvirtd import LibvirtPeer
from tests.peers.sshd import SshServer
from tests.peers.waiting import wait_until


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
