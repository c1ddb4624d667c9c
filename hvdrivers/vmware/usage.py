"""Who has which volume and port: read from all machines of ours in one call."""

from __future__ import annotations

from collections.abc import Collection, Set
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.models.vif import is_port_id
from hvdrivers.vmware.devices import by_address, chain_of
from hvdrivers.vmware.luns import HOLDING, refuse_held
from hvdrivers.vmware.machines import STATE, Machines, uuid_in
from hvdrivers.vmware.moved import Devices
from hvdrivers.vmware.record import DEVICES, devices_in, mark_in, path_of

_DISKS = ("config.instanceUuid", "config.hardware.device")


@dataclass(frozen=True)
class User:
    """Another machine of ours."""

    uuid: UUID
    powered_on: bool
    devices: Devices


class Usage:
    """What other machines have."""

    def __init__(self, machines: Machines) -> None:
        self._machines = machines

    def _users(self, without: UUID, luns: Set[str]) -> list[User]:
        """The machines of ours beside one, also those of other clusters that share a datastore. No
        other machine, whoever's it is, may have one of these LUNs and run."""
        found = []
        paths = (*STATE, path_of(DEVICES), *(HOLDING if luns else ()))
        for row in self._machines.rows(*dict.fromkeys(paths), on_disks=True):
            refuse_held(row, without, luns)
            uuid = uuid_in(row)
            if uuid is None or uuid == without or mark_in(row, uuid) is None:
                continue
            with suppress(errors.HypervisorFault):  # damaged by somebody: it has no ports of ours
                on = row.get("runtime.powerState") == "poweredOn"
                found.append(User(uuid, on, devices_in(row)))
        return found

    def require_free(
        self,
        uuid: UUID,
        *,
        volumes: Collection[str] = (),
        shared: Collection[str] = (),
        vifs: Collection[str] = (),
        macs: Collection[str] = (),
        luns: Collection[str] = (),
    ) -> None:
        """Refuse what a powered-on machine has. One call, none if nothing is asked.

        Args:
            volumes: ids of volumes that only one powered-on machine may have.
            shared: ids of volumes that several may have, if all of them have them so.
            vifs: ids of NICs; those that are no port's are the instance's own matter.
            macs: MAC addresses.
            luns: ids of LUNs, which no other machine may have, whoever's it is.
        """
        ports = {each for each in vifs if is_port_id(each)}
        if not (volumes or shared or ports or macs or luns):
            return
        for user in self._users(uuid, frozenset(luns)):
            if not user.powered_on:
                continue
            for each in user.devices.volumes.values():
                if each.held in volumes or (each.held in shared and not each.multiattach):
                    raise errors.DeviceBusy(
                        f"a powered-on machine ({user.uuid}) has the volume {each.held}",
                        hint="detach it there, stop that machine, or make it multiattach",
                    )
            for mac, vif in user.devices.vifs.items():
                if vif.id in ports or mac in macs:
                    raise errors.DeviceBusy(
                        f"a powered-on machine ({user.uuid}) has the port {vif.id}"
                        if vif.id in ports
                        else f"a powered-on machine ({user.uuid}) has the MAC address {mac}",
                        hint="unplug it there, or stop that machine",
                    )

    def require_unattached(self, uuid: UUID | None, *paths: str) -> None:
        """Refuse disks that any machine has, ours or not, powered on or off, also a template, one
        of another cluster, and one whose disk is a child of it (a snapshot, a linked clone).
        One call."""
        for row in self._machines.rows(*_DISKS, on_disks=True):
            devices: Any = row.get("config.hardware.device") or ()
            if uuid_in(row) == uuid:
                continue
            for each in by_address(devices).values():
                used = chain_of(each).intersection(paths)
                if used:
                    raise errors.DeviceBusy(
                        f"a machine ({row.get('config.instanceUuid')}) has the disk {min(used)}",
                        hint="detach it there",
                        retryable=False,
                    )

    def require_nobodys(self, uuid: UUID | None, *folders: str) -> None:
        """Refuse if another machine has a disk in one of these folders, or a child of one. One
        call."""
        begins = tuple(f"{each}/" for each in folders)
        for row in self._machines.rows(*_DISKS, on_disks=True):
            if uuid_in(row) == uuid:
                continue
            devices: Any = row.get("config.hardware.device") or ()
            for each in by_address(devices).values():
                used = next((path for path in chain_of(each) if path.startswith(begins)), None)
                if used is not None:
                    raise errors.DeviceBusy(
                        f"another machine ({row.get('config.instanceUuid')}) has the disk {used}",
                        hint="detach it there, or move it there to another folder",
                        retryable=False,
                    )
