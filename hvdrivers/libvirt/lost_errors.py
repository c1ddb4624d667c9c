"""Errors of libvirt's that Python's garbage collector takes away.

libvirt keeps a thread's last error until the thread makes its next call, and libvirt-python asks
for it when it makes the exception. To free an object is a call too. Where the garbage collector
frees a domain in between, in the same thread, the exception has no code and no message (shown with
the client library alone: 300 of 300 times): "there is no such domain" would be a fault of the
hypervisor. An error handler is no way out: its arguments are made after the first allocation, at
which the collector may run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import libvirt

_T = TypeVar("_T")
_TRIES = 5


def is_lost(error: libvirt.libvirtError) -> bool:
    """Whether nobody knows any more what libvirt has said."""
    return not error.get_error_code()


def insisting(call: Callable[[], _T]) -> _T:
    """Make a call that changes nothing; make it again if its error was lost."""
    for _ in range(_TRIES - 1):
        try:
            return call()
        except libvirt.libvirtError as error:
            if not is_lost(error):
                raise
    return call()
