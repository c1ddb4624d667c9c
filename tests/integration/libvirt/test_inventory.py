"""The host's inventory and counters, beside what virsh says; and other people's machines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from hvdrivers.contract import errors
from hvdrivers.contract.power import RebootKind
from hvdrivers.models.instance import Flavor
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import BridgeVif
from hvdrivers.models.volume import VolumeAttachment
from tests.integration.libvirt.machines import Host, Machine
from tests.peers.bridge import LinuxBridge
from tests.peers.guest import Guest, define_guest
from tests.peers.libvirtd import POOL


def test_the_host_itself(host: Host) -> None:
    found = host.driver.get_available_resource()
    info = host.peer.virsh("nodeinfo")
    cpus = int(re.search(r"CPU\(s\):\s+(\d+)", info)[1])  # type: ignore[index]
    assert found.cpu.total == cpus
    assert found.cpu.sockets * found.cpu.cores_per_socket * found.cpu.threads_per_core == cpus
    stats = host.peer.virsh("nodememstats")
    total = int(re.search(r"total\s*:\s+(\d+)", stats)[1])  # type: ignore[index]
    assert found.memory.total_mib == total // 1024
    assert 0 < found.memory.free_mib < found.memory.total_mib
    storage, others = found.storage
    assert (storage.name, storage.for_new) == (host.raw.config.pool, True)
    assert (others.name, others.for_new) == (POOL, False)
    pool = host.peer.virsh("pool-info", host.raw.config.pool, "--bytes")
    capacity = int(re.search(r"Capacity:\s+(\d+)", pool)[1])  # type: ignore[index]
    assert storage.total_gib == pytest.approx(capacity / (1 << 30))
    assert 0 < storage.used_gib < storage.total_gib
    assert found.numa_cells
    assert sum(len(cell.cpus) for cell in found.numa_cells) == cpus
    assert found.host == host.driver.host()
    assert found.host.accelerated is False


def test_devices(host: Host) -> None:
    """Every PCI device that virsh lists, by its address, with the numbers of its XML."""
    found = {str(each.address): each for each in host.driver.get_available_resource().devices}
    names = host.peer.virsh("nodedev-list", "--cap", "pci").split()
    assert len(found) == len(names)
    for name in names:
        domain, bus, slot, function = name.removeprefix("pci_").split("_")
        device = found[f"{domain}:{bus}:{slot}.{function}"]
        xml = host.peer.virsh("nodedev-dumpxml", name)
        assert f"<vendor id='0x{device.vendor_id}'" in xml
        assert f"<product id='0x{device.product_id}'" in xml


def test_what_spawn_takes_destroy_gives_back(host: Host) -> None:
    before = host.driver.get_available_resource()
    with host.empty_machine(flavor=Flavor(vcpus=2, memory_mib=100)) as machine:
        during = host.driver.get_available_resource()
        assert during.memory.used_mib == before.memory.used_mib + 100
        assert during.cpu.used == before.cpu.used + 2
        assert during.instances == before.instances + 1
        host.driver.power_off(machine.uuid)
        off = host.driver.get_available_resource()
        assert off.memory.used_mib == before.memory.used_mib
        assert off.instances == before.instances + 1
    after = host.driver.get_available_resource()
    assert after.memory.used_mib == before.memory.used_mib
    assert after.cpu.used == before.cpu.used
    assert after.instances == before.instances


def test_placement(host: Host) -> None:
    """The same as resource providers: the root has the host's CPUs, memory and disk."""
    resources = host.driver.get_available_resource()
    providers = host.driver.placement_inventories()
    assert providers
    dump = [each.model_dump(mode="json") for each in providers]
    classes = {name: value for each in dump for name, value in each["inventories"].items()}
    assert {"VCPU", "MEMORY_MB", "DISK_GB"} <= classes.keys()
    assert classes["VCPU"]["total"] == resources.cpu.total
    assert classes["MEMORY_MB"]["total"] == resources.memory.total_mib
    assert classes["DISK_GB"]["total"] == int(resources.storage[0].total_gib)


