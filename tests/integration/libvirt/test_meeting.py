"""Two clients that change one machine's size, disk or record: whatever meets, no change is lost,
and no machine comes back. And a rebuild that is interrupted, or whose machine cannot start."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Any

import pytest

from hvdrivers.contract import errors
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.guard import guarded
from hvdrivers.models.image import FileImage, ImageFormat
from hvdrivers.models.instance import Flavor
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import Volume, VolumeAttachment
from tests.integration.libvirt.conftest import connect
from tests.integration.libvirt.faults import after, before, script
from tests.integration.libvirt.machines import Host, Machine

S = InstanceState
SMALL = Flavor(vcpus=1, memory_mib=64)
LARGE = Flavor(vcpus=2, memory_mib=128)
GROWS = Flavor(vcpus=2, memory_mib=128, max_memory_mib=512)
Change = Callable[[ComputeDriver, Machine], object]


Image = tuple[FileImage, str]


def _image(own: Host, fill: bytes) -> Image:
    """An image, and what get_instance() calls it."""
    path = own.peer.root / f"{fill.hex()}.raw"
    path.write_bytes(fill * (1 << 20))
    image = FileImage(path=path, format=ImageFormat.RAW)
    with own.made_empty(image=image) as machine:
        key = machine.info.image
    assert key is not None
    return image, key


@pytest.fixture(scope="module")
def one(own: Host) -> Image:
    return _image(own, b"1")


@pytest.fixture(scope="module")
def two(own: Host) -> Image:
    return _image(own, b"2")


def roots(machine: Machine) -> list[str]:
    """The machine's root disks on the host."""
    listed = machine.host.peer.virsh("vol-list", "hvdrivers").split()
    return sorted({each for each in listed if each.startswith(f"{machine.uuid}.root")})


def has_its_root(machine: Machine) -> bool:
    """The definition names the one root disk that there is."""
    source = machine.xml(inactive=True).find("devices/disk/source")
    assert source is not None
    return roots(machine) == [source.attrib["file"].rpartition("/")[2]]


def has_a_root(machine: Machine) -> bool:
    """The disk that the machine runs with is there, and the one that it will start with."""
    sources = [machine.xml(inactive=each).find("devices/disk/source") for each in (False, True)]
    names = {each.attrib["file"].rpartition("/")[2] for each in sources if each is not None}
    return names <= set(roots(machine)) and bool(names)


@pytest.fixture
def volume(own: Host) -> Iterator[Volume]:
    with own.volume() as made:
        yield made


def changes(volume: Volume, image: Image) -> dict[str, tuple[Change, Callable[[Machine], bool]]]:
    """What a client does, and whether it is seen afterwards."""
    return {
        "attach": (
            lambda client, on: client.attach_volume(on.uuid, VolumeAttachment(volume=volume)),
            lambda on: [each.volume_id for each in on.info.volumes] == [volume.volume_id],
        ),
        "set_metadata": (
            lambda client, on: client.set_metadata(on.uuid, {"a": "b"}),
            lambda on: on.info.metadata == {"a": "b"},
        ),
        "rename": (
            lambda client, on: client.rename(on.uuid, "new"),
            lambda on: on.info.name == "new",
        ),
        "resize": (
            lambda client, on: client.resize(on.uuid, LARGE),
            lambda on: on.info.flavor == LARGE,
        ),
        "rebuild": (
            lambda client, on: client.rebuild(on.uuid, image[0]),
            lambda on: on.info.image == image[1],
        ),
    }


_MEETINGS = [
    ("resize", "Domain.setMemoryFlags"),
    ("resize", "Domain.setMetadata"),
    ("rebuild", "Domain.updateDeviceFlags"),
    ("rebuild", "StorageVol.delete"),
]


@pytest.mark.parametrize("name", ["attach", "set_metadata", "rename", "resize", "rebuild"])
@pytest.mark.parametrize(("of", "call"), _MEETINGS)
def test_neither_undoes_the_other(
    own: Host,
    other: ComputeDriver,
    volume: Volume,
    one: Image,
    two: Image,
    *,
    name: str,
    of: str,
    call: str,
) -> None:
    """A stopped machine: the other client comes before the call that changes it, or after it."""
    theirs, theirs_seen = changes(volume, one)[name]
    mine, mine_seen = changes(volume, two)[of]
    with own.made_empty() as machine:

        def meanwhile(_name: str, send: Callable[[], Any]) -> Any:
            theirs(other, machine)
            return send()

        with script(own.raw, call, meanwhile) as seam:
            mine(own.driver, machine)
        assert seam.reached
        if name != "rebuild" or of != "rebuild":
            assert theirs_seen(machine)
            assert mine_seen(machine)
        else:  # the later one is seen, and that is the other's if it came after the change
            late = call == "StorageVol.delete"
            assert (theirs_seen(machine), mine_seen(machine)) == (late, not late)
        assert has_its_root(machine)
        own.driver.power_on(machine.uuid)
        assert machine.state is S.RUNNING
        own.driver.power_off(machine.uuid)
        with suppress(errors.VolumeNotFound):
            own.driver.detach_volume(machine.uuid, volume.volume_id)


