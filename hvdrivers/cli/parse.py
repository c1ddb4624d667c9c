"""Values on the command line: sizes, images, NICs, volumes, keys and values."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from hvdrivers.cli.report import BadUsageError

if TYPE_CHECKING:
    from pydantic import ValidationError

    from hvdrivers.contract.driver import ComputeDriver
    from hvdrivers.models.image import ImageRef
    from hvdrivers.models.vif import Vif
    from hvdrivers.models.volume import VolumeAttachment

_T = TypeVar("_T")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(?:i?B)?|B)?", re.IGNORECASE)
_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_SUFFIXES = frozenset({"raw", "qcow2", "vmdk", "vhd", "vhdx", "vdi", "iso"})
_NIC_SHORT = {"network": "network", "bridge": "bridge", "ovs": "bridge", "hyperv": "switch"}
_NIC_ALIASES = {"mac": "address", "pci": "pci_address"}
_VOLUME_ALIASES = {"readonly": "read_only", "boot": "boot_index"}


def _bytes(option: str, text: str, unit: str) -> float:
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise BadUsageError(
            f"{option}: {text!r} is not a size", hint="write it like 512MiB or 2GiB"
        )
    bare = text.strip()[-1].isdigit()
    return float(match[1]) * 1024.0 ** _UNITS[unit if bare else (match[2] or "").upper()]


def _whole(option: str, text: str, unit: str) -> int:
    count = _bytes(option, text, unit) / 1024 ** _UNITS[unit]
    if count != int(count):
        raise BadUsageError(f"{option}: {text!r} is not a whole number of {unit}iB")
    return int(count)


def mib(option: str, text: str) -> int:
    """MiB: a bare number is MiB already."""
    return _whole(option, text, "M")


def gib(option: str, text: str) -> int:
    """GiB: a bare number is GiB already."""
    return _whole(option, text, "G")


def pairs(option: str, texts: Iterable[str]) -> dict[str, str]:
    """``key=value``, repeated."""
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise BadUsageError(f"{option}: {text!r} is not KEY=VALUE")
        if key in found:
            raise BadUsageError(f"{option}: {key!r} is given twice")
        found[key] = value
    return found


def read_file(option: str, path: Path) -> bytes:
    """A file that the command line names."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadUsageError(f"{option}: {path}: {error.strerror}") from error


def checked(option: str, make: type[_T], value: Mapping[str, Any]) -> _T:
    """A model (or a union of them) from plain data, or a BadUsageError that names the option."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(make).validate_python(value)
    except ValidationError as error:
        raise BadUsageError(f"{option}: {problems(error)}") from None


def problems(error: ValidationError) -> str:
    """What a validation error says, without the values: they may be secrets."""
    return "; ".join(
        ": ".join(filter(None, (".".join(map(str, each["loc"])), each["msg"])))
        for each in error.errors(include_input=False, include_url=False, include_context=False)
    )


def image(
    text: str,
    *,
    image_format: str | None = None,
    checksum: str | None = None,
    option: str = "--image",
) -> ImageRef:
    """``PATH``, ``https://…`` or ``host:NAME``.

    The format is what ``--format`` says, or the end of the file's name: its owner said it there.
    It is never taken from the content; that is inspected against it.
    """
    from hvdrivers.models.image import ImageRef

    value: dict[str, Any]
    if text.startswith("host:"):
        if checksum is not None:
            raise BadUsageError("--checksum: an image on the host is the administrator's own")
        value = {"source": "host", "name": text.removeprefix("host:"), "format": image_format}
        return checked(option, ImageRef, value)  # type: ignore[arg-type] # a union, not a class
    remote = text.startswith(("http://", "https://"))
    if not remote and "://" in text:
        raise BadUsageError(f"{option}: images come from a file, http://, https:// or host:NAME")
    suffix = re.split(r"[?#]", text)[0].rpartition(".")[2].lower()
    if image_format is None and suffix not in _SUFFIXES:
        raise BadUsageError(
            f"{option}: the format of {text!r} is not known",
            hint=f"add --format {'|'.join(sorted(_SUFFIXES))}; it is never guessed from content",
        )
    if remote and checksum is None:
        raise BadUsageError(
            f"{option}: an image from a web server needs --checksum",
            hint="add --checksum sha256:... as its publisher names it",
        )
    value = {"format": image_format or suffix, "checksum": checksum}
    value |= {"source": "http", "url": text} if remote else {"source": "file", "path": Path(text)}
    return checked(option, ImageRef, value)  # type: ignore[arg-type]


def _fields(option: str, text: str, aliases: Mapping[str, str]) -> dict[str, Any]:
    """``key=value,flag,…``; a comma that belongs to a value is doubled."""
    found: dict[str, Any] = {}
    for part in re.split(r"(?<!,),(?!,)", text):
        key, equals, value = part.replace(",,", ",").partition("=")
        key = aliases.get(key.strip(), key.strip()).replace("-", "_")
        if not key:
            raise BadUsageError(f"{option}: {text!r} has an empty part")
        if key in found:
            raise BadUsageError(f"{option}: {key!r} is given twice")
        found[key] = value if equals else True
    return found


def _json_file(option: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(read_file(option, Path(text.removeprefix("@"))))
    except ValueError as error:
        raise BadUsageError(f"{option}: {text.removeprefix('@')} is not JSON") from error
    if not isinstance(value, dict):
        raise BadUsageError(f"{option}: {text.removeprefix('@')} is not a JSON object")
    return value


def nic(text: str, *, option: str = "--nic", nic_id: str | None = None) -> Vif:
    """``type=bridge,bridge=br0,mac=…``, or short ``bridge:br0,mac=…``, or ``@FILE`` with JSON."""
    from hvdrivers.models.vif import Vif

    if text.startswith("@"):
        value = _json_file(option, text)
    else:
        kind, colon, rest = text.partition(":")
        if colon and kind in _NIC_SHORT:
            # the name ends at the first comma that is not doubled
            name = re.split(r"(?<!,),(?!,)", rest)[0]
            value = {"type": kind, _NIC_SHORT[kind]: name.replace(",,", ",")}
            if len(name) < len(rest):
                value |= _fields(option, rest[len(name) + 1 :], _NIC_ALIASES)
        else:
            value = _fields(option, text, _NIC_ALIASES)
    value.setdefault("id", nic_id or str(uuid4()))
    return checked(option, Vif, value)  # type: ignore[arg-type]


def volumes(
    driver: ComputeDriver, texts: Sequence[str], *, option: str = "--volume"
) -> tuple[VolumeAttachment, ...]:
    """``ID[,bus=…,boot=0,readonly,…]`` of a volume of the host (one list for all of them), or
    ``@FILE`` with an attachment or Cinder's connection_info in JSON."""
    from hvdrivers.contract.errors import VolumeNotFound
    from hvdrivers.models.volume import VolumeAttachment

    known: dict[str, Any] | None = None
    made = []
    for text in texts:
        if text.startswith("@"):
            value = _json_file(option, text)
            value = value if "volume" in value else {"volume": value}
        else:
            volume_id, _, rest = text.removeprefix("id=").partition(",")
            value = _fields(option, rest, _VOLUME_ALIASES) if rest else {}
            if known is None:
                known = {each.volume_id: each for each in driver.list_volumes()}
            if volume_id not in known:
                raise VolumeNotFound(
                    f"the host has no volume {volume_id!r}",
                    hint="hvdrivers volume HOST list shows them; @FILE names one of a server",
                )
            value["volume"] = known[volume_id].to_volume()
        made.append(checked(option, VolumeAttachment, value))
    return tuple(made)
