"""What hosts see of storage arrays: adapters, targets, LUNs. No call is made here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pyVmomi import vim

from hvdrivers.contract import errors
from hvdrivers.models.volume import (
    DiskBus,
    FibreChannelVolume,
    IscsiVolume,
    VolumeAttachment,
)
from hvdrivers.vmware.devices import bus_of
from hvdrivers.vmware.reader import Row
from hvdrivers.vmware.specs import Lun

LUNS, _TOPOLOGY = "config.storageDevice.scsiLun", "config.storageDevice.scsiTopology"
_ADAPTERS = "config.storageDevice.hostBusAdapter"
_MOUNTS, SYSTEM = "config.fileSystemVolume.mountInfo", "configManager.storageSystem"
STORAGE = ("name", LUNS, _TOPOLOGY, _ADAPTERS, _MOUNTS, SYSTEM)
"""What is read of a host."""
Iscsi, Fibre = vim.host.InternetScsiHba, vim.host.FibreChannelHba
_WWN = (1 << 64) - 1
_NVME = "nvme"
LunVolume = IscsiVolume | FibreChannelVolume


@dataclass(frozen=True)
class _Way:
    """One path to a LUN: the target as its transport names it, and the number behind it."""

    target: str
    lun: int


def meant(rows: Sequence[Row], volume: LunVolume) -> Lun:
    """The LUN that a volume is on all hosts.

    Raises:
        VolumeNotFound: a host does not see it, or sees another one in its place.
        InsufficientResources: a host has too few paths to it, or cannot use it now.
        InvalidRequest: the targets lead to several LUNs, to no disk, or to that of a datastore.
    """
    found: dict[str, Any] = {}
    for row in rows:
        seen = _on_the_ways(row, volume)
        if not seen:
            raise errors.VolumeNotFound(
                f"the host {row.get('name')} does not see the volume's LUN",
                hint="export it to the initiators of all hosts of the cluster",
            )
        if volume.data.enforce_multipath and len(seen) < 2:
            raise errors.InsufficientResources(
                f"the host {row.get('name')} has one path to the volume, and it is to have more",
                hint="let the host reach it by a second port of its storage server, or leave"
                " enforce_multipath out",
            )
        for lun in seen:
            _refuse_lun(row, lun, volume)
            found[lun.uuid] = lun
    if len(found) != 1:
        raise errors.InvalidRequest(
            "the targets of the volume lead to different LUNs:"
            f" {', '.join(sorted(each.canonicalName for each in found.values()))}",
            hint="name only targets of the volume, each with the number that it has there",
        )
    (lun,) = found.values()
    names = {way.target for way in _ways(volume)} if isinstance(volume, IscsiVolume) else set()
    return Lun(lun.uuid, lun.deviceName, size_of(lun), tuple(sorted(names)))


def size_of(lun: Any) -> int:
    """How many bytes a host sees of a LUN."""
    return int(lun.capacity.block) * int(lun.capacity.blockSize)


def refuse_wishes(attachment: VolumeAttachment) -> None:
    """Refuse what a mapping in physical mode does not take.

    Raises:
        NotSupported: iSER, another bus than SCSI, a read-only disk, limits, several machines.
    """
    if attachment.volume.driver_volume_type == "iser":
        raise errors.NotSupported(
            "the driver logs in over iSCSI, and not over iSER", hint="export the volume as iscsi"
        )
    if bus_of(attachment.bus) is not DiskBus.SCSI:
        raise errors.NotSupported("vSphere maps a LUN to a SCSI disk", hint="use bus=scsi")
    for refused, what, field in (
        (attachment.read_only, "a read-only disk", "read_only"),
        (attachment.qos is not None, "a disk with limits", "qos"),
        (attachment.volume.multiattach, "a disk of several machines", "multiattach"),
    ):
        if refused:
            raise errors.NotSupported(
                f"a LUN that is mapped is not {what}: the guest talks to its array itself",
                hint=f"leave {field} out",
            )


def _refuse_lun(row: Row, lun: Any, volume: LunVolume) -> None:
    name = lun.canonicalName
    if not isinstance(lun, vim.host.ScsiDisk):
        raise errors.InvalidRequest(
            f"{name} is no disk, but a {lun.lunType}",
            hint="give the number that the volume has at its target",
        )
    for mount in row.get(_MOUNTS) or ():
        extents = getattr(mount.volume, "extent", None) or ()
        if any(each.diskName == name for each in extents):
            raise errors.InvalidRequest(
                f"the LUN {name} holds the datastore {mount.volume.name!r}, and is no volume",
                hint="give the number that the volume has at its target",
            )
    if "ok" not in (lun.operationalState or ("ok",)):
        raise errors.InsufficientResources(
            f"the host {row.get('name')} cannot use the LUN {name} now"
            f" ({', '.join(lun.operationalState)})",
            hint="its paths are down, or somebody has detached it on the host",
        )
    if volume.data.wwn is not None and not _is_named(lun, volume.data.wwn):
        raise errors.VolumeNotFound(
            f"the LUN at the volume's address is {name}, and not {volume.data.wwn}",
            hint="give wwn as the storage server shows it, or leave it out",
        )


def _is_named(lun: Any, wwn: str) -> bool:
    """Whether a LUN has this name: ``naa.624a9370…``, ``3624a9370…`` as multipathd has it, or the
    digits alone."""
    said = wwn.lower().removeprefix("naa.").removeprefix("0x").replace(":", "")
    own = str(lun.canonicalName).lower().partition(".")[2]
    return said in {own, f"3{own}"}


def is_known(row: Row, volume: LunVolume) -> bool:
    """Whether the host surely has found the LUN: the volume tells its name."""
    wwn = volume.data.wwn
    seen = _on_the_ways(row, volume)
    return wwn is not None and bool(seen) and all(_is_named(each, wwn) for each in seen)


def kind_of(volume: LunVolume) -> Any:
    """The type of the adapters that a volume is behind."""
    return Iscsi if isinstance(volume, IscsiVolume) else Fibre


def _ways(volume: LunVolume) -> set[_Way]:
    if isinstance(volume, IscsiVolume):
        return {_Way(name_of(each.iqn), each.lun) for each in volume.targets}
    return {_Way(each.wwn, each.lun) for each in volume.targets}


def behind(row: Row, kind: Any) -> Iterator[tuple[Any, str, int]]:
    """Each LUN that a host sees through adapters of a kind, with its target and its number."""
    luns = {each.key: each for each in row.get(LUNS) or ()}
    adapters = {each.key for each in adapters_of(row, kind)}
    topology = row.get(_TOPOLOGY)
    for face in (topology.adapter if topology is not None else None) or ():
        if face.adapter not in adapters:
            continue
        for target in face.target or ():
            for each in target.lun or ():
                if each.scsiLun in luns:
                    yield luns[each.scsiLun], _target_of(target.transport), int(each.lun)


def name_of(target: str) -> str:
    """The name of an iSCSI target as it is compared: it has no capitals (RFC 7143 4.2.7.2)."""
    return target.lower()


def _target_of(transport: Any) -> str:
    if isinstance(transport, vim.host.FibreChannelTargetTransport):
        return wwn_of(transport.portWorldWideName)
    return name_of(str(getattr(transport, "iScsiName", "")))


def wwn_of(number: int) -> str:
    """A world-wide name as storage servers write it. The server has it as a signed number."""
    return f"{number & _WWN:016x}"


def _on_the_ways(row: Row, volume: LunVolume) -> list[Any]:
    """What a host sees on each path to the volume."""
    ways = _ways(volume)
    seen = behind(row, kind_of(volume))
    return [lun for lun, target, number in seen if _Way(target, number) in ways]


def adapters_of(row: Row, kind: Any) -> list[Any]:
    """The adapters of a host of this type, without those that speak NVMe: a namespace is no LUN."""
    found = [each for each in row.get(_ADAPTERS) or () if isinstance(each, kind)]
    return [each for each in found if each.storageProtocol != _NVME]


def initiator_of(row: Row) -> Any:
    """The adapter of a host that get_volume_connector() names."""
    for each in adapters_of(row, Iscsi):
        if each.iScsiName:
            return each
    raise errors.InsufficientResources(
        f"the host {row.get('name')} has no iSCSI adapter",
        hint="enable its software iSCSI adapter",
    )


def told_of(row: Row) -> list[Any]:
    """The targets that a host was told of one by one; not those that it has discovered."""
    static = Iscsi.StaticTarget.TargetDiscoveryMethod.staticMethod
    adapters = [each for each in adapters_of(row, Iscsi) if each.iScsiName][:1]
    return [
        each
        for adapter in adapters
        for each in adapter.configuredStaticTarget or ()
        if each.discoveryMethod in (None, static)
    ]
