"""Questions that a machine waits with: its datastore has no room, a disc is locked, it was moved.
Until one is answered the server does not switch the machine off, and a task that switches it on
does not end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from hvdrivers.contract import errors
from hvdrivers.messages import shortened
from hvdrivers.vmware.base import Topic
from hvdrivers.vmware.tasks import QUESTION, Asked

PENDING = "QuestionPending"
_ENDS = ("button.abort", "button.cancel", "button.uuid.cancel")
"""Choices that end a machine, by the ids that ESXi gives them in any language."""


class Questions(Topic):
    """Switches machines on, and off, also those that wait with a question."""

    def _start(self, obj: Any) -> None:
        """Switch a machine on. 2 calls; one that asks a question instead is answered with what ends
        the start: 1 call more, and those of the wait.

        Raises:
            InvalidState: it has asked one; the error has its text.
        """
        with ending_questions() as answer:
            self.tasks.run(lambda: obj.PowerOnVM_Task(None), entity=obj, asked=answer)

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
        question = self.reader.one(obj, QUESTION).get(QUESTION)
        if question is not None:
            _end(obj, question)


@contextmanager
def ending_questions() -> Iterator[Asked]:
    """Answers the questions of a machine that starts with what ends the start.

    Raises:
        InvalidState: the block has failed, and there was one; the error has its text.
    """
    asked: list[str] = []

    def answer(obj: Any, question: Any) -> None:
        asked.append(" ".join(question.text.split()))
        _end(obj, question)

    try:
        yield answer
    except errors.HypervisorError as error:
        if not asked or error.vendor_code is None:
            raise
        raise errors.InvalidState(
            shortened(f"the machine did not start, it asked: {asked[-1]}"),
            vendor_code=PENDING,
            hint="mend what it asks about, or start it with vSphere's client and answer there",
        ) from error


def _end(obj: Any, question: Any) -> None:
    """Answer a question with what ends the machine, or its start. An answer whose reply was lost is
    sent again: the server takes one for a question."""
    answer = partial(obj.AnswerVM, question.id, _choice(question))
    with suppress(errors.InvalidRequest):  # answered since: the server knows no such id
        try:
            answer()
        except errors.OutcomeUnknown:
            answer()


def _choice(question: Any) -> str:
    """The choice that ends the machine, else the default."""
    choices = question.choice.choiceInfo
    for wanted in _ENDS:
        for choice in choices:
            if wanted in (choice.label, choice.key):
                return str(choice.key)
    return str(choices[question.choice.defaultIndex or 0].key)
