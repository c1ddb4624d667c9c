"""Clauses: what a driver must do, one sentence each, with an id that never changes.

A topic file of this package (``lifecycle.py`` beside ``contract/lifecycle.py``) declares its
clauses and, below each, the checks that can fail it::

    LIFE_003 = clause("LIFE-003", "destroy() leaves no disk, seed, NIC, secret or snapshot",
                      operation="destroy")

    @check(LIFE_003)
    def leaves_nothing(trial: Trial) -> None: ...

``CATALOGUE`` has all of them; a test of this package holds both ways: no clause without a check,
no check without a clause.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.driver import OPERATIONS

if TYPE_CHECKING:
    from hvdrivers.conformance.engine.trial import Trial

CONTRACT_VERSION = "1.0"
"""The version of the catalogue. A report names it."""


class Level(StrEnum):
    """How binding a clause is (RFC 2119)."""

    MUST = "MUST"
    SHOULD = "SHOULD"
    """Not met: a warning in the report, not a failure of the profile."""
    MAY = "MAY"
    """What a driver is free to do. Its report says whether it does, for those who build on it;
    nothing depends on that."""


class Tier(StrEnum):
    """What a check needs."""

    STATIC = "static"
    """The driver class alone: no host."""
    HOST = "host"
    """A host, real or simulated."""


_PROFILES = {
    "storage": ("volume-", "disk-qos", "multi-attach", "encrypted-volume", "boot-from-volume"),
    "network": ("vif-",),
    "images": ("image-",),
    "consoles": ("console-",),
    "resources": ("numa", "cpu-pinning", "hugepages", "pci-passthrough", "vgpu", "hot-resize-"),
    "snapshots": ("snapshot-",),
}
"""Where a feature that is no operation of its own belongs, by the beginning of its name."""


def _profile_of(capability: Capability) -> str:
    homes = {
        rules.capability: rules.topic
        for rules in OPERATIONS.values()
        if rules.capability is not None
    }
    if capability in homes:
        return homes[capability]
    for profile, beginnings in _PROFILES.items():
        if capability.value.startswith(beginnings):
            return profile
    return "lifecycle"


@dataclass(frozen=True)
class Clause:
    """One rule of the contract."""

    id: str
    rule: str
    operation: str | None = None
    """The operation that it is about; None: the driver as a whole."""
    level: Level = Level.MUST
    needs: frozenset[Capability] = frozenset()
    """Capabilities without which it says nothing. That of the operation is among them."""
    since: str = "1.0"

    @property
    def profile(self) -> str:
        """``core``, or the topic that the needed capabilities belong to."""
        if not self.needs:
            return "core"
        if self.operation is not None and OPERATIONS[self.operation].capability is not None:
            return OPERATIONS[self.operation].topic
        return _profile_of(min(self.needs))


@dataclass(frozen=True)
class Check:
    """One thing that is tried. Its id is the clause's and the function's name."""

    clause: Clause
    function: Callable[..., None]
    tier: Tier
    label: str = ""
    """Which of several cases of one function this is."""
    arguments: tuple[object, ...] = ()
    needs: frozenset[Capability] = frozenset()
    """Needed by this case beyond what its clause needs."""

    @property
    def id(self) -> str:
        """``LIFE-003/leaves_nothing``, ``STATE-PAUSE/obeys_row[stopped]``."""
        case = f"[{self.label}]" if self.label else ""
        return f"{self.clause.id}/{self.function.__name__}{case}"

    @property
    def all_needs(self) -> frozenset[Capability]:
        """Everything that the driver must have for this check to say something."""
        return self.clause.needs | self.needs

    def run(self, trial: Trial) -> None:
        """Try it."""
        self.function(trial, *self.arguments)


@dataclass
class Catalogue:
    """All clauses and checks, in the order of declaration."""

    clauses: dict[str, Clause] = field(default_factory=dict)
    checks: dict[str, Check] = field(default_factory=dict)

    def of(self, clause_id: str) -> list[Check]:
        """The checks of a clause."""
        return [each for each in self.checks.values() if each.clause.id == clause_id]


_CATALOGUE = Catalogue()


def clause(
    id: str,
    rule: str,
    *,
    operation: str | None = None,
    level: Level = Level.MUST,
    needs: Iterable[Capability] = (),
    since: str = "1.0",
) -> Clause:
    """Declare a clause."""
    own = OPERATIONS[operation].capability if operation is not None else None
    found = Clause(
        id=id,
        rule=rule,
        operation=operation,
        level=level,
        needs=frozenset(needs) | ({own} if own is not None else set()),
        since=since,
    )
    if id in _CATALOGUE.clauses:
        raise ValueError(f"there are two clauses {id}")
    _CATALOGUE.clauses[id] = found
    return found


@dataclass(frozen=True)
class Case:
    """One of several cases of a check."""

    label: str
    arguments: tuple[object, ...]
    clause: Clause | None = None
    """Where each case has a clause of its own."""
    needs: frozenset[Capability] = frozenset()


_Function = Callable[..., None]


def check(
    clause: Clause | None = None,
    *,
    tier: Tier = Tier.HOST,
    cases: Iterable[Case] = (),
    needs: Iterable[Capability] = (),
) -> Callable[[_Function], _Function]:
    """Declare a check of a clause: a function of a Trial (and of the arguments of its cases)."""

    def register(function: _Function) -> _Function:
        for case in list(cases) or [Case("", ())]:
            bound = case.clause or clause
            if bound is None:
                raise ValueError(f"{function.__name__} checks no clause")
            made = Check(
                clause=bound,
                function=function,
                tier=tier,
                label=case.label,
                arguments=case.arguments,
                needs=frozenset(needs) | case.needs,
            )
            if made.id in _CATALOGUE.checks:
                raise ValueError(f"there are two checks {made.id}")
            _CATALOGUE.checks[made.id] = made
        return function

    return register


def catalogue() -> Catalogue:
    """Every clause and check of the suite."""
    # each topic file declares its own when it is imported
    from hvdrivers.conformance.engine import topics

    topics.load()
    return _CATALOGUE


def by_profile(clauses: Mapping[str, Clause]) -> dict[str, list[Clause]]:
    """The clauses of each profile."""
    found: dict[str, list[Clause]] = {}
    for each in clauses.values():
        found.setdefault(each.profile, []).append(each)
    return found
