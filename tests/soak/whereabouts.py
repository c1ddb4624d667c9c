"""Where an instance may be that moves between hosts, after any sequence of outcomes.

The model keeps the *set* of worlds that may be. A world is what a read shows at each host. A
success narrows the set to what the contract says; an error that promises "nothing has changed"
leaves it; any other adds what the operation might have made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import NamedTuple

from hvdrivers.contract import errors
from hvdrivers.models.instance import InstanceInfo
from hvdrivers.models.migration import MovePhase
from tests.soak.errors import Violation
from tests.soak.model import UNCHANGED


class Here(StrEnum):
    """What an instance is at one host, where it is there."""

    PLAIN = "plain"
    AWAY = "prepared"
    """The source of a move to another host, whose copy is there and whole."""
    EMPTIED = "prepared without a copy"
    """The same, and the copy is not whole: prepare_move() was interrupted, or destroy() was called
    at the destination."""
    BESIDE = "prepared beside"
    """The source of a move within its host."""
    HALF_BESIDE = "prepared beside without a copy"
    HALF_FINISHED = "not quite finished"
    """A finish_move() within the host was interrupted after the new flavor, before the name."""
    FINISHED = "finished"
    """Within its host."""
    HALF_CONFIRMED = "finished, half confirmed"
    """What it was may be gone: revert_move() may refuse."""
    ENDED = "being removed"
    """A confirm_move() of the source of a move to another host was interrupted."""

    @property
    def phase(self) -> MovePhase | None:
        """As a read shows it."""
        if self is Here.PLAIN:
            return None
        done = {Here.FINISHED, Here.HALF_CONFIRMED}
        return MovePhase.FINISHED if self in done else MovePhase.PREPARED


class World(NamedTuple):
    """One possibility."""

    at: tuple[Here | None, ...]
    """At each host. None: it is not there."""
    vcpus: tuple[int, ...]
    """As a read shows them at each host; 0 where it is not."""
    before: int = 0
    """In a move within a host that is finished: what revert_move() gives back."""

    def put(self, host: int, here: Here | None, vcpus: int | None = None) -> World:
        """The world with another thing at one host, of the same size if no other is given."""
        at, sizes = list(self.at), list(self.vcpus)
        at[host] = here
        if vcpus is not None or here is None:
            sizes[host] = vcpus or 0
        return self._replace(at=tuple(at), vcpus=tuple(sizes))


Step = Callable[[World], Iterable[World]]
"""What an operation may make of a world; nothing: it does not succeed in it."""


def nowhere(hosts: int) -> World:
    """It is on none of so many hosts."""
    return World((None,) * hosts, (0,) * hosts)


class Whereabouts:
    """One instance, as far as its only client knows."""

    def __init__(self, hosts: int, *, known: bool) -> None:
        """``known=False``: an earlier client had it, and nobody knows how it left it."""
        self.hosts = hosts
        self.known = known
        self.possible = frozenset({nowhere(hosts)} if known else ())
        self.late: set[int] = set()
        """Hosts that may still be at an operation whose reply was lost: what a read shows there is
        not the last word."""

    def succeeded(self, operation: str, host: int, step: Step, *, waits: bool = True) -> None:
        """It returned.

        Args:
            waits: it has waited for what was under way at that host.
        """
        if self.known:
            left = _through(step, self.possible)
            if not left:
                raise Violation(
                    f"{operation}() at host {host} succeeded, possible is {self.named()}"
                )
            # what is late at the other host may come in either order
            self.possible = left | (self.possible if self.late - {host} else frozenset())
        if waits:
            self.late.discard(host)

    def failed(
        self,
        operation: str,
        host: int,
        error: errors.HypervisorError,
        step: Step,
        *,
        halves: Step = lambda _: (),
        refusable: bool = False,
        maybe: Callable[[World], bool] = lambda _: False,
    ) -> None:
        """It raised.

        Args:
            halves: what it may leave if it does not come to its end.
            refusable: InvalidState says nothing, as it may be that of the machine's power.
            maybe: whether it may be refused in a world in which it may also succeed.
        """
        if isinstance(error, errors.ContractViolation):
            raise Violation(f"{operation}() at host {host}: {error}")
        if isinstance(error, errors.InvalidState) and refusable:
            return
        if isinstance(error, errors.InstanceNotFound | errors.InstanceExists | errors.InvalidState):
            left = frozenset(w for w in self.possible if not step(w) or maybe(w))
            if self.known and not left:
                raise Violation(
                    f"{operation}() at host {host} raised {type(error).__name__}: {error.message};"
                    f" possible is {self.named()}"
                )
            if not self.late:
                self.possible = left
        elif not isinstance(error, UNCHANGED):
            self.possible |= _through(step, self.possible) | _through(halves, self.possible)
            self.late |= set(range(self.hosts))

    def seen(self, host: int, info: InstanceInfo | None) -> None:
        """A read shows this."""
        if not self.known:
            return
        left = frozenset(world for world in self.possible if _fits(world, host, info))
        if not left:
            raise Violation(f"host {host} shows {_shown(info)}, possible is {self.named()}")
        if not self.late:
            self.possible = left

    def gone(self) -> None:
        """destroy() has returned on every host."""
        self.__init__(self.hosts, known=True)  # type: ignore[misc]

    def named(self) -> str:
        """The possible worlds in words."""
        words = []
        for world in sorted(self.possible, key=str):
            there = zip(world.at, world.vcpus, strict=True)
            words.append(" | ".join(f"{here} ({n})" if here else "absent" for here, n in there))
        return " or ".join(words)


def _through(step: Step, worlds: Iterable[World]) -> frozenset[World]:
    return frozenset(after for world in worlds for after in step(world))


def _fits(world: World, host: int, info: InstanceInfo | None) -> bool:
    here = world.at[host]
    if info is None or here is None:
        return info is None and here is None
    return info.move is here.phase and info.flavor.vcpus == world.vcpus[host]


def _shown(info: InstanceInfo | None) -> str:
    return "absent" if info is None else f"{info.move or 'plain'} ({info.flavor.vcpus})"
