"""Names and paths, as vSphere writes them.

The server stores ``/``, ``\\`` and ``%`` of an object's name as ``%2f``, ``%5c`` and ``%25``, and
bounds the stored name at 80 characters. A machine's name is made of the instance's label and its
UUID, so that no two machines of a folder have the same, which vCenter refuses.
"""

from __future__ import annotations

import hashlib
import re
from urllib.parse import quote
from uuid import UUID

_LIMIT = 80
_PARTS = ("-flat", "-delta", "-sesparse", "-ctk", "-rdm", "-rdmp")
_ESCAPES = {"%": "%25", "/": "%2f", "\\": "%5c"}


def escaped(name: str) -> str:
    """A name as the server stores it."""
    return "".join(_ESCAPES.get(char, char) for char in name)


def unescaped(name: str) -> str:
    """A stored name as people wrote it."""
    for char, code in (("/", "%2f"), ("\\", "%5c"), ("%", "%25")):
        name = name.replace(code, char).replace(code.upper(), char)
    return name


def machine_name(label: str, uuid: UUID) -> str:
    """The machine's name for a label: as much of it as fits, and the UUID.

    The label itself is in the machine's mark. Here it is for people who look at the server, so
    the characters that the server would escape are left out of it.
    """
    plain = "".join("_" if char in _ESCAPES else char for char in label)
    return f"{plain[: _LIMIT - 37].rstrip()}.{uuid}"


def rule_name(group: str) -> str:
    """The name of the DRS rule of a server group: as much of the group's name as fits, for people,
    and what tells groups apart whose names differ in case or in what is left out here."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", group)
    digest = hashlib.sha256(group.encode()).hexdigest()[:16]
    return f"hvdrivers.{plain[:40]}.{digest}"


def datastore_path(datastore: str, *parts: str) -> str:
    """``[datastore] a/b``."""
    return f"[{datastore}] {'/'.join(parts)}"


def split_path(path: str) -> tuple[str, str]:
    """Datastore and path of ``[datastore] path``. A datastore's name may hold brackets, as in
    ``[ds (1)] a]b``, but not followed by a space; the path may hold both.

    Raises:
        ValueError: it is none.
    """
    name, bracket, inside = path.removeprefix("[").partition("] ")
    if not path.startswith("[") or not bracket:
        raise ValueError("is no datastore path")
    return name, inside


def web_path(datacenter: str, datastore: str, path: str) -> str:
    """The address of a file in the server's web space."""
    where = "/".join(quote(part, safe="") for part in path.split("/"))
    return (
        f"/folder/{where}?dcPath={quote(datacenter, safe='/')}&dsName={quote(datastore, safe='')}"
    )


def is_part(name: str) -> bool:
    """Whether ``name.vmdk`` would be a part of another disk: the server writes the content of
    ``x.vmdk`` into ``x-flat.vmdk``. A guest writes that content. Opened as a disk, it would name
    any file of the datastore as its extent."""
    return name.casefold().endswith(_PARTS)


def file_name(text: str) -> str:
    """A file name for any text of somebody else's: never a path made of it."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
