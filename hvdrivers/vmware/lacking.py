"""Why vSphere has not what other hypervisors have: reasons that ``why_not()`` gives. Some are as
much a limit of the contract, which promises more than vSphere's word of the same name does.

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
        C.IMAGE_ISO: "ESXi takes an ISO as a disc, and an image of the contract's becomes a disk",
        **dict.fromkeys(
            (
                C.PAUSE,
                C.START_PAUSED,
                C.DETACH_PAUSED,
                C.NMI_PAUSED,
            ),
            "vSphere has no call that stops a machine's CPUs and keeps its memory where it is",
        ),
        **dict.fromkeys(
            (C.VOLUME_LOCAL, C.VOLUME_NFS, C.VOLUME_SMBFS),
            "a disk must be on a datastore of vSphere's: where it can be one, as an NFS export can,"
            " let its administrator mount it",
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
        C.HUGEPAGES: "ESXi backs memory by large pages where it has some, and 1 GiB pages too fall"
        " back to smaller ones; the contract's huge pages are promised",
        C.CPU_PINNING: "the contract's dedicated CPUs are set aside for one machine; vSphere's"
        " affinity (cpuAffinity) keeps no other machine off a CPU, and with high latency"
        " sensitivity vSphere itself chooses CPUs, and takes them from those that all share",
        C.MOVE_IN_STEPS: "the contract keeps the source, with the same UUID, until the move is"
        " confirmed; vCenter gives a second machine another instance UUID, by which the driver"
        " knows instances",
        C.INCREMENTAL_BACKUP: "the contract reads a point in time over NBD; vSphere tells which"
        " blocks have changed, and lets only VMware's disk library (VDDK) read a disk in use",
        C.VIF_HOSTDEV: "vSphere plugs a virtual function into a port group, which gives the VLAN,"
        " and this kind of VIF, as Neutron describes it, names none: NetworkVif(sriov=True) and"
        " DvsVif(sriov=True) ask for one",
        C.VOLUME_NVMEOF: "vSphere maps no NVMe namespace into a machine: a raw device mapping is"
        " of a SCSI LUN",
        C.ENCRYPTED_VOLUME: "the contract's encrypted volumes are LUKS with the caller's key;"
        " vSphere encrypts by storage policies, with keys of its own key provider",
        C.VOLUME_RBD: "ESXi has no Ceph client",
        C.SWAP_VOLUME: "vSphere moves a disk to another datastore, not onto a volume that is given",
        C.GUEST_FREEZE: "vSphere freezes file systems only for the moment of a snapshot (quiesce),"
        " and the contract's freeze lasts until it is ended",
        C.LIVE_MIGRATION_FORCE: "vMotion decides by itself when a machine goes over, and slows a"
        " busy guest down for it",
    }
)
