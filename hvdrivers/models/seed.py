"""A seed disc that the caller has made, given to the machine as it is."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field, SecretBytes, StringConstraints, model_validator

from hvdrivers.models.base import Model
from hvdrivers.models.volume.attachment import DeviceType, DiskBus

SEED_LIMIT = 64 << 20
"""Bytes. Nova's config drive has 64 MiB too."""


class SeedDisc(Model):
    """A small read-only disc, byte for byte as the caller gives it: a config drive with vendor
    data, older versions or files, an answer file, an ignition disc. Give ``content`` or ``path``.

    The driver does not look into it. It lives and dies with the instance, as the disc does that is
    made from ``cloud_init``.
    """

    content: Annotated[SecretBytes, Field(min_length=512, max_length=SEED_LIMIT)] | None = None
    """The whole disc. It may hold passwords, so it is in no log and no repr."""
    path: Path | None = None
    """A file on the machine that the library runs on, at most 64 MiB."""
    label: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,32}$")] = "config-2"
    """The volume label that is in it: a note for the reader, the driver writes no label."""
    bus: DiskBus | None = None
    """None: what the driver prefers."""
    device_type: DeviceType = DeviceType.CDROM
    """``cdrom`` or ``disk``."""

    if TYPE_CHECKING:  # what may be passed, which is wider than what is kept

        def __init__(
            self,
            *,
            content: SecretBytes | bytes | None = None,
            path: Path | str | None = None,
            label: str = "config-2",
            bus: DiskBus | None = None,
            device_type: DeviceType = DeviceType.CDROM,
        ) -> None: ...

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.content is None) == (self.path is None):
            raise ValueError("give content or path, one of them")
        if self.device_type is DeviceType.LUN:
            raise ValueError("a seed disc is a cdrom or a disk")
        if self.device_type is DeviceType.CDROM and self.bus in {DiskBus.VIRTIO, DiskBus.NVME}:
            raise ValueError(f"there is no CD drive on {self.bus}: use sata, scsi, ide or usb")
        return self

    def read(self) -> bytes:
        """The whole disc.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is no regular file, or not of 512 bytes to 64 MiB.
        """
        if self.content is not None:
            return self.content.get_secret_value()
        assert self.path is not None  # noqa: S101 - the validator has seen to it
        with open(self.path, "rb", opener=_opened_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ValueError("a seed disc is a regular file")
            found = file.read(SEED_LIMIT + 1)
        if not 512 <= len(found) <= SEED_LIMIT:
            raise ValueError("a seed disc has 512 bytes to 64 MiB")
        return found


def _opened_at_once(path: str, flags: int) -> int:
    """For ``open()``: a named pipe would wait for a writer, and a terminal could become this
    process's own."""
    at_once = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
    return os.open(path, flags | at_once)
