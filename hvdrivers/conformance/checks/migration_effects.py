"""Clauses of ``contract/migration.py``: what moves along, and what a failure leaves. The rest is in
``migration.py``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from uuid import UUID, uuid4

from hvdrivers.conformance.checks.host_volumes import fill_all
from hvdrivers.conformance.checks.migration import (
    MIGR_004,
    MIGR_012,
    Elsewhere,
    UnderWay,
    firmware,
    has,
    movable,
)
from hvdrivers.conformance.engine.assertions import booted, expect_no_boot, some_slice
from hvdrivers.conformance.engine.clauses import Case, Level, check, clause
from hvdrivers.conformance.engine.cutting import named, striking
from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.guest import Share
from hvdrivers.models.migration import BlockerKind
from hvdrivers.models.state import InstanceState

MIGR_015 = clause(
    "MIGR-015",
    "cold_migrate() that is cut before it is done leaves the instance at the source and nothing at"
    " the destination",
    operation="cold_migrate",
)
MIGR_016 = clause(
    "MIGR-016",
    "a machine with a volume, or with a device of the host, moves with it and can be started there;"
    " or check_live_migration() lists that as a reason, and live_migrate() refuses it",
    operation="check_live_migration",
)
MIGR_017 = clause(
    "MIGR-017",
    "the host that an instance is on already is a blocker of kind STATE, the only one, and"
    " live_migrate() to it raises InvalidRequest and changes nothing",
    operation="check_live_migration",
)
MIGR_018 = clause(
    "MIGR-018",
    "cold_migrate() to the host that the instance is on already raises InvalidRequest and changes"
    " nothing",
    operation="cold_migrate",
)
MIGR_019 = clause(
    "MIGR-019",
    "a machine with a share stays where it is: the share is a blocker of kind DEVICE, and"
    " live_migrate() raises InvalidRequest and changes nothing, until it is detached",
    operation="check_live_migration",
    needs=[Capability.SHARES],
)
MIGR_020 = clause(
    "MIGR-020",
    "cold_migrate() of a machine with a share raises InvalidRequest and changes nothing, until it"
    " is detached",
    operation="cold_migrate",
    needs=[Capability.SHARES],
)
MIGR_023 = clause(
    "MIGR-023",
    "a port that a powered-on machine has at the destination is a blocker of kind NETWORK, and"
    " live_migrate() raises InvalidRequest and changes nothing on either host",
    operation="check_live_migration",
)
MIGR_024 = clause(
    "MIGR-024",
    "a machine with the same UUID at the destination is a blocker of kind STATE, maintenance there"
    " one of kind RESOURCES, and live_migrate() raises InvalidRequest and changes nothing",
    operation="check_live_migration",
)
MIGR_025 = clause(
    "MIGR-025",
    "a destination without room for the disks is a blocker of kind STORAGE, and live_migrate()"
    " raises InvalidRequest and changes nothing",
    operation="check_live_migration",
    level=Level.SHOULD,
    needs=[Capability.HOST_VOLUMES],
)
MIGR_026 = clause(
    "MIGR-026",
    "destroy() on another connection ends a live migration that is under way: live_migrate() raises"
    " a defined error, and nothing of the instance is left on either host",
    operation="destroy",
    needs=[Capability.LIVE_MIGRATION],
)
MIGR_027 = clause(
    "MIGR-027",
    "live_migrate() to a host that dies on the way raises a defined error; the machine runs on at"
    " the source, and nothing is at the destination once that is back",
    operation="live_migrate",
    level=Level.SHOULD,
)
_TAG = "hvct"


MIGR_028 = clause(
    "MIGR-028",
    "what other machines of the host have is no blocker of a machine that has it not",
    operation="check_live_migration",
)


@check(MIGR_028)
def neighbours_do_not_block(trial: Trial) -> None:
    destination, kinds = trial.target.unfit_host()
    if BlockerKind.NETWORK not in kinds:
        raise PreconditionMissing("the unfit host has every network: no NIC is a blocker")
    movable(trial)
    uuid = trial.spawn().uuid
    plan = trial.driver.check_live_migration(uuid, destination)
    found = {each.kind for each in plan.blockers}
    trial.check(BlockerKind.NETWORK not in found, f"a machine without a NIC has {plan.blockers}")


@check(MIGR_004)
def guest_notices_no_move(trial: Trial) -> None:
    there = Elsewhere(trial)
    uuid = movable(trial)
    there.expect(uuid)
    starts = booted(trial, uuid)
    trial.target.write_disk(trial.driver, uuid, "before")
    trial.driver.live_migrate(uuid, there.destination)
    trial.equal(trial.target.boots(there.driver, uuid), starts, "starts of the guest")
    found = list(trial.target.written(there.driver, uuid))
    trial.equal(found, ["before"], "what the guest finds on its disk at the destination")


@check(MIGR_012)
def data_moves_along(trial: Trial) -> None:
    there = Elsewhere(trial)
    uuid = movable(trial)
    there.expect(uuid)
    trial.target.wait_booted(trial.driver, uuid)
    trial.target.write_disk(trial.driver, uuid, "before")
    trial.driver.power_off(uuid)
    trial.driver.cold_migrate(uuid, there.destination)
    trial.check(trial.target.on_disk(there.driver, uuid, "before"), "lost by cold_migrate()")


@check(MIGR_012, needs=[Capability.SNAPSHOTS])
def snapshots_move_along(trial: Trial) -> None:
    there = Elsewhere(trial)
    uuid = movable(trial, start=False)
    there.expect(uuid)
    trial.driver.create_snapshot(uuid, "hvct")
    before, tree = trial.picture(), trial.driver.list_snapshots(uuid)
    try:
        trial.driver.cold_migrate(uuid, there.destination)
    except errors.InvalidRequest:
        trial.equal(trial.picture(), before, "the source, where snapshots are in the way")
    else:
        trial.equal(there.driver.list_snapshots(uuid), tree, "snapshots at the destination")


@check(MIGR_015)
def cut_keeps_it_here(trial: Trial) -> None:
    seam = trial.faults
    there = Elsewhere(trial)
    uuid = movable(trial, start=False)
    there.expect(uuid)
    before = there.picture()
    twin = movable(trial, start=False)
    there.expect(twin)
    with seam.counting() as calls:
        trial.driver.cold_migrate(twin, there.destination)
    there.driver.destroy(twin)
    for number in range(len(calls)):
        name, occurrence = named(calls, number)
        here, where = trial.picture(), f"cut before call {number + 1} ({name})"
        with striking(seam, name, occurrence, "before"):
            try:
                trial.driver.cold_migrate(uuid, there.destination)
            except errors.ConnectionFailed:
                trial.equal(trial.picture(), here, f"the source, {where}")
                trial.equal(there.picture(), before, f"the destination, {where}")
            except errors.OutcomeUnknown:
                places = [has(who, uuid) for who in (trial.driver, there.driver)]
                trial.equal(sum(places), 1, f"hosts that the instance is on, {where}")
                if places[1]:
                    break
            else:
                break  # it was done before that call, or the driver has made the call again
    if not has(there.driver, uuid):
        trial.driver.cold_migrate(uuid, there.destination)
    trial.check(has(there.driver, uuid), "it does not arrive when nothing cuts it")


def _volume(trial: Trial) -> dict[str, Any]:
    return {"volumes": (trial.attachment(),)}


def _slice(trial: Trial) -> dict[str, Any]:
    return {"vgpus": (some_slice(trial),)}


@check(
    MIGR_016,
    cases=[
        Case("volume", (_volume,), needs=frozenset({Capability.HOST_VOLUMES})),
        Case("slice", (_slice,), needs=frozenset({Capability.VGPU})),
    ],
)
def moves_or_is_a_reason(trial: Trial, changes: Callable[[Trial], dict[str, Any]]) -> None:
    there = Elsewhere(trial)
    having = changes(trial)
    before = trial.driver.get_available_resource()
    uuid = movable(trial, **having)
    there.expect(uuid)
    plan = trial.driver.check_live_migration(uuid, there.destination)
    if not plan.possible:
        kinds = {each.kind for each in plan.blockers}
        trial.check(kinds <= {BlockerKind.STORAGE, BlockerKind.DEVICE}, f"reasons: {kinds}")
        with trial.unchanged(), trial.raises(errors.InvalidRequest):
            trial.driver.live_migrate(uuid, there.destination)
        return
    info = trial.driver.get_instance(uuid)
    trial.driver.live_migrate(uuid, there.destination)
    trial.equal(there.driver.get_instance(uuid), info, "the instance at the destination")
    devices = trial.driver.get_available_resource().devices
    trial.equal(devices, before.devices, "devices that are left at the source")
    there.driver.power_off(uuid)
    there.driver.power_on(uuid)
    trial.equal(there.driver.get_instance(uuid).state, InstanceState.RUNNING, "state there")


@check(MIGR_017)
def is_there_already(trial: Trial) -> None:
    there = Elsewhere(trial)
    uuid = movable(trial)
    there.expect(uuid)
    trial.driver.live_migrate(uuid, there.destination)
    # what leads there from here leads from there to itself
    before = there.picture()
    plan = there.driver.check_live_migration(uuid, there.destination)
    kinds = [each.kind for each in plan.blockers]
    trial.equal(kinds, [BlockerKind.STATE], "blockers of the host that it is on")
    with trial.raises(errors.InvalidRequest):
        there.driver.live_migrate(uuid, there.destination)
    trial.equal(there.picture(), before, "the host that it is on")


@check(MIGR_018)
def is_there_already_when_stopped(trial: Trial) -> None:
    there = Elsewhere(trial)
    uuid = movable(trial, start=False)
    there.expect(uuid)
    trial.driver.cold_migrate(uuid, there.destination)
    before = there.picture()
    with trial.raises(errors.InvalidRequest):
        there.driver.cold_migrate(uuid, there.destination)
    trial.equal(there.picture(), before, "the host that it is on")


def _sharing(trial: Trial, there: Elsewhere) -> UUID:
    path, _ = trial.target.shared_directories()
    uuid = movable(trial, start=False)
    there.expect(uuid)
    trial.driver.attach_share(uuid, Share(tag=_TAG, path=path))
    return uuid


@check(MIGR_019)
def share_is_a_reason(trial: Trial) -> None:
    there = Elsewhere(trial)
    uuid = _sharing(trial, there)
    trial.driver.power_on(uuid)
    with trial.unchanged():
        plan = trial.driver.check_live_migration(uuid, there.destination)
        found = [(each.kind, each.device) for each in plan.blockers]
        trial.equal(found, [(BlockerKind.DEVICE, _TAG)], "blockers of a machine with a share")
        with trial.raises(errors.InvalidRequest):
            trial.driver.live_migrate(uuid, there.destination)
    trial.driver.power_off(uuid)
    trial.driver.detach_share(uuid, _TAG)
    trial.driver.power_on(uuid)
    plan = trial.driver.check_live_migration(uuid, there.destination)
    trial.equal(plan.blockers, (), "blockers once the share is detached")


@check(MIGR_020)
def share_holds_it_when_stopped(trial: Trial) -> None:
    there = Elsewhere(trial)
    uuid = _sharing(trial, there)
    before = there.picture()
    with trial.unchanged(), trial.raises(errors.InvalidRequest):
        trial.driver.cold_migrate(uuid, there.destination)
    trial.equal(there.picture(), before, "the other host")
    trial.driver.detach_share(uuid, _TAG)
    trial.driver.cold_migrate(uuid, there.destination)
    trial.check(has(there.driver, uuid), "it does not arrive without its share")


def _in_the_way(trial: Trial, there: Elsewhere, uuid: UUID, kind: BlockerKind) -> None:
    """This, and nothing else, speaks against the move."""
    before = there.picture()
    with trial.unchanged():
        plan = trial.driver.check_live_migration(uuid, there.destination)
        trial.equal({each.kind for each in plan.blockers}, {kind}, "kinds of blockers")
        with trial.raises(errors.InvalidRequest):
            trial.driver.live_migrate(uuid, there.destination)
    trial.equal(there.picture(), before, "the destination")


def _out_of_the_way(trial: Trial, there: Elsewhere, uuid: UUID) -> None:
    plan = trial.driver.check_live_migration(uuid, there.destination)
    trial.equal(plan.blockers, (), "blockers once it is out of the way")


@check(MIGR_023)
def port_is_in_use_there(trial: Trial) -> None:
    there = Elsewhere(trial)
    port = trial.target.movable_vif(str(uuid4()))
    uuid = movable(trial, vifs=(port,))
    there.expect(uuid)
    rival = trial.spec(vifs=(port,))
    there.expect(rival.uuid)
    try:
        there.driver.spawn(rival)
    except errors.DeviceBusy:
        trial.check(True, "one port is one machine's on all hosts of this hypervisor")
        return
    _in_the_way(trial, there, uuid, BlockerKind.NETWORK)
    there.driver.power_off(rival.uuid)
    _out_of_the_way(trial, there, uuid)


@check(MIGR_024)
def identity_is_taken_there(trial: Trial) -> None:
    there = Elsewhere(trial)
    uuid = movable(trial)
    there.expect(uuid)
    try:
        there.driver.spawn(trial.spec(uuid=uuid, start=False))
    except errors.InstanceExists:
        trial.check(True, "one UUID is one machine on all hosts of this hypervisor")
        return
    _in_the_way(trial, there, uuid, BlockerKind.STATE)
    there.driver.destroy(uuid)
    _out_of_the_way(trial, there, uuid)


@check(MIGR_024, needs=[Capability.MAINTENANCE])
def takes_nothing_in_maintenance(trial: Trial) -> None:
    there = Elsewhere(trial)
    uuid = movable(trial)
    there.expect(uuid)
    trial.after(there.driver.exit_maintenance)
    there.driver.enter_maintenance()
    _in_the_way(trial, there, uuid, BlockerKind.RESOURCES)
    there.driver.exit_maintenance()
    _out_of_the_way(trial, there, uuid)


@check(MIGR_025)
def has_no_room_there(trial: Trial) -> None:
    there = Elsewhere(trial)
    uuid = movable(trial)
    there.expect(uuid)
    filling = Trial(trial.target, there.driver, trial.journal)
    trial.after(filling.close)
    fill_all(filling)
    _in_the_way(trial, there, uuid, BlockerKind.STORAGE)
    filling.close()
    _out_of_the_way(trial, there, uuid)


@check(MIGR_026)
def destroyed_on_the_way(trial: Trial) -> None:
    there = Elsewhere(trial)
    other = trial.other  # on one connection destroy() waits for the end of live_migrate()
    here, elsewhere = trial.picture(), there.picture()
    uuid = movable(trial, **firmware(trial))
    there.expect(uuid)
    with ExitStack() as restless:
        restless.enter_context(trial.target.restless_guest(trial.driver, uuid))
        move = UnderWay(trial, uuid, there.destination)
        other.destroy(uuid)
        error = move.ended()
    trial.check(isinstance(error, errors.HypervisorError), f"live_migrate() ended with {error!r}")
    trial.equal(trial.picture(), here, "the source after destroy()")
    trial.equal(there.picture(), elsewhere, "the destination after destroy()")
    there.driver.spawn(trial.spec(uuid=uuid, start=False))
    trial.check(has(there.driver, uuid), "the UUID cannot be used at the destination")


@check(MIGR_027)
def destination_dies_on_the_way(trial: Trial) -> None:
    there = Elsewhere(trial)
    uuid = movable(trial)
    there.expect(uuid)
    starts = booted(trial, uuid)
    before = there.picture()
    with trial.unchanged(), ExitStack() as restless:
        restless.enter_context(trial.target.restless_guest(trial.driver, uuid))
        move = UnderWay(trial, uuid, there.destination)
        with trial.target.dead_host(there.destination):
            restless.close()  # who does not look before the switch comes to it now
            error = move.ended()
    trial.check(isinstance(error, errors.HypervisorError), f"live_migrate() ended with {error!r}")
    trial.equal(trial.state(uuid), InstanceState.RUNNING, "state at the source")
    expect_no_boot(trial, uuid, starts, "after the destination has died")
    trial.equal(there.picture(), before, "the destination, which is back")
    trial.driver.live_migrate(uuid, there.destination)
    trial.check(has(there.driver, uuid), "a later attempt does not arrive")
