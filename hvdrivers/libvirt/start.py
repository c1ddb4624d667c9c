"""Power on and off, and what a failed start means.

Most of what goes wrong when QEMU starts has one and the same code in libvirt (INTERNAL_ERROR), so
after a failure, and only then, the host is asked which of the machine's disks and networks it was,
and whether it has the memory at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from uuid import uuid4

import libvirt

from hvdrivers import hints
from hvdrivers.contract import errors
from hvdrivers.driverkit.undo import changed, ended, note_loss
from hvdrivers.libvirt.chains import described
from hvdrivers.libvirt.devices import source_of
from hvdrivers.libvirt.domain import definable, own_disk, used_sources
from hvdrivers.libvirt.files import written_at
from hvdrivers.libvirt.huge_pages import explained_pages, page_size_in
from hvdrivers.libvirt.metadata import (
    METADATA_NAMESPACE,
    STATE_NAMESPACE,
    is_to_run,
    keep,
    kept,
    put,
    to_run_text,
    written_in,
)
from hvdrivers.libvirt.naming import ROOT
from hvdrivers.libvirt.network_checks import (
    macvtap_hint,
    macvtap_taken,
    unplugged,
    without_function,
)
from hvdrivers.libvirt.odd_files import odd_file
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.remote_volumes import WRONG_KEY, is_encrypted_disk
from hvdrivers.libvirt.session import unnoticed
from hvdrivers.libvirt.shared_directories import missing_directory
from hvdrivers.libvirt.states import state_of
from hvdrivers.libvirt.xml import Element, attribute, el, parse, text
from hvdrivers.models.state import InstanceState

_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20}
"""The one that libvirt writes, and the one that we do."""

_CUT = {
    libvirt.VIR_DOMAIN_SHUTOFF_DESTROYED,
    libvirt.VIR_DOMAIN_SHUTOFF_FAILED,  # a start that has failed
    libvirt.VIR_DOMAIN_SHUTOFF_DAEMON,
    libvirt.VIR_DOMAIN_SHUTOFF_UNKNOWN,  # the daemon has started anew since
}
"""Why a machine is off that an operation has switched off to start it again."""

_TO_EXPLAIN = (errors.InvalidState, errors.HypervisorFault, errors.NetworkNotFound)
"""What libvirt answers to a start whose reason it does not tell, or tells without what helps."""
_NO_DIRECT_IO = (
    "where it says that a file cannot be opened: a file system without O_DIRECT needs"
    ' connect(disk_cache="writeback")'
)


def start(domain: Remote, *, paused: bool = False) -> bool:
    """Power on; False if somebody else has done it: that one may have started it otherwise. One
    call; after a failure two more, two for each NIC, one for the disks, and up to six for each
    file.

    Args:
        paused: its virtual CPUs wait for resume(). Saved memory is brought back all the same.
    """
    try:
        domain.createWithFlags(_paused(paused))
    except _TO_EXPLAIN as error:
        if isinstance(error, errors.InvalidState) and domain.isActive():
            return False
        xml = parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
        raise explained(domain.connect(), xml, error) from error
    return True


def _paused(paused: bool) -> int:
    return libvirt.VIR_DOMAIN_START_PAUSED if paused else 0


def start_new(remote: Remote, xml: str, *, paused: bool = False) -> Remote:
    """Power on a machine that is not defined: until its CPUs run it is not there, or starting up.
    It has to be defined then, or it ends with its power. One call; after a failure one more, two
    for each NIC, one for the disks, and up to six for each file."""
    try:
        flags = libvirt.VIR_DOMAIN_START_VALIDATE | _paused(paused)
        domain: Remote = remote.createXML(xml, flags)
    except _TO_EXPLAIN as error:
        raise explained(remote, parse(xml), error) from error
    return domain


def cut(domain: Remote, *, loses: bool = True) -> bool:
    """Power off at once; it being off is as good. True if it was this call that ended it. Two
    calls, one if it was off; one more where there is saved memory.

    Args:
        loses: it is a guest's run that ends; False: one that goes on elsewhere, or has not begun.
    """
    try:
        domain.destroyFlags(0)
    except errors.InvalidState:
        if domain.isActive():
            raise
        return False
    if loses:
        note_loss()
    with ended() if loses else changed(), suppress(errors.InstanceNotFound):
        if has_old_memory(domain):
            domain.managedSaveRemove(0)
    return True


def has_old_memory(domain: Remote) -> bool:
    """Whether a machine that has just been switched off has saved memory. One call.

    Libvirt removes saved memory when the machine runs from it. A daemon that dies between the two
    leaves it, and libvirt would bring it back at the next start, with disks that the guest has
    written to since."""
    return bool(domain.hasManagedSaveImage(0))


def forget_old_memory(domain: Remote) -> None:
    """Remove it from a machine that runs, before that machine goes off by itself. One call, three
    where there is some: another client may just have suspended the machine, and that memory is not
    an old one."""
    if has_old_memory(domain) and domain.isActive():
        domain.managedSaveRemove(0)


def restore(domain: Remote) -> bool:
    """Let a suspended machine run where it was saved; False if somebody else has started it. Four
    calls; two more if its metadata changes meanwhile.

    Libvirt brings a machine back as it was saved, and suspend() saves a paused one as paused. To
    let it run in a call of its own would leave it PAUSED where that call is cut, a state in which
    resume() is not allowed. So what is saved is marked as running first, which nobody sees, and
    the one call that starts the machine ends in the state that the contract names.

    That mark writes the saved definition as it was read. Another client's set_metadata() may have
    written to it in between, and to the machine's own definition. So the two are compared.
    """
    document = domain.managedSaveGetXMLDesc(libvirt.VIR_DOMAIN_SAVE_IMAGE_XML_SECURE)
    saved = parse(document)
    while True:
        domain.managedSaveDefineXML(document, libvirt.VIR_DOMAIN_SAVE_RUNNING)
        newest = _metadata(domain)
        if newest is None or kept(saved, METADATA_NAMESPACE) == newest:
            break
        document = text(put(saved, METADATA_NAMESPACE, newest))
    return start(domain)


def _metadata(domain: Remote) -> str | None:
    """The metadata in a machine's definition, as they stand there. One call."""
    definition = parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    return kept(definition, METADATA_NAMESPACE)


