"""Moves in steps between two hosts, and within one, of machines that hold a known content."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from hvdrivers.contract import errors
from hvdrivers.libvirt.driver import LibvirtDriver
from hvdrivers.models.image import FileImage, ImageFormat
from hvdrivers.models.instance import Firmware, Flavor, InstanceInfo, InstanceSpec, Keep
from hvdrivers.models.migration import Destination, Move, MovePhase
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import VolumeAttachment, VolumeSpec
from tests.integration.libvirt.children import Held, killed_in
from tests.integration.libvirt.conftest import connect, residue
from tests.integration.libvirt.faults import script, sees_the_end
from tests.integration.libvirt.test_faults import KINDS, attempts
from tests.integration.libvirt.test_kill import changes_in
from tests.peers.fixtures import started
from tests.peers.libvirtd import LibvirtPeer

_BEFORE = Flavor(vcpus=1, memory_mib=192, ephemeral_gib=1)
_AFTER = Flavor(vcpus=2, memory_mib=256, disk_gib=2, ephemeral_gib=1)
_SIZE = 3 << 20
_AWAY = [pytest.param(True, id="another host"), pytest.param(False, id="the same host")]


@pytest.fixture(scope="module")
def other_peer() -> Iterator[LibvirtPeer]:
    with started(LibvirtPeer) as made:
        yield made


@pytest.fixture
def here(peer: LibvirtPeer) -> Iterator[LibvirtDriver]:
    with closing(_in_order(peer)) as made:
        yield made


@pytest.fixture
def there(other_peer: LibvirtPeer) -> Iterator[LibvirtDriver]:
    with closing(_in_order(other_peer)) as made:
        yield made


def _in_order(peer: LibvirtPeer) -> LibvirtDriver:
    made = connect(peer)
    made.connection.links.spare = lambda: None  # type: ignore[method-assign]
    made.host()
    made.hub.ensure()
    made.pools.path(made.pools.disks())
    made.pools.path(made.pools.consoles())
    return made


class Moved:
    """A machine, and the two hosts."""

    def __init__(
        self, here: LibvirtDriver, there: LibvirtDriver, peers: tuple[LibvirtPeer, LibvirtPeer]
    ) -> None:
        self.here, self.there, self.peers = here, there, peers
        self.uuid = uuid4()
        self.destination = Destination(host=peers[1].uri)
        path = peers[0].root / "content.raw"
        path.write_bytes(b"\x55\xaa" * (_SIZE // 2))
        self.image = FileImage(path=path, format=ImageFormat.RAW)
        here.cache_image(self.image)
        self.before = self.residue()

    def to(self, away: bool) -> Destination | None:
        return self.destination if away else None

    def at(self, away: bool) -> LibvirtDriver:
        return self.there if away else self.here

    def residue(self) -> tuple[set[str], set[str]]:
        return residue(self.peers[0]), residue(self.peers[1])

    def spawn(self, **changes: Any) -> InstanceInfo:
        values: dict[str, Any] = {
            "uuid": self.uuid,
            "name": "moves",
            "flavor": _BEFORE,
            "image": self.image,
            "metadata": {"a": "b"},
            "start": False,
        }
        self.here.spawn(InstanceSpec(**(values | changes)))
        return self.settled()

    def settled(self) -> InstanceInfo:
        """The machine as it is now, to which it is compared."""
        self.peers[0].virsh("pool-refresh", "hvdrivers")  # it has not seen UEFI's variables
        self.home = _without_label(residue(self.peers[0]))
        return self.here.get_instance(self.uuid)

    def files(self, away: bool) -> dict[str, str]:
        """Paths of the machine's own disks, as the daemon calls them, by role."""
        xml = self.peers[away].virsh("dumpxml", str(self.uuid))
        paths = re.findall(rf"source file='([^']*/{self.uuid}\.[^']+)'", xml)
        return {re.split(r"[.-]", each.rpartition(f"{self.uuid}.")[2])[0]: each for each in paths}

    def content(self, away: bool) -> bytes:
        """What a guest would read of the root disk, as far as the image went."""
        peer, raw = self.peers[away], "/var/lib/libvirt/read.raw"
        peer.inside("qemu-img", "convert", "-O", "raw", self.files(away)["root"], raw)
        try:
            with peer.path(raw).open("rb") as opened:
                return opened.read(_SIZE)
        finally:
            peer.inside("rm", raw)

    def write(self, away: bool) -> None:
        """Change the root disk, as a guest would."""
        file = self.files(away)["root"]
        self.peers[away].inside("qemu-io", "-c", "write -P 7 4096 4096", file)
        assert self.content(away) != self.original

    @property
    def original(self) -> bytes:
        return self.image.path.read_bytes()

    def is_source(self, info: InstanceInfo) -> None:
        """It is as it was, and nothing of the move is left on either host."""
        assert self.here.get_instance(self.uuid) == info
        assert self.content(False) == self.original
        now = self.residue()
        assert _without_label(now[0]) == self.home
        assert now[1] == self.before[1]

    def destroy(self) -> None:
        for each in (self.here, self.there):
            each.destroy(self.uuid)
        assert self.residue() == self.before


