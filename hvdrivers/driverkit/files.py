"""Files on the caller's machine that an operation makes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from hvdrivers.contract import errors
from hvdrivers.hints import NEW_FILE

__all__ = ["new_file"]


@contextmanager
def new_file(target: Path) -> Iterator[BinaryIO]:
    """A file that was not there; after a failure it is not there again.

    Raises:
        InvalidRequest: there is one, or the folder takes none.
    """
    try:
        file = target.open("xb")
    except (OSError, ValueError) as error:
        raise errors.InvalidRequest(
            f"{target} cannot be written: {error}", hint=NEW_FILE
        ) from error
    try:
        with file:
            yield file
    except BaseException:
        target.unlink(missing_ok=True)
        raise