def note_disk(domain: Remote) -> None:
    """Write into the mark of a machine that has just been switched off when its root disk was
    written to. Four calls, one where it has none."""
    xml = parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    written = _written(domain, xml)
    if written:
        flags = libvirt.VIR_DOMAIN_AFFECT_CONFIG
        keep(domain, STATE_NAMESPACE, to_run_text(written), flags)


def _path_of_root(xml: Element) -> str:
    root = own_disk(xml, ROOT)
    return source_of(root) if root is not None else ""


def _written(domain: Remote, xml: Element) -> str:
    """A machine's root disk, and when it was written to, by the host's clock. Two calls."""
    path = _path_of_root(xml)
    if not path:
        return ""
    with suppress(errors.VolumeNotFound):
        time = written_at(described(domain.connect().storageVolLookupByPath(path)))
        return f"{time} {path}" if time is not None else ""
    return ""


def shall_run(domain: Remote, xml: Element) -> bool:
    """Whether an operation has switched the machine off, and did not come to start it. No call
    without its mark, else three; another one where the mark is of the past, and goes.

    A client may have died after the start, before it took its mark away. A machine that has gone
    off since stays off. If the guest went down by itself, libvirt tells this end from one by the
    driver, until its daemon starts again. If the machine was cut (``virsh destroy``), its root disk
    was written to after the time in the mark.
    """
    if not is_to_run(xml):
        return False
    state, reason = domain.state(0)
    if state != libvirt.VIR_DOMAIN_SHUTOFF:
        return True
    noted = written_in(xml)
    same = noted.partition(" ")[2] == _path_of_root(xml)  # or an undo has put the old disk back
    if reason in _CUT and not (noted and same and _written(domain, xml) != noted):
        return True
    with unnoticed():
        keep(domain, STATE_NAMESPACE, None, libvirt.VIR_DOMAIN_AFFECT_CONFIG)
    return False


def forget_crash(domain: Remote) -> None:
    """From CRASHED to STOPPED where QEMU itself has died. Three calls.

    The daemon keeps the reason for which a machine is off until its next start, and a start that
    fails changes it too. So the machine is started with a NIC on a network that does not exist:
    one call, which ends before QEMU begins. Its definition is not touched.
    """
    flags = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
    xml = definable(parse(domain.XMLDesc(flags)))
    devices = xml.find("devices")
    if devices is not None:
        nowhere = el("source", network=f"hvdrivers-nowhere-{uuid4()}")
        devices.append(el("interface", nowhere, type="network"))
    try:
        domain.connect().createXML(text(xml), libvirt.VIR_DOMAIN_START_PAUSED)
    except (errors.NetworkNotFound, errors.HypervisorFault, errors.OutcomeUnknown):
        with changed():
            if state_of(*domain.state(0), saved=False) is InstanceState.CRASHED:
                raise
    else:
        with changed():
            cut(domain)


