"""What the *arguments* of an operation need: the capabilities behind a spec, a volume, a NIC.

A driver may have an operation, and not every kind of argument for it. attach_volume() belongs to
Core, but a volume over NVMe-oF needs a capability of its own. ``required(...)`` finds these
capabilities in the arguments. The guard calls it for every driver and refuses a call that needs a
capability which the driver does not have, so the driver never sees that call.
"""

from __future__ import annotations

from collections.abc import Mapping

from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.consoles import CONSOLE_CAPABILITIES
from hvdrivers.models.cloudinit import CloudInit
from hvdrivers.models.console import ConsoleKind
from hvdrivers.models.image import FileImage, HostImage, HttpImage, ImageFormat
from hvdrivers.models.instance import CpuPolicy, Firmware, Flavor, InstanceSpec
from hvdrivers.models.migration import Destination
from hvdrivers.models.seed import SeedDisc
from hvdrivers.models.state import StartAs
from hvdrivers.models.vif import VIF_TYPES
from hvdrivers.models.volume import VolumeAttachment

IMAGE_CAPABILITIES: Mapping[ImageFormat, Capability] = {
    ImageFormat.RAW: Capability.IMAGE_RAW,
    ImageFormat.QCOW2: Capability.IMAGE_QCOW2,
    ImageFormat.VMDK: Capability.IMAGE_VMDK,
    ImageFormat.VHD: Capability.IMAGE_VHD,
    ImageFormat.VHDX: Capability.IMAGE_VHDX,
    ImageFormat.VDI: Capability.IMAGE_VDI,
    ImageFormat.OVA: Capability.IMAGE_OVA,
    ImageFormat.ISO: Capability.IMAGE_ISO,
}

VOLUME_CAPABILITIES: Mapping[str, Capability] = {
    "pool": Capability.VOLUME_POOL,
    "local": Capability.VOLUME_LOCAL,
    "iscsi": Capability.VOLUME_ISCSI,
    "iser": Capability.VOLUME_ISCSI,
    "rbd": Capability.VOLUME_RBD,
    "nfs": Capability.VOLUME_NFS,
    "smbfs": Capability.VOLUME_SMBFS,
    "fibre_channel": Capability.VOLUME_FC,
    "nvmeof": Capability.VOLUME_NVMEOF,
    "vmdk": Capability.VOLUME_VMDK,
    "vstorageobject": Capability.VOLUME_FCD,
}

SERVED_VOLUMES: tuple[Capability, ...] = tuple(
    dict.fromkeys(
        each
        for each in VOLUME_CAPABILITIES.values()
        if each not in {Capability.VOLUME_POOL, Capability.VOLUME_LOCAL}
    )
)
"""The kinds of volumes that a storage server keeps, not the host."""

VIF_CAPABILITIES: Mapping[str, Capability] = {
    "network": Capability.VIF_NETWORK,
    "bridge": Capability.VIF_BRIDGE,
    "ovs": Capability.VIF_OVS,
    "tap": Capability.VIF_TAP,
    "macvtap": Capability.VIF_MACVTAP,
    "hw_veb": Capability.VIF_HOSTDEV,
    "hostdev_physical": Capability.VIF_HOSTDEV,
    "ib_hostdev": Capability.VIF_HOSTDEV,
    "vhostuser": Capability.VIF_VHOSTUSER,
    "vdpa": Capability.VIF_VDPA,
    "dvs": Capability.VIF_DVS,
    "hyperv": Capability.VIF_HYPERV,
    "user": Capability.VIF_USER,
}


_START_PAUSED = frozenset({Capability.START_PAUSED, Capability.PAUSE})
"""A driver that starts machines paused also needs unpause(), which lets them run."""


def required(arguments: Mapping[str, object]) -> frozenset[Capability]:
    """The capabilities that a call with these arguments needs, beyond its operation's own."""
    needs: set[Capability] = set()
    for argument in arguments.values():
        needs |= _of(argument)
    if arguments.get("memory") is True:
        needs.add(Capability.SNAPSHOT_MEMORY)
    if arguments.get("keep"):
        needs.add(Capability.HOST_VOLUMES)  # what was kept is seen by list_volumes() only
    return frozenset(needs)


