"""What comes behind a lost reply."""

from __future__ import annotations

from dataclasses import dataclass, field

from hvdrivers.models.state import InstanceState

State = InstanceState | None
"""None: there is no such instance."""


@dataclass
class Late:
    """What operations whose reply was lost may still bring about: the host may be at them. Reads
    show the state before a start until it has ended, so no read tells that nothing will come. A
    change tells it: it waits for what is under way. A success that had nothing to change does
    not."""

    lost: int = 0
    """How many operations."""
    states: frozenset[State] = frozenset()
    ends: frozenset[State] = frozenset()
    """Those of them that show that it is over."""
    metadata: list[dict[str, str]] = field(default_factory=list)
    values: dict[str, list[object]] = field(default_factory=dict)
    devices: set[str] = field(default_factory=set)
