"""What the topic files share: one connection, the pools, the events, and finding a domain."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
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
from hvdrivers.libvirt.states import is_starting, state_of
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
        """Its state. One call, two if it is off for a reason that does not tell whether its memory
        is saved: the daemon forgets reasons when it restarts, and keeps the reason "saved" when
        the saved memory is thrown away; up to four while it is being started. The budgets of
        operations count one."""
        state, reason = domain.state(0)
        # spawn() starts what is not defined; anything else that starts has not left its state yet
        if is_starting(state, reason) and domain.isPersistent():
            state, reason = domain.state(0)  # or spawn() has come to its end meanwhile
            if is_starting(state, reason):
                state, reason = libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_UNKNOWN
        saved = (
            state == libvirt.VIR_DOMAIN_SHUTOFF
            and reason in (libvirt.VIR_DOMAIN_SHUTOFF_SAVED, libvirt.VIR_DOMAIN_SHUTOFF_UNKNOWN)
            and bool(domain.hasManagedSaveImage(0))
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


def affecting(domain: Remote, state: InstanceState) -> int:
    """Flags that change the definition, and the running machine too if there is one. No call, or
    one for a crashed machine: one whose guest has panicked is still there, in memory."""
    flags: int = libvirt.VIR_DOMAIN_AFFECT_CONFIG
    powered_on = state in {InstanceState.RUNNING, InstanceState.PAUSED}
    if powered_on or (state is InstanceState.CRASHED and domain.isActive()):
        flags |= libvirt.VIR_DOMAIN_AFFECT_LIVE
    return flags


@contextmanager
def changed() -> Iterator[None]:
    """Around what follows a change that stays: if the host cannot be reached any more, that does
    not mean that nothing has happened."""
    try:
        yield
    except errors.ConnectionFailed as error:
        raise errors.OutcomeUnknown(
            f"{error.message}, and a part had been done", vendor_code=error.vendor_code
        ) from error


class Undo:
    """Steps that take back what was done."""

    def __init__(self) -> None:
        self._steps: list[Callable[[], object]] = []

    def callback(self, step: Callable[..., object], *args: object) -> None:
        """Add a step. Do so before the change itself: if its reply is lost, it may be there."""
        self._steps.append(partial(step, *args))

    def forget(self) -> None:
        """The change of the newest step never happened."""
        self._steps.pop()

    def close(self) -> None:
        """Run the steps, last first, and raise the first error at the end."""
        first: errors.HypervisorError | None = None
        unreachable = 0
        # each attempt to reach a dead host takes its time: two are enough
        while self._steps and unreachable < 2:
            try:
                self._steps.pop()()
            except errors.HypervisorError as error:
                first = first or error
                unreachable += isinstance(error, errors.ConnectionFailed)
        if first is not None:
            raise first


@contextmanager
def undoing() -> Iterator[Undo]:
    """An undo stack: what was pushed is run, last first, unless the block gets to its end.

    A step that cannot be undone (the host has died) must not hide why we are undoing: its error
    becomes a note of the original one. Two errors promise that nothing has changed; where that is
    not true any more, OutcomeUnknown takes their place.
    """
    undo = Undo()
    try:
        yield undo
    except BaseException as original:
        try:
            undo.close()
        except errors.HypervisorError as failed:
            rest = f"what was begun could not be removed: {failed}"
            if isinstance(original, errors.ConnectionFailed | errors.OperationTimeout):
                raise errors.OutcomeUnknown(
                    f"{original.message}; {rest}",
                    vendor_code=original.vendor_code,
                    hint="call again, or destroy() what is left, when the host answers",
                ) from original
            original.add_note(rest)
        raise
