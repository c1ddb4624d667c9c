"""Directories of the host that a guest mounts: in a definition, and whether the host has them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from secrets import randbelow, token_hex

from hvdrivers.contract import errors
from hvdrivers.libvirt.odd_files import is_not_looked_at
from hvdrivers.libvirt.pools import LOOK, Pools
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.session import last_calls
from hvdrivers.libvirt.xml import Element, attribute, el, text
from hvdrivers.models.guest import Share

_NO_DIRECTORY = ("/ENOTDIR", "/ELOOP", "/ENAMETOOLONG")
"""Ends of vendor codes that say, as ENOENT does, that a directory cannot be there."""


def shares_in(domain: Element) -> dict[str, Share]:
    """The shares of a machine, by tag. Directories that others have given it too: their tags are
    taken."""
    return {
        tag: Share.model_construct(
            tag=tag,
            path=attribute(each, "source", "dir") or "",
            read_only=each.find("readonly") is not None,
        )
        for each, tag in _filesystems(domain)
    }


def refuse_separators(path: str) -> None:
    """Raise NotSupported for a path that virtiofsd would read as further options of its command
    line: libvirt 9 does not escape it as virtiofsd reads it."""
    if "," in path or "\\" in path:
        raise errors.NotSupported(
            "virtiofsd takes no directory with a comma or a backslash in its path",
            hint="mount it on the host at another path (mount --bind)",
        )


def refuse_kernel(path: str) -> None:
    """Raise InvalidRequest for a directory of the kernel's own file systems. To look at one opens
    devices, and a guest that has one has the host. No call."""
    if is_not_looked_at(path):
        raise errors.InvalidRequest(
            f"{path!r} is of the kernel's own file systems (/dev, /proc, /sys)",
            hint="share a directory of files",
        )


def refuse_disks(pools: Pools, path: str) -> None:
    """Raise InvalidRequest for a directory that holds the driver's pools, or is in one: a guest
    would have the disks of all others. No call, two for each pool once a connection."""
    wanted = PurePosixPath(path)
    for pool in (pools.disks(), pools.consoles()):
        folder = PurePosixPath(pools.path(pool))
        if wanted.is_relative_to(folder) or folder.is_relative_to(wanted):
            raise errors.InvalidRequest(
                f"disks or logs of instances are in {str(folder)!r}",
                hint="share a directory of its own",
            )


def require_directory(remote: Remote, path: str) -> None:
    """Look whether the host has a directory. Two calls.

    Libvirt has no call for that. It opens the directory of a storage pool, so the driver makes one
    on it for a moment.
    """
    # Libvirt refuses a second pool on a folder and compares text; the dots keep two looks apart
    target = el("target", el("path", path + "/." * (1 + randbelow(200))))
    xml = el("pool", el("name", f"{LOOK}{token_hex(8)}"), target, type="dir")
    try:
        pool = remote.storagePoolCreateXML(text(xml), 0)
    except errors.VolumeNotFound as error:
        raise _absent(path, error) from error
    except errors.HypervisorFault as error:
        if str(error.vendor_code).endswith(_NO_DIRECTORY):
            raise _absent(path, error) from error
        raise
    with last_calls():
        pool.destroy()


def _absent(path: str, error: errors.HypervisorError) -> errors.VolumeNotFound:
    return errors.VolumeNotFound(
        f"the host has no directory {path!r}",
        vendor_code=error.vendor_code,
        hint="make it on the host first: drivers make none",
    )


def missing_directory(remote: Remote, domain: Element) -> errors.VolumeNotFound | None:
    """After a start that has failed: the share whose directory has gone. Two calls for each."""
    for share in shares_in(domain).values():
        try:
            require_directory(remote, share.path)
        except errors.VolumeNotFound as error:
            return error
        except errors.HypervisorError:
            continue  # it may be there
    return None


def share_element(share: Share) -> Element:
    """The ``<filesystem>`` of a share. It has no alias of ours: libvirt makes the name of a socket
    from the alias, whose path may have 107 bytes."""
    return el(
        "filesystem",
        el("driver", type="virtiofs"),
        el("source", dir=share.path),
        el("target", dir=share.tag),
        type="mount",
        accessmode="passthrough",
    )


def _filesystems(domain: Element) -> Iterator[tuple[Element, str]]:
    for each in domain.iterfind("devices/filesystem"):
        yield each, attribute(each, "target", "dir") or ""


def with_share(domain: Element, share: Share) -> Element:
    """The definition, with this share too."""
    devices = domain.find("devices")
    if devices is not None:
        devices.append(share_element(share))
    return domain


def without_share(domain: Element, tag: str) -> Element:
    """The definition, without the share of this tag."""
    devices = domain.find("devices")
    if devices is not None:
        for each, name in list(_filesystems(domain)):
            if name == tag:
                devices.remove(each)
    return domain
