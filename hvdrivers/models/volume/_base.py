"""The envelope of Cinder's ``connection_info``, and what every kind of volume has in common.

Three writers meet in that dictionary (nova 34, cinder 29):

* the Cinder driver fills ``data``;
* Cinder's manager adds ``qos_specs``, ``access_mode``, ``encrypted``, ``cacheable``, ``discard``,
  the block sizes and ``enforce_multipath`` to ``data`` (``volume/manager.py``
  ``_parse_connection_options``), and ``attachment_id`` beside it;
* Nova adds ``serial``, ``multiattach`` and the attachment's dates (``virt/block_device.py``,
  ``volume/cinder.py``), and os-brick ``device_path``.

The attachments API gives the same without ``data``, all keys on one level; both are read.

Unknown keys are refused, so a typing error is never silent, with two exceptions: keys that no
driver needs and that Nova or Cinder are known to write are dropped, by name (``IGNORED`` below and
``vendor_keys`` of each kind, each with who writes it). Null and empty text mean "not given"
everywhere.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, Field, SecretBytes, SecretStr, model_validator

from hvdrivers.models.base import Identifier, Model, PrintableText
from hvdrivers.models.volume._text import AbsolutePath
from hvdrivers.models.volume.qos import DiskQos

IGNORED: Mapping[str, str] = {
    "connector": "nova: the connector it was made for; cinder: ibm/storwize_svc fc",
    "status": "nova: volume/cinder.py _translate_attachment_ref",
    "instance": "nova: the same",
    "attached_at": "nova: the same",
    "detached_at": "nova: the same",
    "attach_mode": "cinder: attachments API",
    "id": "cinder: attachments API",
}
"""Keys beside ``data`` that are dropped, and who writes them."""

_ENVELOPE = frozenset({"driver_volume_type", "serial", "multiattach", "attachment_id"})
_NOT_SECRET = frozenset({"secret_type", "secret_uuid", "encryption_key_id"})
_SECRET_WORDS = ("pass", "pwd", "secret", "keyring", "token", "credential")


_DEPTH = 16
"""Levels of a connection_info; Cinder's drivers need four."""


def _veil(mapping: Mapping[object, object], depth: int = 0) -> dict[object, object]:
    if depth > _DEPTH:
        raise ValueError(f"has more than {_DEPTH} levels")
    # Whatever reads like a secret is wrapped before anything can fail: pydantic quotes the input
    # of what it refuses, and errors() does so even where str(error) does not.
    veiled: dict[object, object] = {}
    for key, value in mapping.items():
        if isinstance(value, str) and isinstance(key, str) and key not in _NOT_SECRET:
            # Mount options carry a password for SMB.
            hidden = any(word in key.lower() for word in _SECRET_WORDS) or (
                key == "options" and "pass" in value.lower()
            )
            veiled[key] = SecretStr(value) if hidden else value
        elif isinstance(value, Mapping) and not isinstance(value, BaseModel):
            veiled[key] = _veil(value, depth + 1)
        else:
            veiled[key] = value
    return veiled


def is_given(value: object) -> bool:
    """Whether a value of a connection_info says anything."""
    if isinstance(value, SecretStr):
        return bool(value.get_secret_value())
    return value is not None and value != ""


def prepare(value: object) -> object:
    """Bring a ``connection_info`` to the one form that the models read.

    Raises ValueError only for one that is nested too deeply.
    """
    if not isinstance(value, Mapping):
        return value
    envelope = {k: v for k, v in _veil(value).items() if is_given(v)}
    kind = envelope.get("driver_volume_type")
    if isinstance(kind, str):
        envelope["driver_volume_type"] = kind.lower()  # some drivers write iSCSI
    volume_id = envelope.pop("volume_id", None)
    data = envelope.get("data")
    if "data" not in envelope:
        data = {k: v for k, v in envelope.items() if k not in _ENVELOPE and k not in IGNORED}
        envelope = {k: v for k, v in envelope.items() if k in _ENVELOPE}
        if kind == "vstorageobject" and "id" in value:
            data["id"] = value["id"]  # here the disk's own, not the attachment's
    else:
        envelope = {k: v for k, v in envelope.items() if k not in IGNORED}
    if isinstance(data, Mapping):
        data = dict(data)
        if volume_id is not None:
            envelope.setdefault("serial", volume_id)
        for key in ("enforce_multipath",):  # the attachments API has it outside of data
            if key in envelope:
                data.setdefault(key, envelope.pop(key))
        for key in ("mount_point_base", "attachment_id"):
            if key in data:
                envelope.setdefault(key, data.pop(key))
        envelope["data"] = data
    return envelope


