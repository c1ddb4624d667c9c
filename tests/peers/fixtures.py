"""The fixtures that give tests a real server; tests/conftest.py imports them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from hvdrivers.testing.guestimage import GuestImageUnavailable, build_guest_image
from tests.peers.bridge import LinuxBridge
from tests.peers.libvirtd import LibvirtPeer
from tests.peers.openvswitch import OvsBridge
from tests.peers.ovn import Ovn
from tests.peers.precondition import PreconditionMissing, missing

P = TypeVar("P")


@contextmanager
def started(make: Callable[[], AbstractContextManager[P]]) -> Iterator[P]:
    """A peer for one test or module: ``with started(LibvirtPeer) as peer``.

    Where it cannot run, the test is skipped, or fails on CI.
    """
    try:
        peer = make()
    except PreconditionMissing as error:
        missing(str(error))
    with peer as running:
        yield running


@pytest.fixture(scope="session")
def libvirt_peer() -> Iterator[LibvirtPeer]:
    """A private libvirt host; see `tests.peers.libvirtd`."""
    with started(LibvirtPeer) as peer:
        yield peer


@pytest.fixture(scope="session")
def linux_bridge() -> Iterator[LinuxBridge]:
    """A Linux bridge with DHCP; see `tests.peers.bridge`."""
    with started(LinuxBridge) as peer:
        yield peer


@pytest.fixture(scope="session")
def ovs_bridge() -> Iterator[OvsBridge]:
    """A bridge of Open vSwitch with DHCP; see `tests.peers.openvswitch`."""
    with started(OvsBridge) as peer:
        yield peer


@pytest.fixture(scope="session")
def ovn() -> Iterator[Ovn]:
    """A logical switch of OVN with DHCP, and the chassis that serves it; see `tests.peers.ovn`."""
    with started(Ovn) as peer:
        yield peer


@pytest.fixture(scope="session")
def guest_image() -> Path:
    """The test guest's disk (qcow2, read-only); see `hvdrivers.testing.guestimage`."""
    try:
        return build_guest_image()
    except GuestImageUnavailable as error:
        missing(str(error))


@pytest.fixture(scope="session")
def agent_image() -> Path:
    """The same guest, with QEMU's guest agent in it."""
    try:
        return build_guest_image(with_agent=True, name="with-agent")
    except GuestImageUnavailable as error:
        missing(str(error))
