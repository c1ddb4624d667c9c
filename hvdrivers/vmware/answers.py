"""The server's answers as pyVmomi's objects, read in half of the time that pyVmomi takes.

pyVmomi looks up the type of each element anew, lists all properties of a type for each object of
it, and checks each value that it sets: most of the processor time of a list of machines. The reader
here keeps what it has found out of a type, and checks a value only if it is not plainly of the
property's type. What comes seldom (faults, references of other servers) it leaves to pyVmomi.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from pyVmomi import Iso8601, SoapAdapter, VmomiSupport

_XSI_TYPE: Final = SoapAdapter.XSI_TYPE
_NAMED: Final = {_XSI_TYPE: None, "type": None}.keys()
"""Attributes that name a type."""
_MOST: Final = 20_000
"""Kinds of elements that are remembered: a server that makes up names shall not fill the memory."""
_DataObject: Final = VmomiSupport.DataObject
_ManagedObject: Final = VmomiSupport.ManagedObject


class Answer(SoapAdapter.SoapResponseDeserializer):  # type: ignore[misc]
    """Reads one answer: ``Answer(stub).Deserialize(body, type)``."""

    def __init__(self, stub: Any) -> None:
        super().__init__(stub)
        self.deser = _Reader(stub)


class _Reader(SoapAdapter.SoapDeserializer):  # type: ignore[misc]
    def StartElementHandler(self, tag: str, attr: dict[str, str]) -> None:  # noqa: N802
        """An element begins."""
        above = self.stack[-1] if self.stack else None
        if above is None or isinstance(above, SoapAdapter.LocalizedMethodFault):
            super().StartElementHandler(tag, attr)
            return
        if not attr.keys() <= _NAMED:
            super().StartElementHandler(tag, attr)
            return
        key: tuple[Any, ...] = (type(above), None if isinstance(above, list) else tag, self.version)
        if attr:
            names = tuple(attr.get(each) for each in _NAMED)
            prefixes = (each.rpartition(":")[0] or None for each in names if each)
            key += (names, *map(self._GetNamespaceFromPrefix, prefixes))
        found = _KINDS.get(key)
        if found is None:
            super().StartElementHandler(tag, attr)
            self._learn(key)
            return
        self.data = ""
        self.serverGuid = None
        kind, values, lists = found
        if values is None:
            self.stack.append(kind)
            return
        made = kind.__new__(kind)
        if lists is not None:
            content = made.__dict__
            content.update(values)
            for name, array in lists:
                content[name] = array()
        self.stack.append(made)

    def _learn(self, key: tuple[Any, ...]) -> None:
        """Remember what pyVmomi has made of an element."""
        if len(_KINDS) >= _MOST:
            _KINDS.clear()
        top = self.stack[-1]
        if isinstance(top, type):
            _KINDS[key] = (top, None, None)
        elif isinstance(top, list):
            _KINDS[key] = (type(top), {}, None)
        elif isinstance(top, _DataObject) and not isinstance(
            top, (SoapAdapter.LocalizedMethodFault, Exception)
        ):
            lists = [
                (name, type(value)) for name, value in vars(top).items() if isinstance(value, list)
            ]
            arrays = {name for name, _ in lists}
            values = {name: value for name, value in vars(top).items() if name not in arrays}
            _KINDS[key] = (type(top), values, lists)

    def EndElementHandler(self, tag: str) -> None:  # noqa: N802
        """An element ends."""
        stack = self.stack
        if len(stack) < 2:  # the answer itself
            super().EndElementHandler(tag)
            return
        made, above = stack[-1], stack[-2]
        if isinstance(made, type):
            read = _READ.get(made) or _reader_of(made)
            if read is None or self.serverGuid is not None:
                super().EndElementHandler(tag)
                return
            made = read(self.data, self.stub)
        elif isinstance(made, SoapAdapter.LocalizedMethodFault):
            super().EndElementHandler(tag)
            return
        if isinstance(above, list):
            stack.pop()
            above.append(made)
            return
        if not isinstance(above, _DataObject) or isinstance(above, Exception):
            super().EndElementHandler(tag)
            return
        stack.pop()
        kind_of: Any = type(above)
        name, kind, is_list = _info(kind_of, tag)
        if is_list and not isinstance(made, list):
            getattr(above, name).append(made)
        elif isinstance(made, kind) and (made or not isinstance(made, list)):
            above.__dict__[name] = made
        else:
            setattr(above, name, made)  # pyVmomi's own check


_KINDS: dict[tuple[Any, ...], tuple[Any, dict[str, Any] | None, list[tuple[str, Any]] | None]] = {}
"""What an element stands for, by the type of the object that it is in, its name and attributes:
its type, and the values and lists that a new object has."""


@lru_cache(maxsize=_MOST)
def _info(kind: Any, tag: str) -> tuple[str, Any, bool]:
    """Name and type of a property, and whether it has many values."""
    name = tag.rpartition(SoapAdapter.NS_SEP)[2]
    found = kind._GetPropertyInfo(name)
    return found.name, found.type, issubclass(found.type, list)


def _plain(kind: Any) -> Callable[[str, Any], Any]:
    return lambda data, _stub: kind(data)


def _reference(kind: Any) -> Callable[[str, Any], Any]:
    return lambda data, stub: kind(data, stub, None)


def _choice(kind: Any) -> Callable[[str, Any], Any]:
    return lambda data, _stub: getattr(kind, data)


_BOOLS: Final = {"0": False, "false": False, "1": True, "true": True}


def _bool(data: str, _stub: Any) -> bool:
    found = _BOOLS.get(data)
    if found is None:
        found = _BOOLS.get(data.lower())
    if found is None:
        raise TypeError(data)
    return found


def _time(data: str, _stub: Any) -> Any:
    found = Iso8601.ParseISO8601(data)
    if not found:
        raise TypeError(data)
    return found


_READ: Final[dict[Any, Callable[[str, Any], Any]]] = {
    str: lambda data, _stub: data,
    bool: _bool,
    VmomiSupport.binary: lambda data, _stub: VmomiSupport.binary(base64.b64decode(data)),
    VmomiSupport.datetime: _time,
}
"""How the text of an element becomes a value, by its type."""


def _reader_of(kind: Any) -> Callable[[str, Any], Any] | None:
    if kind is type or kind is VmomiSupport.ManagedMethod:
        return None
    if issubclass(kind, _ManagedObject):
        made = _reference(kind)
    elif issubclass(kind, VmomiSupport.Enum):
        made = _choice(kind)
    elif issubclass(kind, (int, float, str)):
        made = _plain(kind)
    else:
        return None
    _READ[kind] = made
    return made