@pytest.fixture
def moved(
    here: LibvirtDriver, there: LibvirtDriver, peer: LibvirtPeer, other_peer: LibvirtPeer
) -> Iterator[Moved]:
    made = Moved(here, there, (peer, other_peer))
    yield made
    made.destroy()


def _without_label(found: set[str]) -> set[str]:
    return {each for each in found if not each.startswith(("domain ", "file etc/qemu/"))}


def _shown(info: InstanceInfo, **changes: Any) -> InstanceInfo:
    return info.model_copy(update=changes)


@pytest.mark.parametrize("away", _AWAY)
def test_there_and_back(moved: Moved, away: bool) -> None:
    info = moved.spawn()
    uuid = moved.uuid
    move = moved.here.prepare_move(uuid, moved.to(away), flavor=_AFTER)
    with closing(connect(moved.peers[0])) as another:
        assert another.get_instance(uuid) == _shown(info, move=MovePhase.PREPARED)
        assert [each.name for each in another.list_instances()] == ["moves"]
        for refused in (
            lambda: another.power_on(uuid),
            lambda: another.resize(uuid, _AFTER),
            lambda: another.create_snapshot(uuid, "s"),
            lambda: another.cold_migrate(uuid, moved.destination),
        ):
            with pytest.raises(errors.InvalidState, match="copy to come back to"):
                refused()
    found = moved.at(away).finish_move(move)
    phase = None if away else MovePhase.FINISHED
    assert found == _shown(info, flavor=_AFTER, move=phase)
    assert moved.at(away).get_instance(uuid) == found
    assert moved.content(away) == moved.original
    assert moved.files(away).keys() == {"root", "ephemeral"}
    described = moved.peers[away].virsh("vol-info", moved.files(away)["root"])
    assert "2.00 GiB" in described, described
    moved.write(away)
    if away:
        with pytest.raises(errors.InvalidState, match="at the destination"):
            moved.here.revert_move(uuid)
        moved.there.destroy(uuid)
    moved.here.revert_move(uuid)
    moved.is_source(info)
    with pytest.raises(errors.InstanceNotFound):
        moved.at(away).finish_move(move)
    # and once more, to its end
    move = moved.here.prepare_move(uuid, moved.to(away), flavor=_AFTER)
    moved.at(away).finish_move(move)
    moved.write(away)
    moved.here.confirm_move(uuid)
    assert moved.at(away).get_instance(uuid) == _shown(info, flavor=_AFTER)
    if away:
        with pytest.raises(errors.InstanceNotFound):
            moved.here.get_instance(uuid)
        assert residue(moved.peers[0]) == moved.before[0]
        assert moved.there.finish_move(move) == _shown(info, flavor=_AFTER)
    assert len(moved.files(away)) == 2
    assert moved.content(away) != moved.original


