"""What the driver must remember of an instance: lines of text in a file beside its disks.

::

    record {"created_at": …}
    metadata {"metadata": {…}}
    flavor {"vcpus": 2, …}
    image KEY
    volume ID PATH {"read_only": false, …}
    nic ID ADAPTER {"type": "hyperv", …}

The scripts on the host read the words in front and never the JSON, so that a volume comes and goes
in one request. The record is no part of the machine: neither a checkpoint nor somebody who edits
its notes changes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from pydantic import AwareDatetime

from hvdrivers.contract import errors
from hvdrivers.hyperv.naming import from_word
from hvdrivers.models.base import Model
from hvdrivers.models.instance import Flavor, Metadata
from hvdrivers.models.vif import NicModel, VifQos, VifType
from hvdrivers.models.volume import DiskBus, DiskQos


class VolumeRecord(Model):
    """How a volume is attached."""

    read_only: bool = False
    multiattach: bool = False
    boot_index: int | None = None
    bus: DiskBus | None = None
    qos: DiskQos | None = None


class NicRecord(Model):
    """How a NIC is wired."""

    type: VifType
    model: NicModel | None = None
    qos: VifQos | None = None
    active: bool = True
    """Its link is to be up."""


class InstanceRecord(Model):
    """The rest."""

    created_at: AwareDatetime | None = None


class MetadataRecord(Model):
    """The caller's metadata."""

    metadata: Metadata


def packed(model: Model) -> str:
    """A model as one line of JSON."""
    return json.dumps(
        model.model_dump(mode="json", exclude_none=True), ensure_ascii=True, separators=(",", ":")
    )


@dataclass(frozen=True)
class Record:
    """A record as it was read."""

    instance: InstanceRecord
    flavor: Flavor
    image: str | None = None
    """The key of the image that the root disk was made from."""
    metadata: Metadata = field(default_factory=dict)
    volumes: dict[str, tuple[str, VolumeRecord]] = field(default_factory=dict)
    """Path and attachment by volume id."""
    nics: dict[str, NicRecord] = field(default_factory=dict)
    """By VIF id."""


def parse(lines: Iterable[str]) -> Record:
    """Read a record.

    Raises:
        HypervisorFault: it is damaged.
    """
    instance: InstanceRecord | None = None
    flavor: Flavor | None = None
    image: str | None = None
    metadata: Metadata = {}
    volumes, nics = {}, {}
    try:
        for line in lines:
            kind, _, rest = line.partition(" ")
            if kind == "record":
                instance = InstanceRecord.model_validate_json(rest)
            elif kind == "metadata":
                metadata = MetadataRecord.model_validate_json(rest).metadata
            elif kind == "flavor":
                flavor = Flavor.model_validate_json(rest)
            elif kind == "image":
                image = rest
            elif kind in {"volume", "nic"}:
                name, where, text = rest.split(" ", 2)
                if kind == "volume":
                    attachment = VolumeRecord.model_validate_json(text)
                    volumes[from_word(name)] = from_word(where), attachment
                else:
                    nics[from_word(name)] = NicRecord.model_validate_json(text)
    except ValueError as error:
        raise errors.HypervisorFault("the instance's record on the host is damaged") from error
    if instance is None or flavor is None:
        raise errors.HypervisorFault("the instance's record on the host is missing")
    return Record(instance, flavor, image, metadata, volumes, nics)


def when(text: str) -> datetime:
    """A time that a script has written in .NET's round-trip form (seven digits of a second)."""
    head, _, fraction = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{head}.{fraction[:6] or '0'}+00:00")
