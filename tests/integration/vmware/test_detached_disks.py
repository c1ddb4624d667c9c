"""Disks of an instance that somebody has detached, or has given to another machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pyVmomi import vim

from hvdrivers.contract import errors
from hvdrivers.models.instance import Flavor
from hvdrivers.vmware.conformance.raw_server import RawServer
from hvdrivers.vmware.devices import by_address, file_of, removing
from hvdrivers.vmware.driver import VmwareDriver
from tests.integration.vmware.conftest import SpecFactory
from tests.integration.vmware.test_by_hand import foreign, hardware


@pytest.fixture
def server(driver: VmwareDriver) -> Iterator[RawServer]:
    made = RawServer(driver.config)
    yield made
    made.drop()


def detached(server: RawServer, machine: Any, number: int) -> str:
    """Detach a disk by hand, and tell its file."""
    disks = [
        each
        for each in by_address(hardware(server, machine)).values()
        if isinstance(each, vim.vm.device.VirtualDisk)
    ]
    config = vim.vm.ConfigSpec(deviceChange=[removing(disks[number])])
    server.wait(machine.ReconfigVM_Task(config))
    return str(file_of(disks[number]))


@pytest.mark.parametrize("snapshot", [False, True])
def test_destroy_removes_a_root_disk_that_somebody_has_detached(
    driver: VmwareDriver, server: RawServer, spec: SpecFactory, *, snapshot: bool
) -> None:
    """vSphere's own Destroy leaves it, and a clone's is not in the folder of the instance."""
    uuid = driver.spawn(spec()).uuid
    path = detached(server, server.machine(uuid), 0)
    if snapshot:
        server.wait(server.machine(uuid).CreateSnapshot_Task("by-hand", "", False, False))
    driver.destroy(uuid)
    assert not driver.files.exists(path)
    store = driver.places.surroundings().datastores["LocalDS_0"]
    left = driver.files.search(store["browser"], "[LocalDS_0]", below=True)
    assert not [each for each in left if str(uuid) in f"{each.folder}/{each.name}"]


@pytest.mark.parametrize("number", [0, 1], ids=["root", "ephemeral"])
@pytest.mark.parametrize("inventory", ["there", "unregistered"])
def test_destroy_leaves_a_disk_that_another_machine_has_got(
    driver: VmwareDriver, server: RawServer, spec: SpecFactory, number: int, inventory: str
) -> None:
    """Somebody saves its data with another machine."""
    uuid = driver.spawn(spec(flavor=Flavor(vcpus=1, memory_mib=64, ephemeral_gib=1))).uuid
    path = detached(server, server.machine(uuid), number)
    other = foreign(server, driver, path)
    if inventory == "unregistered":
        server.machine(uuid).UnregisterVM()
    if inventory == "there" or "/instances/" in path:
        with pytest.raises(errors.DeviceBusy, match="has the disk"):
            driver.destroy(uuid)
    else:
        driver.destroy(uuid)  # the folder of a machine that is no machine any more is not known
    assert driver.files.exists(path)
    server.wait(other.Destroy_Task())
    driver.destroy(uuid)
    assert not driver.files.exists(path)
