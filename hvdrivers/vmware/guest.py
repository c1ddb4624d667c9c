"""What VMware Tools tell of the guest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any
from uuid import UUID

from hvdrivers.contract.guest import GuestAddresses
from hvdrivers.models.guest import AddressSource, GuestAddress
from hvdrivers.vmware.base import Topic
from hvdrivers.vmware.deadline import timed
from hvdrivers.vmware.devices import by_mac

_TOOLS = "guest.toolsRunningStatus"


class VmwareGuest(Topic, GuestAddresses):
    """Addresses."""

    @timed
    def guest_addresses(
        self, uuid: UUID, *, timeout: float | None = None
    ) -> Sequence[GuestAddress]:
        """Budget: 1 read. Without VMware Tools nobody knows: the server keeps what it was told
        last, which is left out."""
        del timeout
        paths = (_TOOLS, "guest.net", "config.hardware.device")
        row = self.machines.checked("guest_addresses", uuid, *paths).row
        if row.get(_TOOLS) != "guestToolsRunning":
            return ()
        macs = by_mac(row.get("config.hardware.device") or ())
        return tuple(
            GuestAddress(mac=mac, address=address, prefix_length=length, source=AddressSource.AGENT)
            for nic in row.get("guest.net") or ()
            if (mac := (nic.macAddress or "").lower()) in macs
            for address, length in _addresses(nic)
        )


def _addresses(nic: Any) -> Iterator[tuple[IPv4Address | IPv6Address, int | None]]:
    if nic.ipConfig is not None:
        for each in nic.ipConfig.ipAddress or ():
            # a link-local one may carry the guest's own name of the interface
            yield ip_address(each.ipAddress.partition("%")[0]), each.prefixLength
    else:
        for text in nic.ipAddress or ():
            yield ip_address(text.partition("%")[0]), None