class VolumeData(Model):
    """Keys of ``data`` that any kind of volume may have."""

    vendor_keys: ClassVar[Mapping[str, str]] = {}
    """Keys of ``data`` that are dropped, and the Cinder driver that writes them."""

    volume_id: Identifier | None = None
    """The volume's id in Cinder."""
    access_mode: Literal["rw", "ro"] | None = None
    qos_specs: Mapping[str, Annotated[str, Field(coerce_numbers_to_str=True)]] | None = None
    """Front-end limits as Cinder writes them; ``Volume.qos`` is what they mean."""
    encrypted: bool = False
    """The data is encrypted on the hypervisor's side: attaching needs the key."""
    discard: bool = False
    """The storage takes discard (unmap) requests."""
    cacheable: bool = False
    """The host may cache it (os-brick's volume cache)."""
    logical_block_size: Annotated[int, Field(ge=512, lt=1 << 31)] | None = None
    """Bytes."""
    physical_block_size: Annotated[int, Field(ge=512, lt=1 << 31)] | None = None
    """Bytes."""
    device_path: AbsolutePath | None = None
    """Block device on the host, once os-brick or another tool has connected it. No driver uses it:
    drivers reach a volume themselves, and the connection does not say which host it was."""
    multipath_id: PrintableText | None = None
    """World-wide id of the multipath device, once connected."""
    enforce_multipath: bool = False
    """Fail rather than use a single path."""

    @model_validator(mode="before")
    @classmethod
    def _drop_null_and_vendor(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        veiled = _veil(value)
        return {k: v for k, v in veiled.items() if is_given(v) and k not in cls.vendor_keys}


class VolumeBase(Model):
    """One volume: how to reach it, and who it is.

    Make it with :func:`parse_connection_info` from what Cinder gives, or by hand.
    """

    driver_volume_type: str
    data: VolumeData
    serial: Identifier | None = None
    """The volume's id for the guest and for detach; Nova sets the Cinder id here."""
    multiattach: bool = False
    """Several machines may have it at once."""
    attachment_id: Identifier | None = None
    """Cinder's id of this attachment."""

    @model_validator(mode="before")
    @classmethod
    def _prepare(cls, value: object) -> object:
        return prepare(value)

    @model_validator(mode="after")
    def _has_identity(self) -> Self:
        if not (self.serial or self.data.volume_id or self._own_id()):
            raise ValueError(
                "the volume has no identity: set serial to its id (Nova and Cinder's attachments "
                "API do; a plain initialize_connection does not)"
            )
        _ = self.qos  # limits that contradict each other fail here, not at the first use
        return self

    def _own_id(self) -> str | None:
        """An identity that the kind of volume itself provides, if there is nothing better."""
        return None

    @property
    def volume_id(self) -> str:
        """The identity: ``serial``, else ``data.volume_id``, else what names it in its storage."""
        # serial first: after a volume was swapped or retyped, Nova keeps the id that the user
        # knows there, while data.volume_id is the Cinder driver's.
        found = self.serial or self.data.volume_id or self._own_id()
        if found is None:  # construction refuses that; model_construct() does not
            raise ValueError("the volume has no identity")
        return found

    @property
    def read_only(self) -> bool:
        """Whether Cinder attached it for reading only."""
        return self.data.access_mode == "ro"

    @property
    def qos(self) -> DiskQos | None:
        """The limits in ``qos_specs``; None if there are none."""
        return DiskQos.from_qos_specs(self.data.qos_specs or {})

    def to_connection_info(self) -> dict[str, object]:
        """The plain ``connection_info`` again, **with its secrets in clear**: for os-brick only.

        Keys with their default value are left out. Everything else (``repr``, ``str``,
        ``model_dump_json``) hides secrets, and so cannot be read back.
        """
        return {
            "driver_volume_type": self.driver_volume_type,
            **_plain(self, skip={"driver_volume_type"}),
        }


def _plain(model: BaseModel, skip: Collection[str] = ()) -> dict[str, object]:
    result: dict[str, object] = {}
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if name not in skip and value is not None and value != field.get_default():
            result[name] = reveal(value)
    return result


def reveal(value: object) -> object:
    """A value in plain types, secrets in clear."""
    if isinstance(value, SecretStr | SecretBytes):
        return value.get_secret_value()
    if isinstance(value, BaseModel):
        return _plain(value)
    if isinstance(value, Mapping):
        return {key: reveal(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [reveal(item) for item in value]
    return value if isinstance(value, bool | int | float) else str(value)
