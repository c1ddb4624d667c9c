"""Capabilities: what a driver can do beyond Core, and how it comes to say so.

A driver does not list its capabilities: its code declares them, in one of two ways:

* implementing an optional *interface* (``class Pause(Interface, capability=Capability.PAUSE)``
  in the topic files beside this one): the operations are abstract, so a class that inherits the
  interface has them all or cannot be instantiated;
* decorating the method that does the work with ``@provides(Capability.VIF_OVS)``, for features
  that are not operations of their own but arguments of one: a volume type, a VIF type, a firmware.

``declared(cls)`` reads both from the class. At connect time a driver may *narrow* the set with a
reason per capability ("ESXi without vCenter cannot clone"); it can never widen it.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from functools import cache
from typing import TypeVar

_F = TypeVar("_F", bound=Callable[..., object])
_MARK = "__hv_provides__"


class Capability(StrEnum):
    """Everything optional in the contract. Core operations have none: all drivers have them."""

    # operations ---------------------------------------------------------------------------------
    PAUSE = "pause"
    """Freeze the virtual CPUs, keep the memory."""
    SUSPEND = "suspend"
    """Save memory to disk and stop; resume later."""
    CRASH_DUMP = "crash-dump"
    """Inject a non-maskable interrupt, so that the guest dumps its kernel."""
    RESCUE = "rescue"
    """Boot from a rescue image with the own root disk second."""
    RESIZE = "resize"
    """Change CPUs, memory and root disk of a stopped instance."""
    HOT_RESIZE_CPU = "hot-resize-cpu"
    """Change the number of CPUs of a running instance."""
    HOT_RESIZE_MEMORY = "hot-resize-memory"
    """Change the memory of a running instance."""
    REBUILD = "rebuild"
    """Replace the root disk by a new image; keep UUID, NICs and volumes."""
    ADOPT = "adopt"
    """Take over a machine that another tool made."""
    HOT_RENAME = "hot-rename"
    """rename() while the instance is not stopped."""
    DETACH_PAUSED = "detach-paused"
    """detach_volume() and unplug_vif() of a PAUSED machine: its guest need not answer."""
    NMI_PAUSED = "nmi-paused"
    """inject_nmi() of a PAUSED machine: its guest gets it when it goes on."""
    EXTEND_VOLUME = "extend-volume"
    """Tell a running guest that an attached volume has grown."""
    SWAP_VOLUME = "swap-volume"
    """Replace the backing of an attached volume while the guest runs."""
    RECONNECT = "reconnect"
    """Other connections for the volumes and NICs of a stopped machine, and of one that moves."""
    HOST_VOLUMES = "host-volumes"
    """Create, list and delete volumes in the hypervisor's own storage."""
    DISK_QOS = "disk-qos"
    """Limit the bandwidth and operations of a disk, at attach and later."""
    VIF_QOS = "vif-qos"
    """Limit the bandwidth of a NIC, at plug and later."""
    IMAGE_CACHE = "image-cache"
    """Pre-load, list and evict cached images."""
    SNAPSHOT_TO_IMAGE = "snapshot-to-image"
    """Copy the root disk out as an image."""
    SNAPSHOTS = "snapshots"
    """A tree of snapshots: create, list, revert, delete."""
    SNAPSHOT_MEMORY = "snapshot-memory"
    """Snapshots that include memory, so that a revert continues a running guest."""
    INCREMENTAL_BACKUP = "incremental-backup"
    """Read only the blocks that changed since the last backup."""
    CONSOLE_LOG = "console-log"
    """The end of what the guest wrote to its serial port."""
    CONSOLE_SERIAL = "console-serial"
    CONSOLE_VNC = "console-vnc"
    CONSOLE_SPICE = "console-spice"
    CONSOLE_MKS = "console-mks"
    CONSOLE_WEBMKS = "console-webmks"
    CONSOLE_RDP = "console-rdp"
    SCREENSHOT = "screenshot"
    """A picture of the screen."""
    GUEST_PASSWORD = "guest-password"  # noqa: S105 - the name of a capability
    """Set the administrator's password through the guest agent."""
    GUEST_FREEZE = "guest-freeze"
    """Freeze and thaw the guest's file systems."""
    GUEST_EXEC = "guest-exec"
    """Run a program in the guest."""
    GUEST_ADDRESSES = "guest-addresses"
    """Addresses as the guest, a lease or ARP shows them, each tagged by its source."""
    LIVE_MIGRATION = "live-migration"
    LIVE_MIGRATION_ABORT = "live-migration-abort"
    """Stop a live migration that runs."""
    LIVE_MIGRATION_FORCE = "live-migration-force"
    """Make one end soon: post-copy, or a longer standstill."""
    COLD_MIGRATION = "cold-migration"
    MOVE_IN_STEPS = "move-in-steps"
    """Move a stopped instance, or resize it, so that it can be taken back until it is confirmed."""
    STORAGE_MIGRATION = "storage-migration"
    """Move the disks of an instance to another pool or datastore of the same host."""
    MAINTENANCE = "maintenance"
    HOST_POWER = "host-power"
    SHARES = "shares"
    """Directories of the host shared into the guest (virtio-fs)."""

    # features of spawn --------------------------------------------------------------------------
    CONFIG_DRIVE = "config-drive"
    """A seed disk with metadata (NoCloud or config drive)."""
    USER_DATA = "user-data"
    """User data handed to the guest's cloud-init."""
    SEED_DISC = "seed-disc"
    """A seed disc of the caller's own, given to the machine as it is."""
    START_PAUSED = "start-paused"
    """Start a machine with its virtual CPUs frozen, at spawn and later."""
    BOOT_FROM_VOLUME = "boot-from-volume"
    RESCUE_BOOT_FROM_VOLUME = "rescue-boot-from-volume"
    EPHEMERAL_DISK = "ephemeral-disk"
    SWAP_DISK = "swap-disk"
    UEFI = "uefi"
    SECURE_BOOT = "secure-boot"
    VTPM = "vtpm"
    SEV = "sev"
    NUMA = "numa"
    CPU_PINNING = "cpu-pinning"
    HUGEPAGES = "hugepages"
    PCI_PASSTHROUGH = "pci-passthrough"
    VGPU = "vgpu"
    SERVER_GROUP = "server-group"
    """Keep machines together on one of the host's own hosts, or apart from each other."""

    # image formats ------------------------------------------------------------------------------
    IMAGE_RAW = "image-raw"
    IMAGE_QCOW2 = "image-qcow2"
    IMAGE_VMDK = "image-vmdk"
    IMAGE_VHD = "image-vhd"
    IMAGE_VHDX = "image-vhdx"
    IMAGE_VDI = "image-vdi"
    IMAGE_OVA = "image-ova"
    """The disk in an OVA that has one."""
    IMAGE_ISO = "image-iso"
    IMAGE_HOST = "image-host"
    """Spawn from an image or template that is on the host already."""

    # volumes ------------------------------------------------------------------------------------
    MULTI_ATTACH = "multi-attach"
    """One volume attached to several instances."""
    ENCRYPTED_VOLUME = "encrypted-volume"
    """LUKS, decrypted by the hypervisor."""
    VOLUME_POOL = "volume-pool"
    VOLUME_LOCAL = "volume-local"
    VOLUME_ISCSI = "volume-iscsi"
    VOLUME_RBD = "volume-rbd"
    VOLUME_NFS = "volume-nfs"
    VOLUME_SMBFS = "volume-smbfs"
    VOLUME_FC = "volume-fc"
    VOLUME_NVMEOF = "volume-nvmeof"
    VOLUME_VMDK = "volume-vmdk"
    VOLUME_FCD = "volume-fcd"

    # network ------------------------------------------------------------------------------------
    VIF_NETWORK = "vif-network"
    VIF_BRIDGE = "vif-bridge"
    VIF_OVS = "vif-ovs"
    VIF_TAP = "vif-tap"
    VIF_MACVTAP = "vif-macvtap"
    VIF_HOSTDEV = "vif-hostdev"
    VIF_VHOSTUSER = "vif-vhostuser"
    VIF_VDPA = "vif-vdpa"
    VIF_DVS = "vif-dvs"
    VIF_HYPERV = "vif-hyperv"
    VIF_USER = "vif-user"


