"""Power on and off, and what a failed start means.

Most of what goes wrong when QEMU starts has one and the same code in libvirt (INTERNAL_ERROR), so
after a failure, and only then, the host is asked which of the machine's disks and networks it was,
and whether it has the memory at all.
"""

from __future__ import annotations

import libvirt

from hvdrivers.contract import errors
from hvdrivers.libvirt.connection import Remote
from hvdrivers.libvirt.devices import source_of
from hvdrivers.libvirt.domain import used_sources
from hvdrivers.libvirt.wiring import missing_network
from hvdrivers.libvirt.xml import Element, attribute, parse

_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20}
"""The one that libvirt writes, and the one that we do."""


def start(domain: Remote) -> None:
    """Power on; somebody else having done it is as good. One call; after a failure two more, two
    for each NIC, and one for the disks."""
    try:
        domain.createWithFlags(0)
    except (errors.InvalidState, errors.HypervisorFault) as error:
        if isinstance(error, errors.InvalidState) and domain.isActive():
            return
        xml = parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
        raise _explained(domain.connect(), xml, error) from error


def start_new(remote: Remote, xml: str) -> Remote:
    """Power on a machine that is not defined: until its CPUs run it is not there, or starting up.
    It has to be defined then, or it ends with its power. One call; after a failure one more, two
    for each NIC, and one for the disks."""
    try:
        domain: Remote = remote.createXML(xml, libvirt.VIR_DOMAIN_START_VALIDATE)
    except (errors.InvalidState, errors.HypervisorFault) as error:
        raise _explained(remote, parse(xml), error) from error
    return domain


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


def _explained(
    remote: Remote, xml: Element, error: errors.InvalidState | errors.HypervisorFault
) -> errors.HypervisorError:
    for interface in xml.iterfind("devices/interface"):
        missing = missing_network(remote, interface)
        if missing is not None:
            return missing
    reason = _too_large(remote, xml) or _shared(remote, xml)
    if reason is not None:
        return reason
    # "invalid" is also libvirt's answer for a network of its own that is switched off, and for a
    # tap device that another machine has
    return taken(error) if isinstance(error, errors.InvalidState) else error


def _too_large(remote: Remote, xml: Element) -> errors.InsufficientResources | None:
    """More memory than the whole host has. (What is free now is the kernel's to judge: pages that
    nobody has written to take none.)"""
    wanted = int(xml.findtext("memory") or 0) * _UNITS[attribute(xml, "memory", "unit") or "KiB"]
    total = int(remote.getInfo()[1]) << 20
    if wanted <= total:
        return None
    return errors.InsufficientResources(
        f"the machine wants {wanted >> 20} MiB of memory, the host has {total >> 20} MiB",
        hint="choose a smaller flavor, or another host",
    )


def _shared(remote: Remote, xml: Element) -> errors.DeviceBusy | None:
    """The disk that another machine has, if that is why QEMU could not lock it."""
    own = {source_of(disk) for disk in xml.iterfind("devices/disk")} - {""}
    for other, stats in remote.getAllDomainStats(
        libvirt.VIR_DOMAIN_STATS_BLOCK, libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE
    ):
        taken = own & used_sources(stats)
        if taken and other.UUIDString() != xml.findtext("uuid"):
            return errors.DeviceBusy(
                f"{min(taken)} is in use by machine {other.UUIDString()}",
                hint="detach it there, or make it multiattach",
            )
    return None
