"""Tasks of the server: start one, wait for its end.

A task that is quick is found ended by the first look. For any other the driver waits in
WaitForUpdatesEx, on a collector of its own, so that the end is told and not polled for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pyVmomi import vim, vmodl

from hvdrivers.contract import errors
from hvdrivers.driverkit import Deadline, undoing
from hvdrivers.driverkit.deadline import current_deadline
from hvdrivers.models.progress import Phase, Progress, ProgressCallback
from hvdrivers.vmware.deadline import unbounded
from hvdrivers.vmware.errors import translate
from hvdrivers.vmware.reader import Reader, filter_spec
from hvdrivers.vmware.session import Session, by_chance
from hvdrivers.vmware.waiting import SLICE, collector_of, news

_PATHS = ("info.state", "info.error", "info.result", "info.progress")
_UNDOING = 60.0
"""Seconds that a task may take to end when its operation is over."""
_ENDED = frozenset({"success", "error"})
QUESTION = "runtime.question"
"""What a machine waits for an answer to."""
Asked = Callable[[Any, Any], None]
"""Gets a machine and the question that it waits with."""
_FIRST_LOOK = 1
"""Seconds until the first look for the machine that a task makes; each later one takes twice as
long."""


@dataclass
class _Questions:
    """The questions of a machine while a task runs on it, or makes it."""

    asked: Asked
    machine: Any = None
    born: Callable[[], Any] | None = None
    """Looks for a machine that is not there yet."""

    def found(self) -> bool:
        """Look for a machine that was not there before; whether it is now."""
        if self.machine is None and self.born is not None:
            self.machine = self.born()
            return self.machine is not None
        return False


class Tasks:
    """Runs tasks over one session."""

    def __init__(self, session: Session, reader: Reader) -> None:
        self._session = session
        self._reader = reader

    def run(
        self,
        start: Callable[[], Any],
        *,
        entity: Any = None,
        progress: ProgressCallback | None = None,
        phase: Phase = Phase.COPY,
        asked: Asked | None = None,
        born: Callable[[], Any] | None = None,
    ) -> Any:
        """Start a task and wait for its end: 2 calls if it is quick.

        Args:
            start: the call that starts it.
            entity: the object that it changes. If the reply to ``start`` is lost, the driver waits
                until no task runs on that object, so that nothing changes it later.
            asked: called with each question that ``entity``, a machine, waits with meanwhile. A
                task that waits for the answer ends only when there is one.
            born: finds the machine that the task makes, None before it is there. The questions are
                this machine's then.

        Returns:
            The task's result.

        Raises:
            OperationTimeout: the deadline passed; the task was cancelled.
            OutcomeUnknown: the reply to ``start`` was lost.
            HypervisorError: the task failed.
        """
        # what leaves this block as ConnectionFailed or OperationTimeout has changed nothing: the
        # task was not started, or it was cancelled and the server has taken it back
        machine = entity if born is None else None
        questions = None if asked is None else _Questions(asked, machine, born)
        with undoing():
            try:
                task = start()
            except errors.OutcomeUnknown:
                with unbounded():
                    self.settle(entity, questions=questions)
                raise
            return self.wait(task, progress=progress, phase=phase, questions=questions)

    def wait(
        self,
        task: Any,
        *,
        progress: ProgressCallback | None = None,
        phase: Phase = Phase.COPY,
        questions: _Questions | None = None,
    ) -> Any:
        """Wait for the end of a task that was started."""
        try:
            return self._wait(task, current_deadline(), progress, phase, questions)
        except (errors.OperationTimeout, errors.ConnectionFailed) as error:
            if error.vendor_code is not None:
                raise  # the task itself has failed so
            return self._late(task, error)
        except errors.HypervisorError:
            raise
        except BaseException:
            # what the task does must not come after what undoes it
            with suppress(errors.HypervisorError):
                self._late(task, errors.OperationTimeout("a callback has stopped the operation"))
            raise

    def outcome(self, task: Any) -> None:
        """Wait for the end of a task that nothing takes back: it is not cancelled at the
        deadline."""
        self._wait(task, current_deadline(), None, Phase.COPY)

    def _late(self, task: Any, error: errors.HypervisorError) -> Any:
        """Cancel a task that is not waited for any more, and see how it ends. One that cannot be
        cancelled may succeed after all."""
        with unbounded():
            with suppress(errors.HypervisorError):
                task.CancelTask()  # one that has ended, or that cannot be cancelled, refuses
            try:
                return self._wait(task, Deadline(_UNDOING), None, Phase.COPY)
            except errors.HypervisorError as ending:
                if ending.vendor_code == "RequestCanceled":
                    raise error from ending
                if ending.vendor_code is not None:
                    raise
                # the task was started; how it has ended nobody could ask
                raise errors.OutcomeUnknown(error.message, retryable=True) from error

    def _wait(
        self,
        task: Any,
        deadline: Deadline,
        progress: ProgressCallback | None,
        phase: Phase,
        questions: _Questions | None = None,
    ) -> Any:
        row = self._reader.one(task, *_PATHS)
        if row.get("info.state") in _ENDED:
            return _result(row.values)
        values = dict(row.values)
        wanted: list[tuple[type, Sequence[str]]] = [(vim.Task, _PATHS)]
        roots: list[tuple[Any, Sequence[Any]]] = [(task, [])]
        if questions is not None and questions.machine is not None:
            wanted.append((vim.VirtualMachine, [QUESTION]))
            roots.append((questions.machine, []))
        with by_chance(), collector_of(self._session, filter_spec(wanted, roots)) as collector:
            version, longest = "", _FIRST_LOOK
            while values.get("info.state") not in _ENDED:
                if progress is not None and isinstance(values.get("info.progress"), int):
                    done = values["info.progress"]
                    progress(Progress(phase=phase, done=done, total=100, unit="percent"))
                deadline.check("a task of the server was under way")
                machine = questions.machine if questions is not None else None
                waits = questions is not None and machine is None
                told = news(
                    collector,
                    version,
                    deadline,
                    longest=longest if waits else SLICE,
                    beside=machine,
                )
                if told is None:
                    told = version, dict(self._reader.one(task, *_PATHS).values)
                    if machine is not None:
                        told[1].update(self._reader.one(machine, QUESTION).values)
                version = told[0]
                values |= told[1]
                if questions is None:
                    continue
                if told[1].get(QUESTION) is not None:
                    questions.asked(machine, told[1][QUESTION])
                elif waits and questions.found():
                    roots = [(questions.machine, [])]
                    collector.CreateFilter(
                        filter_spec([(vim.VirtualMachine, [QUESTION])], roots), False
                    )
                    version = ""  # tell all that there is, also what the new filter looks at
                longest = min(2 * longest, SLICE)
            # the filter tells the parts of one change one by one
            row = self._reader.one(task, *_PATHS)
        return _result(row.values)

    def settle(
        self, entity: Any, *, kind: str | None = None, questions: _Questions | None = None
    ) -> None:
        """Wait until no task runs on an object: one whose start was not answered goes on.

        Args:
            kind: a ``descriptionId``; tasks of this kind are waited for on whatever object.
        """
        if entity is None:
            return
        with suppress(errors.HypervisorError):
            manager = self._session.content.taskManager
            recent = self._reader.one(manager, "recentTask").get("recentTask") or []
            paths = ("info.state", "info.entity", "info.descriptionId")
            for row in self._reader.many(recent, *paths):
                busy = row.get("info.state") not in _ENDED
                same = kind is not None and row.get("info.descriptionId") == kind
                if busy and (same or row.get("info.entity") == entity):
                    with suppress(errors.HypervisorError):
                        self._wait(row.obj, Deadline(_UNDOING), None, Phase.COPY, questions)

    def under_way(self, kinds: Collection[str]) -> bool:
        """Whether a task of one of these kinds (``descriptionId``) runs. 2 calls."""
        manager = self._session.content.taskManager
        recent = self._reader.one(manager, "recentTask").get("recentTask") or []
        return any(
            row.get("info.state") not in _ENDED and row.get("info.descriptionId") in kinds
            for row in self._reader.many(recent, "info.state", "info.descriptionId")
        )


def _result(values: Any) -> Any:
    if values.get("info.state") == "success":
        return values.get("info.result")
    fault = values.get("info.error")
    if isinstance(fault, vmodl.MethodFault):
        raise translate(fault) from fault
    raise errors.HypervisorFault("a task of the server failed and does not say why")
