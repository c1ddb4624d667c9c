"""The machines as libvirt has them: find one, name its state, change it while others do too."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import TypeVar
from uuid import UUID

import libvirt

from hvdrivers.contract import errors
from hvdrivers.contract.driver import OPERATIONS, check_state
from hvdrivers.contract.power import RebootKind
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.driverkit.hub import is_gap
from hvdrivers.driverkit.undo import changed, ended, has_lost
from hvdrivers.libvirt.definition import complete
from hvdrivers.libvirt.errors import LEFT_START
from hvdrivers.libvirt.event_hub import EventHub, Lifecycle
from hvdrivers.libvirt.identity import Identity, Known
from hvdrivers.libvirt.leaving import refuse_cut
from hvdrivers.libvirt.metadata import NO_NAMESPACE
from hvdrivers.libvirt.naming import is_moving, is_rescued, label_of, may_be_rescued
from hvdrivers.libvirt.not_adopted import refuse_adopted
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.session import Connection
from hvdrivers.libvirt.states import (
    SAVED,
    as_rescued,
    is_off,
    is_restoring,
    is_starting,
    state_of,
)
from hvdrivers.libvirt.xml import Element, parse
from hvdrivers.models.state import POWERED_ON, InstanceState

_T = TypeVar("_T")

_LOOK_AGAIN = 1.0
"""Seconds after which a machine that is being started is looked at again."""


class Moved(Exception):
    """A change was made, and another client has brought the machine into a state in which more is
    to be done. Only ``Domains.change()`` sees it."""


class LookAgain(Exception):
    """Another client was faster: what this one was about to do has to be decided anew. Nothing of
    it is left. Only ``Domains.change()`` sees it."""


_OF_A_MOVE = frozenset({"prepare_move", "finish_move", "confirm_move", "revert_move"})
"""What may change the source of a move in steps, with destroy(), which asks for no state."""


def _refuse_moving(operation: str, uuid: UUID) -> None:
    if OPERATIONS[operation].changes:
        raise errors.InvalidState(
            "the instance is being moved: this is the copy to come back to",
            instance=uuid,
            hint="confirm_move() or revert_move()",
        )


class Domains:
    """The machines of one host."""

    def __init__(self, connection: Connection, hub: EventHub, identity: Identity) -> None:
        self._connection = connection
        self._hub = hub
        self._identity = identity

    def find(self, uuid: UUID) -> Remote:
        """The domain of an instance of ours. One call, two for an adopted one."""
        return self.named(uuid)[0]

    def named(self, uuid: UUID) -> tuple[Remote, str]:
        """The same, and its label."""
        domain, known = self._known(uuid)
        return domain, known.label

    def _known(self, uuid: UUID) -> tuple[Remote, Known]:
        domain: Remote = self._connection.remote.lookupByUUIDString(str(uuid))
        known = self._identity.known([(uuid, domain.name())]).get(uuid)
        if known is None:
            raise errors.InstanceNotFound(
                "there is a machine with this UUID, made by others", hint="adopt() it"
            )
        return domain, known

    def seen(self, uuid: UUID) -> tuple[Remote, str, InstanceState]:
        """The domain of an instance of ours, its label, and its state. Calls as for find() and
        state(), without the one for the marks."""
        domain, known = self._known(uuid)
        return domain, known.label, self.state(domain, rescued=bool(known.rescues))

    def if_there(self, uuid: UUID) -> Remote | None:
        """The domain of an instance of ours; None where there is none. One call.

        Raises:
            InstanceNotFound: there is a machine with this UUID, made by others.
        """
        try:
            return self.find(uuid)
        except errors.InstanceNotFound as error:
            if error.vendor_code is None:
                raise  # a foreign machine
            return None

    def state(self, domain: Remote, *, rescued: bool | None = None) -> InstanceState:
        """The state of a machine. One call; two if it is off, as no reason tells whether its
        memory is saved; up to four while it is being started, or has been suspended and resumed
        meanwhile. The budgets of operations count one for a machine that is on, two for one that
        is off. One more for an adopted one that is on: its marks.

        Args:
            rescued: whether a mark says that an adopted machine is rescued; None: look.
        """
        return self._named(domain, *domain.state(0), marked=rescued)

    def _named(
        self, domain: Remote, state: int, reason: int, *, marked: bool | None
    ) -> InstanceState:
        defined = not is_starting(state, reason) or bool(domain.isPersistent())
        if is_starting(state, reason) and defined:
            state, reason = domain.state(0)  # spawn() may have come to its end meanwhile
        saved = is_off(state, reason) and bool(domain.hasManagedSaveImage(0))
        if not saved and ((state, reason) == SAVED or is_restoring(state, reason)):
            state, reason = domain.state(0)  # it may have been resumed meanwhile
        found = state_of(state, reason, saved=saved, defined=defined)
        rescued = as_rescued(found)
        if rescued is found:
            return found
        name = domain.name()
        if marked is False and not may_be_rescued(name):
            return found
        uuid = UUID(domain.UUIDString())
        if label_of(name, uuid) is not None:
            return rescued if is_rescued(name, uuid) else found
        if marked is None:
            marked = bool(self._identity.rescues(uuid))
        return rescued if marked else found

    def checked(
        self,
        operation: str,
        uuid: UUID,
        deadline: Deadline,
        variant: RebootKind | None = None,
    ) -> tuple[Remote, InstanceState]:
        """The domain and its state, if the contract allows the operation in it.

        Another process may be starting the machine. Reads see the state from before; a change
        waits until the start has ended, or it would be a change of that state, and be lost.
        """
        domain, known = self._known(uuid)
        at, marked = domain.state(0), bool(known.rescues)
        if OPERATIONS[operation].changes and _starts(domain, at):
            state = self._started(uuid, domain, deadline, marked)
        else:
            state = self._named(domain, *at, marked=marked)
        check_state(operation, state, uuid, variant=variant)
        if is_restoring(*at) and OPERATIONS[operation].changes:
            refuse_cut(operation, uuid, domain)
        if label_of(domain.name(), uuid) is None:
            refuse_adopted(operation, uuid)
        if is_moving(domain.name(), uuid) and operation not in _OF_A_MOVE:
            _refuse_moving(operation, uuid)
        return domain, state

    def _started(
        self, uuid: UUID, domain: Remote, deadline: Deadline, marked: bool
    ) -> InstanceState:
        """The state when the start that is under way has ended; BUILDING if it is a spawn's."""
        with self._hub.listening() as events:
            while True:
                at = domain.state(0)
                if not _starts(domain, at):
                    await_job(domain)
                    return self.state(domain)
                if not domain.isPersistent():
                    return self._named(domain, *at, marked=marked)
                if deadline.passed:
                    raise errors.DeviceBusy(
                        "another client is starting the machine",
                        hint="call again: the start ends by itself; "
                        + LEFT_START.format(file=f"{domain.name()}.xml"),
                    )
                # a start that fails has no event
                event = events.wait(
                    lambda event: isinstance(event, Lifecycle) and event.uuid == uuid,
                    deadline.within(_LOOK_AGAIN),
                )
                if is_gap(event):
                    raise errors.ConnectionFailed("the connection broke while the machine started")

    def change(
        self,
        operation: str,
        uuid: UUID,
        deadline: Deadline,
        act: Callable[[Remote, InstanceState], _T],
        variant: RebootKind | None = None,
    ) -> _T:
        """Do ``act`` in a state in which the contract allows the operation; again if another client
        changed the state meanwhile. The operation must have the same effect as if one of the two
        had come first."""
        part = False
        while True:
            # a look again does not hide that this operation has switched the machine off
            with ended() if has_lost() else changed() if part else nullcontext():
                domain, state = self.checked(operation, uuid, deadline, variant)
                try:
                    return act(domain, state)
                except Moved:
                    part = True
                except LookAgain:
                    pass
                except errors.InvalidState as error:
                    if not self._is_another(domain, state):
                        with ended() if has_lost() else nullcontext():
                            self._refuse_copied(domain, error)
                            raise
                deadline.check("another client changed the machine's state")

    def _is_another(self, domain: Remote, state: InstanceState) -> bool:
        """Whether what libvirt has refused may be tried again. Two calls, more for a machine that
        runs without a definition: it gets one."""
        if self.state(domain) is not state:
            return True
        if domain.isPersistent():
            return False
        complete(domain)
        return bool(domain.isPersistent())

    def _refuse_copied(self, domain: Remote, error: errors.InvalidState) -> None:
        """What libvirt refuses because a volume or a disk is copied to another one. One call."""
        if xml_of(domain).find("devices/disk/mirror") is not None:
            raise errors.DeviceBusy(
                "a swap_volume() or migrate_storage() of the machine is under way",
                vendor_code=error.vendor_code,
                hint="call again when it has ended. If its client has died, the same call goes on"
                " with it, and power_off() ends it",
            ) from error


