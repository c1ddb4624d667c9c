"""What is wrong with a value, in words: the only place that turns pydantic's errors into text."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


def in_words(
    error: ValidationError, most: int | None = None, *, below: int = 0, whole: str = ""
) -> str:
    """What a validation error says, field by field, without the values: they may be secrets.

    Args:
        most: how many fields are named; the others are counted.
        below: how many parts of a field's place the reader knows already.
        whole: what the value as a whole is called.
    """
    problems = error.errors(include_input=False, include_url=False, include_context=False)
    shown = [
        ": ".join(filter(None, (field_of(each["loc"][below:]) or whole, plain(each["msg"]))))
        for each in problems[:most]
    ]
    if len(problems) > len(shown):
        shown.append(f"and {len(problems) - len(shown)} more")
    return "; ".join(shown)


_IN_WORDS = (
    (re.compile(r"Extra inputs are not permitted"), "there is no such field"),
    (
        re.compile(r"Unable to extract tag using discriminator (.+)"),
        r"it lacks \1, which says of what kind it is",
    ),
    (  # without what was given
        re.compile(
            r"(?s)Input tag .* found using (.+) does not match any of the expected tags: (.+)"
        ),
        r"\1 is none of \2",
    ),
)
"""What only those who know pydantic understand."""


def plain(message: str) -> str:
    """A message without the words that pydantic puts before those of a validator, and without
    those that only its users know."""
    for pattern, words in _IN_WORDS:
        found = pattern.fullmatch(message)
        if found is not None:
            return found.expand(words)
    return message.replace("Value error, ", "", 1)


def field_of(location: tuple[int | str, ...]) -> str:
    """The place of a field: ``vifs.0.address``."""
    return ".".join(map(str, location))
