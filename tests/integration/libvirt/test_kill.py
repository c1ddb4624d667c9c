"""The process dies at every remote call of spawn: another one sees a defined state, and destroy()
removes what is there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from uuid import uuid4

import pytest

from hvdrivers.contract import errors
from hvdrivers.libvirt.driver import LibvirtDriver
from hvdrivers.libvirt.naming import IMAGE_PREFIX, console_name
from hvdrivers.libvirt.remote import changes_nothing
from hvdrivers.models.cloudinit import CloudInit
from hvdrivers.models.events import LifecycleEvent, LifecycleKind, ResyncEvent
from hvdrivers.models.image import CachedImage, FileImage, ImageFormat
from hvdrivers.models.instance import Firmware, InstanceSpec
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import BridgeVif
from hvdrivers.models.volume import VolumeAttachment, VolumeSpec
from tests.integration.libvirt.children import calls_of_spawn, driver_on, killed_at
from tests.integration.libvirt.conftest import SpecFactory, connect, residue
from tests.integration.libvirt.faults import script
from tests.peers.bridge import LinuxBridge
from tests.peers.libvirtd import LibvirtPeer
from tests.peers.waiting import wait_until


@pytest.fixture
def observer(peer: LibvirtPeer) -> Iterator[LibvirtDriver]:
    made = connect(peer)
    yield made
    made.close()


def seen_and_destroyed(observer: LibvirtDriver, spec: InstanceSpec) -> None:
    """What another process sees is an instance or none; then it is destroyed."""
    # in this order: the daemon may still define it, after the call of its dead client
    listed = spec.uuid in {each.uuid for each in observer.list_instances()}
    try:
        info = observer.get_instance(spec.uuid)
    except errors.InstanceNotFound:
        assert not listed
    else:
        # BUILDING: the daemon is still at the start that its client did not wait for
        assert info.state in set(InstanceState) - {InstanceState.CRASHED}
        assert info.name == spec.name

    def destroyed() -> bool:
        try:
            observer.destroy(spec.uuid)
        except errors.DeviceBusy:  # the daemon may still be at the call of its dead client
            return False
        return True

    wait_until(destroyed, timeout=120, what="the machine is destroyed")


def changes_in(calls: list[str]) -> list[int]:
    """Numbers of the calls that are no reads."""
    return [n for n, name in enumerate(calls) if not changes_nothing(name.partition(".")[2])]


def wanted(linux_bridge: LinuxBridge) -> dict[str, Any]:
    return {
        "cloud_init": CloudInit(hostname="killed"),
        # tap devices are named by the id, and other tests run on this machine
        "vifs": (
            BridgeVif(id=str(uuid4()), address="52:54:00:00:01:01", bridge=linux_bridge.name),
        ),
    }


# Between two remote calls nothing happens on the host: to die after one, or before the next, is the
# same for it. So each test takes one of the two, and the first the moment in between as well.
@pytest.mark.parametrize("when", ["after", "during"])
def test_killed_at_each_call_from_a_warm_cache(
    observer: LibvirtDriver,
    peer: LibvirtPeer,
    linux_bridge: LinuxBridge,
    spec: SpecFactory,
    when: str,
) -> None:
    observer.cache_image(spec().image)
    before, ports = residue(peer), linux_bridge.ports()
    made = spec(start=True, **wanted(linux_bridge))
    calls = calls_of_spawn(peer.uri, made)
    assert len(calls) > 12
    # in the middle of a call that only reads there is nothing to be seen
    chosen = range(len(calls)) if when == "after" else changes_in(calls)
    for number in chosen:
        assert killed_at(peer.uri, made, number, when) == calls[number]
        seen_and_destroyed(observer, made)
        left = residue(peer) - before
        assert not left, (calls[number], left)
    observer.spawn(made.model_copy(update={"start": False}))
    observer.destroy(made.uuid)
    assert residue(peer) == before
    assert linux_bridge.ports() == ports


def test_killed_at_each_call_of_the_first_spawn_on_a_host(
    linux_bridge: LinuxBridge, spec: SpecFactory
) -> None:
    """No pools, no image: the driver that comes after makes what is missing, whatever is there."""
    with LibvirtPeer() as peer:
        untouched = residue(peer)
        path = peer.root / "small.raw"
        path.write_bytes(b"\x55\xaa" * 300_000)
        image = FileImage(path=path, format=ImageFormat.RAW)
        made = spec(image=image, **wanted(linux_bridge))
        calls = calls_of_spawn(peer.uri, made)
        with closing(driver_on(peer.uri)) as first:
            for cached in first.list_cached_images():
                first.evict_image(cached.key)
        forget_pools(peer)
        assert len(calls) > 25
        partial: list[str] = []
        for number in changes_in(calls):
            name = killed_at(peer.uri, made, number, "after")
            assert name == calls[number]
            with closing(driver_on(peer.uri)) as next_process:
                for cached in next_process.list_cached_images():
                    if cached.partial:
                        partial.append(name)
                        evicted_when_quiet(peer, next_process, cached)
                    else:
                        assert cached.size_bytes >= path.stat().st_size, name
                seen_and_destroyed(next_process, made)
                left = {line for line in residue(peer) - untouched if "pool" not in line}
                assert not left, (number, name, left)
                # and it works: from whatever is there
                next_process.spawn(made)
                next_process.destroy(made.uuid)
                for cached in next_process.list_cached_images():
                    next_process.evict_image(cached.key)
            forget_pools(peer)
        assert "StorageVol.upload" in partial


def evicted_when_quiet(peer: LibvirtPeer, driver: LibvirtDriver, upload: CachedImage) -> None:
    """What an upload has left whose client died: it may be alive, until it is old by the host's
    clock."""
    with pytest.raises(errors.DeviceBusy) as caught:
        driver.evict_image(upload.key)
    assert caught.value.retryable
    path = peer.path(
        peer.virsh("vol-path", IMAGE_PREFIX + upload.key, "--pool", "hvdrivers").strip()
    )
    old = path.stat().st_mtime - 3_000
    os.utime(path, (old, old))
    driver.evict_image(upload.key)
    assert not path.exists()


def forget_pools(peer: LibvirtPeer) -> None:
    """Make the host new again, half uploads included."""
    for pool in ("hvdrivers", "hvdrivers-consoles"):
        for line in peer.virsh("vol-list", pool).splitlines():
            assert line.strip().startswith(IMAGE_PREFIX)
            peer.virsh("vol-delete", line.split()[0], "--pool", pool)
        peer.virsh("pool-destroy", pool)
        peer.virsh("pool-delete", pool)
        peer.virsh("pool-undefine", pool)


def test_killed_with_uefi(observer: LibvirtDriver, peer: LibvirtPeer, spec: SpecFactory) -> None:
    """The variable store appears when the machine starts, and goes with it."""
    observer.cache_image(spec().image)
    before = residue(peer)
    made = spec(start=True, firmware=Firmware.UEFI)
    stores = False
    for number in changes_in(calls_of_spawn(peer.uri, made))[-2:]:
        name = killed_at(peer.uri, made, number, "after")
        stores = stores or any("nvram" in line for line in residue(peer) - before)
        seen_and_destroyed(observer, made)
        left = residue(peer) - before
        assert not left, (name, left)
    assert stores


def test_killed_between_start_and_definition(
    observer: LibvirtDriver, peer: LibvirtPeer, spec: SpecFactory
) -> None:
    """The machine runs, and would be gone with its power: the next connection, or a second attempt
    over an old one, makes it an instance like any other."""
    observer.cache_image(spec().image)
    before = residue(peer)
    for attempt in (False, True):
        made = spec(start=True, firmware=Firmware.UEFI)
        number = calls_of_spawn(peer.uri, made).index("Connect.createXML")
        assert killed_at(peer.uri, made, number, "after") == "Connect.createXML"
        assert "Persistent:     no" in peer.virsh("dominfo", str(made.uuid))
        if attempt:
            with pytest.raises(errors.InstanceExists):
                observer.spawn(made)
        else:
            driver_on(peer.uri).close()
        assert observer.get_instance(made.uuid).state is InstanceState.RUNNING
        observer.power_off(made.uuid)
        assert observer.get_instance(made.uuid).state is InstanceState.STOPPED
        observer.power_on(made.uuid)
        observer.destroy(made.uuid)
        assert residue(peer) == before


@pytest.mark.parametrize(
    "touch", ["power_off", "set_metadata", "suspend", "attach_volume", "rebuild", "reboot"]
)
def test_who_touches_a_machine_without_a_definition_gives_it_one(
    observer: LibvirtDriver, peer: LibvirtPeer, spec: SpecFactory, touch: str
) -> None:
    """A client that was connected all the time."""
    observer.cache_image(spec().image)
    before = residue(peer)
    made = spec(start=True)
    number = calls_of_spawn(peer.uri, made).index("Connect.createXML")
    assert killed_at(peer.uri, made, number, "after") == "Connect.createXML"
    assert "Persistent:     no" in peer.virsh("dominfo", str(made.uuid))
    volume = observer.create_volume(VolumeSpec(name="v", size_bytes=1 << 20))
    {
        "power_off": lambda: observer.power_off(made.uuid),
        "set_metadata": lambda: observer.set_metadata(made.uuid, {"a": "b"}),
        "suspend": lambda: observer.suspend(made.uuid),
        "attach_volume": lambda: observer.attach_volume(made.uuid, VolumeAttachment(volume=volume)),
        "rebuild": lambda: observer.rebuild(made.uuid, spec().image),  # type: ignore[arg-type]
        "reboot": lambda: observer.reboot(made.uuid),
    }[touch]()
    assert "Persistent:     yes" in peer.virsh("dominfo", str(made.uuid))
    info = observer.get_instance(made.uuid)
    assert info.name == made.name
    assert info.metadata == ({"a": "b"} if touch == "set_metadata" else {})
    assert len(info.volumes) == (touch == "attach_volume")
    observer.destroy(made.uuid)
    observer.delete_volume("v")
    assert residue(peer) == before


def test_a_machine_without_a_definition_that_ends(
    observer: LibvirtDriver, peer: LibvirtPeer, spec: SpecFactory
) -> None:
    """Its guest switches it off, and nobody has touched it: for a stream that began after it had
    started, too, it is gone, and not stopped."""
    observer.cache_image(spec().image)
    before = residue(peer)
    made = spec(start=True)
    number = calls_of_spawn(peer.uri, made).index("Connect.createXML")
    assert killed_at(peer.uri, made, number, "after") == "Connect.createXML"
    stream = observer.watch()
    first = stream.next(60)
    assert isinstance(first, ResyncEvent)
    assert first.states[made.uuid] is InstanceState.RUNNING
    peer.virsh("destroy", str(made.uuid))
    event = stream.next(30)
    assert isinstance(event, LifecycleEvent)
    assert (event.kind, event.state) == (LifecycleKind.DESTROYED, None)
    stream.close()
    observer.destroy(made.uuid)
    assert residue(peer) == before


def test_a_machine_that_ends_before_it_is_defined(
    observer: LibvirtDriver, peer: LibvirtPeer, spec: SpecFactory
) -> None:
    """Somebody destroys it, or its guest powers off: spawn() has failed, and leaves nothing."""
    observer.cache_image(spec().image)
    before = residue(peer)
    made = spec(start=True, firmware=Firmware.UEFI)

    def ends(_name: str, send: Any) -> Any:
        peer.virsh("destroy", str(made.uuid))
        return send()

    with (
        script(observer, "Connect.defineXMLFlags", ends),
        pytest.raises(errors.HypervisorFault, match="ended"),
    ):
        observer.spawn(made)
    assert residue(peer) == before


def test_a_log_that_is_made_behind_destroy(
    observer: LibvirtDriver, peer: LibvirtPeer, spec: SpecFactory
) -> None:
    """The daemon, still at the start that its client died in, opens the console's log once more
    when destroy() has removed it, and fails for want of the disks."""
    observer.cache_image(spec().image)
    before = residue(peer)
    made = spec(start=True)
    number = calls_of_spawn(peer.uri, made).index("Connect.createXML")
    assert killed_at(peer.uri, made, number, "before") == "Connect.createXML"
    console = observer.pools.consoles().storageVolLookupByName(console_name(made.uuid))
    log = peer.path(str(console.path()))
    again: list[str] = []

    def seam(name: str, send: Any) -> Any:
        result = send()
        if not again and not log.exists():
            again.append(name)
            log.write_bytes(b"")
        return result

    observer.connection.seam = seam
    observer.destroy(made.uuid)
    assert again == ["StorageVol.delete"]
    assert residue(peer) == before
