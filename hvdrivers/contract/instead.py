"""What to do without a capability: the second half of ``why_not()`` for what a driver lacks.

A driver that knows better says so in ``Driver.lacking``: "ESXi has no Ceph client".
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from hvdrivers.contract.capabilities import Capability as C  # noqa: N817 - named on each line

_CONVERT = "convert the image to a format among its image-* capabilities (qemu-img convert)"
_CONSOLE = "use another kind of console among its console-* capabilities, or get_console_log()"
_AGENT = "do it through the guest's network, or by cloud-init at spawn()"
_VOLUME = (
    "attach the volume inside the guest, or copy its data to a kind among the volume-* capabilities"
)
_NIC = "use a kind of NIC among its vif-* capabilities"
_MOVE = "stop the instance, copy its disks, and spawn() it on the other host"
_BACKUP = "back up inside the guest, or copy a volume of a stopped instance"
_HARDWARE = "spawn() without it, or choose a host whose driver has it"
_STOP_FIRST = "power_off() first, and make the change then"

INSTEAD: Mapping[C, str] = MappingProxyType(
    {
        C.PAUSE: "suspend() or power_off() the instance",
        C.SUSPEND: "pause() or power_off() the instance",
        C.CRASH_DUMP: "let the guest dump by itself (kdump), or reboot(RebootKind.HARD)",
        C.RESCUE: "attach the root disk's copy to another instance and repair it there",
        C.RESIZE: "destroy(keep=...) the instance and spawn() one of another flavor",
        C.HOT_RESIZE_CPU: _STOP_FIRST,
        C.HOT_RESIZE_MEMORY: _STOP_FIRST,
        C.REBUILD: "destroy() the instance and spawn() it anew with the same UUID",
        C.ADOPT: "manage the machine by its own tools, or spawn() one from its disk",
        C.HOT_RENAME: "power_off() first, then rename()",
        C.DETACH_PAUSED: "unpause() first, so that the guest can let go",
        C.NMI_PAUSED: "unpause() the instance first",
        C.EXTEND_VOLUME: "power_off() and power_on(), or detach and attach the volume",
        C.SWAP_VOLUME: "copy the data inside the guest, then detach the old volume",
        C.RECONNECT: "detach the volume or unplug the NIC, and attach it with its new connection",
        C.HOST_VOLUMES: "make volumes with the storage's own tools and attach those",
        C.DISK_QOS: "limit inside the guest, or at the storage",
        C.VIF_QOS: "limit inside the guest, or at the switch",
        C.IMAGE_CACHE: "spawn() once from the image: the first spawn brings it to the host",
        C.SNAPSHOT_TO_IMAGE: "destroy(keep=...) keeps the root disk; copy that one",
        C.SNAPSHOTS: _BACKUP,
        C.SNAPSHOT_MEMORY: "suspend() keeps the memory; a snapshot without it keeps the disks",
        C.INCREMENTAL_BACKUP: _BACKUP,
        C.CONSOLE_LOG: "let the guest log to the network",
        C.CONSOLE_SERIAL: _CONSOLE,
        C.CONSOLE_VNC: _CONSOLE,
        C.CONSOLE_SPICE: _CONSOLE,
        C.CONSOLE_MKS: _CONSOLE,
        C.CONSOLE_WEBMKS: _CONSOLE,
        C.CONSOLE_RDP: _CONSOLE,
        C.SCREENSHOT: "read get_console_log(), or open a console",
        C.GUEST_PASSWORD: _AGENT,
        C.GUEST_FREEZE: "stop the guest's services, or power_off() the instance",
        C.GUEST_EXEC: _AGENT,
        C.GUEST_ADDRESSES: "ask the DHCP server or Neutron, by the MAC address of get_instance()",
        C.LIVE_MIGRATION: _MOVE,
        C.LIVE_MIGRATION_ABORT: "let the migration end: its timeout= bounds it",
        C.LIVE_MIGRATION_FORCE: "give live_migrate() a longer timeout=, or calm the guest",
        C.COLD_MIGRATION: _MOVE,
        C.MOVE_IN_STEPS: _MOVE,
        C.STORAGE_MIGRATION: "copy the disk on the host while the instance is off",
        C.MAINTENANCE: "stop placing instances there, and move or stop those that run",
        C.HOST_POWER: "use the host's management controller (IPMI, Redfish) or its shell",
        C.SHARES: "export the directory by NFS or SMB and mount it in the guest",
        C.CONFIG_DRIVE: "serve the data by a metadata service, or bake it into the image",
        C.USER_DATA: "bake it into the image, or configure the guest over its network",
        C.SEED_DISC: "give cloud_init= instead, or attach the disc as a volume",
        C.START_PAUSED: "power_on(), then pause() at once",
        C.BOOT_FROM_VOLUME: "spawn() from an image, and attach the volume beside it",
        C.RESCUE_BOOT_FROM_VOLUME: "attach the volume to another instance and repair it there",
        C.EPHEMERAL_DISK: "create_volume() and attach it",
        C.SWAP_DISK: "use a swap file in the guest, or a volume",
        C.UEFI: "use an image that boots by BIOS, or choose another host",
        C.SECURE_BOOT: _HARDWARE,
        C.VTPM: _HARDWARE,
        C.SEV: _HARDWARE,
        C.NUMA: _HARDWARE,
        C.CPU_PINNING: _HARDWARE,
        C.HUGEPAGES: _HARDWARE,
        C.PCI_PASSTHROUGH: _HARDWARE,
        C.VGPU: _HARDWARE,
        C.SERVER_GROUP: "choose the host for each instance, and spawn() it there without a group",
        C.IMAGE_RAW: _CONVERT,
        C.IMAGE_QCOW2: _CONVERT,
        C.IMAGE_VMDK: _CONVERT,
        C.IMAGE_VHD: _CONVERT,
        C.IMAGE_VHDX: _CONVERT,
        C.IMAGE_VDI: _CONVERT,
        C.IMAGE_OVA: "unpack it with tar, and give its disk as an image in the format vmdk",
        C.IMAGE_ISO: "install into a disk image once, and spawn() from that",
        C.IMAGE_HOST: "give the image as a file or URL",
        C.MULTI_ATTACH: "attach the volume to one instance, and share it from there",
        C.ENCRYPTED_VOLUME: "decrypt at the storage (control_location back-end) or in the guest",
        C.VOLUME_POOL: _VOLUME,
        C.VOLUME_LOCAL: _VOLUME,
        C.VOLUME_ISCSI: _VOLUME,
        C.VOLUME_RBD: _VOLUME,
        C.VOLUME_NFS: _VOLUME,
        C.VOLUME_SMBFS: _VOLUME,
        C.VOLUME_FC: _VOLUME,
        C.VOLUME_NVMEOF: _VOLUME,
        C.VOLUME_VMDK: _VOLUME,
        C.VOLUME_FCD: _VOLUME,
        C.VIF_NETWORK: _NIC,
        C.VIF_BRIDGE: _NIC,
        C.VIF_OVS: _NIC,
        C.VIF_TAP: _NIC,
        C.VIF_MACVTAP: _NIC,
        C.VIF_HOSTDEV: _NIC,
        C.VIF_VHOSTUSER: _NIC,
        C.VIF_VDPA: _NIC,
        C.VIF_DVS: _NIC,
        C.VIF_HYPERV: _NIC,
        C.VIF_USER: _NIC,
    }
)
"""For each capability, what a caller does where it is missing."""
