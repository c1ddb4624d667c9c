"""Paths of the sockets that a NIC on a userspace switch names, looked at before QEMU has them.

QEMU makes a socket (mode ``server``) in the place of whatever is there: it removes a file of that
name, such as another machine's disk. Where it connects (``client``), the sockets of libvirt's own
machines are no switch's.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from hvdrivers.contract import errors
from hvdrivers.libvirt.files import clean
from hvdrivers.libvirt.odd_files import is_not_looked_at, pool_on
from hvdrivers.libvirt.remote import Remote
from hvdrivers.models.vif import VhostUserVif

_LIBVIRTS = re.compile(r"(/var)?/run/libvirt/.*|.*/(domain-[0-9]+-[^/]*|channel/target)/.*")
"""Libvirt's own sockets, and those by which it speaks to machines: their monitors and agents."""
_OWN = "name a path in a folder that the switch and QEMU share, such as /run/openvswitch"


def require_socket(remote: Remote, vif: VhostUserVif) -> None:
    """See that a NIC's socket takes nothing away. No call; three where QEMU makes the socket.

    Raises:
        InvalidRequest: the path is a file's or a folder's, or libvirt's own.
        NetworkNotFound: there is no such folder.
    """
    path = PurePosixPath(clean(vif.socket))
    if _LIBVIRTS.fullmatch(str(path)) or is_not_looked_at(str(path)):
        raise errors.InvalidRequest(
            f"{vif.socket!r} is a path of libvirt's or the kernel's own", hint=_OWN
        )
    if vif.mode != "server":
        return
    try:
        with pool_on(remote, str(path.parent)) as folder:
            there = _has(folder, path.name)
    except errors.VolumeNotFound as error:
        raise errors.NetworkNotFound(
            f"the host has no folder {str(path.parent)!r} for the socket of a NIC",
            vendor_code=error.vendor_code,
            hint=_OWN,
        ) from error
    except (errors.HypervisorFault, errors.PermissionDenied):
        return  # the daemon may not list the folder
    if there:
        raise errors.InvalidRequest(
            f"there is a file or a folder at {vif.socket!r}: QEMU would remove it, and make its"
            " socket there",
            hint="name a path at which nothing is",
        )


def _has(folder: Remote, name: str) -> bool:
    """Whether a pool shows a file, a folder or a device of this name. It shows no sockets."""
    try:
        folder.storageVolLookupByName(name)
    except errors.VolumeNotFound:
        return False
    return True
