"""What another flavor may not change of a stopped machine: for resize(), and for moves in steps."""

from __future__ import annotations

from hvdrivers import hints
from hvdrivers.contract import errors
from hvdrivers.libvirt.metadata import Record
from hvdrivers.libvirt.sizes import huge_page_of
from hvdrivers.models.instance import Flavor


def refuse_placed(record: Record, after: Flavor) -> None:
    """Raise InvalidRequest where the caller has placed, or shaped, another size."""
    before = record.flavor
    if record.numa and _shape(before) != _shape(after):
        raise errors.InvalidRequest(
            "the instance has a NUMA placement for the size that it has",
            hint="spawn() another one, placed anew",
        )
    topology = record.hardware.cpu_topology
    if topology is not None and topology.cpus != (after.max_vcpus or after.vcpus):
        raise errors.InvalidRequest(
            f"the instance has a CPU topology for {topology.cpus} CPUs",
            hint="choose a flavor with as many",
        )


def refuse_other_disks(before: Flavor, after: Flavor) -> None:
    """Raise InvalidRequest if a flavor has another ephemeral or swap disk."""
    if (before.ephemeral_gib, before.swap_mib) != (after.ephemeral_gib, after.swap_mib):
        raise errors.InvalidRequest(
            "the ephemeral or swap disk would change",
            hint=hints.SAME_DISKS,
        )


def _shape(flavor: Flavor) -> tuple[int, int, int | None]:
    return flavor.vcpus, flavor.memory_mib, huge_page_of(flavor)
