"""Machines that others made, taken over as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from pydantic import TypeAdapter, ValidationError
from pyVmomi import vim

from hvdrivers.contract import errors
from hvdrivers.contract.driver import check_state
from hvdrivers.contract.lifecycle import Adopt
from hvdrivers.models.base import Name
from hvdrivers.models.instance import Firmware, Flavor, InstanceInfo
from hvdrivers.vmware.base import Topic
from hvdrivers.vmware.deadline import rereading, timed
from hvdrivers.vmware.devices import by_address, id_of
from hvdrivers.vmware.encrypted_memory import is_encrypted, telling
from hvdrivers.vmware.listing import FULL, info_of
from hvdrivers.vmware.machines import STATE, VERSION, Machine, state_of, uuid_in
from hvdrivers.vmware.moved import Devices
from hvdrivers.vmware.names import unescaped
from hvdrivers.vmware.reader import Row
from hvdrivers.vmware.record import DEVICES, MARK, RECORD, Mark, Record, mark_in, option

_PATHS = (*STATE, *FULL, "name", "config.template", VERSION)
_NAME: TypeAdapter[str] = TypeAdapter(Name)


class VmwareAdopt(Topic, Adopt):
    """Adopt."""

    @timed
    @rereading
    def adopt(
        self,
        uuid: UUID,
        *,
        name: str | None = None,
        metadata: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> InstanceInfo:
        """Budget: 3 calls and 1 reconfiguration."""
        del timeout
        paths = (*_PATHS, *telling(self.session))
        rows = self.reader.many(self.machines.search(uuid), *paths)
        rows = [row for row in rows if uuid_in(row) == uuid]
        if not rows:
            raise errors.InstanceNotFound("there is no machine with this UUID", instance=uuid)
        if len(rows) > 1:
            raise errors.InvalidRequest(
                f"{len(rows)} machines have this UUID",
                hint="unregister the copies, or give each a UUID of its own",
            )
        row = rows[0]
        if not self.places.holds(row.get("runtime.host")):
            raise errors.InstanceNotFound(
                "the machine is on another cluster or host of the vCenter",
                instance=uuid,
                hint="connect with compute= of that one",
            )
        mark = mark_in(row, uuid)
        state = state_of(row.get("runtime.powerState"), mark)
        check_state("adopt", state, uuid)
        if mark is not None:
            return info_of(Machine(uuid, row, mark, state))
        if row.get("config.template"):
            raise errors.InvalidRequest(
                "a template is no machine that can run",
                hint="make a machine of it first (MarkAsVirtualMachine), or deploy one from it",
            )
        label = _label(row, name)
        values = [
            option(MARK, Mark(uuid=uuid, name=label, sev=is_encrypted(row))),
            option(RECORD, _record(row, metadata or {})),
            option(DEVICES, _devices(row)),
        ]
        # of two clients at the same moment the second one finds it adopted
        config = vim.vm.ConfigSpec(changeVersion=row.get(VERSION), extraConfig=values)
        self.changes.reconfigure(row.obj, config)
        self.machines.known.put(uuid, row.obj)
        return info_of(self.machines.get(uuid, *FULL))


def _label(row: Row, name: str | None) -> str:
    if name is not None:
        return name
    try:
        return _NAME.validate_python(unescaped(row.get("name", "")))
    except ValidationError as error:
        raise errors.InvalidRequest(
            "the machine's own name is no valid label", hint="give name="
        ) from error


def _record(row: Row, metadata: Mapping[str, str]) -> Record:
    return Record(
        flavor=Flavor(
            vcpus=int(row.get("config.hardware.numCPU") or 1),
            memory_mib=max(16, int(row.get("config.hardware.memoryMB") or 16)),
        ),
        metadata=dict(metadata),
        firmware=Firmware.UEFI if row.get("config.firmware") == "efi" else Firmware.BIOS,
    )


def _devices(row: Row) -> Devices:
    """Its disks become the instance's own: the first one is the root disk."""
    found: dict[str, str] = {}
    ids: dict[str, str] = {}
    hardware: Any = row.get("config.hardware.device") or ()
    for address, disk in by_address(hardware).items():
        if isinstance(disk, vim.vm.device.VirtualDisk):
            found[address] = role = f"disk{len(found)}" if found else "root"
            if disk_id := id_of(disk):
                ids[role] = disk_id
    return Devices(own=found, ids=ids)
