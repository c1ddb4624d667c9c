"""NUMA cells and PCI devices of a single host, as resources. No call is made here.

A cluster has none of its own: they are inside its hosts, and an address names nothing in it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pyVmomi import vim

from hvdrivers.contract import errors
from hvdrivers.models.pci import PciAddress
from hvdrivers.models.resources import MediatedType, NumaCell, PciDevice
from hvdrivers.models.state import InstanceState
from hvdrivers.vmware.reader import Row

_log = logging.getLogger(__name__)
_MIB = 1 << 20
PCI, PASSTHROUGH = "hardware.pciDevice", "config.pciPassthruInfo"
_NUMA, GRAPHICS = "hardware.numaInfo", "config.graphicsInfo"
DEVICES_OF_A_HOST = (PCI, PASSTHROUGH, _NUMA, GRAPHICS)
"""What is read of a host."""


def cells_of(host: Row) -> tuple[NumaCell, ...]:
    """Its NUMA cells."""
    return tuple(
        NumaCell(
            id=int(node.typeId),
            cpus=frozenset(int(cpu) for cpu in node.cpuID or ()),
            # memorySize is there since 8.0
            memory_mib=int(node.memorySize or node.memoryRangeLength or 0) // _MIB,
        )
        for node in _nodes(host)
    )


def _nodes(host: Row) -> Sequence[Any]:
    info = host.get(_NUMA)
    return (info.numaNode if info is not None else None) or ()


def devices_of(
    host: Row, slices: Mapping[str, tuple[MediatedType, ...]] = MappingProxyType({})
) -> tuple[PciDevice, ...]:
    """Its PCI devices. Those for machines have been passed through by the administrator, and the
    host has been started since.

    Args:
        slices: what GPUs can be cut into, by the server's ids of the devices.
    """
    cells = {text: int(node.typeId) for node in _nodes(host) for text in node.pciId or ()}
    passed = {each.id: each for each in host.get(PASSTHROUGH) or ()}
    cards = {each.pciId: each for each in host.get(GRAPHICS) or ()}
    found = []
    for each in host.get(PCI) or ():
        try:
            made = _device(each, passed.get(each.id), cards.get(each.id), cells.get(each.id))
        except ValueError as error:
            _log.warning("a PCI device of the host cannot be read: %s", error)
            continue
        found.append(made.model_copy(update={"mediated_types": slices.get(each.id, ())}))
    return tuple(found)


def _device(device: Any, passed: Any, card: Any, cell: int | None) -> PciDevice:
    name = device.deviceName or (card.deviceName if card is not None else "") or ""
    return PciDevice(
        address=PciAddress(device.id),
        vendor_id=f"{device.vendorId & 0xFFFF:04x}",
        product_id=f"{device.deviceId & 0xFFFF:04x}",
        class_code=f"{device.classId & 0xFFFF:04x}00",
        label=f"{device.vendorName} {name}".strip(),
        for_guests=is_passed(passed),
        numa_cell=cell,
        # HostSriovInfo, where the device has virtual functions
        max_virtual_functions=int(getattr(passed, "maxVirtualFunctionSupported", None) or 0),
    )


def is_passed(info: Any) -> bool:
    """Whether a device is for machines: enabled, and active since the host has started."""
    return info is not None and bool(info.passthruEnabled and info.passthruActive)


def device_at(host: Row, address: PciAddress) -> tuple[Any, Any]:
    """A PCI device and what the host says of its passthrough; None where there is none."""
    for each in host.get(PCI) or ():
        try:
            matches = PciAddress(each.id) == address
        except ValueError:
            continue
        if matches:
            infos = host.get(PASSTHROUGH) or ()
            return each, next((info for info in infos if info.id == each.id), None)
    return None, None


def passed_devices(hardware: Sequence[Any]) -> list[Any]:
    """The devices of a machine that its host has passed to it."""
    return [
        each for each in hardware or () if isinstance(each, vim.vm.device.VirtualPCIPassthrough)
    ]


def cards_with_functions(hardware: Sequence[Any]) -> list[Any]:
    """The NICs of a machine that have a virtual function of its host's adapter, or get one at the
    next start."""
    return [
        each for each in hardware or () if isinstance(each, vim.vm.device.VirtualSriovEthernetCard)
    ]


def refuse_with_functions(hardware: Sequence[Any], what: str) -> None:
    """Refuse what vSphere does not do with a machine that has a NIC with a virtual function
    ("Features Not Available with SR-IOV").

    Raises:
        NotSupported: it has one.
    """
    if cards_with_functions(hardware):
        raise errors.NotSupported(
            f"vSphere {what} no machine that has a NIC with a virtual function (SR-IOV)",
            hint="power_off() keeps its disks; unplug the NIC, or plug it without sriov",
        )


def refuse_with_devices(hardware: Sequence[Any], what: str) -> None:
    """Refuse what vSphere does not do with a machine that has a device of its host ("vSphere
    Features Not Available with DirectPath I/O"), or a NIC with a virtual function of one.

    Raises:
        NotSupported: it has one.
    """
    refuse_with_functions(hardware, what)
    if passed_devices(hardware):
        raise errors.NotSupported(
            f"vSphere {what} no machine that has a PCI device of its host",
            hint="power_off() keeps its disks; a machine without the device has it all",
        )


def refuse_hot_plug(hardware: Sequence[Any], state: InstanceState) -> None:
    """Refuse devices that come or go while a machine runs that has a device of its host whole: the
    documentation names "hot adding and removing of virtual devices" among what is not there with
    DirectPath I/O, and with SR-IOV. With slices of a GPU the server decides.

    Raises:
        NotSupported: it has one, and is not stopped.
    """
    slices = vim.vm.device.VirtualPCIPassthrough.VmiopBackingInfo
    whole = [each for each in passed_devices(hardware) if not isinstance(each.backing, slices)]
    if (whole or cards_with_functions(hardware)) and state is not InstanceState.STOPPED:
        raise errors.NotSupported(
            "vSphere adds and removes no devices while a machine runs that has a PCI device of its"
            " host, or a NIC with a virtual function",
            hint="power_off() first",
        )
