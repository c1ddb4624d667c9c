"""Taking back what an operation has begun, when a later step of it fails.

An operation that fails leaves what was there before it. There is one idiom for that::

    with undoing() as undo:
        disk = undo.callback(self._delete_disk, name)       # first the step that takes it back
        self._create_disk(name)                             # then the change
        undo.callback(self._remove_machine, uuid, guards=[disk])
        self._define_machine(xml)

The step comes before its change: the reply to the change may be lost, and then the change may have
taken effect. So each step must succeed where there is nothing to take back.

``guards`` names the steps that may run only if this one succeeded. A machine that could not be
removed may be running, and then its disks stay.

Some operations change one thing that stays, and then do more. There :func:`changed` stands around
the rest, and a lost connection becomes OutcomeUnknown. A driver whose session knows which calls
change something needs no :func:`changed`: it puts :func:`operating` around each operation and calls
:func:`note_change` after each change, as :func:`~hvdrivers.driverkit.session.exchange` does.

No step brings back a guest's run: a machine that was switched off and is started again has booted
anew. A driver calls :func:`note_loss` after such a change, and the undo does not hide it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial

from hvdrivers.contract import errors
from hvdrivers.driverkit.deadline import Deadline, bounding, current_deadline

__all__ = [
    "Step",
    "Undo",
    "changed",
    "ended",
    "has_changed",
    "has_lost",
    "note_change",
    "note_loss",
    "operating",
    "truthful",
    "undoing",
]

_MOST_UNREACHABLE = 2
"""Steps that may find the host unreachable before the rest is given up: each attempt to reach a
dead host takes as long as the connection's own limit."""
_SECONDS = 3.0
"""Seconds that the steps have together, if the operation's deadline leaves them less. The guard
waits five seconds after the deadline, for the operation's last calls and for them."""

_UNREACHABLE = (errors.ConnectionFailed, errors.OutcomeUnknown, errors.OperationTimeout)
_UNCHANGED = (
    errors.NotSupported,
    errors.InvalidRequest,
    errors.InvalidState,
    errors.InstanceExists,
    errors.VolumeNotFound,
    errors.VolumeExists,
    errors.NetworkNotFound,
    errors.DeviceBusy,
    errors.InsufficientResources,
    errors.GuestAgentUnavailable,
    errors.PermissionDenied,
)
"""Errors that say why nothing was changed, beside those of the connection and of the deadline."""


@dataclass(eq=False)
class Step:
    """One step of an undo."""

    run: Callable[[], object]
    guards: tuple[Step, ...] = ()
    held: bool = field(default=False, init=False)
    """:meth:`block` was called: no close() runs it."""
    waits: bool = field(default=False, init=False)
    """A step that guards it has failed in this close(); the next one tries both again."""

    def block(self) -> None:
        """Never run it, nor what it guards: what they remove may be in use now."""
        self.held = True
        for each in self.guards:
            each.block()

    def wait(self) -> None:
        """Do not run what it guards in this close()."""
        for each in self.guards:
            each.waits = True
            each.wait()


class Undo:
    """The steps that take back what an operation has begun. :func:`undoing` makes one."""

    def __init__(self) -> None:
        self._steps: list[Step] = []
        self._time: Deadline | None = None

    def callback(
        self, step: Callable[..., object], *args: object, guards: Iterable[Step] = ()
    ) -> Step:
        """Add a step, before the change that it takes back is sent.

        Args:
            guards: earlier steps that must not run if this one fails: what they remove may still
                be in use.
        """
        added = Step(partial(step, *args), tuple(guards))
        self._steps.append(added)
        return added

    @property
    def steps(self) -> tuple[Step, ...]:
        """Those that have been added and have not succeeded, the oldest first: for ``guards=``."""
        return tuple(self._steps)

    def forget(self) -> None:
        """Drop the newest step: its change never took effect, or the thing belongs to another
        operation."""
        self._steps.pop()

    def forget_all(self) -> None:
        """Drop all steps: from here on there is nothing to go back to."""
        self._steps.clear()

    def close(self) -> None:
        """Run the steps, the newest first, each whether or not the others succeed; without those
        that a failed one guards, and none after the host could not be reached twice.

        The undo keeps each step that has not succeeded. So an operation may close its undo as its
        own last step: if that fails, :func:`undoing` runs what is left once more, in the time that
        the first close() has left, and the caller learns what stays on the host.

        Raises:
            HypervisorError: the first error of a step. What a step raises that is no
                HypervisorError becomes a HypervisorFault; an exit or an interrupt is raised as it
                is, after the other steps.
        """
        failures: list[BaseException] = []
        unreachable = 0
        steps, self._steps = self._steps, []
        for step in steps:
            step.waits = False  # since a close() before this one
        if self._time is None:
            self._time = Deadline(max(current_deadline().left, _SECONDS))
        with bounding(self._time):
            for step in reversed(steps):
                if step.held or step.waits or unreachable >= _MOST_UNREACHABLE:
                    self._steps.insert(0, step)
                    continue
                try:
                    step.run()
                except BaseException as error:  # noqa: BLE001 - the other steps come first
                    step.wait()
                    self._steps.insert(0, step)
                    failures.append(error)
                    unreachable += isinstance(error, _UNREACHABLE)
        for each in failures:
            if not isinstance(each, Exception):
                raise each
        if failures:
            first = failures[0]
            if isinstance(first, errors.HypervisorError):
                raise first
            words = f"{type(first).__name__}: {first}"
            raise errors.HypervisorFault(f"a step of the undo raised {words}") from first


