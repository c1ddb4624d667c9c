"""What the topic files share: one connection, the pools, the events, and finding a domain."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from uuid import UUID

import libvirt

from hvdrivers.contract import errors
from hvdrivers.contract.driver import check_state
from hvdrivers.contract.power import RebootKind
from hvdrivers.libvirt.config import LibvirtConfig
from hvdrivers.libvirt.connection import Connection, Remote
from hvdrivers.libvirt.hub import EventHub
from hvdrivers.libvirt.naming import label_of
from hvdrivers.libvirt.pools import Pools
from hvdrivers.libvirt.states import state_of
from hvdrivers.libvirt.xml import Element, parse
from hvdrivers.models.state import InstanceState


class Deadline:
    """When a call must be over."""

    def __init__(self, timeout: float | None) -> None:
        self.at = float("inf") if timeout is None else time.monotonic() + timeout

    @property
    def left(self) -> float:
        """Seconds; never negative."""
        return max(0.0, self.at - time.monotonic())

    @property
    def passed(self) -> bool:
        """Whether it is too late."""
        return time.monotonic() >= self.at

    def check(self, doing: str) -> None:
        """Raise OperationTimeout if it is too late."""
        if self.passed:
            raise errors.OperationTimeout(f"the deadline passed while {doing}")


class Topic:
    """Base of the topic classes; the driver joins them over one object."""

    config: LibvirtConfig
    connection: Connection
    pools: Pools
    hub: EventHub

    def _domain(self, uuid: UUID) -> Remote:
        """The domain of an instance of ours. One call."""
        domain: Remote = self.connection.remote.lookupByUUIDString(str(uuid))
        if label_of(domain.name(), uuid) is None:
            raise errors.InstanceNotFound("there is a machine with this UUID, made by others")
        return domain

    def _state(self, domain: Remote) -> InstanceState:
        """Its state. One call, two if it is off and the daemon has forgotten why."""
        state, reason = domain.state(0)
        saved = state == libvirt.VIR_DOMAIN_SHUTOFF and (
            reason == libvirt.VIR_DOMAIN_SHUTOFF_SAVED
            or (
                reason == libvirt.VIR_DOMAIN_SHUTOFF_UNKNOWN and bool(domain.hasManagedSaveImage(0))
            )
        )
        return state_of(state, reason, saved=saved)

    def _checked(
        self, operation: str, uuid: UUID, variant: RebootKind | None = None
    ) -> tuple[Remote, InstanceState]:
        """The domain and its state, if the contract allows the operation in it."""
        domain = self._domain(uuid)
        state = self._state(domain)
        check_state(operation, state, uuid, variant=variant)
        return domain, state

    @staticmethod
    def _xml(domain: Remote, *, inactive: bool = False) -> Element:
        flags = libvirt.VIR_DOMAIN_XML_INACTIVE if inactive else 0
        return parse(domain.XMLDesc(flags))


def affecting(state: InstanceState) -> int:
    """Flags that change the definition, and the running machine too if there is one."""
    flags: int = libvirt.VIR_DOMAIN_AFFECT_CONFIG
    if state in {InstanceState.RUNNING, InstanceState.PAUSED}:
        flags |= libvirt.VIR_DOMAIN_AFFECT_LIVE
    return flags


@contextmanager
def undoing() -> Iterator[ExitStack]:
    """An undo stack: what was pushed is run, last first, unless the block gets to its end.

    A step that cannot be undone (the host has died) must not hide why we are undoing: its error
    becomes a note of the original one.
    """
    stack = ExitStack()
    try:
        yield stack
    except BaseException as original:
        try:
            stack.close()
        except errors.HypervisorError as failed:
            original.add_note(f"and what was begun could not be removed: {failed}")
        raise
    stack.pop_all()
