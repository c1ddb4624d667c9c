"""The terminal of the command, connected to the serial console of a guest."""

from __future__ import annotations

import os
import select
import sys
import termios
import threading
import tty
from contextlib import suppress
from typing import TYPE_CHECKING

from hvdrivers.cli.report import BadUsageError, say
from hvdrivers.contract.errors import ConnectionFailed

if TYPE_CHECKING:
    from hvdrivers.driverkit.serial import SerialLine

ESCAPE = b"\x1d"
"""Ctrl-], as in virsh and telnet."""


def require_terminal() -> None:
    """Refuse where there is none to connect."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise BadUsageError("--attach connects a terminal, and there is none here")


def attach(line: SerialLine) -> None:
    """Connect the terminal until the line ends, or the escape key is typed. The guest's bytes go to
    the terminal as they are: a console is for that."""
    terminal, screen = sys.stdin.fileno(), sys.stdout.fileno()
    sys.stdout.flush()
    before = termios.tcgetattr(terminal)
    ended, tell = os.pipe()

    def show() -> None:
        with suppress(OSError):  # nobody looks any more
            while data := line.receive():
                while data:
                    data = data[os.write(screen, data) :]
        os.write(tell, b"x")

    reader = threading.Thread(target=show, name="hvdrivers-console", daemon=True)
    try:
        tty.setraw(terminal, termios.TCSADRAIN)
        reader.start()
        # only now: the terminal itself would show what is typed before, and then throw it away
        say("connected; Ctrl-] leaves")
        os.write(screen, b"\r")  # a line feed alone leaves the column where it is now
        while True:
            ready, _, _ = select.select([terminal, ended], [], [])
            if ended in ready:
                break
            typed = os.read(terminal, 1024)
            wanted, escape, _ = typed.partition(ESCAPE)
            try:
                line.send(wanted)
            except ConnectionFailed:
                break
            if escape or not typed:
                break
    finally:
        line.close()
        reader.join()
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
        os.close(ended)
        os.close(tell)
    say("\nthe console is closed")
