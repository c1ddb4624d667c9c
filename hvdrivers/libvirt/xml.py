"""Libvirt's XML, built and read with ElementTree only: never as text."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from typing import TypeVar
from xml.etree import ElementTree as ET

from hvdrivers.contract import errors

_T = TypeVar("_T")
_log = logging.getLogger("hvdrivers")

Element = ET.Element

_NO_XML = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
"""What no XML 1.0 document may contain, escaped or not: all but section 2.2, production Char. The
pattern ``[^...]`` of that production takes seven times as long to compile."""


def el(tag: str, *children: Element | str | None, **attributes: object) -> Element:
    """An element. Attributes that are None are left out, as are children that are None; a
    trailing underscore makes a keyword an attribute name (``type_`` is not needed, ``class_``
    is)."""
    element = ET.Element(
        tag,
        {name.rstrip("_"): str(value) for name, value in attributes.items() if value is not None},
    )
    for child in children:
        if isinstance(child, str):
            element.text = child
        elif child is not None:
            element.append(child)
    return element


def text(element: Element) -> str:
    """The element as libvirt takes it.

    Raises InvalidRequest for a character that no XML can hold: libvirt 9 takes U+FFFE and U+FFFF
    nevertheless, and cannot read what it wrote when it starts again.
    """
    document = ET.tostring(element, encoding="unicode")
    found = _NO_XML.search(document)
    if found is not None:
        raise errors.InvalidRequest(
            f"libvirt cannot keep the character U+{ord(found[0]):04X}", hint="leave it out"
        )
    return document


def parse(document: str) -> Element:
    """What the daemon sent. It writes its XML itself, without a DTD.

    Characters that are no XML, which a definition of others may hold, are read as U+FFFD.

    Raises HypervisorFault if that is no XML either.
    """
    # mended only where it must be: that takes a fifth of what the parser takes
    for mended in (False, True):
        try:
            text_ = _NO_XML.sub("\ufffd", document) if mended else document
            return ET.fromstring(text_)  # noqa: S314 - from the daemon, not from a tenant
        except (ET.ParseError, UnicodeEncodeError) as error:
            failure = error
    raise errors.HypervisorFault(
        "the daemon's description of it is no XML", hint="virsh dumpxml shows it"
    ) from failure


def readable(what: str, read: Callable[[], _T]) -> _T | None:
    """What ``read()`` gives; None for a thing of the host that cannot be read, which goes to the
    log. Lists, and looks at every machine or volume of a host, use it: one that others have made
    unreadable must not stop the rest.

    Args:
        what: names it in the log: "the volume x".
    """
    try:
        return read()
    # ValueError: a model refuses it, a number is none, a name is not UTF-8.
    except (errors.HypervisorFault, ValueError) as error:
        _log.warning("left out, as it cannot be read: %s (%s)", what, type(error).__name__)
        return None


def attribute(element: Element | None, path: str, name: str) -> str | None:
    """An attribute of the first element at ``path`` (``.`` for the element itself), or None."""
    found = element.find(path) if element is not None else None
    return found.get(name) if found is not None else None


def children(element: Element, tag: str) -> Iterable[Element]:
    """The elements in the first one of this tag; nothing where there is none. ElementTree walks a
    path such as ``devices/*`` in Python, and this one in C."""
    found = element.find(tag)
    return () if found is None else found
