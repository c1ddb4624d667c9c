"""How a machine on the host becomes an instance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from hvdrivers.hyperv.naming import shown_mac
from hvdrivers.hyperv.record import Record, parse, when
from hvdrivers.messages import shown_label, shown_text
from hvdrivers.models.instance import Firmware, InstanceInfo
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import AttachedVif, NicModel
from hvdrivers.models.volume import AttachedVolume, DiskBus

MIB: Final = 1 << 20
GIB: Final = 1 << 30
_BUSES: Final = {"SCSI": DiskBus.SCSI, "IDE": DiskBus.IDE}


def info_of(found: Mapping[str, Any]) -> InstanceInfo:
    """An instance from what ``Read-HvInstance`` gives."""
    record = parse(found["record"])
    flavor = record.flavor
    actual = {"vcpus": found["cpus"], "memory_mib": found["memory"] // MIB}
    if any(getattr(flavor, name) != value for name, value in actual.items()):
        # somebody changed it by hand; a limit that is now too low would be refused
        limits: dict[str, int] = {}
        if flavor.max_vcpus is not None:
            limits["max_vcpus"] = max(flavor.max_vcpus, actual["vcpus"])
        if flavor.max_memory_mib is not None:
            limits["max_memory_mib"] = max(flavor.max_memory_mib, actual["memory_mib"])
        flavor = flavor.model_copy(update=actual | limits)
    return InstanceInfo(
        uuid=UUID(found["uuid"]),
        name=shown_label(found["name"]),
        state=InstanceState(found["state"]),
        flavor=flavor,
        metadata=record.metadata,
        volumes=volumes_of(found, record),
        vifs=vifs_of(found, record),
        firmware=Firmware.UEFI if found["generation"] == 2 else Firmware.BIOS,
        created_at=record.instance.created_at or when(found["created"]),
        image=record.image,
    )


def volumes_of(found: Mapping[str, Any], record: Record) -> tuple[AttachedVolume, ...]:
    """The volumes that the record names and the machine has."""
    drives = {each["path"].casefold(): each for each in found["drives"]}
    volumes = []
    for volume_id, (path, attachment) in record.volumes.items():
        drive = drives.get(path.casefold())
        if drive is None:
            continue
        place = f"{drive['number']}:{drive['place']}"
        volumes.append(
            AttachedVolume(
                volume_id=volume_id,
                device=f"{drive['bus'].lower()}:{place}",
                bus=_BUSES.get(drive["bus"]),
                address=f"{drive['number']}:0:0:{drive['place']}",
                read_only=attachment.read_only,
                boot_index=attachment.boot_index,
            )
        )
    return tuple(volumes)


def vifs_of(found: Mapping[str, Any], record: Record) -> tuple[AttachedVif, ...]:
    """The NICs that the record names and the machine has."""
    adapters = {each["name"]: each for each in found["nics"]}
    return tuple(
        AttachedVif(
            id=vif_id,
            type=nic.type,
            address=shown_mac(adapters[vif_id]["mac"]),
            device=shown_text(adapters[vif_id]["switch"]) or None,
            model=NicModel.NETVSC,
            sriov=bool(adapters[vif_id]["sriov"]),
        )
        for vif_id, nic in record.nics.items()
        if vif_id in adapters
    )
