"""What a client measures of its own process."""

from __future__ import annotations

import ctypes
import errno
import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

_T = TypeVar("_T")


def patiently(call: Callable[[], _T]) -> _T:
    """What the client itself needs a descriptor for, while the disturber leaves it none."""
    while True:
        try:
            return call()
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
            time.sleep(0.01)


def now() -> float:
    return round(time.time(), 3)


def descriptors() -> dict[str, int]:
    """How many there are, and how many of them are sockets and eventfds."""
    kinds: Counter[str] = Counter()
    for name in patiently(lambda: os.listdir("/proc/self/fd")):
        with suppress(OSError):  # the listing's own, or one that was closed meanwhile
            kinds[os.readlink(f"/proc/self/fd/{name}").partition(":")[0]] += 1
    return {
        "descriptors": kinds.total(),
        "sockets": kinds["socket"],
        "eventfds": kinds["anon_inode"],
    }


def rss() -> int:
    for line in patiently(Path("/proc/self/status").read_text).splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


class _Mallinfo(ctypes.Structure):
    """``struct mallinfo2`` of mallinfo(3)."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


_MALLINFO = getattr(ctypes.CDLL(None), "mallinfo2", None)


def malloc() -> int:
    """KiB that C code holds, libvirt's among it; 0 where the C library cannot tell.

    The resident size also counts what is free in between."""
    if _MALLINFO is None:
        return 0
    _MALLINFO.restype = _Mallinfo
    found = _MALLINFO()
    return int(found.uordblks + found.hblkhd) >> 10
