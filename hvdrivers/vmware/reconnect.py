"""Volumes and NICs that a stopped machine finds under another address from now on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.contract.storage import Reconnect
from hvdrivers.driverkit import undoing
from hvdrivers.hints import ANOTHER_DISK, ATTACHED
from hvdrivers.models.vif import Vif
from hvdrivers.models.volume import DiskBus, VolumeAttachment
from hvdrivers.vmware.base import Topic
from hvdrivers.vmware.deadline import rereading, timed
from hvdrivers.vmware.devices import by_address, taking_away
from hvdrivers.vmware.luns import letting_go
from hvdrivers.vmware.machines import HARDWARE
from hvdrivers.vmware.moved import Devices, VolumeRecord
from hvdrivers.vmware.record import devices_in, require_sure
from hvdrivers.vmware.rewiring import in_place, rewiring
from hvdrivers.vmware.specs import Plan, Source, is_on, volume_disk, volume_disk_at
from hvdrivers.vmware.volumes import exclusive
from hvdrivers.vmware.wiring import backings_of


class VmwareReconnect(Topic, Reconnect):
    """Reconnect."""

    @timed
    @letting_go
    @rereading
    def reconnect(
        self,
        uuid: UUID,
        *,
        volumes: Sequence[VolumeAttachment] = (),
        vifs: Sequence[Vif] = (),
        timeout: float | None = None,
    ) -> None:
        """Budget: 2 reads, 1 more and 1 request for each volume if there are volumes, 1
        reconfiguration. 3 calls more if a NIC has a virtual function. For LUNs as
        attach_volume() and detach_volume()."""
        del timeout
        found = self.machines.checked("reconnect", uuid, *HARDWARE, "snapshot")
        devices = devices_in(found.row)
        hardware = found.row.get("config.hardware.device") or ()
        surroundings = self.places.surroundings()
        plan = Plan(self.room.slots(hardware))
        backings = backings_of(vifs, surroundings)
        functions = self.functions.of(uuid, vifs, backings, starts=False)
        wired = rewiring(devices, hardware, vifs, backings, plan, functions=functions)
        sources = []
        for attachment in volumes:
            _place_of(attachment, devices, hardware)
            sources.append(self.volumes.source(uuid, attachment, surroundings))
        alone, shared = exclusive(volumes, sources)
        self.usage.require_free(uuid, volumes=alone, shared=shared)
        gone, records = _replaced(devices, hardware, volumes, sources, plan)
        snapshots = found.row.get("snapshot") is not None
        taken = [taking_away(each, snapshots=snapshots) for each in gone]
        changes = [*wired.removed, *taken, *plan.device_changes(), *wired.changed]
        after = devices.model_copy(update={"volumes": records, "vifs": wired.vifs})
        if changes:
            kept = records.values()
            old = [each for each in devices.volumes.values() if each not in kept]
            with self.luns.releasing(gone, old), undoing() as undo:
                if any(each.lun is not None for each in sources):
                    self.claims.home(uuid, undo)
                self.changes.change_devices(found, changes, after, reserve=bool(functions))


def _place_of(attachment: VolumeAttachment, devices: Devices, hardware: Sequence[Any]) -> str:
    disks = by_address(hardware)
    for address, volume in devices.volumes.items():
        if volume.id == attachment.volume_id and address in disks:
            require_sure(devices, address, "the volume")
            return address
    raise errors.VolumeNotFound(f"the instance has no volume {attachment.volume_id}", hint=ATTACHED)


def _replaced(
    devices: Devices,
    hardware: Sequence[Any],
    volumes: Sequence[VolumeAttachment],
    sources: Sequence[Source],
    plan: Plan,
) -> tuple[list[Any], dict[str, VolumeRecord]]:
    """The disks that go, with the additions in the plan; and all volumes of the machine
    afterwards. A LUN is mapped to a SCSI disk, whatever bus the volume had."""
    disks = by_address(hardware)
    places = [_place_of(each, devices, hardware) for each in volumes]
    others = [disk for address, disk in disks.items() if address not in places]
    wanted: list[str] = []
    replaced: dict[str, tuple[str, VolumeRecord]] = {}
    taken = []
    for attachment, source, address in zip(volumes, sources, places, strict=True):
        named = source.lun.uuid if source.lun is not None else source.path
        if named in wanted or any(is_on(disk, source) for disk in others):
            raise errors.InvalidRequest(
                "the instance has this disk already, as another volume", hint=ANOTHER_DISK
            )
        wanted.append(named)
        old, before = disks[address], devices.volumes[address]
        kept = {"boot_index": before.boot_index} if attachment.boot_index is None else {}
        renewed = attachment.model_copy(update=kept)
        taken.append(old)
        added = Plan(plan.slots)
        here = source.lun is None or before.bus is DiskBus.SCSI
        if here and attachment.bus in (None, before.bus):
            at = volume_disk_at(added, renewed, source, address=address, like=old)
        else:
            at = volume_disk(added, renewed, source)
        plan.changes += added.changes
        replaced[address] = at, added.volumes[at]
    return taken, in_place(devices.volumes, replaced)
