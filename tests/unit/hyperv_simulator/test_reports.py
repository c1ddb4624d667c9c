"""What a real guest reports: a line counts when it has ended."""

from __future__ import annotations

from hvdrivers.hyperv.simulator.guests.reports import lives, reports
from hvdrivers.testing.serialguest import SerialShell

BOOTED = b"SYSLINUX 6.04\r\nhv-guest: boot number 1\r\nhv-guest: ready"


def test_a_line_that_has_not_ended_says_nothing() -> None:
    assert reports(BOOTED) == ["boot number 1"]
    assert not lives(reports(BOOTED))
    assert reports(BOOTED + b"\r\n")[-1] == "ready"
    assert lives(reports(BOOTED + b"\r\n"))


def test_a_guest_that_was_spoken_to_too_early_lives() -> None:
    """What is typed is echoed into the line that the guest was about to end."""
    said = BOOTED + b"ping\r\n\r\nhv-guest: pong\r\n"
    assert not lives(reports(said))
    assert lives(reports(said + b"hv-guest: tick 1\r\n"))


def test_nobody_is_spoken_to_before_the_line_has_ended() -> None:
    ready = SerialShell.is_ready
    assert not ready(None, None, BOOTED)  # type: ignore[arg-type]
    assert ready(None, None, BOOTED + b"\r\n")  # type: ignore[arg-type]
