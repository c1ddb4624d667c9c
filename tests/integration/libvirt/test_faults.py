"""Every remote call fails in turn: a defined error, nothing left behind, and a retry converges."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from hashlib import sha256
from itertools import count
from typing import Any
from uuid import uuid4

import pytest

from hvdrivers.contract import errors
from hvdrivers.libvirt.driver import LibvirtDriver
from hvdrivers.libvirt.naming import IMAGE_PREFIX
from hvdrivers.libvirt.pools import volume_xml
from hvdrivers.models.cloudinit import CloudInit
from hvdrivers.models.image import Checksum, FileImage, ImageFormat, content_cache_key
from hvdrivers.models.instance import Flavor, Keep
from hvdrivers.models.vif import BridgeVif
from hvdrivers.models.volume import VolumeAttachment, VolumeSpec
from tests.integration.libvirt.conftest import SpecFactory, connect, residue
from tests.integration.libvirt.faults import (
    INTERNAL,
    NO_PERMISSION,
    NO_SPACE,
    Fault,
    Script,
    after,
    answered,
    before,
    script,
    sees_the_end,
)
from tests.peers.bridge import LinuxBridge
from tests.peers.libvirtd import LibvirtPeer
from tests.peers.waiting import wait_until


@pytest.fixture
def host(peer: LibvirtPeer) -> Iterator[LibvirtDriver]:
    made = connect(peer, connect_timeout=5)
    made.host()  # what is read once a connection has been read
    yield made
    made.close()


@dataclass(frozen=True)
class Kind:
    """One way to fail, and what may come of it."""

    make: Callable[[LibvirtDriver, LibvirtPeer, int], Fault]
    errors: tuple[type[errors.HypervisorError], ...]


_ANSWERS = (NO_SPACE, NO_PERMISSION, INTERNAL)
KINDS = {
    # a read that is lost changed nothing: ConnectionFailed; a change: OutcomeUnknown
    # the call was not made; OutcomeUnknown where another had been, which stays
    "cut-before": Kind(
        lambda host, peer, _: before(host, peer), (errors.ConnectionFailed, errors.OutcomeUnknown)
    ),
    "reply-lost": Kind(
        lambda host, peer, _: after(host, peer), (errors.OutcomeUnknown, errors.ConnectionFailed)
    ),
    "refused": Kind(
        # the first call gets the first answer, and so on, in whatever order the tests run
        lambda _host, _peer, number: answered(_ANSWERS[number % len(_ANSWERS)]),
        # DeviceBusy: what could not be looked at may be in use
        (
            errors.InsufficientResources,
            errors.PermissionDenied,
            errors.HypervisorFault,
            errors.DeviceBusy,
        ),
    ),
}


def images_too(peer: LibvirtPeer) -> set[str]:
    """The residue with cached images, whole or half."""
    return {line for line in peer.residue() if not line.startswith("tap ")}


def small_image(peer: LibvirtPeer) -> FileImage:
    """A raw image of a few messages of a stream, of a known key from the start."""
    path = peer.root / "small.raw"
    content = b"\x55\xaa" * 400_000
    path.write_bytes(content)
    checksum = Checksum(algorithm="sha256", value=sha256(content).hexdigest())
    return FileImage(path=path, format=ImageFormat.RAW, checksum=checksum)


_READS = {"Domain.XMLDesc", "Connect.listAllSecrets"}
"""What a change of a definition is followed by."""
Attempt = tuple[str, errors.HypervisorError | None]


def attempts(
    host: LibvirtDriver,
    peer: LibvirtPeer,
    kind: str,
    operation: Callable[[], Any],
    prepare: Callable[[], Any] | None = None,
) -> Iterator[Attempt]:
    """Run the operation with the fault at its first remote call, its second, and so on, until it
    gets to its end; yields the name of the call and the error, which the kind must allow."""
    chosen = KINDS[kind]
    for number in count():
        if prepare is not None:
            prepare()
        raised: errors.HypervisorError | None = None
        with script(host, number, chosen.make(host, peer, number)) as seam:
            try:
                operation()
            except errors.HypervisorError as error:
                raised = error
        if not seam.reached:
            assert raised is None
            assert number > 0
            return
        name = seam.calls[number]
        if raised is None:
            assert kind != "cut-before", f"{name}: a cut went unnoticed"
        else:
            assert isinstance(raised, chosen.errors), (name, repr(raised))
        yield name, raised


@pytest.mark.parametrize("kind", KINDS)
def test_spawn_leaves_nothing(
    host: LibvirtDriver, peer: LibvirtPeer, linux_bridge: LinuxBridge, spec: SpecFactory, kind: str
) -> None:
    wanted: dict[str, Any] = {
        "cloud_init": CloudInit(hostname="faulty"),
        "vifs": (
            BridgeVif(id=str(uuid4()), address="52:54:00:00:00:01", bridge=linux_bridge.name),
        ),
    }
    host.cache_image(spec().image)
    before_all = residue(peer)
    made = spec(start=True, **wanted)
    for name, raised in attempts(host, peer, kind, lambda: host.spawn(made)):
        if raised is None and kind == "refused" and name == "StorageVol.XMLDesc":
            # one volume of a pool that cannot be read does not stop a look at all of them
            host.destroy(made.uuid)
            continue
        # a record of a cached image that cannot be read is no reason to make it anew
        assert raised is not None, name
        assert not hasattr(raised, "__notes__"), raised.__notes__
        left = residue(peer) - before_all
        assert not left, (name, left)
        # the same UUID again
        host.spawn(made.model_copy(update={"start": False}))
        assert host.get_instance(made.uuid).uuid == made.uuid
        host.destroy(made.uuid)
        left = residue(peer) - before_all
        assert not left, (name, left)
    host.destroy(made.uuid)
    assert residue(peer) == before_all


@pytest.mark.parametrize("kind", KINDS)
def test_destroy_converges(
    host: LibvirtDriver, peer: LibvirtPeer, spec: SpecFactory, kind: str
) -> None:
    host.cache_image(spec().image)
    before_all = residue(peer)
    made = spec(cloud_init=CloudInit(hostname="faulty"))
    for name, _ in attempts(
        host,
        peer,
        kind,
        lambda: host.destroy(made.uuid),
        prepare=lambda: host.spawn(made),
    ):
        with suppress(errors.InstanceNotFound):  # wholly there, or not at all
            host.get_instance(made.uuid)
        host.destroy(made.uuid)
        left = residue(peer) - before_all
        assert not left, (name, left)
    assert residue(peer) == before_all


def test_a_machine_that_stays_defined_keeps_its_secrets(
    host: LibvirtDriver, spec: SpecFactory
) -> None:
    """destroy() looks for them over a second connection, beside what it does with the machine."""
    made = spec()
    for _ in range(2):  # until there is one
        host.spawn(made)
        host.secrets.keep_note(made.uuid, "x")
        host.destroy(made.uuid)
        with pytest.raises(errors.HypervisorFault):
            host.secrets.note(made.uuid)
    host.spawn(made)
    host.secrets.keep_note(made.uuid, "x")

    def refused(_name: str, _send: Any) -> Any:
        raise errors.PermissionDenied("the host's rules", hint="ask whoever has made them")

    with script(host, "Domain.undefineFlags", refused), pytest.raises(errors.PermissionDenied):
        host.destroy(made.uuid)
    assert host.secrets.note(made.uuid) == "x"
    assert host.get_instance(made.uuid).uuid == made.uuid
    host.destroy(made.uuid)
    with pytest.raises(errors.HypervisorFault):
        host.secrets.note(made.uuid)


@pytest.mark.parametrize("kind", KINDS)
def test_a_root_disk_to_be_kept_is_never_lost(
    host: LibvirtDriver, peer: LibvirtPeer, spec: SpecFactory, kind: str
) -> None:
    """Whatever fails, the disk is there, or its complete copy; and an older copy stays."""
    keep = frozenset({Keep.ROOT_DISK})
    made = spec(image=small_image(peer))
    kept = f"{made.uuid}-root"
    before_all = residue(peer)

    def again() -> None:
        host.delete_volume(kept)
        host.spawn(made)

    def contents() -> bytes:
        (volume,) = [each for each in host.list_volumes() if each.volume_id == kept]
        raw = peer.root / "kept.raw"
        command = ["qemu-img", "convert", "-O", "raw", str(peer.path(str(volume.path)))]
        subprocess.run([*command, str(raw)], check=True)
        return raw.read_bytes()

    for name, _ in attempts(
        host, peer, kind, lambda: host.destroy(made.uuid, keep=keep), prepare=again
    ):
        host.destroy(made.uuid, keep=keep)
        assert contents().startswith((peer.root / "small.raw").read_bytes()), name
        left = {line for line in residue(peer) - before_all if kept not in line}
        assert not left, (name, left)
    host.spawn(made)
    with pytest.raises(errors.VolumeExists, match="has been kept"):
        host.destroy(made.uuid, keep=keep)
    assert host.get_instance(made.uuid).uuid == made.uuid
    host.destroy(made.uuid)
    host.delete_volume(kept)
    assert residue(peer) == before_all
    for image in host.list_cached_images():
        if image.format is ImageFormat.RAW:
            host.evict_image(image.key)


@pytest.mark.parametrize("kind", KINDS)
def test_half_an_image_is_never_cached(host: LibvirtDriver, peer: LibvirtPeer, kind: str) -> None:
    image = small_image(peer)
    before_all = images_too(peer)
    key = content_cache_key(image.format, image.checksum)
    done = False
    for name, raised in attempts(host, peer, kind, lambda: host.cache_image(image)):
        cached = key in {each.key for each in host.list_cached_images()}
        if cached:
            host.evict_image(key)
        # once it is loaded completely, only reads follow, and it may stay
        done = done or (cached and raised is not None)
        assert cached == (done or raised is None), (name, raised)
        left = images_too(peer) - before_all
        assert not left, (name, left)
        assert host.cache_image(image).key == key
        host.evict_image(key)
        assert images_too(peer) == before_all
    host.evict_image(key)


@pytest.mark.parametrize("kind", KINDS)
def test_evict_converges(host: LibvirtDriver, peer: LibvirtPeer, kind: str) -> None:
    image = small_image(peer)
    key = content_cache_key(image.format, image.checksum)
    before_all = images_too(peer)
    for name, _ in attempts(
        host,
        peer,
        kind,
        lambda: host.evict_image(key),
        prepare=lambda: host.cache_image(image),
    ):
        host.cache_image(image)  # whatever is left of it, it can be loaded
        host.evict_image(key)
        left = {line for line in images_too(peer) - before_all if f"{key} " in line}
        assert not left, (name, left)
        for volume in host.pools.disks().listAllVolumes(0):
            if volume.name().startswith(f"{IMAGE_PREFIX}{key}."):
                volume.delete(0)  # content without a record: kept for a day, in case it is new


@pytest.mark.parametrize("kind", KINDS)
def test_volumes_converge(
    host: LibvirtDriver, peer: LibvirtPeer, spec: SpecFactory, kind: str
) -> None:
    made = spec()
    host.spawn(made)
    before_all = residue(peer)
    for named in (VolumeSpec(name="data", size_bytes=1 << 20), VolumeSpec(size_gib=1)):
        for name, raised in attempts(
            host, peer, kind, lambda named=named: host.create_volume(named)
        ):
            assert raised is not None
            if named.name and type(raised) is errors.OutcomeUnknown:
                # not undone: if the name was taken, it would be somebody else's volume
                host.delete_volume("data")
            left = residue(peer) - before_all
            assert not left, (name, left)
        for each in host.list_volumes():
            host.delete_volume(each.volume_id)
    for name, _ in attempts(
        host,
        peer,
        kind,
        lambda: host.delete_volume("data"),
        prepare=lambda: host.create_volume(VolumeSpec(name="data", size_bytes=1 << 20)),
    ):
        host.delete_volume("data")
        left = residue(peer) - before_all
        assert not left, (name, left)
    host.destroy(made.uuid)


@pytest.mark.parametrize("kind", KINDS)
def test_cold_plug_converges(
    host: LibvirtDriver, peer: LibvirtPeer, linux_bridge: LinuxBridge, spec: SpecFactory, kind: str
) -> None:
    made = spec()
    host.spawn(made)
    plain = peer.virsh("dumpxml", str(made.uuid))
    volume = host.create_volume(VolumeSpec(name="cold", size_bytes=1 << 20))
    nic_id = str(uuid4())
    nic = BridgeVif(id=nic_id, address="52:54:00:00:00:03", bridge=linux_bridge.name)
    for plug, unplug in (
        (
            lambda: host.attach_volume(made.uuid, VolumeAttachment(volume=volume)),
            lambda: host.detach_volume(made.uuid, "cold"),
        ),
        (
            lambda: host.plug_vif(made.uuid, nic),
            lambda: host.unplug_vif(made.uuid, nic_id),
        ),
    ):
        for name, raised in attempts(host, peer, kind, plug):
            reading = name in _READS  # the daemon has plugged, and then fails to tell
            if raised is not None and type(raised) is not errors.OutcomeUnknown and not reading:
                assert peer.virsh("dumpxml", str(made.uuid)) == plain, (name, raised)
            plug()
            unplug()
            assert peer.virsh("dumpxml", str(made.uuid)) == plain, name
        for name, raised in attempts(host, peer, kind, unplug, prepare=plug):
            reading = name in _READS
            if raised is not None and type(raised) is not errors.OutcomeUnknown and not reading:
                assert peer.virsh("dumpxml", str(made.uuid)) != plain, (name, raised)
            unplug()
            assert peer.virsh("dumpxml", str(made.uuid)) == plain, name
    host.destroy(made.uuid)
    host.delete_volume("cold")


@pytest.mark.parametrize("kind", KINDS)
def test_hot_plug_converges(
    host: LibvirtDriver, peer: LibvirtPeer, linux_bridge: LinuxBridge, spec: SpecFactory, kind: str
) -> None:
    """A guest that runs and has not booted would keep its devices: only plugging is tried."""
    taps = linux_bridge.ports()
    made = spec(start=True)
    host.spawn(made)
    volume = host.create_volume(VolumeSpec(name="hot", size_bytes=1 << 20))
    nic = BridgeVif(id=str(uuid4()), address="52:54:00:00:00:02", bridge=linux_bridge.name)
    for what, plug in (
        ("volumes", lambda: host.attach_volume(made.uuid, VolumeAttachment(volume=volume))),
        ("vifs", lambda: host.plug_vif(made.uuid, nic)),
    ):
        there = 0
        for name, raised in attempts(host, peer, kind, plug):
            now = len(getattr(host.get_instance(made.uuid), what))
            if now > there and raised is not None and kind != "refused":
                assert type(raised) is errors.OutcomeUnknown, (name, raised)
            there = now
        assert there == 1
        assert plug() == plug()
    host.destroy(made.uuid)
    host.delete_volume("hot")
    wait_until(lambda: linux_bridge.ports() == taps, timeout=120, what="the tap is gone")


@pytest.fixture
def brief_spawns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A spawn does not wait a minute for a UUID that is taken; a short deadline of the call's own
    would pass on a busy machine before it has looked."""
    monkeypatch.setattr("hvdrivers.libvirt.claim._LONGEST", 2.0)