@pytest.mark.parametrize("away", _AWAY)
def test_budgets(moved: Moved, away: bool) -> None:
    """Two disks, and the root disk over an image."""
    moved.spawn()
    here, at, uuid = moved.here, moved.at(away), moved.uuid
    made: list[Move] = []

    def counted(name: str, expected: int, driver: LibvirtDriver, *arguments: Any) -> None:
        with driver.connection.counting() as calls:
            result = getattr(driver, name)(*arguments)
        if isinstance(result, Move):
            made.append(result)
        assert sum(calls.values()) == expected, (name, calls)

    prepare = ("prepare_move", 39 + 9 if away else 17 + 4 * 2, here, uuid, moved.to(away))
    counted(*prepare)
    counted("prepare_move", 7, here, uuid, moved.to(away))
    counted("revert_move", 12 if away else 12 + 2, here, uuid)
    counted("revert_move", 7, here, uuid)
    counted("confirm_move", 8, here, uuid)
    counted(*prepare)
    counted("finish_move", 17 if away else 14, at, made[-1])
    counted("finish_move", 8 if away else 7, at, made[-1])
    if away:
        moved.there.destroy(uuid)
    counted("revert_move", 12 if away else 19 + 2 * 2, here, uuid)
    counted(*prepare)
    at.finish_move(made[-1])
    counted("confirm_move", 17 + 3 if away else 10 + 2, here, uuid)
    counted("confirm_move", 1 if away else 8, here, uuid)


# ---- a client that dies --------------------------------------------------------------------------


def _changes(peer: LibvirtPeer, operation: str, *arguments: Any) -> range:
    """Numbers of the calls of an operation that are no reads; it is done."""
    held = Held(peer.uri, operation, arguments, -1)
    assert held.go_on() == "done"
    return range(len(changes_in(held.calls)))


def _killed(peer: LibvirtPeer, operation: str, arguments: tuple[Any, ...], number: int) -> str:
    """A client dies after this one of the calls that are no reads."""
    name = killed_in(peer.uri, operation, arguments, number, "after", reads=False)
    assert name, number
    return name


@pytest.mark.parametrize("away", _AWAY)
@pytest.mark.parametrize("on", [True, False], ids=["goes on", "goes back"])
@pytest.mark.usefixtures("impatient")
def test_killed_while_it_prepares(moved: Moved, away: bool, on: bool) -> None:
    info = moved.spawn()
    what = ("prepare_move", moved.uuid, moved.to(away))
    numbers = _changes(moved.peers[0], *what)
    moved.here.revert_move(moved.uuid)
    seen: set[MovePhase | None] = set()
    for number in numbers:
        name = _killed(moved.peers[0], what[0], what[1:], number)
        now = moved.here.get_instance(moved.uuid)
        seen.add(now.move)
        assert _shown(now, move=None) == info, name
        with pytest.raises(errors.InstanceNotFound):
            moved.there.get_instance(moved.uuid)
        if on:
            move = moved.here.prepare_move(moved.uuid, moved.to(away))
            moved.at(away).finish_move(move)
            assert moved.content(away) == moved.original, name
            if away:
                moved.there.destroy(moved.uuid)
        moved.here.revert_move(moved.uuid)
        moved.is_source(info)
    assert seen == {None, MovePhase.PREPARED}


@pytest.mark.parametrize("away", _AWAY)
@pytest.mark.parametrize("on", [True, False], ids=["goes on", "goes back"])
@pytest.mark.usefixtures("impatient")
def test_killed_while_it_finishes(moved: Moved, away: bool, on: bool) -> None:
    info = moved.spawn()
    peer, at = moved.peers[away], moved.at(away)

    def prepared() -> Move:
        return moved.here.prepare_move(moved.uuid, moved.to(away), flavor=_AFTER)

    def back() -> None:
        if away:
            with suppress(errors.InstanceNotFound):
                moved.there.get_instance(moved.uuid)
                moved.there.destroy(moved.uuid)
        moved.here.revert_move(moved.uuid)
        moved.is_source(info)

    numbers = _changes(peer, "finish_move", prepared())
    back()
    for number in numbers:
        move = prepared()
        name = _killed(peer, "finish_move", (move,), number)
        if on:
            assert at.finish_move(move).flavor == _AFTER, name
            assert moved.content(away) == moved.original, name
        back()


