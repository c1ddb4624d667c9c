"""NICs that a machine has, plugged into other networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from hvdrivers.contract import errors
from hvdrivers.models.vif import Vif
from hvdrivers.vmware.devices import by_mac, editing, removing
from hvdrivers.vmware.moved import Devices, VifRecord, VolumeRecord
from hvdrivers.vmware.specs import Plan, nic, nic_limits

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
        records = in_place(records, old, mac, record)
    return Rewiring(removed, changed, records, frozenset(keys))


def in_place(records: Mapping[str, _R], old: str, now: str, record: _R) -> dict[str, _R]:
    """Records with another one in the place of one."""
    return {now if at == old else at: record if at == old else each for at, each in records.items()}
