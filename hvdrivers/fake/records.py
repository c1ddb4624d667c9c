"""What a fake host remembers: the truth that drivers read and change.

Everything here is guarded by the world's lock. ``token`` is the operation that made a thing, so
that an undo removes what it made and never what somebody else made under the same name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from pydantic import SecretBytes, SecretStr

from hvdrivers.fake.behaviour import GuestBehaviour
from hvdrivers.fake.clock import Wake
from hvdrivers.models.disk import OwnDisk
from hvdrivers.models.group import ServerGroup
from hvdrivers.models.guest import Share
from hvdrivers.models.hardware import Hardware
from hvdrivers.models.image import ImageFormat, ImageRef
from hvdrivers.models.instance import Firmware, Flavor
from hvdrivers.models.migration import MigrationPhase, Move, MovePhase
from hvdrivers.models.numa import NumaNode
from hvdrivers.models.pci import PciAddress
from hvdrivers.models.seed import SeedDisc
from hvdrivers.models.state import POWERED_ON, InstanceState
from hvdrivers.models.vif import Vif
from hvdrivers.models.volume import DiskQos, VolumeAttachment

Content = tuple[str, ...]
"""What is on a disk: where it came from, then every write in order. Two disks with equal content
hold the same data."""


@dataclass
class Disk:
    """A disk of an instance (its owner), in a pool."""

    owner: UUID
    role: str
    """``root``, ``ephemeral``, ``ephemeral-1``, ``swap``, ``seed``, ``rescue``, ``memory``
    (a saved one)."""
    size_bytes: int
    content: Content
    token: int
    base: str | None = None
    """Key of the cached image that it is based on."""
    wish: OwnDisk | None = None
    """What the spec says of it."""

    @property
    def name(self) -> str:
        """Its name in the pool."""
        return f"{self.owner}/{self.role}"


@dataclass
class VolumeRecord:
    """A volume: of a storage server, of a pool, or a local one."""

    volume_id: str
    size_bytes: int
    content: Content = ()
    name: str = ""
    pool: str | None = None
    format: ImageFormat = ImageFormat.RAW
    locks: dict[tuple[str, UUID], Lock] = field(default_factory=dict)
    """Which machine has it open, by host name and UUID."""


@dataclass(frozen=True)
class Lock:
    """One machine's hold on a volume."""

    token: int
    multiattach: bool
    volume_id: str
    """What the attachment calls the volume."""


@dataclass
class Pool:
    """A storage pool; a shared one belongs to several hosts."""

    name: str
    total_bytes: int
    shared: bool
    disks: dict[str, Disk] = field(default_factory=dict)
    volumes: dict[str, VolumeRecord] = field(default_factory=dict)
    images: dict[str, ImageRecord] = field(default_factory=dict)
    uploads: dict[str, ImageRecord] = field(default_factory=dict)
    """Images on their way in, by a name of their own: never found by their key."""

    @property
    def used_bytes(self) -> int:
        """Everything in it, thickly provisioned."""
        return sum(
            item.size_bytes
            for items in (self.disks, self.volumes, self.images, self.uploads)
            for item in items.values()
        )


@dataclass
class ImageRecord:
    """A cached image."""

    key: str
    format: ImageFormat
    virtual_size_bytes: int
    size_bytes: int
    content: Content
    last_used: datetime | None = None
    last_written: datetime | None = None
    """Of an upload that is not complete."""


@dataclass
class AttachedDisk:
    """A volume in a machine."""

    attachment: VolumeAttachment
    record: VolumeRecord
    device: str
    seen_bytes: int
    """The size that the machine sees."""
    qos: DiskQos | None


@dataclass
class Port:
    """A NIC of a machine, and its end on the host's network."""

    vif: Vif
    owner: UUID
    token: int
    plugged: bool = False
    """In the machine's definition, not only on the switch."""


@dataclass
class Secret:
    """A credential that the host keeps for a disk."""

    owner: UUID
    token: int
    value: SecretStr


@dataclass
class SnapshotRecord:
    """One point to come back to."""

    id: str
    name: str
    parent: str | None
    created_at: datetime
    state: InstanceState
    memory: bool
    contents: dict[str, Content]
    """By the disks' roles."""
    flavor: Flavor
    devices: frozenset[str]
    """Ids of volumes and NICs."""


