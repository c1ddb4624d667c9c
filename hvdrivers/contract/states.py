"""The states of an instance, and what an operation does in each of them.

::

      spawn            power_off              suspend
    ──────▶ BUILDING ──▶ RUNNING ◀──────────▶ SUSPENDED
               │        ▲ │  ▲ │  resume, power_on
               │ start= │ │  │ └──pause──▶ PAUSED
               │ False  │ │  └───unpause─────┘
               ▼        │ ▼
             STOPPED ───┘ rescue ─▶ RESCUED ─ unrescue ─▶ RUNNING
                          guest died ─▶ CRASHED

A state is what the hypervisor says now, never what the library remembers. The table of all
(operation, state) pairs is data: each operation carries its row (``@operation(states=...)`` in
the topic files), ``table()`` joins them, and the guard, the fake and the tests all read that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from hvdrivers.models.state import InstanceState

__all__ = ["ANY_STATE", "REFUSED", "End", "InstanceState", "Outcome", "Row", "row"]


class End(Enum):
    """How a legal operation leaves the state, where that is not one fixed state."""

    SAME = "same"
    """The state does not change."""
    GONE = "gone"
    """There is no such instance on this host any more."""
    DEPENDS = "depends"
    """The operation's documentation says which state follows."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one operation does in one state. ``end`` is None where it is refused."""

    end: InstanceState | End | None

    @property
    def legal(self) -> bool:
        """False: the operation raises InvalidState and changes nothing."""
        return self.end is not None

    def after(self, before: InstanceState) -> InstanceState | End | None:
        """The state afterwards, with SAME resolved."""
        return before if self.end is End.SAME or self.end is None else self.end


REFUSED = Outcome(None)
Row = Mapping[InstanceState, Outcome]

B, R, P, U, S, X, C = (
    InstanceState.BUILDING,
    InstanceState.RUNNING,
    InstanceState.PAUSED,
    InstanceState.SUSPENDED,
    InstanceState.STOPPED,
    InstanceState.RESCUED,
    InstanceState.CRASHED,
)


def row(
    ends: Mapping[InstanceState, InstanceState | End] | None = None,
    *,
    same: Iterable[InstanceState] = (),
) -> Row:
    """Build a row: ``ends`` names the states that change, ``same`` those that do not; every
    other state refuses the operation."""
    outcomes = dict.fromkeys(InstanceState, REFUSED)
    outcomes |= {state: Outcome(end) for state, end in (ends or {}).items()}
    outcomes |= {state: Outcome(End.SAME) for state in same}
    return MappingProxyType(outcomes)


ANY_STATE = row(same=InstanceState)
"""Reads: allowed in every state, and change none."""
