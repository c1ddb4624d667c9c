"""Why Hyper-V has not what other hypervisors have: reasons that ``why_not()`` gives.

What is not named here the hypervisor may well have, and the driver does not offer it yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from hvdrivers.contract.capabilities import Capability as C  # noqa: N817 - named on each line

LACKING: Mapping[C, str] = MappingProxyType(
    {
        **dict.fromkeys(
            (
                C.CONSOLE_VNC,
                C.CONSOLE_SPICE,
                C.CONSOLE_MKS,
                C.CONSOLE_WEBMKS,
            ),
            "Hyper-V shows a screen by RDP only",
        ),
        C.IMAGE_ISO: "Hyper-V takes an ISO as a disc, not as a disk",
        C.HOT_RESIZE_CPU: "Hyper-V changes the number of CPUs only while the machine is off",
        **dict.fromkeys(
            (C.VOLUME_VMDK, C.VOLUME_FCD),
            "it is a disk of vSphere's datastores",
        ),
        **dict.fromkeys(
            (
                C.VIF_BRIDGE,
                C.VIF_TAP,
                C.VIF_MACVTAP,
                C.VIF_VHOSTUSER,
                C.VIF_VDPA,
            ),
            "it is a device of a Linux host",
        ),
        C.VIF_OVS: "Open vSwitch on Windows is an extension of a virtual switch: name that switch",
        C.VIF_DVS: "it is a switch of vSphere's",
        C.VIF_USER: "a NIC of Hyper-V's is plugged into a virtual switch",
        C.LIVE_MIGRATION_FORCE: "Hyper-V ends the copying itself after some rounds, and has no call"
        " for it",
        C.START_PAUSED: "Hyper-V pauses only a machine that runs: a start has no such form, and"
        " by the time of Suspend-VM the guest has begun",
        C.SWAP_VOLUME: "Move-VMStorage makes new files and takes no existing volume",
        C.SHARES: "Hyper-V shares no directory with a guest",
        C.HUGEPAGES: "Hyper-V chooses the size of the pages itself",
        C.CPU_PINNING: "Hyper-V's PowerShell module pins no virtual CPU; the CPU groups of the"
        " Host Compute Service come near",
        C.ENCRYPTED_VOLUME: "Windows opens no LUKS volume",
        C.VOLUME_NFS: "Hyper-V keeps no virtual disk on NFS",
    }
)
