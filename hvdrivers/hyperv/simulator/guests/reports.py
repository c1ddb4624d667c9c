"""What the guest of ``hvdrivers.testing.guestimage`` reports on its serial port, a fact a line."""

import re


def reports(said: bytes) -> list[str]:
    """The facts. A line that has not ended yet is none: who answers it would write into it."""
    text = said.decode("utf-8", "replace")
    return re.findall(r"^hv-guest: (.*?)\r?\n", text, re.MULTILINE)


def lives(found: list[str]) -> bool:
    """Whether the guest is up: it has said so, or has counted since."""
    return any(line == "ready" or line.startswith("tick ") for line in found)
