"""Texts that others have written on a hypervisor, as this library shows them."""

from __future__ import annotations

from hvdrivers.limits import TEXT_CHARACTERS
from hvdrivers.models.base import is_name, is_printable

_LONGEST = 500


def shortened(message: str) -> str:
    """Both ends of a long message, on one line: it begins with what failed (a command line with all
    of its arguments, the name of a machine), and ends with the reason. A guest may have written a
    part of it, and a terminal will show it: U+FFFD stands for what cannot be printed."""
    line = " ".join(message.split())
    return shown_text(line if len(line) <= _LONGEST else f"{line[:200]} ... {line[-295:]}")


def shown_label(text: str) -> str:
    """A name as near to it as a name of the contract can be: an administrator may have renamed a
    machine to anything. U+FFFD stands for what is no text, and it is no longer than a name is."""
    if is_name(text):
        return text
    label = "".join(char if is_name(f"x{char}x") else "\ufffd" for char in text).strip()[:63]
    while len(label.encode()) > 128:
        label = label[:-1]
    return label.strip() or "\ufffd"


def shown_text(text: str) -> str:
    """A text as near to it as can be printed: U+FFFD stands for what cannot."""
    shown = text[:TEXT_CHARACTERS]
    return "".join(char if is_printable(char) else "\ufffd" for char in shown)
