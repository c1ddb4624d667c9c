"""The pool that the driver makes for a moment, to ask how much room a folder has."""

from __future__ import annotations

from posixpath import normpath
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from hvdrivers.contract import errors
from hvdrivers.driverkit.deadline import Deadline, bounding, current_deadline
from hvdrivers.libvirt.pools import LOOK
from hvdrivers.libvirt.room import explained_save, full_daemon


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


RUN, KEPT = "/run/libvirt/qemu", "/var/lib/libvirt/qemu"
FAILED = errors.HypervisorFault("no", vendor_code="VIR_ERR_INTERNAL_ERROR")


class Daemon:
    """A host, and the pool over one of its folders after the other.

    Attributes:
        lacks: what a folder has none of: "bytes", "files", or "pools" (libvirt cannot write down
            that there is one).
        looked: folders over which a pool was made.
    """

    def __init__(self, uri: str = "qemu:///system", **lacks: str) -> None:
        self.lacks = {RUN: lacks.get("run"), KEPT: lacks.get("kept")}
        self.looked: list[str] = []
        self.left = 0
        self._uri = uri

    def getURI(self) -> str:
        return self._uri

    def storagePoolCreateXML(self, xml: str, _flags: int) -> Daemon:
        assert current_deadline().left > 0
        folder = normpath(ET.fromstring(xml).findtext("target/path") or "")
        self.looked.append(folder)
        if self.lacks[folder] == "pools":
            raise errors.InsufficientResources("no space")
        self.left += 1
        return self

    def info(self) -> tuple[int, ...]:
        return 0, 0, 0, 0 if self.lacks[self.looked[-1]] == "bytes" else 1 << 30

    def createXML(self, _xml: str, _flags: int) -> Daemon:
        if self.lacks[self.looked[-1]] == "files":
            raise errors.InsufficientResources("no space")
        self.left += 1
        return self

    def delete(self, _flags: int) -> None:
        self.left -= 1

    def destroy(self) -> None:
        self.left -= 1


def lacking(host: Any, error: errors.HypervisorFault = FAILED) -> str | None:
    """What the error says; None: it is not for want of room."""
    found = full_daemon(host, error)
    assert host.left == 0
    return found and found.message


@pytest.mark.parametrize("what", ["bytes", "files"])
def test_a_full_folder_of_the_daemon(what: str) -> None:
    """Looked for also after the operation's deadline."""
    with bounding(Deadline(0)):
        assert f"in {RUN}" in (lacking(Daemon(run=what)) or "")
        assert f"in {KEPT}" in (lacking(Daemon(kept=what)) or "")
        assert lacking(Daemon()) is None


def test_a_folder_over_which_no_pool_can_be_made() -> None:
    """libvirt writes that down in the first one alone."""
    assert f"in {RUN}" in (lacking(Daemon(run="pools")) or "")
    assert lacking(Daemon(kept="pools")) is None


def test_what_does_not_ask_for_room() -> None:
    """A user's own daemon has other folders; another code has another reason."""
    own = Daemon("qemu:///session", run="bytes", kept="bytes")
    assert lacking(own) is None
    full = Daemon(run="bytes")
    assert lacking(full, errors.HypervisorFault("no", vendor_code="VIR_ERR_NO_DOMAIN")) is None
    assert not own.looked + full.looked
