"""What has changed of a machine since a snapshot: its size, its devices, our values. No call is
made here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pyVmomi import vim

from hvdrivers.vmware.devices import Slots, adding, by_address, by_mac, file_of, removing
from hvdrivers.vmware.reader import Row
from hvdrivers.vmware.record import DEVICES, MARK, RECORD, devices_in, path_of

WATCHED = (
    "config.name",
    "config.extraConfig",
    "config.hardware.device",
    "config.hardware.numCPU",
    "config.hardware.memoryMB",
    "config.cpuHotAddEnabled",
    "config.memoryHotAddEnabled",
)
"""What a machine and a snapshot are read with."""
_OURS = (MARK, RECORD, DEVICES)


def _values(row: Row) -> dict[str, str]:
    found = {each.key: each.value for each in row.get("config.extraConfig") or ()}
    return {key: found.get(key, "") for key in _OURS}


def reverted(now: Row, then: Row) -> bool:
    """Whether the machine has the snapshot's own values: it has been reverted, and no more."""
    return _values(now) == _values(then)


def same_hardware(now: Row, then: Row) -> bool:
    """Whether memory of then can go on with the hardware of now."""
    return _hardware(now) == _hardware(then)


def _hardware(row: Row) -> tuple[object, ...]:
    devices = row.get("config.hardware.device") or ()
    return (
        row.get("config.hardware.numCPU"),
        row.get("config.hardware.memoryMB"),
        frozenset(by_address(devices)),
        frozenset(by_mac(devices)),
    )


def changed_since(now: Row, then: Row) -> Any:
    """The ConfigSpec that makes a machine, reverted to ``then``, what it is now; None: nothing."""
    spec = vim.vm.ConfigSpec()
    for field, path in (
        ("name", "config.name"),
        ("numCPUs", "config.hardware.numCPU"),
        ("memoryMB", "config.hardware.memoryMB"),
        ("cpuHotAddEnabled", "config.cpuHotAddEnabled"),
        ("memoryHotAddEnabled", "config.memoryHotAddEnabled"),
    ):
        if now.get(path) != then.get(path):
            setattr(spec, field, now.get(path))
    old = _values(then)
    extra = [
        vim.option.OptionValue(key=key, value=value)
        for key, value in _values(now).items()
        if value != old[key]
    ]
    changes = _changes(now, then)
    if extra:
        spec.extraConfig = extra
    if changes:
        spec.deviceChange = changes
    return spec if extra or changes or _sized(spec) else None


def _sized(spec: Any) -> bool:
    names = ("name", "numCPUs", "memoryMB", "cpuHotAddEnabled", "memoryHotAddEnabled")
    return any(getattr(spec, name) is not None for name in names)


def _changes(now: Row, then: Row) -> list[Any]:
    """Device changes: NICs, and disks that are not the machine's own."""
    have = now.get("config.hardware.device") or ()
    had = then.get("config.hardware.device") or ()
    own = own_in(now).keys()
    slots = Slots(had)
    gone, come = [], []
    here = {key: disk for key, disk in _disks(have).items() if key[0] not in own}
    there = {key: disk for key, disk in _disks(had).items() if key[0] not in own}
    gone += [removing(disk) for key, disk in there.items() if key not in here]
    for (address, _), disk in here.items():
        if (address, file_of(disk)) not in there:
            disk.controllerKey = slots.controller_of(address)
            disk.key = slots.key()
            disk.backing.parent = None
            come.append(adding(disk))
    cards, before = by_mac(have), by_mac(had)
    gone += [removing(card) for mac, card in before.items() if mac not in cards]
    for mac, card in cards.items():
        if mac not in before:
            card.key = slots.key()
            card.controllerKey = card.unitNumber = None
            come.append(adding(card))
    return [*slots.added, *gone, *come]


def _disks(devices: Iterable[Any]) -> dict[tuple[str, str | None], Any]:
    return {
        (address, file_of(disk)): disk
        for address, disk in by_address(devices).items()
        if isinstance(disk, vim.vm.device.VirtualDisk)
    }


def own_in(row: Row) -> Mapping[str, str]:
    """The roles of the disks that surely are the machine's own."""
    return devices_in(_with_record(row, "config.hardware.device", "config.instanceUuid")).sure


def shuffled(row: Row) -> bool:
    """Whether somebody has moved one of the machine's own disks to another address."""
    return own_in(row) != devices_in(_with_record(row)).own


def _with_record(row: Row, *paths: str) -> Row:
    values = {path: row.get(path) for path in paths}
    return Row(row.obj, {**values, path_of(DEVICES): _values(row)[DEVICES]})
