"""PCI devices of the host, as libvirt describes them. https://libvirt.org/formatnode.html"""

from __future__ import annotations

from hvdrivers.contract import errors
from hvdrivers.libvirt.xml import Element, attribute
from hvdrivers.models.pci import PciAddress
from hvdrivers.models.resources import MediatedType, PciDevice


def _address(element: Element) -> PciAddress:
    def part(name: str) -> int:
        # the <capability> has decimal child elements, <address> hexadecimal attributes
        child = element.findtext(name)
        return int(child) if child is not None else int(element.get(name, "0"), 16)

    return PciAddress.of(part("domain"), part("bus"), part("slot"), part("function"))


def node_name(address: PciAddress) -> str:
    """What libvirt calls the node device of a PCI device."""
    return "pci_" + address.replace(":", "_").replace(".", "_")


def device_in(node: Element) -> PciDevice:
    """What the XML of a node device says of a PCI device."""
    pci = node.find("capability[@type='pci']")
    if pci is None:
        raise errors.HypervisorFault("a PCI device without its PCI capability")
    physical = pci.find("capability[@type='phys_function']/address")
    functions = pci.find("capability[@type='virt_functions']")
    group = attribute(pci, "iommuGroup", "number")
    numa = attribute(pci, "numa", "node")
    return PciDevice(
        address=_address(pci),
        vendor_id=(attribute(pci, "vendor", "id") or "0x0000").removeprefix("0x"),
        product_id=(attribute(pci, "product", "id") or "0x0000").removeprefix("0x"),
        class_code=(pci.findtext("class") or "0x000000").removeprefix("0x"),
        label=" ".join(filter(None, (pci.findtext("vendor"), pci.findtext("product")))),
        driver=node.findtext("driver/name"),
        numa_cell=int(numa) if numa is not None else None,
        iommu_group=int(group) if group is not None else None,
        physical_function=_address(physical) if physical is not None else None,
        virtual_functions=tuple(
            _address(each)
            for each in (functions.iterfind("address") if functions is not None else ())
        ),
        max_virtual_functions=int(functions.get("maxCount", 0)) if functions is not None else 0,
        mediated_types=tuple(
            MediatedType(
                name=kind.get("id", ""),
                available=int(kind.findtext("availableInstances") or 0),
                label=kind.findtext("name"),
            )
            for kind in pci.iterfind("capability[@type='mdev_types']/type")
        ),
    )
