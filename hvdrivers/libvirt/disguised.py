"""Raw disks that the host would take for another format.

QEMU opens each disk in the format that the machine's definition names. libvirt's storage calls
(copying a volume, making one larger) look at the content instead. A guest writes what it likes to a
raw disk: with the header of a qcow2 file there, a copy would be of whatever files of the host that
header names. https://libvirt.org/kbase/secureusage.html
"""

from __future__ import annotations

from hvdrivers.contract import errors
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.xml import Element, attribute, parse

_AS_RAW = {"raw", "iso", "unknown"}
"""What libvirt calls contents that it handles as they are."""


def refuse_disguised(disk: Element, volume: Remote, hint: str) -> None:
    """Refuse a raw disk whose content looks like another format. One call; none for qcow2, whose
    header QEMU alone writes.

    Args:
        volume: its file.

    Raises:
        InvalidRequest: it is.
    """
    if attribute(disk, "driver", "type") == "qcow2":
        return
    description = parse(volume.XMLDesc(0))
    found = attribute(description, "target/format", "type") or "raw"
    if found in _AS_RAW:
        return
    raise errors.InvalidRequest(
        f"the raw disk {description.findtext('target/path')} looks like {found}: the host would"
        " read it as such, and the guest may have written that",
        hint=hint,
    )