_GONE = [
    ("resize", LARGE, "Domain.setMetadata"),
    ("resize", GROWS, "Connect.defineXMLFlags"),
    ("rebuild", SMALL, "Domain.updateDeviceFlags"),
    ("rebuild", SMALL, "StorageVol.delete"),
]


@pytest.mark.parametrize(("of", "flavor", "call"), _GONE)
def test_a_machine_that_is_destroyed_does_not_come_back(
    own: Host, other: ComputeDriver, one: Image, of: str, flavor: Flavor, call: str
) -> None:
    spec = own.empty(start=False)
    own.driver.cache_image(spec.image)  # type: ignore[arg-type]
    residue = own.residue()
    own.driver.spawn(spec)

    def meanwhile(_name: str, send: Callable[[], Any]) -> Any:
        other.destroy(spec.uuid)
        return send()

    with script(own.raw, call, meanwhile) as seam, suppress(errors.InstanceNotFound):
        if of == "resize":
            own.driver.resize(spec.uuid, flavor)
        else:
            own.driver.rebuild(spec.uuid, one[0])
    assert seam.reached
    own.compare(residue)


def test_another_client_renames_what_is_defined_anew(own: Host, other: ComputeDriver) -> None:
    with own.made_empty() as machine:

        def meanwhile(_name: str, send: Callable[[], Any]) -> Any:
            other.rename(machine.uuid, "new")
            return send()

        with script(own.raw, "Connect.defineXMLFlags", meanwhile) as seam:
            own.driver.resize(machine.uuid, GROWS)
        assert seam.reached
        assert machine.info.name == "new"
        assert machine.info.flavor == GROWS


def test_two_sizes_at_the_same_moment(own: Host, other: ComputeDriver) -> None:
    """Not a mixture of both: each size is set by several calls."""
    theirs = Flavor(vcpus=3, memory_mib=96)
    with own.made_empty() as machine:

        def meanwhile(_name: str, send: Callable[[], Any]) -> Any:
            other.resize(machine.uuid, theirs)
            return send()

        with script(own.raw, "Domain.setVcpusFlags", meanwhile) as seam:
            own.driver.resize(machine.uuid, LARGE)
        assert seam.reached
        assert machine.info.flavor == LARGE


def test_a_running_machine_gets_what_was_asked_for(own: Host, other: ComputeDriver) -> None:
    """Two clients ask for the same memory; and for CPUs, of which the later asks for fewer."""
    flavor = Flavor(vcpus=1, memory_mib=64, max_vcpus=4, max_memory_mib=512)
    with own.empty_machine(flavor=flavor) as machine:
        uuid = machine.uuid

        def more(_name: str, send: Callable[[], Any]) -> Any:
            other.hot_resize_memory(uuid, 192)
            return send()

        with script(own.raw, "Domain.attachDeviceFlags", more) as seam:
            own.driver.hot_resize_memory(uuid, 192)
        assert seam.reached
        assert machine.info.flavor.memory_mib == 192

        def many(_name: str, send: Callable[[], Any]) -> Any:
            other.hot_resize_cpu(uuid, 4)
            return send()

        with (
            script(own.raw, "Domain.setVcpusFlags", many) as seam,
            pytest.raises(errors.InvalidRequest),
        ):
            own.driver.hot_resize_cpu(uuid, 2)
        assert seam.reached
        assert machine.info.flavor.vcpus == 4


def test_the_machine_is_started_before_its_disk_grows(
    own: Host, other: ComputeDriver, volume: Volume
) -> None:
    with own.made_empty() as machine:
        uuid = machine.uuid
        machine.attach(volume)

        def starts(_name: str, send: Callable[[], Any]) -> Any:
            other.power_on(uuid)
            return send()

        with (
            script(own.raw, "StorageVol.resize", starts) as seam,
            pytest.raises(errors.InvalidState),
        ):
            own.driver.resize(uuid, Flavor(vcpus=1, memory_mib=64, disk_gib=1))
        assert seam.reached
        assert machine.info.flavor == SMALL
        other.power_off(uuid)
        with script(own.raw, "StorageVol.resize", starts) as seam:
            own.driver.extend_volume(uuid, volume.volume_id, 16 << 20)
        assert seam.reached
        assert "16777216" in own.peer.virsh("domblkinfo", str(uuid), "vdb")
        other.power_off(uuid)
        own.driver.detach_volume(uuid, volume.volume_id)


