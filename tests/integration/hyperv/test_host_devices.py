"""Devices of the host that an instance gets as they are, and partitions of its GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.guard import guarded
from hvdrivers.hyperv.driver import HypervDriver
from hvdrivers.hyperv.simulator.errors import CmdletError
from hvdrivers.hyperv.simulator.faults import Rule
from hvdrivers.hyperv.simulator.state.host import HostDevice, PartitionableGpu
from hvdrivers.models.image import FileImage
from hvdrivers.models.instance import PciRequest, VgpuRequest
from hvdrivers.models.pci import PciAddress
from hvdrivers.models.resources import PciDevice
from hvdrivers.models.state import InstanceState
from tests.integration.hyperv.site import Site, held, spec
from tests.integration.hyperv.test_operations import machine_of
from tests.peers.waiting import wait_until

NIC, ASIDE, GPU = (PciAddress(f"0000:0{bus}:00.0") for bus in (3, 4, 5))
_GPU_ID = "PCI\\VEN_10DE&DEV_25B6&SUBSYS_14A910DE&REV_A1\\4&2F2E5D3&0&0008"
GPU_NAME = (
    "\\\\?\\" + _GPU_ID.replace("\\", "#") + "#{064092b3-625e-43bf-9eb5-dc845897dd59}\\GPUPARAV"
)


@dataclass
class Devices:
    """A network card of the host's own, one that is set aside, and a GPU with two partitions."""

    site: Site
    inner: HypervDriver
    driver: ComputeDriver
    nic: HostDevice
    aside: HostDevice
    gpu: HostDevice

    def shown(self) -> dict[PciAddress, PciDevice]:
        return {each.address: each for each in self.driver.get_available_resource().devices}

    def as_before(self) -> None:
        for device, dismounted in ((self.nic, False), (self.aside, True), (self.gpu, False)):
            assert device.owner is None
            assert device.dismounted is dismounted
            assert device.enabled is not dismounted
        assert self.site.left() == []


@pytest.fixture
def devices(site: Site) -> Iterator[Devices]:
    def device(bus: int, name: str, **fields: object) -> HostDevice:
        path = f"PCIROOT(0)#PCI(0{bus}00)#PCI(0000)"
        ident = f"PCI\\VEN_8086&DEV_15{bus}3&SUBSYS_00008086&REV_01\\3&11583659&0&0{bus}"
        return HostDevice(**{"instance_id": ident, "location_path": path, "name": name,
                             "bus": bus, **fields})  # type: ignore[arg-type]  # fmt: skip

    nic = device(3, "Ethernet Controller")
    aside = device(4, "NVM Express Controller", class_code="010802", dismounted=True, enabled=False)
    gpu = device(5, "NVIDIA A2", class_code="030200", instance_id=_GPU_ID)
    hardware = site.host.state.hardware
    with site.host.world.lock:
        hardware.devices += [nic, aside, gpu]
        hardware.gpus.append(PartitionableGpu(GPU_NAME, count=2))
    inner = HypervDriver.connect(site.config)
    yield Devices(site, inner, guarded(inner), nic, aside, gpu)
    inner.close()
    with site.host.world.lock:
        hardware.devices.clear()
        hardware.gpus.clear()


def test_the_inventory_has_them(devices: Devices) -> None:
    shown = devices.shown()
    assert list(shown) == [NIC, ASIDE, GPU]
    assert [each.is_aside for each in shown.values()] == [False, True, False]
    gpu = shown[GPU]
    assert (gpu.vendor_id, gpu.product_id, gpu.class_code) == ("10de", "25b6", "030200")
    assert gpu.is_gpu
    assert [(each.name, each.available, each.total) for each in gpu.mediated_types] == [
        (GPU_NAME, 2, 2)
    ]
    providers = devices.driver.placement_inventories()
    classes = {name for each in providers for name in each.inventories}
    assert {"VGPU", "CUSTOM_PCI_8086_1543"} <= classes


@pytest.mark.parametrize("address", [NIC, ASIDE, GPU])
def test_a_device_is_given_and_given_back(
    site: Site, image: FileImage, devices: Devices, address: PciAddress
) -> None:
    device = {NIC: devices.nic, ASIDE: devices.aside, GPU: devices.gpu}[address]
    wanted = spec(image, pci_devices=(PciRequest(address=address),))
    devices.driver.destroy(devices.driver.spawn(spec(image)).uuid)
    with devices.inner.session.seam.counting() as calls:
        uuid = devices.driver.spawn(wanted).uuid
    assert calls == ["hyperv.Spawn"]
    with site.host.world.lock:
        machine = machine_of(site, uuid)
        assert machine.state == "Running"
        assert device.owner == machine.id
        assert machine.config.stop_action == "TurnOff"
        assert machine.config.guest_cache_types is (address == GPU)
        assert (machine.config.high_mmio == 33280 << 20) is (address == GPU)
    with pytest.raises(errors.InsufficientResources):
        devices.driver.spawn(spec(image, pci_devices=(PciRequest(address=address),)))
    with pytest.raises(errors.NotSupported):
        devices.driver.suspend(uuid)
    with pytest.raises(errors.NotSupported):
        devices.driver.create_snapshot(uuid, "a")
    assert devices.driver.get_instance(uuid).state is InstanceState.RUNNING
    devices.driver.destroy(uuid)
    devices.as_before()


