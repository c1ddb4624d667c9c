"""Clauses of ``MoveInSteps`` in ``contract/migration.py``: what can be taken back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from hvdrivers.conformance.checks.migration import Elsewhere, has, movable
from hvdrivers.conformance.checks.storage_servers import served_kinds
from hvdrivers.conformance.engine.assertions import IMPOSSIBLE_MEMORY_MIB, larger
from hvdrivers.conformance.engine.clauses import Case, Level, check, clause
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.instance import Flavor, InstanceInfo
from hvdrivers.models.migration import MovePhase
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import VolumeAttachment

MOVE_001 = clause(
    "MOVE-001",
    "prepare_move() leaves the source as it was, marked and STOPPED, and every operation but reads,"
    " confirm_move(), revert_move() and destroy() raises InvalidState and changes nothing",
    operation="prepare_move",
)
MOVE_002 = clause(
    "MOVE-002",
    "after finish_move() the destination has the instance, STOPPED, with its disks' content, name,"
    " metadata and NICs, and the flavor of the move; the source is still there",
    operation="finish_move",
)
MOVE_003 = clause(
    "MOVE-003",
    "confirm_move() leaves nothing at the source and the instance at the destination",
    operation="confirm_move",
)
MOVE_004 = clause(
    "MOVE-004",
    "revert_move() gives back the instance with the flavor and the bytes that it had, whatever was"
    " written meanwhile, and leaves nothing of the move",
    operation="revert_move",
)
MOVE_005 = clause(
    "MOVE-005",
    "confirm_move() before finish_move(), and revert_move() while the destination has the instance,"
    " raise InvalidState and change nothing",
    operation="confirm_move",
)
MOVE_006 = clause(
    "MOVE-006",
    "each step of a move, repeated, succeeds and changes nothing more",
    operation="prepare_move",
)
MOVE_007 = clause(
    "MOVE-007",
    "destroy() of the source of a move leaves nothing of it, at the destination either",
    operation="prepare_move",
)

MOVE_010 = clause(
    "MOVE-010",
    "destroy() at the destination after prepare_move() removes the copy there, and no more:"
    " finish_move() raises InstanceNotFound, and revert_move() gives back the source",
    operation="prepare_move",
)

MOVE_009 = clause(
    "MOVE-009",
    "what a storage server asks for goes along with a machine that moves: after confirm_move() the"
    " source has nothing of it, after revert_move() the destination",
    operation="prepare_move",
    level=Level.SHOULD,
)

MOVE_008 = clause(
    "MOVE-008",
    "prepare_move() with a flavor that the host can never take, or with a smaller disk, is refused"
    " and changes nothing",
    operation="prepare_move",
)


def _bigger(trial: Trial) -> Flavor:
    flavor = trial.target.flavor
    return larger(flavor, vcpus=flavor.vcpus + 1, disk_gib=flavor.disk_gib + 1)


def _written(trial: Trial, uuid: UUID, text: str) -> None:
    """Let the guest write something, and switch it off."""
    trial.driver.power_on(uuid)
    trial.target.wait_booted(trial.driver, uuid)
    trial.target.write_disk(trial.driver, uuid, text)
    trial.driver.power_off(uuid)


def _unmarked(info: InstanceInfo) -> InstanceInfo:
    return info.model_copy(update={"move": None})


_FORBIDDEN: dict[str, Callable[[Trial, UUID], object]] = {
    "power_on": lambda t, uuid: t.driver.power_on(uuid),
    "rename": lambda t, uuid: t.driver.rename(uuid, "hvct-other"),
    "set_metadata": lambda t, uuid: t.driver.set_metadata(uuid, {"a": "b"}),
    "unplug_vif": lambda t, uuid: t.driver.unplug_vif(uuid, "hvct-nic"),
}


@check(MOVE_001, cases=[Case(name, (call,)) for name, call in _FORBIDDEN.items()])
def source_is_kept(trial: Trial, call: Callable[[Trial, UUID], object]) -> None:
    uuid = movable(trial, start=False)
    before = trial.driver.get_instance(uuid)
    trial.driver.prepare_move(uuid, flavor=_bigger(trial))
    now = trial.other.get_instance(uuid)
    trial.equal(now, before.model_copy(update={"move": MovePhase.PREPARED}), "the source")
    with trial.unchanged(), trial.raises(errors.InvalidState) as caught:
        call(trial, uuid)
    trial.check(all(each.hint for each in caught), "the error has no hint")


@check(MOVE_002)
def arrives_whole(trial: Trial) -> None:
    there = Elsewhere(trial)
    uuid = movable(trial, start=False)
    there.expect(uuid)
    _written(trial, uuid, "hvct before")
    before = trial.driver.get_instance(uuid)
    move = trial.driver.prepare_move(uuid, there.destination, flavor=_bigger(trial))
    trial.check(not has(there.driver, uuid), "it is at the destination before finish_move()")
    found = there.driver.finish_move(move)
    wanted = before.model_copy(update={"flavor": _bigger(trial)})
    trial.equal(found, wanted, "what finish_move() returned")
    trial.equal(there.driver.get_instance(uuid), wanted, "the instance at the destination")
    trial.equal(_unmarked(trial.driver.get_instance(uuid)), before, "the source")
    there.driver.power_on(uuid)
    content = list(trial.target.written(there.driver, uuid))
    trial.equal(content, ["hvct before"], "what the guest finds at the destination")


@check(MOVE_002)
def zero_leaves_the_disk(trial: Trial) -> None:
    uuid = movable(trial, start=False)
    _written(trial, uuid, "hvct before")
    wanted = larger(trial.target.flavor, disk_gib=0)
    trial.driver.finish_move(trial.driver.prepare_move(uuid, flavor=wanted))
    trial.driver.power_on(uuid)
    trial.target.wait_booted(trial.driver, uuid)
    content = list(trial.target.written(trial.driver, uuid))
    trial.equal(content, ["hvct before"], "what the guest finds after a move with disk_gib=0")


@check(MOVE_002, needs=[Capability.HOST_VOLUMES, Capability.BOOT_FROM_VOLUME])
def boots_from_its_volume(trial: Trial) -> None:
    boots = VolumeAttachment(volume=trial.volume(1 << 30), boot_index=0)
    uuid = movable(trial, start=False, volumes=(boots,))
    wanted = larger(trial.target.flavor, vcpus=trial.target.flavor.vcpus + 1)
    found = trial.driver.finish_move(trial.driver.prepare_move(uuid, flavor=wanted))
    trial.equal(found.flavor, wanted, "flavor")
    trial.equal([each.boot_index for each in found.volumes], [0], "volumes that it boots from")
    trial.driver.power_on(uuid)
    trial.driver.confirm_move(uuid)
    trial.equal(trial.state(uuid), InstanceState.RUNNING, "state after confirm_move()")


@check(MOVE_003)
def nothing_stays_behind(trial: Trial) -> None:
    there = Elsewhere(trial)
    before = trial.picture()
    uuid = movable(trial, start=False)
    there.expect(uuid)
    there.driver.finish_move(trial.driver.prepare_move(uuid, there.destination))
    trial.driver.confirm_move(uuid)
    trial.equal(trial.picture(), before, "the source after confirm_move()")
    there.driver.power_on(uuid)
    state = there.driver.get_instance(uuid).state
    trial.equal(state, InstanceState.RUNNING, "state at the destination")


@check(MOVE_009, cases=served_kinds())
def secrets_go_along(trial: Trial, kind: Capability) -> None:
    there = Elsewhere(trial)
    before = _picture(trial, there)
    with trial.target.served_volume(trial.driver, kind) as volume:
        attachment = VolumeAttachment(volume=volume)
        uuid = movable(trial, start=False, volumes=(attachment,))
        there.expect(uuid)
        mine = trial.picture()
        to = there.destination.model_copy(update={"volumes": (attachment,)})
        there.driver.finish_move(trial.driver.prepare_move(uuid, to))
        there.driver.destroy(uuid)
        trial.driver.revert_move(uuid)
        trial.equal(_picture(trial, there), [mine, before[1]], "both hosts after revert_move()")
        there.driver.finish_move(trial.driver.prepare_move(uuid, to))
        trial.driver.confirm_move(uuid)
        trial.equal(trial.picture(), before[0], "the source after confirm_move()")
        there.driver.destroy(uuid)
        trial.equal(_picture(trial, there), before, "both hosts after destroy()")


@check(MOVE_003)
def other_flavor_is_confirmed(trial: Trial) -> None:
    uuid = movable(trial, start=False)
    twin = movable(trial, start=False, vifs=())
    trial.driver.finish_move(trial.driver.prepare_move(uuid, flavor=_bigger(trial)))
    trial.driver.power_on(uuid)
    trial.driver.confirm_move(uuid)
    trial.equal(trial.state(uuid), InstanceState.RUNNING, "state after confirm_move()")
    info = trial.driver.get_instance(uuid)
    trial.equal((info.flavor, info.move), (_bigger(trial), None), "flavor, and what is left")
    if trial.observer is not None:
        own = [len(trial.observer.own_disks(each)) for each in (uuid, twin)]
        trial.equal(own[0], own[1], "disks of a machine that has moved, and of one that has not")


def _picture(trial: Trial, there: Elsewhere | None) -> list[Any]:
    return [trial.picture(), there.picture() if there is not None else None]


@check(MOVE_004, cases=[Case("another host", (True,)), Case("the same host", (False,))])
def is_given_back(trial: Trial, away: bool) -> None:
    there = Elsewhere(trial) if away else None
    uuid = movable(trial, start=False)
    if there is not None:
        there.expect(uuid)
    _written(trial, uuid, "hvct before")
    before = _picture(trial, there)
    destination = None if there is None else there.destination
    move = trial.driver.prepare_move(uuid, destination, flavor=_bigger(trial))
    host = trial.driver if there is None else there.driver
    host.finish_move(move)
    host.power_on(uuid)
    trial.target.wait_booted(host, uuid)
    trial.target.write_disk(host, uuid, "hvct after")
    host.power_off(uuid)
    if there is not None:
        there.driver.destroy(uuid)
    trial.driver.revert_move(uuid)
    trial.equal(trial.driver.get_instance(uuid).flavor, trial.target.flavor, "flavor")
    trial.driver.power_on(uuid)
    trial.target.wait_booted(trial.driver, uuid)
    content = list(trial.target.written(trial.driver, uuid))
    trial.equal(content, ["hvct before"], "what the guest finds after revert_move()")
    trial.driver.power_off(uuid)
    after = _picture(trial, there)
    for picture in (before[0], after[0]):
        picture.pop("residue", None)  # an observer may count starts
    trial.equal(after, before, "both hosts after revert_move()")


@check(MOVE_004)
def prepared_is_given_back(trial: Trial) -> None:
    there = Elsewhere(trial)
    uuid = movable(trial, start=False)
    before = _picture(trial, there)
    trial.driver.prepare_move(uuid, there.destination, flavor=_bigger(trial))
    trial.driver.revert_move(uuid)
    trial.equal(_picture(trial, there), before, "both hosts after revert_move()")


@check(MOVE_005)
def only_whole_copy_is_kept(trial: Trial) -> None:
    there = Elsewhere(trial)
    uuid = movable(trial, start=False)
    there.expect(uuid)
    move = trial.driver.prepare_move(uuid, there.destination)
    with trial.unchanged(), trial.raises(errors.InvalidState):
        trial.driver.confirm_move(uuid)
    there.driver.finish_move(move)
    with trial.unchanged(), trial.raises(errors.InvalidState):
        trial.driver.revert_move(uuid)
    trial.check(has(there.driver, uuid), "the instance at the destination has gone")
    trial.driver.confirm_move(uuid)
    here = movable(trial, start=False)
    trial.driver.prepare_move(here, flavor=_bigger(trial))
    with trial.unchanged(), trial.raises(errors.InvalidState):
        trial.driver.confirm_move(here)


@check(MOVE_006)
def steps_are_repeated(trial: Trial) -> None:
    there = Elsewhere(trial)
    uuid = movable(trial, start=False)
    there.expect(uuid)
    move = trial.driver.prepare_move(uuid, there.destination)
    with trial.unchanged():
        trial.equal(trial.other.prepare_move(uuid, there.destination), move, "the second reply")
        with trial.raises(errors.InvalidState):
            trial.driver.prepare_move(uuid, flavor=_bigger(trial))
    info = there.driver.finish_move(move)
    before = there.picture()
    trial.equal(there.driver.finish_move(move), info, "the second reply")
    trial.equal(there.picture(), before, "the destination")
    for _ in range(2):
        trial.driver.confirm_move(uuid)
    other = movable(trial, start=False)
    with trial.unchanged():
        trial.driver.confirm_move(other)
        trial.driver.revert_move(other)


@check(MOVE_007)
def destroyed_on_the_way(trial: Trial) -> None:
    there = Elsewhere(trial)
    before = _picture(trial, there)
    for destination in (there.destination, None):
        uuid = movable(trial, start=False)
        trial.driver.prepare_move(uuid, destination)
        trial.driver.destroy(uuid)
        trial.equal(_picture(trial, there), before, "both hosts after destroy()")


@check(MOVE_010)
def prepared_copy_is_destroyed(trial: Trial) -> None:
    there = Elsewhere(trial)
    uuid = movable(trial, start=False)
    there.expect(uuid)
    before = _picture(trial, there)
    move = trial.driver.prepare_move(uuid, there.destination)
    here = trial.picture()
    for _ in range(2):
        there.driver.destroy(uuid)
        trial.equal(_picture(trial, there), [here, before[1]], "both hosts after destroy() there")
    with trial.raises(errors.InstanceNotFound):
        there.driver.finish_move(move)
    trial.driver.revert_move(uuid)
    trial.equal(_picture(trial, there), before, "both hosts after revert_move()")
    trial.driver.power_on(uuid)
    trial.equal(trial.state(uuid), InstanceState.RUNNING, "state after revert_move()")


@check(MOVE_008)
def host_has_not_that_much(trial: Trial) -> None:
    uuid = movable(trial, start=False)
    wanted = larger(trial.target.flavor, memory_mib=IMPOSSIBLE_MEMORY_MIB)
    with trial.unchanged(), trial.raises(errors.InsufficientResources):
        trial.driver.prepare_move(uuid, flavor=wanted)


@check(MOVE_008)
def disk_does_not_shrink(trial: Trial) -> None:
    uuid = movable(trial, start=False, flavor=_bigger(trial))
    with trial.unchanged(), trial.raises(errors.InvalidRequest):
        trial.driver.prepare_move(uuid, flavor=trial.target.flavor)
