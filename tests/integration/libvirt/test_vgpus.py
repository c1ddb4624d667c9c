"""Slices of GPUs, as far as a host without VFIO shows them.

libvirt takes the definitions of the machines and refuses to start them. The GPUs, and what libvirt
makes of them, are made up: a host of node devices in the words of libvirt's documentation.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Any
from uuid import uuid4
from xml.etree import ElementTree as ET

import libvirt
import pytest

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.libvirt.driver import LibvirtDriver
from hvdrivers.models.instance import InstanceInfo, VgpuRequest
from hvdrivers.models.pci import PciAddress
from tests.integration.libvirt.conftest import connect
from tests.integration.libvirt.machines import Host, Machine
from tests.peers.precondition import PreconditionMissing

FIRST, SECOND = PciAddress("0000:7d:00.0"), PciAddress("0000:7e:00.0")


def name_of(address: str) -> str:
    return "pci_" + address.replace(":", "_").replace(".", "_")


class Node:
    """A node device of the host that is made up."""

    def __init__(self, gpus: Gpus, name: str) -> None:
        self._gpus, self._name = gpus, name
        self.autostart = self.on = False

    def name(self) -> str:
        return self._name

    def XMLDesc(self, _flags: int) -> str:
        return self._gpus.described(self._name)

    def setAutostart(self, wanted: int) -> None:
        self.autostart = bool(wanted)

    def create(self, _flags: int) -> None:
        if self._gpus.broken:
            raise errors.HypervisorFault("mdevctl cannot", vendor_code="VIR_ERR_INTERNAL_ERROR")
        self.on = True

    def destroy(self) -> None:
        if not self.on:
            raise errors.InvalidState("it is off")
        self.on = False

    def undefine(self) -> None:
        assert not self.on
        if self._gpus.made.pop(self._name, None) is None:
            raise errors.HypervisorFault("gone", vendor_code="VIR_ERR_NO_NODE_DEVICE")


class Gpus:
    """Two GPUs: one of two slices, and one of a single slice of another type."""

    def __init__(self) -> None:
        self.types = {name_of(FIRST): {"nvidia-1": 2}, name_of(SECOND): {"nvidia-2": 1}}
        self.made: dict[str, Node] = {}
        self.parents: dict[str, str] = {}
        self.broken = False

    @property
    def remote(self) -> Gpus:
        return self

    def listAllDevices(self, flags: int) -> list[Node]:
        if flags & libvirt.VIR_CONNECT_LIST_NODE_DEVICES_CAP_MDEV_TYPES:
            return [Node(self, each) for each in self.types]
        return list(self.made.values())

    def nodeDeviceDefineXML(self, xml: str, _flags: int) -> Node:
        device = ET.fromstring(xml)
        parent, uuid = device.findtext("parent"), device.findtext("capability/uuid")
        kind = device.find("capability/type")
        assert parent in self.types
        assert kind is not None
        assert kind.get("id") in self.types[parent]
        name = f"mdev_{str(uuid).replace('-', '_')}_{parent.removeprefix('pci_')}"
        assert name not in self.made
        self.made[name] = Node(self, name)
        self.parents[name] = parent
        return self.made[name]

    def described(self, name: str) -> str:
        address = PciAddress("{}:{}:{}.{}".format(*name.removeprefix("pci_").split("_")))
        used = sum(each.on and self.parents[key] == name for key, each in self.made.items())
        kinds = "".join(
            f"<type id='{kind}'><name>GRID</name><deviceAPI>vfio-pci</deviceAPI>"
            f"<availableInstances>{number - used}</availableInstances></type>"
            for kind, number in self.types[name].items()
        )
        return (
            f"<device><name>{name}</name><capability type='pci'><domain>0</domain>"
            f"<bus>{address.bus}</bus><slot>0</slot><function>0</function>"
            f"<capability type='mdev_types'>{kinds}</capability></capability></device>"
        )


@pytest.fixture
def gpus() -> Gpus:
    return Gpus()


def on(driver: LibvirtDriver, gpus: Gpus) -> LibvirtDriver:
    driver.passthrough.vgpus._connection = gpus  # type: ignore[assignment]
    lacking = driver.narrowed()
    lacking.pop(Capability.VGPU)
    driver.facts.narrowed = lambda: lacking  # type: ignore[method-assign]
    return driver


@pytest.fixture
def raw(host: Host, gpus: Gpus) -> Iterator[LibvirtDriver]:
    with closing(on(connect(host.peer), gpus)) as made:
        yield made


def spawn(host: Host, raw: LibvirtDriver, *wanted: VgpuRequest, start: bool = False) -> Machine:
    spec = host.empty(vgpus=wanted, start=start)
    raw.spawn(spec)
    return Machine(host, spec.uuid)


ONE, OTHER = VgpuRequest(type="nvidia-1"), VgpuRequest(type="nvidia-2")


def test_a_host_without_vfio_says_so(host: Host) -> None:
    assert "VFIO" in (host.driver.why_not(Capability.VGPU) or "")
    with host.unchanged(), pytest.raises(errors.NotSupported):
        host.spawn(vgpus=(ONE,), start=False)


def test_the_definition(host: Host, raw: LibvirtDriver, gpus: Gpus) -> None:
    with host.unchanged():
        machine = spawn(host, raw, ONE, OTHER)
        devices = machine.xml(inactive=True).findall("devices/hostdev")
        assert [(each.get("type"), each.get("model")) for each in devices] == [
            ("mdev", "vfio-pci")
        ] * 2
        uuids = [each.find("source/address").get("uuid") for each in devices]  # type: ignore[union-attr]
        made = {name: gpus.parents[name] for name in gpus.made}
        assert [
            made[f"mdev_{str(uuid).replace('-', '_')}_{at}"]
            for uuid, at in zip(uuids, ("0000_7d_00_0", "0000_7e_00_0"), strict=True)
        ] == [name_of(FIRST), name_of(SECOND)]
        assert all(each.on and each.autostart for each in gpus.made.values())
        raw.destroy(machine.uuid)
        assert gpus.made == {}
        raw.destroy(machine.uuid)


def test_what_is_left(host: Host, raw: LibvirtDriver, gpus: Gpus) -> None:
    """No more than there are, of that type, on that device; and they come back."""
    with host.unchanged():
        first, second = spawn(host, raw, ONE), spawn(host, raw, ONE)
        for wanted in (
            (ONE,),
            (OTHER, OTHER),
            (VgpuRequest(type="nvidia-2", parent=FIRST),),
            (VgpuRequest(type="nvidia-2", parent=PciAddress("0000:01:00.0")),),
            (VgpuRequest(type="none"),),
        ):
            with pytest.raises(errors.InsufficientResources) as refused:
                spawn(host, raw, *wanted)
            assert refused.value.hint
            assert len(gpus.made) == 2
        raw.destroy(first.uuid)
        third = spawn(host, raw, VgpuRequest(type="nvidia-1", parent=FIRST), OTHER)
        for each in (second, third):
            raw.destroy(each.uuid)
        assert gpus.made == {}


def test_nothing_is_left_of_a_failure(host: Host, raw: LibvirtDriver, gpus: Gpus) -> None:
    """libvirt refuses the start; or it makes the second slice not at all."""
    with host.unchanged():
        with pytest.raises(errors.HypervisorError):
            spawn(host, raw, ONE, start=True)
        assert gpus.made == {}
        gpus.broken = True
        with pytest.raises(errors.HypervisorFault):
            spawn(host, raw, ONE)
        assert gpus.made == {}
        gpus.broken = False
        machine = spawn(host, raw, ONE)
        with pytest.raises(errors.HypervisorError):
            raw.power_on(machine.uuid)
        assert len(gpus.made) == 1
        raw.destroy(machine.uuid)


def test_what_a_dead_client_has_left(host: Host, raw: LibvirtDriver, gpus: Gpus) -> None:
    """Slices without a machine go with destroy(); those of others stay."""
    uuid = uuid4()
    raw.passthrough.vgpus.make(uuid, 0, ONE)
    raw.passthrough.vgpus.make(uuid4(), 0, ONE)
    raw.destroy(uuid)
    assert len(gpus.made) == 1


def test_two_clients_at_once(host: Host, raw: LibvirtDriver, gpus: Gpus) -> None:
    """One of four gets the last one."""
    with (
        host.unchanged(),
        closing(on(connect(host.peer), gpus)) as other,
        ThreadPoolExecutor(4) as pool,
    ):
        specs = [host.empty(vgpus=(OTHER,), start=False) for _ in range(4)]

        def attempt(at: int) -> InstanceInfo | None:
            with suppress(errors.InsufficientResources):
                return (raw, other)[at % 2].spawn(specs[at])
            return None

        made = [each for each in pool.map(attempt, range(4)) if each is not None]
        assert len(made) == 1
        raw.destroy(made[0].uuid)
        assert gpus.made == {}


def test_libvirt_reads_what_it_is_told_to_make(host: Host) -> None:
    """Its own daemon, which has no mdevctl here: that is what it refuses, and nothing else."""
    if shutil.which("mdevctl") is not None:
        raise PreconditionMissing("a host without mdevctl: this one would make the device")
    with closing(connect(host.peer)) as plain:
        devices = plain.get_available_resource().devices

        class Real:
            """The host's own devices, of which one has slices."""

            def __init__(self) -> None:
                self.remote = self
                self._remote: Any = plain.connection.remote
                self._gpu = Gpus()
                self._gpu.types = {name_of(devices[0].address): {"nvidia-1": 1}}

            def listAllDevices(self, flags: int) -> list[Node]:
                return self._gpu.listAllDevices(flags)

            def nodeDeviceDefineXML(self, xml: str, flags: int) -> Any:
                return self._remote.nodeDeviceDefineXML(xml, flags)

        plain.passthrough.vgpus._connection = Real()  # type: ignore[assignment]
        with host.unchanged(), pytest.raises(errors.NotSupported, match="mediated") as refused:
            spawn(host, plain, ONE)
        assert "mdevctl" in (refused.value.hint or "")