def _of(argument: object) -> set[Capability]:  # noqa: PLR0911 - one answer per type
    if isinstance(argument, tuple):
        found: set[Capability] = set()
        return found.union(*map(_of, argument))
    if isinstance(argument, Destination):
        moved = _of((*argument.volumes, *argument.vifs))
        return moved | {Capability.RECONNECT} if moved else moved
    if isinstance(argument, SeedDisc):
        return {Capability.SEED_DISC}
    if isinstance(argument, InstanceSpec):
        return _of_spec(argument)
    if isinstance(argument, FileImage | HttpImage | HostImage):
        return _of_image(argument)
    if isinstance(argument, VolumeAttachment):
        return _of_attachment(argument)
    if isinstance(argument, VIF_TYPES):
        needs = {VIF_CAPABILITIES[argument.type]}
        if argument.qos is not None:
            needs.add(Capability.VIF_QOS)
        return needs
    if isinstance(argument, Flavor):
        return _of_flavor(argument)
    if isinstance(argument, ConsoleKind):
        return {CONSOLE_CAPABILITIES[argument]}
    return set()


def _of_spec(spec: InstanceSpec) -> set[Capability]:
    needs = _of_flavor(spec.flavor)
    if spec.image is not None:
        needs |= _of_image(spec.image)
    for volume in spec.volumes:
        needs |= _of_attachment(volume)
        if volume.boot_index == 0:
            needs.add(Capability.BOOT_FROM_VOLUME)
    for vif in spec.vifs:
        needs |= _of(vif)
    if isinstance(spec.cloud_init, CloudInit):
        needs.add(Capability.CONFIG_DRIVE)
        if spec.cloud_init.user_data is not None:
            needs.add(Capability.USER_DATA)
    if spec.start_as is StartAs.PAUSED:
        needs |= _START_PAUSED
    for wanted, capability in (
        (spec.seed is not None, Capability.SEED_DISC),
        (any(each.kept for each in spec.disks), Capability.HOST_VOLUMES),
        (spec.firmware is Firmware.UEFI, Capability.UEFI),
        (spec.secure_boot, Capability.SECURE_BOOT),
        (spec.vtpm, Capability.VTPM),
        (spec.sev, Capability.SEV),
        (spec.numa, Capability.NUMA),
        (any(node.cpus for node in spec.numa), Capability.CPU_PINNING),
        (spec.pci_devices, Capability.PCI_PASSTHROUGH),
        (spec.vgpus, Capability.VGPU),
        (spec.server_group is not None, Capability.SERVER_GROUP),
    ):
        if wanted:
            needs.add(capability)
    return needs


def _of_flavor(flavor: Flavor) -> set[Capability]:
    wanted = (
        (flavor.ephemeral_gib > 0, Capability.EPHEMERAL_DISK),
        (flavor.swap_mib > 0, Capability.SWAP_DISK),
        (flavor.max_vcpus is not None, Capability.HOT_RESIZE_CPU),
        (flavor.max_memory_mib is not None, Capability.HOT_RESIZE_MEMORY),
        (flavor.cpu_policy is CpuPolicy.DEDICATED, Capability.CPU_PINNING),
        (flavor.numa_nodes is not None, Capability.NUMA),
        (flavor.page_size_kib is not None, Capability.HUGEPAGES),
    )
    return {capability for needed, capability in wanted if needed}


def _of_image(image: FileImage | HttpImage | HostImage) -> set[Capability]:
    needs = set()
    if isinstance(image, HostImage):
        needs.add(Capability.IMAGE_CACHE if image.cached else Capability.IMAGE_HOST)
    if image.format is not None:
        needs.add(IMAGE_CAPABILITIES[image.format])
    return needs


def _of_attachment(attachment: VolumeAttachment) -> set[Capability]:
    needs = {VOLUME_CAPABILITIES[attachment.volume.driver_volume_type]}
    if attachment.qos is not None:
        needs.add(Capability.DISK_QOS)
    if attachment.encryption is not None and attachment.encryption.by_hypervisor:
        needs.add(Capability.ENCRYPTED_VOLUME)
    if attachment.volume.multiattach:
        needs.add(Capability.MULTI_ATTACH)
    return needs
