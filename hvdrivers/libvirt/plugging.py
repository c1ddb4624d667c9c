"""Unplugging from a running guest: a request that the guest may ignore while it boots.

So the request is sent, DEVICE_REMOVED or DEVICE_REMOVAL_FAILED is waited for, and the request is
repeated meanwhile. The caller changes the definition only after that: an unplug that failed leaves
the device plugged both ways.
"""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import libvirt

from hvdrivers.contract import errors
from hvdrivers.libvirt.base import Deadline, Topic
from hvdrivers.libvirt.connection import Remote
from hvdrivers.libvirt.hub import Device, Lifecycle, RawEvent, is_gap
from hvdrivers.libvirt.xml import attribute

_ASK_AGAIN = 5.0
"""Seconds after which an unplug request is repeated: QEMU refuses a second one earlier."""


class Plugging(Topic):
    """Take a device out of a running machine."""

    def _unplug(self, uuid: UUID, domain: Remote, device_alias: str, deadline: Deadline) -> None:
        """Ask the guest to let go of a device, until it does."""

        def ours(event: RawEvent) -> bool:
            if isinstance(event, Lifecycle):
                return event.uuid == uuid and event.event == libvirt.VIR_DOMAIN_EVENT_STOPPED
            return (
                isinstance(event, Device)
                and event.uuid == uuid
                and event.alias == device_alias
                and event.kind != "added"
            )

        def gone() -> bool:
            xml = self._xml(domain)
            return all(
                attribute(each, "alias", "name") != device_alias
                for each in xml.iterfind("devices/*")
            )

        with self.hub.listening() as events:
            while not deadline.passed:
                if not self._request_unplug(domain, device_alias, gone):
                    return
                event = events.wait(ours, min(_ASK_AGAIN, deadline.left))
                if isinstance(event, Device) and event.kind == "removed":
                    return
                if isinstance(event, Lifecycle):
                    return  # switched off: nothing holds the device any more
                if isinstance(event, Device):
                    raise errors.DeviceBusy("the guest refused to let go of the device")
                if is_gap(event):
                    raise errors.OutcomeUnknown("the connection broke while the guest was asked")
        if not gone():
            raise errors.DeviceBusy(
                "the guest did not let go of the device in time",
                hint="it may be booting, or use the device: unmount it, then call again",
            )

    @staticmethod
    def _request_unplug(domain: Remote, device_alias: str, gone: Callable[[], bool]) -> bool:
        """Send the request; False if the device is not there any more."""
        try:
            # by alias, as only that call does not itself wait for the guest, which would make
            # the caller's deadline five seconds longer than he said
            domain.detachDeviceAlias(device_alias, libvirt.VIR_DOMAIN_AFFECT_LIVE)
        except errors.InvalidState:
            return False  # the machine went off
        except (errors.HypervisorFault, errors.InvalidRequest):
            # "already in the process of unplug" and "no such device" share their codes with others
            return not gone()
        return True
