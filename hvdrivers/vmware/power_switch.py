"""The switch of a machine, also of one that waits with a question."""

from __future__ import annotations

from typing import Any

from hvdrivers.contract import errors
from hvdrivers.driverkit.undo import note_loss
from hvdrivers.vmware.moves import Moves
from hvdrivers.vmware.questions import PENDING, end, ending_questions
from hvdrivers.vmware.reader import Reader
from hvdrivers.vmware.tasks import QUESTION, Tasks


class PowerSwitch:
    """Switches machines on, and off."""

    def __init__(self, reader: Reader, tasks: Tasks, moves: Moves) -> None:
        self._reader = reader
        self._tasks = tasks
        self._moves = moves

    def state(self, obj: Any) -> str:
        """``poweredOn``, ``poweredOff`` or ``suspended``. One call."""
        return str(self._reader.one(obj, "runtime.powerState").get("runtime.powerState"))

    def on(self, obj: Any) -> None:
        """Switch a machine on. 2 calls; one that asks a question instead is answered with what ends
        the start: 1 call more, and those of the wait.

        Raises:
            InvalidState: it has asked one; the error has its text.
        """
        with ending_questions() as answer:
            self._tasks.run(lambda: obj.PowerOnVM_Task(None), entity=obj, asked=answer)

    def off(self, obj: Any) -> None:
        """Switch a machine off. 2 calls; of one that waits with a question 4 more.

        Raises:
            InvalidState: it is off, or its question cannot be answered.
        """
        try:
            self._tasks.run(obj.PowerOffVM_Task, entity=obj)
        except errors.InvalidState as error:
            if error.vendor_code != PENDING:
                raise
            self._answer(obj)
            self._tasks.run(obj.PowerOffVM_Task, entity=obj)
        note_loss()

    def off_at_once(self, obj: Any) -> None:
        """Switch a machine off, also one that is moving: the migration ends."""
        try:
            self.off(obj)
        except errors.DeviceBusy as error:
            if error.vendor_code != "TaskInProgress":
                raise
            # a migration: it ends at once, or has ended when it was asked to
            self._moves.end(obj)
            self._tasks.settle(obj)
            self.off(obj)

    def ensure_off(self, obj: Any) -> None:
        """Switch a machine off; one that is off already is a success."""
        try:
            self.off(obj)
        except errors.InvalidState:
            if self.state(obj) != "poweredOff":
                raise

    def _answer(self, obj: Any) -> None:
        """Answer the question of a machine that shall go down, unless somebody has."""
        question = self._reader.one(obj, QUESTION).get(QUESTION)
        if question is not None:
            end(obj, question)