@dataclass
class BackupRecord:
    """A checkpoint, and whether it is open."""

    id: str
    writes: dict[str, int]
    """How much of each disk's content it covers."""
    open: bool


@dataclass
class Migration:
    """A migration under way, or the last one."""

    phase: MigrationPhase
    total_bytes: int
    remaining_bytes: int
    downtime_ms: int | None = None
    forced: bool = False
    aborted: bool = False
    wake: Wake = field(default_factory=Wake)
    """Ends the waits of the operation that migrates."""

    @property
    def active(self) -> bool:
        """Whether it goes on."""
        return self.phase in {MigrationPhase.COPYING, MigrationPhase.SWITCHING}


@dataclass
class MoveRecord:
    """A move in steps that has begun, and what the machine was before."""

    move: Move
    flavor: Flavor
    vifs: tuple[Vif, ...]
    secrets: dict[str, SecretStr]
    tpm: bool
    nvram: bool
    phase: MovePhase = MovePhase.PREPARED


@dataclass
class Machine:
    """A virtual machine, ours or foreign."""

    uuid: UUID
    name: str
    state: InstanceState
    flavor: Flavor
    created_at: datetime
    token: int
    guest: GuestBehaviour
    ours: bool = True
    metadata: dict[str, str] = field(default_factory=dict)
    firmware: Firmware = Firmware.BIOS
    secure_boot: bool = False
    sev: bool = False
    vtpm: bool = False
    image: ImageRef | None = None
    image_key: str | None = None
    claims: bool = False
    """While it is built: it will be started, so its memory is spoken for."""
    volumes: dict[str, AttachedDisk] = field(default_factory=dict)
    shares: dict[str, Share] = field(default_factory=dict)
    snapshots: dict[str, SnapshotRecord] = field(default_factory=dict)
    current_snapshot: str | None = None
    backups: dict[str, BackupRecord] = field(default_factory=dict)
    migration: Migration | None = None
    console: bytearray = field(default_factory=bytearray)
    boots: int = 0
    started_at: float = 0.0
    frozen: bool = False
    passwords: dict[str, SecretStr] = field(default_factory=dict)
    programs: list[Wake] = field(default_factory=list)
    """Of those who wait for a program of the guest."""
    seed: dict[str, SecretBytes] = field(default_factory=dict)
    """Files on the seed disk."""
    seed_disc: SeedDisc | None = None
    """A seed disc of the caller's own, with its content."""
    rescue_seed: SeedDisc | None = None
    """What it has instead while it is rescued."""
    hardware: Hardware = field(default_factory=Hardware)
    numa: tuple[NumaNode, ...] = ()
    server_group: ServerGroup | None = None
    copy_of: UUID | None = None
    """Somebody has copied that one, with its mark."""
    move: MoveRecord | None = None
    """It is the source of a move that is not over."""
    arrived: str | None = None
    """Token of the move with which it came to this host."""
    pending_nmi: bool = False
    """It got an interrupt while it was paused, and takes it when it goes on."""
    asked_for: set[str] = field(default_factory=set)
    """Volumes and NICs that its guest was asked for in vain, since it was started."""
    waits: bool = False
    """It was started with frozen CPUs: its guest starts with unpause()."""
    counter: int = 0
    """For names that are unique within the instance."""

    @property
    def takes_memory(self) -> bool:
        """Whether the host's CPUs and memory are taken by it."""
        return self.state in POWERED_ON or self.claims

    def number(self) -> int:
        """A number that this machine has not used yet."""
        self.counter += 1
        return self.counter

    def write_console(self, line: str) -> None:
        """Append a line to the serial console's log; it keeps the last MiB."""
        self.console += line.encode() + b"\r\n"
        if len(self.console) > 1 << 20:
            del self.console[: len(self.console) - (1 << 20)]


@dataclass(frozen=True)
class Claim:
    """A device, or a slice of one, that a machine has."""

    owner: UUID
    address: PciAddress
    slice: str | None
    """Name of the mediated type; None for the whole device."""
    token: int
    use: str
    """What for: ``passthrough``, ``vgpu``, or a VIF's id."""
