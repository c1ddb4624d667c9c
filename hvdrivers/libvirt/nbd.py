"""What a disk that QEMU exports over NBD has: which ranges hold data, and which have changed.

Only what is needed for that: the handshake, and block status. Content is for the caller to read.
Protocol: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from hvdrivers.contract import errors
from hvdrivers.driverkit.deadline import Deadline, waitable

_MAGIC, _OPTIONS = b"NBDMAGIC", b"IHAVEOPT"
_OPTION_REPLY = 0x3E889045565A9
_REQUEST, _REPLY = 0x25609513, 0x668E33EF
_GO, _STRUCTURED, _SET_CONTEXTS = 7, 8, 10
_ACK, _INFO, _CONTEXT = 1, 3, 4
_BLOCK_STATUS, _DONE, _FAILED = 7, 1, 1 << 15
_STATUS_CHUNK = 5
_ALLOCATION = "base:allocation"
_ZERO, _CHANGED = 2, 1
"""Flags of a range: it reads as zeroes, in the allocation; it has changed, in a bitmap."""
_AT_ONCE = 1 << 30
"""Bytes that one question is about."""
_MOST = 1 << 24
"""Bytes of an answer; QEMU's are much smaller."""


def backups_elsewhere(uri: str, host_root: Path | None) -> str | None:
    """Why no backup can be read here: the host is another machine. None: it can."""
    if host_root is not None or not urlsplit(uri).hostname:
        return None
    return (
        "backups are read at a socket in the host's file system, and the host is another machine:"
        " connect on the host itself, or name with host_root= where its files are"
    )


@dataclass(frozen=True)
class Extent:
    """A range of a disk that is to be copied."""

    offset: int
    length: int
    zero: bool


class _Broken(Exception):
    """The other side does not speak NBD, or says no."""


def extents(path: Path, export: str, bitmap: str | None, deadline: Deadline) -> list[Extent]:
    """What there is to copy of an export at a unix socket.

    Args:
        path: the socket, as this process sees it.
        bitmap: what is marked as changed in it counts; None: all that is no zero.

    Raises:
        NotSupported: there is no such socket on this machine.
        PermissionDenied: this process may not use it.
        HypervisorFault: the answers make no sense.
    """
    try:
        with _connected(path, deadline) as server:
            contexts = [_ALLOCATION]
            if bitmap is not None:
                contexts.append(f"qemu:dirty-bitmap:{bitmap}")
            size, ids = server.enter(export, contexts)
            return list(_merged(server.ranges(size, ids)))
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as error:
        raise errors.NotSupported(
            "the host's files are not this machine's: the socket at which the backup is read is"
            " not here",
            hint="make backups on the host itself, or name with host_root= where its files are",
        ) from error
    except PermissionError as error:
        raise errors.PermissionDenied(
            "this process may not use the socket at which QEMU lets the backup be read",
            hint="only root, and the user that QEMU runs as, may read the disks of machines",
        ) from error
    except TimeoutError as error:
        deadline.check("QEMU told what is to be copied")
        raise errors.HypervisorFault("QEMU does not tell what is to be copied") from error
    except (OSError, ValueError, struct.error, _Broken) as error:
        raise errors.HypervisorFault(f"the backup cannot be read: {error}") from error


@contextmanager
def _connected(path: Path, deadline: Deadline) -> Iterator[_Server]:
    # the path of a socket has 107 bytes at most, and a folder that is open a short name
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as made:
            server = _Server(made, deadline)
            server.wait()
            made.connect(f"/proc/self/fd/{folder}/{path.name}")
            yield server
    finally:
        os.close(folder)


class _Ranges:
    """The ranges of one context, read forwards."""

    def __init__(self, start: int, ranges: list[tuple[int, int]]) -> None:
        self._end, self._left = start, iter(ranges)
        self.flags = 0

    def until(self, offset: int) -> int:
        """Where the range that this offset is in ends; ``flags`` are its flags then."""
        while self._end <= offset:
            length, self.flags = next(self._left)
            self._end += length
        return self._end


def _merged(found: Iterable[Extent]) -> Iterator[Extent]:
    """The same with neighbours of one kind as one."""
    last: Extent | None = None
    for each in found:
        if last is None:
            last = each
        elif last.offset + last.length == each.offset and last.zero is each.zero:
            last = Extent(last.offset, last.length + each.length, each.zero)
        else:
            yield last
            last = each
    if last is not None:
        yield last