def test_what_is_not_there_or_is_in_parts(image: FileImage, devices: Devices) -> None:
    driver = devices.driver
    absent = PciRequest(address=PciAddress("0000:09:00.0"))
    with pytest.raises(errors.InsufficientResources):
        driver.spawn(spec(image, pci_devices=(absent,)))
    part = VgpuRequest(type=GPU_NAME, parent=GPU)
    whole = PciRequest(address=GPU)
    uuid = driver.spawn(spec(image, vgpus=(part,))).uuid
    with pytest.raises(errors.InsufficientResources):
        driver.spawn(spec(image, pci_devices=(whole,)))
    driver.destroy(uuid)
    uuid = driver.spawn(spec(image, pci_devices=(whole,))).uuid
    with pytest.raises(errors.InsufficientResources):
        driver.spawn(spec(image, vgpus=(part,)))
    driver.destroy(uuid)
    devices.as_before()


def test_partitions_are_counted(site: Site, image: FileImage, devices: Devices) -> None:
    driver = devices.driver
    wanted = VgpuRequest(type=GPU_NAME)
    made = [driver.spawn(spec(image, vgpus=(wanted,), start=start)).uuid for start in (True, False)]
    assert devices.shown()[GPU].mediated_types[0].available == 0
    with pytest.raises(errors.InsufficientResources):
        driver.spawn(spec(image, vgpus=(wanted,)))
    with pytest.raises(errors.NotSupported):
        driver.suspend(made[0])
    driver.destroy(made[1])
    for other in (VgpuRequest(type="none"), VgpuRequest(type=GPU_NAME, parent=NIC)):
        with pytest.raises(errors.InsufficientResources):
            driver.spawn(spec(image, vgpus=(other,)))
    assert devices.shown()[GPU].mediated_types[0].available == 1
    driver.destroy(made[0])
    assert devices.shown()[GPU].mediated_types[0].available == 2
    devices.as_before()


STEPS = ("Dismount-VMHostAssignableDevice", "Add-VMAssignableDevice", "Start-VM")


@pytest.mark.parametrize("cmdlet", STEPS)
@pytest.mark.parametrize("dies", [True, False], ids=["client", "call"])
def test_a_spawn_that_fails_gives_the_device_back(
    site: Site, image: FileImage, devices: Devices, cmdlet: str, dies: bool
) -> None:
    driver = devices.driver
    driver.destroy(driver.spawn(spec(image)).uuid)
    wanted = spec(image, pci_devices=(PciRequest(address=NIC),))
    if dies:
        with held(site, cmdlet) as release, ThreadPoolExecutor(1) as pool:
            doing = pool.submit(driver.spawn, wanted)
            with release():
                site.service.kill_shells()
                assert isinstance(doing.exception(), errors.HypervisorError)
        driver.destroy(wanted.uuid)
    else:
        site.host.state.faults.fail(cmdlet, calls=1)
        with pytest.raises(errors.HypervisorError):
            driver.spawn(wanted)
        site.host.state.faults.clear()
    devices.as_before()
    driver.destroy(driver.spawn(wanted).uuid)
    devices.as_before()


@pytest.mark.parametrize("first", ["dead", "next"])
def test_a_device_that_a_dead_client_has_taken_from_the_host_goes_back_to_it(
    site: Site, image: FileImage, devices: Devices, first: str
) -> None:
    """Another instance gets it before the dead one is removed: whoever is last gives it back."""
    driver = devices.driver
    driver.destroy(driver.spawn(spec(image)).uuid)
    dead, following = (spec(image, pci_devices=(PciRequest(address=NIC),)) for _ in range(2))
    # the client dies before Hyper-V is asked, so the call itself does nothing late
    error = CmdletError("OperationFailed", "NotSpecified", "injected", why="nobody asked for it")
    rule = Rule("Add-VMAssignableDevice", frozenset({1}), before=3600.0, error=error)
    site.host.state.faults.add(rule)
    with ThreadPoolExecutor(1) as pool:
        doing = pool.submit(driver.spawn, dead)
        wait_until(lambda: rule.seen > 0, timeout=120, what="the device is about to be given")
        site.service.kill_shells()
        assert isinstance(doing.exception(), errors.HypervisorError)
    rule.over = True
    site.host.world.notify()
    site.host.state.faults.clear()
    assert devices.nic.dismounted
    driver.spawn(following)
    assert devices.nic.owner is not None
    order = [dead, following] if first == "dead" else [following, dead]
    driver.destroy(order[0].uuid)
    driver.destroy(order[1].uuid)
    devices.as_before()


def test_a_host_without_a_gpu_says_so(site: Site) -> None:
    assert Capability.VGPU not in site.driver.capabilities
    assert "no GPU" in (site.driver.why_not(Capability.VGPU) or "")
    assert Capability.PCI_PASSTHROUGH in site.driver.capabilities
