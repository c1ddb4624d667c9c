"""Text that is safe to show. Names, console output and errors come from tenants and hosts.

A terminal obeys what it is sent: an escape sequence in a machine's name can move the cursor, change
the title, or type a command into the shell; a bidirectional override shows one name and is another.
"""

from __future__ import annotations

import re

_JOINERS = "\u200c\u200d"  # inside of words and emoji: harmless, and names are unreadable without
_SEQUENCE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|\x1b\][^\x07\x1b]{0,4096}(?:\x07|\x1b\\)"  # OSC: titles, links, clipboard
    r"|\x1b[ -/]*[0-~]"
)
_UNSAFE_IN_JSON = re.compile(r"[\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
_TAGS = re.compile(r"[\U000e0000-\U000e007f]")  # invisible twins of ASCII


def shown(text: object, *, lines: bool = False) -> str:
    r"""``text`` with everything that is not printable written out: ``\x1b``, ``\u202e``.

    Args:
        lines: leave line breaks and tabs as they are.
    """
    plain = str(text)
    if plain.isprintable():
        return plain
    kept = _JOINERS + ("\n\t" if lines else "")
    return "".join(
        char if char.isprintable() or char in kept else _written_out(char) for char in plain
    )


def _written_out(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def console_text(data: bytes) -> str:
    """What a guest wrote to its console, for a terminal: colours and cursor movements are dropped,
    and whatever else is not printable is written out."""
    text = data.decode("utf-8", errors="replace").replace("\r\n", "\n")
    # The second pass sees what the first one leaves, also what that has brought together.
    return shown(_SEQUENCE.sub("", text), lines=True)


def json_text(encoded: str) -> str:
    """JSON with what a terminal would obey written as ``\\uXXXX``: the same data."""
    # json.dumps escapes U+0000 to U+001F itself. None of the others is outside of a string.
    encoded = _UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", encoded)
    return _TAGS.sub(lambda found: f"\\udb40\\u{0xDC00 + (ord(found[0]) & 0x3FF):04x}", encoded)


def is_safe_word(text: str) -> bool:
    """Whether a shell takes it for one word and nothing else. What completion offers is inserted
    into a command line, and zsh evaluates it."""
    return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", text) is not None
