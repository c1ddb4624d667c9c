"""NICs that a machine has, plugged into other networks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

from hvdrivers.contract import errors
from hvdrivers.hints import ATTACHED, TAKEN_ADDRESS
from hvdrivers.models.vif import Vif
from hvdrivers.vmware.devices import by_mac, editing, removing
from hvdrivers.vmware.host_devices import cards_with_functions
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
    *,
    functions: Mapping[str, Any] = MappingProxyType({}),
) -> Rewiring:
    """Plug NICs that a machine has into other networks. A NIC keeps its address and its model,
    unless the VIF names others. NICs may take the addresses of each other.

    Args:
        functions: the adapter whose virtual function a NIC gets, by the VIF's id.

    Raises:
        NetworkNotFound: the machine has no such NIC.
        DeviceBusy: another NIC of the machine has the address, and keeps it.
    """
    cards = by_mac(hardware)
    places = {each.id: mac for mac, each in devices.vifs.items() if mac in cards}
    addresses = _addresses(places, cards.keys(), vifs)
    replaced: dict[str, tuple[str, VifRecord]] = {}
    removed: list[Any] = []
    edited: list[Any] = []
    added: list[Any] = []
    keys = set()
    for vif in vifs:
        old, mac = places[vif.id], addresses[vif.id]
        card, model = cards[old], devices.vifs[old].model
        keys.add(card.key)
        same = bool(cards_with_functions([card])) == (vif.id in functions)
        if same and vif.model in (None, model):
            card.backing = backings[vif.id]
            card.addressType, card.macAddress = "manual", mac
            card.connectable.startConnected = vif.active
            if vif.qos is not None:
                card.resourceAllocation = nic_limits(vif.qos)
            edited.append(editing(card))
        else:
            removed.append(removing(card))
            other = Plan(plan.slots)
            nic(
                other,
                vif.model_copy(update={"address": mac}),
                backings[vif.id],
                function=functions.get(vif.id),
                replaces=True,
            )
            added += other.changes
        replaced[old] = mac, VifRecord(id=vif.id, type=vif.type, model=vif.model or model)
    records = in_place(devices.vifs, replaced)
    return Rewiring(removed, [*edited, *added], records, frozenset(keys))


def _addresses(
    places: Mapping[str, str], taken: Collection[str], vifs: Sequence[Vif]
) -> dict[str, str]:
    """The address that each NIC has afterwards, by its VIF's id."""
    found: dict[str, str] = {}
    for vif in vifs:
        if vif.id not in places:
            raise errors.NetworkNotFound(f"the instance has no VIF {vif.id}", hint=ATTACHED)
        found[vif.id] = vif.mac.lower() if vif.address else places[vif.id]
    kept = set(taken) - {places[each] for each in found}
    for mac in found.values():
        if mac in kept:
            raise errors.DeviceBusy(
                f"the instance has a NIC with the MAC address {mac} already",
                retryable=False,
                hint=TAKEN_ADDRESS,
            )
        kept.add(mac)
    return found


def in_place(records: Mapping[str, _R], replaced: Mapping[str, tuple[str, _R]]) -> dict[str, _R]:
    """Records with others in the places of some: the order of NICs and disks is the guest's. All
    at once, as two may change places.

    Args:
        replaced: by the old address, the new one and the record that it has.
    """
    return dict(replaced.get(at, (at, each)) for at, each in records.items())
