"""What a machine remembers: three values of an instance's extraConfig, and one of a template's.

``hvdrivers.mark``
    What makes it ours, with the machine's own instance UUID: a clone has another one, so a clone
    of our machine is not ours. One line of a list needs nothing else.
``hvdrivers.record``
    Flavor, metadata and what else spawn was given.
``hvdrivers.devices``
    Which disk is which volume, by its address (see ``moved.py``), and which NIC is which VIF, by
    its MAC address. It changes in the same request as the device.
``hvdrivers.image``
    What makes a template ours, with its own instance UUID, as in the mark. A clone does not have
    it.

Values of tenants are inside JSON with ASCII escapes. An empty value deletes a key.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar
from uuid import UUID

from pydantic import AwareDatetime, Field, ValidationError
from pyVmomi import vim

from hvdrivers.contract import errors
from hvdrivers.hints import VOLUME_ROOT
from hvdrivers.models.base import Model, Name
from hvdrivers.models.group import ServerGroup
from hvdrivers.models.instance import Firmware, Flavor, InstanceSpec, Metadata
from hvdrivers.vmware.devices import by_address
from hvdrivers.vmware.moved import Devices, moved
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
    sev: bool = False
    """The CPU encrypts its memory."""
    server_group: ServerGroup | None = None
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


def news_of_disks(row: Row) -> Devices | None:
    """What the record of the devices lacks, as it shall be written; None if nothing."""
    found = devices_in(row).model_copy(update={"doubtful": frozenset()})
    return found if found != _parsed(Devices, value_in(row, DEVICES)) else None


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


def root_disk(row: Row) -> Any:
    """The machine's own root disk.

    Raises:
        InvalidRequest: it has none, or another disk may be in its place.
        VolumeNotFound: somebody has detached it.
    """
    root = own_disk(row, "root")
    if root is None:
        raise errors.InvalidRequest(
            "the instance has no root disk of its own: it boots from a volume", hint=VOLUME_ROOT
        )
    return root


def own_disk(row: Row, role: str) -> Any | None:
    """One of the machine's own disks; None if it has none of this role.

    Raises:
        VolumeNotFound: it has one, and somebody has detached that.
        InvalidRequest: another disk may be in its place.
    """
    devices = devices_in(row)
    disks = by_address(row.get("config.hardware.device") or ())
    for address, each in devices.own.items():
        if each == role:
            if address not in disks:
                raise errors.VolumeNotFound(
                    f"the {role} disk of the instance is not attached", hint="attach it again"
                )
            require_sure(devices, address, f"the {role} disk")
            return disks[address]
    return None


def require_sure(devices: Devices, address: str, what: str) -> None:
    """Refuse to change a disk that may be another one.

    Raises:
        InvalidRequest: the driver cannot tell.
    """
    if address in devices.doubtful:
        raise errors.InvalidRequest(
            f"the disk at {address} may be another one than {what}: its file has another name",
            hint="somebody has put a disk in its place, or has moved it to another datastore",
        )


def value_in(row: Row, key: str) -> str | None:
    """One extraConfig value as text; None if it is not set."""
    found = row.get(path_of(key))
    value = getattr(found, "value", found)
    return value if isinstance(value, str) and value else None


_M = TypeVar("_M", bound=Model)


def _parsed(model: type[_M], text: str | None) -> _M:
    try:
        return model.model_validate_json(text or "")
    except ValidationError as error:
        raise errors.HypervisorFault(
            "the machine's hvdrivers values in its extraConfig are missing or damaged",
            hint="another client has edited the machine; destroy() still removes it",
        ) from error
