"""Power on and off, and what a failed start means.

Most of what goes wrong when QEMU starts has one and the same code in libvirt (INTERNAL_ERROR), so
after a failure, and only then, the host is asked which of the machine's disks and networks it was.
"""

from __future__ import annotations

import libvirt

from hvdrivers.contract import errors
from hvdrivers.libvirt.connection import Remote
from hvdrivers.libvirt.devices import source_of
from hvdrivers.libvirt.domain import used_sources
from hvdrivers.libvirt.wiring import missing_network
from hvdrivers.libvirt.xml import Element, parse


def start(domain: Remote) -> None:
    """Power on; somebody else having done it is as good. One call; after a failure one more, two
    for each NIC, and one for the disks."""
    try:
        domain.createWithFlags(0)
    except errors.InvalidState as error:
        # also libvirt's answer for a network of its own that is switched off, and a tap device
        # that another machine has
        if not domain.isActive():
            explained = _explained(domain, error)
            raise (taken(error) if explained is error else explained) from error
    except errors.HypervisorFault as error:
        raise _explained(domain, error) from error


def cut(domain: Remote) -> None:
    """Power off at once; it being off is as good."""
    try:
        domain.destroyFlags(0)
    except errors.InvalidState:
        if domain.isActive():
            raise


def taken(error: errors.InvalidState) -> errors.DeviceBusy:
    """What libvirt means by "invalid operation" where the state allows the operation."""
    return errors.DeviceBusy(
        error.message,
        vendor_code=error.vendor_code,
        hint="another machine may have this NIC: unplug_vif() it there",
    )


def _explained(domain: Remote, error: errors.HypervisorError) -> errors.HypervisorError:
    remote = domain.connect()
    xml = parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    for interface in xml.iterfind("devices/interface"):
        missing = missing_network(remote, interface)
        if missing is not None:
            return missing
    return _shared(remote, domain, xml) or error


def _shared(remote: Remote, domain: Remote, xml: Element) -> errors.DeviceBusy | None:
    """The disk that another machine has, if that is why QEMU could not lock it."""
    own = {source_of(disk) for disk in xml.iterfind("devices/disk")} - {""}
    for other, stats in remote.getAllDomainStats(
        libvirt.VIR_DOMAIN_STATS_BLOCK, libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE
    ):
        taken = own & used_sources(stats)
        if taken and other.UUIDString() != domain.UUIDString():
            return errors.DeviceBusy(
                f"{min(taken)} is in use by machine {other.UUIDString()}",
                hint="detach it there, or make it multiattach",
            )
    return None
