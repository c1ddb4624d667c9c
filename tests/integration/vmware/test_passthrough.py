"""Devices of a host: how the inventory shows them, and machines that get them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, cast

import pytest
from pyVmomi import vim

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.driverkit import cut_after, cut_before
from hvdrivers.guard import guarded
from hvdrivers.models.image import ImageFormat
from hvdrivers.models.instance import Firmware, Flavor, PciRequest, VgpuRequest
from hvdrivers.models.migration import BlockerKind, Destination
from hvdrivers.models.pci import PciAddress
from hvdrivers.models.vif import NetworkVif
from hvdrivers.models.volume import VolumeAttachment, VolumeSpec
from hvdrivers.vmware.driver import VmwareDriver
from tests.integration.vmware.conftest import SpecFactory, connected
from tests.peers.fixtures import started
from tests.peers.vcsim import VcsimPeer

ADAPTER, WAITING = PciAddress("0000:3b:00.0"), PciAddress("0000:3b:00.1")
GPU, OWN = PciAddress("0000:5e:00.0"), PciAddress("0000:d8:00.0")


@pytest.fixture(scope="module", params=["esx", "vpx"])
def alone_peer(request: pytest.FixtureRequest) -> Iterator[VcsimPeer]:
    """An ESXi host; a vCenter with a host that is in no cluster."""
    with started(lambda: VcsimPeer(request.param, standalone=1)) as peer:
        yield peer


@pytest.fixture
def alone(alone_peer: VcsimPeer) -> Iterator[VmwareDriver]:
    """A driver of one host."""
    one = {"compute": "DC0_H0"} if alone_peer.mode == "vpx" else {}
    made = connected(alone_peer, **one)
    yield made
    for each in made.list_instances():
        made.destroy(each.uuid)
    made.close()
    alone_peer.require_alive()


def wanting(*addresses: PciAddress, **changes: Any) -> dict[str, Any]:
    return {"pci_devices": tuple(PciRequest(address=each) for each in addresses), **changes}


def test_the_devices_of_a_host(alone: VmwareDriver) -> None:
    with alone.session.seam.counting() as first:
        alone.get_available_resource()
    with alone.session.seam.counting() as calls:
        found = alone.get_available_resource()
    assert list(calls) == ["RetrievePropertiesEx"]
    assert list(first) == ["RetrievePropertiesEx", "QueryConfigTarget"]
    cells = {each.id: each for each in found.numa_cells}
    assert (cells[0].cpus, cells[1].cpus) == (frozenset(range(8)), frozenset(range(8, 16)))
    assert [cells[each].memory_mib for each in (0, 1)] == [2048, 2048]
    devices = {each.address: each for each in found.devices}
    assert {each for each in devices if devices[each].is_aside} == {ADAPTER, GPU}
    assert [devices[each].numa_cell for each in (ADAPTER, WAITING, GPU, OWN)] == [0, 0, 0, 1]
    assert devices[ADAPTER].max_virtual_functions == 64
    gpu, own = devices[GPU], devices[OWN]
    assert (gpu.vendor_id, gpu.product_id, gpu.class_code) == ("10de", "1eb8", "030200")
    assert gpu.label == "NVIDIA Corporation Tesla T4"
    assert own.product_id == "9bb6"
    assert not gpu.mediated_types
    assert (
        own.label == "NVIDIA Corporation NVIDIA A2"
    )  # the graphics card has a name, not the device
    assert gpu.is_gpu
    assert own.is_gpu


def test_what_placement_is_told(alone: VmwareDriver) -> None:
    found = {each.name: each for each in guarded(alone).placement_inventories()}
    root = alone.host().hostname
    assert set(found[f"{root}_{ADAPTER}"].inventories) == {"CUSTOM_PCI_8086_1572"}
    assert set(found[f"{root}_{GPU}"].inventories) == {"PGPU"}
    assert f"{root}_{WAITING}" not in found
    own = found[f"{root}_{OWN}"]
    assert (own.inventories["VGPU"].total, own.traits) == (
        4,
        {"CUSTOM_VGPU_NVIDIA_A2_4Q", "CUSTOM_VGPU_NVIDIA_A2_8Q"},
    )


def test_a_cluster_has_none(peer: VcsimPeer, driver: VmwareDriver, spec: SpecFactory) -> None:
    found = driver.get_available_resource()
    lacking = driver.narrowed()
    if peer.mode == "vpx":
        assert (found.devices, found.numa_cells) == ((), ())
        assert "several" in lacking[Capability.PCI_PASSTHROUGH]
        with pytest.raises(errors.NotSupported):
            driver.spawn(spec(**wanting(ADAPTER)))
    else:
        assert Capability.PCI_PASSTHROUGH not in lacking


def hardware(driver: VmwareDriver, uuid: Any) -> Any:
    return driver.reader.one(
        driver.machines.get(uuid).obj,
        "config.hardware.device",
        "config.memoryReservationLockedToMax",
        "config.memoryAllocation",
        "config.extraConfig",
    )


def test_a_machine_gets_its_devices(alone: VmwareDriver, spec: SpecFactory) -> None:
    alone.spawn(spec())
    with alone.session.seam.counting() as without:
        alone.spawn(spec())
    wanted = spec(**wanting(ADAPTER, GPU, start=True, firmware=Firmware.UEFI))
    with alone.session.seam.counting() as calls:
        alone.spawn(wanted)
    row = hardware(alone, wanted.uuid)
    cards = [
        each.backing
        for each in row["config.hardware.device"]
        if isinstance(each, vim.vm.device.VirtualPCIPassthrough)
    ]
    assert {each.id for each in cards} == {ADAPTER, GPU}
    by_id = {each.id: each for each in cards}
    assert (by_id[ADAPTER].vendorId, by_id[ADAPTER].deviceId) == (-32634, "5490")
    assert by_id[GPU].systemId.startswith("5f0b2a00")
    assert row["config.memoryReservationLockedToMax"] is True
    assert row["config.memoryAllocation"].reservation == wanted.flavor.memory_mib
    extra = {each.key: each.value for each in row["config.extraConfig"]}
    assert extra["pciPassthru.use64bitMMIO"] == "TRUE"
    assert extra["pciPassthru.64bitMMIOSizeGB"] == "128"
    assert calls.by_name["QueryConfigTarget"] == 1
    assert "CloneVM_Task" not in calls
    if "CloneVM_Task" not in without:
        start = {"PowerOnVM_Task": 1, "ReconfigVM_Task": 1}
        more = calls.by_name - without.by_name
        assert {key: more[key] for key in start} == start


@pytest.mark.parametrize(
    ("addresses", "words"),
    [
        ((WAITING,), "not for machines"),
        ((OWN,), "not for machines"),
        ((PciAddress("ffff:ff:1f.7"),), "no PCI device"),
        ((ADAPTER, ADAPTER), "twice"),
        (tuple(PciAddress.of(1, 0, each, 0) for each in range(17)), "at most 16"),
    ],
)
def test_devices_that_cannot_be_had(
    alone: VmwareDriver, spec: SpecFactory, addresses: tuple[PciAddress, ...], words: str
) -> None:
    alone.destroy(alone.spawn(spec()).uuid)
    before = {(each.name, each.volume_id) for each in alone.list_volumes()}
    with (
        alone.session.seam.counting() as calls,
        pytest.raises(errors.InsufficientResources, match=words),
    ):
        alone.spawn(spec(**wanting(*addresses)))
    assert "MakeDirectory" not in calls
    assert {(each.name, each.volume_id) for each in alone.list_volumes()} == before


def test_a_device_is_one_machines(alone: VmwareDriver, spec: SpecFactory) -> None:
    """Also one that is off: it could not start any more."""
    first = spec(**wanting(ADAPTER))
    alone.spawn(first)
    with pytest.raises(errors.InsufficientResources, match="another machine"):
        alone.spawn(spec(**wanting(ADAPTER)))
    alone.spawn(spec(**wanting(GPU, start=True)))
    alone.destroy(first.uuid)
    alone.spawn(spec(**wanting(ADAPTER, start=True)))


def test_two_spawns_at_the_same_moment(
    alone: VmwareDriver, alone_peer: VcsimPeer, spec: SpecFactory
) -> None:
    """Each finds the device free; at least one of them gives it up, and leaves nothing."""
    with closing(connected(alone_peer, compute=alone.config.compute)) as other:
        first, second = spec(**wanting(GPU)), spec(**wanting(GPU))
        alone.destroy(alone.spawn(spec()).uuid)

        def between(name: str, send: Callable[[], Any], /) -> Any:
            if name == "CreateVM_Task":
                other.spawn(second)
            return send()

        with (
            alone.session.seam.through(between),
            pytest.raises(errors.InsufficientResources, match="same moment"),
        ):
            alone.spawn(first)
        assert {each.uuid for each in alone.list_instances()} == {second.uuid}


@pytest.mark.parametrize("fault", [cut_before, cut_after])
def test_a_spawn_that_is_cut_gives_the_device_back(
    alone: VmwareDriver, spec: SpecFactory, fault: Any
) -> None:
    alone.destroy(alone.spawn(spec()).uuid)
    wanted = spec(**wanting(ADAPTER))
    with alone.session.seam.counting() as calls:
        alone.spawn(wanted)
    alone.destroy(wanted.uuid)
    for number, name in enumerate(calls, start=1):
        with (
            alone.session.seam.cut(fault, occurrence=number, repeats=3) as cut,
            suppress(errors.OutcomeUnknown, errors.ConnectionFailed),
        ):
            alone.spawn(wanted)
        assert cut.struck, name
        alone.destroy(wanted.uuid)
        alone.destroy(alone.spawn(spec(**wanting(ADAPTER))).uuid)


SMALL, LARGE = "nvidia_a2-4q", "nvidia_a2-8q"


def slices(*names: str, parent: PciAddress | None = None, **changes: Any) -> dict[str, Any]:
    return {"vgpus": tuple(VgpuRequest(type=each, parent=parent) for each in names), **changes}


def left(driver: VmwareDriver) -> dict[str, int]:
    return {
        kind.name: kind.available
        for device in driver.get_available_resource().devices
        for kind in device.mediated_types
    }


def test_slices_of_one_size(alone: VmwareDriver, spec: SpecFactory) -> None:
    assert left(alone) == {SMALL: 4, LARGE: 2}
    first = alone.spawn(spec(**slices(SMALL, start=True))).uuid
    assert left(alone) == {SMALL: 3, LARGE: 0}
    row = hardware(alone, first)
    assert row["config.memoryReservationLockedToMax"] is True
    with pytest.raises(errors.InsufficientResources):
        alone.spawn(spec(**slices(LARGE)))
    alone.spawn(spec(**slices(SMALL, SMALL, start=True)))
    assert left(alone) == {SMALL: 1, LARGE: 0}
    with pytest.raises(errors.InsufficientResources):
        alone.spawn(spec(**slices(SMALL, SMALL)))
    with pytest.raises(errors.NotSupported):
        alone.suspend(first)
    for each in alone.list_instances():
        alone.destroy(each.uuid)
    assert left(alone) == {SMALL: 4, LARGE: 2}
    alone.spawn(spec(**slices(LARGE, parent=OWN, start=True)))
    assert left(alone) == {SMALL: 0, LARGE: 1}


@pytest.mark.parametrize(
    "changes",
    [
        slices("nvidia_a2-2q"),
        slices("nvidia' OR 1"),
        slices(SMALL, parent=GPU),
        slices(*[SMALL] * 9),
        slices(SMALL, LARGE),
    ],
)
def test_slices_that_cannot_be_had(
    alone: VmwareDriver, spec: SpecFactory, changes: dict[str, Any]
) -> None:
    alone.destroy(alone.spawn(spec()).uuid)
    with (
        alone.session.seam.counting() as calls,
        pytest.raises(errors.InsufficientResources),
    ):
        alone.spawn(spec(**changes))
    assert "MakeDirectory" not in calls


def test_a_host_whose_gpus_come_later(alone: VmwareDriver, spec: SpecFactory) -> None:
    """Its administrator has installed the vendor's driver since the first look."""
    read = alone.reader.read

    def without(wanted: Any, roots: Any) -> Any:
        rows = read(wanted, roots)
        for row in rows:
            if isinstance(row.obj, vim.HostSystem):
                cast("dict[str, Any]", row.values).pop("config.sharedPassthruGpuTypes", None)
        return rows

    alone.spawn(spec(**slices(SMALL)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alone.reader, "read", without)
        for _ in range(2):
            with alone.session.seam.counting() as calls:
                assert left(alone) == {}
            assert list(calls) == ["RetrievePropertiesEx"]
    assert left(alone) == {SMALL: 3, LARGE: 0}
    with alone.session.seam.counting() as calls:
        assert left(alone) == {SMALL: 3, LARGE: 0}
    assert list(calls) == ["RetrievePropertiesEx"]


def test_two_spawns_of_the_last_slice(
    alone: VmwareDriver, alone_peer: VcsimPeer, spec: SpecFactory
) -> None:
    with closing(connected(alone_peer, compute=alone.config.compute)) as other:
        alone.spawn(spec(**slices(LARGE)))
        first, second = spec(**slices(LARGE)), spec(**slices(LARGE))

        def between(name: str, send: Callable[[], Any], /) -> Any:
            if name == "CreateVM_Task":
                other.spawn(second)
            return send()

        with alone.session.seam.through(between), pytest.raises(errors.InsufficientResources):
            alone.spawn(first)
        assert first.uuid not in {each.uuid for each in alone.list_instances()}


def test_what_vsphere_does_not_do_with_such_a_machine(
    alone: VmwareDriver, spec: SpecFactory, tmp_path: Path
) -> None:
    uuid = alone.spawn(spec(**wanting(GPU, start=True))).uuid
    for refused in (
        lambda: alone.suspend(uuid),
        lambda: alone.create_snapshot(uuid, "x"),
        lambda: alone.create_snapshot(uuid, "x", memory=True),
        lambda: alone.snapshot_to_image(uuid, tmp_path / "x", ImageFormat.RAW),
    ):
        with alone.session.seam.counting() as calls, pytest.raises(errors.NotSupported):
            refused()
        assert list(calls) == ["RetrievePropertiesEx"]
    alone.power_off(uuid)
    with pytest.raises(errors.NotSupported):
        alone.create_snapshot(uuid, "x")
    alone.snapshot_to_image(uuid, tmp_path / "x", ImageFormat.RAW)
    grows = Flavor(vcpus=1, memory_mib=64, max_memory_mib=128)
    with pytest.raises(errors.NotSupported):
        alone.spawn(spec(**wanting(ADAPTER, flavor=grows)))


def test_a_machine_does_not_get_memory_to_grow_into(alone: VmwareDriver, spec: SpecFactory) -> None:
    uuid = alone.spawn(spec(**slices(SMALL))).uuid
    with pytest.raises(errors.NotSupported):
        alone.resize(uuid, Flavor(vcpus=1, memory_mib=64, max_memory_mib=128))
    alone.power_on(uuid)


def test_a_machine_with_a_device_stays_on_its_host(
    alone: VmwareDriver, alone_peer: VcsimPeer, spec: SpecFactory
) -> None:
    if alone_peer.mode == "esx":
        assert Capability.LIVE_MIGRATION in alone.narrowed()
        return
    uuid = alone.spawn(spec(**slices(SMALL, start=True))).uuid
    there = Destination(host="DC0_C0")
    plan = alone.check_live_migration(uuid, there)
    assert BlockerKind.DEVICE in {each.kind for each in plan.blockers}
    with pytest.raises(errors.InvalidRequest):
        alone.live_migrate(uuid, there)
    alone.power_off(uuid)
    with pytest.raises(errors.InvalidRequest):
        alone.cold_migrate(uuid, there)
    assert {each.uuid for each in alone.list_instances()} == {uuid}


def test_more_memory_is_reserved_too(alone: VmwareDriver, spec: SpecFactory) -> None:
    uuid = alone.spawn(spec(**wanting(ADAPTER))).uuid
    alone.resize(uuid, Flavor(vcpus=1, memory_mib=128))
    alone.power_on(uuid)
    assert hardware(alone, uuid)["config.memoryReservationLockedToMax"] is True


def test_devices_that_come_and_go(alone: VmwareDriver, spec: SpecFactory) -> None:
    """While a machine runs that has a device of its host whole, neither."""
    volume = VolumeAttachment(volume=alone.create_volume(VolumeSpec(size_bytes=1 << 20)))
    vif = NetworkVif(id="later", network="VM Network")
    uuid = alone.spawn(spec(**wanting(ADAPTER, start=True))).uuid
    alone.detach_volume(uuid, volume.volume_id)  # nothing to do
    alone.unplug_vif(uuid, vif.id)
    for add in (lambda: alone.attach_volume(uuid, volume), lambda: alone.plug_vif(uuid, vif)):
        with alone.session.seam.counting() as calls, pytest.raises(errors.NotSupported) as caught:
            add()
        assert "ReconfigVM_Task" not in calls
        assert caught.value.hint == "power_off() first"
    alone.power_off(uuid)
    alone.attach_volume(uuid, volume)
    alone.plug_vif(uuid, vif)
    alone.power_on(uuid)
    assert alone.attach_volume(uuid, volume).volume_id == volume.volume_id  # it is there already
    with pytest.raises(errors.NotSupported):
        alone.detach_volume(uuid, volume.volume_id)
    with pytest.raises(errors.NotSupported):
        alone.unplug_vif(uuid, vif.id)
    shown = alone.get_instance(uuid)
    assert [each.volume_id for each in shown.volumes] == [volume.volume_id]
    assert [each.id for each in shown.vifs] == [vif.id]
    alone.destroy(uuid)
    sliced = alone.spawn(spec(vgpus=(VgpuRequest(type="nvidia_a2-4q"),), start=True)).uuid
    alone.attach_volume(sliced, volume)
    alone.destroy(sliced)
    alone.delete_volume(volume.volume_id)
