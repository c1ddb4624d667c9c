"""Lists of machines, ours and others', in one call; and one machine in full."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from hvdrivers.models.instance import (
    Firmware,
    ForeignInstance,
    InstanceInfo,
    InstanceSummary,
)
from hvdrivers.models.vif import AttachedVif
from hvdrivers.models.volume import AttachedVolume
from hvdrivers.vmware.devices import by_address, by_mac, size_of
from hvdrivers.vmware.host_devices import cards_with_functions
from hvdrivers.vmware.machines import STATE, Machine, Machines, state_of, uuid_in
from hvdrivers.vmware.moved import Devices, VifRecord
from hvdrivers.vmware.names import unescaped
from hvdrivers.vmware.record import (
    DEVICES,
    IMAGE,
    RECORD,
    devices_in,
    image_in,
    mark_in,
    path_of,
    record_in,
)

FULL = (
    path_of(RECORD),
    path_of(DEVICES),
    "config.hardware.device",
    "config.hardware.numCPU",
    "config.hardware.memoryMB",
    "config.firmware",
)
"""What one machine in full is read from."""
_SIZE = ("config.hardware.numCPU", "config.hardware.memoryMB")


class Listing:
    """Looks at machines."""

    def __init__(self, machines: Machines) -> None:
        self._machines = machines

    def instance(self, uuid: UUID) -> InstanceInfo:
        """One machine in full. 2 calls, 1 for one that this driver has seen before."""
        return info_of(self._machines.get(uuid, *FULL))

    def instances(self) -> Sequence[InstanceSummary]:
        """The machines of ours."""
        found = []
        for row in self._machines.rows(*STATE, *_SIZE):
            uuid = uuid_in(row)
            mark = mark_in(row, uuid)
            if mark is not None and uuid is not None:
                self._machines.known.put(uuid, row.obj, row)
                found.append(
                    InstanceSummary(
                        uuid=uuid,
                        name=mark.name,
                        state=state_of(row.get("runtime.powerState"), mark),
                        vcpus=row.get("config.hardware.numCPU", 1),
                        memory_mib=row.get("config.hardware.memoryMB", 0),
                        server_group=mark.server_group,
                    )
                )
        return found

    def foreign(self) -> Sequence[ForeignInstance]:
        """The machines of others, without our templates."""
        found = []
        for row in self._machines.rows(*STATE, path_of(IMAGE), "name"):
            uuid = uuid_in(row)
            if uuid is not None and mark_in(row, uuid) is None and image_in(row) is None:
                state = state_of(row.get("runtime.powerState"), None)
                name = unescaped(row.get("name", ""))
                found.append(ForeignInstance(uuid=uuid, name=name, state=state))
        return found


def info_of(machine: Machine) -> InstanceInfo:
    """A machine that was read with ``FULL``."""
    row = machine.row
    record, devices = record_in(row), devices_in(row)
    hardware = row.get("config.hardware.device") or ()
    size = {
        "vcpus": row.get("config.hardware.numCPU", record.flavor.vcpus),
        "memory_mib": row.get("config.hardware.memoryMB", record.flavor.memory_mib),
    }
    return InstanceInfo(
        uuid=machine.uuid,
        name=machine.mark.name,
        state=machine.state,
        flavor=record.flavor.model_copy(update=size),
        metadata=record.metadata,
        volumes=attached_volumes(devices, hardware),
        vifs=attached_vifs(devices, hardware),
        firmware=Firmware.UEFI if row.get("config.firmware") == "efi" else Firmware.BIOS,
        created_at=record.created_at,
        image=record.image,
        server_group=machine.mark.server_group,
    )


def attached_volumes(devices: Devices, hardware: Any) -> tuple[AttachedVolume, ...]:
    """The volumes that the machine really has."""
    disks = by_address(hardware)
    return tuple(
        attached_volume(address, devices, size_of(disks[address]))
        for address in devices.volumes
        if address in disks and address not in devices.doubtful
    )


def attached_volume(address: str, devices: Devices, size: int | None) -> AttachedVolume:
    """One attached volume."""
    volume = devices.volumes[address]
    return AttachedVolume(
        volume_id=volume.id,
        device=address,
        bus=volume.bus,
        address=address,
        read_only=volume.read_only,
        size_bytes=size,
        boot_index=volume.boot_index,
    )


def attached_vifs(devices: Devices, hardware: Any) -> tuple[AttachedVif, ...]:
    """The NICs that the machine really has."""
    cards = by_mac(hardware)
    return tuple(
        attached_vif(mac, vif, cards[mac]) for mac, vif in devices.vifs.items() if mac in cards
    )


def attached_vif(mac: str, vif: VifRecord, card: Any) -> AttachedVif:
    """One NIC, as the machine has it."""
    sriov = bool(cards_with_functions([card]))
    model = None if sriov else vif.model
    return AttachedVif(id=vif.id, address=mac, type=vif.type, model=model, sriov=sriov)
