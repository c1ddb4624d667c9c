"""Which file of the host a text means: paths, the file that an overlay names, times of a file.

A file has many names: ``//``, ``./name``, a symlink, ``file:``, ``json:``. Libvirt shows each as it
was written. Only functions of their arguments, no remote call.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator
from decimal import Decimal

from hvdrivers.libvirt.xml import Element

Times = tuple[Decimal, ...]
"""When a file was written to, and when its inode was changed: seconds, to the nanosecond. Two names
with the same times are the same file."""

_PROTOCOL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def clean(path: str) -> str:
    """A path without ``//``, ``.`` and ``..``; symlinks stay, which only the host can follow."""
    if not path:
        return ""
    return re.sub("^/+", "/", posixpath.normpath(path))


def base_path(description: Element) -> str:
    """The file that a volume stands on, or nothing: what its header names, as QEMU reads it."""
    name = description.findtext("backingStore/path") or ""
    if name.startswith("json:"):
        name = next(_file_names(name.removeprefix("json:")), "")
    elif name.startswith("file:"):
        name = name.removeprefix("file:")
    elif _PROTOCOL.match(name):
        return ""  # behind a network
    folder = posixpath.dirname(description.findtext("target/path") or "")
    return clean(posixpath.join(folder, name)) if name else ""


def _file_names(document: str) -> Iterator[str]:
    try:
        values = [json.loads(document)]
    except (ValueError, RecursionError):
        return
    while values:
        value = values.pop()
        if isinstance(value, dict):
            for key, each in value.items():
                if isinstance(each, str) and key.split(".")[-1] == "filename":
                    yield each.removeprefix("file:")
                values.append(each)


def times_of(element: Element | None) -> Times | None:
    """Of a volume (its ``<target>``), or of the file that it stands on (``<backingStore>``)."""
    if element is None:
        return None
    found = [element.findtext(f"timestamps/{name}") for name in ("mtime", "ctime")]
    return tuple(Decimal(each) for each in found if each) if all(found) else None


def written_at(description: Element | None) -> float | None:
    """When a volume was last written to, in seconds, by the host's clock."""
    written = description.findtext("target/timestamps/mtime") if description is not None else None
    return float(written) if written is not None else None


def is_within(now: Times | None, first: Times | None, last: Times | None) -> bool:
    """Whether a file's times are those of another, which were read before and after. Both are
    equal unless the other was written to meanwhile."""
    if now is None or first is None or last is None:
        return False
    return all(a <= each <= b for a, each, b in zip(first, now, last, strict=True))


def paths_in(document: Element) -> set[str]:
    """Every path that a definition names, whatever for: disks and their chains, mirrors, firmware,
    kernels."""
    return {
        clean(value)
        for element in document.iter()
        for value in (*element.attrib.values(), (element.text or "").strip())
        if value.startswith("/")
    }
