"""The reader of a backup's ranges, against servers that lie, stand still or hang up."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from hvdrivers.contract import errors
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.libvirt.nbd import Extent, extents

HELLO = b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3)
REPLY = 0x3E889045565A9
ACK, INFO, CONTEXT = 1, 3, 4
ALLOCATION, BITMAP = b"base:allocation", b"qemu:dirty-bitmap:changed"
MIB = 1 << 20


def option(number: int, kind: int, data: bytes = b"") -> bytes:
    return struct.pack(">QIII", REPLY, number, kind, len(data)) + data


def status(number: int, *ranges: tuple[int, int], done: bool = True) -> bytes:
    data = struct.pack(">I", number) + b"".join(struct.pack(">II", *each) for each in ranges)
    return struct.pack(">IHHQI", 0x668E33EF, int(done), 5, 1, len(data)) + data


def greeting(size: int, *contexts: bytes) -> bytes:
    """All that comes before the ranges."""
    named = (
        option(10, CONTEXT, struct.pack(">I", number) + name)
        for number, name in enumerate(contexts, 1)
    )
    info = struct.pack(">HQH", 0, size, 0)
    return b"".join(
        (HELLO, option(8, ACK), *named, option(10, ACK), option(7, INFO, info), option(7, ACK))
    )


@contextmanager
def saying(folder: Path, said: bytes, *, then_waits: bool = False) -> Iterator[Path]:
    """A server that says this, whatever it is asked."""
    path = folder / "nbd.sock"
    ends = threading.Event()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            connection, _ = server.accept()
            with connection, suppress(OSError):
                connection.sendall(said)
                if then_waits:
                    ends.wait(60)
                else:
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65536):
                        pass

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield path
        finally:
            ends.set()
            thread.join()


@pytest.mark.parametrize(
    ("said", "bitmap", "found"),
    [
        (
            greeting(4 * MIB, ALLOCATION) + status(1, (MIB, 0), (MIB, 3), (2 * MIB, 0)),
            None,
            [Extent(0, MIB, zero=False), Extent(2 * MIB, 2 * MIB, zero=False)],
        ),
        (
            greeting(4 * MIB, ALLOCATION, BITMAP)
            + status(1, (MIB, 0), (3 * MIB, 3), done=False)
            + status(2, (2 * MIB, 1), (2 * MIB, 0)),
            "changed",
            [Extent(0, MIB, zero=False), Extent(MIB, MIB, zero=True)],
        ),
        # one context goes less far than the other: the rest is asked for again
        (
            greeting(2 * MIB, ALLOCATION, BITMAP)
            + status(1, (MIB, 0), done=False)
            + status(2, (2 * MIB, 1))
            + status(1, (MIB, 0), done=False)
            + status(2, (MIB, 1)),
            "changed",
            [Extent(0, 2 * MIB, zero=False)],
        ),
        # a range longer than the disk ends with it
        (
            greeting(MIB, ALLOCATION) + status(1, (1 << 31, 0)),
            None,
            [Extent(0, MIB, zero=False)],
        ),
        (greeting(0, ALLOCATION), None, []),
    ],
    ids=range(5),
)
def test_ranges(tmp_path: Path, said: bytes, bitmap: str | None, found: list[Extent]) -> None:
    with saying(tmp_path, said) as path:
        assert extents(path, "root", bitmap, Deadline(30)) == found


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        HELLO,
        HELLO + option(8, (1 << 31) + 1, b"no such option"),
        HELLO + struct.pack(">QIII", REPLY, 8, ACK, 1 << 31),
        HELLO + option(8, ACK) + option(10, ACK),  # it knows none of the contexts
        HELLO + option(8, ACK) + option(10, CONTEXT, b"\0\0\0\1\xff\xfe") + option(10, ACK),
        HELLO + option(8, ACK) + option(10, CONTEXT, b"\0") + option(10, ACK),
        greeting(MIB, ALLOCATION) + b"\0" * 20,
        greeting(MIB, ALLOCATION) + status(1),
        greeting(MIB, ALLOCATION) + status(7, (MIB, 0)),
        greeting(MIB, ALLOCATION) + status(1, (0, 0)),
        greeting(MIB, ALLOCATION) + struct.pack(">IHHQI", 0x668E33EF, 1, 5, 1, 1 << 31),
        greeting(MIB, ALLOCATION) + struct.pack(">IHHQI", 0x668E33EF, 1, 5, 1, 6) + bytes(6),
        greeting(MIB, ALLOCATION)
        + struct.pack(">IHHQI", 0x668E33EF, 1, (1 << 15) + 1, 1, 9)
        + b"\0\0\0\5\0\3no!",
    ],
    ids=range(15),
)
def test_what_is_no_answer(tmp_path: Path, said: bytes) -> None:
    with saying(tmp_path, said) as path, pytest.raises(errors.HypervisorFault):
        extents(path, "root", None, Deadline(30))


@pytest.mark.parametrize("said", [b"", HELLO, greeting(MIB, ALLOCATION)], ids=range(3))
def test_a_server_that_stands_still(tmp_path: Path, said: bytes) -> None:
    with (
        saying(tmp_path, said, then_waits=True) as path,
        pytest.raises(errors.OperationTimeout),
    ):
        extents(path, "root", None, Deadline(0.3))


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda path: None, errors.NotSupported),
        (lambda path: path.write_text(""), errors.NotSupported),
    ],
)
def test_no_socket_here(
    tmp_path: Path, make: Callable[[Path], object], error: type[Exception]
) -> None:
    make(tmp_path / "nbd.sock")
    with pytest.raises(error):
        extents(tmp_path / "nbd.sock", "root", None, Deadline(30))
    with pytest.raises(errors.NotSupported):
        extents(tmp_path / "absent" / "nbd.sock", "root", None, Deadline(30))


def test_a_folder_with_a_long_name(tmp_path: Path) -> None:
    """The path of a socket has 107 bytes at most, and that of a machine's folder may be longer."""
    folder = tmp_path / ("long" * 40)
    with saying(tmp_path, greeting(0, ALLOCATION)) as path:
        folder.mkdir()
        path.rename(folder / path.name)
        assert extents(folder / path.name, "root", None, Deadline(30)) == []
