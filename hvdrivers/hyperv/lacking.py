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
        C.CONSOLE_LOG: "Hyper-V keeps nothing of what a guest writes: its serial port is a named"
        " pipe, from which a program on the host must read at that moment; get_console() with"
        " ConsoleKind.SERIAL names the pipe, and screenshot() shows the screen",
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
        C.MOVE_IN_STEPS: "Move-VM moves a machine as a whole, and leaves nothing at the source that"
        " could be gone back to; live_migrate() moves a stopped instance too, and moves it back",
        C.START_PAUSED: "Hyper-V pauses only a machine that runs: a start has no such form, and"
        " by the time of Suspend-VM the guest has begun",
        C.SWAP_VOLUME: "Move-VMStorage makes new files and takes no existing volume",
        C.SHARES: "Hyper-V shares no directory with a guest",
        C.SERVER_GROUP: "the driver talks to one Hyper-V host: the caller chooses the host of each"
        " machine",
        C.HUGEPAGES: "Hyper-V chooses the size of the pages itself",
        C.CPU_PINNING: "Hyper-V's PowerShell module pins no virtual CPU; the CPU groups of the"
        " Host Compute Service come near",
        C.ENCRYPTED_VOLUME: "Windows opens no LUKS volume",
        C.VOLUME_NFS: "Hyper-V keeps no virtual disk on NFS",
        C.VOLUME_LOCAL: "a volume of this kind is named by a path of a Linux host; volume-pool"
        " attaches files of a Hyper-V host, and volume-iscsi and volume-fc its disks",
        C.VOLUME_RBD: "Windows Server comes with no Ceph client, and the driver installs none;"
        " a gateway shows an image of Ceph's by iSCSI, and volume-iscsi attaches that",
        C.VOLUME_NVMEOF: "Windows Server 2016 to 2022 have no NVMe-oF initiator, and no cmdlet that"
        " connects one is documented for 2025; volume-iscsi and volume-fc attach the same storage"
        " where its server offers them",
        C.VIF_HOSTDEV: "Hyper-V chooses the virtual function of a NIC itself, and takes no PCI"
        " address for it: HypervVif(sriov=True) asks for one",
        C.INCREMENTAL_BACKUP: "Hyper-V tracks changed blocks (resilient change tracking) and tells"
        " them by WMI, but shows a point in time to nobody else: there is no address from which"
        " other software could read it. Backup software that runs on the host can, and"
        " snapshot_to_image() copies the whole disk",
        C.SEV: "for Hyper-V's isolated machines (New-VM -GuestStateIsolationType SNP, Windows"
        " Server 2025) no documentation says what a host and a guest need, nor how a caller learns"
        " that the memory is encrypted; so the driver does not promise it",
        C.DETACH_PAUSED: "no documentation says whether Hyper-V takes a disk or a NIC from a paused"
        " machine; unpause() it first",
        C.NMI_PAUSED: "no documentation says whether a paused machine gets the interrupt when it"
        " goes on; unpause() it first",
        C.GUEST_FREEZE: "the host asks a guest to freeze only for the moment of a production"
        " checkpoint, and has no call that keeps it frozen",
    }
)
