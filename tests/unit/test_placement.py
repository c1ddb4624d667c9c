"""Resource providers: the names are those of the packages, the numbers those of the host."""

from __future__ import annotations

import os_resource_classes
import os_traits
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.errors import InvalidRequest
from hvdrivers.contract.resources import Placement
from hvdrivers.fake import FakeConfig, FakeDriver, FakeHost, FakePool, FakeWorld, HostSize
from hvdrivers.guard import guarded
from hvdrivers.models.hardware import TpmModel, VideoModel
from hvdrivers.models.host import HostInfo
from hvdrivers.models.instance import Firmware
from hvdrivers.models.pci import PciAddress
from hvdrivers.models.resources import (
    CpuResources,
    HostResources,
    Inventory,
    LargestMachine,
    MachineChoices,
    MediatedType,
    MemoryResources,
    NumaCell,
    PciDevice,
    PlacementProvider,
    StorageResources,
)
from hvdrivers.models.vif import NicModel
from hvdrivers.models.volume import DiskBus
from hvdrivers.openstack.placement import (
    ARCHITECTURE_TRAITS,
    ARM_TRAITS,
    CAPABILITY_TRAITS,
    CORE_TRAITS,
    X86_TRAITS,
    providers,
)

ALL = frozenset(Capability)
TRAITS = set(os_traits.get_traits())
CLASSES = set(os_resource_classes.STANDARDS)


def resources(**fields):
    host = HostInfo(
        driver="fake",
        product="x",
        product_version="1",
        api_version="1",
        architecture=fields.pop("architecture", "x86_64"),
        hostname="node",
        accelerated=True,
    )
    cpu = CpuResources(
        total=8,
        dedicated=fields.pop("dedicated", 2),
        used=0,
        sockets=1,
        cores_per_socket=4,
        threads_per_core=fields.pop("threads", 2),
        model="m",
        features=fields.pop("features", frozenset()),
    )
    return HostResources(
        host=host,
        cpu=cpu,
        memory=MemoryResources(total_mib=4096, used_mib=0),
        storage=fields.pop(
            "storage",
            (StorageResources(name="p", total_gib=100.9, used_gib=0, shared=False),),
        ),
        instances=0,
        **fields,
    )


def device(address, **fields):
    defaults = {"vendor_id": "10de", "product_id": "1eb8", "class_code": "020000"}
    return PciDevice(address=PciAddress(address), **defaults | fields)


def test_machines_with_encrypted_memory():
    """Each is one context, on a host that has the capability and says how many there are."""
    for said, there, total in ((15, ALL, 15), (15, ALL - {Capability.SEV}, 0), (None, ALL, 0)):
        (root, *_) = providers(resources(encrypted_guests=said), there)
        stock = root.inventories.get("MEM_ENCRYPTION_CONTEXT")
        assert (stock.total if stock else 0) == total
        assert stock is None or stock.max_unit == 1
        assert ("HW_CPU_X86_AMD_SEV" in root.traits) is (Capability.SEV in there)


def test_the_constants_are_real_names():
    names = {name for many in X86_TRAITS.values() for name in many}
    names |= set(CAPABILITY_TRAITS.values()) | CORE_TRAITS
    names |= set(ARCHITECTURE_TRAITS.values()) | set(ARM_TRAITS.values())
    assert names <= TRAITS


def check_names(tree):
    for provider in tree:
        for name in provider.inventories:
            assert name in CLASSES or os_resource_classes.is_custom(name), name
        for trait in provider.traits:
            assert trait in TRAITS or os_traits.is_custom(trait), trait
            assert (
                trait == os_traits.normalize_name(trait.removeprefix("CUSTOM_")) or trait in TRAITS
            )
        for stock in provider.inventories.values():
            assert 1 <= stock.max_unit <= stock.total
            assert 0 <= stock.reserved <= stock.total


def check_tree(tree):
    seen = set()
    for provider in tree:
        assert provider.parent is None or provider.parent in seen
        assert provider.name not in seen
        seen.add(provider.name)