@pytest.mark.usefixtures("brief_spawns")
def test_undo_on_a_dead_host_says_what_is_left(
    host: LibvirtDriver, peer: LibvirtPeer, spec: SpecFactory
) -> None:
    host.cache_image(spec().image)
    before_all = residue(peer)
    made = spec()

    def dies(_name: str, send: Any) -> Any:
        links = host.connection.links.links
        peer.kill()
        sees_the_end(links)
        return send()

    def fails_and_dies(_name: str, _send: Any) -> Any:
        host.connection.seam = Script("Connect.lookupByUUIDString", dies)  # the first undo
        raise NO_SPACE

    for fault in (dies, fails_and_dies):
        with (
            script(host, "Connect.defineXMLFlags", fault),
            pytest.raises(errors.HypervisorError) as caught,
        ):
            host.spawn(made)
        peer.start()
        text = "".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
        assert "could not be removed" in text
        if fault is dies:
            # ConnectionFailed would promise that nothing has changed
            assert type(caught.value) is errors.OutcomeUnknown
        else:
            assert type(caught.value) is errors.InsufficientResources
        assert residue(peer) != before_all
        # there is no machine, so nobody says that there is one
        with pytest.raises(errors.InstanceNotFound):
            host.get_instance(made.uuid)
        with closing(connect(peer)) as other, pytest.raises(errors.DeviceBusy) as refused:
            other.spawn(made)
        assert "destroy()" in str(refused.value.hint)
        assert not refused.value.retryable
        # the driver that has left it knows what it is
        assert host.spawn(made).uuid == made.uuid
        host.destroy(made.uuid)
        assert residue(peer) == before_all


