"""What a machine remembers: three values of an instance's extraConfig, and one of a template's.

``hvdrivers.mark``
    What makes it ours, with the machine's own instance UUID: a clone has another one, so a clone
    of our machine is not ours. One line of a list needs nothing else.
``hvdrivers.record``
    Flavor, metadata and what else spawn was given.
``hvdrivers.devices``
    Which disk is which volume, by its address (see :func:`moved`), and which NIC is which VIF, by
    its MAC address. It changes in the same request as the device.
``hvdrivers.image``
    What makes a template ours, with its own instance UUID, as in the mark. A clone does not have
    it.

Values of tenants are inside JSON with ASCII escapes. An empty value deletes a key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar
from uuid import UUID

from pydantic import AwareDatetime, Field, ValidationError
from pyVmomi import vim

from hvdrivers.contract import errors
from hvdrivers.models.base import Model, Name
from hvdrivers.models.instance import Firmware, Flavor, InstanceSpec, Metadata
from hvdrivers.models.vif import NicModel, VifType
from hvdrivers.models.volume import DiskBus
from hvdrivers.vmware.devices import by_address, file_of
from hvdrivers.vmware.reader import Row

MARK = "hvdrivers.mark"
RECORD = "hvdrivers.record"
DEVICES = "hvdrivers.devices"
IMAGE = "hvdrivers.image"


def path_of(key: str) -> str:
    """The property path of one extraConfig value."""
    return f'config.extraConfig["{key}"]'


class Mark(Model):
    """Version 1. Unknown fields are an error: a later version must be told apart."""

    version: Literal[1] = 1
    uuid: UUID
    name: Name
    building: bool = False
    """spawn() is not finished."""
    rescued: bool = False
    restart: bool = False
    """An operation that has stopped the machine will start it again."""


class Record(Model):
    """What spawn was given and later calls have changed."""

    version: Literal[1] = 1
    flavor: Flavor
    metadata: Metadata = Field(default_factory=dict)
    firmware: Firmware
    image: str | None = None
    """Cache key of the image it was made from."""
    rescue_image: str | None = None
    """Cache key of the image that it is rescued with."""
    created_at: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))

    @classmethod
    def of(cls, spec: InstanceSpec, image: str | None) -> Record:
        """The record for a new instance."""
        return cls(
            flavor=spec.flavor,
            metadata=dict(spec.metadata),
            firmware=spec.firmware or Firmware.BIOS,
            image=image,
        )


class ImageMark(Model):
    """What a template is the template of."""

    version: Literal[1] = 1
    uuid: UUID
    key: str
    """Cache key of the image."""


class VolumeRecord(Model):
    """One attached volume."""

    id: str
    bus: DiskBus
    read_only: bool = False
    boot_index: int | None = None
    multiattach: bool = False
    native_id: str | None = None
    """The host's own id of the volume, if reconnect() or a serial has given it another one here."""

    @property
    def held(self) -> str:
        """The id by which two machines have the same volume."""
        return self.native_id or self.id


class VifRecord(Model):
    """One NIC of ours."""

    id: str
    type: VifType
    model: NicModel


class Devices(Model):
    """Which device is what."""

    version: Literal[1] = 1
    own: Mapping[str, str] = Field(default_factory=dict)
    """Role (``root``, ``ephemeral``, ``swap``, ``seed``) by address."""
    volumes: Mapping[str, VolumeRecord] = Field(default_factory=dict)
    """By address: ``scsi0:1``."""
    vifs: Mapping[str, VifRecord] = Field(default_factory=dict)
    """By MAC address, in the order in which they were plugged."""


def option(key: str, value: Model | None) -> Any:
    """One extraConfig value; None deletes it."""
    text = "" if value is None else _json(value)
    return vim.option.OptionValue(key=key, value=text)


def _json(value: Model) -> str:
    return json.dumps(value.model_dump(mode="json", exclude_defaults=True), ensure_ascii=True)


