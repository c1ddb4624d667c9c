"""What every driver needs and no driver should write itself.

The modules are independent objects and functions; a driver takes the ones that it can use. None of
them is a base class, and none calls the driver's operations: the flow of ``spawn`` stays in the
driver.

``backoff``
    The pace of attempts while a host is away.
``checks``
    Checks before a change, as pure functions: sizes, room, slots, what other machines have.
``deadline``
    One limit for all the remote calls of an operation.
``events``
    The streams that ``watch()`` returns: numbers, a bounded buffer, resyncs over gaps.
``feeds``
    Events that have to be asked for: a long poll, or a numbered log of the host.
``files``
    Files on the caller's machine: a new one, which goes again if the operation fails.
``hub``
    Raw events, given to all in the process who listen.
``images``
    An image found in the cache of a host, or brought there once, and published in one step.
``own_disks``
    The disks of its own that an instance shall have, its seed disc, and what destroy() leaves.
``record``
    What a hypervisor keeps of an instance, in libvirt metadata, extraConfig or Notes.
``seam``
    The one place that every remote call passes: calls are counted there, and cut by the suite.
``serial``
    The serial line of a guest, carried to the caller: what a driver may offer beside the contract.
``session``
    A connection that is made again when it was lost, and calls that are sent again where that is
    safe.
``undo``
    Taking back what an operation has begun.

The names below are the public ones. Each is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hvdrivers.driverkit.backoff import Backoff
    from hvdrivers.driverkit.checks import (
        Holder,
        Stock,
        device_names,
        free_name,
        free_slot,
        require_growth,
        require_port_free,
        require_room,
        require_stock,
        require_volume_free,
        root_disk_bytes,
    )
    from hvdrivers.driverkit.deadline import Deadline, bounding, current_deadline, waitable
    from hvdrivers.driverkit.events import Change, DeviceChange, InstanceStream, Streams, Translate
    from hvdrivers.driverkit.feeds import Feed, Journal, Missed
    from hvdrivers.driverkit.files import new_file, writing
    from hvdrivers.driverkit.hub import Back, Hub, Inbox, Listener, Lost, Sink, is_gap
    from hvdrivers.driverkit.images import (
        ImageStore,
        KnownKeys,
        Taken,
        abandoned,
        file_identity,
        not_cached,
        partial_upload,
        refuse_alive,
        stage,
        staged_key,
        staging_name,
    )
    from hvdrivers.driverkit.own_disks import WantedDisk, disc_of, keeps, seed_of, wanted_disks
    from hvdrivers.driverkit.record import Record, line_in, with_line
    from hvdrivers.driverkit.seam import (
        Calls,
        Cut,
        Fault,
        NotSent,
        ReplyLost,
        Seam,
        SessionExpired,
        Through,
        cut_after,
        cut_before,
        expire_session,
        hang_for,
    )
    from hvdrivers.driverkit.serial import SerialLine, SerialLines
    from hvdrivers.driverkit.session import Reconnecting, exchange
    from hvdrivers.driverkit.undo import (
        Step,
        Undo,
        changed,
        ended,
        has_changed,
        has_lost,
        note_change,
        note_loss,
        operating,
        truthful,
        undoing,
    )

__all__ = [
    "Back",
    "Backoff",
    "Calls",
    "Change",
    "Cut",
    "Deadline",
    "DeviceChange",
    "Fault",
    "Feed",
    "Holder",
    "Hub",
    "ImageStore",
    "Inbox",
    "InstanceStream",
    "Journal",
    "KnownKeys",
    "Listener",
    "Lost",
    "Missed",
    "NotSent",
    "Reconnecting",
    "Record",
    "ReplyLost",
    "Seam",
    "SerialLine",
    "SerialLines",
    "SessionExpired",
    "Sink",
    "Step",
    "Stock",
    "Streams",
    "Taken",
    "Through",
    "Translate",
    "Undo",
    "WantedDisk",
    "abandoned",
    "bounding",
    "changed",
    "current_deadline",
    "cut_after",
    "cut_before",
    "device_names",
    "disc_of",
    "ended",
    "exchange",
    "expire_session",
    "file_identity",
    "free_name",
    "free_slot",
    "hang_for",
    "has_changed",
    "has_lost",
    "is_gap",
    "keeps",
    "line_in",
    "new_file",
    "not_cached",
    "note_change",
    "note_loss",
    "operating",
    "partial_upload",
    "refuse_alive",
    "require_growth",
    "require_port_free",
    "require_room",
    "require_stock",
    "require_volume_free",
    "root_disk_bytes",
    "seed_of",
    "stage",
    "staged_key",
    "staging_name",
    "truthful",
    "undoing",
    "waitable",
    "wanted_disks",
    "with_line",
    "writing",
]

_HOMES = {
    "hvdrivers.driverkit.backoff": ("Backoff",),
    "hvdrivers.driverkit.checks": (
        "Holder",
        "Stock",
        "device_names",
        "free_name",
        "free_slot",
        "require_growth",
        "require_port_free",
        "require_room",
        "require_stock",
        "require_volume_free",
        "root_disk_bytes",
    ),
    "hvdrivers.driverkit.deadline": (
        "Deadline",
        "bounding",
        "current_deadline",
        "waitable",
    ),
    "hvdrivers.driverkit.events": (
        "Change",
        "DeviceChange",
        "InstanceStream",
        "Streams",
        "Translate",
    ),
    "hvdrivers.driverkit.feeds": (
        "Feed",
        "Journal",
        "Missed",
    ),
    "hvdrivers.driverkit.files": ("new_file", "writing"),
    "hvdrivers.driverkit.hub": (
        "Back",
        "Hub",
        "Inbox",
        "Listener",
        "Lost",
        "Sink",
        "is_gap",
    ),
    "hvdrivers.driverkit.images": (
        "ImageStore",
        "KnownKeys",
        "Taken",
        "abandoned",
        "file_identity",
        "not_cached",
        "partial_upload",
        "refuse_alive",
        "stage",
        "staged_key",
        "staging_name",
    ),
    "hvdrivers.driverkit.own_disks": (
        "WantedDisk",
        "disc_of",
        "keeps",
        "seed_of",
        "wanted_disks",
    ),
    "hvdrivers.driverkit.record": (
        "Record",
        "line_in",
        "with_line",
    ),
    "hvdrivers.driverkit.seam": (
        "Calls",
        "Cut",
        "Fault",
        "NotSent",
        "ReplyLost",
        "Seam",
        "SessionExpired",
        "Through",
        "cut_after",
        "cut_before",
        "expire_session",
        "hang_for",
    ),
    "hvdrivers.driverkit.serial": (
        "SerialLine",
        "SerialLines",
    ),
    "hvdrivers.driverkit.session": (
        "Reconnecting",
        "exchange",
    ),
    "hvdrivers.driverkit.undo": (
        "Step",
        "Undo",
        "changed",
        "ended",
        "has_changed",
        "has_lost",
        "note_change",
        "note_loss",
        "operating",
        "truthful",
        "undoing",
    ),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


if not TYPE_CHECKING:  # a type checker would take any misspelt name for granted

    def __getattr__(name: str) -> object:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_HOME[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
