"""Descriptors for new connections: GLib, which libvirt is built on, ends a process that has none.

So no attempt to connect begins that might take the last ones. Several attempts look at the same
free descriptors before any of them has taken its own, in all drivers of the process; therefore
those that have just begun are counted, for the process.
"""

from __future__ import annotations

import errno
import os
import resource
import sys
import threading
import time

from hvdrivers.contract import errors

_OF_ONE = 8
"""Descriptors that an attempt may take: a socket, and those by which GLib wakes its loops."""
_SPARE = 8
"""Descriptors that are left to the program."""
_TAKING = 10.0
"""Seconds after which an attempt has taken what it needs, also one that hangs, or on a machine
that is busy with other things."""

_lock = threading.Lock()
_begun: dict[object, float] = {}


def begin() -> object:
    """An attempt to connect begins; ``end()`` takes what this returns.

    Raises:
        ConnectionFailed: it might take the last descriptors of the process.
    """
    now = time.monotonic()
    with _lock:
        taking = sum(now - began < _TAKING for began in _begun.values())
        _require(_OF_ONE * (taking + 1) + _SPARE)
        attempt = object()
        _begun[attempt] = now
    return attempt


def end(attempt: object) -> None:
    """The attempt has come to its end."""
    with _lock:
        _begun.pop(attempt, None)


def _require(number: int) -> None:
    """Count, and take none to try: another attempt may be about to take them."""
    if _free() < number:
        raise errors.ConnectionFailed(
            "this process has too few file descriptors left to connect",
            vendor_code=f"errno {errno.EMFILE}",
            hint="raise its limit (ulimit -n), or close what it does not need",
        )


def _free() -> int:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return sys.maxsize
    try:
        taken = os.listdir("/dev/fd")  # /proc/self/fd on Linux
    except OSError as error:
        return 0 if error.errno in {errno.EMFILE, errno.ENFILE} else sys.maxsize
    # the listing has one of its own; a limit may be lower than what was opened before
    return limit - sum(int(each) < limit for each in taken) + 1
