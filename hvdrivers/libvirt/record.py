"""What an instance's domain remembers of its spec: one JSON text in the domain's metadata.

Libvirt keeps foreign XML namespaces of a domain untouched. Values of tenants are inside JSON with
ASCII escapes, so that no line break, markup or control character of theirs meets an XML parser.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Literal

from pydantic import AwareDatetime, Field, ValidationError

from hvdrivers.contract import errors
from hvdrivers.libvirt.xml import Element, el
from hvdrivers.models.base import Model, Name
from hvdrivers.models.instance import Firmware, Flavor, InstanceSpec, Metadata

NAMESPACE = "https://hvdrivers.org/xmlns/libvirt/1"
PREFIX = "hvdrivers"
STATE_NAMESPACE = "https://hvdrivers.org/xmlns/libvirt/state/1"
"""Of an element that never exists: its removal is an event that says "the saved memory has been
thrown away", for which libvirt has none."""


class Record(Model):
    """Version 1. A later version must still be read by this one: unknown fields are an error."""

    version: Literal[1] = 1
    name: Name
    flavor: Flavor
    metadata: Metadata = Field(default_factory=dict)
    firmware: Firmware = Firmware.BIOS
    image: str | None = None
    """Cache key of the image it was made from."""
    created_at: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))

    @classmethod
    def of(cls, spec: InstanceSpec, image: str | None, default: Firmware) -> Record:
        """The record for a new instance."""
        return cls(
            name=spec.name,
            flavor=spec.flavor,
            metadata=dict(spec.metadata),
            firmware=spec.firmware or default,
            image=image,
        )

    def element(self) -> Element:
        """As libvirt's setMetadata() takes it."""
        return el("instance", self._json())

    def qualified(self) -> Element:
        """As it stands below ``<metadata>`` in a domain's XML."""
        return el(f"{{{NAMESPACE}}}instance", self._json())

    def _json(self) -> str:
        return json.dumps(self.model_dump(mode="json"), ensure_ascii=True)


def record_in(domain: Element) -> Record:
    """The record in a domain's XML."""
    found = domain.find(f"metadata/{{{NAMESPACE}}}instance")
    try:
        return Record.model_validate_json(found.text or "" if found is not None else "")
    except ValidationError as error:
        raise errors.HypervisorFault(
            "the domain's hvdrivers metadata is missing or damaged",
            hint="somebody has edited the domain; destroy() still removes it",
        ) from error