def test_a_full_pool(host: LibvirtDriver, peer: LibvirtPeer, spec: SpecFactory) -> None:
    """The daemon's helper fails for want of room, and its message has no code for that."""
    if not peer.privileged:
        pytest.skip("precondition missing: root, to mount a small file system")
    host.cache_image(spec().image)
    made = spec()
    host.spawn(made)
    before_all = residue(peer)
    folder = str(host.pools.disks().XMLDesc(0)).split("<path>")[1].partition("</path>")[0]
    with peer.small(folder, 65536):
        with pytest.raises(errors.InsufficientResources) as full:
            host.create_volume(VolumeSpec(name="full", size_bytes=1 << 20))
        assert full.value.hint
        assert {each.volume_id for each in host.list_volumes()} == set()
    peer.virsh("pool-refresh", host.pools.disks().name())  # its folder is another one again
    assert residue(peer) == before_all
    host.destroy(made.uuid)


@pytest.mark.usefixtures("brief_spawns")
def test_destroy_goes_on_behind_a_volume_that_stays(
    host: LibvirtDriver, peer: LibvirtPeer, spec: SpecFactory
) -> None:
    """It says what is left, and nobody can take the UUID until that has gone."""
    host.cache_image(spec().image)
    before_all = residue(peer)
    made = spec(
        cloud_init=CloudInit(hostname="h"),
        flavor=Flavor(vcpus=1, memory_mib=192, ephemeral_gib=1, swap_mib=64),
    )
    host.spawn(made)
    with script(host, "StorageVol.delete", answered(NO_PERMISSION)) as seam:
        with pytest.raises(errors.PermissionDenied) as caught:
            host.destroy(made.uuid)
        assert seam.reached
        assert seam.calls.count("StorageVol.delete") == 4
    left = residue(peer) - before_all
    assert len([line for line in left if "volume" in line]) == 2, left  # it, and the claim
    assert f"{made.uuid}.root" in str(caught.value)
    with closing(connect(peer)) as other, pytest.raises(errors.DeviceBusy):
        other.spawn(made)
    host.destroy(made.uuid)
    assert residue(peer) == before_all