CHECKED_BY_DRIVER = frozenset(
    {
        Capability.HOT_RENAME,
        Capability.RESCUE_BOOT_FROM_VOLUME,
        Capability.DETACH_PAUSED,
        Capability.NMI_PAUSED,
    }
)
"""Capabilities that depend on the instance and not on the call's arguments: the guard cannot see
whether they are needed, so a driver without them raises NotSupported itself."""


def provides(*capabilities: Capability) -> Callable[[_F], _F]:
    """Mark the method that does the work of these capabilities: who has it has them."""

    def mark(function: _F) -> _F:
        setattr(function, _MARK, getattr(function, _MARK, frozenset()) | set(capabilities))
        return function

    return mark


def declared(cls: type) -> frozenset[Capability]:
    """The capabilities that the code of ``cls`` implements, before any narrowing.

    A subclass that overrides a marked method has what the method had: an override changes how,
    not whether.
    """
    return _declared(cls)


@cache  # a class does not change once it is defined, and every connection asks
def _declared(cls: type) -> frozenset[Capability]:
    found: set[Capability] = set()
    for base in cls.__mro__:
        interface = base.__dict__.get("__hv_capability__")
        if interface is not None:
            found.add(interface)
        for member in vars(base).values():
            function = getattr(member, "__func__", member)
            found |= getattr(function, _MARK, frozenset())
    return frozenset(found)
