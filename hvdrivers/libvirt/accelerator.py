"""Whether guests really run on KVM here.

That the daemon lists KVM, and even that ``/dev/kvm`` opens, proves nothing: without nested
virtualisation a guest's CPU may stand still for ever, also after its BIOS has written a line or
two. So an empty machine is started whose BIOS writes to its serial port, and the last that a BIOS
says is waited for: that there is nothing to boot from. The machine has no disk and no NIC, and goes
with the connection (AUTODESTROY) if we die meanwhile.

Nothing in libvirt's API removes QEMU's log of a machine, and libvirt appends to the log of the same
name. So all trials have one name, but for those at the same moment. It is no instance's name:
another client would define what it takes for a spawn that was cut.
"""

from __future__ import annotations

import time
from contextlib import suppress
from uuid import uuid4

import libvirt

from hvdrivers.contract import errors
from hvdrivers.libvirt.naming import PROBE
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.session import last_calls
from hvdrivers.libvirt.xml import el, text

FIRST_SECONDS = 10.0
"""Working KVM needs less than a second for the first byte; a busy host some more."""
SILENT_SECONDS = 4.0
"""After the first byte: a guest that says nothing for so long stands still."""
_LAST_WORDS = b"No bootable device"
"""Of SeaBIOS, which QEMU has for BIOS."""
_NAME_TAKEN = "VIR_ERR_OPERATION_FAILED"
"""Libvirt's answer where there is a machine of the same name."""


def kvm_works(remote: Remote, architecture: str, machine: str) -> bool:
    """Start a machine for a moment. Where BIOS messages cannot be had (not x86_64), the daemon is
    believed."""
    if architecture != "x86_64":
        return True
    try:
        domain = _started(remote, architecture, machine)
    except errors.HypervisorError:
        return False  # QEMU itself refuses: no permission on /dev/kvm, no such CPU
    try:
        return _speaks(remote, domain)
    finally:
        with suppress(errors.HypervisorError), last_calls():
            domain.destroyFlags(0)


def _started(remote: Remote, architecture: str, machine: str) -> Remote:
    """The machine, with its CPU running. One call, two beside another client's trial."""
    flags = libvirt.VIR_DOMAIN_START_AUTODESTROY
    try:
        domain: Remote = remote.createXML(_document(PROBE, architecture, machine), flags)
    except errors.HypervisorFault as error:
        if error.vendor_code != _NAME_TAKEN:
            raise
        document = _document(f"{PROBE}-{uuid4()}", architecture, machine)
        domain = remote.createXML(document, flags)
    return domain


def _document(name: str, architecture: str, machine: str) -> str:
    xml = el(
        "domain",
        el("name", name),
        el("memory", "32", unit="MiB"),
        el("vcpu", "1"),
        el(
            "os",
            el("type", "hvm", arch=architecture, machine=machine),
            el("bios", useserial="yes"),
        ),
        el("features", el("acpi")),
        # as our guests have it: a nested KVM may run a plain CPU and refuse the host's features
        el("cpu", mode="host-model"),
        el("devices", el("serial", el("target", port=0), type="pty")),
        type="kvm",
    )
    return text(xml)


def _speaks(remote: Remote, domain: Remote) -> bool:
    stream = remote.newStream(libvirt.VIR_STREAM_NONBLOCK)
    domain.openConsole(None, stream, 0)
    end = time.monotonic() + FIRST_SECONDS
    said = b""
    try:
        while time.monotonic() < end:
            data = stream.recv(1024)
            if isinstance(data, bytes) and data:
                said += data
                if _LAST_WORDS in said:
                    return True
                end = time.monotonic() + SILENT_SECONDS
            else:
                time.sleep(0.05)  # -2: nothing yet; a console has no event to wait for
        return False
    finally:
        with suppress(errors.HypervisorError):
            stream.abort()