def _counted(word: str) -> bytes:
    data = word.encode()
    return struct.pack(">I", len(data)) + data


class _Server:
    """The other side."""

    def __init__(self, connection: socket.socket, deadline: Deadline) -> None:
        self._connection, self._deadline = connection, deadline

    def wait(self) -> None:
        """The next step may take what is left of the time."""
        self._deadline.check("QEMU told what is to be copied")
        left = self._deadline.left
        self._connection.settimeout(waitable(left) if self._deadline.bounded else None)

    def enter(self, export: str, contexts: list[str]) -> tuple[int, list[int]]:
        """Choose an export; its size, and the numbers of these contexts."""
        if self._read(8) != _MAGIC or self._read(8) != _OPTIONS:
            raise _Broken("it is no NBD server")
        self._read(2)
        self._connection.sendall(struct.pack(">I", 3))  # the fixed handshake, and no zeroes in it
        list(self._option(_STRUCTURED, b""))
        name = _counted(export)
        wanted = b"".join(_counted(each) for each in contexts)
        found = {
            data[4:].decode(): int.from_bytes(data[:4], "big")
            for kind, data in self._option(
                _SET_CONTEXTS, name + struct.pack(">I", len(contexts)) + wanted
            )
            if kind == _CONTEXT
        }
        if missing := [each for each in contexts if each not in found]:
            raise _Broken(f"it does not know {missing[0]}")
        size = 0
        for kind, data in self._option(_GO, name + struct.pack(">H", 0)):
            if kind == _INFO and data[:2] == b"\0\0":
                (size,) = struct.unpack_from(">Q", data, 2)
        return size, [found[each] for each in contexts]

    def ranges(self, size: int, ids: list[int]) -> Iterator[Extent]:
        """What is to be copied, range by range."""
        offset = 0
        while offset < size:
            told = self._status(offset, min(_AT_ONCE, size - offset))
            if not all(told.get(each) for each in ids):
                raise _Broken("it does not tell of a range")
            # each context has ranges of its own, and goes as far as it likes
            end = min(sum(length for length, _ in told[each]) for each in ids)
            end = min(offset + end, size)
            at = [_Ranges(offset, told[each]) for each in ids]
            while offset < end:
                stop = min(end, *(each.until(offset) for each in at))
                allocation, *changes = (each.flags for each in at)
                zero = bool(allocation & _ZERO)
                if changes[0] & _CHANGED if changes else not zero:
                    yield Extent(offset, stop - offset, zero)
                offset = stop

    def _status(self, offset: int, length: int) -> dict[int, list[tuple[int, int]]]:
        """Length and flags of each range, by the number of the context."""
        self.wait()
        self._connection.sendall(
            struct.pack(">IHHQQI", _REQUEST, 0, _BLOCK_STATUS, 1, offset, length)
        )
        told: dict[int, list[tuple[int, int]]] = {}
        while True:
            magic, flags, kind, _, count = struct.unpack(">IHHQI", self._read(20))
            if magic != _REPLY or count > _MOST:
                raise _Broken("it answers something else")
            data = self._read(count)
            if kind & _FAILED:
                raise _Broken(data[6:].decode(errors="replace") or "it tells of an error")
            if kind == _STATUS_CHUNK:
                (number,) = struct.unpack_from(">I", data)
                pairs = list(struct.iter_unpack(">II", data[4:]))
                if any(not length for length, _ in pairs):
                    raise _Broken("a range is empty")
                told[number] = pairs
            if flags & _DONE:
                return told

    def _option(self, option: int, data: bytes) -> Iterator[tuple[int, bytes]]:
        self.wait()
        self._connection.sendall(_OPTIONS + struct.pack(">II", option, len(data)) + data)
        while True:
            magic, _, kind, count = struct.unpack(">QIII", self._read(20))
            if magic != _OPTION_REPLY or count > _MOST:
                raise _Broken("it is no NBD server")
            answer = self._read(count)
            if kind == _ACK:
                return
            if kind >> 31:
                raise _Broken(answer.decode(errors="replace") or "it refuses an option")
            yield kind, answer

    def _read(self, count: int) -> bytes:
        found = bytearray()
        while len(found) < count:
            self.wait()
            part = self._connection.recv(count - len(found))
            if not part:
                raise _Broken("it hangs up")
            found += part
        return bytes(found)
