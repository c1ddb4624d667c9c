"""Clauses about what can be done with an adopted machine (``contract/lifecycle.py``): who takes
over a fleet expects to manage it. What a driver cannot do with one it refuses as itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

from hvdrivers.conformance.checks.migration import Elsewhere
from hvdrivers.conformance.engine.clauses import Clause, check, clause
from hvdrivers.conformance.engine.trial import METADATA_KEY, Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.instance import InstanceInfo
from hvdrivers.models.state import InstanceState

_OR = (
    "; or the driver refuses it with NotSupported or InvalidRequest and a hint, and changes nothing"
)


def adopted_clause(number: str, rule: str, *needs: Capability) -> Clause:
    """A clause that a driver keeps, too, by a refusal as itself."""
    return clause(f"ADOPT-{number}", rule + _OR, operation="adopt", needs=needs)


ADOPT_007 = adopted_clause(
    "007",
    "an adopted machine that is STOPPED has snapshots: one that is made is listed, is gone back to,"
    " and is deleted, and the machine stays an instance of ours",
    Capability.SNAPSHOTS,
)
ADOPT_008 = adopted_clause(
    "008",
    "resize() gives an adopted machine the CPUs and the memory of the flavor, and nothing else"
    " changes",
    Capability.RESIZE,
)
ADOPT_009 = adopted_clause(
    "009",
    "a volume is attached to an adopted machine and detached; destroy() of the machine leaves an"
    " attached one",
    Capability.HOST_VOLUMES,
)
ADOPT_010 = adopted_clause(
    "010",
    "after cold_migrate() an adopted machine is an instance of ours at the destination, with its"
    " label and its metadata, and nothing of it is left at the source",
    Capability.COLD_MIGRATION,
)
ADOPT_011 = adopted_clause(
    "011",
    "after live_migrate() an adopted machine is an instance of ours at the destination, with its"
    " label and its metadata, and nothing of it is left at the source",
    Capability.LIVE_MIGRATION,
)


@contextmanager
def adopted_machine(trial: Trial, *, on: bool = False) -> Iterator[InstanceInfo]:
    """An adopted machine, which is destroyed at the end of the block."""
    label = f"{trial.journal.prefix}adopted"
    if trial.has(Capability.HOST_VOLUMES):
        # a driver may make its storage at its first use, and a target puts the machine's disk there
        trial.driver.list_volumes()
    with trial.target.foreign_machine() as uuid:
        trial.will_destroy(uuid)
        metadata = {METADATA_KEY: trial.journal.run, "hvct.kept": "yes"}
        info = trial.driver.adopt(uuid, name=label, metadata=metadata)
        wanted = InstanceState.RUNNING if on else InstanceState.STOPPED
        if info.state is not wanted:
            (trial.driver.power_on if on else trial.driver.power_off)(uuid)
        yield trial.driver.get_instance(uuid)
        trial.driver.destroy(uuid)


def is_done(trial: Trial, act: Callable[[], object]) -> bool:
    """Whether the driver has done it; else it has refused it, and changed nothing."""
    before = trial.picture()
    try:
        act()
    except (errors.NotSupported, errors.InvalidRequest) as error:
        trial.check(error.hint, f"a refusal without a hint: {error}")
        trial.equal(trial.picture(), before, "the host after a refusal")
        return False
    return True


@check(ADOPT_007)
def has_snapshots(trial: Trial) -> None:
    with adopted_machine(trial) as info:
        uuid, driver = info.uuid, trial.driver
        if not is_done(trial, lambda: driver.create_snapshot(uuid, "one")):
            return
        listed = trial.other.list_snapshots(uuid)
        trial.equal([each.name for each in listed], ["one"], "its snapshots")
        driver.revert_snapshot(uuid, listed[0].id)
        expect_as_before(trial, info)
        driver.create_snapshot(uuid, "two")
        driver.delete_snapshot(uuid, listed[0].id)
        names = [each.name for each in driver.list_snapshots(uuid)]
        trial.equal(names, ["two"], "its snapshots after one was deleted")
        expect_as_before(trial, info)


@check(ADOPT_008)
def gets_another_size(trial: Trial) -> None:
    with adopted_machine(trial) as info:
        flavor = info.flavor.model_copy(
            update={"vcpus": info.flavor.vcpus + 1, "memory_mib": info.flavor.memory_mib + 64}
        )
        flavor = type(flavor).model_validate(flavor.model_dump() | {"max_vcpus": None})
        if is_done(trial, lambda: trial.driver.resize(info.uuid, flavor)):
            now = trial.other.get_instance(info.uuid).flavor
            sizes = (now.vcpus, now.memory_mib)
            trial.equal(sizes, (flavor.vcpus, flavor.memory_mib), "CPUs and memory")
            shown = trial.driver.get_instance(info.uuid).model_copy(update={"flavor": info.flavor})
            trial.equal(shown, info, "the rest of the machine")


@check(ADOPT_009)
def has_volumes(trial: Trial) -> None:
    attachment = trial.attachment()
    volume_id = attachment.volume_id
    with adopted_machine(trial) as info:
        uuid, driver = info.uuid, trial.driver
        if not is_done(trial, lambda: driver.attach_volume(uuid, attachment)):
            return
        for attached in (True, False):
            found = [each.volume_id for each in trial.other.get_instance(uuid).volumes]
            trial.equal(found, [volume_id] if attached else [], "its volumes")
            if attached:
                driver.detach_volume(uuid, volume_id)
        expect_as_before(trial, info)
        driver.attach_volume(uuid, attachment)
    kept = {each.volume_id for each in trial.driver.list_volumes()}
    trial.check(volume_id in kept, "the volume has gone with the machine")


def _moves(trial: Trial, *, on: bool) -> None:
    there = Elsewhere(trial)
    before = trial.picture()
    with adopted_machine(trial, on=on) as info:
        uuid = info.uuid
        there.expect(uuid)
        move = trial.driver.live_migrate if on else trial.driver.cold_migrate
        if not is_done(trial, lambda: move(uuid, there.destination)):
            return
        trial.equal(trial.picture(), before, "the source after the machine has left")
        with trial.raises(errors.InstanceNotFound):
            trial.driver.get_instance(uuid)
        now = there.driver.get_instance(uuid)
        shown = (now.name, dict(now.metadata), now.state)
        trial.equal(shown, (info.name, dict(info.metadata), info.state), "the machine there")
        listed = {each.uuid for each in there.driver.list_instances()}
        trial.check(uuid in listed, "it is in no list of instances there")
        foreign = {each.uuid for each in there.driver.list_foreign()}
        trial.check(uuid not in foreign, "it is listed as foreign there")


@check(ADOPT_010)
def moves_while_it_is_off(trial: Trial) -> None:
    _moves(trial, on=False)


@check(ADOPT_011)
def moves_while_it_is_on(trial: Trial) -> None:
    _moves(trial, on=True)


def expect_as_before(trial: Trial, info: InstanceInfo) -> None:
    """It is this instance of ours, on each connection, and no machine of others."""
    uuid: UUID = info.uuid
    for driver in (trial.driver, trial.other):
        trial.equal(driver.get_instance(uuid), info, "the machine")
        foreign = {each.uuid for each in driver.list_foreign()}
        trial.check(uuid not in foreign, "it is listed as foreign again")
