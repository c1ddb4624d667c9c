"""Domain XML: what libvirt's own schema takes, and what it says for each wish of a spec."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID
from xml.etree import ElementPath
from xml.etree import ElementTree as ET

import libvirt
import pytest

from hvdrivers.contract import errors
from hvdrivers.libvirt.devices import (
    attached_vif,
    attached_volume,
    disk_element,
    has_free_port,
    vifs_of,
    volumes_of,
)
from hvdrivers.libvirt.domain import OWN_ALIAS, HostChoice, OwnDisk, domain_xml, next_target
from hvdrivers.libvirt.host_nics import macvtap_name, of_one_port
from hvdrivers.libvirt.metadata import Record, record_in
from hvdrivers.libvirt.naming import domain_name
from hvdrivers.libvirt.shown import shown_in
from hvdrivers.libvirt.wiring import vif_element
from hvdrivers.libvirt.xml import attribute, el, parse, text
from hvdrivers.models.image import FileImage, ImageFormat
from hvdrivers.models.instance import Firmware, Flavor, InstanceSpec
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import (
    Bandwidth,
    BridgeVif,
    DvsVif,
    HostdevVif,
    MacvtapVif,
    NetworkVif,
    NicModel,
    OvsVif,
    TapVif,
    UserVif,
    VdpaVif,
    VhostUserVif,
    Vif,
    VifQos,
)
from hvdrivers.models.volume import (
    CacheMode,
    DeviceType,
    DiskBus,
    DiskQos,
    LocalVolume,
    VolumeAttachment,
)

IDS = UUID(int=7)
PORT = "11111111-2222-4333-8444-555555555555"
IMAGE = FileImage(path=Path("/image"), format=ImageFormat.QCOW2)


def volume(serial: str = "vol <1>", **options: object) -> VolumeAttachment:
    data = {"device_path": "/dev/x & 'y'"}
    return VolumeAttachment.model_validate(
        {"volume": LocalVolume(serial=serial, data=data), **options}  # type: ignore[arg-type]
    )


VOLUMES = (
    volume(),
    volume("2", bus=DiskBus.SCSI, read_only=True, cache=CacheMode.WRITEBACK, discard=True),
    volume("3", bus=DiskBus.SATA, device_type=DeviceType.CDROM),
    volume("4", bus=DiskBus.USB, qos=DiskQos(total_bytes_sec=5, read_iops_sec=6, size_iops_sec=9)),
    volume("x" * 255, boot_index=1),
)
VIFS: tuple[Vif, ...] = (
    BridgeVif(id="a", bridge="br0", mtu=1400, queues=4, active=False),
    OvsVif(id=PORT, bridge="br-int", vlan=5, profile_id="p", model=NicModel.E1000E),
    OvsVif(id="x", interface_id=PORT, bridge="br-int", device="tapx"),
    OvsVif(id=PORT, bridge="br-int", hybrid_plug=True),
    NetworkVif(id="n <&>", network="net", portgroup="group", vlan=7),
    NetworkVif(id="f <&>", network="net", portgroup="group", vlan=7, sriov=True),
    TapVif(id="t", device="tap0"),
    UserVif(id="u", active=False),
    VhostUserVif(id="v", socket="/run/vhu <1>", mode="client", queues=2, mtu=1400),
    MacvtapVif(id="m", source="eth0.5", mode="vepa", queues=2, active=False),
    MacvtapVif(id="m2", source="ens1f0v3", mode="passthrough", vlan=9),
    VdpaVif(id="d", device="/dev/vhost-vdpa-0"),
    HostdevVif(id="h", pci_address="0000:7e:10.1", vlan=9),
    HostdevVif(id="h2", type="hostdev_physical", pci_address="10000:7e:00.0"),
    TapVif(id="t2", exists=False, qos=VifQos(outbound=Bandwidth(average=9, peak=90, burst=8))),
)


def specs() -> list[InstanceSpec]:
    """Many wishes, each beside others."""
    made = []
    for firmware, secure, vtpm, name in itertools.product(
        (None, Firmware.BIOS, Firmware.UEFI), (False, True), (False, True), ("plain", "<a/>&'\"")
    ):
        if secure and firmware is not Firmware.UEFI:
            continue
        spec = InstanceSpec(
            uuid=IDS,
            name=name,
            flavor=Flavor(vcpus=3, memory_mib=256),
            image=IMAGE,
            firmware=firmware,
            secure_boot=secure,
            vtpm=vtpm,
            metadata={"k": "<&>\x00\n]]>"},
            vifs=_distinct(VIFS) if vtpm else (),
            volumes=VOLUMES if name == "plain" else (),
        )
        made.append(spec)
    return made


def _distinct(vifs: tuple[Vif, ...]) -> tuple[Vif, ...]:
    return tuple({vif.id: vif for vif in vifs}.values())


def built(spec: InstanceSpec, host: HostChoice) -> str:
    taken = el("domain", el("devices", el("disk", el("target", dev="vda"))))
    elements = []
    for attachment in spec.volumes:
        prefix = "vd" if attachment.bus in {None, DiskBus.VIRTIO} else "sd"
        source = el("source", dev="/dev/x & 'y'")
        disk = disk_element(attachment, source, "block", "raw", next_target(prefix, taken))
        taken[0].append(disk)
        elements.append(disk)
    return domain_xml(
        spec,
        Record.of(spec, "raw-sha256-00", Firmware.BIOS),
        host,
        disks=[
            OwnDisk("root", "/pool/<root>", "qcow2", "vda"),
            OwnDisk("seed", "/pool/seed", "raw", "sda", cdrom=True),
        ],
        volumes=elements,
        console_path="/consoles/log",
        nvram_path="/pool/nvram",
    )


HOSTS = (
    HostChoice(virt_type="qemu", architecture="x86_64", machine="q35", hotplug_slots=12),
    HostChoice(virt_type="kvm", architecture="x86_64", machine="pc", hotplug_slots=1),
    HostChoice(virt_type="qemu", architecture="aarch64", machine="virt", hotplug_slots=28),
)


@pytest.fixture(scope="module")
def schema() -> Iterator[Callable[[str], str | None]]:
    """What libvirt's own schema says of a domain; the client library's test driver reads it."""
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    connect = libvirt.open("test:///default")

    def complaint(xml: str) -> str | None:
        try:
            connect.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_XML_INVALID_SCHEMA:
                return str(error)
        return None

    yield complaint
    connect.close()


@pytest.mark.parametrize("host", HOSTS, ids=lambda host: host.machine)
def test_libvirts_own_schema_takes_it(
    host: HostChoice, schema: Callable[[str], str | None]
) -> None:
    for spec in specs():
        assert schema(built(spec, host)) is None, spec


def test_the_schema_is_really_read(schema: Callable[[str], str | None]) -> None:
    xml = built(specs()[0], HOSTS[0])
    assert schema(xml.replace("<serial>", "<serial>&lt;")) is not None
    assert schema(xml.replace('bus="virtio"', 'bus="none"')) is not None


def test_it_reads_back() -> None:
    spec = InstanceSpec(
        uuid=IDS,
        name="n",
        flavor=Flavor(vcpus=2, memory_mib=128),
        image=IMAGE,
        volumes=VOLUMES,
        vifs=_distinct(VIFS),
        metadata={"k": "<&>\x00\n]]>"},
    )
    domain = parse(built(spec, HOSTS[0]))
    record = record_in(domain)
    assert record.metadata == spec.metadata
    assert record.flavor == spec.flavor
    disks = volumes_of(domain)
    assert list(disks) == [each.volume_id for each in VOLUMES]
    read = [attached_volume(*item) for item in disks.items()]
    assert [each.bus for each in read] == ["virtio", "scsi", "sata", "usb", "virtio"]
    assert [each.device for each in read] == ["vdb", "sda", "sdb", "sdc", "vdc"]
    assert [each.read_only for each in read] == [False, True, True, False, False]
    assert read[-1].boot_index == 1
    nics = vifs_of(domain)
    assert list(nics) == [vif.id for vif in _distinct(VIFS)]
    for vif in _distinct(VIFS):
        found = attached_vif(vif.id, *nics[vif.id])
        whole = vif.type == "hostdev_physical"
        assert (found.type, found.address) == (vif.type, None if whole else vif.mac)


def test_an_instance_is_read_without_a_walk_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """ElementTree walks a path of one step in C, and a longer one in Python."""
    spec = next(each for each in specs() if len(each.vifs) > 1)
    xml = parse(built(spec, HOSTS[0]))
    walked: list[str] = []
    real = ElementPath.iterfind

    def iterfind(element: ET.Element, path: str, names: object = None) -> object:
        walked.append(path)
        return real(element, path, names)

    monkeypatch.setattr(ElementPath, "iterfind", iterfind)
    name = domain_name(spec.name, spec.uuid)
    found = shown_in(xml, spec.uuid, SimpleNamespace(name=lambda: name), InstanceState.STOPPED)  # type: ignore[arg-type]
    assert len(found.vifs) == len(spec.vifs)
    assert walked == []


def test_damaged_metadata_is_told() -> None:
    for broken in ("<domain/>", "<domain><metadata/></domain>"):
        with pytest.raises(errors.HypervisorFault) as fault:
            record_in(parse(broken))
        assert fault.value.hint


def test_free_ports() -> None:
    def machine(*buses: int, ports: int = 3) -> ET.Element:
        devices = [
            el("controller", type="pci", index=index, model="pcie-root-port")
            for index in range(1, ports + 1)
        ]
        devices += [el("disk", el("address", type="pci", bus=f"{bus:#04x}")) for bus in buses]
        return el("domain", el("devices", *devices))

    assert has_free_port(machine())
    assert has_free_port(machine(0, 1, 2))
    assert not has_free_port(machine(1, 2, 3))
    assert not has_free_port(machine(0, 3, 2, 1))
    assert has_free_port(machine(ports=0))


@pytest.mark.parametrize(
    "vif",
    [
        BridgeVif(id="a", bridge="b", vlan=3),
        BridgeVif(id="a", bridge="b", model=NicModel.NETVSC),
        MacvtapVif(id="a", source="eth0", vlan=3),
        HostdevVif(id="a", pci_address="0000:7e:10.1", model=NicModel.VIRTIO),
        VdpaVif(id="a", device="/dev/vhost-vdpa-0", vlan=3),
        DvsVif(id="a", port_group="b"),
    ],
)
def test_vifs_that_are_refused(vif: Vif) -> None:
    with pytest.raises(errors.NotSupported) as refused:
        vif_element(vif, IDS)
    assert refused.value.message


def test_vif_order_and_names() -> None:
    first = text(vif_element(BridgeVif(id="a", bridge="b", device="tap7"), IDS))
    assert 'dev="tap7"' in first
    with pytest.raises(errors.InvalidRequest):
        vif_element(OvsVif(id="a", bridge="b", interface_id="no-uuid"), IDS)


def test_next_target() -> None:
    domain = el("domain", el("devices"))
    found = []
    for _ in range(30):
        name = next_target("vd", domain)
        domain[0].append(el("disk", el("target", dev=name)))
        found.append(name)
    assert found[0] == "vda"
    assert found[25:28] == ["vdz", "vdaa", "vdab"]
    assert len(set(found)) == 30


@pytest.mark.parametrize("cache", ["none", "writeback"])
def test_own_disks_are_cached_as_the_host_says(cache: str) -> None:
    """cache=none needs O_DIRECT, which not every file system has."""
    spec = InstanceSpec(
        uuid=UUID(int=5), name="n", flavor=Flavor(vcpus=1, memory_mib=64), image=IMAGE
    )
    xml = parse(built(spec, replace(HOSTS[0], disk_cache=cache)))
    found = {
        (attribute(disk, "alias", "name"), attribute(disk, "driver", "cache"))
        for disk in xml.iterfind("devices/disk[@device='disk']")
        if (attribute(disk, "alias", "name") or "").startswith(OWN_ALIAS)
    }
    assert found == {(f"{OWN_ALIAS}root", cache)}


def test_names_of_macvtap_devices() -> None:
    """Each machine has its own, as a start that fails removes what its definition names; and each
    is known as the port's."""
    port = MacvtapVif(id=PORT, source="eth0")
    names = {macvtap_name(port, UUID(int=each)) for each in range(300)}
    assert len(names) == 300
    assert {len(each) for each in names} == {15}
    assert all(of_one_port(each, port.tap) for each in (*names, port.tap))
    other = MacvtapVif(id="another", source="eth0").tap
    assert not any(of_one_port(each, other) for each in (*names, port.tap))
    assert of_one_port(min(names), max(names))
    for chosen, by_a_caller in (
        ("a-long-name-of1", "a-long-name-of"),
        ("tap-of-web-001", "tap-of-web-002"),
    ):
        assert not of_one_port(chosen, by_a_caller)
    element = vif_element(port, IDS)
    assert attribute(element, "target", "dev") == macvtap_name(port, IDS)
