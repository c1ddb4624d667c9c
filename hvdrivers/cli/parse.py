"""Values on the command line: sizes, images, NICs, volumes, keys and values."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from hvdrivers.cli.report import BadUsageError
from hvdrivers.limits import COMMAND_FILE_BYTES, COMMAND_NUMBER_DIGITS

if TYPE_CHECKING:
    from pydantic import SecretStr, ValidationError

    from hvdrivers.contract.driver import ComputeDriver
    from hvdrivers.models.image import ImageRef
    from hvdrivers.models.vif import Vif
    from hvdrivers.models.volume import VolumeAttachment

_T = TypeVar("_T")
_NUMBER = rf"[0-9]{{1,{COMMAND_NUMBER_DIGITS}}}"
_SIZE = re.compile(rf"({_NUMBER}(?:\.{_NUMBER})?)\s*(?:([KMGT])(?:i?B)?|B)?", re.IGNORECASE)
_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_SUFFIXES = frozenset({"raw", "qcow2", "vmdk", "vhd", "vhdx", "vdi", "iso", "ova"})
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


def kib(option: str, text: str) -> int:
    """KiB: a bare number is KiB already."""
    return _whole(option, text, "K")


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


def secret_of(option: str, variable: str | None) -> SecretStr | None:
    """The secret in an environment variable that the command line names; None if it names none."""
    from pydantic import SecretStr

    if variable is None:
        return None
    if variable not in os.environ:
        raise BadUsageError(f"{option}: {variable} is not set")
    return SecretStr(os.environ[variable])


def numbers(option: str, text: str) -> dict[str, int]:
    """``key=number,key=number``."""
    found = pairs(option, text.split(","))
    for key, value in found.items():
        if re.fullmatch(_NUMBER, value) is None:
            raise BadUsageError(f"{option}: {key}={value!r} is not a whole number")
    return {key: int(value) for key, value in found.items()}


def read_file(option: str, path: Path) -> bytes:
    """A file that the command line names."""
    try:
        with path.open("rb") as file:
            content = file.read(COMMAND_FILE_BYTES + 1)  # /dev/zero has no end
    except OSError as error:
        raise BadUsageError(f"{option}: {path}: {error.strerror}") from error
    except ValueError:  # a NUL, or a character that the file system cannot have
        raise BadUsageError(f"{option}: {os.fspath(path)!r} is no path") from None
    if len(content) > COMMAND_FILE_BYTES:
        raise BadUsageError(f"{option}: {path} is longer than {COMMAND_FILE_BYTES} bytes")
    return content


def checked(
    option: str, make: type[_T], value: Mapping[str, Any], *, hint: str | None = None
) -> _T:
    """A model (or a union of them) from plain data, or a BadUsageError that names the option."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(make).validate_python(value)
    except ValidationError as error:
        raise BadUsageError(f"{option}: {problems(error)}", hint=hint) from None
    except RecursionError:
        raise BadUsageError(f"{option}: it is nested too deeply") from None


def problems(error: ValidationError) -> str:
    """What a validation error says, without the values: they may be secrets."""
    from hvdrivers.invalid import in_words

    return in_words(error)


def image(
    text: str,
    *,
    image_format: str | None = None,
    checksum: str | None = None,
    option: str = "--image",
) -> ImageRef:
    """``PATH``, ``https://…``, ``host:NAME`` or ``cached:KEY``.

    The format is what ``--format`` says, or the end of the file's name: its owner said it there.
    It is never taken from the content; that is inspected against it.
    """
    from hvdrivers.models.image import ImageRef

    value: dict[str, Any]
    if text.startswith("cached:"):
        if checksum is not None or image_format is not None:
            raise BadUsageError("--checksum, --format: the key of a cached image says it all")
        value = {"source": "host", "name": text.removeprefix("cached:"), "cached": True}
        return checked(option, ImageRef, value)  # type: ignore[arg-type] # a union, not a class
    if text.startswith("host:"):
        if checksum is not None:
            raise BadUsageError("--checksum: an image on the host is the administrator's own")
        value = {"source": "host", "name": text.removeprefix("host:"), "format": image_format}
        return checked(option, ImageRef, value)  # type: ignore[arg-type] # a union, not a class
    remote = text.startswith(("http://", "https://"))
    if not remote and "://" in text:
        raise BadUsageError(
            f"{option}: images come from a file, http://, https://, host:NAME or cached:KEY"
        )
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


def fields(option: str, text: str, aliases: Mapping[str, str]) -> dict[str, Any]:
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


def named(option: str, text: str, aliases: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """``NAME,key=value,flag,…``: the name, which ends at the first comma that is not doubled, and
    the rest as :func:`fields` reads it."""
    name = re.split(r"(?<!,),(?!,)", text)[0]
    rest = text[len(name) + 1 :] if len(name) < len(text) else None
    return name.replace(",,", ","), {} if rest is None else fields(option, rest, aliases)


def _json_file(option: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(read_file(option, Path(text.removeprefix("@"))))
    except (ValueError, RecursionError) as error:
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
            name, more = named(option, rest, _NIC_ALIASES)
            value = {"type": kind, _NIC_SHORT[kind]: name} | more
        else:
            value = fields(option, text, _NIC_ALIASES)
    if "type" not in value:
        raise BadUsageError(
            f"{option}: {text!r} does not say what the NIC is connected to",
            hint="network:NAME, bridge:NAME, ovs:NAME, or type=...; hvdrivers doctor HOST names"
            " the types that a host takes",
        )
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
            value = fields(option, rest, _VOLUME_ALIASES) if rest else {}
            if known is None:
                known = {each.volume_id: each for each in driver.list_volumes()}
            if volume_id not in known:
                raise VolumeNotFound(
                    f"the host has no volume {volume_id!r}",
                    hint="hvdrivers volume list HOST shows them; @FILE names one of a server",
                )
            value["volume"] = known[volume_id].to_volume()
        made.append(checked(option, VolumeAttachment, value))
    return tuple(made)
