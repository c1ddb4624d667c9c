"""What connect() takes for libvirt."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StringConstraints, ValidationError

from hvdrivers.addresses import bracketed, ip_text
from hvdrivers.contract.errors import InvalidRequest
from hvdrivers.invalid import in_words
from hvdrivers.libvirt.cpu_sets import cpus_in
from hvdrivers.limits import WAIT_SECONDS
from hvdrivers.models.base import PrintableText, TextSecret, is_printable
from hvdrivers.models.config import DriverConfig


class VirtType(StrEnum):
    """What runs the guests' CPUs."""

    AUTO = "auto"
    """KVM if a probe shows that guests really run on it, QEMU's emulation otherwise. ``/dev/kvm``
    may exist, open, and still run no guest (nested virtualisation switched off): the first spawn
    of a connection therefore starts an empty machine for a moment and watches it."""
    KVM = "kvm"
    QEMU = "qemu"


def _uri(value: str) -> str:
    parts = urlsplit(value)  # ValueError for brackets that do not match
    _ = parts.port  # and for a port that is none
    if not parts.scheme:
        raise ValueError("is no libvirt URI: qemu:///system, qemu+ssh://root@host/system")
    if parts.scheme.partition("+")[0] == "qemu" and not parts.path.strip("/"):
        raise ValueError(
            "names no daemon: qemu:///system on this machine, qemu+ssh://HOST/system on another"
        )
    if parts.password:
        raise ValueError("holds a password: give username= and password= instead")
    return value


def _absolute(value: PurePosixPath) -> PurePosixPath:
    if not value.is_absolute() or ".." in value.parts:
        raise ValueError("must be an absolute path on the host, without '..'")
    if not is_printable(str(value)):
        raise ValueError("contains what cannot be printed")
    return value


def _without_nul(value: Path) -> Path:
    if "\0" in str(value):
        raise ValueError("contains a NUL, which no path has")
    return value


def _without_zone(value: str) -> str:
    if "%" in value:
        raise ValueError("has a zone, which libvirt takes for no screen")
    return value


def _cpus(value: str) -> str:
    cpus_in(value)
    return value


PoolName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


class LibvirtConfig(DriverConfig):
    """One libvirt daemon."""

    uri: Annotated[PrintableText, AfterValidator(_uri)] = "qemu:///system"
    """Libvirt's connection URI. Its parameters (``?keyfile=...``, ``?pkipath=...``,
    ``?socket=...``) are libvirt's own: https://libvirt.org/uri.html"""
    username: PrintableText | None = None
    """For daemons with SASL."""
    password: TextSecret | None = None
    connect_timeout: Annotated[float, Field(gt=0, le=WAIT_SECONDS)] = 15.0
    """Seconds for one attempt to connect."""
    keepalive_interval: Annotated[int, Field(ge=1, le=86400)] = 5
    """Seconds between two keepalive messages."""
    keepalive_count: Annotated[int, Field(ge=1, le=86400)] = 3
    """Messages without an answer after which the host counts as dead."""
    virt_type: VirtType = VirtType.AUTO
    pool: PoolName = "hvdrivers"
    """Storage pool for disks and images: of type dir, fs or netfs. Made if it does not exist."""
    console_pool: PoolName = "hvdrivers-consoles"
    """Storage pool for console logs. A pool of its own, as it is refreshed often."""
    pool_path: Annotated[PurePosixPath, AfterValidator(_absolute)] | None = None
    """Folder on the host in which missing pools are made (``disks`` and ``consoles`` below it).
    None: ``/var/lib/libvirt/hvdrivers`` for a system daemon, ``~/.local/share/hvdrivers`` for a
    session daemon on this machine."""
    machine: Annotated[PrintableText, Field(min_length=1)] | None = None
    """Machine type; None: q35 on x86_64, virt elsewhere."""
    hotplug_slots: Annotated[int, Field(ge=1, le=28)] = 12
    """Disks and NICs that can be plugged beside the ones given at spawn."""

    dedicated_cpus: (
        Annotated[
            str,
            StringConstraints(pattern=r"^\d{1,5}(-\d{1,5})?(,\d{1,5}(-\d{1,5})?)*$"),
            AfterValidator(_cpus),
        ]
        | None
    ) = None
    """CPUs of the host that are set aside for dedicated virtual ones: ``2-15,18``. Machines that
    share CPUs, and QEMU's own threads, run on the others. None: no machine gets CPUs to itself.
    Each client of the host must name the same; and so must those of a host that running machines
    migrate to, where they keep the CPUs that they share."""

    storage_address: Annotated[PrintableText, AfterValidator(ip_text)] | None = None
    """IP address of the host on the storage network, for ``get_volume_connector()``. None: that of
    the host in the URI, or of the daemon's own name, as it resolves here; unknown if neither does.
    """
    disk_cache: Literal["none", "directsync", "writethrough", "writeback"] = "none"
    """How the host caches the disks of new machines, and volumes whose attachment names no cache.
    ``none`` needs a file system with O_DIRECT. On one without (tmpfs before Linux 6.6, some FUSE
    and network file systems) no machine starts: ``writeback`` is the choice there, and the guest's
    flushes reach the disk all the same."""
    graphics: Literal["vnc", "spice", "both", "none"] = "vnc"
    """The screen of new machines. ``vnc`` or ``spice``: a server of QEMU's, which lets nobody in
    until ``get_console()`` gives it a password. ``both``: one of each. ``none`` is for hosts of
    machines without a screen; screenshots then do not exist either."""
    graphics_listen: Annotated[
        PrintableText, AfterValidator(ip_text), AfterValidator(_without_zone)
    ] = "127.0.0.1"
    """The address on the host at which new machines' screens listen. VNC is not encrypted, nor is
    SPICE unless the host has it so: another one than loopback belongs to a network of its own."""

    host_root: Annotated[Path, AfterValidator(_without_nul)] | None = None
    """Where this process sees the host's file system, if not at ``/``: for one that runs in a
    container on the host. Only backups are read there (``begin_backup()``)."""

    @classmethod
    def from_url(cls, url: str, **options: object) -> Self:
        """A libvirt URI is the URL."""
        values: dict[str, Any] = {"uri": url, **options}
        try:
            return cls(**values)
        except ValidationError as error:
            raise InvalidRequest(
                in_words(error), hint="the documentation of LibvirtConfig names the options"
            ) from None

    @property
    def aside(self) -> frozenset[int]:
        """``dedicated_cpus`` as numbers."""
        return cpus_in(self.dedicated_cpus) if self.dedicated_cpus else frozenset()

    @property
    def host_label(self) -> str:
        """The URI without user information and parameters, which may hold key files."""
        parts = urlsplit(self.uri)
        host = bracketed(parts.hostname or "")
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{host}{port}{parts.path}"