def test_an_upload_that_runs_is_nobodys_remains(
    host: LibvirtDriver, peer: LibvirtPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client whose clock is two days ahead uploads at the same time: ages are the host's."""
    image = small_image(peer)
    key = content_cache_key(image.format, image.checksum)
    other_path = peer.root / "other.raw"
    other_path.write_bytes(b"\x55\xaa" * 300_000)

    def meanwhile(_name: str, send: Any) -> Any:
        now = time.time
        with closing(connect(peer)) as other, monkeypatch.context() as ahead:
            ahead.setattr(time, "time", lambda: now() + 2 * 24 * 3600)
            second = other.cache_image(FileImage(path=other_path, format=ImageFormat.RAW))
            other.evict_image(second.key)
        return send()

    with script(host, "Stream.finish", meanwhile) as seam:
        assert host.cache_image(image).key == key
    assert seam.reached
    host.evict_image(key)
    # and what is old by the host's clock is removed
    pool = host.pools.disks()
    name = f"{IMAGE_PREFIX}{key}.{'0' * 16}"
    pool.createXML(volume_xml(name, 1 << 20, "raw"), 0)
    path = peer.path(host.pools.disk_path(name))
    os.utime(path, (time.time() - 2 * 24 * 3600,) * 2)
    host.cache_image(image)
    assert not path.exists()
    host.evict_image(key)


@pytest.mark.parametrize("second", ["Connect.lookupByUUIDString", "Domain.destroyFlags"])
def test_a_machine_that_could_not_be_removed_keeps_its_disks(
    host: LibvirtDriver, peer: LibvirtPeer, spec: SpecFactory, second: str
) -> None:
    """The reply to the start is lost, and one more call in the undo."""
    host.cache_image(spec().image)
    before_all = residue(peer)
    made = spec(start=True, cloud_init=CloudInit(hostname="h"))

    def then_another(name: str, send: Any) -> Any:
        host.connection.seam = Script(second, before(host, peer))
        return after(host, peer)(name, send)

    with (
        script(host, "Connect.createXML", then_another),
        pytest.raises(errors.OutcomeUnknown),
    ):
        host.spawn(made)
    assert peer.qemu_pid(str(made.uuid))
    disks = [line for line in residue(peer) - before_all if f"{made.uuid}.root" in line]
    assert disks, "the disk of a machine that runs has been deleted"
    host.destroy(made.uuid)
    assert residue(peer) == before_all
