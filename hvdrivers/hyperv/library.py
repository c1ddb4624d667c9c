"""The scripts of the package, and arguments in the form in which they read them."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

Json = Any
"""What JSON can hold."""


@cache
def library() -> str:
    """The scripts that live on the host, as one text."""
    folder = resources.files("hvdrivers.hyperv") / "scripts"
    names = sorted(each.name for each in folder.iterdir() if each.name.endswith(".ps1"))
    return "\n".join(
        (folder / name).read_text(encoding="utf-8") for name in names if name != "bootstrap.ps1"
    )


@cache
def packed(text: str) -> bytes:
    """Scripts as the bootstrap reads them. A process that connects again packs them once."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0))


@cache
def bootstrap() -> str:
    """The script on the command line, which cmd.exe limits: it loads the library."""
    folder = resources.files("hvdrivers.hyperv") / "scripts"
    text = (folder / "bootstrap.ps1").read_text(encoding="utf-8")
    return base64.b64encode(text.encode("utf-16-le")).decode()


class Secret(str):
    """An argument that travels beside the JSON. Windows can log the parameters of each cmdlet that
    runs (module logging, event 4103), and the JSON is one of ``ConvertFrom-Json``."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Secret('**********')"


def marked(value: Json, secrets: list[str]) -> Json:
    """Arguments with '=' in front of each string, as the loop reads them; for each secret its place
    in ``secrets``, behind '#'."""
    if isinstance(value, Secret):
        secrets.append(value)
        return f"#{len(secrets) - 1}"
    if isinstance(value, str):
        return f"={value}"
    if isinstance(value, Mapping):
        return {key: marked(each, secrets) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [marked(each, secrets) for each in value]
    return value
