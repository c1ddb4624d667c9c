"""NUMA nodes of a machine, and memory that the CPU encrypts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from pyVmomi import vim

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.models.instance import Firmware, Flavor
from hvdrivers.models.migration import BlockerKind, Destination
from hvdrivers.models.numa import NumaNode
from hvdrivers.vmware.driver import VmwareDriver
from hvdrivers.vmware.encrypted_memory import telling
from hvdrivers.vmware.virtual_numa import fit_nodes
from tests.integration.vmware.conftest import SpecFactory, connected
from tests.integration.vmware.test_budgets import READ, calls
from tests.peers.fixtures import started
from tests.peers.vcsim import VcsimPeer

FOUR = Flavor(vcpus=4, memory_mib=64, numa_nodes=2)
SEV: dict[str, Any] = {"sev": True, "firmware": Firmware.UEFI}


@pytest.fixture
def clean(driver: VmwareDriver) -> Iterator[VmwareDriver]:
    yield driver
    for each in driver.list_instances():
        driver.destroy(each.uuid)


def config(driver: VmwareDriver, uuid: UUID) -> Any:
    return driver.reader.one(driver.machines.get(uuid).obj, "config")["config"]


def test_nodes(clean: VmwareDriver, spec: SpecFactory) -> None:
    uuid = clean.spawn(spec(flavor=FOUR)).uuid
    assert config(clean, uuid).numaInfo.coresPerNumaNode == 2
    larger = FOUR.model_copy(update={"vcpus": 8, "numa_nodes": 4})
    assert calls(clean, lambda: clean.resize(uuid, larger)) == {READ: 3, "ReconfigVM_Task": 1}
    assert config(clean, uuid).numaInfo.coresPerNumaNode == 2
    clean.resize(uuid, FOUR.model_copy(update={"vcpus": 8}))
    assert config(clean, uuid).numaInfo.coresPerNumaNode == 4
    clean.resize(uuid, Flavor(vcpus=8, memory_mib=64))
    assert config(clean, uuid).numaInfo.coresPerNumaNode == 0
    assert config(clean, clean.spawn(spec()).uuid).numaInfo is None


@pytest.mark.parametrize(
    ("flavor", "before", "wanted"),
    [
        (FOUR, None, ("2", "1", "FALSE")),
        (Flavor(vcpus=4, memory_mib=64), FOUR, ("", "", "")),
        (Flavor(vcpus=4, memory_mib=64), None, None),
    ],
)
def test_nodes_before_vsphere_8(
    flavor: Flavor, before: Flavor | None, wanted: tuple[str, str, str] | None
) -> None:
    made = vim.vm.ConfigSpec()
    fit_nodes(made, flavor, "7.0.3.0", before)
    found = {each.key: each.value for each in made.extraConfig or ()}
    keys = ("numa.vcpu.maxPerVirtualNode", "numa.vcpu.min", "numa.autosize")
    assert found == (dict(zip(keys, wanted, strict=True)) if wanted else {})
    assert made.virtualNuma is None


def test_nodes_that_are_refused(
    guarded_driver: ComputeDriver, driver: VmwareDriver, spec: SpecFactory
) -> None:
    node = NumaNode(cell=0, vcpus=range(4), memory_mib=64)
    for changes in (
        {"flavor": FOUR.model_copy(update={"max_vcpus": 8})},
        {"flavor": FOUR.model_copy(update={"max_memory_mib": 128})},
        {"flavor": FOUR.model_copy(update={"numa_nodes": 1}), "numa": (node,)},
    ):
        with pytest.raises(errors.NotSupported):
            guarded_driver.spawn(spec(**changes))
    assert not driver.list_instances()
    uuid = driver.spawn(spec()).uuid
    with pytest.raises(errors.NotSupported):
        driver.resize(uuid, FOUR.model_copy(update={"max_vcpus": 8}))
    driver.destroy(uuid)


def test_encrypted_memory(peer: VcsimPeer, clean: VmwareDriver, spec: SpecFactory) -> None:
    clean.destroy(clean.spawn(spec()).uuid)
    wanted = spec(start=True, **SEV)
    made = calls(clean, lambda: clean.spawn(wanted))
    hosts = len(clean.places.surroundings().hosts)
    assert made["QueryConfigTarget"] == hosts
    assert "CloneVM_Task" not in made  # vSphere makes no clones of such machines
    found = config(clean, wanted.uuid)
    assert (found.sevEnabled, found.memoryReservationLockedToMax) == (True, True)
    assert found.memoryAllocation.reservation == wanted.flavor.memory_mib
    with pytest.raises(errors.NotSupported, match="SEV"):
        clean.suspend(wanted.uuid)
    with pytest.raises(errors.NotSupported, match="SEV"):
        clean.create_snapshot(wanted.uuid, "memory", memory=True)
    clean.create_snapshot(wanted.uuid, "disks")
    if peer.mode == "vpx":
        now = clean.reader.one(clean.machines.get(wanted.uuid).obj, "runtime.host")["runtime.host"]
        rows = clean.places.surroundings().hosts
        other = next(each["name"] for each in rows if each.obj != now)
        plan = clean.check_live_migration(wanted.uuid, Destination(host=other))
        assert [each.kind for each in plan.blockers] == [BlockerKind.DEVICE]
    else:
        assert Capability.LIVE_MIGRATION in clean.narrowed()
    clean.power_off(wanted.uuid)
    clean.delete_snapshot(wanted.uuid, clean.list_snapshots(wanted.uuid)[0].id)
    larger = wanted.flavor.model_copy(update={"memory_mib": 128})
    clean.resize(wanted.uuid, larger)
    assert config(clean, wanted.uuid).memoryAllocation.reservation == 128
    with pytest.raises(errors.NotSupported, match="SEV"):
        clean.resize(wanted.uuid, larger.model_copy(update={"max_vcpus": 4}))


def test_encrypted_memory_of_a_machine_that_is_adopted(
    clean: VmwareDriver, spec: SpecFactory
) -> None:
    """The driver refuses what vSphere does not do with it, whoever made it."""
    uuid = clean.spawn(spec(start=True, **SEV)).uuid
    keys = [vim.option.OptionValue(key="hvdrivers.mark", value="")]
    clean.changes.reconfigure(clean.machines.get(uuid).obj, vim.vm.ConfigSpec(extraConfig=keys))
    clean.adopt(uuid)
    with pytest.raises(errors.NotSupported, match="SEV"):
        clean.suspend(uuid)
    with pytest.raises(errors.NotSupported, match="SEV"):
        clean.create_snapshot(uuid, "memory", memory=True)
    plain = clean.spawn(spec(start=True)).uuid
    clean.changes.reconfigure(clean.machines.get(plain).obj, vim.vm.ConfigSpec(extraConfig=keys))
    clean.adopt(plain)
    clean.suspend(plain)


@pytest.mark.parametrize(
    ("version", "asked"),
    [("vim.version.v7_0", 0), ("vim.version.v7_0_1_0", 1), ("vim.version.v8_0_3_0", 1)],
)
def test_an_older_server_is_not_asked_for_encrypted_memory(
    clean: VmwareDriver, monkeypatch: pytest.MonkeyPatch, version: str, asked: int
) -> None:
    """It would refuse to tell anything at all (InvalidProperty)."""
    monkeypatch.setattr(clean.session.stub, "version", version)
    assert len(telling(clean.session)) == asked


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"firmware": None}, errors.InvalidRequest),
        ({"firmware": Firmware.BIOS}, errors.InvalidRequest),
        ({"secure_boot": True}, errors.NotSupported),
        ({"flavor": Flavor(vcpus=1, memory_mib=64, max_vcpus=2)}, errors.NotSupported),
        ({"flavor": Flavor(vcpus=1, memory_mib=64, max_memory_mib=128)}, errors.NotSupported),
    ],
)
def test_what_encrypted_memory_is_not_had_with(
    clean: VmwareDriver, spec: SpecFactory, changes: dict[str, Any], error: type[Exception]
) -> None:
    with clean.session.seam.counting() as made, pytest.raises(error):
        clean.spawn(spec(**(SEV | changes)))
    assert "MakeDirectory" not in made
    assert not clean.list_instances()


@pytest.mark.parametrize("mode", ["vpx", "esx"])
def test_hosts_that_encrypt_nothing(mode: str, spec: SpecFactory) -> None:
    with started(lambda: VcsimPeer(mode, sev="false")) as peer:
        driver = connected(peer)
        try:
            with pytest.raises(errors.InsufficientResources, match="no host"):
                driver.spawn(spec(**SEV))
            assert not driver.list_instances()
        finally:
            driver.close()
