"""How an instance gets a volume, and how it has one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretBytes,
    field_validator,
    model_validator,
)

from hvdrivers.limits import SECRET_CHARACTERS
from hvdrivers.models.base import Identifier, Model, PrintableText
from hvdrivers.models.volume._text import unveil
from hvdrivers.models.volume.qos import DiskQos
from hvdrivers.models.volume.union import Volume


class DiskBus(StrEnum):
    """What the guest sees the disk on. None where it is optional: what the driver prefers."""

    VIRTIO = "virtio"
    SCSI = "scsi"
    SATA = "sata"
    IDE = "ide"
    USB = "usb"
    NVME = "nvme"


class CacheMode(StrEnum):
    """How the host caches (QEMU's names)."""

    NONE = "none"
    """Past the host's page cache; the guest's flushes reach the disk."""
    WRITETHROUGH = "writethrough"
    WRITEBACK = "writeback"
    DIRECTSYNC = "directsync"
    UNSAFE = "unsafe"
    """Flushes are ignored. A crash of the host loses data."""


class DeviceType(StrEnum):
    """What the guest sees it as."""

    DISK = "disk"
    CDROM = "cdrom"
    LUN = "lun"
    """A SCSI device with the guest's SCSI commands passed through."""


_PROVIDERS = {
    "luks": "luks",
    "luks2": "luks2",
    "plain": "plain",
    # Classes that volume types from before 2017 still name (os-brick encryptors/__init__.py).
    "luksencryptor": "luks",
    "luks2encryptor": "luks2",
    "cryptsetupencryptor": "plain",
}


def _provider(value: object) -> object:
    if not isinstance(value, str):
        return value
    # The class with or without its module, os-brick's or Nova's.
    return _PROVIDERS.get(value.rpartition(".")[2].lower(), value)


def _bounded_bytes(value: SecretBytes) -> SecretBytes:
    if len(value.get_secret_value()) > SECRET_CHARACTERS:
        raise ValueError(f"is longer than {SECRET_CHARACTERS} bytes")
    return value


def _encoded(secret: str) -> bytes:
    try:
        return secret.encode()
    except UnicodeEncodeError:  # which has the whole text in it
        raise ValueError("contains half of a surrogate pair") from None


class VolumeEncryption(Model):
    """Encryption on the hypervisor's side, in the shape of Cinder's encryption metadata
    (``GET /volumes/{id}/encryption``), and the secret itself if the caller has it.

    Either ``encryption_key_id`` names a key that the caller's key manager (Barbican) holds, or
    ``secret`` is there. A driver needs ``secret``; the Nova adapter resolves the one to the other.
    """

    provider: Annotated[Literal["luks", "luks2", "plain"], BeforeValidator(_provider)]
    control_location: Literal["front-end", "back-end"] = "front-end"
    """Who does it: the hypervisor host, or the storage (then a driver does nothing)."""
    cipher: PrintableText | None = None
    """``aes-xts-plain64``."""
    key_size: Annotated[int, Field(ge=64, le=4096)] | None = None
    """Bits."""
    encryption_key_id: Identifier | None = None
    secret: (
        Annotated[SecretBytes, BeforeValidator(unveil), AfterValidator(_bounded_bytes)] | None
    ) = None
    """The passphrase, as LUKS takes it: at most 64 KiB. Text is taken in UTF-8."""

    if TYPE_CHECKING:  # what may be passed, which is wider than what is kept

        def __init__(
            self,
            *,
            provider: str,
            control_location: Literal["front-end", "back-end"] = "front-end",
            cipher: str | None = None,
            key_size: int | None = None,
            encryption_key_id: str | None = None,
            secret: SecretBytes | bytes | str | None = None,
        ) -> None: ...

    @model_validator(mode="before")
    @classmethod
    def _veil(cls, value: object) -> object:
        # Wrapped before anything can fail: errors() quotes what was refused.
        if isinstance(value, Mapping) and isinstance(value.get("secret"), str | bytes):
            secret = value["secret"]
            secret = _encoded(secret) if isinstance(secret, str) else secret
            return {**value, "secret": SecretBytes(secret)}
        return value

    @model_validator(mode="after")
    def _has_key(self) -> Self:
        if self.control_location == "front-end" and not (self.secret or self.encryption_key_id):
            raise ValueError("no key: give secret or encryption_key_id")
        return self

    @property
    def by_hypervisor(self) -> bool:
        """Whether the hypervisor has anything to do: False where the storage does it."""
        return self.control_location == "front-end"

    @staticmethod
    def passphrase(key: bytes) -> SecretBytes:
        """The passphrase for a binary key of the key manager: its lower-case hexadecimal form,
        which is what Nova and os-brick give to LUKS (os-brick ``encryptors/base.py``)."""
        return SecretBytes(key.hex().encode("ascii"))


class VolumeAttachment(Model):
    """A volume, and how the guest shall see it.

    What Cinder said inside the volume is taken over where the attachment says nothing: ``qos``
    from ``qos_specs``, ``read_only`` from ``access_mode``, ``discard``. A driver reads the
    attachment only.
    """

    volume: Volume
    bus: DiskBus | None = None
    """None: what the driver prefers for this guest."""
    device: str | None = None
    """Hint: ``vdb``. The guest's kernel names devices in the order it finds them, so nothing
    relies on it. ``/dev/vdb`` is understood."""
    boot_index: Annotated[int, Field(ge=0, lt=1 << 31)] | None = None
    """Place in the boot order; 0 boots. Nova's -1 is None."""
    read_only: bool = False
    device_type: DeviceType = DeviceType.DISK
    cache: CacheMode | None = None
    """None: what the driver prefers."""
    discard: bool | None = None
    """Pass the guest's discards to the storage. None: the driver's choice."""
    qos: DiskQos | None = None
    encryption: VolumeEncryption | None = None
    tag: Annotated[PrintableText, Field(max_length=60)] | None = None
    """Name for the guest's metadata (Nova device tagging)."""
    delete_on_termination: bool = False
    """A note for the caller: drivers never delete a volume."""

    @field_validator("device", mode="after")
    @classmethod
    def _device(cls, value: str | None) -> str | None:
        if value is None:
            return None
        name = value.removeprefix("/dev/")
        if re.fullmatch(r"[A-Za-z][A-Za-z0-9]{0,31}", name, re.ASCII) is None:
            raise ValueError("is not a device name like vdb")
        return name

    @field_validator("boot_index", mode="before")
    @classmethod
    def _boot_index(cls, value: object) -> object:
        return None if value == -1 else value

    @field_validator("encryption", mode="before")
    @classmethod
    def _encryption(cls, value: object) -> object:
        # Cinder answers {} , or nulls, for a volume that is not encrypted.
        if isinstance(value, Mapping):
            value = {k: v for k, v in value.items() if v is not None}
            return value if value.get("provider") else None
        return value

    @model_validator(mode="after")
    def _take_over(self) -> Self:
        if self.qos is None and self.volume.qos is not None:
            self._assume("qos", self.volume.qos)
        if self.volume.read_only or self.device_type is DeviceType.CDROM:
            self._assume("read_only", True)
        if self.discard is None and self.volume.data.discard:
            self._assume("discard", True)
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.volume.data.encrypted and self.encryption is None:
            raise ValueError(
                "the volume is encrypted: give encryption (or, if its storage decrypts it, "
                "data.encrypted=False); the guest would overwrite it with plain data"
            )
        if self.device_type is DeviceType.CDROM and self.bus in {DiskBus.VIRTIO, DiskBus.NVME}:
            raise ValueError(f"there is no CD drive on {self.bus}: use sata, scsi, ide or usb")
        if self.device_type is DeviceType.LUN and self.bus not in {None, DiskBus.SCSI}:
            raise ValueError("SCSI pass-through (device_type=lun) needs bus=scsi")
        if self.volume.multiattach and self.cache not in {
            None,
            CacheMode.NONE,
            CacheMode.DIRECTSYNC,
        }:
            raise ValueError("a volume shared between machines must not be cached: cache=none")
        return self

    def _assume(self, name: str, value: object) -> None:
        # The model is frozen for everybody else; this is still its construction.
        object.__setattr__(self, name, value)
        self.__pydantic_fields_set__.add(name)

    @property
    def volume_id(self) -> str:
        """The identity that ``detach_volume()`` takes."""
        return self.volume.volume_id


class AttachedVolume(Model):
    """A volume that an instance has, as the hypervisor shows it."""

    volume_id: Identifier
    device: PrintableText | None = None
    """Name on the hypervisor's side (``vdb``); not what the guest calls it."""
    bus: DiskBus | None = None
    address: PrintableText | None = None
    """Where it is on that bus: a PCI address (``0000:00:05.0``), ``controller:bus:target:unit``."""
    read_only: bool = False
    size_bytes: Annotated[int, Field(ge=0)] | None = None
    """None: the hypervisor does not say."""
    boot_index: Annotated[int, Field(ge=0, lt=1 << 31)] | None = None
