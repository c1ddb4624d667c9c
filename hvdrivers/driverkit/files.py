"""Files on the caller's machine that an operation makes.

The folder may be one that other processes write to. They may remove the file while it is written,
or put another one in its place. The operation then fails: what it wrote has no name any more. The
file that stands there is theirs, and stays.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from hvdrivers.contract import errors
from hvdrivers.hints import NEW_FILE

__all__ = ["new_file", "writing"]

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_DESCRIPTORS = {errno.EMFILE, errno.ENFILE}
"""The guard says what to do about these."""


@contextmanager
def new_file(target: Path) -> Iterator[BinaryIO]:
    """A file that was not there; after a failure it is not there again.

    Raises:
        InvalidRequest: there is one; the folder takes none; it could not be written; or another
            process has removed or replaced it meanwhile.
        InsufficientResources: there is no room for what is written.
    """
    with writing(target):
        try:
            file = target.open("xb")
        except ValueError as error:  # a NUL in it
            raise _not_written(target, error) from error
    made = os.fstat(file.fileno())
    try:
        with writing(target), file:
            yield file
        if not _stands(target, made):
            raise errors.InvalidRequest(
                f"{target} was removed or replaced while it was written",
                hint="write into a folder that no other process clears or writes to",
            )
    except BaseException:
        if _stands(target, made):
            with suppress(OSError):  # the folder takes no change any more
                target.unlink()
        raise


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Stands around what makes or writes a file of this machine: its failures, typed.

    Args:
        target: what the caller calls the file.

    Raises:
        HypervisorError: as :func:`new_file`.
    """
    try:
        yield
    except (TimeoutError, ConnectionError):
        raise  # of a socket
    except OSError as error:
        if error.errno in _NO_DESCRIPTORS:
            raise
        raise _not_written(target, error) from error


def _stands(target: Path, made: os.stat_result) -> bool:
    """Whether the name is still that of the file that was made. A link to it counts as another."""
    try:
        return os.path.samestat(os.lstat(target), made)
    except OSError:
        return False


def _not_written(target: Path, error: OSError | ValueError) -> errors.HypervisorError:
    reason = getattr(error, "strerror", None) or str(error)
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return errors.InsufficientResources(
            f"there is no room for {target}", hint="free room on this machine, or name another file"
        )
    return errors.InvalidRequest(
        f"{target} cannot be written: {reason}",
        hint=NEW_FILE,
    )