def taken(error: errors.InvalidState) -> errors.DeviceBusy:
    """What libvirt means by "invalid operation" where the state allows the operation."""
    return errors.DeviceBusy(
        error.message,
        vendor_code=error.vendor_code,
        hint="another machine may have this NIC or this PCI device: unplug_vif() it there, or"
        " power_off() that machine",
    )


def explained(
    remote: Remote,
    xml: Element,
    error: errors.InvalidState | errors.HypervisorFault | errors.NetworkNotFound,
) -> errors.HypervisorError:
    """Why a machine could not be started."""
    for interface in xml.iterfind("devices/interface"):
        reason = unplugged(remote, interface, error)
        if reason is not None:
            return reason
    if isinstance(error, errors.NetworkNotFound):
        return error
    reason = (
        _too_large(remote, xml)
        or without_function(remote, xml.iterfind("devices/interface"))
        or macvtap_taken(remote, xml.iterfind("devices/interface"), error)
        or explained_pages(remote, xml)
        or _shared(remote, xml)
        or odd_file(remote, xml.iterfind("devices/disk"))
        or missing_directory(remote, xml)
    )
    if reason is not None:
        return reason
    # "invalid" is also libvirt's answer for a network of its own that is switched off, and for a
    # tap device that another machine has
    if isinstance(error, errors.InvalidState):
        return taken(error)
    caches = {attribute(disk, "driver", "cache") for disk in xml.iterfind("devices/disk")}
    # libvirt has one code for all that QEMU itself says; a log daemon that is away has another
    size = page_size_in(xml)
    if size is not None:
        mount = f"huge pages of {size} KiB need a hugetlbfs mount that libvirtd knows of"
        error.hint = f"{error.hint}; {mount}" if error.hint else mount
    sockets = [
        each.get("path") for each in xml.iterfind("devices/interface/source[@mode='client']")
    ]
    if sockets:
        # QEMU's words have no code, and libvirt tells of no socket
        switch = f"a userspace switch must listen at {', '.join(filter(None, sockets))}"
        error.hint = f"{error.hint}; {switch}" if error.hint else switch
    for interface in xml.iterfind("devices/interface"):
        error.hint = macvtap_hint(interface, error) or error.hint
    if error.vendor_code == "VIR_ERR_INTERNAL_ERROR":
        more = [_NO_DIRECT_IO] if caches & {"none", "directsync"} else []
        error.hint = "; ".join(filter(None, (error.hint, *_of_qemu(xml), *more)))
    return error


_EVERYWHERE = frozenset({"127.0.0.1", "::1", "0.0.0.0", "::"})  # noqa: S104 - in a definition
"""Addresses that each host has."""


def _of_qemu(xml: Element) -> Iterator[str]:
    """What may be wrong with a part of the machine of which QEMU's words have no code."""
    if any(map(is_encrypted_disk, xml.iterfind("devices/disk"))):
        yield WRONG_KEY
    for listen in {e.get("address") for e in xml.iterfind("devices/graphics/listen")}:
        if listen not in {None, *_EVERYWHERE}:
            yield f"{listen}, where the screen listens, must be an address of the host"


def _too_large(remote: Remote, xml: Element) -> errors.InsufficientResources | None:
    """More memory than the whole host has. (What is free now is the kernel's to judge: pages that
    nobody has written to take none.)"""
    wanted = int(xml.findtext("memory") or 0) * _UNITS[attribute(xml, "memory", "unit") or "KiB"]
    total = int(remote.getInfo()[1]) << 20
    if wanted <= total:
        return None
    return errors.InsufficientResources(
        f"the machine wants {wanted >> 20} MiB of memory, the host has {total >> 20} MiB",
        hint=hints.SMALLER_FLAVOR,
    )


def _shared(remote: Remote, xml: Element) -> errors.DeviceBusy | None:
    """The disk that another machine has, if that is why QEMU could not lock it."""
    own = {source_of(disk) for disk in xml.iterfind("devices/disk")} - {""}
    flags = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE
    flags |= libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
    for other, stats in remote.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_BLOCK, flags):
        taken = own & used_sources(stats)
        if taken and other.UUIDString() != xml.findtext("uuid"):
            return errors.DeviceBusy(
                f"{min(taken)} is in use by machine {other.UUIDString()}",
                hint="detach it there, or make it multiattach",
            )
    return None
