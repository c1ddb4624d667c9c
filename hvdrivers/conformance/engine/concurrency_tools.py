"""Many threads at once, with a watchdog; what they did, as a history; whether the history can have
come about one call after the other."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.driver import state_table
from hvdrivers.contract.states import Row
from hvdrivers.models.state import InstanceState

WAIT_SECONDS = 60.0
"""How long threads may take before they count as stuck."""


def together(
    trial: Trial, calls: Sequence[Callable[[], object]], *, wait: float = WAIT_SECONDS
) -> list[object]:
    """Call all of these at the same moment, each in a thread.

    Returns:
        What each of them returned or raised, in their order.
    """
    results: list[object] = [None] * len(calls)
    barrier = threading.Barrier(len(calls))

    def run(number: int, call: Callable[[], object]) -> None:
        barrier.wait(30.0)
        try:
            results[number] = call()
        except Exception as error:  # noqa: BLE001 - the check judges it
            results[number] = error

    threads = [
        threading.Thread(target=run, args=each, name=f"hvct-{each[0]}", daemon=True)
        for each in enumerate(calls)
    ]
    for thread in threads:
        thread.start()
    end = time.monotonic() + wait * trial.target.time_scale
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    stuck = [thread for thread in threads if thread.is_alive()]
    trial.check(not stuck, f"{len(stuck)} calls are stuck:\n{_stacks(stuck)}")
    return results


def _stacks(threads: Sequence[threading.Thread]) -> str:
    frames = sys._current_frames()
    return "\n".join(
        "".join(traceback.format_stack(frames[each.ident])[-6:])
        for each in threads
        if each.ident in frames
    )


@dataclass(frozen=True)
class Entry:
    """One call of a history."""

    began: float
    ended: float
    operation: str
    """Of the contract; ``get_instance`` for a read."""
    state: InstanceState | None = None
    """What a read has seen."""
    refused: bool = False
    """It raised InvalidState."""


class History:
    """Who did what, and when."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._lock = threading.Lock()

    def record(self, operation: str, call: Callable[[], object]) -> None:
        """Make a call and write it down."""
        began = time.monotonic()
        refused, state = False, None
        try:
            result = call()
        except errors.InvalidState:
            refused = True
        else:
            state = result if isinstance(result, InstanceState) else None
        entry = Entry(began, time.monotonic(), operation, state, refused)
        with self._lock:
            self.entries.append(entry)


def explain(history: Sequence[Entry], start: InstanceState) -> str | None:
    """Why no order of these calls explains what they saw; None if one does.

    An order is one in which a call that ended before another began stands before it (Herlihy and
    Wing: linearisability). Each prefix is tried once.
    """
    rows = state_table()
    entries = sorted(history, key=lambda each: each.began)
    everything = frozenset(range(len(entries)))
    seen: set[tuple[frozenset[int], InstanceState]] = set()
    deepest: tuple[int, str] = (-1, "")
    stack = [(everything, start)]
    while stack:
        left, state = stack.pop()
        if not left:
            return None
        if (left, state) in seen:
            continue
        seen.add((left, state))
        first_end = min(entries[number].ended for number in left)
        possible = [number for number in left if entries[number].began <= first_end]
        for number in possible:
            after = _after(entries[number], state, rows)
            if after is not None:
                stack.append((left - {number}, after))
        if len(entries) - len(left) > deepest[0]:
            stuck = ", ".join(_shown(entries[number]) for number in sorted(possible)[:4])
            deepest = (len(entries) - len(left), f"in {state} none of these can come next: {stuck}")
    return deepest[1]


def _after(entry: Entry, state: InstanceState, rows: Mapping[str, Row]) -> InstanceState | None:
    """The state after this call, or None if it cannot have been made in ``state``."""
    if entry.state is not None:
        return state if entry.state is state else None
    outcome = rows[entry.operation][state]
    if entry.refused or not outcome.legal:
        return state if entry.refused and not outcome.legal else None
    after = outcome.after(state)
    return after if isinstance(after, InstanceState) else state


def _shown(entry: Entry) -> str:
    if entry.state is not None:
        return f"{entry.operation} saw {entry.state}"
    return f"{entry.operation} {'was refused' if entry.refused else 'succeeded'}"