def xml_of(domain: Remote, *, inactive: bool = False) -> Element:
    """What a machine is: as it runs, or as it will at its next start. One call."""
    flags = libvirt.VIR_DOMAIN_XML_INACTIVE if inactive else 0
    return parse(domain.XMLDesc(flags))


def require_off(domain: Remote) -> None:
    """After a change of the definition alone: again if another client has started the machine
    meanwhile, as the running machine may be without it. One call."""
    with changed():
        if domain.isActive():
            raise Moved


def await_job(domain: Remote) -> None:
    """Wait for what the daemon still does after the CPUs run: to switch the machine off now
    would make the start fail. One call, which changes nothing, asks QEMU nothing, and gets its
    turn after the start."""
    with suppress(errors.InvalidState, errors.DeviceBusy):
        domain.setMetadata(
            libvirt.VIR_DOMAIN_METADATA_ELEMENT,
            None,
            None,
            NO_NAMESPACE,
            libvirt.VIR_DOMAIN_AFFECT_LIVE,
        )


def affecting(domain: Remote, state: InstanceState) -> int:
    """Flags that change the definition, and the running machine too if there is one. No call, or
    one for a crashed machine: one whose guest has panicked is still there, in memory."""
    flags: int = libvirt.VIR_DOMAIN_AFFECT_CONFIG
    if state in POWERED_ON or (state is InstanceState.CRASHED and domain.isActive()):
        flags |= libvirt.VIR_DOMAIN_AFFECT_LIVE
    return flags


def _starts(domain: Remote, at: tuple[int, int]) -> bool:
    """Whether a start is under way. No call, one where memory is brought in."""
    return is_starting(*at) or (is_restoring(*at) and bool(domain.hasManagedSaveImage(0)))
