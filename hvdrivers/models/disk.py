"""An instance's own disks, where the caller does not leave them to the driver."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from hvdrivers.limits import MOST_MIB
from hvdrivers.models.base import Identifier, Model
from hvdrivers.models.volume.attachment import DiskBus


class DiskRole(StrEnum):
    """What a disk is for."""

    ROOT = "root"
    EPHEMERAL = "ephemeral"
    SWAP = "swap"


class FileSystem(StrEnum):
    """What a disk is formatted with."""

    EXT4 = "ext4"
    XFS = "xfs"
    VFAT = "vfat"
    NTFS = "ntfs"


class OwnDisk(Model):
    """One disk of the instance's own: it lives and dies with the instance.

    Each field but ``role`` is optional, and refused by a driver that does not take it
    (``driver.takes``).
    """

    role: DiskRole
    size_mib: Annotated[int, Field(ge=1, lt=MOST_MIB)] | None = None
    """Of an ephemeral disk, MiB; together they have the flavor's ``ephemeral_gib``. None: all of
    that, for the only one. The flavor has the sizes of root and swap."""
    file_system: FileSystem | None = None
    """An ephemeral disk is formatted with it. None: it is empty."""
    label: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,11}$")] | None = None
    """Of the file system, or of the swap area. Eleven characters are what VFAT takes."""
    bus: DiskBus | None = None
    """None: ``Hardware.disk_bus``, or what the driver prefers."""
    kept: Identifier | None = None
    """The id of a host volume that becomes this disk, with what is on it: what destroy(keep=) has
    left of another instance. It is no host volume from then on."""

    @model_validator(mode="after")
    def _fits_its_role(self) -> Self:
        if self.size_mib is not None and self.role is not DiskRole.EPHEMERAL:
            raise ValueError("size_mib is of an ephemeral disk: the flavor has the other sizes")
        if self.file_system is not None and self.role is not DiskRole.EPHEMERAL:
            raise ValueError("file_system is of an ephemeral disk")
        if self.label is not None and self.role is DiskRole.EPHEMERAL and self.file_system is None:
            raise ValueError("label needs file_system")
        if self.label is not None and self.role is DiskRole.ROOT:
            raise ValueError("the image has labelled the root disk")
        if self.kept is not None and (self.file_system is not None or self.label is not None):
            raise ValueError("a kept disk is not formatted anew: leave file_system and label out")
        return self


def check_disks(disks: tuple[OwnDisk, ...], *, ephemeral_gib: int, swap_mib: int) -> None:
    """Check the disks of one spec against its flavor.

    Raises:
        ValueError: there are two of a kind that there is one of, or the sizes differ.
    """
    by_role = {role: [each for each in disks if each.role is role] for role in DiskRole}
    for role in (DiskRole.ROOT, DiskRole.SWAP):
        if len(by_role[role]) > 1:
            raise ValueError(f"there is one {role} disk")
    if by_role[DiskRole.SWAP] and not swap_mib:
        raise ValueError("a swap disk needs the flavor's swap_mib")
    ephemeral = by_role[DiskRole.EPHEMERAL]
    if not ephemeral:
        return
    if len(ephemeral) == 1 and ephemeral[0].size_mib is None and ephemeral_gib:
        return
    if sum(each.size_mib or 0 for each in ephemeral) != ephemeral_gib << 10 or not all(
        each.size_mib for each in ephemeral
    ):
        raise ValueError(
            "each ephemeral disk needs size_mib, and together they have the flavor's"
            f" ephemeral_gib, {ephemeral_gib}"
        )


def disk_name(role: DiskRole, number: int) -> str:
    """``root``, ``ephemeral``, ``ephemeral-1``, ``swap``: the name of one among those of its role,
    in the order of the spec. What destroy() keeps is named ``<uuid>-<this>``."""
    return f"{role.value}-{number}" if number else role.value
