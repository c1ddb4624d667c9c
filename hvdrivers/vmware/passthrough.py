"""PCI devices of a host that a new machine gets.

An address names a device of one host, so this is for a single host: ESXi, or a vCenter's host that
is in no cluster, or alone in one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from pyVmomi import vim

from hvdrivers.contract import errors
from hvdrivers.models.instance import Firmware, InstanceSpec
from hvdrivers.models.pci import PciAddress
from hvdrivers.vmware.config import VmwareConfig
from hvdrivers.vmware.devices import adding
from hvdrivers.vmware.host_devices import (
    DEVICES_OF_A_HOST,
    device_at,
    is_passed,
    passed_devices,
)
from hvdrivers.vmware.machines import Machines, uuid_in
from hvdrivers.vmware.place import Places
from hvdrivers.vmware.reader import Reader
from hvdrivers.vmware.specs import Plan

_MOST = 16
"""PCI devices of one machine ("Configuration Maximums", 7.0 and later)."""
_DISPLAY = frozenset({0x03, 0x12})
"""PCI base classes of GPUs: display controllers, processing accelerators."""
_Pci = vim.vm.device.VirtualPCIPassthrough


@dataclass(frozen=True)
class Passed:
    """A device that a machine gets."""

    backing: Any
    is_gpu: bool


class Passthrough:
    """Finds devices of the host for machines."""

    def __init__(
        self, config: VmwareConfig, reader: Reader, places: Places, machines: Machines
    ) -> None:
        self._config = config
        self._reader = reader
        self._places = places
        self._machines = machines

    def find(self, spec: InstanceSpec) -> Sequence[Passed]:
        """The devices that a spec names. 3 calls; none if it names none.

        Raises:
            InsufficientResources: one is not there, not for machines, or another machine's.
            NotSupported: the machine is to have what vSphere does not give beside one.
        """
        if not spec.pci_devices:
            return ()
        if spec.flavor.max_memory_mib is not None:
            raise errors.NotSupported(
                "vSphere adds no memory to a running machine that has a PCI device of its host",
                hint="leave max_memory_mib out",
            )
        addresses = [each.address for each in spec.pci_devices]
        for address in addresses:
            if addresses.count(address) > 1:
                raise errors.InsufficientResources(f"the PCI device {address} is asked for twice")
        if len(spec.pci_devices) > _MOST:
            raise errors.InsufficientResources(f"a machine has at most {_MOST} PCI devices")
        place = self._places.get()
        host, compute = place.only_host, place.compute
        if host is None:
            raise errors.NotSupported("an address names no device of a cluster")
        rows = self._reader.read(
            [(vim.HostSystem, DEVICES_OF_A_HOST), (vim.ComputeResource, ("environmentBrowser",))],
            [(host, ()), (compute, ())],
        )
        hardware = next(row for row in rows if isinstance(row.obj, vim.HostSystem))
        browser = next(row for row in rows if isinstance(row.obj, vim.ComputeResource))
        target = browser["environmentBrowser"].QueryConfigTarget(host)
        systems = {
            each.pciDevice.id: each.systemId
            for each in (target.pciPassthrough if target is not None else None) or ()
        }
        taken = self._taken(spec.uuid)
        found = []
        for address in addresses:
            device, info = device_at(hardware, address)
            if device is None:
                raise errors.InsufficientResources(f"the host has no PCI device {address}")
            if not is_passed(info) or device.id not in systems:
                raise errors.InsufficientResources(
                    f"the PCI device {address} is not for machines",
                    hint="let its administrator enable passthrough for it, and start the host anew",
                )
            if address in taken:
                raise errors.InsufficientResources(f"another machine has the PCI device {address}")
            found.append(_passed(device, systems[device.id]))
        return found

    def require_alone(self, spec: InstanceSpec) -> None:
        """Look once more, when the machine is there: of two spawns at the same moment, each may
        have found a device free. 1 call; none without devices.

        Raises:
            InsufficientResources: another machine has one of its devices now.
        """
        if not spec.pci_devices:
            return
        twice = self._taken(spec.uuid) & {each.address for each in spec.pci_devices}
        if twice:
            raise errors.InsufficientResources(
                f"another machine has got the PCI device {min(twice)} at the same moment"
            )

    def _taken(self, without: UUID) -> set[PciAddress]:
        """The addresses of devices that other machines have, also those that are off. One call."""
        taken = set()
        for row in self._machines.rows("config.instanceUuid", "config.hardware.device"):
            if uuid_in(row) == without:
                continue
            for each in passed_devices(row.get("config.hardware.device")):
                try:
                    taken.add(PciAddress(getattr(each.backing, "id", None) or ""))
                except ValueError:
                    continue  # a device that the server chooses at each start
        return taken

    def fit(self, config: Any, plan: Plan, spec: InstanceSpec, devices: Sequence[Passed]) -> None:
        """Give the devices to a machine that is to be made. vSphere starts it only with all of its
        memory reserved."""
        if not devices:
            return
        for each in devices:
            config.deviceChange.append(adding(_Pci(key=plan.slots.key(), backing=each.backing)))
        config.memoryReservationLockedToMax = True
        config.memoryAllocation = vim.ResourceAllocationInfo(reservation=spec.flavor.memory_mib)
        gpus = sum(each.is_gpu for each in devices)
        if gpus and spec.firmware is Firmware.UEFI:
            # a GPU's memory does not fit below 4 GiB (VMware's guides for compute accelerators)
            size = gpus * self._config.gpu_mmio_gib
            config.extraConfig += [
                vim.option.OptionValue(key="pciPassthru.use64bitMMIO", value="TRUE"),
                vim.option.OptionValue(key="pciPassthru.64bitMMIOSizeGB", value=str(size)),
            ]


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
