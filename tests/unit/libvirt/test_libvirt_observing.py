"""What the observer of the conformance suite reads, from libvirt's own test driver."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import libvirt
import pytest

from hvdrivers.contract.capabilities import Capability
from hvdrivers.libvirt.conformance.observer import LibvirtObserver
from hvdrivers.libvirt.conformance.raw_host import RawHost
from hvdrivers.libvirt.devices import disk_element
from hvdrivers.libvirt.domain import HostChoice, OwnDisk, domain_xml
from hvdrivers.libvirt.metadata import Record
from hvdrivers.libvirt.pools import volume_xml
from hvdrivers.libvirt.xml import el, parse, text
from hvdrivers.models.image import FileImage, ImageFormat
from hvdrivers.models.instance import Firmware, Flavor, InstanceSpec
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import LocalVolume, VolumeAttachment

OURS, THEIRS = UUID(int=7), UUID(int=8)
HOST = HostChoice(virt_type="qemu", architecture="x86_64", machine="q35", hotplug_slots=2)


@pytest.fixture
def raw() -> Iterator[RawHost]:
    host = RawHost("test:///default")
    yield host
    for domain in host.connect.listAllDomains(0):
        if UUID(domain.UUIDString()) in {OURS, THEIRS}:
            domain.undefine()
    host.drop()


def attachment(serial: str, *, read_only: bool) -> VolumeAttachment:
    volume = LocalVolume(serial=serial, data={"device_path": f"/dev/{serial}"})  # type: ignore[arg-type]
    return VolumeAttachment(volume=volume, read_only=read_only)


def define(raw: RawHost, root: str = "/pool/root", **wishes: object) -> None:
    spec = InstanceSpec.model_validate(
        {
            "uuid": OURS,
            "name": "ours",
            "flavor": Flavor(vcpus=1, memory_mib=64),
            "image": FileImage(path=Path("/image"), format=ImageFormat.QCOW2),
            **wishes,
        }
    )
    xml = domain_xml(
        spec,
        Record.of(spec, "raw-sha256-00", spec.firmware or Firmware.BIOS),
        HOST,
        disks=[
            OwnDisk("root", root, "qcow2", "vda"),
            OwnDisk("seed", "/pool/seed", "raw", "sda", cdrom=True),
        ],
        volumes=[
            disk_element(each, el("source", dev=f"/dev/{number}"), "block", "raw", f"vd{letter}")
            for number, (each, letter) in enumerate(zip(spec.volumes, "bcdef", strict=False))
        ],
        console_path="/log",
        nvram_path="/nvram",
    )
    domain = parse(xml)
    domain.set("type", "test")
    raw.connect.defineXML(text(domain))


@pytest.mark.parametrize("vtpm", [False, True])
@pytest.mark.parametrize(
    ("firmware", "secure_boot", "wanted"),
    [
        (None, False, set()),
        (Firmware.BIOS, False, set()),
        (Firmware.UEFI, False, {Capability.UEFI}),
        (Firmware.UEFI, True, {Capability.UEFI, Capability.SECURE_BOOT}),
    ],
)
def test_fittings(
    raw: RawHost,
    firmware: Firmware | None,
    secure_boot: bool,
    wanted: set[Capability],
    vtpm: bool,
) -> None:
    define(raw, firmware=firmware, secure_boot=secure_boot, vtpm=vtpm)
    found = LibvirtObserver(raw).fittings(OURS)
    assert found == wanted | ({Capability.VTPM} if vtpm else set())


@pytest.mark.parametrize(("secure", "more"), [("no", set()), ("yes", {Capability.SECURE_BOOT})])
def test_firmware_that_is_named_by_its_file(
    raw: RawHost, secure: str, more: set[Capability]
) -> None:
    define(raw)
    domain = parse(raw.domain(OURS).XMLDesc(0))
    system = domain.find("os")
    assert system is not None
    system.append(el("loader", "/code", readonly="yes", secure=secure, type="pflash"))
    raw.connect.defineXML(text(domain))
    assert LibvirtObserver(raw).fittings(OURS) == {Capability.UEFI} | more


def test_volumes_that_cannot_be_written_to(raw: RawHost) -> None:
    define(raw, volumes=(attachment("a", read_only=True), attachment("b", read_only=False)))
    observer = LibvirtObserver(raw)
    assert observer.devices(OURS) == {"a", "b"}
    assert observer.read_only(OURS) == {"a"}


def test_own_disks(raw: RawHost) -> None:
    pool = raw.connect.storagePoolLookupByName("default-pool")
    volume = pool.createXML(volume_xml("hvct-root", 3 << 30, "qcow2"), 0)
    try:
        define(raw, volume.path(), volumes=(attachment("a", read_only=False),))
        assert LibvirtObserver(raw).own_disks(OURS) == [3 << 30]
    finally:
        volume.delete(0)


def test_machines_of_others(raw: RawHost) -> None:
    define(raw)
    system = el("os", el("type", "hvm"))
    xml = el("domain", el("name", "their's"), el("uuid", str(THEIRS)), el("memory", "64"), system)
    xml.set("type", "test")
    domain = raw.connect.defineXML(text(xml))
    observer = LibvirtObserver(raw)
    assert observer.foreign()[THEIRS] == ("their's", InstanceState.STOPPED)
    assert OURS not in observer.foreign()
    domain.create()
    assert observer.foreign()[THEIRS] == ("their's", InstanceState.RUNNING)
    observer.power_off(THEIRS)
    assert observer.foreign()[THEIRS] == ("their's", InstanceState.STOPPED)


@pytest.mark.parametrize(
    ("defined", "saved", "expected"),
    [
        (True, False, InstanceState.STOPPED),
        (True, True, InstanceState.SUSPENDED),
        (False, False, InstanceState.BUILDING),
    ],
)
def test_a_machine_that_is_being_started_has_not_left_its_state(
    defined: bool, saved: bool, expected: InstanceState
) -> None:
    """Libvirt says "paused" of it meanwhile."""

    class Starting:
        def state(self, _flags: int) -> list[int]:
            return [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP]

        def name(self) -> str:
            return f"ours.{OURS}"

        def UUIDString(self) -> str:
            return str(OURS)

        def isPersistent(self) -> int:
            return int(defined)

        def hasManagedSaveImage(self, _flags: int) -> int:
            return int(saved)

    class Connect:
        def listAllDomains(self, _flags: int) -> list[Starting]:
            return [Starting()]

        def listAllSecrets(self, _flags: int) -> list[object]:
            return []

    class Host:
        connect = Connect()

    assert LibvirtObserver(Host()).states() == {OURS: expected}  # type: ignore[arg-type]
