"""Two client processes at the snapshots of one instance: one comes after the other, and one that
dies, or stands still for too long, is taken over."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

import pytest

from hvdrivers.contract import errors
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.libvirt import turns
from hvdrivers.libvirt.snapshot_tree import being_deleted, tree_of
from hvdrivers.models.host import HostCheck
from hvdrivers.models.image import FileImage, ImageFormat
from hvdrivers.models.instance import Flavor
from hvdrivers.models.state import InstanceState
from tests.integration.libvirt.children import Held, killed_in, race_to_do
from tests.integration.libvirt.faults import INTERNAL, script
from tests.integration.libvirt.machines import Host, Machine
from tests.integration.libvirt.test_kill import changes_in
from tests.integration.libvirt.test_snapshots import tags
from tests.integration.part_of_suite import WHOLE

S = InstanceState
NONE, FIRST, SECOND, NOW = 0, 1, 2, 3
"""What stands on the disk: bytes of this value."""


def root_of(own: Host, machine: Machine) -> str:
    """The disk alone: it is written to as a whole, and its image has another path here."""
    path = own.peer.path(own.raw.pools.disk_path(f"{machine.uuid}.root"))
    file = {"driver": "file", "filename": str(path)}
    return "json:" + json.dumps({"driver": "qcow2", "file": file, "backing": None})


def write(own: Host, machine: Machine, value: int) -> None:
    """Write to the disk of a machine that is off."""
    command = f"write -P {value} 0 1M"
    subprocess.run(
        ["qemu-io", "-c", command, root_of(own, machine)],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def bytes_in(own: Host, machine: Machine, snapshot: str | None = None) -> int:
    """The value of every byte of the disk, or of a snapshot in it; of a machine that is off."""
    target = own.peer.root / f"{machine.uuid}.content"
    within = ["-l", f"snapshot.name={snapshot}"] if snapshot is not None else []
    subprocess.run(
        ["qemu-img", "convert", *within, "-O", "raw", root_of(own, machine), str(target)],
        check=True,
    )
    found = target.read_bytes()
    target.unlink()
    (value,) = set(found)
    assert len(found) == 1 << 20
    return value


@dataclass(frozen=True)
class Model:
    """What the contract says of an instance."""

    state: InstanceState
    content: int
    tree: dict[str, tuple[str | None, int]] = field(default_factory=dict)
    """By the name of a snapshot: its parent's, and what stands in it."""
    current: str | None = None

    def after(self, operation: str, name: str = "", children: bool = False) -> tuple[str, Model]:
        """The outcome of an operation, and what is then."""
        allowed = {S.RUNNING, S.PAUSED, S.SUSPENDED if operation == "suspend" else S.STOPPED}
        if self.state not in allowed:
            return "InvalidState", self
        if operation == "suspend":
            return "done", replace(self, state=S.SUSPENDED)
        if operation == "create_snapshot":
            if name in self.tree:
                return "InvalidRequest", self
            tree = self.tree | {name: (self.current, self.content)}
            return "done", replace(self, tree=tree, current=name)
        if operation == "revert_snapshot":
            if name not in self.tree:
                return "VolumeNotFound", self
            content = self.tree[name][1]
            return "done", replace(self, state=S.STOPPED, content=content, current=name)
        if name not in self.tree:
            return "done", self
        gone = {name}
        while children and (more := {k for k, v in self.tree.items() if v[0] in gone} - gone):
            gone |= more
        up = self.tree[name][0]
        tree = {
            key: (up if parent in gone else parent, content)
            for key, (parent, content) in self.tree.items()
            if key not in gone
        }
        return "done", replace(
            self, tree=tree, current=up if self.current in gone else self.current
        )


@dataclass(frozen=True)
class Prepared:
    machine: Machine
    model: Model
    ids: dict[str, str]

    def arguments(self, operation: str, name: str = "", children: bool = False) -> tuple[Any, ...]:
        """What a client calls it with."""
        uuid = self.machine.uuid
        if operation == "suspend":
            return (uuid,)
        return (uuid, name if operation == "create_snapshot" else self.ids.get(name, "hv-none"))


