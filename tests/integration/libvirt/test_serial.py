"""The serial console of a real machine, in a terminal and without one.

The guest is a boot sector that writes back what it reads: it needs no operating system, and is
there a moment after the machine is on.
"""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from uuid import uuid4

import pytest

from hvdrivers.contract import errors
from hvdrivers.guard import serial_lines
from hvdrivers.models.console import ConsoleKind
from hvdrivers.models.image import FileImage, ImageFormat
from tests.integration.libvirt.machines import Host, Machine
from tests.peers.waiting import wait_until

_HELLO = bytes.fromhex("ba f8 03 b0 52 ee")  # mov dx,3f8; mov al,'R'; out dx,al
_ECHO = bytes.fromhex("ba fd 03 ec a8 01 74 f8 ba f8 03 ec ee eb f1")


@pytest.fixture
def echo(own: Host) -> Iterator[Machine]:
    path = own.peer.root / "echo.raw"
    path.write_bytes((_HELLO + _ECHO).ljust(510, b"\0") + b"\x55\xaa" + bytes(1 << 20))
    with own.empty_machine(image=FileImage(path=path, format=ImageFormat.RAW)) as machine:
        wait_until(lambda: _log(machine).endswith(b"R"), timeout=120, what="the boot sector runs")
        yield machine


def _log(machine: Machine) -> bytes:
    return machine.host.driver.get_console_log(machine.uuid).data


def _until(line: object, wanted: bytes) -> bytes:
    found = b""
    while wanted not in found:
        data = line.receive()  # type: ignore[attr-defined]
        assert data, f"the line ended after {found!r}"
        found += data
    return found


def test_a_line(echo: Machine) -> None:
    lines = serial_lines(echo.host.driver)
    assert lines is not None
    access = echo.host.driver.get_console(echo.uuid, ConsoleKind.SERIAL)
    assert (access.path or "").startswith("/dev/pts/")
    threads = threading.active_count()
    with lines.open_serial(echo.uuid) as line:
        line.send(b"one \x00\xff\r")
        assert _until(line, b"\r") == b"one \x00\xff\r"
        with pytest.raises(errors.DeviceBusy):
            lines.open_serial(echo.uuid)
        with lines.open_serial(echo.uuid, force=True) as other:
            assert line.receive() == b""
            with pytest.raises(errors.ConnectionFailed):
                line.send(b"x")
            other.send(b"two\r")
            assert _until(other, b"\r") == b"two\r"
            echo.host.driver.power_off(echo.uuid)
            assert other.receive() == b""
    line.close()
    # virtlogd writes when it comes to it
    whole = b"one \x00\xff\rtwo\r"
    wait_until(lambda: _log(echo).endswith(whole), timeout=60, what="the log goes on")
    for uuid, error in ((echo.uuid, errors.InvalidState), (uuid4(), errors.InstanceNotFound)):
        with pytest.raises(error):
            lines.open_serial(uuid)
    assert threading.active_count() <= threads + 1


def test_the_command_connects_a_terminal(echo: Machine) -> None:
    command = [sys.executable, "-m", "hvdrivers", "console", echo.host.peer.uri, str(echo.uuid)]
    done = subprocess.run(  # noqa: PLW1510 - it fails
        [*command, "serial", "--attach"], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 2
    assert "terminal" in done.stderr
    terminal, theirs = pty.openpty()
    with subprocess.Popen(
        [*command, "serial", "--attach"], stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        shown = b""
        for wanted, typed in (
            (b"Ctrl-] leaves", b"hello\r"),
            (b"hello", b"\x1d"),
            (b"closed", b""),
        ):
            while wanted not in shown:
                ready, _, _ = select.select([terminal], [], [], 120)
                assert ready, shown
                shown += os.read(terminal, 65536)
            os.write(terminal, typed)
        assert process.wait(60) == 0
    os.close(terminal)
    wait_until(lambda: b"hello" in _log(echo), timeout=60, what="it is in the log")
