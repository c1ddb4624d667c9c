"""Volumes and NICs that a stopped machine finds under another address from now on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.contract.storage import Reconnect
from hvdrivers.models.vif import Vif
from hvdrivers.models.volume import VolumeAttachment
from hvdrivers.vmware.base import Topic
from hvdrivers.vmware.deadline import rereading, timed
from hvdrivers.vmware.devices import by_address, by_mac, editing, file_of, removing
from hvdrivers.vmware.machines import HARDWARE
from hvdrivers.vmware.moved import Devices, VifRecord, VolumeRecord
from hvdrivers.vmware.record import devices_in, require_sure
from hvdrivers.vmware.specs import Plan, Source, nic, nic_limits, volume_disk, volume_disk_at
from hvdrivers.vmware.volumes import exclusive
from hvdrivers.vmware.wiring import backings_of

_R = TypeVar("_R", VifRecord, VolumeRecord)


@dataclass(frozen=True)
class Rewiring:
    """What a request changes so that NICs are plugged into other networks."""

    removed: Sequence[Any]
    changed: Sequence[Any]
    """Edits, and cards that are added. They come after what is removed."""
    vifs: Mapping[str, VifRecord]
    """All NICs of the machine afterwards, in their order."""
    cards: frozenset[int]
    """Keys of the cards that are wired anew."""


class VmwareReconnect(Topic, Reconnect):
    """Reconnect."""

    @timed
    @rereading
    def reconnect(
        self,
        uuid: UUID,
        *,
        volumes: tuple[VolumeAttachment, ...] = (),
        vifs: tuple[Vif, ...] = (),
        timeout: float | None = None,
    ) -> None:
        """Budget: 2 reads, 1 more and 1 request for each volume if there are volumes, 1
        reconfiguration."""
        del timeout
        found = self.machines.checked("reconnect", uuid, *HARDWARE)
        devices = devices_in(found.row)
        hardware = found.row.get("config.hardware.device") or ()
        surroundings = self.places.surroundings()
        plan = Plan(self.room.slots(hardware))
        wired = rewiring(devices, hardware, vifs, backings_of(vifs, surroundings), plan)
        sources = []
        for attachment in volumes:
            _place_of(attachment, devices, hardware)
            sources.append(self.volumes.source(attachment, surroundings))
        alone, shared = exclusive(volumes, sources)
        self.usage.require_free(uuid, volumes=alone, shared=shared)
        taken, records = _replaced(devices, hardware, volumes, sources, plan)
        changes = [*wired.removed, *taken, *plan.device_changes(), *wired.changed]
        after = devices.model_copy(update={"volumes": records, "vifs": wired.vifs})
        if changes:
            self.changes.change_devices(found, changes, after)


def rewiring(
    devices: Devices,
    hardware: Sequence[Any],
    vifs: Sequence[Vif],
    backings: Mapping[str, Any],
    plan: Plan,
) -> Rewiring:
    """Plug NICs that a machine has into other networks. A NIC keeps its address and its model,
    unless the VIF names others.

    Raises:
        NetworkNotFound: the machine has no such NIC.
        DeviceBusy: another NIC of the machine has the address.
    """
    cards = by_mac(hardware)
    places = {each.id: mac for mac, each in devices.vifs.items() if mac in cards}
    records = dict(devices.vifs)
    removed: list[Any] = []
    changed: list[Any] = []
    keys = set()
    given = set()
    for vif in vifs:
        old = places.get(vif.id)
        if old is None:
            raise errors.NetworkNotFound(f"the instance has no VIF {vif.id}")
        mac = vif.mac.lower() if vif.address else old
        if (mac != old and mac in cards) or mac in given:
            raise errors.DeviceBusy(
                f"the instance has a NIC with the MAC address {mac} already", retryable=False
            )
        given.add(mac)
        card, model = cards[old], devices.vifs[old].model
        keys.add(card.key)
        if vif.model in (None, model):
            card.backing = backings[vif.id]
            card.addressType, card.macAddress = "manual", mac
            card.connectable.startConnected = vif.active
            if vif.qos is not None:
                card.resourceAllocation = nic_limits(vif.qos)
            changed.append(editing(card))
        else:
            removed.append(removing(card))
            other = Plan(plan.slots)
            nic(other, vif.model_copy(update={"address": mac}), backings[vif.id], replaces=True)
            changed += other.changes
        record = VifRecord(id=vif.id, type=vif.type, model=vif.model or model)
        # in its place: the order of NICs is the guest's
        records = _in_place(records, old, mac, record)
    return Rewiring(removed, changed, records, frozenset(keys))


def _place_of(attachment: VolumeAttachment, devices: Devices, hardware: Sequence[Any]) -> str:
    disks = by_address(hardware)
    for address, volume in devices.volumes.items():
        if volume.id == attachment.volume_id and address in disks:
            require_sure(devices, address, "the volume")
            return address
    raise errors.VolumeNotFound(f"the instance has no volume {attachment.volume_id}")


def _replaced(
    devices: Devices,
    hardware: Sequence[Any],
    volumes: Sequence[VolumeAttachment],
    sources: Sequence[Source],
    plan: Plan,
) -> tuple[list[Any], dict[str, VolumeRecord]]:
    """The removals, with the additions in the plan; and all volumes of the machine afterwards."""
    disks = by_address(hardware)
    places = [_place_of(each, devices, hardware) for each in volumes]
    others = {file_of(disk) for address, disk in disks.items() if address not in places}
    records = dict(devices.volumes)
    taken = []
    for attachment, source, address in zip(volumes, sources, places, strict=True):
        if source.path in others:
            raise errors.InvalidRequest("the instance has this disk already, as another volume")
        others.add(source.path)
        old, before = disks[address], devices.volumes[address]
        kept = {"boot_index": before.boot_index} if attachment.boot_index is None else {}
        wanted = attachment.model_copy(update=kept)
        taken.append(removing(old))
        added = Plan(plan.slots)
        if attachment.bus in (None, before.bus):
            at = volume_disk_at(added, wanted, source, address=address, like=old)
        else:
            at = volume_disk(added, wanted, source)
        plan.changes += added.changes
        records = _in_place(records, address, at, added.volumes[at])
    return taken, records


def _in_place(records: Mapping[str, _R], old: str, now: str, record: _R) -> dict[str, _R]:
    """Records with another one in the place of one."""
    return {now if at == old else at: record if at == old else each for at, each in records.items()}