@pytest.fixture
def prepared(own: Host) -> Iterator[Any]:
    """Make machines with the snapshots ``first`` and ``second``, each with its content."""
    made: list[Machine] = []

    def make(on: bool, memory: bool = False) -> Prepared:
        machine = own.made(own.empty(start=False))
        made.append(machine)
        ids = {}
        for name, value in (("first", FIRST), ("second", SECOND)):
            write(own, machine, value)
            if memory and name == "second":
                own.driver.power_on(machine.uuid)
            ids[name] = own.driver.create_snapshot(
                machine.uuid, name, memory=memory and name == "second"
            ).id
        if memory:
            own.driver.power_off(machine.uuid)
        write(own, machine, NOW)
        if on:
            own.driver.power_on(machine.uuid)
        tree = {"first": (None, FIRST), "second": ("first", SECOND)}
        model = Model(S.RUNNING if on else S.STOPPED, NOW, tree, "second")
        return Prepared(machine, model, ids)

    with own.unchanged():
        yield make
        for each in made:
            own.driver.destroy(each.uuid)


def seen(own: Host, machine: Machine) -> Model:
    """What is; and there is nothing beside it. The machine is off afterwards."""
    driver, uuid = own.driver, machine.uuid
    assert not [
        line for line in own.peer.virsh("list", "--all", "--name").split() if "hv-snap" in line
    ]
    state = machine.state
    found = driver.list_snapshots(uuid)
    domain = own.raw.domains.find(uuid)
    assert not tree_of(domain).halves
    for inactive in (False, True):
        assert not being_deleted(machine.xml(inactive=inactive))
    if state in {S.RUNNING, S.PAUSED}:
        said = own.peer.virsh("qemu-monitor-command", str(uuid), '{"execute": "query-jobs"}')
        assert json.loads(said)["return"] == []
    if state is not S.STOPPED:
        driver.power_off(uuid)
    assert tags(own, f"{uuid}.root") == len(found)
    names: dict[str | None, str | None] = {None: None} | {each.id: each.name for each in found}
    current = [each.name for each in found if each.current]
    assert len(current) <= 1
    tree = {each.name: (names[each.parent], bytes_in(own, machine, each.id)) for each in found}
    return Model(state, bytes_in(own, machine), tree, current[0] if current else None)


Op = tuple[Any, ...]
CREATE: Op = ("create_snapshot", "x")
ANOTHER: Op = ("create_snapshot", "y")
FIRST_BACK: Op = ("revert_snapshot", "first")
SECOND_BACK: Op = ("revert_snapshot", "second")
DELETE: Op = ("delete_snapshot", "second")
DELETE_FIRST: Op = ("delete_snapshot", "first")
SUSPEND: Op = ("suspend",)
PAIRS: list[tuple[Op, Op]] = [
    (CREATE, ANOTHER),
    (CREATE, CREATE),
    (CREATE, FIRST_BACK),
    (CREATE, DELETE),
    (FIRST_BACK, SECOND_BACK),
    (FIRST_BACK, DELETE),
    (SECOND_BACK, DELETE),
    (DELETE, DELETE_FIRST),
    (CREATE, SUSPEND),
    (FIRST_BACK, SUSPEND),
    (DELETE, SUSPEND),
]


def in_order(model: Model, one: Op, other: Op) -> tuple[str, str, Model]:
    first, model = model.after(*one)
    second, model = model.after(*other)
    return first, second, model


@pytest.mark.parametrize("on", [True, False], ids=["on", "off"])
def test_two_processes_race(own: Host, prepared: Any, on: bool) -> None:
    """Every outcome is that of one after the other: what each says, the tree, the state and every
    byte of the disk and of each snapshot."""
    for pair in PAIRS:
        if SUSPEND in pair and not on:
            continue
        found: Prepared = prepared(on)
        told = race_to_do(own.peer.uri, [(each[0], found.arguments(*each)) for each in pair])
        one, other = pair
        back = in_order(found.model, other, one)
        orders = [in_order(found.model, one, other), (back[1], back[0], back[2])]
        assert (*told, seen(own, found.machine)) in orders, pair


KILLED: list[tuple[Op, bool]] = [
    (CREATE, True),
    (CREATE, False),
    (FIRST_BACK, False),
    (FIRST_BACK, True),
    (DELETE, True),
    (DELETE, False),
    (SUSPEND, True),
]
DIE, STAND_STILL = (KILLED, KILLED) if WHOLE else (KILLED[::2], KILLED[1::2])
"""They take minutes: ``make test`` tries the one with half of them, the other with the rest."""


