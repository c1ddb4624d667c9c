"""Machines with encrypted memory (AMD SEV), as far as a host without such a CPU shows it.

libvirt keeps what it has found out about QEMU in a file. These tests write into it that the CPU
encrypts memory: libvirt then offers it, takes the definitions, and hands QEMU what it would on such
a host. QEMU refuses to start.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.guard import guarded
from hvdrivers.libvirt.config import VirtType
from hvdrivers.libvirt.driver import LibvirtDriver
from hvdrivers.models.guest import Share
from hvdrivers.models.instance import Firmware, Flavor, PciRequest
from hvdrivers.models.migration import Destination
from hvdrivers.models.pci import PciAddress
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import HostdevVif, TapVif, VdpaVif
from hvdrivers.models.volume import VolumeAttachment
from tests.integration.libvirt.machines import Host, Machine
from tests.peers.libvirtd import LibvirtPeer

SEV: dict[str, Any] = {"sev": True, "firmware": Firmware.UEFI}
_SHOWN = "<cbitpos>47</cbitpos><reducedPhysBits>1</reducedPhysBits><pdh>AA==</pdh>"
_SHOWN = f"<sev>{_SHOWN}<certChain>AA==</certChain></sev>"


def with_encryption(peer: LibvirtPeer) -> None:
    """The host has a CPU that encrypts memory, as its daemon sees it."""
    peer.stop()
    for file in (peer.folder("cache") / "qemu" / "capabilities").glob("*.xml"):
        told = file.read_text()
        if "<arch>x86_64</arch>" in told:
            told = told.replace("<flag name='kvm'/>", "<flag name='kvm'/><flag name='sev-guest'/>")
            file.write_text(told.replace("</qemuCaps>", f"{_SHOWN}</qemuCaps>"))
    peer.start()


@pytest.fixture(scope="module")
def able(guest_image: Path) -> Iterator[Host]:
    """A client of such a host, for machines that are not emulated."""
    with LibvirtPeer() as peer:
        with_encryption(peer)
        made = Host(peer, guest_image)
        raw = LibvirtDriver.connect(made.raw.config.model_copy(update={"virt_type": VirtType.KVM}))
        made.close()
        made.raw, made.driver = raw, guarded(raw)
        missing = made.driver.why_not(Capability.UEFI)
        if missing is not None:
            pytest.skip(f"precondition missing: {missing}")
        yield made
        made.close()


def test_a_host_without_it_says_so(host: Host) -> None:
    assert "emulation" in (host.driver.why_not(Capability.SEV) or "")
    assert host.driver.get_available_resource().encrypted_guests is None
    with host.unchanged(), pytest.raises(errors.NotSupported, match="emulation"):
        host.made(host.empty(start=False, **SEV))


def test_a_host_with_it(able: Host) -> None:
    assert able.driver.why_not(Capability.SEV) is None
    (root, *_) = able.driver.placement_inventories()
    assert "HW_CPU_X86_AMD_SEV" in root.traits
    # its number comes from the CPU that the daemon really runs on
    assert "MEM_ENCRYPTION_CONTEXT" not in root.inventories


def _drivers(xml: ET.Element) -> dict[str, str | None]:
    """Of each virtio device, whether it goes through the IOMMU."""
    found = {}
    for device in xml.iterfind("devices/*"):
        model, bus = device.find("model"), device.find("target")
        named = {device.get("model"), device.get("type"), model is not None and model.get("type")}
        named.add(bus is not None and bus.get("bus"))
        if named & {"virtio", "virtio-scsi", "virtio-serial"} and device.tag != "channel":
            driver = device.find("driver")
            name = f"{device.tag} {device.get('type') or ''}"
            found[name] = None if driver is None else driver.get("iommu")
    return found


def _check(machine: Machine) -> None:
    xml = machine.xml(inactive=True)
    security = xml.find("launchSecurity")
    assert security is not None
    assert (security.get("type"), security.findtext("policy")) == ("sev", "0x0003")
    assert xml.find("memoryBacking/locked") is not None
    assert set(_drivers(xml).values()) == {"on"}, _drivers(xml)
    for interface in xml.iterfind("devices/interface"):
        rom = interface.find("rom")
        assert rom is not None
        assert rom.get("enabled") == "no"


def test_the_definition_and_what_changes_it(able: Host) -> None:
    """Whatever comes to the machine later works with encrypted memory too."""
    nic = TapVif(id="nic", exists=False)
    with able.unchanged(), able.volume() as volume:
        spec = able.empty(start=False, cloud_init={"hostname": "x"}, vifs=[nic], **SEV)
        with_room = spec.flavor.model_copy(update={"max_vcpus": 2, "ephemeral_gib": 1})
        machine = able.made(spec.model_copy(update={"flavor": with_room}))
        _check(machine)
        assert len(_drivers(machine.xml(inactive=True))) >= 6
        able.driver.attach_volume(machine.uuid, VolumeAttachment(volume=volume))
        able.driver.plug_vif(machine.uuid, TapVif(id="other", exists=False))
        _check(machine)
        able.driver.resize(machine.uuid, Flavor(vcpus=2, memory_mib=96, ephemeral_gib=1))
        _check(machine)
        able.driver.resize(
            machine.uuid, Flavor(vcpus=2, memory_mib=128, ephemeral_gib=1, numa_nodes=2)
        )
        _check(machine)
        able.driver.reconnect(
            machine.uuid,
            volumes=[VolumeAttachment(volume=volume)],
            vifs=[TapVif(id="nic", exists=False)],
        )
        _check(machine)
        image = able.empty().image
        assert image is not None
        able.driver.rebuild(machine.uuid, image)
        _check(machine)
        able.driver.rename(machine.uuid, "other")
        able.driver.detach_volume(machine.uuid, volume.volume_id)
        able.driver.destroy(machine.uuid)


def test_it_does_not_start_here(able: Host) -> None:
    """QEMU is to be started with what SEV needs, with the address bits of this host. The refusal
    is a typed error, and leaves nothing."""
    with able.unchanged():
        with pytest.raises(errors.HypervisorError):
            able.made(able.empty(**SEV))
        machine = able.made(able.empty(start=False, **SEV))
        for start in (able.driver.power_on, able.driver.start_paused):
            with pytest.raises(errors.HypervisorError):
                start(machine.uuid)
            assert machine.state is InstanceState.STOPPED
        image = able.empty().image
        assert image is not None
        with pytest.raises(errors.HypervisorError):
            able.driver.rescue(machine.uuid, image)
        logs = (able.peer.folder("log") / "qemu").glob(f"*{machine.uuid}.log")
        said = "".join(each.read_text() for each in logs)
        able.driver.destroy(machine.uuid)
    (command,) = re.findall(r'-object (.*"qom-type":"sev-guest".*) \\', said)[:1]
    for part in ('"cbitpos":47', '"reduced-phys-bits":1', '"policy":3'):
        assert part in command
    assert said.count('"iommu_platform":true') >= 6


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"firmware": Firmware.BIOS}, errors.InvalidRequest),
        ({"firmware": None}, errors.InvalidRequest),
        ({"hardware": {"machine_type": "pc"}}, errors.NotSupported),
        ({"flavor": Flavor(vcpus=1, memory_mib=64, max_memory_mib=1024)}, errors.NotSupported),
        (
            {"vifs": [HostdevVif(id="a", type="hw_veb", pci_address="0000:7e:10.0")]},
            errors.NotSupported,
        ),
        ({"vifs": [VdpaVif(id="a", device="/dev/vhost-vdpa-0")]}, errors.NotSupported),
        ({"pci_devices": (PciRequest(address=PciAddress("0000:7e:00.0")),)}, errors.NotSupported),
    ],
)
def test_what_such_a_machine_does_not_have(
    able: Host, changes: dict[str, Any], error: type[errors.HypervisorError]
) -> None:
    """Without the guard, which would refuse some of these first."""
    with able.unchanged(), pytest.raises(error) as refused:
        able.raw.spawn(able.empty(start=False, **(SEV | changes)))
    assert refused.value.hint


def test_what_cannot_be_done_with_it(able: Host, host: Host) -> None:
    with able.unchanged():
        machine = able.made(able.empty(start=False, **SEV))
        before = ET.tostring(machine.xml(inactive=True))
        with pytest.raises(errors.NotSupported, match="SEV"):
            able.driver.attach_share(machine.uuid, Share(tag="t", path="/usr"))
        with pytest.raises(errors.NotSupported, match="SEV"):
            able.driver.plug_vif(machine.uuid, VdpaVif(id="a", device="/dev/vhost-vdpa-0"))
        with pytest.raises(errors.NotSupported, match="SEV"):
            able.driver.resize(machine.uuid, Flavor(vcpus=1, memory_mib=64, max_memory_mib=1024))
        destination = Destination(host=host.peer.uri)
        with pytest.raises(errors.InvalidRequest, match="SEV"):
            able.driver.cold_migrate(machine.uuid, destination)
        with pytest.raises(errors.HypervisorError, match="SEV"):
            able.driver.prepare_move(machine.uuid, destination)
        assert ET.tostring(machine.xml(inactive=True)) == before
        able.driver.destroy(machine.uuid)
