"""Devices of a machine, as plain records that a checkpoint copies."""

from dataclasses import dataclass, field
from uuid import UUID, uuid4

IDE_LOCATIONS = 2
IDE_CONTROLLERS = 2
SCSI_LOCATIONS = 64
SCSI_CONTROLLERS = 4
MAX_ADAPTERS = {1: 8, 2: 64}
MAX_LEGACY_ADAPTERS = 4
"""Limits of Windows Server 2022 (learn.microsoft.com, plan/plan-hyper-v-scalability)."""


@dataclass
class Vlan:
    """The VLAN settings of an adapter. ``mode`` is Untagged, Access or Trunk."""

    mode: str = "Untagged"
    access: int = 0
    native: int = 0
    allowed: list[int] = field(default_factory=list)


@dataclass
class Acl:
    """One port ACL. ``action`` is Allow, Deny or Meter; ``direction`` Inbound or Outbound."""

    action: str
    direction: str
    local: str = ""
    remote: str = ""
    weight: int = 0
    extended: bool = False
    protocol: str = ""
    local_port: str = ""
    remote_port: str = ""
    stateful: bool = False


@dataclass
class NetworkAdapter:
    """A network adapter. ``mac`` is twelve hexadecimal digits; bandwidth in bits per second."""

    name: str
    id: UUID = field(default_factory=uuid4)
    legacy: bool = False
    switch: UUID | None = None
    mac: str = "000000000000"
    dynamic_mac: bool = True
    vlan: Vlan = field(default_factory=Vlan)
    spoofing: bool = False
    dhcp_guard: bool = False
    router_guard: bool = False
    teaming: bool = False
    device_naming: bool = False
    mirroring: str = "None"
    maximum_bandwidth: int = 0
    minimum_absolute: int = 0
    minimum_weight: int = 0
    has_bandwidth: bool = False
    iov_weight: int = 0
    vmq_weight: int = 100
    isolation: str = "None"
    acls: list[Acl] = field(default_factory=list)
    pool: str = "Primordial"


@dataclass
class Slot:
    """A place on a controller."""

    bus: str
    controller: int
    location: int


@dataclass
class HardDrive:
    """A hard drive: a virtual disk at ``path``, or the host's disk ``disk_number``."""

    slot: Slot
    path: str = ""
    disk_number: int | None = None
    disk_unique_id: str = ""
    id: UUID = field(default_factory=uuid4)
    persistent_reservations: bool = False
    minimum_iops: int = 0
    maximum_iops: int = 0
    cache: str = "Default"
    pool: str = "Primordial"


@dataclass
class DvdDrive:
    """A DVD drive, empty where ``path`` is empty."""

    slot: Slot
    path: str = ""
    id: UUID = field(default_factory=uuid4)
    pool: str = "Primordial"


@dataclass
class GpuPartition:
    """A share of a GPU."""

    instance_path: str
    id: UUID = field(default_factory=uuid4)
    amounts: dict[str, int] = field(default_factory=dict)


@dataclass
class AssignedDevice:
    """A host device that only this machine has."""

    location_path: str
    instance_id: str
    id: UUID = field(default_factory=uuid4)


@dataclass
class Firmware:
    """What boots. ``order`` names devices by their id; ``startup`` is generation 1's order."""

    secure_boot: bool = True
    template: str = "MicrosoftWindows"
    order: list[UUID] = field(default_factory=list)
    startup: list[str] = field(
        default_factory=lambda: ["CD", "IDE", "LegacyNetworkAdapter", "Floppy"]
    )
    num_lock: bool = False
    console: str = "Default"
    protocol: str = "IPv4"
    pause_after_failure: bool = False


SECURE_BOOT_TEMPLATES: dict[str, str] = {
    "MicrosoftWindows": "1734c6e8-3154-4dda-ba5f-a874cc483422",
    "MicrosoftUEFICertificateAuthority": "272e7447-90a4-4563-a4b9-8e4ab00526ce",
    "OpenSourceShieldedVM": "4292ae2b-ee2c-42b5-a969-dd8f8689f6f3",
}