def test_the_fake_host():
    with FakeHost("node").connect() as driver:
        tree = driver.placement_inventories()
        check_names(tree)
        check_tree(tree)
        root = tree[0]
        assert (root.name, root.parent) == ("node", None)
        assert root.inventories["VCPU"].allocation_ratio == 4.0
        assert {p.name.partition("_")[2]: dict(p.inventories) for p in tree[1:]}.keys() == {
            "0000:17:00.0",
            "0000:65:00.0",
            "0000:03:00.0",
        }


def test_the_root():
    (root,) = providers(resources(features=frozenset({"avx2", "SSE4_1", "vmx", "odd"})), ALL)
    stocks = {name: stock.total for name, stock in root.inventories.items()}
    assert stocks == {"VCPU": 6, "PCPU": 2, "MEMORY_MB": 4096, "DISK_GB": 100}
    assert root.inventories["PCPU"].allocation_ratio == 1.0
    assert {
        "HW_CPU_X86_AVX2",
        "HW_CPU_X86_SSE41",
        "HW_CPU_X86_VMX",
        "HW_CPU_X86_INTEL_VMX",
        "HW_CPU_HYPERTHREADING",
        "COMPUTE_ARCH_X86_64",
        "COMPUTE_IMAGE_TYPE_QCOW2",
        "CUSTOM_HVDRIVERS_LIVE_MIGRATION",
    } <= root.traits


def test_ratios_and_reserve():
    (root,) = providers(
        resources(),
        (),
        cpu_allocation_ratio=2.0,
        memory_allocation_ratio=1.5,
        disk_allocation_ratio=3.0,
        reserved_memory_mib=512,
    )
    assert root.inventories["VCPU"].allocation_ratio == 2.0
    assert root.inventories["MEMORY_MB"].allocation_ratio == 1.5
    assert root.inventories["MEMORY_MB"].reserved == 512
    assert root.inventories["DISK_GB"].allocation_ratio == 3.0
    assert root.traits == CORE_TRAITS | {"COMPUTE_ARCH_X86_64", "HW_CPU_HYPERTHREADING"}


def test_no_inventory_of_nothing():
    (root,) = providers(resources(dedicated=8, storage=()), ())
    assert set(root.inventories) == {"PCPU", "MEMORY_MB"}


def test_arm():
    (root,) = providers(
        resources(architecture="aarch64", features=frozenset({"sve", "avx2"}), threads=1), ()
    )
    assert "HW_CPU_AARCH64_SVE" in root.traits
    assert not [name for name in root.traits if "X86" in name or "HYPER" in name]
    (root,) = providers(resources(architecture="unheard-of", features=frozenset({"sve"})), ())
    assert not [name for name in root.traits if "ARCH" in name]


@pytest.mark.parametrize("capability", sorted(Capability))
def test_a_capability_is_a_trait(capability):
    with_it = providers(resources(), {capability})[0].traits
    assert len(with_it - providers(resources(), ())[0].traits) == 1


def test_numa_cells():
    cell = NumaCell(id=1, cpus=frozenset({4, 5}), memory_mib=2048)
    assert len(providers(resources(numa_cells=(cell,)), ())) == 1
    root, child = providers(resources(numa_cells=(cell,)), (), numa=True)
    assert (child.name, child.parent) == ("node_NUMA_1", root.name)
    assert {name: stock.total for name, stock in child.inventories.items()} == {
        "NUMA_THREAD": 2,
        "NUMA_MEMORY_MB": 2048,
    }
    assert child.traits == {"HW_NUMA_ROOT"}


def test_shared_storage_is_counted_once():
    shared = StorageResources(name="ceph", total_gib=500, used_gib=0, shared=True)
    tiny = StorageResources(name="tiny", total_gib=0.5, used_gib=0, shared=True)
    root, pool = providers(resources(storage=(shared, tiny)), ())
    assert "DISK_GB" not in root.inventories
    assert (pool.name, pool.parent) == ("storage_ceph", None)
    assert pool.inventories["DISK_GB"].total == 500
    assert pool.traits == {"MISC_SHARES_VIA_AGGREGATE"}


def test_two_pools_hold_no_disk_larger_than_one():
    pools = tuple(
        StorageResources(name=name, total_gib=size, used_gib=0, shared=False)
        for name, size in (("a", 100), ("b", 300))
    )
    stock = providers(resources(storage=pools), ())[0].inventories["DISK_GB"]
    assert (stock.total, stock.max_unit) == (400, 300)


