"""A machine: its configuration, its state, its checkpoints."""

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol
from uuid import UUID, uuid4

from hvdrivers.hyperv.simulator.errors import invalid_state
from hvdrivers.hyperv.simulator.state.devices import Config

if TYPE_CHECKING:
    from hvdrivers.hyperv.simulator.state.host import HostState

STEADY = frozenset({"Running", "Off", "Saved", "Paused"})

STATE_NUMBERS: dict[str, int] = {
    "Other": 1,
    "Running": 2,
    "Off": 3,
    "Stopping": 4,
    "Saved": 6,
    "Paused": 9,
    "Starting": 10,
    "Reset": 11,
    "Saving": 32773,
    "Pausing": 32776,
    "Resuming": 32777,
    "FastSaved": 32779,
    "FastSaving": 32780,
    "ForceShutdown": 32781,
    "ForceReboot": 32782,
    "RunningCritical": 32783,
    "OffCritical": 32784,
    "StoppingCritical": 32785,
    "SavedCritical": 32786,
    "PausedCritical": 32787,
    "StartingCritical": 32788,
    "ResetCritical": 32789,
    "SavingCritical": 32790,
    "PausingCritical": 32791,
    "ResumingCritical": 32792,
    "FastSavedCritical": 32793,
    "FastSavingCritical": 32794,
}
"""Numbers of Microsoft.HyperV.PowerShell.VMState."""


class Guest(Protocol):
    """What runs in a machine that is on: played, or a real one in QEMU."""

    def power_off(self) -> None:
        """The machine lost its power; nothing of the guest is left when this returns."""

    def reset(self) -> None:
        """The reset button."""

    def pause(self) -> None:
        """The processors stop."""

    def resume(self) -> None:
        """The processors go on."""

    def save(self) -> object:
        """Stop, and answer what :meth:`GuestFactory.restored` needs to go on."""

    def remember(self) -> object:
        """What :meth:`save` answers, of a paused guest that goes on afterwards."""

    def request_shutdown(self) -> None:
        """The shutdown integration service asks the guest to stop. The guest may or may not."""

    def inject_nmi(self) -> None:
        """A non-maskable interrupt."""

    def heartbeat(self) -> bool:
        """Whether the guest's integration services answer."""

    def addresses(self, adapter: UUID) -> list[str]:
        """IP addresses that the guest told for an adapter."""

    def details(self) -> dict[str, str]:
        """Intrinsic key-value items of the guest, for example ``OSName``."""

    def accounts(self) -> dict[str, str] | None:
        """Passwords of its users, by name; None: it does not answer PowerShell Direct."""

    def changed(self) -> None:
        """The machine's devices or media changed while it ran."""


@dataclass
class Checkpoint:
    """A checkpoint: the configuration then, and the disks as they were (read-only since)."""

    name: str
    config: Config
    id: UUID = field(default_factory=uuid4)
    parent: UUID | None = None
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    kind: str = "Standard"
    state: str = "Off"
    memory: object = None
    notes: str = ""


@dataclass
class Machine:
    """A virtual machine of a host."""

    host: "HostState"
    config: Config
    path: str
    id: UUID = field(default_factory=uuid4)
    state: str = "Off"
    status: str = "Operating normally"
    critical: bool = False
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    checkpoints: dict[UUID, Checkpoint] = field(default_factory=dict)
    current_parent: UUID | None = None
    guest: Guest | None = None
    guest_runs: int = 0
    """How often its guest has begun: sessions in it end with its run."""
    saved: object = None
    metering: float | None = None
    merging: int = 0
    unmerged: list[str] = field(default_factory=list)
    """Disk files of removed checkpoints that several disks still lie on."""
    busy: str | None = None
    cancelled: bool = False
    started: float | None = None
    ran_before: float = 0.0
    replication: str = "Disabled"
    replication_mode: str = "None"
    clustered: bool = False
    """A failover cluster has it. The cluster itself is not played."""
    console_users: list[str] = field(default_factory=list)
    epoch: int = 0

    @property
    def name(self) -> str:
        """The label; not unique."""
        return self.config.name

    @property
    def on(self) -> bool:
        """Whether the machine holds memory and a guest."""
        return self.state not in ("Off", "Saved")

    @property
    def shown_state(self) -> str:
        """The state as scripts see it: ``Critical`` is part of the word."""
        return (
            self.state + "Critical"
            if self.critical and self.state + "Critical" in STATE_NUMBERS
            else self.state
        )

    def uptime(self) -> float:
        """Seconds since the machine was turned on; pauses count, as on Windows."""
        return self.ran_before + (
            time.monotonic() - self.started if self.started is not None else 0.0
        )

    def require(self, *states: str) -> None:
        """Refuse an operation that these states do not allow, or while another one runs."""
        if self.busy is not None or self.state not in states:
            raise invalid_state(self.name)

    def set_state(self, state: str) -> None:
        """Change the state, and tell those who wait."""
        self.state = state
        self.epoch += 1
        if state == "Running" and self.started is None:
            self.started = time.monotonic()
        if state in ("Off", "Saved"):
            self.started = None
            self.ran_before = 0.0
        self.host.world.notify()

    def forget_memory(self, memory: object) -> None:
        """Delete a guest's saved memory that neither the machine nor a checkpoint needs."""
        needed = [self.saved, *(point.memory for point in self.checkpoints.values())]
        drop = getattr(memory, "drop", None)
        if drop is not None and not any(each is memory for each in needed):
            drop()

    def children(self, parent: UUID | None) -> list[Checkpoint]:
        """Checkpoints whose parent this is, oldest first."""
        return [point for point in self.checkpoints.values() if point.parent == parent]

    def disk_paths(self) -> set[str]:
        """Paths of every disk file of the machine and of its checkpoints."""
        paths = {drive.path for drive in self.config.drives if drive.path}
        for point in self.checkpoints.values():
            paths |= {drive.path for drive in point.config.drives if drive.path}
        return paths
