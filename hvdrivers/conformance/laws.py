"""Laws that hold for every operation alike: reads change nothing, a repeated call converges."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hvdrivers.conformance.clauses import Case, check, clause
from hvdrivers.conformance.seeing import STATE_NEEDS
from hvdrivers.conformance.states import CALLS
from hvdrivers.conformance.trial import Trial
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.driver import OPERATIONS, ComputeDriver, state_table
from hvdrivers.contract.operation import Repeat
from hvdrivers.models.state import InstanceState

LAW_001 = clause("LAW-001", "a read changes nothing, and reads the same again")
LAW_002 = clause(
    "LAW-002",
    "an operation that converges succeeds a second time, on any connection, and changes nothing"
    " more",
)

READS: dict[str, Callable[[ComputeDriver], object]] = {
    "ping": lambda driver: driver.ping(),
    "host": lambda driver: driver.host(),
    "list_instances": lambda driver: sorted(each.uuid for each in driver.list_instances()),
    "list_foreign": lambda driver: sorted(each.uuid for each in driver.list_foreign()),
    "get_available_resource": lambda driver: driver.get_available_resource().cpu.total,
    "placement_inventories": lambda driver: [each.name for each in driver.placement_inventories()],
    "get_volume_connector": lambda driver: driver.get_volume_connector(),
    "get_metrics": lambda driver: len(driver.get_metrics()),
}


@check(LAW_001, cases=[Case(name, (call,)) for name, call in READS.items()])
def reads_leave_all_as_it_is(trial: Trial, call: Callable[[ComputeDriver], object]) -> None:
    trial.spawn(start=False)
    with trial.unchanged():
        first = call(trial.driver)
        trial.equal(call(trial.driver), first, "the second reply")
        trial.equal(call(trial.connect()), first, "the reply on another connection")


_TRIED = (
    InstanceState.STOPPED,
    InstanceState.RUNNING,
    InstanceState.PAUSED,
    InstanceState.SUSPENDED,
    InstanceState.RESCUED,
)


def _converging() -> Iterator[Case]:
    for name, row in state_table().items():
        rules = OPERATIONS.get(name)
        if rules is None or not rules.changes or rules.repeat is not Repeat.CONVERGES:
            continue
        if name not in CALLS or name == "destroy":
            continue
        legal = [state for state in _TRIED if row[state].legal]
        # a change of state is told apart from none at all
        moving = [
            state
            for state in legal
            if isinstance(after := row[state].after(state), InstanceState)
            and after is not state
            and row[after].legal
        ]
        for state in (moving or legal)[:1]:
            needs = {rules.capability} if rules.capability is not None else set()
            needs |= {STATE_NEEDS[state]} if state in STATE_NEEDS else set()
            if name == "attach_volume":
                needs.add(Capability.HOST_VOLUMES)
            yield Case(name, (name, state), needs=frozenset(needs))


@check(LAW_002, cases=_converging())
def converges(trial: Trial, name: str, state: InstanceState) -> None:
    uuid = trial.in_state(state)
    call = CALLS[name]
    call(trial, uuid)
    with trial.unchanged():
        call(trial, uuid)
    other = Trial(trial.target, trial.connect(), trial.journal)
    if name != "attach_volume":  # its argument is made by the trial that it belongs to
        with trial.unchanged():
            call(other, uuid)
            other.check(True, "")