def test_metrics(host: Host, machine: Machine, linux_bridge: LinuxBridge) -> None:
    """The counters that virsh shows, in two calls for any number of machines."""
    vif = BridgeVif(id=str(uuid4()), bridge=linux_bridge.name)
    device = host.driver.plug_vif(machine.uuid, vif).device
    machine.console.expect(r"address eth\d ", timeout=60)
    with host.machine(start=False) as off:
        with host.raw.connection.counting() as calls:
            found = {each.uuid: each for each in host.driver.get_metrics()}
        assert sum(calls.values()) == 2
        assert {machine.uuid, off.uuid} <= found.keys()
        assert found[off.uuid].state is InstanceState.STOPPED
        assert found[off.uuid].memory_mib == 192
        ours = found[machine.uuid]
        assert ours.state is InstanceState.RUNNING
        text = host.peer.virsh("domstats", str(machine.uuid))
        stats = dict(re.findall(r"([\w.]+)=(.*)", text))
        assert 0 < (ours.cpu_time_ns or 0) <= int(stats["cpu.time"])
        assert ours.vcpus == 1
        assert ours.memory_mib == int(stats["balloon.current"]) // 1024
        assert 0 < (ours.memory_rss_mib or 0) < 2000
        (disk,) = ours.disks
        assert disk.device == "vda"
        assert 0 < (disk.read_bytes or 0) <= int(stats["block.0.rd.bytes"])
        assert disk.capacity_bytes == int(stats["block.0.capacity"])
        (nic,) = ours.vifs
        assert nic.device == device
        assert 0 < (nic.rx_bytes or 0) <= int(stats["net.0.rx.bytes"])
        assert 0 < (nic.tx_bytes or 0) <= int(stats["net.0.tx.bytes"])
        only = host.driver.get_metrics(frozenset({off.uuid, uuid4()}))
        assert [each.uuid for each in only] == [off.uuid]
    host.driver.unplug_vif(machine.uuid, vif.id)


@pytest.fixture
def foreign(host: Host, guest_image: Path) -> Iterator[Guest]:
    made = define_guest(host.peer, guest_image, name="somebody elses.domain")
    made.start()
    yield made
    made.remove()


def test_a_foreign_machine_is_shown_and_never_touched(host: Host, foreign: Guest) -> None:
    """Whatever is asked of it: it is not found, and its XML stays the same."""
    driver = host.driver
    uuid = UUID(foreign.uuid)
    listed = {each.uuid: each for each in driver.list_foreign()}
    assert listed[uuid].name == foreign.name
    assert listed[uuid].state is InstanceState.RUNNING
    assert uuid not in {each.uuid for each in driver.list_instances()}
    assert uuid not in {each.uuid for each in driver.get_metrics()}

    def looks() -> tuple[str, str, str]:
        return (
            host.peer.virsh("dumpxml", foreign.uuid),
            host.peer.virsh("dumpxml", "--inactive", foreign.uuid),
            host.peer.virsh("domstate", "--reason", foreign.uuid),
        )

    before = looks()
    host.peer.virsh("pool-refresh", "default")  # the console of the foreign machine is in it
    with host.unchanged(), host.volume() as volume:
        attachment = VolumeAttachment(volume=volume)
        vif = BridgeVif(id="v", bridge="lo")
        for call in (
            lambda: driver.destroy(uuid),
            lambda: driver.get_instance(uuid),
            lambda: driver.rename(uuid, "ours"),
            lambda: driver.set_metadata(uuid, {"a": "b"}),
            lambda: driver.power_on(uuid),
            lambda: driver.power_off(uuid),
            lambda: driver.reboot(uuid),
            lambda: driver.reboot(uuid, RebootKind.SOFT),
            lambda: driver.pause(uuid),
            lambda: driver.unpause(uuid),
            lambda: driver.suspend(uuid),
            lambda: driver.resume(uuid),
            lambda: driver.inject_nmi(uuid),
            lambda: driver.attach_volume(uuid, attachment),
            lambda: driver.detach_volume(uuid, volume.volume_id),
            lambda: driver.set_disk_qos(uuid, volume.volume_id, None),
            lambda: driver.plug_vif(uuid, vif),
            lambda: driver.unplug_vif(uuid, "v"),
            lambda: driver.set_vif_qos(uuid, "v", None),
            lambda: driver.get_console_log(uuid),
        ):
            with pytest.raises(errors.InstanceNotFound) as refused:
                call()
            assert refused.value.hint
        with pytest.raises(errors.InstanceExists):
            host.spawn(uuid=uuid, flavor=Flavor(vcpus=1, memory_mib=64))
    assert looks() == before
