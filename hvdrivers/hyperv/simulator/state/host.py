"""The state of one simulated host."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

from hvdrivers.hyperv.simulator.faults import FaultRules
from hvdrivers.hyperv.simulator.state.eventlog import EventLog
from hvdrivers.hyperv.simulator.state.files import WindowsFiles
from hvdrivers.hyperv.simulator.state.machine import Guest, Machine
from hvdrivers.hyperv.simulator.state.storage import StorageState
from hvdrivers.hyperv.simulator.state.vhd import DiskStore
from hvdrivers.hyperv.simulator.state.world import World

DEFAULT_STORE = "C:\\ProgramData\\Microsoft\\Windows\\Hyper-V"
DEFAULT_DISKS = "C:\\Users\\Public\\Documents\\Hyper-V\\Virtual Hard Disks"


@dataclass
class Timing:
    """Seconds that the host's own work takes."""

    start: float = 0.02
    stop: float = 0.01
    save: float = 0.02
    pause: float = 0.0
    checkpoint: float = 0.0
    restore: float = 0.0
    merge: float = 0.1
    migration: float = 0.1
    going_down: float = 0.2
    """Between the acceptance of a shutdown of the host and its end."""
    coming_up: float = 0.5
    export: float = 0.0
    shutdown_limit: float = 300.0


@dataclass
class Switch:
    """A virtual switch. ``kind`` is External, Internal or Private."""

    name: str
    kind: str = "Private"
    id: UUID = field(default_factory=uuid4)
    notes: str = ""
    uplink: str = ""
    management: bool = False
    bandwidth_mode: str = "Absolute"
    iov: bool = False
    functions: int = 0
    """Virtual functions of the adapter below it, if that has SR-IOV."""
    embedded_teaming: bool = False
    management_adapter: UUID = field(default_factory=uuid4)


@dataclass
class PartitionableGpu:
    """A GPU that can be shared in parts."""

    name: str
    valid_counts: list[int] = field(default_factory=lambda: [16, 8, 4, 2, 1])
    count: int = 16
    amount: int = 1_000_000_000


@dataclass
class HostDevice:
    """A PCI device of the host that can be dismounted and assigned."""

    instance_id: str
    location_path: str
    name: str
    dismounted: bool = False
    owner: UUID | None = None
    bus: int = 1
    slot: int = 0
    function: int = 0
    class_code: str = "020000"
    enabled: bool = True

    @property
    def shown_id(self) -> str:
        """A dismounted device is one of another enumerator."""
        return (
            self.instance_id.replace("PCI\\", "PCIP\\", 1) if self.dismounted else self.instance_id
        )


@dataclass
class MigrationJob:
    """A migration away from a host, as Msvm_MigrationJob shows it."""

    machine: UUID
    destination: str
    percent: int = 0
    state: int = 4
    """4 running, 7 completed, 8 terminated, 10 exception."""
    cancelled: bool = False
    id: UUID = field(default_factory=uuid4)


@dataclass
class ConcreteJob:
    """A call that changes a machine, as Msvm_ConcreteJob shows it."""

    machine: UUID
    caption: str
    state: int = 4
    """4 running, 7 completed."""
    id: UUID = field(default_factory=uuid4)


@dataclass
class StorageJob:
    """A call that works at a virtual hard disk, as Msvm_StorageJob shows it."""

    path: str
    caption: str
    state: int = 4
    """4 running, 7 completed."""
    id: UUID = field(default_factory=uuid4)


@dataclass
class Hardware:
    """What the host has. Sizes are bytes."""

    processors: int = 16
    sockets: int = 1
    cores: int = 8
    memory: int = 64 << 30
    reserved: int = 4 << 30
    numa_nodes: int = 2
    processor_name: str = "Simulated CPU @ 2.60GHz"
    adapters: list[str] = field(default_factory=lambda: ["Ethernet", "Ethernet 2"])
    gpus: list[PartitionableGpu] = field(default_factory=list)
    devices: list[HostDevice] = field(default_factory=list)


@dataclass
class HostSettings:
    """What Set-VMHost changes."""

    vhd_path: str = DEFAULT_DISKS
    machine_path: str = DEFAULT_STORE
    mac_minimum: str = "00155D010100"
    mac_maximum: str = "00155D0101FF"
    numa_spanning: bool = True
    enhanced_session: bool = False
    migration: bool = False
    migration_authentication: str = "CredSSP"
    migration_performance: str = "Compression"
    maximum_migrations: int = 2
    maximum_storage_migrations: int = 2
    any_network: bool = True
    metering_interval: timedelta = timedelta(hours=1)