def changing_calls(own: Host, found: Prepared, act: Op) -> list[int]:
    """Numbers of the calls of an operation that change something: to die, or to stand still, at
    one that only reads is the same as at the change before it."""
    held = Held(own.peer.uri, act[0], found.arguments(*act), -1)
    assert held.go_on() == "done"
    return changes_in(held.calls)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("act", "on"), DIE)
def test_killed_at_each_call(own: Host, prepared: Any, act: Op, on: bool) -> None:
    """It has happened or not, and nothing else is left; the next client takes the turn over."""
    taken = 0
    numbers = changing_calls(own, prepared(on), act)
    for number in numbers:
        found: Prepared = prepared(on)
        machine = found.machine
        assert killed_in(own.peer.uri, act[0], found.arguments(*act), number, "after")
        taken += f"hv-snapshot-of-{machine.uuid}" in own.peer.virsh("list", "--all", "--name")
        before = found.model
        after = before.after(*act)[1]
        if machine.state is S.SUSPENDED:
            own.driver.resume(machine.uuid)
            after = replace(after, state=S.RUNNING)
        if act[0] == "revert_snapshot" and machine.state is S.STOPPED:
            before = replace(before, state=S.STOPPED)  # it was switched off to be reverted
        own.driver.create_snapshot(machine.uuid, "next")
        next_ = ("create_snapshot", "next")
        assert seen(own, machine) in (before.after(*next_)[1], after.after(*next_)[1]), number
    # the last of them gives the turn up
    assert taken == len(numbers) - 1 >= 2


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("act", "on"), STAND_STILL)
def test_one_that_stands_still_is_taken_over(own: Host, prepared: Any, act: Op, on: bool) -> None:
    """For so long that the other client takes it for dead: what it does when it goes on is
    explained by an order, or it fails."""
    for number in changing_calls(own, prepared(on), act):
        found: Prepared = prepared(on)
        machine = found.machine
        held = Held(own.peer.uri, act[0], found.arguments(*act), number)
        model = found.model
        next_ = ("create_snapshot", "next")
        assert held.name is not None
        try:
            own.driver.create_snapshot(machine.uuid, "next")
            said = "done"
        except errors.InvalidState:
            said = "InvalidState"
        told = held.go_on()
        if machine.state is S.STOPPED and model.state is not S.STOPPED and told != "done":
            model = replace(model, state=S.STOPPED)  # it was switched off to be reverted
        back = in_order(model, next_, act)
        orders = [in_order(model, act, next_), (back[1], back[0], back[2])]
        if told in {"DeviceBusy", "OutcomeUnknown"}:
            orders = [(told, *model.after(*next_)), (told, *model.after(*act)[1].after(*next_))]
        # the last of its calls makes a snapshot current, and a check that it makes before or after
        # may be the moment at which it stood still
        found_ = replace(seen(own, machine), current=None)
        orders = [(*each[:2], replace(each[2], current=None)) for each in orders]
        assert (told, said, found_) in orders, (number, held.name)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("on", [True, False], ids=["on", "off"])
def test_killed_while_memory_comes_back(own: Host, prepared: Any, on: bool) -> None:
    """A machine that was off is off again, or has the memory: never one that was only started."""
    loads = 0
    for number in changing_calls(own, prepared(on, memory=True), SECOND_BACK):
        found: Prepared = prepared(on, memory=True)
        machine = found.machine
        arguments = found.arguments(*SECOND_BACK)
        call = killed_in(own.peer.uri, "revert_snapshot", arguments, number, "after")
        assert call is not None
        loads += call.startswith("Domain.monitor[snapshot-load")
        own.driver.create_snapshot(machine.uuid, "next")
        model = seen(own, machine)
        assert set(model.tree) == {"first", "second", "next"}
        if model.content == NOW:
            assert model.state is found.model.state, call
        else:
            assert model.content == SECOND
            assert model.state in {S.RUNNING, S.PAUSED}, call
        assert model.tree["next"][1] == model.content
    assert loads


@pytest.mark.usefixtures("impatient")
def test_doctor_tells_of_a_client_that_died_in_a_revert(own: Host, prepared: Any) -> None:
    """It names the instance until somebody has reverted again."""

    def line() -> HostCheck:
        (found,) = (each for each in own.driver.host_checks() if each.name == "snapshots")
        return found

    for number in changing_calls(own, prepared(True), FIRST_BACK)[:-1]:
        assert line().status == "ok"
        found: Prepared = prepared(True)
        arguments = found.arguments(*FIRST_BACK)
        assert killed_in(own.peer.uri, "revert_snapshot", arguments, number, "after")
        told = line()
        assert told.status == "warn"
        assert str(found.machine.uuid) in told.detail
        assert "revert" in (told.hint or "")
        own.driver.revert_snapshot(*arguments)
        assert found.machine.state is S.STOPPED
        assert bytes_in(own, found.machine) == FIRST
    assert line().status == "ok"