def test_pools_that_spawn_uses_not_are_not_counted():
    pools = (
        StorageResources(name="own", total_gib=100, used_gib=0, shared=False),
        StorageResources(name="more", total_gib=900, used_gib=0, shared=False, for_new=False),
        StorageResources(name="far", total_gib=900, used_gib=0, shared=True, for_new=False),
    )
    (root,) = providers(resources(storage=pools), ())
    assert root.inventories["DISK_GB"].total == 100


def test_a_host_with_nothing_but_shared_storage_can_have_disks_of_its_own():
    shared = StorageResources(name="ceph", total_gib=500, used_gib=0, shared=True)
    found = providers(resources(storage=(shared,)), (), shared_storage_on_root=True)
    assert [provider.name for provider in found] == ["node"]
    assert found[0].inventories["DISK_GB"].total == 500


def test_no_machine_is_larger_than_the_largest_host_of_a_cluster():
    largest = LargestMachine(vcpus=4, memory_mib=1024)
    (root,) = providers(resources(largest_machine=largest), ())
    units = {name: stock.max_unit for name, stock in root.inventories.items()}
    assert units == {"VCPU": 4, "PCPU": 2, "MEMORY_MB": 1024, "DISK_GB": 100}


def test_what_machines_are_made_of():
    everything = MachineChoices(
        firmwares=frozenset(Firmware),
        disk_buses=frozenset(DiskBus),
        nic_models=frozenset(NicModel),
        videos=frozenset(VideoModel),
        tpm_models=frozenset(TpmModel),
    )
    tree = providers(resources(choices=everything), ())
    check_names(tree)
    assert {
        "COMPUTE_FIRMWARE_BIOS",
        "COMPUTE_FIRMWARE_UEFI",
        "COMPUTE_STORAGE_BUS_VIRTIO",
        "COMPUTE_NET_VIF_MODEL_VMXNET3",
        "COMPUTE_GRAPHICS_MODEL_NONE",
        "COMPUTE_SECURITY_TPM_CRB",
    } <= tree[0].traits


def test_no_device_has_the_trait_that_stops_nova_compute():
    """nova/compute/pci_placement_translator.py refuses such a provider that it did not make."""
    tree = providers(resources(devices=DEVICES), ALL)
    assert not [each for each in tree if "COMPUTE_MANAGED_PCI_DEVICE" in each.traits]


DEVICES = (
    device("0:1:0.0", class_code="030000"),
    device(
        "0:2:0.0",
        class_code="120000",
        mediated_types=(
            MediatedType(name="nvidia-63", available=1, total=8),
            MediatedType(name="nvidia-64", available=4),
        ),
    ),
    device("0:3:0.0", virtual_functions=(PciAddress("0:3:10.0"), PciAddress("0:3:10.1"))),
    device("0:3:10.0", physical_function=PciAddress("0:3:0.0")),
    device("0:3:10.1", physical_function=PciAddress("0:3:0.0")),
    device("0:4:0.0", class_code="120000", virtual_functions=(PciAddress("0:4:10.0"),)),
    device(
        "0:4:10.0", class_code="120000", product_id="0abc", physical_function=PciAddress("0:4:0.0")
    ),
    device("0:5:0.0", driver="vfio-pci", vendor_id="8086", product_id="1d0e"),
    device("0:6:0.0", driver="e1000e"),
    device("0:7:0.0", class_code="0b4000", virtual_functions=(PciAddress("0:7:10.0"),)),
)


def test_devices():
    tree = providers(resources(devices=DEVICES), ALL)
    check_names(tree)
    check_tree(tree)
    children = {
        p.name: {name: stock.total for name, stock in p.inventories.items()} for p in tree[1:]
    }
    assert children == {
        "node_0000:01:00.0": {"PGPU": 1},
        "node_0000:02:00.0": {"VGPU": 8},
        "node_0000:03:00.0": {"SRIOV_NET_VF": 2},
        "node_0000:04:00.0": {"CUSTOM_PCI_10DE_0ABC": 1},
        "node_0000:05:00.0": {"CUSTOM_PCI_8086_1D0E": 1},
        "node_0000:07:00.0": {"PCI_DEVICE": 1},
    }
    assert all(p.parent == "node" for p in tree[1:])
    assert tree[2].traits == {"CUSTOM_VGPU_NVIDIA_63", "CUSTOM_VGPU_NVIDIA_64"}


