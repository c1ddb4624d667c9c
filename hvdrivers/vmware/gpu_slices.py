"""Slices of GPUs (vGPU): what each GPU of a host can still be cut into. No call is made here.

vSphere tells which profiles a host has, the memory of each, and how much a GPU can give
(``ConfigTarget``, since 7.0.3). A GPU that is time-sliced takes profiles of one size, or of mixed
sizes where its administrator has set that mode. GPUs in MIG mode are left out: how many slices they
take does not follow from the memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyVmomi import vim

from hvdrivers.models.pci import PciAddress
from hvdrivers.models.resources import MediatedType
from hvdrivers.vmware.host_devices import GRAPHICS, PCI, passed_devices
from hvdrivers.vmware.reader import Row

_SHARED = "sharedDirect"
_MIXED, _MIG = "mixedSize", "multiInstanceGpu"
_TIME_SLICED = "timeSliced"
_Slice = vim.vm.device.VirtualPCIPassthrough.VmiopBackingInfo


@dataclass(frozen=True)
class Profiles:
    """What a host's driver of its GPUs offers."""

    sizes: Mapping[int, Mapping[str, int]]
    """GiB of each profile by its name, by the id of the model of GPU."""
    most: Mapping[int, int]
    """GiB that a GPU gives, by the id of its model."""


def profiles_in(target: Any) -> Profiles:
    """The profiles in a ConfigTarget, which may be None."""
    sizes: dict[int, dict[str, int]] = {}
    for each in (target.vgpuProfileInfo if target is not None else None) or ():
        if each.profileSharing == _TIME_SLICED and each.fbSizeInGib > 0:
            sizes.setdefault(each.deviceVendorId, {})[each.profileName] = int(each.fbSizeInGib)
    devices = (target.vgpuDeviceInfo if target is not None else None) or ()
    return Profiles(sizes, {each.deviceVendorId: int(each.maxFbSizeInGib) for each in devices})


def slices_in(hardware: Sequence[Any]) -> list[str]:
    """The profiles of a machine's slices."""
    return [
        each.backing.vgpu
        for each in passed_devices(hardware)
        if isinstance(each.backing, _Slice) and each.backing.vgpu
    ]


@dataclass
class Gpu:
    """A GPU that is cut into slices, and the sizes of those that are taken."""

    id: str
    sizes: Mapping[str, int]
    most: int
    mixed: bool
    machines: frozenset[str]
    """Ids of the machines that use it now."""
    taken: list[int] = field(default_factory=list)

    def left(self, name: str) -> int:
        """How many more slices of a profile it takes."""
        size = self.sizes.get(name)
        if size is None:
            return 0
        if self.taken and not self.mixed and size not in self.taken:
            return 0
        return max(0, self.most - sum(self.taken)) // size

    def take(self, name: str) -> bool:
        """Take one, if there is one left."""
        if not self.left(name):
            return False
        self.taken.append(self.sizes[name])
        return True

    @property
    def address(self) -> PciAddress:
        """Where it is."""
        return PciAddress(self.id)

    def types(self) -> tuple[MediatedType, ...]:
        """Its profiles in the words of the contract."""
        return tuple(
            MediatedType(name=name, available=self.left(name), total=self.most // size)
            for name, size in sorted(self.sizes.items())
            if size <= self.most
        )


def gpus_of(
    host: Row, profiles: Profiles, holders: Iterable[tuple[str, Sequence[str]]]
) -> list[Gpu]:
    """The GPUs of a host.

    Args:
        holders: the machines with slices: their ids, and the profiles of the slices. One that is
            off has no GPU yet, and is counted for the first that has room.
    """
    models = {
        each.id: (each.vendorId & 0xFFFF) | (each.deviceId & 0xFFFF) << 16
        for each in host.get(PCI) or ()
    }
    found = [
        Gpu(
            id=card.pciId,
            sizes=profiles.sizes.get(models[card.pciId], {}),
            most=profiles.most.get(models[card.pciId], 0),
            mixed=card.vgpuMode == _MIXED,
            machines=frozenset(str(each._moId) for each in card.vm or ()),
        )
        for card in host.get(GRAPHICS) or ()
        if card.graphicsType == _SHARED and card.vgpuMode != _MIG and card.pciId in models
    ]
    waiting = [(moid, name) for moid, names in holders for name in names]
    # those that run say where they are, so they come first
    for moid, name in sorted(
        waiting, key=lambda each: not any(each[0] in g.machines for g in found)
    ):
        here = [gpu for gpu in found if moid in gpu.machines] or found
        any(gpu.take(name) for gpu in here)
    return found
