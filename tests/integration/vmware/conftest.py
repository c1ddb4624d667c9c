"""What the tests of the vSphere driver share: one simulator in each mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from hvdrivers.conformance.engine import image_files
from hvdrivers.contract import errors
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.guard import guarded
from hvdrivers.models.image import ImageFormat, ImageRef
from hvdrivers.models.instance import Flavor, InstanceSpec
from hvdrivers.vmware.config import VmwareConfig
from hvdrivers.vmware.driver import VmwareDriver
from tests.peers.fixtures import started
from tests.peers.vcsim import VcsimPeer

SpecFactory = Callable[..., InstanceSpec]


@pytest.fixture(scope="package", params=["vpx", "esx"])
def shared_peer(request: pytest.FixtureRequest) -> Iterator[VcsimPeer]:
    """A vCenter, and an ESXi host."""
    with started(lambda: VcsimPeer(request.param)) as peer:
        yield peer


@pytest.fixture
def peer(shared_peer: VcsimPeer) -> Iterator[VcsimPeer]:
    """The same; a test in which it dies has failed."""
    yield shared_peer
    shared_peer.require_alive()


def connected(peer: VcsimPeer, **options: Any) -> VmwareDriver:
    """The raw driver, without the guard."""
    return VmwareDriver.connect(VmwareConfig(**(peer.options | options)))


def answers(driver: VmwareDriver) -> bool:
    """Whether the server is up."""
    try:
        driver.ping()
    except errors.ConnectionFailed:
        return False
    return True


@pytest.fixture
def driver(peer: VcsimPeer) -> Iterator[VmwareDriver]:
    made = connected(peer)
    yield made
    made.close()


@pytest.fixture
def guarded_driver(driver: VmwareDriver) -> Iterator[ComputeDriver]:
    """The same driver as users get it."""
    made = guarded(driver)
    yield made
    made.close()


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> ImageRef:
    """A small disk, for machines whose guests are played."""
    folder = Path(tmp_path_factory.mktemp("image"))
    return image_files.fresh(folder, ImageFormat.RAW, checksum=True)


@pytest.fixture
def spec(image: ImageRef) -> SpecFactory:
    """Make a spec: not started unless told otherwise."""

    def make(**changes: Any) -> InstanceSpec:
        values: dict[str, Any] = {
            "uuid": uuid4(),
            "name": "test",
            "flavor": Flavor(vcpus=1, memory_mib=64),
            "image": image,
            "start": False,
        }
        return InstanceSpec(**(values | changes))

    return make