def mark_in(row: Row, uuid: UUID | None) -> Mark | None:
    """The mark of a machine with this instance UUID; None for a foreign machine."""
    text = value_in(row, MARK)
    if text is None or uuid is None:
        return None
    try:
        mark = Mark.model_validate_json(text)
    except ValidationError:
        return None
    return mark if mark.uuid == uuid else None


def image_in(row: Row) -> ImageMark | None:
    """The mark of a template of ours; None for any other machine, also for a clone of one."""
    text = value_in(row, IMAGE)
    if text is None:
        return None
    try:
        mark = ImageMark.model_validate_json(text)
    except ValidationError:
        return None
    return mark if str(mark.uuid) == row.get("config.instanceUuid") else None


def record_in(row: Row) -> Record:
    """The record of a machine of ours."""
    return _parsed(Record, value_in(row, RECORD))


def devices_in(row: Row) -> Devices:
    """The devices of a machine of ours. If its hardware was read too, disks that somebody has moved
    to other addresses are at those."""
    found = _parsed(Devices, value_in(row, DEVICES))
    hardware = row.get("config.hardware.device")
    return (
        found
        if hardware is None
        else moved(found, hardware, row.get("config.instanceUuid", "").lower())
    )


def moved(devices: Devices, hardware: Iterable[Any], uuid: str) -> Devices:
    """The record of a machine whose disks may have been moved by hand: vSphere's client can give a
    disk another unit, and the one that it had to another disk.

    Files decide, as far as their names say what they are: a disk of the machine's own is
    ``root.vmdk`` in a folder with the machine's UUID in its name, and a volume has its own name.
    Where no file, or more than one, fits better than that at the recorded address, the address
    decides.
    """
    files = {a: path for a, disk in by_address(hardware).items() if (path := file_of(disk))}
    free = {a for a in files if a not in devices.own and a not in devices.volumes}
    names = [(a, _is_role(role, uuid)) for a, role in devices.own.items()]
    names += [(a, _is_volume(each.held)) for a, each in devices.volumes.items()]
    lost = [(a, fits) for a, fits in names if a not in files or not fits(files[a])]
    free |= {a for a, _ in lost if a in files}
    now = {}
    for address, fits in lost:
        (found, *more) = [each for each in free if fits(files[each])] or [address]
        if not more and found != address:
            now[address] = found
    if not now:
        return devices
    gone = set(now.values()) - now.keys()  # what was recorded there is nowhere
    return devices.model_copy(
        update={
            "own": {now.get(a, a): role for a, role in devices.own.items() if a not in gone},
            "volumes": {
                now.get(a, a): each for a, each in devices.volumes.items() if a not in gone
            },
        }
    )


def _is_role(role: str, uuid: str) -> Callable[[str], bool]:
    def fits(path: str) -> bool:
        folder, _, name = path.rpartition("/")
        home = folder.rpartition("/")[2].rpartition("] ")[2]
        stem = _ENDING.sub("", name)
        known = _WORD.sub("", stem) == role
        known = known or (role == "root" and stem == home)  # a clone's, as its folder
        return bool(uuid) and uuid in home and known

    return fits


def _is_volume(volume_id: str) -> Callable[[str], bool]:
    pool, _, name = volume_id.partition("/")
    return lambda path: path.startswith(f"[{pool}] ") and path.endswith(f"/volumes/{name}.vmdk")


def value_in(row: Row, key: str) -> str | None:
    """One extraConfig value as text; None if it is not set."""
    found = row.get(path_of(key))
    value = getattr(found, "value", found)
    return value if isinstance(value, str) and value else None


_ENDING = re.compile(r"(-[0-9]{6})?\.[a-z]+$")
"""Of a disk's file: the number of a snapshot too."""
_WORD = re.compile(r"-[0-9a-f]{12}$")
"""What rescue() and rebuild() put behind a name."""
_M = TypeVar("_M", bound=Model)


def _parsed(model: type[_M], text: str | None) -> _M:
    try:
        return model.model_validate_json(text or "")
    except ValidationError as error:
        raise errors.HypervisorFault(
            "the machine's hvdrivers values in its extraConfig are missing or damaged",
            hint="another client has edited the machine; destroy() still removes it",
        ) from error
