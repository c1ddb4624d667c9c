"""The other host of a move: a driver of its own, which the caller's process has for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from pydantic import ValidationError

from hvdrivers.contract import errors
from hvdrivers.contract.driver import Driver
from hvdrivers.invalid import in_words
from hvdrivers.libvirt.base import Topic
from hvdrivers.libvirt.config import LibvirtConfig
from hvdrivers.models.migration import Blocker, BlockerKind, Destination


@contextmanager
def reached(here: Topic, destination: Destination) -> Iterator[Topic | Blocker]:
    """A driver of the other host; or why there is none. Calls as for a connection."""
    options: dict[str, Any] = {
        "uri": destination.host,
        "username": destination.user,
        "password": destination.password,
    }
    if destination.storage is not None:
        options["pool"] = destination.storage
    there: Topic | Blocker
    try:
        config = LibvirtConfig(**(here.config.model_dump() | options))
        there = cast(Topic, cast(type[Driver], type(here)).connect(config))
    except ValidationError as error:
        # its fields are those of a configuration: uri, username, password, pool
        yield Blocker(
            kind=BlockerKind.CONNECTION,
            reason=f"the destination is none: {in_words(error, most=3)}",
            hint="host= is its libvirt URI, as this process reaches it, storage= one of its pools,"
            " and user= and password= are those of SASL",
        )
        return
    except errors.HypervisorError as error:
        yield Blocker(
            kind=BlockerKind.CONNECTION,
            reason=f"the destination does not answer: {error.message}",
            hint="host= is its libvirt URI, as this process reaches it",
        )
        return
    try:
        yield there
    finally:
        cast(Driver, there).close()
