"""PCI devices of the host for machines, as far as a host without VFIO shows it.

libvirt takes the definitions and refuses to start them. Which devices are set aside is made up: the
machine that runs the tests has none. Their addresses are ones at which this host has nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from uuid import uuid4

import pytest

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.libvirt.driver import LibvirtDriver
from hvdrivers.models.instance import InstanceInfo, PciRequest
from hvdrivers.models.pci import PciAddress
from hvdrivers.models.resources import PciDevice
from tests.integration.libvirt.conftest import connect
from tests.integration.libvirt.machines import Host, Machine

GPU = PciAddress("0000:7d:00.0")
PORT = PciAddress("0000:7e:00.0")
FUNCTIONS = (PciAddress("0000:7e:10.0"), PciAddress("0000:7e:10.1"))
USED = PciAddress("0000:7f:00.0")


def _device(address: PciAddress, **more: object) -> PciDevice:
    values = {"vendor_id": "10de", "product_id": "2330", "class_code": "030200"}
    given = {"address": address, "driver": "vfio-pci", **values, **more}
    return PciDevice.model_validate(given)


DEVICES = {
    each.address: each
    for each in (
        _device(GPU),
        _device(PORT, virtual_functions=FUNCTIONS),
        *(_device(each, physical_function=PORT) for each in FUNCTIONS),
        _device(USED, driver="nvme"),
    )
}


def with_devices(driver: LibvirtDriver) -> LibvirtDriver:
    """The driver, on a host that has the devices above."""
    driver.passthrough.device_at = DEVICES.__getitem__  # type: ignore[method-assign]
    return driver


@pytest.fixture
def raw(host: Host) -> Iterator[LibvirtDriver]:
    """A client that sees the devices above, without the guard, which would refuse them here."""
    with closing(with_devices(connect(host.peer))) as made:
        yield made


def _spawn(host: Host, raw: LibvirtDriver, *addresses: PciAddress, start: bool = False) -> Machine:
    wanted = tuple(PciRequest(address=each) for each in addresses)
    spec = host.empty(pci_devices=wanted, start=start)
    raw.spawn(spec)
    return Machine(host, spec.uuid)


def test_a_host_without_vfio_says_so(host: Host) -> None:
    assert "VFIO" in (host.driver.why_not(Capability.PCI_PASSTHROUGH) or "")
    with host.unchanged(), pytest.raises(errors.NotSupported):
        host.spawn(pci_devices=(PciRequest(address=GPU),), start=False)


def test_the_real_devices_of_this_host(host: Host) -> None:
    """None is set aside, and an address without one is refused too."""
    with host.unchanged(), closing(connect(host.peer)) as raw:
        devices = raw.get_available_resource().devices
        assert not any(each.is_aside for each in devices)
        for address in [*(each.address for each in devices[:3]), GPU]:
            with pytest.raises(errors.InsufficientResources) as refused:
                _spawn(host, raw, address)
            assert refused.value.hint, address


def test_the_definition(host: Host, raw: LibvirtDriver) -> None:
    with host.unchanged():
        machine = _spawn(host, raw, GPU, FUNCTIONS[0])
        found = machine.xml(inactive=True).findall("devices/hostdev")
        assert [dict(each.attrib) for each in found] == [
            {"mode": "subsystem", "type": "pci", "managed": "yes"}
        ] * 2
        sources = [each.find("source/address") for each in found]
        assert [dict(each.attrib) for each in sources if each is not None] == [
            {"domain": "0x0000", "bus": "0x7d", "slot": "0x00", "function": "0x0"},
            {"domain": "0x0000", "bus": "0x7e", "slot": "0x10", "function": "0x0"},
        ]
        assert raw.get_instance(machine.uuid).vifs == ()
        raw.destroy(machine.uuid)


def test_who_has_it(host: Host, raw: LibvirtDriver) -> None:
    """Nobody else gets it, nor a part of it, nor the whole of it, whether its owner is on or off,
    ours or foreign; when its owner has gone, the next one does."""
    with host.unchanged():
        owner = _spawn(host, raw, GPU, FUNCTIONS[0])
        for address in (GPU, FUNCTIONS[0], PORT):
            with pytest.raises(errors.InsufficientResources, match=str(owner.uuid)) as refused:
                _spawn(host, raw, address)
            assert refused.value.hint
        second = _spawn(host, raw, FUNCTIONS[1])
        raw.destroy(owner.uuid)
        raw.destroy(second.uuid)
        whole = _spawn(host, raw, PORT)
        with pytest.raises(errors.InsufficientResources):
            _spawn(host, raw, FUNCTIONS[1])
        raw.destroy(whole.uuid)
        for wanted in ((GPU, GPU), (USED,)):
            with pytest.raises(errors.InsufficientResources) as refused:
                _spawn(host, raw, *wanted)
            assert refused.value.hint

        foreign = str(uuid4())
        path = host.peer.root / "foreign.xml"
        for device in (
            "<hostdev mode='subsystem' type='pci'><source><address domain='0' bus='0x7d'"
            " slot='0' function='0'/></source></hostdev>",
            "<interface type='hostdev'><source><address type='pci' domain='0' bus='0x7d'"
            " slot='0' function='0'/></source></interface>",
        ):
            path.write_text(
                f"<domain type='qemu'><name>foreign</name><uuid>{foreign}</uuid><memory>65536"
                "</memory><os><type>hvm</type></os><devices>"
                f"{device}</devices></domain>"
            )
            host.peer.virsh("define", str(path))
            with pytest.raises(errors.InsufficientResources, match=foreign):
                _spawn(host, raw, GPU)
            host.peer.virsh("undefine", foreign)


def test_what_a_running_machine_gets_at_its_next_start(host: Host, raw: LibvirtDriver) -> None:
    """virsh attach-device --config: only the definition names the device."""
    with host.unchanged(), host.empty_machine() as owner:
        path = host.peer.root / "device.xml"
        path.write_text(
            "<hostdev mode='subsystem' type='pci'><source><address domain='0' bus='0x7d'"
            " slot='0' function='0'/></source></hostdev>"
        )
        host.peer.virsh("attach-device", str(owner.uuid), str(path), "--config")
        assert owner.xml().find("devices/hostdev") is None
        with pytest.raises(errors.InsufficientResources, match=str(owner.uuid)):
            _spawn(host, raw, GPU)
        path.unlink()


def test_two_clients_at_once(host: Host, raw: LibvirtDriver) -> None:
    """One of four gets it."""
    with (
        host.unchanged(),
        closing(with_devices(connect(host.peer))) as other,
        ThreadPoolExecutor(4) as pool,
    ):
        wanted = (PciRequest(address=GPU),)
        specs = [host.empty(pci_devices=wanted, start=False) for _ in range(4)]
        clients = (raw, other) * 2

        def spawn(at: int) -> InstanceInfo | None:
            with suppress(errors.InsufficientResources):
                return clients[at].spawn(specs[at])
            return None

        made = [each for each in pool.map(spawn, range(4)) if each is not None]
        assert len(made) == 1
        raw.destroy(made[0].uuid)


def test_it_does_not_start_here(host: Host, raw: LibvirtDriver) -> None:
    """libvirt's refusal is a typed error, and leaves nothing."""
    with host.unchanged():
        with pytest.raises(errors.NotSupported) as refused:
            _spawn(host, raw, GPU, start=True)
        assert refused.value.vendor_code == "VIR_ERR_CONFIG_UNSUPPORTED"
        machine = _spawn(host, raw, GPU)
        for start in (raw.power_on, raw.start_paused):
            with pytest.raises(errors.NotSupported):
                start(machine.uuid)
            assert machine.info.state.value == "stopped"
        raw.destroy(machine.uuid)


def test_budget(host: Host, raw: LibvirtDriver) -> None:
    """3 calls, and one for each machine; those for the devices are made up here."""

    def count(*addresses: PciAddress) -> int:
        with raw.connection.counting() as counter:
            machine = _spawn(host, raw, *addresses)
        raw.destroy(machine.uuid)
        return sum(counter.values())

    with host.unchanged(), host.made_empty():
        count(GPU)  # the first one looks the pools up
        machines = len(raw.list_instances()) + len(raw.list_foreign())
        # the turn's helper is a machine of the host too
        assert count(GPU) - count() == 3 + machines + 1
        assert count(GPU, PORT) - count(GPU) == 0
