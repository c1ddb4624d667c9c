"""The pool that the driver makes for a moment, to ask how much room a folder has."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree as ET

from hvdrivers.contract import errors
from hvdrivers.libvirt.pools import LOOK
from hvdrivers.libvirt.room import explained_save


class Nothing:
    """A domain, its connection and its pool, of a host without room."""

    made = ""

    def XMLDesc(self, _flags: int) -> str:
        return "<domain><memory>65536</memory></domain>"

    def connect(self) -> Nothing:
        return self

    def storagePoolCreateXML(self, xml: str, _flags: int) -> Nothing:
        self.made = xml
        return self

    def info(self) -> tuple[int, ...]:
        return 0, 0, 0, 0

    def destroy(self) -> None: ...


def test_its_name_is_left_out_of_what_has_disks() -> None:
    """A client that dies meanwhile leaves it: nobody takes it for a pool of disks."""
    host: Any = Nothing()
    found = explained_save(host, errors.HypervisorFault("no"))
    assert isinstance(found, errors.InsufficientResources)
    assert str(ET.fromstring(host.made).findtext("name")).startswith(LOOK)
