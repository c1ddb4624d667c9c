"""Questions that a machine waits with: its datastore has no room, a disc is locked, it was moved.
Until one is answered the server switches the machine neither off nor on."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from hvdrivers.contract import errors
from hvdrivers.vmware.base import Topic

PENDING = "QuestionPending"
_ENDS = ("button.abort", "button.cancel", "button.uuid.cancel")
"""Choices that end a machine, by the ids that ESXi gives them in any language."""


class Questions(Topic):
    """Switches machines off, also those that wait with a question."""

    def _power_off_task(self, obj: Any) -> None:
        """Switch a machine off. 2 calls; of one that waits with a question 4 more.

        Raises:
            InvalidState: it is off, or its question cannot be answered.
        """
        try:
            self.tasks.run(obj.PowerOffVM_Task, entity=obj)
        except errors.InvalidState as error:
            if error.vendor_code != PENDING:
                raise
            self._answer(obj)
            self.tasks.run(obj.PowerOffVM_Task, entity=obj)

    def _answer(self, obj: Any) -> None:
        """Answer the question of a machine that shall go down, unless somebody has."""
        question = self.reader.one(obj, "runtime.question").get("runtime.question")
        if question is not None:
            with suppress(errors.InvalidRequest):  # answered since: the server knows no such id
                obj.AnswerVM(question.id, _choice(question))


def _choice(question: Any) -> str:
    """The choice that ends the machine, else the default."""
    choices = question.choice.choiceInfo
    for wanted in _ENDS:
        for choice in choices:
            if wanted in (choice.label, choice.key):
                return str(choice.key)
    return str(choices[question.choice.defaultIndex or 0].key)
