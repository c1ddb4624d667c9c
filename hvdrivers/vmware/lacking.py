"""Why vSphere has not what other hypervisors have: reasons that ``why_not()`` gives.

What is not named here the hypervisor may well have, and the driver does not offer it yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from hvdrivers.contract.capabilities import Capability as C  # noqa: N817 - named on each line

LACKING: Mapping[C, str] = MappingProxyType(
    {
        C.CONSOLE_VNC: "ESXi has no VNC server for a guest's screen any more, since 7.0",
        **dict.fromkeys(
            (C.CONSOLE_SPICE, C.CONSOLE_RDP),
            "ESXi has no such server for a guest's screen",
        ),
        C.IMAGE_ISO: "ESXi takes an ISO as a disc, not as a disk",
        **dict.fromkeys(
            (
                C.PAUSE,
                C.START_PAUSED,
                C.DETACH_PAUSED,
                C.NMI_PAUSED,
            ),
            "vSphere cannot freeze a machine's CPUs",
        ),
        **dict.fromkeys(
            (C.VOLUME_LOCAL, C.VOLUME_NFS, C.VOLUME_SMBFS),
            "a disk must be on a datastore of vSphere's",
        ),
        **dict.fromkeys(
            (
                C.VIF_BRIDGE,
                C.VIF_OVS,
                C.VIF_TAP,
                C.VIF_MACVTAP,
                C.VIF_VHOSTUSER,
                C.VIF_VDPA,
            ),
            "it is a device of a Linux host",
        ),
        C.VIF_HYPERV: "it is a switch of Hyper-V's",
        C.VIF_USER: "a NIC of ESXi's is plugged into a port group; NAT is for VMware's"
        " desktop products",
        C.SHARES: "ESXi shares no directory with a guest",
        C.HUGEPAGES: "ESXi backs memory by large pages where it has some, and promises none: 1 GiB"
        " pages too fall back to smaller ones",
        C.CPU_PINNING: "vSphere sets no CPUs aside: affinity keeps no other machine off a CPU, and"
        " high latency sensitivity takes CPUs from those that all share",
        C.MOVE_IN_STEPS: "vCenter has one machine of an instance UUID, and gives a copy another:"
        " there is no second machine to go back to",
        C.INCREMENTAL_BACKUP: "vSphere tells which blocks have changed, but lets only VMware's disk"
        " library (VDDK) read them from a disk in use",
        C.VIF_HOSTDEV: "vSphere plugs a virtual function into a port group, which gives the VLAN,"
        " and this kind of VIF names none: NetworkVif(sriov=True) and DvsVif(sriov=True) ask for"
        " one",
        C.VOLUME_NVMEOF: "vSphere maps no NVMe namespace into a machine: a raw device mapping is"
        " of a SCSI LUN",
        C.ENCRYPTED_VOLUME: "vSphere encrypts by storage policies, not LUKS",
        C.VOLUME_RBD: "ESXi has no Ceph client",
        C.SWAP_VOLUME: "vSphere moves a disk to another datastore, not onto a volume that is given",
        C.GUEST_FREEZE: "vSphere freezes file systems only within a snapshot",
        C.LIVE_MIGRATION_FORCE: "vMotion decides by itself when a machine goes over",
    }
)