@dataclass
class Processor:
    """Virtual processors. Limits are percent, the weight is relative."""

    count: int = 1
    reserve: int = 0
    maximum: int = 100
    weight: int = 100
    nested: bool = False
    migration_compatible: bool = False
    older_compatible: bool = False
    numa_count: int = 0
    numa_sockets: int = 0
    threads_per_core: int = 0
    host_protection: bool = False


@dataclass
class Memory:
    """Memory in bytes."""

    startup: int = 1 << 30
    dynamic: bool = False
    minimum: int = 512 << 20
    maximum: int = 1 << 40
    buffer: int = 20
    priority: int = 50
    numa_bytes: int = 0


@dataclass
class ComPort:
    """A serial port; ``path`` is a named pipe or empty."""

    path: str = ""
    debugger: bool = False


@dataclass
class Service:
    """An integration service that the host offers to the guest."""

    component: str
    key: str
    enabled: bool


SERVICES: tuple[tuple[str, str, bool], ...] = (
    ("6C09BB55-D683-4DA0-8931-C9BF705F6480", "guest-file", False),
    ("84EAAE65-2F2E-45F5-9BB5-0E857DC8EB47", "heartbeat", True),
    ("2A34B1C2-FD73-4043-8A5B-DD2159BC743F", "kvp", True),
    ("9F8233AC-BE49-4C79-8EE3-E7E1985B2077", "shutdown", True),
    ("2497F4DE-E9FA-4204-80E4-4B75C46419C0", "time", True),
    ("5CED1297-4598-4915-A5FC-AD21BB4D02A4", "vss", True),
)
"""Component ids of the integration services, a key, and whether a new machine has them enabled."""

SERVICE_NAMES: dict[str, dict[str, str]] = {
    "en": {
        "guest-file": "Guest Service Interface",
        "heartbeat": "Heartbeat",
        "kvp": "Key-Value Pair Exchange",
        "shutdown": "Shutdown",
        "time": "Time Synchronization",
        "vss": "VSS",
    },
    "de": {
        "guest-file": "Gastdienstschnittstelle",
        "heartbeat": "Takt",
        "kvp": "Austausch von Schlüsselwertepaaren",
        "shutdown": "Herunterfahren",
        "time": "Zeitsynchronisierung",
        "vss": "VSS (Volumeschattenkopie-Dienst)",
    },
}

ADAPTER_NAMES = {"en": "Network Adapter", "de": "Netzwerkkarte"}


def new_services() -> dict[str, Service]:
    """The integration services of a new machine, by component id."""
    return {component: Service(component, key, enabled) for component, key, enabled in SERVICES}


@dataclass
class Config:
    """Everything that a checkpoint keeps and ``Restore-VMSnapshot`` brings back."""

    name: str
    generation: int
    version: str = "10.0"
    notes: str = ""
    processor: Processor = field(default_factory=Processor)
    memory: Memory = field(default_factory=Memory)
    firmware: Firmware = field(default_factory=Firmware)
    adapters: list[NetworkAdapter] = field(default_factory=list)
    scsi: int = 0
    drives: list[HardDrive] = field(default_factory=list)
    dvds: list[DvdDrive] = field(default_factory=list)
    com: list[ComPort] = field(default_factory=lambda: [ComPort(), ComPort()])
    services: dict[str, Service] = field(default_factory=new_services)
    gpus: list[GpuPartition] = field(default_factory=list)
    assigned: list[AssignedDevice] = field(default_factory=list)
    start_action: str = "StartIfRunning"
    start_delay: int = 0
    stop_action: str = "Save"
    critical_action: str = "Pause"
    critical_timeout: int = 30
    checkpoint_type: str = "Production"
    automatic_checkpoints: bool = False
    lock_on_disconnect: bool = False
    guest_cache_types: bool = False
    low_mmio: int = 128 << 20
    high_mmio: int = 512 << 20
    tpm: bool = False
    key_protector: bytes = b""
    shielded: bool = False
    encrypt_state: bool = False
    bind_to_host_tpm: bool = False
    bios_guid: UUID = field(default_factory=uuid4)
    serial_number: str = ""
    console_support: bool = True
    video: tuple[str, int, int] = ("Default", 1920, 1200)
    smart_paging_path: str = ""
    snapshot_path: str = ""

    def all_drives(self) -> list[HardDrive | DvdDrive]:
        """Hard drives and DVD drives."""
        return [*self.drives, *self.dvds]