@contextmanager
def undoing() -> Iterator[Undo]:
    """An :class:`Undo` whose steps run unless the block gets to its end.

    The caller learns why the operation failed, even if a step of the undo fails too (the host has
    died): the step's error becomes a note of the original one. ConnectionFailed and
    OperationTimeout promise that nothing has changed. Where a failed or blocked step makes that
    untrue, OutcomeUnknown takes their place; and the place of each error that promises it where a
    guest has lost its run (:func:`note_loss`).
    """
    undo = Undo()
    changes = _changes.get()
    before = changes is not None and changes.made
    try:
        yield undo
    except BaseException as original:
        lost = changes is not None and changes.lost
        try:
            undo.close()
        except errors.HypervisorError as failed:
            rest = f"what was begun could not be removed: {failed}"
            if isinstance(original, errors.ConnectionFailed | errors.OperationTimeout):
                raise errors.OutcomeUnknown(
                    f"{original.message}; {rest}",
                    vendor_code=original.vendor_code,
                    hint="call again, or destroy() what is left, when the host answers",
                ) from original
            original.add_note(rest)
            if lost:  # and the guest is not back
                with ended():
                    raise original from original.__cause__
        else:
            if undo.steps:  # those that were blocked
                with ended() if lost else changed():
                    raise
            if changes is not None:
                # what the steps have ended was the operation's own
                changes.made, changes.lost = before or lost, lost
        raise


@contextmanager
def changed() -> Iterator[None]:
    """Stands around what follows a change that stays.

    If the host cannot be reached any more, or the deadline passes, ConnectionFailed and
    OperationTimeout would say that nothing has happened: OutcomeUnknown takes their place.
    """
    try:
        yield
    except (errors.ConnectionFailed, errors.OperationTimeout) as error:
        raise errors.OutcomeUnknown(
            f"{error.message}, and a part had been done", vendor_code=error.vendor_code
        ) from error


@contextmanager
def ended() -> Iterator[None]:
    """Stands around what follows a change that stays and that no error may hide, as the end of a
    guest's run: as :func:`changed`, for each error that promises that nothing has changed.

    What is left of the error, its hint and whether to repeat the call, stays.
    """
    try:
        with changed():
            yield
    except _UNCHANGED as error:
        raise errors.OutcomeUnknown(
            f"{error.message}, and a part had been done",
            vendor_code=error.vendor_code,
            hint=error.hint,
            retryable=error.retryable,
        ) from error


@dataclass
class _Changes:
    made: bool = False
    lost: bool = False
    """One of them is a :func:`note_loss`."""


_changes: ContextVar[_Changes | None] = ContextVar("hvdrivers-changes", default=None)


@contextmanager
def truthful() -> Iterator[None]:
    """Stands around an operation: ConnectionFailed and OperationTimeout leave it only if nothing
    has changed, or if what had changed was taken back; otherwise they become OutcomeUnknown."""
    changes = _Changes()
    token = _changes.set(changes)
    try:
        yield
    except (errors.ConnectionFailed, errors.OperationTimeout):
        if not changes.made:
            raise
        with changed():
            raise
    finally:
        _changes.reset(token)


@contextmanager
def operating(timeout: float | None, *, changes: bool = True) -> Iterator[Deadline]:
    """Stands around an operation whose calls are made far below it: one deadline for all of them
    (:func:`~hvdrivers.driverkit.deadline.bounding`), and errors that are :func:`truthful`.

    Args:
        timeout: that of the operation.
        changes: False: the operation is a read, which has nothing to be truthful about.
    """
    with bounding(Deadline(timeout)) as deadline, truthful() if changes else nullcontext():
        yield deadline


def note_change() -> None:
    """A call of the operation that this thread is in has changed something on the host."""
    changes = _changes.get()
    if changes is not None:
        changes.made = True


def note_loss() -> None:
    """A call of the operation that this thread is in has ended what no undo brings back: the run of
    a guest."""
    changes = _changes.get()
    if changes is not None:
        changes.made = changes.lost = True


def has_changed() -> bool:
    """Whether the operation that this thread is in has changed something on the host, and has not
    taken it back. False outside of :func:`truthful`."""
    changes = _changes.get()
    return changes is not None and changes.made


def has_lost() -> bool:
    """Whether the operation that this thread is in has ended a guest's run (:func:`note_loss`),
    also where the guest was started again. False outside of :func:`truthful`."""
    changes = _changes.get()
    return changes is not None and changes.lost
