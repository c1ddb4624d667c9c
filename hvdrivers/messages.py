"""Messages of hypervisors, as errors show them."""

from __future__ import annotations

_LONGEST = 500


def shortened(message: str) -> str:
    """Both ends of a long message: it begins with what failed (a command line with all of its
    arguments, the name of a machine), and ends with the reason."""
    return message if len(message) <= _LONGEST else f"{message[:200]} ... {message[-295:]}"
