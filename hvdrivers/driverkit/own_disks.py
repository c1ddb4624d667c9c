"""The disks of its own that an instance shall have, its seed disc, and what destroy() leaves."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from hvdrivers.cloudinit import build_seed
from hvdrivers.contract import errors
from hvdrivers.models.disk import DiskRole, OwnDisk, disk_name
from hvdrivers.models.instance import InstanceSpec, Keep
from hvdrivers.models.seed import SeedDisc

__all__ = ["WantedDisk", "disc_of", "keeps", "seed_of", "wanted_disks"]

_GIB = 1 << 30
_MIB = 1 << 20
_KEPT = {
    Keep.ROOT_DISK: re.compile("root"),
    Keep.EPHEMERAL_DISKS: re.compile(r"ephemeral(-\d+)?"),
    Keep.SWAP_DISK: re.compile("swap"),
}


@dataclass(frozen=True)
class WantedDisk:
    """One of the disks that an instance shall have."""

    name: str
    """``root``, ``ephemeral``, ``ephemeral-1``, ``swap``."""
    size: int
    """Bytes. For the root disk it is the size in the flavor. There 0 means: as large as the image,
    or the kept disk, that it is made from."""
    wish: OwnDisk
    """What the caller asked for, beside the size."""


def wanted_disks(spec: InstanceSpec) -> list[WantedDisk]:
    """The disks of a spec in the order in which the guest sees them: those that the caller names,
    and those that the flavor asks for and the caller does not name."""
    flavor, wishes = spec.flavor, list(spec.disks)
    for role, wanted in (
        (DiskRole.ROOT, spec.image is not None),
        (DiskRole.EPHEMERAL, flavor.ephemeral_gib > 0),
        (DiskRole.SWAP, flavor.swap_mib > 0),
    ):
        if wanted and not any(each.role is role for each in wishes):
            wishes.append(OwnDisk(role=role))
    roles = list(DiskRole)
    counts: Counter[DiskRole] = Counter()
    found = []
    for wish in sorted(wishes, key=lambda each: roles.index(each.role)):
        sizes = {
            DiskRole.ROOT: flavor.disk_gib * _GIB,
            DiskRole.EPHEMERAL: (wish.size_mib or flavor.ephemeral_gib << 10) * _MIB,
            DiskRole.SWAP: flavor.swap_mib * _MIB,
        }
        found.append(WantedDisk(disk_name(wish.role, counts[wish.role]), sizes[wish.role], wish))
        counts[wish.role] += 1
    return found


def keeps(keep: Keep, name: str) -> bool:
    """Whether destroy() with this ``keep`` leaves the disk of this name."""
    return _KEPT[keep].fullmatch(name) is not None


def seed_of(spec: InstanceSpec) -> bytes | None:
    """The disc that a new machine finds its first configuration on; None for none.

    Raises:
        InvalidRequest: as disc_of().
    """
    if spec.seed is not None:
        return disc_of(spec.seed)
    if spec.cloud_init is not None:
        return build_seed(spec.cloud_init, uuid=spec.uuid, name=spec.name)
    return None


def disc_of(seed: SeedDisc) -> bytes:
    """The content of a seed disc.

    Raises:
        InvalidRequest: its file cannot be read.
    """
    try:
        return seed.read()
    except (OSError, ValueError) as error:
        raise errors.InvalidRequest(
            f"the seed disc cannot be used: {error}",
            hint="SeedDisc(path=) names a file of this machine, of 512 bytes to 64 MiB",
        ) from error
