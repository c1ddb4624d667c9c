"""What travels between the generated PowerShell modules and the state server.

A request is one line of JSON. An answer is lines, each with a letter in front: ``O`` objects as
CLIXML, after the names of properties that hold objects; ``E`` an error that the cmdlet writes;
``X`` one that ends it; ``C`` a question that ``ShouldContinue`` asks, which the module answers with
one line; ``W`` a warning; ``.`` the end.

CLIXML is PowerShell's own form for objects: one call of ``PSSerializer.Deserialize`` makes objects
with exact .NET types of the values (MS-PSRP, section 2.2.5, describes the form).
"""

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

NAMESPACE = "Microsoft.HyperV.PowerShell"


class Int64(int):
    """A .NET Int64; a plain int becomes an Int32 where it fits."""


class UInt64(int):
    """A .NET UInt64."""


class UInt32(int):
    """A .NET UInt32."""


class UInt16(int):
    """A .NET UInt16."""


class Version(str):
    """A .NET Version, for example of a machine's configuration."""


@dataclass(frozen=True)
class Thing:
    """An object with type names and properties, as a cmdlet writes it.

    ``types`` are full .NET names, most derived first; without any the object is a plain bag.
    ``text`` is what ``ToString()`` answers.
    """

    types: tuple[str, ...]
    properties: Mapping[str, "Value"]
    text: str | None = None


@dataclass(frozen=True)
class Table:
    """A Hashtable, or a property bag that scripts read by key."""

    items: Mapping[str, "Value"] = field(default_factory=dict)


Value = (
    str
    | int
    | float
    | bool
    | bytes
    | datetime
    | timedelta
    | UUID
    | Thing
    | Table
    | None
    | list["Value"]
)
"""What a property of a :class:`Thing` can be."""


def clixml(values: Iterable[Value]) -> str:
    """The CLIXML document of the values, on one line."""
    parts: list[str] = []
    refs = _Refs()
    for value in values:
        _write(parts, value, None, refs)
    body = "".join(parts)
    return (
        '<Objs Version="1.1.0.1" xmlns="http://schemas.microsoft.com/powershell/2004/04">'
        f"{body}</Objs>"
    )


def inner_names(values: Iterable[Value]) -> list[str]:
    """Properties of the values, and of what is in them, that hold objects with type names."""
    found: dict[str, None] = {}
    for value in values:
        if isinstance(value, Thing):
            for name, inner in value.properties.items():
                items = inner if isinstance(inner, list) else [inner]
                typed = [item for item in items if isinstance(item, Thing) and item.types]
                if typed:
                    found[name] = None
                    found.update(dict.fromkeys(inner_names(typed)))
    return list(found)


class _Refs:
    """Reference ids of one document, and the type lists that it has written."""

    def __init__(self) -> None:
        self.objects = 0
        self.types: dict[tuple[str, ...], int] = {}

    def object(self) -> int:
        self.objects += 1
        return self.objects - 1


def _write(parts: list[str], value: Value, name: str | None, refs: _Refs) -> None:
    attribute = "" if name is None else f' N="{_escape(name)}"'
    if value is None:
        parts.append(f"<Nil{attribute}/>")
    elif isinstance(value, Thing):
        _write_thing(parts, value, attribute, refs)
    elif isinstance(value, Table):
        parts.append(f'<Obj{attribute} RefId="{refs.object()}">')
        _write_types(parts, ("System.Collections.Hashtable", "System.Object"), refs)
        parts.append("<DCT>")
        for key, item in value.items.items():
            parts.append(f'<En><S N="Key">{_escape(key)}</S>')
            _write(parts, item, "Value", refs)
            parts.append("</En>")
        parts.append("</DCT></Obj>")
    elif isinstance(value, list):
        parts.append(f'<Obj{attribute} RefId="{refs.object()}">')
        _write_types(parts, ("System.Object[]", "System.Array", "System.Object"), refs)
        parts.append("<LST>")
        for item in value:
            _write(parts, item, None, refs)
        parts.append("</LST></Obj>")
    else:
        tag, text = _scalar(value)
        parts.append(f"<{tag}{attribute}>{text}</{tag}>")


def _write_thing(parts: list[str], value: Thing, attribute: str, refs: _Refs) -> None:
    parts.append(f'<Obj{attribute} RefId="{refs.object()}">')
    if value.types:
        _write_types(parts, value.types, refs)
    if value.text is not None:
        parts.append(f"<ToString>{_escape(value.text)}</ToString>")
    parts.append("<MS>")
    for key, item in value.properties.items():
        _write(parts, item, key, refs)
    parts.append("</MS></Obj>")


def _write_types(parts: list[str], types: tuple[str, ...], refs: _Refs) -> None:
    known = refs.types.get(types)
    if known is not None:
        parts.append(f'<TNRef RefId="{known}"/>')
        return
    number = refs.types[types] = len(refs.types)
    parts.append(f'<TN RefId="{number}">')
    parts.extend(f"<T>{_escape(name)}</T>" for name in types)
    parts.append("</TN>")


def _scalar(  # noqa: PLR0911 - a table of types
    value: str | int | float | bytes | datetime | timedelta | UUID,
) -> tuple[str, str]:
    match value:
        case bool():
            return "B", "true" if value else "false"
        case Version():
            return "Version", _escape(value)
        case str():
            return "S", _escape(value)
        case UInt64():
            return "U64", str(int(value))
        case UInt32():
            return "U32", str(int(value))
        case UInt16():
            return "U16", str(int(value))
        case int():
            small = not isinstance(value, Int64) and -(2**31) <= value < 2**31
            return ("I32" if small else "I64"), str(int(value))
        case float():
            return "Db", repr(value)
        case bytes():
            return "BA", base64.b64encode(value).decode()
        case UUID():
            return "G", str(value)
        case datetime():
            return "DT", value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case timedelta():
            return "TS", _duration(value)
    raise TypeError(type(value).__name__)


def _duration(value: timedelta) -> str:
    """An xsd:duration, the form that the serializer reads as a TimeSpan."""
    sign = "-" if value < timedelta(0) else ""
    value = abs(value)
    return f"{sign}P{value.days}DT{value.seconds}.{value.microseconds:06d}S"


_SPECIAL = re.compile('[\x00-\x1f\x7f-\x9f\ufffe\uffff\ud800-\udfff&<>"]|_(?=[xX])')
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "_": "_x005F_"}


def _escape(text: str) -> str:
    """XML text in which control characters are ``_xHHHH_``, as the serializer writes them."""
    return _SPECIAL.sub(lambda m: _ENTITIES.get(m[0]) or f"_x{ord(m[0]):04X}_", text)


@dataclass(frozen=True)
class Request:
    """One bound call of a cmdlet."""

    cmdlet: str
    parameter_set: str
    bound: Mapping[str, object]


def read_request(line: bytes) -> Request:
    """The call that a generated function sent. Raises ValueError for anything else."""
    document = json.loads(line)
    match document:
        case {"c": str(cmdlet), "s": str(parameter_set), "b": dict(bound)}:
            return Request(cmdlet, parameter_set, bound)
    raise ValueError("not a call of a cmdlet")


def lines(values: list[Value]) -> Iterator[bytes]:
    """The answer lines that carry the values; large results are split so that each is bounded."""
    step = 200
    for start in range(0, len(values), step):
        part = values[start : start + step]
        names = ",".join(inner_names(part))
        yield f"O{names}{clixml(part)}\n".encode("utf-8", "surrogatepass")
