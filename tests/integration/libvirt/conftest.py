"""What the tests of the libvirt driver share. They run against a real libvirtd, with QEMU's
emulation: two cores are enough, and most machines are only defined, never started."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from hvdrivers.conformance.engine.runner import Session
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.guard import guarded
from hvdrivers.libvirt import turns
from hvdrivers.libvirt.config import LibvirtConfig
from hvdrivers.libvirt.driver import LibvirtDriver
from hvdrivers.libvirt.naming import IMAGE_PREFIX
from hvdrivers.models.image import FileImage, ImageFormat
from hvdrivers.models.instance import Flavor, InstanceSpec
from tests.integration.libvirt.agents import agent_host, agent_machine
from tests.integration.libvirt.conformance_run import running
from tests.integration.libvirt.machines import Host, host, machine
from tests.peers.libvirtd import LibvirtPeer
from tests.peers.openvswitch import OvsBridge

__all__ = ["agent_host", "agent_machine", "connect", "host", "machine", "residue"]

SpecFactory = Callable[..., InstanceSpec]


def connect(peer: LibvirtPeer, **options: Any) -> LibvirtDriver:
    """A raw driver on a peer, with its pools made (they stay, and are no residue)."""
    driver = LibvirtDriver.connect(LibvirtConfig(uri=peer.uri, virt_type="qemu", **options))
    driver.pools.disks()
    driver.pools.consoles()
    return driver


def residue(peer: LibvirtPeer) -> set[str]:
    """What is on the host, without cached images; and without taps, which are the machine's and
    not the peer's: look at the ports of a bridge of your own."""
    return {
        line for line in peer.residue() if IMAGE_PREFIX not in line and not line.startswith("tap ")
    }


@pytest.fixture
def driver(libvirt_peer: LibvirtPeer) -> Iterator[LibvirtDriver]:
    """The raw driver, without the guard, on the shared peer."""
    made = connect(libvirt_peer)
    yield made
    made.close()


@pytest.fixture
def guarded_driver(driver: LibvirtDriver) -> Iterator[ComputeDriver]:
    """The same driver as users get it."""
    made = guarded(driver)
    yield made
    made.close()


@pytest.fixture
def spec(guest_image: Path) -> SpecFactory:
    """Make a spec of the test guest: not started, 192 MiB, unless told otherwise."""

    def make(**changes: Any) -> InstanceSpec:
        values: dict[str, Any] = {
            "uuid": uuid4(),
            "name": "test",
            "flavor": Flavor(vcpus=1, memory_mib=192),
            "image": FileImage(path=guest_image, format=ImageFormat.QCOW2),
            "start": False,
        }
        return InstanceSpec(**(values | changes))

    return make


@pytest.fixture
def residue_check(driver: LibvirtDriver, libvirt_peer: LibvirtPeer) -> Iterator[None]:
    """The host must be after the test what it was before, apart from the image cache."""
    before = residue(libvirt_peer)
    yield
    after = residue(libvirt_peer)
    assert after == before, f"left: {sorted(after - before)}; lost: {sorted(before - after)}"


@pytest.fixture(scope="module")
def session(
    libvirt_peer: LibvirtPeer,
    ovs_bridge: OvsBridge,
    agent_image: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Session]:
    """A run of the conformance suite on real guests, for one file of its checks."""
    folder = tmp_path_factory.mktemp("conformance")
    with running(libvirt_peer, agent_image, folder, ovs_bridge=ovs_bridge.name) as made:
        yield made


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process looks as often as any before it takes a client for dead, and faster."""
    monkeypatch.setattr(turns, "_APART", 0.01)


# ---- a host of a module's own, with two clients --------------------------------------------------


@pytest.fixture(scope="module")
def peer() -> Iterator[LibvirtPeer]:
    """Modules that need another one have a fixture of this name."""
    with LibvirtPeer() as made:
        yield made


@pytest.fixture(scope="module")
def own(peer: LibvirtPeer, guest_image: Path) -> Iterator[Host]:
    """The host, and one client."""
    made = Host(peer, guest_image)
    yield made
    made.close()


@pytest.fixture(scope="module")
def other(own: Host) -> Iterator[ComputeDriver]:
    """The other client."""
    with closing(guarded(connect(own.peer))) as made:
        yield made
