"""Resource providers for OpenStack Placement, made of what a driver tells about its host.

A pure function: it asks nobody. The names are those of os-resource-classes and os-traits, written
out here so that nothing of OpenStack need be installed; a test compares them with the packages.
What Nova reports is the model: ``CAPABILITY_TRAITS_MAP`` in ``nova/virt/driver.py``,
``CPU_TRAITS_MAPPING`` in ``nova/virt/libvirt/utils.py``, and for devices
``nova/compute/pci_placement_translator.py``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.errors import InvalidRequest
from hvdrivers.models.resources import (
    CpuResources,
    HostResources,
    Inventory,
    MachineChoices,
    PciDevice,
    PlacementProvider,
)
from hvdrivers.models.vif.common import NicModel
from hvdrivers.models.volume.attachment import DiskBus

CAPABILITY_TRAITS: Mapping[Capability, str] = {
    Capability.EXTEND_VOLUME: "COMPUTE_VOLUME_EXTEND",
    Capability.MULTI_ATTACH: "COMPUTE_VOLUME_MULTI_ATTACH",
    Capability.IMAGE_ISO: "COMPUTE_IMAGE_TYPE_ISO",
    Capability.IMAGE_QCOW2: "COMPUTE_IMAGE_TYPE_QCOW2",
    Capability.IMAGE_RAW: "COMPUTE_IMAGE_TYPE_RAW",
    Capability.IMAGE_VDI: "COMPUTE_IMAGE_TYPE_VDI",
    Capability.IMAGE_VHD: "COMPUTE_IMAGE_TYPE_VHD",
    Capability.IMAGE_VHDX: "COMPUTE_IMAGE_TYPE_VHDX",
    Capability.IMAGE_VMDK: "COMPUTE_IMAGE_TYPE_VMDK",
    Capability.RESCUE_BOOT_FROM_VOLUME: "COMPUTE_RESCUE_BFV",
    Capability.UEFI: "COMPUTE_FIRMWARE_UEFI",
    Capability.SECURE_BOOT: "COMPUTE_SECURITY_UEFI_SECURE_BOOT",
    Capability.VTPM: "COMPUTE_SECURITY_TPM_2_0",
    Capability.SEV: "HW_CPU_X86_AMD_SEV",
    Capability.SHARES: "COMPUTE_STORAGE_VIRTIO_FS",
}
"""Capabilities for which there is a standard trait. The others are ``CUSTOM_HVDRIVERS_*``."""

_CPU_RATIO = 4.0
_WITHOUT_TRAIT = frozenset({DiskBus.NVME, NicModel.NETVSC})
"""Choices that os-traits has no name for."""

CORE_TRAITS = frozenset({"COMPUTE_NODE", "COMPUTE_NET_ATTACH_INTERFACE", "COMPUTE_VOLUME_ATTACH"})
"""What every driver can do."""

ARCHITECTURE_TRAITS: Mapping[str, str] = {
    "x86_64": "COMPUTE_ARCH_X86_64",
    "aarch64": "COMPUTE_ARCH_AARCH64",
    "ppc64le": "COMPUTE_ARCH_PPC64LE",
    "mipsel": "COMPUTE_ARCH_MIPSEL",
    "s390x": "COMPUTE_ARCH_S390X",
    "riscv64": "COMPUTE_ARCH_RISCV64",
}

X86_TRAITS: Mapping[str, tuple[str, ...]] = {
    feature: tuple(f"HW_CPU_X86_{name}" for name in names.split())
    for feature, names in {
        "3dnow": "3DNOW",
        "abm": "ABM",
        "aes": "AESNI",
        "amx-bf16": "AMXBF16",
        "amx-int8": "AMXINT8",
        "amx-tile": "AMXTILE",
        "avx": "AVX",
        "avx2": "AVX2",
        "avx512bw": "AVX512BW",
        "avx512cd": "AVX512CD",
        "avx512dq": "AVX512DQ",
        "avx512er": "AVX512ER",
        "avx512f": "AVX512F",
        "avx512pf": "AVX512PF",
        "avx512vl": "AVX512VL",
        "avx512vnni": "AVX512VNNI",
        "avx512vbmi": "AVX512VBMI",
        "avx512ifma": "AVX512IFMA",
        "avx512vbmi2": "AVX512VBMI2",
        "avx512bitalg": "AVX512BITALG",
        "vaes": "AVX512VAES",
        "gfni": "AVX512GFNI",
        "vpclmulqdq": "AVX512VPCLMULQDQ",
        "avx512-vpopcntdq": "AVX512VPOPCNTDQ",
        "bmi1": "BMI",
        "bmi2": "BMI2",
        "pclmuldq": "CLMUL",
        "pclmulqdq": "CLMUL",
        "f16c": "F16C",
        "fma": "FMA3",
        "fma4": "FMA4",
        "mmx": "MMX",
        "mpx": "MPX",
        "pdpe1gb": "PDPE1GB",
        "sgx": "SGX",
        "sha-ni": "SHA",
        "sse": "SSE",
        "sse2": "SSE2",
        "sse3": "SSE3",
        "pni": "SSE3",
        "sse4-1": "SSE41",
        "sse4-2": "SSE42",
        "sse4a": "SSE4A",
        "ssse3": "SSSE3",
        "stibp": "STIBP",
        # the generic traits and the vendors' both, as Nova does
        "svm": "SVM AMD_SVM",
        "tbm": "TBM",
        "vmx": "VMX INTEL_VMX",
        "xop": "XOP",
    }.items()
}
"""CPU flags, with ``-`` for every ``_`` and ``.``, and what they are called in os-traits."""

_ARM_FLAGS = """
FP ASIMD EVTSTRM AES PMULL SHA1 SHA2 CRC32 FPHP ASIMDHP ASIMDRDM ATOMICS JSCVT FCMA LRCPC DCPOP
SHA3 SM3 SM4 ASIMDDP SHA512 SVE CPUID
"""

ARM_TRAITS: Mapping[str, str] = {
    name.lower(): f"HW_CPU_AARCH64_{name}" for name in _ARM_FLAGS.split()
}
"""CPU flags of ARM, and what they are called in os-traits."""


def providers(
    resources: HostResources,
    capabilities: Collection[Capability],
    *,
    cpu_allocation_ratio: float | None = None,
    memory_allocation_ratio: float | None = None,
    disk_allocation_ratio: float | None = None,
    reserved_memory_mib: int | None = None,
    numa: bool = False,
    shared_storage_on_root: bool = False,
) -> tuple[PlacementProvider, ...]:
    """The tree of resource providers for a host, root first, each parent before its children.

    Storage that other hosts share is a provider of its own without a parent, with the trait
    MISC_SHARES_VIA_AGGREGATE: counted on each host it would be there several times.

    Args:
        resources: what ``get_available_resource()`` gives.
        capabilities: the driver's.
        cpu_allocation_ratio: shared virtual CPUs per hardware thread. None and 0.0, which is how
            Nova's configuration says "not set", mean what the host allows, or else Nova's initial
            ratio, 4.
        memory_allocation_ratio: memory given to machines per memory there. None, 0.0: 1.0.
        disk_allocation_ratio: disk space given to machines per space there. None, 0.0: 1.0.
        reserved_memory_mib: MiB for the host itself. None: 0.
        numa: also a child per NUMA cell.
        shared_storage_on_root: count shared pools in the host's own DISK_GB, as nova-compute does
            by itself, and make no providers for them. Without an aggregate of host and pool,
            Placement finds DISK_GB only in the host's own provider. Each host of such a pool then
            reports the whole pool.

    Raises:
        InvalidRequest: a ratio or a reservation that is negative, infinite or no number.
    """
    cpu_initial = resources.cpu.allocation_ratio or _CPU_RATIO
    ratios = _Ratios(
        _ratio("cpu_allocation_ratio", cpu_allocation_ratio, cpu_initial),
        _ratio("memory_allocation_ratio", memory_allocation_ratio, 1.0),
        _ratio("disk_allocation_ratio", disk_allocation_ratio, 1.0),
    )
    if reserved_memory_mib is not None and reserved_memory_mib < 0:
        raise InvalidRequest(
            "reserved_memory_mib is negative",
            hint="give the MiB that the host keeps for itself, or 0",
        )
    root = resources.host.hostname
    found = [
        PlacementProvider(
            name=root,
            parent=None,
            inventories=_compute_inventories(
                resources,
                ratios,
                reserved_memory_mib or 0,
                [
                    int(pool.total_gib)
                    for pool in resources.storage
                    if pool.for_new and (shared_storage_on_root or not pool.shared)
                ],
                (resources.encrypted_guests or 0) if Capability.SEV in capabilities else 0,
            ),
            traits=_root_traits(resources, capabilities),
        )
    ]
    if numa:
        found += _numa_providers(resources)
    found += _device_providers(resources, frozenset(capabilities))
    if not shared_storage_on_root:
        found += _shared_storage(resources, ratios.disk)
    return tuple(found)


def _ratio(name: str, ratio: float | None, initial: float) -> float:
    if ratio is None or ratio == 0:
        return initial
    if not math.isfinite(ratio) or ratio < 0:
        raise InvalidRequest(f"{name} is no ratio", hint="give a positive number, or None")
    return ratio


def _stock(
    total: int, *, ratio: float = 1.0, reserved: int = 0, largest: int = 0
) -> Inventory | None:
    if total <= 0:
        return None  # Placement takes no inventory of nothing
    return Inventory(
        total=total,
        reserved=min(reserved, total),
        max_unit=min(largest, total) or total,
        allocation_ratio=ratio,
    )


def _there(stocks: Mapping[str, Inventory | None]) -> dict[str, Inventory]:
    return {name: stock for name, stock in stocks.items() if stock is not None}


class _Ratios(NamedTuple):
    cpu: float
    memory: float
    disk: float


def _compute_inventories(
    resources: HostResources, ratios: _Ratios, reserved: int, pools: list[int], encrypted: int
) -> dict[str, Inventory]:
    largest = resources.largest_machine
    most_cpus, most_memory = (0, 0) if largest is None else (largest.vcpus, largest.memory_mib)
    shared = resources.cpu.total - resources.cpu.dedicated
    stocks = {
        "VCPU": _stock(shared, ratio=ratios.cpu, largest=most_cpus),
        "PCPU": _stock(resources.cpu.dedicated, largest=most_cpus),
        "MEMORY_MB": _stock(
            resources.memory.total_mib, ratio=ratios.memory, reserved=reserved, largest=most_memory
        ),
        "MEM_ENCRYPTION_CONTEXT": _stock(encrypted, largest=1),
        # no disk is larger than the largest pool
        "DISK_GB": _stock(sum(pools), ratio=ratios.disk, largest=max(pools, default=0)),
    }
    return _there(stocks)


def _root_traits(resources: HostResources, capabilities: Collection[Capability]) -> frozenset[str]:
    traits = set(CORE_TRAITS)
    architecture = ARCHITECTURE_TRAITS.get(resources.host.architecture)
    if architecture is not None:
        traits.add(architecture)
    if resources.cpu.threads_per_core > 1:
        traits.add("HW_CPU_HYPERTHREADING")
    traits.update(_cpu_traits(resources.host.architecture, resources.cpu))
    traits.update(_choice_traits(resources.choices))
    for capability in capabilities:
        traits.add(CAPABILITY_TRAITS.get(capability) or _custom("HVDRIVERS", capability))
    return frozenset(traits)


def _choice_traits(choices: MachineChoices) -> Iterator[str]:
    """What machines can be made of, as far as there is a standard trait."""
    for values, prefix in (
        (choices.firmwares, "COMPUTE_FIRMWARE_"),
        (choices.disk_buses, "COMPUTE_STORAGE_BUS_"),
        (choices.nic_models, "COMPUTE_NET_VIF_MODEL_"),
        (choices.videos, "COMPUTE_GRAPHICS_MODEL_"),
        (choices.tpm_models, "COMPUTE_SECURITY_TPM_"),
    ):
        for value in values:
            if value not in _WITHOUT_TRAIT:
                yield f"{prefix}{value.value.upper()}"


def _cpu_traits(architecture: str, cpu: CpuResources) -> Iterator[str]:
    for feature in cpu.features:
        name = re.sub("[_.]", "-", feature.lower())
        if architecture == "x86_64":
            yield from X86_TRAITS.get(name, ())
        elif architecture == "aarch64" and name in ARM_TRAITS:
            yield ARM_TRAITS[name]


def _custom(*parts: str) -> str:
    """A name of our own, in the only form that Placement takes: at most 255 of ``[A-Z0-9_]``."""
    return re.sub("[^A-Z0-9]+", "_", "_".join(("CUSTOM", *parts)).upper())[:255]


def _numa_providers(resources: HostResources) -> Iterator[PlacementProvider]:
    root = resources.host.hostname
    for cell in resources.numa_cells:
        stocks = {
            "NUMA_THREAD": _stock(len(cell.cpus)),
            "NUMA_MEMORY_MB": _stock(cell.memory_mib),
        }
        yield PlacementProvider(
            name=f"{root}_NUMA_{cell.id}",
            parent=root,
            inventories=_there(stocks),
            traits=frozenset({"HW_NUMA_ROOT"}),
        )


def _device_providers(
    resources: HostResources, capabilities: frozenset[Capability]
) -> Iterator[PlacementProvider]:
    root = resources.host.hostname
    passthrough = Capability.PCI_PASSTHROUGH in capabilities
    functions = passthrough or Capability.VIF_HOSTDEV in capabilities
    for device in resources.devices:
        stocks: dict[str, Inventory | None] = {}
        # not COMPUTE_MANAGED_PCI_DEVICE: it says that nova-compute manages the provider by its own
        # configuration, and a nova-compute that did not make it refuses to start
        traits: set[str] = set()
        if device.mediated_types:
            if Capability.VGPU in capabilities:
                # a device is cut into slices of one type at a time, so the most that it can be
                most = max(each.total or each.available for each in device.mediated_types)
                stocks["VGPU"] = _stock(most)
                traits = {_custom("VGPU", each.name) for each in device.mediated_types}
        elif device.virtual_functions:
            if functions:
                stocks[_function_class(device, resources)] = _stock(len(device.virtual_functions))
                traits.add("HW_NIC_SRIOV")
        elif device.physical_function is None and passthrough:
            if device.is_gpu:
                stocks["PGPU"] = _stock(1)
            elif device.is_aside:
                # set aside for machines; any other device is the host's own
                stocks[_custom("PCI", device.vendor_id, device.product_id)] = _stock(1)
        there = _there(stocks)
        if there:
            yield PlacementProvider(
                name=f"{root}_{device.address}",
                parent=root,
                inventories=there,
                traits=frozenset(traits),
            )


def _function_class(device: PciDevice, resources: HostResources) -> str:
    """The resource class of a device's virtual functions."""
    if device.class_code.startswith("02"):
        return "SRIOV_NET_VF"
    for function in resources.devices:
        if function.address in device.virtual_functions:
            return _custom("PCI", function.vendor_id, function.product_id)
    return "PCI_DEVICE"


def _shared_storage(resources: HostResources, ratio: float) -> Iterator[PlacementProvider]:
    for pool in resources.storage:
        if pool.for_new and pool.shared and int(pool.total_gib) > 0:
            yield PlacementProvider(
                name=f"storage_{pool.name}",
                parent=None,
                inventories=_there({"DISK_GB": _stock(int(pool.total_gib), ratio=ratio)}),
                traits=frozenset({"MISC_SHARES_VIA_AGGREGATE"}),
            )
