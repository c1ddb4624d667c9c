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
from hvdrivers.vmware.tasks import Asked

PENDING = "QuestionPending"
_ENDS = ("button.abort", "button.cancel", "button.uuid.cancel")
"""Choices that end a machine, by the ids that ESXi gives them in any language."""


@contextmanager
def ending_questions() -> Iterator[Asked]:
    """Answers the questions of a machine that starts with what ends the start.

    Raises:
        InvalidState: the block has failed, and there was one; the error has its text.
    """
    asked: list[str] = []

    def answer(obj: Any, question: Any) -> None:
        asked.append(" ".join(question.text.split()))
        end(obj, question)

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


def end(obj: Any, question: Any) -> None:
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
