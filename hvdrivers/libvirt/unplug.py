"""Unplugging from a running guest: a request that the guest may ignore while it boots.

So the request is sent, DEVICE_REMOVED or DEVICE_REMOVAL_FAILED is waited for, and the request is
repeated meanwhile. The caller changes the definition only after that: an unplug that failed leaves
the device plugged both ways.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from uuid import UUID

import libvirt

from hvdrivers.contract import errors
from hvdrivers.driverkit.deadline import Deadline, current_deadline
from hvdrivers.driverkit.hub import is_gap
from hvdrivers.driverkit.undo import changed
from hvdrivers.libvirt.domains import Domains, Moved, xml_of
from hvdrivers.libvirt.event_hub import Device, EventHub, Lifecycle, RawEvent
from hvdrivers.libvirt.halves import second_half, unwritten
from hvdrivers.libvirt.late_unplug import LateUnplugs, Request
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.session import Connection
from hvdrivers.libvirt.xml import Element, attribute, text
from hvdrivers.models.state import InstanceState

_ASK_AGAIN = 5.0
"""Seconds after which an unplug request is repeated: QEMU refuses a second one earlier."""
_TAKING_BACK = 10.0
"""Seconds."""
_SETTLING = 30.0
"""Seconds to take a device out of a definition, in the background."""


class Plugging:
    """Take a device out of a running machine."""

    def __init__(self, connection: Connection, hub: EventHub, domains: Domains) -> None:
        self._connection = connection
        self._hub = hub
        self._domains = domains
        self.late = LateUnplugs(hub, self._settle_late)
        self._unheard: dict[tuple[UUID, str], Deadline] = {}
        """Devices that a guest has been asked for to take them back, when the connection broke; and
        how long it may be about to let go of them."""

    def _settle_late(self, uuid: UUID, device_alias: str, let_go: bool) -> bool:
        """Take a device out of the definition that the guest has let go of when nobody waited for
        it any more; False: the guest has it still."""
        with self._connection.operation(_SETTLING):
            domain = self._domains.find(uuid)
            shown = _has(xml_of(domain), device_alias)
            # a machine that has been switched off since then shows its definition
            if shown and not (let_go and not domain.isActive()):
                return False
            self._drop(domain, uuid, device_alias)
        return True

    def settle_before_the_end(self, uuid: UUID, domain: Remote) -> None:
        """Before a running machine is switched off: afterwards nobody could tell what the guest had
        let go of. No call where nothing is expected, else 2 and one for each such device."""
        expected = self.late.of(uuid)
        if not expected:
            return
        running = xml_of(domain)
        for device_alias in expected:
            if not _has(running, device_alias):
                with unwritten():  # then it is expected further on
                    self._drop(domain, uuid, device_alias)
                    self.late.forget(uuid, device_alias)

    def _drop(self, domain: Remote, uuid: UUID, device_alias: str) -> None:
        for device in xml_of(domain, inactive=True).iterfind("devices/*"):
            own = attribute(device, "alias", "name") == device_alias
            if own and self.late.expects(uuid, device_alias):
                self.forget(domain, device_alias, device)

    def take_out(
        self,
        domain: Remote,
        device_alias: str,
        live: Element | None,
        stored: Element | None,
        deadline: Deadline,
    ) -> None:
        """Take a device out of the running machine, then out of the definition."""
        uuid = UUID(domain.UUIDString())
        if live is None:
            self.late.forget(uuid, device_alias)
            if stored is not None:
                with second_half(domain):
                    self.forget(domain, device_alias, stored)
                self._require_gone(domain, device_alias)
            return
        with self.late.expecting(uuid, device_alias) as request:
            self._unplug(uuid, domain, device_alias, deadline, request)
            if stored is not None:
                with changed(), second_half(domain):
                    self.forget(domain, device_alias, stored)

    def take_back(self, domain: Remote, found: Callable[[Element], Element | None]) -> bool:
        """Take a device out of the running machine that has just been plugged, and that its
        definition has not. A guest that is paused would let go of it later, when it is wanted
        again: it is not asked. Up to four calls, and those of an unplugging. If the guest lets go
        late, nothing is to be done: the definition has it not, or has it from another client.

        Args:
            found: the device in a machine's XML.

        Returns:
            Whether the machine had it.

        Raises:
            DeviceBusy: the guest does not let go of it.
            Moved: another client has written it into the definition meanwhile, and has been told
                that the machine has it.
        """
        live = found(xml_of(domain))
        # a machine that has gone off since then shows its definition
        if live is None or found(xml_of(domain, inactive=True)) is not None:
            return False
        if self._domains.state(domain) is InstanceState.PAUSED:
            raise errors.DeviceBusy("it is paused", hint="unpause() it")
        uuid, name = UUID(domain.UUIDString()), attribute(live, "alias", "name") or ""
        request = Request()
        try:
            self._unplug(uuid, domain, name, taking_back(current_deadline()), request)
        except (errors.OutcomeUnknown, errors.ConnectionFailed, errors.OperationTimeout):
            if request.sent:
                self._unheard[uuid, name] = Deadline(_TAKING_BACK)
            raise
        if found(xml_of(domain, inactive=True)) is not None:
            raise Moved
        return True

    def require_kept(self, domain: Remote, found: Callable[[Element], Element | None]) -> None:
        """After the definition has got what the running machine had: again if the machine has it no
        more, as another client has taken it back meanwhile. One call; at least one more, and up to
        ten seconds, where the connection broke while this driver took it back: the guest may heed
        that yet."""
        with changed():
            device = found(xml_of(domain))
            if device is None or self._lets_go(domain, attribute(device, "alias", "name") or ""):
                raise Moved

    def _lets_go(self, domain: Remote, device_alias: str) -> bool:
        if not self._unheard:
            return False
        uuid = UUID(domain.UUIDString())
        until = self._unheard.pop((uuid, device_alias), None)
        if until is None:
            return False
        with self._hub.listening() as events:
            while _has(xml_of(domain), device_alias):
                left = min(until.left, current_deadline().left)
                if left <= 0:
                    return False
                events.wait(partial(_tells, uuid, device_alias), left)
        return True

    def forget(self, domain: Remote, device_alias: str, stored: Element) -> None:
        """Take a device out of the definition. One call, two if another client was faster."""
        try:
            domain.detachDeviceFlags(text(stored), libvirt.VIR_DOMAIN_AFFECT_CONFIG)
        except (errors.HypervisorFault, errors.InvalidRequest):
            if _has(xml_of(domain, inactive=True), device_alias):
                raise

    def _require_gone(self, domain: Remote, device_alias: str) -> None:
        """After a change of the definition alone: again if another client has started the machine
        meanwhile, with the device. One call."""
        with changed():
            if _has(xml_of(domain), device_alias):
                raise Moved

    def _unplug(
        self, uuid: UUID, domain: Remote, device_alias: str, deadline: Deadline, request: Request
    ) -> None:
        """Ask the guest to let go of a device, until it does."""

        ours = partial(_tells, uuid, device_alias)

        def gone() -> bool:
            return not _has(xml_of(domain), device_alias)

        with self._hub.listening() as events:
            while not deadline.passed:
                if not self._request_unplug(domain, device_alias, gone, request):
                    return
                event = events.wait(ours, min(_ASK_AGAIN, deadline.left))
                if isinstance(event, Device) and event.kind == "removed":
                    return
                if isinstance(event, Lifecycle):
                    return  # switched off: nothing holds the device any more
                if isinstance(event, Device):
                    raise errors.DeviceBusy(
                        "the guest refused to let go of the device",
                        hint="it may be in use: unmount it in the guest, then call again",
                    )
                if is_gap(event):
                    raise errors.OutcomeUnknown("the connection broke while the guest was asked")
        if not gone():
            raise errors.DeviceBusy(
                "the guest did not let go of the device in time",
                hint="it may be booting, or use the device: unmount it, then call again",
            )

    @staticmethod
    def _request_unplug(
        domain: Remote, device_alias: str, gone: Callable[[], bool], request: Request
    ) -> bool:
        """Send the request; False if the device is not there any more."""
        sent_before, request.sent = request.sent, True
        try:
            # by alias, as only that call does not itself wait for the guest, which would make
            # the caller's deadline five seconds longer than he said
            domain.detachDeviceAlias(device_alias, libvirt.VIR_DOMAIN_AFFECT_LIVE)
        except (errors.ConnectionFailed, errors.OperationTimeout):
            request.sent = sent_before
            raise
        except errors.InvalidState:
            return False  # the machine went off
        except (errors.HypervisorFault, errors.InvalidRequest):
            # "already in the process of unplug" and "no such device" share their codes with others
            return not gone()
        return True


def taking_back(deadline: Deadline) -> Deadline:
    """How long an operation asks a guest for what it got and is not to keep."""
    return Deadline(min(_TAKING_BACK, deadline.left / 2))


def _has(domain: Element, device_alias: str) -> bool:
    return any(
        attribute(each, "alias", "name") == device_alias for each in domain.iterfind("devices/*")
    )


def _tells(uuid: UUID, device_alias: str, event: RawEvent) -> bool:
    """Whether an event tells what has become of a request to unplug."""
    if isinstance(event, Lifecycle):
        return event.uuid == uuid and event.event == libvirt.VIR_DOMAIN_EVENT_STOPPED
    return (
        isinstance(event, Device)
        and event.uuid == uuid
        and event.alias == device_alias
        and event.kind != "added"
    )
