"""Disks of the host as the Storage and iSCSI modules show them."""

from dataclasses import dataclass, field, replace
from pathlib import Path
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
class LogicalUnit:
    """A logical unit of a storage server: a file if it has one, which then says its size."""

    number: int
    unique_id: str
    serial: str
    file: Path | None = None
    capacity: int = 0

    @property
    def size(self) -> int:
        """Bytes."""
        return self.file.stat().st_size if self.file is not None else self.capacity

    def grow(self, size: int) -> None:
        """As the server's administrator does."""
        self.capacity = size
        if self.file is not None:
            with self.file.open("r+b") as stream:
                stream.truncate(size)


def new_unit(number: int, size: int, file: Path | None = None) -> LogicalUnit:
    """A logical unit with names of its own. A file is made if it is not there."""
    if file is not None and not file.exists():
        with file.open("wb") as stream:
            stream.truncate(size)
    name = f"60003FF4{uuid4().hex[:24]}".upper()
    return LogicalUnit(number, name, uuid4().hex[:16].upper(), file, size)


@dataclass
class IscsiTarget:
    """A target that a portal tells of. ``chap`` is a user name and a secret, or None. ``further``
    are more portals of it, and ``down`` those that do not answer now."""

    name: str
    portal: str
    port: int = 3260
    chap: tuple[str, str] | None = None
    luns: list[LogicalUnit] = field(default_factory=list)
    reachable: bool = True
    further: list[str] = field(default_factory=list)
    down: set[str] = field(default_factory=set)

    def answers(self, portal: str, port: int) -> bool:
        """Whether it can be reached there."""
        there = portal in (self.portal, *self.further) and port == self.port
        return there and self.reachable and portal not in self.down


@dataclass
class FibreTarget:
    """A port of a storage server on the Fibre Channel. ``wwn`` is sixteen hexadecimal digits."""

    wwn: str
    luns: list[LogicalUnit] = field(default_factory=list)


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
    """Node and port name of each Fibre Channel port of the host."""
    fabric: dict[str, FibreTarget] = field(default_factory=dict)
    """Target ports that the host's are zoned to."""
    multipath: bool = True
    """Whether Multipath I/O makes one disk of all paths to a unit; else each path is a disk."""
    multipath_feature: bool = True
    """Whether the feature Multipath I/O is installed. It is no help where it does not claim iSCSI,
    which ``multipath`` says."""

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
        files: tuple[Path, ...] = (),
    ) -> IscsiTarget:
        """Put a target on the network, with logical units of one size, or one for each file."""
        units = [new_unit(n, size, file) for n, file in enumerate(files or (None,) * luns)]
        target = self.network[name] = IscsiTarget(name, portal, chap=chap, luns=units)
        return target

    def add_fibre_target(
        self, wwn: str, *, luns: int = 1, size: int = 1 << 30, files: tuple[Path, ...] = ()
    ) -> FibreTarget:
        """Put a target port on the Fibre Channel. The host sees its units after a rescan."""
        units = [new_unit(n, size, file) for n, file in enumerate(files or (None,) * luns)]
        target = self.fabric[wwn.lower()] = FibreTarget(wwn.lower(), units)
        return target

    def units(self) -> dict[str, tuple[str | None, LogicalUnit]]:
        """By unique id what the host can see now: the session that brings it, and the unit."""
        seen: dict[str, tuple[str | None, LogicalUnit]] = {}
        for session in self.sessions.values():
            target = self.network.get(session.target)
            for unit in target.luns if target is not None else ():
                seen.setdefault(unit.unique_id, (session.identifier, unit))
        for port in self.fabric.values() if self.hba_ports else ():
            for unit in port.luns:
                seen.setdefault(unit.unique_id, (None, unit))
        return seen

    def rescan(self) -> None:
        """See units that came, went or grew. New disks are offline, by Windows' policy."""
        seen = self.units()
        for disk in list(self.disks.values()):
            if disk.bus in {"iSCSI", "Fibre Channel"} and disk.unique_id not in seen:
                del self.disks[disk.number]
        known = {disk.unique_id: disk for disk in self.disks.values()}
        for name, (session, unit) in seen.items():
            if name in known:
                known[name].size = unit.size
                continue
            bus = "iSCSI" if session is not None else "Fibre Channel"
            number = self.free_number()
            self.disks[number] = HostDisk(
                number,
                name,
                unit.serial,
                unit.size,
                bus=bus,
                offline=True,
                session=session,
                name=f"SIM {bus} Disk",
                location=f"Bus 0 : Target 0 : LUN {unit.number}",
            )
        if not self.multipath:
            self._rescan_paths()

    def _rescan_paths(self) -> None:
        """Each further session that sees a unit brings a disk of its own, of the same unique id."""
        shown = {(disk.unique_id, disk.session) for disk in self.disks.values()}
        for session in self.sessions.values():
            for unit in self.network[session.target].luns:
                if (unit.unique_id, session.identifier) in shown:
                    continue
                first = next(d for d in self.disks.values() if d.unique_id == unit.unique_id)
                number = self.free_number()
                self.disks[number] = replace(
                    first, number=number, session=session.identifier, offline=True
                )

    def restart(self) -> None:
        """The host has started again: sessions that were not persistent are gone, and the disks
        that are left are found in another order, with other numbers."""
        self.sessions = {name: each for name, each in self.sessions.items() if each.persistent}
        kept = self.units()
        found = [
            disk
            for disk in self.disks.values()
            if disk.number and (disk.session is None or disk.unique_id in kept)
        ]
        self.disks = {0: self.disks[0]}
        for disk in reversed(found):
            disk.number = self.free_number()
            self.disks[disk.number] = disk
