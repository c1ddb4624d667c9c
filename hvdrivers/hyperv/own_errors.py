"""Errors that the driver's own scripts raise (``Stop-Hv``): the class, and what a caller can do.

One id has one cause.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from hvdrivers.contract import errors as e
from hvdrivers.hints import (
    ANOTHER_DISK,
    AT_STORAGE,
    ATTACHED,
    BOOTS,
    CALL_AGAIN,
    DEVICES,
    EVICTED,
    LARGER_DISK,
    NO_MEMORY,
    NO_SHRINKING,
    OTHER_HARDWARE,
    OTHER_SLICE,
    RESIZE_OFF,
    ROOM_IN_POOL,
    SAME_DISKS,
    SHARE_OUT,
    SMALLER_FLAVOR,
    SNAPSHOTS,
    TAKEN_ADDRESS,
    TAKEN_SNAPSHOT,
    VOLUME_ROOT,
    VOLUMES,
)

OWN: Mapping[str, type[e.HypervisorError]] = MappingProxyType(
    {
        "InstanceExists": e.InstanceExists,
        "InstanceNotFound": e.InstanceNotFound,
        "InvalidState": e.InvalidState,
        "Closed": e.InsufficientResources,
        "GoingDown": e.InsufficientResources,
        "NetworkNotFound": e.NetworkNotFound,
        "ManySwitches": e.NetworkNotFound,
        "VolumeNotFound": e.VolumeNotFound,
        "SnapshotNotFound": e.VolumeNotFound,
        "DiskBusy": e.DeviceBusy,
        "DiskInUse": e.DeviceBusy,
        "DeviceKept": e.DeviceBusy,
        "PortBusy": e.DeviceBusy,
        "AddressTaken": e.DeviceBusy,
        "HasSnapshots": e.DeviceBusy,
        "Remains": e.DeviceBusy,
        "GuestDoesNotStop": e.DeviceBusy,
        "BetweenStates": e.DeviceBusy,
        "ColdOnly": e.NotSupported,
        "Adopted": e.NotSupported,
        "Clustered": e.NotSupported,
        "Replica": e.NotSupported,
        "Checkpoints": e.NotSupported,
        "NoImage": e.InvalidRequest,
        "BootVolume": e.InvalidRequest,
        "TooSmall": e.InvalidRequest,
        "NameTaken": e.VolumeExists,
        "HasVolumes": e.InvalidRequest,
        "NoDevice": e.InsufficientResources,
        "NoSlot": e.InsufficientResources,
        "PoolFull": e.InsufficientResources,
        "TooLarge": e.InsufficientResources,
        "NoNic": e.NetworkNotFound,
        "SwitchGone": e.NetworkNotFound,
        "NotShown": e.VolumeNotFound,
        "VolumeGone": e.VolumeNotFound,
        "NoPool": e.VolumeNotFound,
        "NotAttached": e.VolumeNotFound,
        "OwnShare": e.VolumeNotFound,
        "ImageGone": e.VolumeNotFound,
        "OldNumber": e.DeviceBusy,
        "NotSaved": e.NotSupported,
        "OldGuest": e.NotSupported,
        "NoIde": e.NotSupported,
        "NoLimit": e.NotSupported,
        "StaysSo": e.NotSupported,
        "BootOrder": e.NotSupported,
        "VlanMode": e.NotSupported,
        "NoCheckpoint": e.NotSupported,
        "BadLabel": e.InvalidRequest,
        "SmallAtServer": e.InvalidRequest,
        "VolumeRoot": e.InvalidRequest,
        "SameDisk": e.InvalidRequest,
        "OtherDisks": e.InvalidRequest,
        "Headroom": e.InvalidRequest,
        "NoMemory": e.InvalidRequest,
        "SnapshotTaken": e.InvalidRequest,
        "NoSnapshot": e.InvalidRequest,
        "OtherHardware": e.InvalidRequest,
        "MachinesOn": e.InvalidState,
        "NoRight": e.PermissionDenied,
        "ShareRefused": e.PermissionDenied,
        "NoPicture": e.HypervisorFault,
        "ImageMissing": e.VolumeNotFound,
        "ImageEvicted": e.DeviceBusy,
        "UploadAlive": e.DeviceBusy,
        "ImageTooLarge": e.ImageRejected,
        "ImageRefused": e.ImageRejected,
        "Download": e.HypervisorFault,
        "NotMoved": e.HypervisorFault,
        "NotMerged": e.HypervisorFault,
        "FolderGone": e.HypervisorFault,
        "Changed": e.DeviceBusy,
        "NoAgent": e.GuestAgentUnavailable,
        "GuestRefused": e.PermissionDenied,
        "GuestDenied": e.PermissionDenied,
        "NoProgram": e.InvalidRequest,
        "NotStarted": e.HypervisorFault,
        "StillRuns": e.OutcomeUnknown,
        "NoAccount": e.InvalidRequest,
        "NoUser": e.InvalidRequest,
        "PasswordRefused": e.InvalidRequest,
        "Unsupported": e.NotSupported,
        "NoController": e.NotSupported,
        "NoFunctions": e.NotSupported,
        "ManyPaths": e.NotSupported,
        "SameName": e.NotSupported,
        "NoMultipath": e.NotSupported,
        "PathMissing": e.VolumeNotFound,
        "OffOnly": e.NotSupported,
        "NotUndone": e.OutcomeUnknown,
        "Deadline": e.OperationTimeout,
        "Stopped": e.OperationTimeout,
    }
)
"""Errors that the scripts raise themselves (``Stop-Hv``)."""

REMOVE_FIRST = frozenset({"OldNumber", "DiskInUse", "HasSnapshots", "Remains", "AddressTaken"})
"""Of those that are DeviceBusy: waiting does not help."""

SHARE = (
    "the user, and the computer account of the host, need full control of the share and of the"
    " file. A session by NTLM or Kerberos has no credentials to go on with (the 'double hop'): use"
    " authentication='credssp' or Kerberos delegation, or local paths"
)
_STOPPING = (
    "repeat it. Hyper-V gives a guest that it has asked to shut down five minutes, also if somebody"
    " calls the shutdown off in the guest; power_off() without graceful= cuts the power"
)
HINTS: Mapping[str, str] = MappingProxyType(
    {
        "InvalidState": "get_instance() shows the state that it has",
        "NetworkNotFound": "drivers make no virtual switches: Get-VMSwitch on the host shows those"
        " that there are",
        "NoNic": ATTACHED,
        "NotAttached": ATTACHED,
        "SwitchGone": "New-VMSwitch on the host makes one of that name; or reconnect() the NIC to"
        " another",
        "VolumeNotFound": f"{VOLUMES}; of a file on a share look at export and name",
        "VolumeGone": "bring it back where it was; or reconnect() or detach_volume() it",
        "NotShown": "export it at the storage server to the initiator that get_volume_connector()"
        " names",
        "NoPool": "default is the driver's own; pools= of the connection names others",
        "OwnShare": "name another file: this one is a disk or a volume of this host",
        "ImageMissing": "name an image that is on the host",
        "ImageGone": "name the image to boot",
        "ImageEvicted": EVICTED,
        "ImageTooLarge": LARGER_DISK,
        "ImageRefused": "say the format and the checksum that the image has; one that is based on"
        " another file becomes whole by qemu-img convert",
        "SnapshotNotFound": SNAPSHOTS,
        "SnapshotTaken": TAKEN_SNAPSHOT,
        "NoSnapshot": "revert to one that create_snapshot() has made",
        "NoMemory": NO_MEMORY,
        "OtherHardware": OTHER_HARDWARE,
        "NoCheckpoint": "power_off() it, and snapshot_to_image() its root disk",
        "NotSaved": "power_off() it instead",
        "DiskBusy": "detach_volume() it there, or power_off() that machine; or make it multiattach",
        "OldNumber": "power_off() it, which gives its saved memory up, and power_on() it",
        "DeviceKept": "end what uses the device on the host, or choose another one",
        "NoDevice": f"{DEVICES}; {OTHER_SLICE}",
        "PortBusy": "unplug_vif() it there, or power_off() that machine",
        "AddressTaken": TAKEN_ADDRESS,
        "NoSlot": f"detach_volume() or unplug_vif() one first; or {SHARE_OUT}",
        "PoolFull": ROOM_IN_POOL,
        "TooLarge": SMALLER_FLAVOR,
        "TooSmall": NO_SHRINKING,
        "SmallAtServer": "let it grow at its storage server first",
        "OtherDisks": SAME_DISKS,
        "Headroom": RESIZE_OFF,
        "ColdOnly": "power_off() it first",
        "NoIde": "leave bus out, or say scsi",
        "NoLimit": AT_STORAGE,
        "StaysSo": "detach_volume() it, and attach_volume() it in the other way",
        "BootOrder": "leave boot_index as it is",
        "SameDisk": ANOTHER_DISK,
        "BootVolume": BOOTS,
        "VolumeRoot": VOLUME_ROOT,
        "VlanMode": "Set-VMNetworkAdapterVlan -Untagged on the host first",
        "BadLabel": "give name=",
        "Unsupported": "leave that out",
        "OldGuest": "set it by guest_exec(), with a program that the guest has",
        "NoRight": "the user needs the right to shut the host down (SeRemoteShutdownPrivilege), as"
        " administrators have",
        "Changed": CALL_AGAIN,
        "Clustered": "take its role out of the cluster first: Remove-ClusterGroup -RemoveResources",
        "Replica": "adopt() it on the host that it runs on, or Remove-VMReplication first",
        "Adopted": "spawn() another instance from the image. destroy(keep=) leaves the disk of"
        " this one as a volume",
        "Checkpoints": "Set-VM -CheckpointType Standard on the host",
        "NoImage": "name the image to boot",
        "NoController": "power_off() it, and add one on the host: Add-VMScsiController",
        "ShareRefused": SHARE,
        "NoFunctions": "New-VMSwitch -EnableIov on an adapter with SR-IOV, which the firmware has"
        " switched on (Get-VMHost, Get-NetAdapterSriov), or sriov=False",
        "GuestDoesNotStop": _STOPPING,
        "BetweenStates": _STOPPING,
        "FolderGone": "bring the drive of folder= online again, or put the folder back. A new"
        " connection makes an empty one, and then the machines count as those of others",
        "NoMultipath": "Install-WindowsFeature Multipath-IO and Enable-MSDSMAutomaticClaim -BusType"
        " iSCSI, then start the host again; or leave enforce_multipath out",
        "PathMissing": "Test-NetConnection PORTAL -Port 3260 on the host tells which portal does"
        " not answer; or leave enforce_multipath out",
        "ManyPaths": "Install-WindowsFeature Multipath-IO and Enable-MSDSMAutomaticClaim -BusType"
        " iSCSI (mpclaim for Fibre Channel) make one disk of them, after the host has started"
        " again; or log the host out of all paths but one",
        "ManySwitches": "give each virtual switch of the host a name of its own: Rename-VMSwitch",
        "OffOnly": "power_off() the instance first",
        "NotMerged": "the log Microsoft-Windows-Hyper-V-VMMS-Admin on the host says why; a file"
        " that the disk is based on may be gone. destroy() again when the disks are merged",
        "Closed": "exit_maintenance() on that host, or another host",
        "GoingDown": "another host, or this one when it is up again. If somebody has called the"
        " shutdown off, it takes machines five minutes after it was asked for",
        "MachinesOn": "stop them, or move them to another host, first",
        "HasSnapshots": "delete the instance's snapshots first",
        "Remains": "destroy() removes what is left",
        "SameName": "leave them where they are: the driver keeps a machine's disks in one folder",
        "HasVolumes": "detach the volumes first",
        "GuestRefused": "give credentials= that the guest's Windows takes",
        "GuestDenied": "give credentials= of an administrator of the guest",
        "NoAccount": "give credentials=",
        "NoProgram": "name it by its absolute path in the guest",
        "NoUser": "name a local user of the guest",
        "PasswordRefused": "does the guest's policy take such a password?",
        "UploadAlive": "it can be evicted after 10 minutes without a write",
        "Download": "the host itself must reach the URL; image_route='push' fetches it from here",
        "DiskInUse": "detach it, or destroy the instances that have it, first",
    }
)
