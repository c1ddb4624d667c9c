"""Errors of libvirt's that Python's garbage collector takes away.

libvirt keeps a thread's last error until the thread makes its next call, and libvirt-python asks
for it when it makes the exception. To free an object is a call too. Where the garbage collector
frees a domain in between, in the same thread, the exception has no code and no message (shown with
the client library alone: 300 of 300 times): "there is no such domain" would be a fault of the
hypervisor. An error handler is no way out: its arguments are made after the first allocation, at
which the collector may run.

Other errors are lost as their message is no UTF-8: it repeats the name of a file, or what a guest's
agent has said. The exception is then Python's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import libvirt

_T = TypeVar("_T")
_TRIES = 5
UNREADABLE = "VIR_ERR_UNKNOWN"
"""The vendor code of an error whose own code is lost."""


def is_lost(error: libvirt.libvirtError) -> bool:
    """Whether nobody knows any more what libvirt has said."""
    return not error.get_error_code()


def unreadable(error: BaseException) -> str | None:
    """The message of libvirt's error for which Python has raised another, as its bytes are no
    UTF-8. None: that is not why."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, UnicodeDecodeError):
        cause = cause.__cause__
    return None if cause is None else cause.object.decode(errors="replace")


def insisting(call: Callable[[], _T]) -> _T:
    """Make a call that changes nothing; make it again if its error was lost."""
    for _ in range(_TRIES - 1):
        try:
            return call()
        except libvirt.libvirtError as error:
            if not is_lost(error):
                raise
    return call()
