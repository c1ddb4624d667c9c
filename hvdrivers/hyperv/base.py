"""What the topic files share: the session, and how a machine on the host becomes an instance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.contract.driver import OPERATIONS, check_state
from hvdrivers.contract.power import RebootKind
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.hyperv.config import HypervConfig
from hvdrivers.hyperv.library import Json
from hvdrivers.hyperv.naming import shown_mac
from hvdrivers.hyperv.record import Record, parse, when
from hvdrivers.hyperv.session import Session
from hvdrivers.messages import shown_label, shown_text
from hvdrivers.models.instance import Firmware, InstanceInfo
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import AttachedVif, NicModel
from hvdrivers.models.volume import AttachedVolume, DiskBus

MIB: Final = 1 << 20
GIB: Final = 1 << 30
_BUSES: Final = {"SCSI": DiskBus.SCSI, "IDE": DiskBus.IDE}


class Topic:
    """Base of the topic classes; the driver joins them over one object."""

    config: HypervConfig
    session: Session

    def _change(
        self,
        operation: str,
        script: str,
        uuid: UUID,
        arguments: Mapping[str, Json],
        timeout: float | None,
        *,
        variant: RebootKind | None = None,
        data: bytes | None = None,
    ) -> Any:
        """Run a script that changes an instance, if the contract allows that in its state. The
        script reads the state itself, under the instance's lock. One call."""
        rules = OPERATIONS[operation]
        row = rules.row_for({"variant": variant})
        assert row is not None  # noqa: S101 - an operation about an instance has one
        legal = [state.value for state in InstanceState if row[state].legal]
        sent = {"uuid": str(uuid), "legal": legal, **arguments}
        try:
            return self.session.call(script, sent, Deadline(timeout), data=data)
        except errors.InvalidState as error:
            if error.vendor_code == "Hv.InvalidState":
                check_state(operation, InstanceState(error.message), uuid, variant=variant)
            raise


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
        )
        for vif_id, nic in record.nics.items()
        if vif_id in adapters
    )
