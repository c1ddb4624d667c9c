"""The whole table of states: every operation, in every state, does what its row says.

The rows are data of the contract, and so are these checks: one for each pair. What an operation is
called with in order to succeed stands in ``CALLS``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from uuid import UUID

from hvdrivers.conformance.engine.clauses import Case, Clause, check, clause
from hvdrivers.conformance.engine.refusals import REQUESTS
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.consoles import CONSOLE_CAPABILITIES
from hvdrivers.contract.driver import OPERATIONS, state_table
from hvdrivers.contract.power import RebootKind
from hvdrivers.contract.states import End
from hvdrivers.models.console import ConsoleKind
from hvdrivers.models.instance import Flavor
from hvdrivers.models.state import InstanceState

Call = Callable[[Trial, UUID], object]

_STATE_NEEDS = {
    InstanceState.PAUSED: Capability.PAUSE,
    InstanceState.SUSPENDED: Capability.SUSPEND,
    InstanceState.RESCUED: Capability.RESCUE,
}


CALLS: dict[str, Call] = {
    "destroy": lambda t, uuid: t.driver.destroy(uuid),
    "get_instance": lambda t, uuid: t.driver.get_instance(uuid),
    "rename": lambda t, uuid: t.driver.rename(uuid, f"{t.journal.prefix}renamed"),
    "set_metadata": lambda t, uuid: t.driver.set_metadata(uuid, {"a": "b"}),
    "power_on": lambda t, uuid: t.driver.power_on(uuid),
    "start_paused": lambda t, uuid: t.driver.start_paused(uuid),
    "power_off": lambda t, uuid: t.driver.power_off(uuid),
    "reboot": lambda t, uuid: t.driver.reboot(uuid),
    "reboot[soft]": lambda t, uuid: t.driver.reboot(uuid, RebootKind.SOFT),
    "pause": lambda t, uuid: t.driver.pause(uuid),
    "unpause": lambda t, uuid: t.driver.unpause(uuid),
    "suspend": lambda t, uuid: t.driver.suspend(uuid),
    "resume": lambda t, uuid: t.driver.resume(uuid),
    "rescue": lambda t, uuid: t.driver.rescue(uuid, t.target.image()),
    "unrescue": lambda t, uuid: t.driver.unrescue(uuid),
    "rebuild": lambda t, uuid: t.driver.rebuild(uuid, t.target.image()),
    "resize": lambda t, uuid: t.driver.resize(uuid, _larger(t.target.flavor)),
    "attach_volume": lambda t, uuid: t.driver.attach_volume(uuid, t.attachment()),
    "detach_volume": lambda t, uuid: t.driver.detach_volume(uuid, "hvct-absent"),
    "plug_vif": lambda t, uuid: t.driver.plug_vif(uuid, t.target.vif("hvct-nic")),
    "unplug_vif": lambda t, uuid: t.driver.unplug_vif(uuid, "hvct-absent"),
    "get_console": lambda t, uuid: t.driver.get_console(uuid, _console_kind(t)),
    "get_console_log": lambda t, uuid: t.driver.get_console_log(uuid),
    "inject_nmi": lambda t, uuid: t.driver.inject_nmi(uuid),
    "list_snapshots": lambda t, uuid: t.driver.list_snapshots(uuid),
    "create_snapshot": lambda t, uuid: t.driver.create_snapshot(uuid, "hvct"),
    "confirm_move": lambda t, uuid: t.driver.confirm_move(uuid),
    "revert_move": lambda t, uuid: t.driver.revert_move(uuid),
    "migration_progress": lambda t, uuid: t.driver.migration_progress(uuid),
}
"""How to call an operation so that only the state can be in its way. An operation that is not here
is tried only in the states that refuse it: what it needs to succeed has checks of its own."""


def _larger(flavor: Flavor) -> Flavor:
    return flavor.model_copy(update={"vcpus": flavor.vcpus + 1})


def _console_kind(trial: Trial) -> ConsoleKind:
    for kind, capability in CONSOLE_CAPABILITIES.items():
        if trial.has(capability):
            return kind
    return ConsoleKind.SERIAL


def _unsupported(trial: Trial, name: str, state: InstanceState) -> bool:
    """Whether the driver lacks what this operation needs in this state, beyond its capability."""
    if name == "rename":
        return state is not InstanceState.STOPPED and not trial.has(Capability.HOT_RENAME)
    if name == "get_console":
        return not trial.has(CONSOLE_CAPABILITIES[_console_kind(trial)])
    return False


def _refusal(trial: Trial, name: str, state: InstanceState) -> type[errors.HypervisorError]:
    unsupported = _unsupported(trial, name, state)
    return errors.NotSupported if unsupported else errors.InvalidState


def _refused_call(row: str) -> Call | None:
    """For a state that refuses: any plausible arguments do."""
    if row in CALLS:
        return CALLS[row]
    capability = OPERATIONS[row].capability
    return REQUESTS.get(capability) if capability is not None else None


def _clause_of(row: str) -> Clause:
    name, _, variant = row.partition("[")
    suffix = f"-{variant.rstrip(']').upper()}" if variant else ""
    return clause(
        f"STATE-{name.upper().replace('_', '-')}{suffix}",
        f"{row} does in every state what the table of states says, and raises InvalidState and"
        " changes nothing where it is refused",
        operation=name,
    )


def _cases() -> Iterator[Case]:
    for name, row in state_table().items():
        rule = _clause_of(name)
        for state, outcome in row.items():
            if state is InstanceState.BUILDING:
                continue  # lasts only as long as a spawn: see the checks of concurrency
            if outcome.legal and name not in CALLS:
                continue
            call = CALLS[name] if outcome.legal else _refused_call(name)
            if call is None:
                continue
            needs = {_STATE_NEEDS[state]} if state in _STATE_NEEDS else set()
            yield Case(
                label=f"{name},{state.value}",
                arguments=(call, name, state),
                clause=rule,
                needs=frozenset(needs),
            )


@check(cases=_cases())
def obeys_its_row(trial: Trial, call: Call, name: str, state: InstanceState) -> None:
    outcome = state_table(trial.driver.capabilities)[name][state]
    uuid = trial.in_state(state)
    if name == "attach_volume":
        trial.attachment()  # making a volume is a change too, and not the one that is tried
    if outcome.legal and _unsupported(trial, name, state):
        with trial.unchanged(), trial.raises(errors.NotSupported):
            call(trial, uuid)
        return
    if not outcome.legal:
        with trial.unchanged(), trial.raises(_refusal(trial, name, state)) as caught:
            call(trial, uuid)
        trial.check(all(error.hint for error in caught), "the error has no hint")
        return
    powered_on = state in {InstanceState.RUNNING, InstanceState.RESCUED}
    if powered_on and name in {"reboot[soft]", "detach_volume"}:
        trial.target.wait_booted(trial.driver, uuid)
    call(trial, uuid)
    end = outcome.after(state)
    if end is End.GONE:
        with trial.raises(errors.InstanceNotFound):
            trial.driver.get_instance(uuid)
    elif isinstance(end, InstanceState):
        trial.equal(trial.state(uuid), end, f"state after {name} in {state}")
        if trial.observer is not None:
            trial.equal(trial.observer.states().get(uuid), end, "observed state")
    else:
        # what it depends on is not there: the instance has not moved
        trial.equal(trial.state(uuid), state, f"state after {name} in {state}")
