"""Clauses about machines that this library did not make: shown, never touched, adopted on
request (``contract/lifecycle.py``)."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID, uuid4

from hvdrivers.conformance.checks.states import CALLS
from hvdrivers.conformance.engine.clauses import check, clause
from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.conformance.engine.refusals import REQUESTS
from hvdrivers.conformance.engine.trial import METADATA_KEY, Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.driver import OPERATIONS
from hvdrivers.contract.operation import Scope
from hvdrivers.models.state import InstanceState

FOREIGN_001 = clause(
    "FOREIGN-001",
    "a machine of others is in list_foreign(), and in no list of instances",
    operation="list_foreign",
)
FOREIGN_002 = clause(
    "FOREIGN-002", "an instance of ours is not in list_foreign()", operation="list_foreign"
)
FOREIGN_003 = clause(
    "FOREIGN-003",
    "to every operation but adopt() a machine of others is InstanceNotFound, and stays as it is",
)
FOREIGN_004 = clause(
    "FOREIGN-004",
    "spawn() with the UUID of a foreign machine raises InstanceExists and does not touch it",
    operation="spawn",
)
FOREIGN_005 = clause(
    "FOREIGN-005",
    "to every operation but destroy() an instance that does not exist is InstanceNotFound",
)
FOREIGN_006 = clause(
    "FOREIGN-006",
    "list_foreign() shows the name that the machine has on the hypervisor, and the state that it is"
    " in now",
    operation="list_foreign",
)
ADOPT_001 = clause(
    "ADOPT-001",
    "an adopted machine is an instance of ours, on every connection, in the state that it was in",
    operation="adopt",
)
ADOPT_002 = clause("ADOPT-002", "adopt() changes nothing but the mark", operation="adopt")
ADOPT_003 = clause(
    "ADOPT-003", "adopt() of an instance of ours returns it and changes nothing", operation="adopt"
)
ADOPT_004 = clause(
    "ADOPT-004",
    "adopt() of a machine that does not exist raises InstanceNotFound",
    operation="adopt",
)
ADOPT_005 = clause(
    "ADOPT-005", "destroy() of an adopted machine removes it with its disks", operation="adopt"
)
ADOPT_006 = clause(
    "ADOPT-006",
    "adopt() without a name takes the machine's own; where that is no valid label it raises"
    " InvalidRequest and the machine stays foreign",
    operation="adopt",
)

Call = Callable[[Trial, UUID], object]


def _calls(trial: Trial) -> dict[str, Call]:
    """Every operation on one instance that the driver has, with plausible arguments."""
    found: dict[str, Call] = {}
    for name, rules in OPERATIONS.items():
        if rules.scope is not Scope.INSTANCE or name == "adopt":
            continue
        if rules.capability is not None and not trial.has(rules.capability):
            continue
        call = CALLS.get(name)
        if call is None and rules.capability is not None:
            call = REQUESTS.get(rules.capability)
        if call is not None:
            found[name] = call
    if not trial.has(Capability.HOST_VOLUMES):
        found.pop("attach_volume", None)
    return found


def _everybody_says_not_found(trial: Trial, uuid: UUID, calls: dict[str, Call]) -> None:
    if "attach_volume" in calls:
        trial.attachment()  # making a volume is a change too, and not the one that is tried
    for name, call in calls.items():
        before = trial.picture()
        with trial.raises(errors.InstanceNotFound, errors.NotSupported) as caught:
            call(trial, uuid)
        if caught and type(caught[0]) is errors.NotSupported:
            # an argument that this driver does not take is refused first
            trial.check(name not in {"destroy", "get_instance", "power_on"}, f"{name}: {caught[0]}")
        trial.equal(trial.picture(), before, f"the host after {name}")


@check(FOREIGN_001)
def is_shown_apart(trial: Trial) -> None:
    with trial.target.foreign_machine() as uuid:
        for who, driver in (("this", trial.driver), ("another", trial.other)):
            found = [each for each in driver.list_foreign() if each.uuid == uuid]
            trial.equal(len(found), 1, f"how often {who} connection lists it")
            trial.check(found[0].state in InstanceState, "it has no state")
            ours = {each.uuid for each in driver.list_instances()}
            trial.check(uuid not in ours, f"{who} connection counts it among ours")
    gone = {each.uuid for each in trial.driver.list_foreign()}
    trial.check(uuid not in gone, "it is listed after its owner has removed it")


@check(FOREIGN_002)
def ours_are_not_foreign(trial: Trial) -> None:
    made = {trial.spawn().uuid, trial.spawn(start=False).uuid}
    trial.driver.set_metadata(min(made), {})
    for driver in (trial.driver, trial.other):
        foreign = {each.uuid for each in driver.list_foreign()}
        trial.equal(foreign & made, set(), "instances of ours in list_foreign()")


@check(FOREIGN_003)
def nothing_touches_it(trial: Trial) -> None:
    with trial.target.foreign_machine() as uuid:
        _everybody_says_not_found(trial, uuid, _calls(trial))


@check(FOREIGN_004)
def its_uuid_is_taken(trial: Trial) -> None:
    with trial.target.foreign_machine() as uuid:
        for start in (True, False):
            with trial.unchanged(), trial.raises(errors.InstanceExists):
                trial.driver.spawn(trial.spec(uuid=uuid, start=start))


@check(FOREIGN_005)
def absent_is_not_found(trial: Trial) -> None:
    calls = _calls(trial)
    for absent_is_success in ("destroy", "confirm_move"):
        calls.pop(absent_is_success, None)
    _everybody_says_not_found(trial, uuid4(), calls)


@check(FOREIGN_005)
def destroyed_is_not_found(trial: Trial) -> None:
    calls = _calls(trial)
    for absent_is_success in ("destroy", "confirm_move"):
        calls.pop(absent_is_success, None)
    uuid = trial.spawn(start=False).uuid
    trial.driver.destroy(uuid)
    _everybody_says_not_found(trial, uuid, calls)


@check(FOREIGN_006)
def is_shown_as_it_is(trial: Trial) -> None:
    observer = trial.observer
    if observer is None:
        raise PreconditionMissing("no observer")
    with trial.target.foreign_machine() as uuid:
        was = observer.foreign()[uuid][1]
        for state in (was, InstanceState.STOPPED):
            if state is not was:
                observer.power_off(uuid)
            for driver in (trial.driver, trial.other):
                listed = {each.uuid: (each.name, each.state) for each in driver.list_foreign()}
                trial.equal(listed.get(uuid), observer.foreign()[uuid], "the machine in the list")
        trial.equal(listed[uuid][1], InstanceState.STOPPED, "state after it was switched off")


def _label(trial: Trial) -> str:
    # a foreign machine's own name may be no valid label
    return f"{trial.journal.prefix}adopted"


@check(ADOPT_001)
def is_ours(trial: Trial) -> None:
    with trial.target.foreign_machine() as uuid:
        was = next(each for each in trial.driver.list_foreign() if each.uuid == uuid)
        metadata = {METADATA_KEY: trial.journal.run, "hvct.a": "x\ny"}
        trial.will_destroy(uuid)
        info = trial.driver.adopt(uuid, name=_label(trial), metadata=metadata)
        other = trial.other
        trial.equal(other.get_instance(uuid), info, "what another connection sees")
        shown = (info.uuid, info.name, dict(info.metadata), info.state)
        trial.equal(shown, (uuid, _label(trial), metadata, was.state), "the adopted machine")
        for driver in (trial.driver, other):
            listed = {each.uuid: each for each in driver.list_instances()}
            trial.equal(listed.get(uuid), info.summary(), "its line in the list of ours")
            foreign = {each.uuid for each in driver.list_foreign()}
            trial.check(uuid not in foreign, "it is still listed as foreign")
        trial.driver.destroy(uuid)


@check(ADOPT_002)
def nothing_else_changes(trial: Trial) -> None:
    with trial.target.foreign_machine() as uuid:
        trial.will_destroy(uuid)
        before = trial.picture()
        info = trial.driver.adopt(uuid, name=_label(trial))
        after = trial.picture()
        trial.equal(dict(info.metadata), {}, "metadata where none was given")
        after["instances"].pop(uuid)
        trial.equal(after["instances"], before["instances"], "the other instances")
        if "residue" in before:
            gone = before["residue"] - after["residue"]
            new = after["residue"] - before["residue"]
            # the line about the machine itself may tell that it is ours now
            trial.check(
                len(gone) <= 1 and len(new) <= 1 and all(str(uuid) in line for line in gone | new),
                f"on the host changed: {sorted(gone)} became {sorted(new)}",
            )
        trial.driver.destroy(uuid)


@check(ADOPT_002)
def its_guest_goes_on(trial: Trial) -> None:
    with trial.target.foreign_machine() as uuid:
        trial.will_destroy(uuid)
        before = trial.target.boots(trial.driver, uuid)
        trial.driver.adopt(uuid, name=_label(trial))
        trial.equal(trial.target.boots(trial.driver, uuid), before, "starts of the guest")
        trial.driver.destroy(uuid)


@check(ADOPT_003)
def ours_stays_as_it_is(trial: Trial) -> None:
    info = trial.spawn(metadata={"hvct.kept": "yes"})
    with trial.unchanged():
        trial.equal(trial.driver.adopt(info.uuid), info, "what adopt() returned")
        again = trial.driver.adopt(info.uuid, name=_label(trial), metadata={})
        trial.equal(again, info, "what adopt() with another name returned")


@check(ADOPT_004)
def absent_cannot_be_adopted(trial: Trial) -> None:
    with trial.unchanged(), trial.raises(errors.InstanceNotFound):
        trial.driver.adopt(uuid4(), name=_label(trial))


@check(ADOPT_005)
def goes_with_its_disks(trial: Trial) -> None:
    before = trial.picture()
    with trial.target.foreign_machine() as uuid:
        trial.will_destroy(uuid)
        trial.driver.adopt(uuid, name=_label(trial))
        trial.driver.power_off(uuid)
        trial.driver.destroy(uuid)
        trial.equal(trial.picture(), before, "the host after adopt() and destroy()")


@check(ADOPT_006)
def takes_its_own_name(trial: Trial) -> None:
    name = _label(trial)
    with trial.target.foreign_machine(name) as uuid:
        trial.will_destroy(uuid)
        trial.equal(trial.driver.adopt(uuid).name, name, "name that was not given")
        trial.equal(trial.other.get_instance(uuid).name, name, "name on another connection")
        trial.driver.destroy(uuid)
    with trial.target.foreign_machine("hvct-" + "x" * 64) as uuid:
        trial.will_destroy(uuid)
        with trial.unchanged(), trial.raises(errors.InvalidRequest):
            trial.driver.adopt(uuid)
        foreign = {each.uuid for each in trial.driver.list_foreign()}
        trial.check(uuid in foreign, "the machine whose name is no label is not foreign any more")


FOREIGN_010 = clause(
    "FOREIGN-010",
    "a copy that somebody makes of an instance is a foreign machine: no list of ours shows it, no"
    " operation takes it, and destroy() of the instance leaves it",
    operation="list_instances",
)


@check(FOREIGN_010)
def copy_is_not_ours(trial: Trial) -> None:
    uuid = trial.spawn(start=False).uuid
    with trial.target.copied_machine(trial.driver, uuid) as copy:
        for driver in (trial.driver, trial.other):
            ours = {each.uuid for each in driver.list_instances()}
            trial.check(copy not in ours, "the copy is in the list of instances")
            trial.check(uuid in ours, "the instance is not in the list of instances any more")
            foreign = {each.uuid for each in driver.list_foreign()}
            trial.check(copy in foreign, "the copy is not in the list of foreign machines")
        with trial.unchanged(), trial.raises(errors.InstanceNotFound):
            trial.driver.power_on(copy)
        trial.driver.destroy(uuid)
        foreign = {each.uuid for each in trial.driver.list_foreign()}
        trial.check(copy in foreign, "the copy has gone with the instance")
