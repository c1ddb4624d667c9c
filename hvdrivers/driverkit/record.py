"""The record: what a hypervisor must keep of an instance for this library.

A driver has no state of its own. What the hypervisor has no field for (the flavor, the caller's
metadata, the image) is one JSON text in a place that the hypervisor keeps with the machine: an
element in libvirt's metadata, an extraConfig value of vSphere, a line in Hyper-V's Notes.

The text is ASCII without line breaks, whatever a tenant put into it. Hosts are used by different
versions of this library at the same time, so a record has a version, and fields that this version
does not know are kept and written back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Self
from uuid import UUID

from pydantic import AwareDatetime, ConfigDict, Field, JsonValue, ValidationError

from hvdrivers.contract import errors
from hvdrivers.models.base import Model, Name
from hvdrivers.models.instance import Firmware, Flavor, InstanceSpec, Metadata

__all__ = ["Record", "line_in", "with_line"]

_VERSION = 1
_FLAVOR_FIELDS = frozenset(Flavor.model_fields)


class Record(Model):
    """What spawn() was given and later calls have changed.

    A driver that keeps more derives a class with further fields, each with a default.
    """

    model_config = ConfigDict(extra="allow")

    version: int = Field(default=_VERSION, le=_VERSION, ge=1)
    """Raised only when older versions of the library must not touch the instance any more."""
    name: Name
    flavor: Flavor
    metadata: Metadata = Field(default_factory=dict)
    firmware: Firmware = Firmware.BIOS
    image: str | None = None
    """Cache key of the image it was made from."""
    created_at: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))
    uuid: UUID | None = None
    """The instance that it was written for. A machine that others made as a copy has the record
    of its original, and is not ours. None where the hypervisor's own identity tells that."""
    flavor_extra: Mapping[str, JsonValue] = Field(default_factory=dict, exclude=True)
    """Fields of the flavor that this version does not know."""

    @classmethod
    def of(
        cls,
        spec: InstanceSpec,
        *,
        image: str | None = None,
        default_firmware: Firmware = Firmware.BIOS,
        **more: object,
    ) -> Self:
        """The record of a new instance.

        Args:
            image: cache key of the image.
            default_firmware: what the hypervisor prefers.
            more: further fields of a derived class.
        """
        made: Self = cls(
            name=spec.name,
            flavor=spec.flavor,
            metadata=dict(spec.metadata),
            firmware=spec.firmware or default_firmware,
            image=image,
            **more,
        )
        return made

    def belongs_to(self, uuid: UUID) -> bool:
        """Whether it was written for the machine with this UUID."""
        return self.uuid in {None, uuid}

    def encoded(self, *, limit: int | None = None) -> str:
        """As JSON text: ASCII, on one line.

        Args:
            limit: the most bytes that the hypervisor keeps.

        Raises:
            InvalidRequest: it is longer.
        """
        data = self.model_dump(mode="json", exclude_none=True)
        data["flavor"] |= dict(self.flavor_extra)
        text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
        if limit is not None and len(text) > limit:
            raise errors.InvalidRequest(
                f"the record of the instance would have {len(text)} bytes, and the hypervisor"
                f" keeps {limit}",
                hint="keep less in metadata",
            )
        return text

    @classmethod
    def decoded(cls, text: str | None) -> Self:
        """From the text that :meth:`encoded` gave.

        Args:
            text: None or empty where the hypervisor has none.

        Raises:
            HypervisorFault: it is missing, damaged, or of a later version.
        """
        try:
            return cls.model_validate(_tolerant(json.loads(text or "")))
        except (ValidationError, ValueError, RecursionError) as error:
            raise errors.HypervisorFault(
                "the library's record of the instance on the hypervisor is missing or damaged",
                hint="another client has edited it, or a later version of the library wrote it;"
                " destroy() still removes the instance",
            ) from error


def _tolerant(data: object) -> object:
    """Move fields of the flavor that this version does not know into ``flavor_extra``: a later
    version of the library added them, and ``Flavor`` refuses unknown fields."""
    if not isinstance(data, dict) or not isinstance(data.get("flavor"), dict):
        return data
    flavor = data["flavor"]
    extra = {key: value for key, value in flavor.items() if key not in _FLAVOR_FIELDS}
    known = {key: value for key, value in flavor.items() if key in _FLAVOR_FIELDS}
    return {**data, "flavor": known, "flavor_extra": extra}


# ---- a text that people write in, too ------------------------------------------------------------


def line_in(text: str, tag: str) -> str | None:
    """What the library keeps in a free text, such as Hyper-V's Notes.

    Args:
        tag: how its line begins: ``hvdrivers``.

    Returns:
        The rest of the line, or None if there is no such line. Of several the last counts.
    """
    found = [line for line in text.splitlines() if line.startswith(f"{tag}:")]
    return found[-1].removeprefix(f"{tag}:").strip() if found else None


def with_line(text: str, tag: str, value: str | None) -> str:
    """The free text with another value in the library's line; what people wrote stays.

    Args:
        tag: how the line begins.
        value: one line; None removes it.
    """
    if value is not None and len(value.splitlines()) > 1:
        raise ValueError("the value has more than one line")
    kept = [line for line in text.splitlines() if not line.startswith(f"{tag}:")]
    added = [] if value is None else [f"{tag}: {value}"]
    return "\n".join([*kept, *added])
