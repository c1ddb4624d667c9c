"""Checks before a change: pure functions over what a driver has read.

A hypervisor often refuses what cannot be with an error that has no code of its own, or accepts it
and fails later. So a driver looks first. These functions say the same thing in the same words on
every hypervisor; they ask no host.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.hints import NO_SHRINKING, SHARE_OUT

__all__ = [
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
]

_GIB = 1 << 30
_MIB = 1 << 20


# ---- sizes ---------------------------------------------------------------------------------------


def root_disk_bytes(image_bytes: int, disk_gib: int) -> int:
    """The size of a root disk that is made from an image.

    Args:
        image_bytes: the size that a guest sees of the image.
        disk_gib: what the flavor asks for; 0: the image's own size.

    Raises:
        ImageRejected: the image does not fit.
    """
    if disk_gib and image_bytes > disk_gib * _GIB:
        raise errors.ImageRejected(
            f"the image needs {image_bytes} bytes ({image_bytes / _GIB:.2f} GiB), the flavor's disk"
            f" has {disk_gib} GiB",
            hint="choose a flavor with a larger disk, or disk_gib=0 for the image's own size",
        )
    return disk_gib * _GIB or image_bytes


def require_growth(what: str, now_bytes: int, wanted_bytes: int) -> None:
    """Refuse to make a disk smaller.

    Raises:
        InvalidRequest: it would shrink, which destroys data.
    """
    if wanted_bytes < now_bytes:
        raise errors.InvalidRequest(
            f"{what} would shrink from {now_bytes} to {wanted_bytes} bytes, which destroys data",
            hint=NO_SHRINKING,
        )


# ---- what is left --------------------------------------------------------------------------------


def require_room(where: str, free_bytes: int, wanted_bytes: int) -> None:
    """Refuse what does not fit into a pool.

    Args:
        where: ``pool default``.

    Raises:
        InsufficientResources: less is free.
    """
    if wanted_bytes > free_bytes:
        raise errors.InsufficientResources(
            f"{where} has {max(0, free_bytes) / _MIB:.1f} MiB of room left, and"
            f" {wanted_bytes / _MIB:.1f} MiB would be needed",
            hint="free room there, or choose another pool or host",
        )


@dataclass(frozen=True)
class Stock:
    """So much of something is needed in all, and so much is there."""

    what: str
    """In words, as they follow a number: ``shared virtual CPUs``."""
    needed: int
    there: int


def require_stock(stocks: Iterable[Stock]) -> None:
    """Refuse what the host has not.

    Raises:
        InsufficientResources: of one of these too little is there.
    """
    for stock in stocks:
        if stock.needed > stock.there:
            raise errors.InsufficientResources(
                f"the host has {stock.there} {stock.what}, and {stock.needed} would be needed",
                hint="choose a smaller flavor or another host, or free what others have",
            )


# ---- slots and names -----------------------------------------------------------------------------


def device_names(prefix: str) -> Iterator[str]:
    """The names that a Linux guest gives to disks of one kind: vda … vdz, vdaa …

    Args:
        prefix: ``vd``, ``sd`` or ``hd``.
    """
    number = 0
    while True:
        letters, rest = "", number
        while rest >= 0:
            rest, digit = divmod(rest, 26)
            letters = chr(ord("a") + digit) + letters
            rest -= 1
        yield prefix + letters
        number += 1


def free_name(prefix: str, taken: Collection[str]) -> str:
    """The first device name that is not taken."""
    return next(name for name in device_names(prefix) if name not in taken)


def free_slot(
    taken: Mapping[int, Collection[int]],
    *,
    controllers: int,
    units: Collection[int],
    what: str = "disks",
) -> tuple[int, int]:
    """The first free place on the controllers of one kind.

    Args:
        taken: the units that are taken, by the number of each controller that the machine has.
        controllers: how many the machine may have.
        units: the units of a controller; leave out what is reserved (unit 7 of a SCSI adapter).
        what: what takes the place, for the message.

    Returns:
        The numbers of the controller and of the unit. Controllers that the machine has are filled
        first; the controller may be one that it does not have yet.

    Raises:
        InsufficientResources: all places are taken.
    """
    new = [number for number in range(controllers) if number not in taken]
    for number in [*sorted(taken), *new]:
        for unit in units:
            if unit not in taken.get(number, ()):
                return number, unit
    raise errors.InsufficientResources(
        f"the machine has {controllers * len(units)} {what}, and no slot for another",
        hint=SHARE_OUT,
    )


# ---- what others have ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Holder:
    """A powered-on machine that has something."""

    machine: UUID
    shares: bool = False
    """It was attached as multiattach."""


def require_volume_free(volume_id: str, others: Iterable[Holder], *, shares: bool) -> None:
    """Refuse a volume that another machine has.

    Args:
        others: who has it, among the other machines that are powered on. One with the same UUID
            on another host is another machine.
        shares: it is to be attached as multiattach.

    Raises:
        DeviceBusy: another machine has it, and one of the two does not share it.
    """
    for holder in others:
        if not (shares and holder.shares):
            raise errors.DeviceBusy(
                f"volume {volume_id!r} is in use by machine {holder.machine}",
                hint="detach it there, or attach it as multiattach to all",
            )


def require_port_free(vif_id: str, others: Iterable[Holder]) -> None:
    """Refuse a port, its MAC address or its device that another machine has.

    Args:
        vif_id: for the message. (Only an id that is a UUID names a port: ``Vif.port_id``.)
        others: who has it, among the other machines that are powered on.

    Raises:
        DeviceBusy: another machine that is powered on has it.
    """
    for holder in others:
        raise errors.DeviceBusy(
            f"port {vif_id!r} or its MAC address is in use by machine {holder.machine}",
            hint="unplug_vif() it there, or power_off() that machine",
        )
