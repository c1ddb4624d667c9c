"""PCI devices of a host, and slices of its GPUs, that a new machine gets.

An address names a device of one host, so this is for a single host: ESXi, or a vCenter's host that
is in no cluster, or alone in one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from pyVmomi import vim

from hvdrivers.contract import errors
from hvdrivers.hints import DEVICES, OTHER_DEVICE, OTHER_SLICE
from hvdrivers.models.instance import Firmware, InstanceSpec, VgpuRequest
from hvdrivers.models.pci import PciAddress
from hvdrivers.models.resources import MediatedType
from hvdrivers.vmware.config import VmwareConfig
from hvdrivers.vmware.devices import adding
from hvdrivers.vmware.gpu_slices import Gpu, Profiles, gpus_of, profiles_in, slices_in
from hvdrivers.vmware.host_devices import (
    DEVICES_OF_A_HOST,
    device_at,
    is_passed,
    passed_devices,
)
from hvdrivers.vmware.machines import Machines, uuid_in
from hvdrivers.vmware.place import Places
from hvdrivers.vmware.reader import Reader, Row
from hvdrivers.vmware.specs import Plan, reserve_memory

_MOST, _MOST_SLICES = 16, 8
"""PCI devices of one machine, and slices of GPUs ("Configuration Maximums", 8.0)."""
_DISPLAY = frozenset({0x03, 0x12})
"""PCI base classes of GPUs: display controllers, processing accelerators."""
_Pci = vim.vm.device.VirtualPCIPassthrough


TYPES, BROWSER = "config.sharedPassthruGpuTypes", "environmentBrowser"
"""What slices() is told of a host, and of what it is alone in."""
_HARDWARE = "config.hardware.device"


def host_and_target(
    reader: Reader, host: Any, compute: Any, paths: Sequence[str]
) -> tuple[Row, Any]:
    """These properties of a host, and what it can give machines (``ConfigTarget``), which it may
    not say. 2 calls."""
    rows = reader.read(
        [(vim.HostSystem, paths), (vim.ComputeResource, (BROWSER,))], [(host, ()), (compute, ())]
    )
    found = next(row for row in rows if isinstance(row.obj, vim.HostSystem))
    browser = next(row for row in rows if isinstance(row.obj, vim.ComputeResource))
    return found, browser[BROWSER].QueryConfigTarget(host)


@dataclass(frozen=True)
class Passed:
    """A device, or a slice of one, that a machine gets."""

    backing: Any
    is_gpu: bool


@dataclass(frozen=True)
class Found:
    """What a new machine gets, and the host that has it."""

    devices: tuple[Passed, ...] = ()
    host: Row | None = None
    profiles: Profiles | None = None


class Passthrough:
    """Finds devices of the host for machines."""

    def __init__(
        self, config: VmwareConfig, reader: Reader, places: Places, machines: Machines
    ) -> None:
        self._config = config
        self._reader = reader
        self._places = places
        self._machines = machines
        self._types: frozenset[str] | None = None
        """The profiles that the host had when they were asked for; None: nobody has asked."""
        self._profiles = Profiles({}, {})

    @property
    def paths(self) -> tuple[str, ...]:
        """What slices() wants to know of each machine."""
        wanted = self._places.get().only_host is not None and self._types != frozenset()
        return (_HARDWARE,) if wanted else ()

    def slices(
        self, host: Row, compute: Row, machines: Sequence[Row]
    ) -> dict[str, tuple[MediatedType, ...]]:
        """What the GPUs of a single host can be cut into, by the server's ids of the devices. No
        call; 1 when the host has other profiles than before.

        Args:
            host: has ``TYPES`` and ``DEVICES_OF_A_HOST``.
            compute: has ``BROWSER``.
            machines: all machines, with ``paths``.
        """
        types = frozenset(host.get(TYPES) or ())
        if types and types != self._types:
            self._profiles = profiles_in(compute[BROWSER].QueryConfigTarget(host.obj))
            if self._types == frozenset():
                machines = self._machines.rows(_HARDWARE)  # there was no reason to read it before
        self._types = types
        if not types:
            return {}
        gpus = gpus_of(host, self._profiles, _holders(machines))
        return {each.id: each.types() for each in gpus}

    def find(self, spec: InstanceSpec) -> Found:
        """The devices and slices that a spec names. 3 calls; none if it names none.

        Raises:
            InsufficientResources: one is not there, not for machines, or another machine's.
            NotSupported: the machine is to have what vSphere does not give beside one.
        """
        if not spec.pci_devices and not spec.vgpus:
            return Found()
        if spec.flavor.max_memory_mib is not None:
            raise errors.NotSupported(
                "vSphere adds no memory to a running machine that has a PCI device of its host",
                hint="leave max_memory_mib out",
            )
        addresses = [each.address for each in spec.pci_devices]
        for address in addresses:
            if addresses.count(address) > 1:
                raise errors.InsufficientResources(
                    f"the PCI device {address} is asked for twice", hint="name it once"
                )
        if len(addresses) > _MOST or len(spec.vgpus) > _MOST_SLICES:
            raise errors.InsufficientResources(
                f"a machine has at most {_MOST} PCI devices, and {_MOST_SLICES} slices of GPUs",
                hint="share them out between several machines",
            )
        place = self._places.get()
        only = place.only_host
        if only is None:
            raise errors.NotSupported(
                "a cluster of several hosts shows no devices of theirs",
                hint="connect to a single host; or leave pci_devices and vgpus out",
            )
        host, target = host_and_target(self._reader, only, place.compute, DEVICES_OF_A_HOST)
        others = self._others(spec.uuid)
        profiles = profiles_in(target)
        devices = [
            *self._whole(addresses, host, target, _addresses(others)),
            *_slices(spec.vgpus, gpus_of(host, profiles, _holders(others))),
        ]
        return Found(tuple(devices), host, profiles)

    def _whole(
        self, addresses: Sequence[PciAddress], host: Row, target: Any, taken: set[PciAddress]
    ) -> Iterator[Passed]:
        infos = (target.pciPassthrough if target is not None else None) or ()
        systems = {each.pciDevice.id: each.systemId for each in infos}
        for address in addresses:
            device, info = device_at(host, address)
            if device is None:
                raise errors.InsufficientResources(
                    f"the host has no PCI device {address}", hint=DEVICES
                )
            if not is_passed(info) or device.id not in systems:
                raise errors.InsufficientResources(
                    f"the PCI device {address} is not for machines",
                    hint="let its administrator enable passthrough for it, and start the host anew",
                )
            if address in taken:
                raise errors.InsufficientResources(
                    f"another machine has the PCI device {address}", hint=OTHER_DEVICE
                )
            yield _passed(device, systems[device.id])

    def require_alone(self, spec: InstanceSpec, found: Found) -> None:
        """Look once more, when the machine is there: of two spawns at the same moment, each may
        have found a device free. 1 call; none without devices.

        Raises:
            InsufficientResources: another machine has one of its devices now.
        """
        if found.host is None or found.profiles is None:
            return
        others = self._others(spec.uuid)
        if _addresses(others) & {each.address for each in spec.pci_devices}:
            raise errors.InsufficientResources(
                "another machine has got a PCI device of this one at the same moment",
                hint=OTHER_DEVICE,
            )
        _slices(spec.vgpus, gpus_of(found.host, found.profiles, _holders(others)))

    def _others(self, uuid: UUID) -> list[Row]:
        """The other machines, also those that are off. One call."""
        rows = self._machines.rows("config.instanceUuid", _HARDWARE)
        return [row for row in rows if uuid_in(row) != uuid]

    def fit(self, config: Any, plan: Plan, spec: InstanceSpec, found: Found) -> None:
        """Give the devices to a machine that is to be made. vSphere starts it only with all of its
        memory reserved."""
        if not found.devices:
            return
        for each in found.devices:
            config.deviceChange.append(adding(_Pci(key=plan.slots.key(), backing=each.backing)))
        reserve_memory(config, spec.flavor)
        gpus = sum(each.is_gpu for each in found.devices)
        if gpus and spec.firmware is Firmware.UEFI:
            # a GPU's memory does not fit below 4 GiB (VMware's guides for compute accelerators)
            size = gpus * self._config.gpu_mmio_gib
            config.extraConfig += [
                vim.option.OptionValue(key="pciPassthru.use64bitMMIO", value="TRUE"),
                vim.option.OptionValue(key="pciPassthru.64bitMMIOSizeGB", value=str(size)),
            ]


def _addresses(machines: Sequence[Row]) -> set[PciAddress]:
    """The addresses of the devices that machines have."""
    found = set()
    for row in machines:
        for each in passed_devices(row.get(_HARDWARE) or ()):
            with suppress(ValueError):  # one that the server chooses at each start
                found.add(PciAddress(getattr(each.backing, "id", None) or ""))
    return found


def _holders(machines: Sequence[Row]) -> Iterator[tuple[str, list[str]]]:
    """The machines that have slices, with the profiles."""
    for row in machines:
        if names := slices_in(row.get(_HARDWARE) or ()):
            yield row.moid, names


def _slices(wanted: Sequence[VgpuRequest], gpus: Sequence[Gpu]) -> list[Passed]:
    """The slices that a machine gets.

    Raises:
        InsufficientResources: there is none left.
        NotSupported: the GPU is named, where the server chooses among several.
    """
    found = []
    for each in wanted:
        able = [gpu for gpu in gpus if each.type in gpu.sizes]
        if each.parent is not None:
            there = [gpu for gpu in able if gpu.address == each.parent]
            if there and len(able) > 1:
                raise errors.NotSupported(
                    "vSphere chooses the GPU of a slice itself, and the host has several for it",
                    hint="leave parent= out",
                )
            able = there
        if not any(gpu.take(each.type) for gpu in able):
            raise errors.InsufficientResources(
                f"no GPU has a slice of the type {each.type} left", hint=OTHER_SLICE
            )
        found.append(Passed(_Pci.VmiopBackingInfo(vgpu=each.type), is_gpu=True))
    return found


def _passed(device: Any, system: str) -> Passed:
    backing = _Pci.DeviceBackingInfo(
        deviceName=device.deviceName or "",
        id=device.id,
        # "converted as is to a string", a negative one too
        deviceId=str(device.deviceId),
        systemId=system,
        vendorId=device.vendorId,
    )
    return Passed(backing, (device.classId & 0xFFFF) >> 8 in _DISPLAY)
