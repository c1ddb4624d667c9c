"""Clauses about what keeps an instance from another host."""

from __future__ import annotations

from contextlib import ExitStack
from uuid import UUID, uuid4

from hvdrivers.conformance.checks.host_volumes import fill_all
from hvdrivers.conformance.checks.migration import Elsewhere, firmware, has, movable
from hvdrivers.conformance.checks.migration_effects import TAG
from hvdrivers.conformance.checks.migration_under_way import UnderWay
from hvdrivers.conformance.engine.assertions import booted, expect_no_boot
from hvdrivers.conformance.engine.clauses import Level, check, clause
from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.guest import Share
from hvdrivers.models.migration import BlockerKind
from hvdrivers.models.state import InstanceState

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


def _sharing(trial: Trial, there: Elsewhere) -> UUID:
    path, _ = trial.target.shared_directories()
    uuid = movable(trial, start=False)
    there.expect(uuid)
    trial.driver.attach_share(uuid, Share(tag=TAG, path=path))
    return uuid


@check(MIGR_019)
def share_is_a_reason(trial: Trial) -> None:
    there = Elsewhere(trial)
    uuid = _sharing(trial, there)
    trial.driver.power_on(uuid)
    with trial.unchanged():
        plan = trial.driver.check_live_migration(uuid, there.destination)
        found = [(each.kind, each.device) for each in plan.blockers]
        trial.equal(found, [(BlockerKind.DEVICE, TAG)], "blockers of a machine with a share")
        with trial.raises(errors.InvalidRequest):
            trial.driver.live_migrate(uuid, there.destination)
    trial.driver.power_off(uuid)
    trial.driver.detach_share(uuid, TAG)
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
    trial.driver.detach_share(uuid, TAG)
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
