"""What a driver has raised, in words, however badly the exception is made.

A plug-in, or a client library below it, may raise an exception whose text fails, or an error of the
tree that lacks what every error of the tree has. Neither may reach a caller.
"""

from __future__ import annotations

from pydantic import ValidationError

from hvdrivers import invalid
from hvdrivers.contract.errors import HypervisorError


def in_words(error: BaseException) -> str:
    """The class of an exception and its text, on one line."""
    name = type(error).__name__
    if isinstance(error, ValidationError):
        return f"{name}: {error.title}: {invalid.in_words(error, most=5)}"
    try:
        text = " ".join(str(error).split())
    except Exception:  # noqa: BLE001 - a text that fails says nothing
        return f"{name}, whose text cannot be read"
    return f"{name}: {text}"


def is_whole(error: HypervisorError) -> bool:
    """Whether an error of the tree has what each of them has: an ``__init__`` of a derived class
    may have left the base's out, or have given it something else than text."""
    try:
        texts = (error.message, error.hint or "", error.vendor_code or "")
        switch = error.retryable
    except AttributeError:
        return False
    return all(isinstance(each, str) for each in texts) and isinstance(switch, bool)
