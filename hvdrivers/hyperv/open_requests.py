"""Requests without a reply so far: their lines, and what the lines from the host say of them.

A request is a line, and so is its reply (``scripts/loop.ps1`` has the form). Nothing here sends or
waits: :class:`~hvdrivers.hyperv.powershell.PowerShell` does.
"""

from __future__ import annotations

import base64
import binascii
import json
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress

from hvdrivers.contract import errors
from hvdrivers.driverkit.seam import ReplyLost
from hvdrivers.hyperv.library import Json, marked
from hvdrivers.hyperv.wire import ShellLost


class OpenRequest:
    """A request without a reply so far."""

    def __init__(self, line: bytes) -> None:
        self.line = line
        self.sent = False
        """Whether a part of the line may have left this machine."""
        self.held = False
        """Whether the host has said that it cannot stop it where it is, and goes on."""
        self.reply: Future[dict[str, Json]] = Future()


class OpenRequests:
    """Those of one process. Thread-safe.

    Args:
        nonce: a word in each line of the host, which tells it from what else writes to the console.
    """

    def __init__(self, nonce: str) -> None:
        self._nonce = nonce.encode()
        self._lock = threading.Lock()
        self._waiting: dict[int, OpenRequest] = {}
        self._buffer = b""
        self._next = 1
        self.hello: Future[int] = Future()
        """The host's clock, which its first line tells."""
        self.made = 0
        """How many requests there have been."""
        self.ended: errors.HypervisorError | None = None
        """Why nothing comes from the process any more."""

    def register(
        self, operation: str, arguments: Mapping[str, Json], ticks: int, data: bytes | None
    ) -> tuple[int, OpenRequest]:
        """A new one, and its number.

        Args:
            ticks: its deadline, by the host's clock.

        Raises:
            ShellLost: the process has ended.
        """
        secrets: list[str] = []
        marks = marked(arguments, secrets)
        text = json.dumps(marks, ensure_ascii=True, separators=(",", ":"))
        packed = base64.b64encode(text.encode()).decode()
        tail = f" {base64.b64encode(data).decode()}" if data is not None else ""
        if secrets:
            words = (base64.b64encode(each.encode()).decode() for each in secrets)
            tail = f"{tail or ' -'} {','.join(words)}"
        with self._lock:
            if self.ended is not None:
                raise ShellLost(self.ended.message, vendor_code=self.ended.vendor_code)
            number = self._next
            self._next += 1
            self.made += 1
            floor = min(self._waiting, default=number)
            line = f"{number} run {floor} {ticks} {operation} {packed}{tail} .\n".encode()
            request = self._waiting[number] = OpenRequest(line)
        return number, request

    def forget(self, number: int) -> None:
        """Nobody waits for it any more."""
        with self._lock:
            self._waiting.pop(number, None)

    def withdrawn(self, number: int, request: OpenRequest) -> bool:
        """Give a request up that nobody has sent. False: somebody has."""
        with self._lock:
            if not request.sent:
                self._waiting.pop(number, None)
            return not request.sent

    # ---- lines for the host ---------------------------------------------------------------------

    def leaving(self, *requests: OpenRequest) -> bytes:
        """The lines of requests, which are about to be sent."""
        with self._lock:
            for each in requests:
                each.sent = True
        return b"".join(each.line for each in requests)

    def open_lines(self) -> bytes:
        """The lines of all, to be sent again."""
        with self._lock:
            requests = [each for each in self._waiting.values() if not each.reply.done()]
        return self.leaving(*requests)

    def stop_line(self, number: int) -> bytes:
        """The line that stops one."""
        with self._lock:
            floor = min(self._waiting, default=number)
        return f"{number} stop {floor} .\n".encode()

    def questions(self) -> bytes:
        """Lines that ask for the replies that are missing."""
        with self._lock:
            floor = min(self._waiting, default=self._next)
            open_ = [n for n, each in self._waiting.items() if not each.reply.done()]
        lines = [f"{number} again {floor} .\n".encode() for number in open_]
        if not self.hello.done():
            lines.append(b"0 hello 0 .\n")
        return b"".join(lines)

    # ---- lines from the host --------------------------------------------------------------------

    def take(self, data: bytes) -> None:
        """Give replies to those who wait for them."""
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            part = line.strip().split(b" ")
            if len(part) != 5 or part[0] != b"HV1" or part[1] != self._nonce:
                continue  # something else that writes to the console
            if part[2] == b"hello":
                if not self.hello.done():
                    self.hello.set_result(int(part[4]))
                continue
            with self._lock:
                request = self._waiting.get(int(part[2])) if part[2].isdigit() else None
            if request is None or request.reply.done():
                continue
            if part[3] == b"held":
                request.held = True
            else:
                _answer(request, part[4])

    def fail(self, error: errors.HypervisorError) -> None:
        """No reply comes any more. The first reason counts."""
        with self._lock:
            if self.ended is None:
                self.ended = error
            waiting = list(self._waiting.values())
        for request in waiting:
            if not request.reply.done():
                with suppress(Exception):
                    request.reply.set_exception(
                        ReplyLost(error.message, vendor_code=error.vendor_code)
                    )
        if not self.hello.done():
            self.hello.set_exception(error)


def _answer(request: OpenRequest, packed: bytes) -> None:
    try:
        reply = json.loads(base64.b64decode(packed, validate=True))
    except (binascii.Error, ValueError):
        return  # a damaged line: the driver asks again, or gives up at the deadline
    request.reply.set_result(reply)
