"""NUMA cells and PCI devices as odd hardware has them, which no machine here does.

The XML is shaped as that of a POWER8 host and of hosts with GPUs and SR-IOV, and the calls are
answered as libvirt documents them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hvdrivers.contract import errors
from hvdrivers.libvirt.config import LibvirtConfig
from hvdrivers.libvirt.huge_pages import HugePageStock
from hvdrivers.libvirt.node_devices import device_in
from hvdrivers.libvirt.resources import LibvirtResources
from hvdrivers.libvirt.xml import parse

CELLS = """<capabilities><host><topology><cells num="3">
<cell id="0"><memory unit="KiB">1024</memory><pages unit="KiB" size="64">1</pages>
  <pages unit="KiB" size="16384">4</pages><cpus num="1"><cpu id="0"/></cpus></cell>
<cell id="1"><memory unit="KiB">1024</memory><pages unit="KiB" size="16384">4</pages></cell>
<cell id="8"><memory unit="KiB">2048</memory><pages unit="KiB" size="16384">6</pages></cell>
</cells></topology></host></capabilities>"""


class Inventory(LibvirtResources):
    """With the answers of such a host, and what was asked."""

    def __init__(self, *, silent: int | None = None) -> None:
        self.asked: list[tuple[int, int]] = []
        self.silent = silent
        self.connection: Any = SimpleNamespace(remote=SimpleNamespace(getFreePages=self.answer))
        self.config = LibvirtConfig()
        self.facts: Any = SimpleNamespace(capabilities=lambda: parse(CELLS))
        self.huge_pages = HugePageStock(self.connection, self.facts)

    def answer(self, sizes: list[int], first: int, count: int, flags: int) -> Any:
        self.asked.append((first, count))
        cells = range(first, first + count)
        if not set(cells) <= {0, 1, 8} or self.silent in cells:
            raise errors.HypervisorFault("no such cell")  # libvirt refuses the whole question
        return {cell: dict.fromkeys(sizes, cell + 1) for cell in cells}


def _free(inventory: Inventory) -> dict[int, list[int | None]]:
    return {cell.id: [p.free for p in cell.hugepages] for cell in inventory._cells()}


def test_cells_with_gaps() -> None:
    """Cells 0, 1 and 8 were asked as 0 to 2, and shown with no free pages."""
    inventory = Inventory()
    found = _free(inventory)
    assert inventory.asked == [(0, 2), (8, 1)]
    assert found[8] == [9]
    assert found[1] == [2]
    assert all(number == 1 for number in found[0])


def test_what_the_host_does_not_tell_is_not_zero() -> None:
    inventory = Inventory(silent=8)
    assert _free(inventory)[8] == [None]
    assert _free(inventory)[1] == [2]


def _node(class_code: str, ids: str, inside: str = "", driver: str = "") -> str:
    """A node device, shaped as those of real hosts (libvirt's ``tests/nodedevschemadata``)."""
    vendor, product = ids.split(":")
    known = f"<driver><name>{driver}</name></driver>" if driver else ""
    kind = f"<class>{class_code}</class>" if class_code else ""
    return (
        f"<device><name>pci_0000_3b_00_0</name>{known}<capability type='pci'>{kind}"
        "<domain>0</domain><bus>59</bus><slot>0</slot><function>0</function>"
        f"<product id='0x{product}'/><vendor id='0x{vendor}'>NVIDIA Corporation</vendor>{inside}"
        "</capability></device>"
    )


_FUNCTIONS = (
    "<capability type='virt_functions' maxCount='7'>"
    "<address domain='0x0000' bus='0x3b' slot='0x10' function='0x1'/>"
    "<address domain='0x0000' bus='0x3b' slot='0x10' function='0x3'/></capability>"
)
_NONE_YET = "<capability type='virt_functions' maxCount='63'/>"
_IS_ONE = (
    "<capability type='phys_function'>"
    "<address domain='0x0000' bus='0x3b' slot='0x00' function='0x0'/></capability>"
)
_SLICES = (
    "<capability type='mdev_types'><type id='nvidia-222'><name>GRID T4-1B</name>"
    "<deviceAPI>vfio-pci</deviceAPI><availableInstances>16</availableInstances></type>"
    "<type id='nvidia-223'><deviceAPI>vfio-pci</deviceAPI>"
    "<availableInstances>0</availableInstances></type></capability>"
)
_CELL = "<iommuGroup number='31'/><numa node='1'/>"


def test_devices_of_a_host_of_gpus() -> None:
    gpu = device_in(parse(_node("0x030200", "10de:2330", _CELL, "vfio-pci")))
    assert (gpu.vendor_id, gpu.product_id, gpu.class_code) == ("10de", "2330", "030200")
    assert (gpu.address, gpu.numa_cell, gpu.iommu_group) == ("0000:3b:00.0", 1, 31)
    assert gpu.driver == "vfio-pci"
    others = {"vga": "0x030000", "accelerator": "0x120000"}
    assert all(device_in(parse(_node(code, "1002:740f"))).is_gpu for code in others.values())
    assert gpu.is_gpu
    # an NVSwitch, and the sound of a graphics card, by NVIDIA too
    none = [_node("0x068000", "10de:22a3"), _node("0x040300", "10de:10f8"), _node("", "8086:10ca")]
    assert not any(device_in(parse(each)).is_gpu for each in none)


def test_functions_and_slices() -> None:
    adapter = device_in(parse(_node("0x020000", "15b3:101d", _FUNCTIONS)))
    assert adapter.virtual_functions == ("0000:3b:10.1", "0000:3b:10.3")
    assert (adapter.max_virtual_functions, adapter.physical_function) == (7, None)
    idle = device_in(parse(_node("0x020000", "15b3:101d", _NONE_YET)))
    assert (idle.virtual_functions, idle.max_virtual_functions) == ((), 63)
    function = device_in(parse(_node("0x020000", "15b3:101e", _IS_ONE)))
    assert function.physical_function == "0000:3b:00.0"
    slices = device_in(parse(_node("0x030200", "10de:1eb8", _SLICES))).mediated_types
    assert [(each.name, each.label, each.available) for each in slices] == [
        ("nvidia-222", "GRID T4-1B", 16),
        ("nvidia-223", None, 0),
    ]
    assert device_in(parse(_node("0x020000", "15b3:101d"))).numa_cell is None


def test_a_device_that_cannot_be_read_is_left_out() -> None:
    """Bus 4294967295: libvirt's word for a bridge whose bus it could not read."""
    odd = _node("0x060400", "8086:8c10").replace("<bus>59<", "<bus>4294967295<")
    inventory = Inventory()
    answers = [_node("0x030200", "10de:2330"), odd]
    nodes = [SimpleNamespace(name=lambda: "x", XMLDesc=lambda _, xml=xml: xml) for xml in answers]
    inventory.connection = SimpleNamespace(remote=SimpleNamespace(listAllDevices=lambda _: nodes))
    assert [each.product_id for each in inventory._devices()] == ["2330"]
