"""What comes over a stream of libvirt."""

from __future__ import annotations

from contextlib import suppress

from hvdrivers.contract import errors
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.libvirt.remote import Remote

_CHUNK = 240 * 1024


def read_stream(stream: Remote, limit: int, deadline: Deadline) -> bytes:
    """What comes through a stream, at most ``limit`` bytes."""
    data = bytearray()
    try:
        while len(data) < limit and (chunk := stream.recv(_CHUNK)):
            data += chunk
            deadline.check("data was read from the host")
    except BaseException:
        with suppress(errors.HypervisorError):
            stream.abort()
        raise
    stream.finish()
    return bytes(data)
