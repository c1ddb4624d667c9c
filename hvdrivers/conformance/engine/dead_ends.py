"""Addresses of this machine at which no hypervisor is: for ``Target.connect_nowhere()``."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def dead_port(*, silent: bool) -> Iterator[int]:
    """A TCP port of 127.0.0.1, for the block alone.

    Args:
        silent: connections are accepted, and no byte ever comes back. False: they are refused.
    """
    with socket.socket(socket.AF_INET) as held:
        held.bind(("127.0.0.1", 0))  # nobody else gets the port meanwhile
        if silent:
            held.listen()
        yield held.getsockname()[1]


@contextmanager
def dead_socket(*, silent: bool) -> Iterator[Path]:
    """The same for a UNIX socket: its file is there, as a daemon that was killed leaves it."""
    with TemporaryDirectory(prefix="hvct-") as folder, socket.socket(socket.AF_UNIX) as held:
        path = Path(folder) / "socket"
        held.bind(str(path))
        if silent:
            held.listen()
        yield path