@pytest.mark.parametrize("kind", ["before", "after"])
def test_a_rebuild_that_is_cut_converges(own: Host, two: Image, kind: str) -> None:
    """Whatever is lost, the same call again ends with the machine in the state it had before."""
    cuts = (before if kind == "before" else after)(own.raw, own.peer)
    with own.empty_machine() as machine:
        with script(own.raw) as plain:
            own.driver.rebuild(machine.uuid, two[0])
        first = plain.calls.index("StoragePool.createXML")
        wanted = [
            number
            for number, name in enumerate(plain.calls)
            if number >= first and not name.endswith(("XMLDesc", "info", "lookupByName", "state"))
        ]
        for number in wanted:
            with script(own.raw, number, cuts) as seam, suppress(errors.HypervisorError):
                own.driver.rebuild(machine.uuid, two[0])
            assert seam.reached
            assert has_a_root(machine), plain.calls[number]
            own.driver.rebuild(machine.uuid, two[0])
            assert machine.state is S.RUNNING, plain.calls[number]
            assert machine.info.image == two[1]
            source = machine.xml(inactive=True).find("devices/disk/source")
            assert source is not None
            assert source.attrib["file"].rpartition("/")[2] in roots(machine)


def test_the_undo_of_a_rebuild_leaves_the_disk_that_the_machine_may_have(
    own: Host, two: Image
) -> None:
    """The machine runs with its new disk, and nobody could ask the host before the undo."""
    with own.empty_machine() as machine:

        def lost(_name: str, send: Callable[[], Any]) -> Any:
            send()
            raise errors.OutcomeUnknown("the host was away until now")

        with (
            script(own.raw, "Domain.createWithFlags", lost) as seam,
            pytest.raises(errors.OutcomeUnknown),
        ):
            own.driver.rebuild(machine.uuid, two[0])
        assert seam.reached
        assert machine.state is S.RUNNING
        assert has_a_root(machine)
        own.driver.reboot(machine.uuid)
        own.driver.rebuild(machine.uuid, two[0])
        assert machine.state is S.RUNNING
        assert machine.info.image == two[1]
        assert len(roots(machine)) == 1


@pytest.mark.parametrize("off", [False, True])
def test_a_client_dies_in_a_rebuild(
    own: Host, other: ComputeDriver, two: Image, *, off: bool
) -> None:
    """The mark lets the machine run at the next rebuild(), unless power_off() has been called."""
    with closing(connect(own.peer)) as dying, own.empty_machine() as machine:

        def dies(_name: str, _send: Callable[[], Any]) -> Any:
            def dead(name: str, _send: Callable[[], Any]) -> Any:
                raise errors.ConnectionFailed(f"dead before {name}")

            dying.connection.seam = dead
            raise errors.ConnectionFailed("dead before the start")

        with (
            script(dying, "Domain.createWithFlags", dies) as seam,
            pytest.raises(errors.OutcomeUnknown),
        ):
            guarded(dying).rebuild(machine.uuid, two[0])
        assert seam.reached
        assert machine.state is S.STOPPED
        if off:
            other.power_off(machine.uuid)
        other.rebuild(machine.uuid, two[0])
        assert machine.state is (S.STOPPED if off else S.RUNNING)
        assert has_its_root(machine)


def test_a_new_disk_that_does_not_start(own: Host, two: Image) -> None:
    """The old disk is there, and in the definition; the next rebuild() lets the machine run."""
    with own.empty_machine() as machine:
        image, before_ = machine.info.image, roots(machine)
        own.peer.kill_virtlogd()
        try:
            with pytest.raises(errors.HypervisorFault) as fault:
                own.driver.rebuild(machine.uuid, two[0])
            assert "O_DIRECT" not in str(fault.value.hint)
        finally:
            own.peer.start()
        assert machine.info.image == image
        assert roots(machine) == before_
        assert has_its_root(machine)
        own.driver.rebuild(machine.uuid, two[0])
        assert machine.state is S.RUNNING
        assert has_its_root(machine)


def test_a_machine_that_is_switched_off_meanwhile_stays_off(
    own: Host, other: ComputeDriver, two: Image
) -> None:
    with own.empty_machine() as machine:

        def ends(_name: str, send: Callable[[], Any]) -> Any:
            other.power_off(machine.uuid)
            return send()

        with script(own.raw, "Domain.destroyFlags", ends) as seam:
            own.driver.rebuild(machine.uuid, two[0])
        assert seam.reached
        assert machine.state is S.STOPPED
        assert machine.info.image == two[1]
        assert has_its_root(machine)


def test_a_machine_that_is_suspended_meanwhile_keeps_its_disk(
    own: Host, other: ComputeDriver, two: Image
) -> None:
    with own.empty_machine() as machine:
        image = machine.info.image

        def saves(_name: str, send: Callable[[], Any]) -> Any:
            other.suspend(machine.uuid)
            return send()

        with (
            script(own.raw, "Domain.destroyFlags", saves) as seam,
            pytest.raises(errors.InvalidState),
        ):
            own.driver.rebuild(machine.uuid, two[0])
        assert seam.reached
        assert machine.info.image == image
        other.resume(machine.uuid)
        assert machine.state is S.RUNNING
        assert has_its_root(machine)