def test_no_device_that_the_driver_cannot_give():
    assert len(providers(resources(devices=DEVICES), ())) == 1
    only_nics = providers(resources(devices=DEVICES), {Capability.VIF_HOSTDEV})
    assert {name for p in only_nics[1:] for name in p.inventories} >= {"SRIOV_NET_VF"}
    assert not {name for p in only_nics[1:] for name in p.inventories} & {"PGPU", "VGPU"}


@settings(max_examples=30, deadline=None, database=None)
@given(
    st.frozensets(st.text(max_size=8), max_size=5),
    st.lists(st.text(min_size=1, max_size=12), max_size=4, unique=True),
)
def test_any_words_of_a_host_make_valid_names(features, types):
    gpu = device(
        "0:2:0.0",
        class_code="030000",
        mediated_types=tuple(MediatedType(name=name, available=1) for name in types),
    )
    tree = providers(resources(features=features, devices=(gpu,)), ALL)
    for provider in tree:
        for name in (*provider.traits, *provider.inventories):
            assert name in TRAITS | CLASSES or os_traits.is_custom(name)
            assert name == name.upper()
            assert len(name) <= 255


def test_the_fake_with_a_shared_pool():
    size = HostSize(pools=(FakePool(name="ceph", total_gib=10, shared=True),))
    with FakeHost("node", size=size, world=FakeWorld()).connect() as driver:
        assert [p.name for p in driver.placement_inventories()][-1] == "storage_ceph"


@pytest.mark.parametrize("ratio", [-1, -0.5, float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["cpu", "memory", "disk"])
def test_ratios_that_are_none(name: str, ratio: float) -> None:
    """Placement would refuse the whole inventory, or divide by it."""
    with pytest.raises(InvalidRequest, match=f"{name}_allocation_ratio"):
        providers(resources(), (), **{f"{name}_allocation_ratio": ratio})


@pytest.mark.parametrize("unset", [None, 0, 0.0])
def test_ratios_that_are_not_set(unset: float | None) -> None:
    """Nova's configuration says so with 0.0."""
    names = ("cpu_allocation_ratio", "memory_allocation_ratio", "disk_allocation_ratio")
    found = providers(resources(), (), **dict.fromkeys(names, unset))
    assert found == providers(resources(), ())


def test_a_reservation_that_is_none() -> None:
    with pytest.raises(InvalidRequest):
        providers(resources(), (), reserved_memory_mib=-1)
    unset = providers(resources(), (), reserved_memory_mib=None)
    assert unset == providers(resources(), ())


@pytest.mark.parametrize(
    "wrong",
    [
        {"total": 0},
        {"total": -1},
        {"total": 1 << 31},
        {"reserved": -1},
        {"max_unit": 0},
        {"step_size": 0},
        {"allocation_ratio": 0.0},
        {"allocation_ratio": float("nan")},
        {"allocation_ratio": float("inf")},
    ],
)
def test_inventories_that_placement_refuses(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Inventory.model_validate({"total": 1, "max_unit": 1} | wrong)


def test_the_guard_derives_the_providers_of_a_driver_that_has_no_more_to_tell():
    """From the inventory, and from what the driver can do on this host."""
    with FakeHost("node").connect(without={Capability.SHARES: "no virtiofsd"}) as driver:
        expected = providers(driver.get_available_resource(), driver.capabilities)
        assert driver.placement_inventories() == expected
        assert "COMPUTE_STORAGE_VIRTIO_FS" not in expected[0].traits


def test_a_driver_may_tell_placement_itself():
    class Telling(FakeDriver, Placement):
        def placement_inventories(self, *, timeout=None):
            return [PlacementProvider(name="own", parent=None, inventories={}, traits=frozenset())]

    with guarded(Telling.connect(FakeConfig(host="node"))) as driver:
        assert [each.name for each in driver.placement_inventories()] == ["own"]
