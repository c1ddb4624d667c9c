"""When a guest counts as one that runs on KVM. What the two guests said was written down on a host
whose KVM stands still, and from QEMU's emulation there."""

from __future__ import annotations

from typing import Any

import pytest

from hvdrivers.libvirt import accelerator

_DEAD = (
    b"\x1bc\x1b[?7l\x1b[2J\x1b[0mSeaBIOS (version 1.16.2-debian-1.16.2-1)\r\n"
    b"Machine UUID b5e2d537-69cf-4f7e-a482-c92d8"
)
_ALIVE = (
    b"\x1bc\x1b[?7l\x1b[2J\x1b[0mSeaBIOS (version 1.16.2-debian-1.16.2-1)\r\n"
    b"Machine UUID a49494d6-3cf8-46f5-8c95-8d0efd293b10\r\n"
    b"Booting from Hard Disk...\r\nBoot failed: could not read the boot disk\r\n\n"
    b"Booting from Floppy...\r\nBoot failed: could not read the boot disk\r\n\n"
    b"No bootable device.\r\n"
)


class _Console:
    """A stream that gives a few bytes at a time, and -2 while there are none."""

    def __init__(self, text: bytes) -> None:
        self._pieces: list[bytes | int] = []
        for at in range(0, len(text), 7):
            self._pieces += [text[at : at + 7], -2]

    def recv(self, size: int) -> bytes | int:
        del size
        return self._pieces.pop(0) if self._pieces else -2

    def abort(self) -> None:
        """Nobody asks for it any more."""


class _Host:
    """A connection with one machine."""

    def __init__(self, text: bytes) -> None:
        self._console = _Console(text)

    def newStream(self, flags: int) -> _Console:
        del flags
        return self._console

    def openConsole(self, *arguments: object) -> None:
        """The console is open."""


@pytest.mark.parametrize(("said", "works"), [(_ALIVE, True), (_DEAD, False), (b"", False)])
def test_the_last_words_count(said: bytes, works: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not works:
        monkeypatch.setattr(accelerator, "FIRST_SECONDS", 0.2)
        monkeypatch.setattr(accelerator, "SILENT_SECONDS", 0.2)
    host: Any = _Host(said)
    assert accelerator._speaks(host, host) is works
