"""The terminal that is connected to a serial console."""

from __future__ import annotations

import os
import pty
import termios
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from hvdrivers.cli import serial
from hvdrivers.driverkit.serial import SerialLine


class Line(SerialLine):
    def __init__(self) -> None:
        self.sent = b""
        self._over = threading.Event()

    def receive(self) -> bytes:
        self._over.wait(60)
        return b""

    def send(self, data: bytes) -> None:
        self.sent += data

    def close(self) -> None:
        self._over.set()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    """The user's end, and the command's."""
    user, command = pty.openpty()
    here = SimpleNamespace(fileno=lambda: command, flush=lambda: None)
    monkeypatch.setattr(serial, "sys", SimpleNamespace(stdin=here, stdout=here))
    yield user, command
    os.close(user)
    os.close(command)


def test_what_is_typed_as_soon_as_it_is_connected(
    monkeypatch: pytest.MonkeyPatch, terminal: tuple[int, int]
) -> None:
    """The words came before the terminal let every key through: keys that were typed at them were
    shown by the terminal itself, and thrown away."""
    user, command = terminal
    modes: list[int] = []

    def say(text: str) -> None:
        modes.append(termios.tcgetattr(command)[3] & (termios.ICANON | termios.ECHO))
        if "leaves" in text:
            os.write(user, b"hello\r" + serial.ESCAPE)

    monkeypatch.setattr(serial, "say", say)
    line = Line()
    serial.attach(line)
    assert line.sent == b"hello\r"
    assert modes == [0, termios.ICANON | termios.ECHO]
