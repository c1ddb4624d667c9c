"""Disks of the host as the Storage and iSCSI modules show them."""

from dataclasses import dataclass, field
from uuid import uuid4


@dataclass
class HostDisk:
    """A disk that the host sees. ``bus`` is SATA, iSCSI, Fibre Channel or File Backed Virtual."""

    number: int
    unique_id: str
    serial: str
    size: int
    bus: str = "SATA"
    offline: bool = False
    read_only: bool = False
    boot: bool = False
    style: str = "RAW"
    name: str = "Simulated Disk"
    session: str | None = None
    location: str = ""
    path: str = field(default_factory=lambda: f"\\\\?\\scsi#disk#{uuid4()}")


@dataclass
class IscsiLun:
    """A logical unit of an iSCSI target."""

    number: int
    size: int
    unique_id: str
    serial: str


@dataclass
class IscsiTarget:
    """A target that a portal tells of. ``chap`` is a user name and a secret, or None."""

    name: str
    portal: str
    port: int = 3260
    chap: tuple[str, str] | None = None
    luns: list[IscsiLun] = field(default_factory=list)
    reachable: bool = True


@dataclass
class IscsiSession:
    """A session of the host's initiator."""

    identifier: str
    target: str
    portal: str
    port: int
    persistent: bool
    multipath: bool
    authentication: str = "NONE"


@dataclass
class StorageState:
    """Disks, the targets that the network has, and what the initiator knows of them."""

    disks: dict[int, HostDisk] = field(default_factory=dict)
    network: dict[str, IscsiTarget] = field(default_factory=dict)
    portals: dict[tuple[str, int], None] = field(default_factory=dict)
    discovered: dict[str, IscsiTarget] = field(default_factory=dict)
    sessions: dict[str, IscsiSession] = field(default_factory=dict)
    initiator: str = "iqn.1991-05.com.microsoft:simulated"
    hba_ports: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.disks[0] = HostDisk(0, "SIMBOOT0", "SIMBOOT0", 1 << 40, boot=True, style="GPT")

    def free_number(self) -> int:
        """The lowest disk number that is free, as Windows gives it."""
        number = 0
        while number in self.disks:
            number += 1
        return number

    def add_target(
        self,
        name: str,
        portal: str,
        *,
        luns: int = 1,
        size: int = 1 << 30,
        chap: tuple[str, str] | None = None,
    ) -> IscsiTarget:
        """Put a target on the network, with logical units of one size."""
        units = [
            IscsiLun(n, size, f"60003FF4{uuid4().hex[:24]}".upper(), uuid4().hex[:16].upper())
            for n in range(luns)
        ]
        target = self.network[name] = IscsiTarget(name, portal, chap=chap, luns=units)
        return target
