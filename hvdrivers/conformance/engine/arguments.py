"""What people write on command lines and in files about a target."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from hvdrivers.contract.errors import InvalidRequest
from hvdrivers.invalid import in_words
from hvdrivers.models.image import FileImage, HostImage, ImageRef

_FORMATS = ("raw", "qcow2", "vmdk", "vhd", "vhdx", "vdi", "iso")


def options_of(pairs: Iterable[str], file: Path | None = None) -> dict[str, Any]:
    """Options of a target: those of a TOML file, and over them ``key=value``.

    Raises:
        InvalidRequest: the file cannot be read, or a pair is none.
    """
    found: dict[str, Any] = {}
    if file is not None:
        try:
            found = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InvalidRequest(f"{file} cannot be read as TOML: {error}") from error
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            # not repeated: what was meant as an option may be a password
            raise InvalidRequest("an option is written key=value")
        found[key.replace("-", "_")] = value
    return found


def image_of(text: str) -> ImageRef:
    """``PATH`` or ``host:NAME``, by the end of its name.

    Raises:
        InvalidRequest: its format is not known.
    """
    name = text.removeprefix("host:")
    suffix = name.rpartition(".")[2].lower()
    if text.startswith("host:"):
        return HostImage(name=name)
    if suffix not in _FORMATS:
        raise InvalidRequest(
            f"the format of {text!r} is not known",
            hint=f"a name that ends in {', '.join(_FORMATS)}",
        )
    value = {"source": "file", "path": name, "format": suffix}
    try:
        return TypeAdapter(FileImage).validate_python(value)
    except ValidationError as error:
        raise InvalidRequest(f"{text!r} is no image: {in_words(error)}") from error
