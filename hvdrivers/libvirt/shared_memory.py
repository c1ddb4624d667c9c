"""Memory that QEMU shares with other programs of the host: what virtio-fs and vhost-user need.

A machine has it for as long as one of its devices needs it. https://libvirt.org/formatdomain.html
"""

from __future__ import annotations

from hvdrivers.libvirt.encrypted_memory import fit_encrypted
from hvdrivers.libvirt.xml import Element, attribute, el

_NEEDED_BY = (
    "devices/filesystem/driver[@type='virtiofs']",
    "devices/interface[@type='vhostuser']",
)
_CELLS = "cpu/numa/cell"
_ACCESS = "memoryBacking/access"


def is_shared(domain: Element) -> bool:
    """Whether all of a machine's memory is shared with other programs. A NUMA cell that has no mode
    of its own has the machine's."""
    mode = attribute(domain, _ACCESS, "mode")
    modes = [each.get("memAccess", mode) for each in domain.iterfind(_CELLS)] or [mode]
    return all(each == "shared" for each in modes)


def fit_memory(domain: Element) -> Element:
    """The definition, with memory that is shared if one of its devices needs that, and only then.
    Huge pages stay, and encrypted memory gets what it needs."""
    backing = domain.find("memoryBacking")
    if any(domain.find(each) is not None for each in _NEEDED_BY):
        for cell in domain.iterfind(_CELLS):
            if cell.get("memAccess") == "private":
                del cell.attrib["memAccess"]  # private without the machine's mode, too
        if not is_shared(domain):
            if backing is None:
                backing = el("memoryBacking")
                domain.append(backing)
            _remove(backing)
            backing.extend([el("source", type="memfd"), el("access", mode="shared")])
    elif backing is not None and attribute(domain, _ACCESS, "mode") == "shared":
        _remove(backing)
        if not len(backing):
            domain.remove(backing)
    return fit_encrypted(domain)


def _remove(backing: Element) -> None:
    for tag in ("source", "access"):
        for each in backing.findall(tag):
            backing.remove(each)
