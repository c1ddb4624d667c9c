"""The sizes that Hyper-V gives."""

from __future__ import annotations

from typing import Final

from hvdrivers.contract import errors
from hvdrivers.models.instance import Flavor

_LEAST_MIB: Final = 32
_MOST_MIB: Final = 240 << 20
"""A machine of generation 2 on Windows Server 2025. Older hosts refuse more than 12 TiB."""
_MOST_GIB: Final = 64 << 10
"""The largest VHDX."""


def check_size(flavor: Flavor) -> None:
    """Refuse what Hyper-V would.

    Raises:
        InvalidRequest: the memory is no multiple of 2 MiB, or too little.
        InsufficientResources: more memory, or a larger disk, than any host has.
    """
    if flavor.memory_mib % 2 or flavor.memory_mib < _LEAST_MIB:
        raise errors.InvalidRequest(
            f"Hyper-V gives memory in steps of 2 MiB, and at least {_LEAST_MIB} MiB",
            hint="choose an even number of MiB",
        )
    if flavor.memory_mib > _MOST_MIB:
        raise errors.InsufficientResources(
            "Hyper-V gives no machine so much memory", hint="choose a smaller flavor"
        )
    largest = max(flavor.disk_gib, flavor.ephemeral_gib, flavor.swap_mib >> 10)
    if largest > _MOST_GIB:
        raise errors.InsufficientResources(
            "no virtual disk of Hyper-V is larger than 64 TiB",
            hint="choose a smaller flavor; create_volume() and attach_volume() give more disks",
        )
