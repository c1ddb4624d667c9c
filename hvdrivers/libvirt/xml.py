"""Small helpers around ElementTree: libvirt's XML is built and read with a library only."""

from __future__ import annotations

from xml.etree import ElementTree as ET

Element = ET.Element


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
    """The element as libvirt takes it."""
    return ET.tostring(element, encoding="unicode")


def parse(document: str) -> Element:
    """What the daemon sent. It writes its XML itself, without a DTD."""
    return ET.fromstring(document)  # noqa: S314 - from the daemon, not from a tenant


def attribute(element: Element | None, path: str, name: str) -> str | None:
    """An attribute of the first element at ``path`` (``.`` for the element itself), or None."""
    found = element.find(path) if element is not None else None
    return found.get(name) if found is not None else None
