"""Names on the host. NTFS takes ``A`` for ``a``, reserves ``CON`` and drops dots at the end."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, unquote

from pydantic import TypeAdapter, ValidationError

from hvdrivers.contract import errors
from hvdrivers.models.volume.host import VolumeName

_LONGEST: Final = 180
"""Characters of a file name: a path must stay below 260."""
_NAME: TypeAdapter[str] = TypeAdapter(VolumeName)
_SAFE = re.compile(r"[a-z0-9-]")
_SHORT = re.compile(r"~[0-9]")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_FILE = re.compile(r"v-(?P<name>(?:[a-z0-9-]|_[0-9a-f]{2})+)\.vhdx")


def word(text: str) -> str:
    """An id or a path as one word of a record's line."""
    return quote(text, safe="")


def from_word(text: str) -> str:
    """The id or path again."""
    return unquote(text)


def volume_file(name: str) -> str:
    """The file of a volume: lower-case letters and digits as they are, all else as ``_xx`` for each
    byte of its UTF-8.

    Raises:
        InvalidRequest: the name would be too long.
    """
    escaped = "".join(
        char if _SAFE.fullmatch(char) else "".join(f"_{byte:02x}" for byte in char.encode())
        for char in name
    )
    if len(escaped) > _LONGEST:
        raise errors.InvalidRequest(
            f"the volume's name would take {len(escaped)} characters on the host, more than"
            f" {_LONGEST}",
            hint="give a shorter name, of lower-case letters and digits",
        )
    return f"v-{escaped}.vhdx"


def volume_name(file: str) -> str | None:
    """The name of the volume in a file; None for a file that is none of ours."""
    match = _FILE.fullmatch(file)
    if match is None:
        return None
    plain = re.sub(r"_([0-9a-f]{2})", lambda found: chr(int(found[1], 16)), match["name"])
    try:
        name = _NAME.validate_python(plain.encode("latin-1").decode())
    except (UnicodeDecodeError, ValidationError):
        return None
    # put there by hand: two files must not be one volume
    return name if volume_file(name) == file else None


def plain_path(path: str) -> bool:
    """Whether an absolute path of Windows can be read in one way only: no ``..``, no dots and
    blanks that Windows drops, no short name (``PROGRA~1``), no stream, no device."""
    if any(char in path[2:] for char in '<>:"|?*/') or _SHORT.search(path):
        return False
    parts = path[2:].split("\\")[1:] if path[1:2] == ":" else path[2:].split("\\")
    return all(part and part == part.rstrip(". ") for part in parts)


def belongs_to_host(path: str, root: str) -> bool:
    """Whether an absolute path leads to what the driver keeps for instances: below its folder, in
    an instance's folder of a pool, or by a share for administrators alone (``C$``), which shows the
    whole drive."""
    folded = path.casefold()
    if folded.startswith(f"{root}\\".casefold()):
        return True
    folders = folded.split("\\")[:-1]
    if folded.startswith("\\\\"):
        if folders[3:4] and folders[3].endswith("$"):
            return True
        folders = folders[4:]
    return any(_UUID.fullmatch(each) for each in folders)


def meeting(pools: Mapping[str, str], root: str | None) -> str | None:
    """Why these pools cannot stand beside each other and the driver's folder; None if they can. In
    one folder a volume would be that of two pools, or an image of the cache."""
    seen: dict[str, str] = {}
    for name, path in pools.items():
        folded = path.casefold()
        if folded in seen:
            return f"the pools {seen[folded]} and {name} are one folder: {path}"
        seen[folded] = name
        if root is not None and f"{folded}\\".startswith(f"{root}\\".casefold()):
            return f"the pool {name} lies in the driver's folder: {path}"
    return None


def plain_mac(mac: str) -> str:
    """A MAC address as Hyper-V wants it: twelve digits."""
    return mac.replace(":", "").upper()


def shown_mac(digits: str) -> str | None:
    """A MAC address as the contract has it; None for none."""
    if len(digits) != 12 or digits == "0" * 12:
        return None
    return ":".join(digits[place : place + 2] for place in range(0, 12, 2)).lower()