class HostState:
    """Machines, switches, disks, settings and rules of one host."""

    def __init__(self, name: str, world: World, root: Path, *, language: str = "en") -> None:
        self.name = name
        self.world = world
        self.language = language
        self.id = uuid4()
        self.files = WindowsFiles(root, lambda: self.delegation)
        self.disks = DiskStore(self.files)
        self.machines: dict[UUID, Machine] = {}
        self.switches: dict[UUID, Switch] = {}
        self.hardware = Hardware()
        self.settings = HostSettings()
        self.timing = Timing()
        self.faults = FaultRules()
        self.log = EventLog()
        self.storage = StorageState()
        self.peers: dict[str, HostState] = {name.lower(): self}
        self.delegation = False
        self.administrator = True
        self.operating_system = ("10.0.20348", "Microsoft Windows Server 2022 Datacenter")
        # long ago: clients tell two starts apart by their times
        self.booted = datetime.now(UTC) - timedelta(days=1)
        self.guests: Callable[[Machine, object], Guest] | None = None
        self.pipes = Path(tempfile.gettempdir())
        self.closing = False
        self.guardian_trust = False
        self.exported: dict[str, object] = {}
        self.mounted: dict[str, int] = {}
        self.shares: dict[str, str] = {"ADMIN$": "C:\\Windows", "C$": "C:\\", "IPC$": ""}
        self.groups: dict[str, list[UUID]] = {}
        self.migrations: list[MigrationJob] = []
        self.power: Callable[[bool], None] | None = None
        """Lets the host go down, and with True up again."""
        self.jobs: list[ConcreteJob | StorageJob] = []
        self.make_folders()

    def make_folders(self) -> None:
        """The folders that Windows and Hyper-V make."""
        for folder in (DEFAULT_STORE, DEFAULT_DISKS, "C:\\Windows\\Temp"):
            self.files.file(folder).mkdir(parents=True, exist_ok=True)

    def wipe(self) -> None:
        """Forget machines, switches, disks, log and counters; hardware and rules stay."""
        self.machines.clear()
        self.switches.clear()
        self.storage = StorageState()
        self.disks = DiskStore(self.files, self.disks.capacity, self.disks.qemu_img)
        self.mounted.clear()
        self.groups.clear()
        self.migrations.clear()
        self.jobs.clear()
        self.log.clear()
        self.faults.counts.clear()

    def pause(self, seconds: float) -> None:
        """Let time pass with the lock given away; a host that closes waits no more."""
        if seconds > 0:
            self.world.wait_for(lambda: self.closing, seconds)

    @contextmanager
    def unlocked(self) -> Iterator[None]:
        """Give the lock away for long work; a machine that is worked on must be marked busy."""
        self.world.lock.release()
        try:
            yield
        finally:
            self.world.lock.acquire()

    def wait_for(self, holds: Callable[[], bool], seconds: float) -> bool:
        """Wait until ``holds()``, for ``seconds``, or until the host closes; whether it holds."""
        self.world.wait_for(lambda: self.closing or holds(), seconds)
        return holds()

    def free_memory(self) -> int:
        """Bytes that machines can still get."""
        used = sum(m.config.memory.startup for m in self.machines.values() if m.on)
        return self.hardware.memory - self.hardware.reserved - used

    def new_mac(self) -> str:
        """A dynamic MAC address of the pool that no adapter has."""
        taken = {a.mac for m in self.machines.values() for a in m.config.adapters}
        first, last = int(self.settings.mac_minimum, 16), int(self.settings.mac_maximum, 16)
        for number in range(first, last + 1):
            mac = f"{number:012X}"
            if mac not in taken:
                return mac
        # The pool is used up: Hyper-V refuses; hosts with more machines set a wider pool.
        raise LookupError("no MAC address left in the pool")

    def record(self, what: str, machine: Machine) -> None:
        """Write a record of an event of a machine."""
        self.log.write(what, machine.name, str(machine.id).upper())

    def users_of(self, path: str) -> list[Machine]:
        """Machines that have a disk file open now."""
        return [
            machine
            for machine in self.machines.values()
            if machine.on
            and any(self.files.same(d.path, path) for d in machine.config.drives if d.path)
        ]