@pytest.mark.parametrize("late", [False, True])
def test_a_client_counts_only_where_it_takes_long(
    own: Host, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """libvirt writes each count to its disk; another client looks every two seconds."""
    if late:
        monkeypatch.setattr(turns, "_APART", 0.0)
    with own.empty_machine() as machine, own.raw.connection.counting() as calls:
        own.driver.create_snapshot(machine.uuid, "x")
        assert calls["Domain.setMetadata"] == 2 * late
        assert calls["Domain.isPersistent"] == 2 * (not late)


def test_a_client_waits_within_its_own_deadline(own: Host, prepared: Any) -> None:
    found: Prepared = prepared(False)
    machine = found.machine
    held = Held(own.peer.uri, *("create_snapshot", found.arguments(*CREATE)), 6)
    assert held.name is not None
    for call in (
        lambda: own.driver.create_snapshot(machine.uuid, "y", timeout=1),
        lambda: own.driver.revert_snapshot(machine.uuid, found.ids["first"], timeout=1),
        lambda: own.driver.delete_snapshot(machine.uuid, found.ids["first"], timeout=1),
    ):
        with pytest.raises(errors.DeviceBusy) as busy:
            call()
        assert busy.value.retryable
    assert held.go_on() == "done"
    assert seen(own, machine) == found.model.after(*CREATE)[1]


def test_a_client_waits_not_long_for_itself(own: Host, prepared: Any, impatient: None) -> None:
    """The host was lost in the middle of an operation, and so was the end of its turn."""
    found: Prepared = prepared(False)
    uuid = found.machine.uuid
    connection, calls = own.raw.connection, list[str]()

    def lost(name: str, send: Any) -> Any:
        calls.append(name)
        if "Domain.setMetadata" in calls:  # it has the turn, and shows that it lives
            raise errors.ConnectionFailed("the host is away")
        return send()

    connection.seam = lost
    try:
        with pytest.raises(errors.HypervisorError):
            own.driver.delete_snapshot(uuid, found.ids["first"])
    finally:
        connection.seam = None
    assert "Domain.setMetadata" in calls
    with connection.counting() as made:
        own.driver.delete_snapshot(uuid, found.ids["first"])
    assert made["Connect.lookupByName"] <= turns._LOOKS_AT_OWN + 2
    assert made["Connect.lookupByName"] > 0, "the turn was given up: nothing was tried"


def image_of(own: Host, value: int) -> FileImage:
    """An image that is full of bytes of this value; it is in the cache."""
    path = own.peer.root / f"full-of-{value}.raw"
    path.write_bytes(bytes([value]) * (1 << 20))
    image = FileImage(path=path, format=ImageFormat.RAW)
    own.driver.cache_image(image)
    return image


def at_the_disks(own: Host, uuid: UUID) -> dict[str, tuple[Any, ...]]:
    """Operations that take disks away, or start the machine on others, and how they are called."""
    return {
        "rebuild": (uuid, image_of(own, 4)),
        "rescue": (uuid, image_of(own, 4)),
        "unrescue": (uuid,),
        "resize": (uuid, Flavor(vcpus=1, memory_mib=64, disk_gib=1)),
    }


AT_THE_DISKS = ["rebuild", "rescue", "unrescue", "resize"]


@pytest.mark.parametrize("operation", AT_THE_DISKS)
def test_disks_are_left_alone_in_a_turn(own: Host, operation: str) -> None:
    """While qemu-img may be at them."""
    with own.made_empty() as machine:
        uuid = machine.uuid
        arguments = at_the_disks(own, uuid)[operation]
        held = Held(own.peer.uri, "create_snapshot", (uuid, "x"), 6)
        assert held.name is not None
        with pytest.raises(errors.DeviceBusy) as busy:
            getattr(own.driver, operation)(*arguments, timeout=2)
        assert busy.value.retryable
        assert held.go_on() == "done"
        assert [each.name for each in own.driver.list_snapshots(uuid)] == ["x"]
        assert tags(own, f"{uuid}.root") == 1
        if operation in {"rebuild", "resize"}:
            with pytest.raises(errors.DeviceBusy, match="snapshots"):
                getattr(own.driver, operation)(*arguments)
        else:
            getattr(own.driver, operation)(*arguments)


@pytest.mark.parametrize("operation", ["rebuild", "rescue", "resize"])
def test_no_snapshot_is_made_while_disks_change(own: Host, operation: str) -> None:
    """It would be in a disk that goes, or qemu-img would keep the machine from its start."""
    with own.made_empty() as machine:
        uuid = machine.uuid
        arguments = at_the_disks(own, uuid)[operation]
        shown = Held(own.peer.uri, operation, arguments, -1)
        assert shown.go_on() == "done"
        last = len(shown.calls) - 1 - shown.calls[::-1].index("Domain.undefineFlags")
    with own.made_empty() as machine:
        uuid = machine.uuid
        arguments = (uuid, *arguments[1:])
        held = Held(own.peer.uri, operation, arguments, last)
        assert held.name == "Domain.undefineFlags"
        with pytest.raises(errors.DeviceBusy, match="another client is at"):
            own.driver.create_snapshot(uuid, "x", timeout=2)
        assert held.go_on() == "done"


@pytest.mark.parametrize("robbed", [False, True])
def test_no_snapshot_is_made_before_a_resize_is_undone(
    own: Host, other: ComputeDriver, robbed: bool
) -> None:
    """It would have the large disk in it, which is made small again; so a client that has lost its
    turn leaves the disk."""
    with own.made_empty() as machine:
        uuid = machine.uuid
        volume = own.raw.pools.disks().storageVolLookupByName(f"{uuid}.root")
        small, large = int(volume.info()[1]), 1 << 30

        def refused(_name: str, _send: Any) -> Any:
            if robbed:
                own.peer.virsh("undefine", f"hv-snapshot-of-{uuid}")
                other.create_snapshot(uuid, "x")
            else:
                with pytest.raises(errors.DeviceBusy, match="another client is at"):
                    other.create_snapshot(uuid, "x", timeout=2)
            raise INTERNAL

        with script(own.raw, "Domain.setVcpusFlags", refused) as seam:
            with pytest.raises(errors.HypervisorError):
                own.driver.resize(uuid, Flavor(vcpus=2, memory_mib=64, disk_gib=1))
            assert seam.reached
        assert int(volume.info()[1]) == (large if robbed else small)
        assert [each.name for each in own.driver.list_snapshots(uuid)] == ["x"] * robbed
        assert tags(own, f"{uuid}.root") == robbed


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("operation", ["rebuild", "resize"])
def test_what_a_dead_client_has_left_is_no_snapshot(own: Host, operation: str) -> None:
    """It is in no list, so nobody could delete it first."""
    with own.made_empty() as machine:
        uuid = machine.uuid
        arguments = at_the_disks(own, uuid)[operation]
        held = Held(own.peer.uri, "create_snapshot", (uuid, "x"), -1)
        assert held.go_on() == "done"
        half = held.calls.index("Domain.snapshotCreateXML")
    with own.made_empty() as machine:
        uuid = machine.uuid
        assert killed_in(own.peer.uri, "create_snapshot", (uuid, "x"), half, "after")
        assert not own.driver.list_snapshots(uuid)
        getattr(own.driver, operation)(uuid, *arguments[1:])
        assert not tree_of(own.raw.domains.find(uuid)).halves
        assert "hv-snap" not in own.peer.virsh("list", "--all", "--name")


@pytest.mark.parametrize("act", [CREATE, FIRST_BACK, DELETE], ids=lambda act: act[0])
def test_destroyed_meanwhile(own: Host, prepared: Any, act: Op) -> None:
    """Nothing stays, and no machine comes back: with a client that goes on, and with one that is
    dead."""
    numbers = changing_calls(own, prepared(False), act)
    for number in numbers if WHOLE else numbers[::4]:
        found: Prepared = prepared(False)
        held = Held(own.peer.uri, act[0], found.arguments(*act), number)
        own.driver.destroy(found.machine.uuid)
        assert held.go_on() in {"done", "InstanceNotFound"}, held.name
        found = prepared(False)
        assert killed_in(own.peer.uri, act[0], found.arguments(*act), number, "after")
        own.driver.destroy(found.machine.uuid)
