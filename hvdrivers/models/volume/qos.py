"""Limits of a disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import Field, model_validator

from hvdrivers.models.base import Model

Rate = Annotated[int, Field(ge=1, lt=1 << 63)]
"""A limit per second. There is no zero: QEMU and Cinder read 0 as "no limit", which is None."""


class DiskQos(Model):
    """Limits per second, as QEMU's throttling has them (libvirt ``<iotune>``).

    ``total_*`` excludes ``read_*`` and ``write_*`` of the same unit. A ``*_max`` is the burst and
    needs its base, and is not below it. All of that is QEMU's own rule, checked here so that it
    fails before anything is attached.
    """

    total_bytes_sec: Rate | None = None
    """Bytes per second, reads and writes together."""
    read_bytes_sec: Rate | None = None
    write_bytes_sec: Rate | None = None
    total_iops_sec: Rate | None = None
    """Operations per second, reads and writes together."""
    read_iops_sec: Rate | None = None
    write_iops_sec: Rate | None = None
    total_bytes_sec_max: Rate | None = None
    """Bytes per second in a burst."""
    read_bytes_sec_max: Rate | None = None
    write_bytes_sec_max: Rate | None = None
    total_iops_sec_max: Rate | None = None
    """Operations per second in a burst."""
    read_iops_sec_max: Rate | None = None
    write_iops_sec_max: Rate | None = None
    size_iops_sec: Rate | None = None
    """Bytes that count as one operation: a larger request counts as several."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        limits = self.limits()
        if not limits.keys() - {"size_iops_sec"}:
            raise ValueError("no limit given; for no limits say qos=None")
        for unit in ("bytes_sec", "iops_sec", "bytes_sec_max", "iops_sec_max"):
            if f"total_{unit}" in limits and limits.keys() & {f"read_{unit}", f"write_{unit}"}:
                raise ValueError(f"total_{unit} excludes read_{unit} and write_{unit}")
        for name, burst in limits.items():
            if name.endswith("_max"):
                base = limits.get(name.removesuffix("_max"))
                if base is None or burst < base:
                    raise ValueError(f"{name} needs {name.removesuffix('_max')}, not above it")
        if self.size_iops_sec and not any(
            "iops_sec" in n for n in limits.keys() - {"size_iops_sec"}
        ):
            raise ValueError("size_iops_sec needs a limit of operations")
        return self

    def limits(self) -> dict[str, int]:
        """The limits that are set, by name."""
        return {
            name: value
            for name in type(self).model_fields
            if (value := getattr(self, name)) is not None
        }

    @classmethod
    def from_qos_specs(cls, specs: Mapping[str, object]) -> Self | None:
        """Read Cinder's front-end ``qos_specs``; None if they limit nothing.

        The keys that Nova honours (``libvirt/volume/volume.py``) are the fields of this class;
        others are for other consumers and passed over, as Nova does. 0 means no limit.
        """
        wanted = {}
        for name in cls.model_fields:
            value = specs.get(name)
            if value is None or value == "":
                continue
            text = str(value)
            if len(text) > 32:
                raise ValueError(f"{name} is no number of operations or bytes")
            if number := int(text):
                wanted[name] = number
        return cls(**wanted) if wanted.keys() - {"size_iops_sec"} else None