@pytest.mark.parametrize("away", _AWAY)
@pytest.mark.parametrize("step", ["confirm_move", "revert_move"])
@pytest.mark.usefixtures("impatient")
def test_killed_at_the_end(moved: Moved, away: bool, step: str) -> None:
    """The same call comes to the end."""
    confirms = step == "confirm_move"
    peer = moved.peers[0]

    def begun() -> InstanceInfo:
        info = moved.spawn()
        move = moved.here.prepare_move(moved.uuid, moved.to(away), flavor=_AFTER)
        if confirms or not away:
            moved.at(away).finish_move(move)
        return info

    begun()
    numbers = _changes(peer, step, moved.uuid)
    moved.destroy()
    for number in numbers:
        info = begun()
        name = _killed(peer, step, (moved.uuid,), number)
        if confirms and away and moved.here.domains.if_there(moved.uuid) is not None:
            moved.here.get_instance(moved.uuid)
            with pytest.raises(errors.InvalidState, match="at the destination"):
                moved.here.revert_move(moved.uuid)
        getattr(moved.here, step)(moved.uuid)
        if confirms:
            assert moved.at(away).get_instance(moved.uuid) == _shown(info, flavor=_AFTER), name
            assert moved.content(away) == moved.original
            if away:
                assert residue(peer) == moved.before[0], name
        else:
            moved.is_source(info)
        moved.destroy()


# ---- faults --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"cut-before"}))
def test_a_preparation_that_fails_leaves_nothing(moved: Moved, kind: str) -> None:
    """Calls on the source fail in turn; those within one host are the suite's. A cut before the
    last call may go unnoticed: the turn is given up by another connection."""
    info = moved.spawn()
    here, uuid = moved.here, moved.uuid
    calls = 0
    for name, raised in attempts(
        here, moved.peers[0], kind, lambda: here.prepare_move(uuid, moved.destination)
    ):
        calls += 1
        if raised is None or here.get_instance(uuid).move is not None:
            here.revert_move(uuid)
        assert here.get_instance(uuid) == info, name
        moved.is_source(info)
    assert calls > 20
    here.revert_move(uuid)


def test_the_destination_dies_while_it_is_prepared(moved: Moved) -> None:
    """The source stays marked: what is there is found when that host is back."""
    info = moved.spawn()
    here, uuid, other = moved.here, moved.uuid, moved.peers[1]

    def dies(_name: str, send: Callable[[], Any]) -> Any:
        other.kill()
        return send()

    with (
        script(here, "StorageVol.download", dies) as seam,
        pytest.raises(errors.HypervisorError) as caught,
    ):
        here.prepare_move(uuid, moved.destination)
    assert seam.reached
    assert not isinstance(caught.value, errors.ConnectionFailed)  # something has changed
    assert here.get_instance(uuid) == _shown(info, move=MovePhase.PREPARED)
    with pytest.raises(errors.InvalidRequest, match="does not answer"):
        here.prepare_move(uuid, moved.destination)
    with pytest.raises(errors.ConnectionFailed):
        here.revert_move(uuid)
    other.start()
    sees_the_end([each for each in moved.there.connection.links.links if not each.alive])
    here.revert_move(uuid)
    moved.is_source(info)


# ---- what goes along -----------------------------------------------------------------------------


@pytest.mark.parametrize("away", _AWAY)
def test_variables_of_uefi(moved: Moved, away: bool) -> None:
    """They are carried along, and what was there comes back."""
    moved.spawn(firmware=Firmware.UEFI, start=True)
    moved.here.power_off(moved.uuid)
    info = moved.settled()
    name = f"{moved.uuid}.nvram"

    def variables(at: bool) -> Path:
        peer, driver = moved.peers[at], moved.at(at)
        return peer.path(driver.pools.disk_path(name))

    before = variables(False).read_bytes()
    move = moved.here.prepare_move(moved.uuid, moved.to(away))
    moved.at(away).finish_move(move)
    assert variables(away).read_bytes() == before
    variables(away).write_bytes(before[:-4096] + b"\x01" * 4096)
    if away:
        moved.there.power_on(moved.uuid)
        assert moved.there.get_instance(moved.uuid).state is InstanceState.RUNNING
        moved.there.destroy(moved.uuid)
    moved.here.revert_move(moved.uuid)
    assert variables(False).read_bytes() == before
    moved.is_source(info)
    moved.here.power_on(moved.uuid)


