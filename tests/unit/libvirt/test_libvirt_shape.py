"""What a machine is made of, and where it is on the host: wishes of a spec in domain XML."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from hvdrivers.contract import errors
from hvdrivers.libvirt.disk_plan import names_of, planned
from hvdrivers.libvirt.hardware import choices, refuse_hardware, wished
from hvdrivers.libvirt.placement import host_cells, placed_nodes, placement_elements
from hvdrivers.libvirt.sizes import numa_element
from hvdrivers.models.disk import DiskRole, OwnDisk
from hvdrivers.models.hardware import Hardware, TpmModel, VideoModel
from hvdrivers.models.image import FileImage, ImageFormat
from hvdrivers.models.instance import Firmware, Flavor, InstanceSpec
from hvdrivers.models.numa import NumaNode
from hvdrivers.models.resources import NumaCell
from hvdrivers.models.vif import BridgeVif, NicModel
from hvdrivers.models.volume import DeviceType, DiskBus, LocalVolume, VolumeAttachment

HERE = Path(__file__).parent
FLAVOR = Flavor(vcpus=2, memory_mib=256, ephemeral_gib=1, swap_mib=64)
CELLS = [
    NumaCell(id=0, cpus=frozenset({0, 1}), memory_mib=512),
    NumaCell(id=8, cpus=frozenset({8, 9}), memory_mib=128),
]


def spec(**changes: Any) -> InstanceSpec:
    image = FileImage(path=Path("/image"), format=ImageFormat.QCOW2)
    return InstanceSpec(**({"name": "x", "flavor": FLAVOR, "image": image} | changes))


def test_disks_are_named_by_their_bus() -> None:
    disks = (
        OwnDisk(role=DiskRole.EPHEMERAL, size_mib=256, bus=DiskBus.SCSI),
        OwnDisk(role=DiskRole.EPHEMERAL, size_mib=768),
    )
    made = spec(disks=disks, cloud_init={"hostname": "x"})
    found = [(each.role, each.target, each.size >> 20) for each in planned(made)]
    assert found == [
        ("root", "vda", 0),
        ("ephemeral", "sda", 256),
        ("ephemeral-1", "vdb", 768),
        ("swap", "vdc", 64),
    ]
    # the seed comes after the other disks of the SCSI bus
    names = [each.get("dev") for each in names_of(made).iterfind("devices/disk/target")]
    assert names == ["vda", "sda", "vdb", "vdc", "sdb"]
    with pytest.raises(errors.NotSupported):
        planned(spec(hardware=Hardware(disk_bus=DiskBus.IDE)))


def test_general_wishes_are_for_what_names_none() -> None:
    def volume(serial: str, **options: Any) -> VolumeAttachment:
        data = {"device_path": f"/dev/{serial}"}
        return VolumeAttachment(volume=LocalVolume(serial=serial, data=data), **options)

    made = wished(
        spec(
            hardware=Hardware(disk_bus=DiskBus.SATA, nic_model=NicModel.E1000E),
            volumes=(
                volume("a"),
                volume("b", bus=DiskBus.USB),
                volume("c", device_type=DeviceType.CDROM),
            ),
            vifs=(
                BridgeVif(id="a", bridge="br"),
                BridgeVif(id="b", bridge="br", model=NicModel.VIRTIO),
            ),
        )
    )
    assert [each.bus for each in made.volumes] == [DiskBus.SATA, DiskBus.USB, None]
    assert [each.model for each in made.vifs] == [NicModel.E1000E, NicModel.VIRTIO]


def test_what_the_host_has_not_is_refused() -> None:
    capabilities = ET.parse(HERE / "domain_capabilities.xml").getroot()
    found = choices(capabilities)
    assert DiskBus.VIRTIO in found.disk_buses
    assert DiskBus.NVME not in found.disk_buses
    assert NicModel.NETVSC not in found.nic_models
    assert Firmware.UEFI in found.firmwares
    for each in VideoModel:
        if each in found.videos:
            refuse_hardware(spec(hardware=Hardware(video=each)), capabilities)
    for models in capabilities.findall("devices/tpm/enum[@name='model']"):
        models.clear()
    for wish in (
        spec(hardware=Hardware(tpm_model=TpmModel.CRB), vtpm=True),
        spec(hardware=Hardware(nic_model=NicModel.NETVSC)),
        spec(hardware=Hardware(disk_bus=DiskBus.NVME)),
    ):
        with pytest.raises(errors.NotSupported):
            refuse_hardware(wish, capabilities)


def test_nodes_are_even_and_stay_so() -> None:
    def cells(**flavor: Any) -> list[tuple[str | None, str | None]]:
        numa = numa_element(Flavor(**({"vcpus": 4, "memory_mib": 256} | flavor)))
        assert numa is not None
        return [(each.get("cpus"), each.get("memory")) for each in numa]

    assert cells(numa_nodes=2) == [("0,1", "128"), ("2,3", "128")]
    # CPUs that come later go to each node in turn
    assert cells(vcpus=2, max_vcpus=4, numa_nodes=2) == [("0,2", "128"), ("1,3", "128")]
    assert cells(max_memory_mib=512) == [("0,1,2,3", "256")]
    assert numa_element(Flavor(vcpus=4, memory_mib=256)) is None


def test_a_placement_is_of_this_host() -> None:
    nodes = (
        NumaNode(cell=8, vcpus=frozenset({0}), memory_mib=100, cpus={0: 9}),
        NumaNode(cell=0, vcpus=frozenset({1}), memory_mib=156),
    )
    (memory,) = placement_elements(nodes, CELLS)
    assert [(each.get("cellid"), each.get("nodeset")) for each in memory] == [
        ("0", "8"),
        ("1", "0"),
    ]
    assert [each.get("memory") for each in placed_nodes(nodes)] == ["100", "156"]
    for wrong in (
        NumaNode(cell=1, vcpus=frozenset({0}), memory_mib=100),
        NumaNode(cell=8, vcpus=frozenset({0}), memory_mib=129),
        NumaNode(cell=8, vcpus=frozenset({0}), memory_mib=100, cpus={0: 1}),
    ):
        with pytest.raises(errors.InsufficientResources):
            placement_elements((wrong,), CELLS)


@pytest.mark.parametrize(
    ("siblings", "wanted"),
    [
        (("0-1", "0-1", "2-3", "2-3"), (frozenset({0, 1}), frozenset({2, 3}))),
        (("0,2", "1,3", "0,2", "1,3"), (frozenset({0, 2}), frozenset({1, 3}))),
        ((None, None, None, None), ()),
    ],
)
def test_threads_of_one_core(
    siblings: tuple[str | None, ...], wanted: tuple[frozenset[int], ...]
) -> None:
    root = ET.fromstring("<capabilities><host><topology><cells/></topology></host></capabilities>")
    cell = ET.SubElement(root[0][0][0], "cell", id="3")
    cpus = ET.SubElement(cell, "cpus")
    for number, text in enumerate(siblings):
        extra = {} if text is None else {"siblings": text}
        ET.SubElement(cpus, "cpu", id=str(number), **extra)
    (found,) = host_cells(root)
    assert (found.id, found.siblings, found.cpus) == (3, wanted, frozenset(range(4)))
