"""Migrations of whose end nobody knows yet.

A migration ends at two hosts, and a caller that loses one of them, or dies, may leave the instance
on both. So it notes down what it is about to do before it begins, and calls again before anything
else: that settles it (docs/libvirt.md, "Migration"). A caller that begins anew finds the note.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.models.instance import InstanceInfo
from hvdrivers.models.migration import Destination
from hvdrivers.models.state import InstanceState
from tests.soak.model import UNCHANGED

_KNOWN = (*UNCHANGED, errors.InstanceNotFound, errors.InstanceExists, errors.InvalidState)
"""What says that nothing has moved."""


class Doubt(NamedTuple):
    """A migration that was begun."""

    operation: str
    source: int


class Doubts:
    """The notes of all clients, in a folder that outlives each. A note is a link to nowhere: it is
    there whole or not at all, and needs no descriptor."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _file(self, uuid: UUID) -> Path:
        return self._folder / f"doubt-{uuid}"

    def begin(self, uuid: UUID, doubt: Doubt) -> None:
        """It is about to be made."""
        self._file(uuid).symlink_to(f"{doubt.operation} {doubt.source}")

    def end(self, uuid: UUID, error: errors.HypervisorError | None) -> None:
        """It has succeeded, or failed with this error, which may leave the doubt."""
        if error is None or isinstance(error, _KNOWN):
            self.settled(uuid)

    def settled(self, uuid: UUID) -> None:
        """The instance is on one host at most."""
        self._file(uuid).unlink()

    def of(self, uuid: UUID) -> Doubt | None:
        """The migration of whose end nobody knows."""
        with suppress(FileNotFoundError):
            operation, source = os.readlink(self._file(uuid)).split()
            return Doubt(operation, int(source))
        return None


Call = Callable[[UUID, str, Callable[[Any], Any], int], Any]
"""Makes one call of an operation at one host, with a timeout."""


def at_once(_uuid: UUID, _operation: str, work: Callable[[Any], Any], _host: int) -> Any:
    """The call of somebody who keeps no journal, with the operation's own timeout."""
    return work(None)


class Hands:
    """What settles a doubt. Each call returns its error.

    Args:
        destinations: for each host, how the other one names it.
    """

    def __init__(
        self,
        uuid: UUID,
        drivers: Sequence[ComputeDriver],
        destinations: Sequence[Destination | None],
        call: Call = at_once,
    ) -> None:
        self._uuid = uuid
        self._drivers = drivers
        self._destinations = destinations
        self._call = call

    def read(self, host: int) -> InstanceInfo | errors.HypervisorError | None:
        """The instance at a host; None: it is not there."""
        found = self._do("get_instance", host)
        return None if isinstance(found, errors.InstanceNotFound) else found

    def migrate(self, operation: str, host: int) -> errors.HypervisorError | None:
        """From this host to the other one."""
        return self._do(operation, host, self._destinations[1 - host])

    def power_off(self, host: int) -> errors.HypervisorError | None:
        """What stands still at a host."""
        return self._do("power_off", host)

    def destroy(self, host: int) -> errors.HypervisorError | None:
        """What is left at a host."""
        return self._do("destroy", host)

    def _do(self, operation: str, host: int, *more: Any) -> Any:
        def work(timeout: float | None) -> Any:
            return getattr(self._drivers[host], operation)(self._uuid, *more, timeout=timeout)

        try:
            return self._call(self._uuid, operation, work, host)
        except errors.HypervisorError as error:
            return error


def settle(hands: Hands, doubt: Doubt) -> bool:
    """Leave the instance at one host at most; whether that has come to its end."""
    operation, source = doubt
    found = [hands.read(host) for host in (source, 1 - source)]
    if any(isinstance(each, errors.HypervisorError) for each in found):
        return False
    stands = isinstance(found[0], InstanceInfo) and found[0].state is InstanceState.PAUSED
    if operation == "cold_migrate" and stands and hands.power_off(source) is not None:
        return False
    error = hands.migrate(operation, source)
    if error is None or isinstance(error, errors.InstanceNotFound):
        return True
    if not isinstance(error, errors.InvalidRequest | errors.InvalidState):
        return False
    # the note that says which of both is the one has gone with the machine's power: it has arrived
    here, there = (hands.read(host) for host in (source, 1 - source))
    if isinstance(here, errors.HypervisorError) or isinstance(there, errors.HypervisorError):
        return False
    if here is None:
        return True
    if here.state is InstanceState.BUILDING:
        return False  # it goes on by itself
    return hands.destroy(source if there is not None else 1 - source) is None
