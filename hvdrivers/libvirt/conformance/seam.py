"""Where the conformance suite cuts the calls of the libvirt driver."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Any, NoReturn

import libvirt

from hvdrivers.conformance.engine.observer import Cut, FaultSeam
from hvdrivers.libvirt.config import LibvirtConfig
from hvdrivers.libvirt.opening import open_connection
from hvdrivers.libvirt.session import Connection

_PARTS = ("send", "sendHole", "recv", "recvAll", "recvFlags", "recvHole")


_STREAM = frozenset(f"Stream.{part}" for part in _PARTS)
"""Parts of one transfer: how many there are is the size of an image."""


Send = Callable[[], Any]


def lose_the_reply(send: Send, config: LibvirtConfig, cut: Callable[[], None]) -> NoReturn:
    """Make a call, cut all connections of this process, and raise what libvirt raises then."""
    with suppress(libvirt.libvirtError):  # the reply that is lost may have been an error
        send()
    # a connection of its own: the driver closes those that it has in its own threads
    with closing(open_connection(config)) as lost:
        cut()
        lost.getLibVersion()
    raise AssertionError("the connection is not dead")


class LibvirtSeam(FaultSeam):
    """The driver's own seam: the sockets below its connection are really shut."""

    deadline = 60.0
    """Nobody waits for it: the cut lets it pass."""

    def __init__(self, connection: Connection, cut: Callable[[Connection], None]) -> None:
        self._connection = connection
        self._cut = cut

    @contextmanager
    def counting(self) -> Iterator[list[str]]:
        names: list[str] = []

        def note(name: str, send: Send) -> Any:
            names.append(name)
            return send()

        with self._through(note):
            yield names

    @contextmanager
    def cut(self, name: str, occurrence: int, kind: str) -> Iterator[Cut]:
        faults = {
            "before": self._before,
            "after": self._after,
            "timeout": self._hang,
            # libvirt's session is its connection, which the daemon closes
            "expired": self._before,
        }

        cut, seen = Cut(), itertools.count(1)

        def at(called: str, send: Send) -> Any:
            if called != name or next(seen) != occurrence:
                return send()
            cut.struck = True
            return faults[kind](send)

        with self._through(at):
            yield cut

    @contextmanager
    def cut_twice(self, name: str, occurrence: int, then: int) -> Iterator[Sequence[Cut]]:
        first, second = Cut(), Cut()
        seen, later = itertools.count(1), itertools.count(1)
        # an operation makes calls at the same time, and a cut shuts the sockets of all
        cutting = threading.Lock()

        def at(called: str, send: Send) -> Any:
            with cutting:
                if first.struck:
                    if not second.struck and next(later) == then:
                        second.struck = True
                        return self._before(send)
                elif called == name and next(seen) == occurrence:
                    first.struck = True
                    return self._after(send)
            return send()

        with self._through(at):
            yield first, second

    @contextmanager
    def host_dies(self, name: str, occurrence: int) -> Iterator[Cut]:
        cut, seen = Cut(), itertools.count(1)
        cutting = threading.Lock()  # as above

        def at(called: str, send: Send) -> Any:
            with cutting:
                if cut.struck or (called == name and next(seen) == occurrence):
                    cut.struck = True
                    return self._before(send)
            return send()

        with self._through(at):
            yield cut

    @contextmanager
    def _through(self, at: Callable[[str, Send], Any]) -> Iterator[None]:
        def seam(name: str, send: Send) -> Any:
            return send() if name in _STREAM else at(name, send)

        usual, self._connection.seam = self._connection.seam, seam
        try:
            yield
        finally:
            self._connection.seam = usual

    def _before(self, send: Send) -> Any:
        self._cut(self._connection)
        return send()

    def _after(self, send: Send) -> Any:
        connection = self._connection
        lose_the_reply(send, connection.config, lambda: self._cut(connection))

    def _hang(self, send: Send) -> Any:
        self._connection.deadline.pass_now()
        return send()
