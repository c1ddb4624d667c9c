"""Event log records of Hyper-V, numbered per log as Windows numbers them.

The event ids are those that Hyper-V's own logs use as far as known; none was compared with a host.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime

VMMS = "Microsoft-Windows-Hyper-V-VMMS-Admin"
WORKER = "Microsoft-Windows-Hyper-V-Worker-Admin"

EVENTS: dict[str, tuple[str, int, str]] = {
    "created": (VMMS, 13002, "The virtual machine '{name}' was created."),
    "deleted": (VMMS, 13003, "The virtual machine '{name}' was deleted."),
    "merged": (
        VMMS,
        19080,
        "'{name}' background disk merge has been finished successfully.",
    ),
    "started": (WORKER, 18500, "'{name}' started successfully."),
    "turned-off": (WORKER, 18502, "'{name}' was turned off."),
    "shut-down": (
        WORKER,
        18504,
        "'{name}' was shut down using the Shutdown Integration Component.",
    ),
    "guest-shut-down": (
        WORKER,
        18508,
        "'{name}' was shut down by the guest operating system.",
    ),
    "saved": (WORKER, 18510, "'{name}' saved successfully."),
    "reset": (WORKER, 18512, "'{name}' was reset."),
    "guest-reset": (
        WORKER,
        18514,
        "'{name}' was reset by the guest operating system.",
    ),
    "paused": (WORKER, 18516, "'{name}' was paused."),
    "resumed": (WORKER, 18518, "'{name}' was resumed."),
    "restored": (WORKER, 18596, "'{name}' was restored successfully."),
    "failed": (
        WORKER,
        18550,
        "'{name}' was reset because an unrecoverable error occurred on a virtual processor.",
    ),
}


@dataclass(frozen=True)
class Record:
    """One record. ``number`` counts up within its log."""

    log: str
    number: int
    event: int
    time: datetime
    message: str
    name: str
    vm: str
    level: int = 4


@dataclass
class EventLog:
    """The logs of one host; old records fall out where a log is longer than ``limit``."""

    limit: int = 20000
    records: dict[str, list[Record]] = field(default_factory=dict)
    next: dict[str, int] = field(default_factory=dict)

    def write(self, what: str, name: str, vm: str) -> Record:
        """Add a record of an event of :data:`EVENTS`."""
        log, event, text = EVENTS[what]
        number = self.next.get(log, 1)
        self.next[log] = number + 1
        record = Record(
            log,
            number,
            event,
            datetime.now(UTC),
            f"{text.format(name=name)} (Virtual machine ID {vm})",
            name,
            vm,
        )
        entries = self.records.setdefault(log, [])
        entries.append(record)
        del entries[: max(0, len(entries) - self.limit)]
        return record

    def clear(self) -> None:
        """Empty the logs; numbering starts at 1 again, as after Clear-EventLog."""
        self.records.clear()
        self.next.clear()