def test_other_connections_at_the_destination(moved: Moved) -> None:
    """A volume and a password that the destination needs stand in no definition."""
    mine = moved.here.create_volume(VolumeSpec(name="data", size_bytes=1 << 20))
    theirs = moved.there.create_volume(VolumeSpec(name="data", size_bytes=2 << 20))
    info = moved.spawn(volumes=(VolumeAttachment(volume=mine),))
    destination = moved.destination.model_copy(
        update={"volumes": (VolumeAttachment(volume=theirs),)}
    )
    destination = Destination.model_validate(
        {**dict(destination), "user": "somebody", "password": "pass-s3cret"}
    )
    with pytest.raises(errors.InvalidRequest, match="volume"):
        moved.here.prepare_move(moved.uuid, moved.destination)
    assert moved.here.get_instance(moved.uuid) == info
    move = moved.here.prepare_move(moved.uuid, destination)
    assert moved.here.prepare_move(moved.uuid, destination) == move
    assert "pass-s3cret" not in moved.peers[0].virsh("dumpxml", str(moved.uuid))
    moved.there.delete_volume("data")
    with pytest.raises(errors.VolumeNotFound):
        moved.there.finish_move(move)
    moved.there.create_volume(VolumeSpec(name="data", size_bytes=2 << 20))
    found = moved.there.finish_move(move)
    assert [each.volume_id for each in found.volumes] == ["data"]
    moved.there.destroy(moved.uuid)
    moved.here.revert_move(moved.uuid)
    assert moved.here.get_instance(moved.uuid) == info
    moved.here.destroy(moved.uuid)
    for each in (moved.here, moved.there):
        each.delete_volume("data")
    assert moved.residue() == moved.before


def test_what_does_not_move_so(moved: Moved) -> None:
    here, uuid = moved.here, moved.uuid
    info = moved.spawn()
    here.create_snapshot(uuid, "s")
    for to in (moved.destination, None):
        with pytest.raises(errors.InvalidRequest, match="snapshots"):
            here.prepare_move(uuid, to)
    here.delete_snapshot(uuid, here.list_snapshots(uuid)[0].id)
    for flavor, error in (
        (_BEFORE.model_copy(update={"ephemeral_gib": 2}), errors.InvalidRequest),
        (_BEFORE.model_copy(update={"memory_mib": 1 << 30}), errors.InsufficientResources),
    ):
        for to in (moved.destination, None):
            with pytest.raises(error):
                here.prepare_move(uuid, to, flavor=flavor)
    with pytest.raises(errors.InvalidRequest, match="on this host already"):
        here.prepare_move(uuid, Destination(host=moved.peers[0].uri))
    assert here.get_instance(uuid) == info
    moved.is_source(info)


def test_while_what_it_was_is_kept(moved: Moved) -> None:
    """A move within the host that is finished: the instance is like any other, and stays here."""
    here, uuid = moved.here, moved.uuid
    info = moved.spawn()
    here.finish_move(here.prepare_move(uuid, flavor=_AFTER))
    with pytest.raises(errors.InvalidRequest, match="kept on this host"):
        here.cold_migrate(uuid, moved.destination)
    here.rename(uuid, "renamed")
    other = moved.peers[0].root / "other.raw"
    other.write_bytes(b"\x01\x02" * (_SIZE // 2))
    rebuilt = here.cache_image(FileImage(path=other, format=ImageFormat.RAW))
    here.rebuild(uuid, FileImage(path=other, format=ImageFormat.RAW))
    assert moved.content(False) == other.read_bytes()
    snapshot = here.create_snapshot(uuid, "s")
    with pytest.raises(errors.InvalidState, match="snapshots"):
        here.revert_move(uuid)
    here.delete_snapshot(uuid, snapshot.id)
    here.revert_move(uuid)
    moved.is_source(_shown(info, name="renamed"))
    here.evict_image(rebuilt.key)


def test_a_disk_is_kept_once(moved: Moved) -> None:
    """destroy(keep=) of an instance that has the copy of a disk, beside that disk."""
    here, uuid = moved.here, moved.uuid
    moved.spawn()
    here.finish_move(here.prepare_move(uuid))
    here.destroy(uuid, keep=frozenset({Keep.EPHEMERAL_DISKS}))
    kept = [each.volume_id for each in here.list_volumes()]
    assert kept == [f"{uuid}-ephemeral"], kept
    here.delete_volume(kept[0])
    assert moved.residue() == moved.before
