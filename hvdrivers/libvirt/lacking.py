"""Why a KVM host has not what other hypervisors have: reasons that ``why_not()`` gives.

What is not named here the hypervisor may well have, and the driver does not offer it yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from hvdrivers.contract.capabilities import Capability as C  # noqa: N817 - named on each line

LACKING: Mapping[C, str] = MappingProxyType(
    {
        **dict.fromkeys(
            (C.CONSOLE_MKS, C.CONSOLE_WEBMKS),
            "it is VMware's own protocol",
        ),
        C.CONSOLE_RDP: "QEMU has no RDP server of its own; the one that newer versions of"
        " libvirt can start beside it (qemu-rdp) is not used",
        **dict.fromkeys(
            (C.VOLUME_VMDK, C.VOLUME_FCD),
            "it is a disk of vSphere's datastores",
        ),
        C.VOLUME_FC: "libvirt finds no LUN by its port names: the host must find it, and make one"
        " device of its paths. A LUN that the host has is a LocalVolume (/dev/disk/by-id/...)",
        C.VOLUME_NVMEOF: "QEMU has no client for NVMe-oF, and libvirt neither connects the host to"
        " a subsystem nor tells the host's NQN. A namespace that the host has connected is a"
        " LocalVolume (/dev/disk/by-id/...)",
        C.VOLUME_SMBFS: "QEMU has no client for SMB, and libvirt mounts a share as a guest alone,"
        " with no password. A file on a share that the host has mounted is a LocalVolume",
        C.VIF_DVS: "it is a switch of vSphere's",
        C.VIF_HYPERV: "it is a switch of Hyper-V's",
        C.SERVER_GROUP: "a libvirt daemon is one host: the caller chooses the host of each machine",
        C.HOT_RENAME: "libvirt renames a domain only while it is off",
        C.MAINTENANCE: "a libvirt daemon has no mode in which it starts nothing; a note of this"
        " driver's own would hold back neither virsh nor autostart",
        C.HOST_POWER: "libvirt switches no host off for good",
    }
)
