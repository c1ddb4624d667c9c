"""Tenants' names, metadata, ids and images: each is data, or is refused with nothing left."""

from __future__ import annotations

import hashlib
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
from pydantic import ValidationError

from hvdrivers.contract import errors
from hvdrivers.models.image import Checksum, FileImage, ImageFormat
from hvdrivers.models.instance import Flavor
from hvdrivers.models.migration import Destination
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import BridgeVif
from hvdrivers.models.volume import VolumeAttachment, VolumeSpec
from tests.integration.libvirt.machines import Host, Machine, local
from tests.peers.bridge import LinuxBridge
from tests.peers.libvirtd import POOL
from tests.peers.observer import changed

NAMES = (
    "<name/>&amp;\"'",
    "]]><domain>",
    "../../etc/passwd",
    "a/b\\c",
    "%2F%00 100%",
    "%" * 63,
    "/" * 63,
    ".",
    "..",
    "-rf",
    "$(reboot);`x`|&",
    "🦆" * 32,
    "é" * 63,
    "\u202egnp.exe \u200f\u05d0\u05d1",
    "NUL",
)


@pytest.mark.parametrize("name", NAMES)
def test_names(host: Host, name: str) -> None:
    """They come back as they were, in every read, after a rename, and when it has run."""
    with host.unchanged(), host.made_empty(name=name) as machine:
        assert machine.info.name == name
        assert machine.state is InstanceState.STOPPED  # and list and get agree
        host.driver.rename(machine.uuid, "plain")
        assert machine.info.name == "plain"
        host.driver.rename(machine.uuid, name)
        assert machine.info.name == name


@pytest.mark.parametrize("name", ["%" * 63, "🦆" * 32, "a/b <&'\"> ../.."])
def test_names_of_running_machines(host: Host, name: str) -> None:
    """Libvirt makes files and sockets of them."""
    with host.unchanged(), host.empty_machine(name=name) as machine:
        host.driver.suspend(machine.uuid)
        host.driver.resume(machine.uuid)
        assert machine.info.name == name


@pytest.mark.parametrize("name", ["a\nb", "a\x00b", "a\x1bb", "\ud800", " a", "", "a\u2028b"])
def test_names_that_are_none(host: Host, name: str) -> None:
    with pytest.raises((ValidationError, UnicodeEncodeError)):
        host.spec(name=name)


def test_metadata(host: Host, machine: Machine) -> None:
    """Any text, in a running machine's definition too; what XML cannot hold included."""
    values = {
        "markup": "<a b='c'>&lt;]]>&#0;",
        "controls": "".join(map(chr, range(32))) + "\x7f\x80\x9f",
        "lines": "\r\n\u2028\u2029\ufeff\ufffe\uffff",
        "quotes": "'\"\\`${}%s{0}",
        "rtl": "\u202e\u05d0",
        "wide": "🦆" * 100,
        "json": '{"a": [1, null]}',
    }
    host.driver.set_metadata(machine.uuid, values)
    assert machine.info.metadata == values
    many = {f"k/{number}:{'x' * 50}": "y" * 70 for number in range(128)}
    host.driver.set_metadata(machine.uuid, many)
    assert machine.info.metadata == many
    host.driver.set_metadata(machine.uuid, {})
    assert machine.info.metadata == {}


IDS = ("'\"<>&", "a b/../c", "%s$(x)", "🦆" * 20, "ü", "x" * 255, "<" * 255, "_3c")


@pytest.mark.parametrize("identifier", IDS)
def test_ids_of_volumes_and_nics(
    host: Host, machine: Machine, linux_bridge: LinuxBridge, identifier: str
) -> None:
    """At spawn, hot and cold; on both buses."""
    driver = host.driver
    with host.unchanged(), host.file() as path, host.file() as second:
        volume = VolumeAttachment(volume=local(path, identifier))
        vif = BridgeVif(id=identifier, bridge=linux_bridge.name)
        with host.made_empty(volumes=(volume,), vifs=(vif,)) as off:
            assert [each.volume_id for each in off.info.volumes] == [identifier]
            assert [each.id for each in off.info.vifs] == [identifier]
            driver.detach_volume(off.uuid, identifier)
            driver.unplug_vif(off.uuid, identifier)
            driver.attach_volume(off.uuid, volume)
            driver.plug_vif(off.uuid, vif)
            assert [each.volume_id for each in off.info.volumes] == [identifier]
        scsi = VolumeAttachment(volume=local(second, identifier), bus="scsi")
        for attachment in (volume, scsi):
            driver.attach_volume(machine.uuid, attachment)
            assert [each.volume_id for each in machine.info.volumes] == [identifier]
            driver.detach_volume(machine.uuid, identifier)
        driver.plug_vif(machine.uuid, vif)
        driver.unplug_vif(machine.uuid, identifier)
        assert machine.info.volumes == ()


@pytest.mark.parametrize("name", ["<&>'\"", "a b", "$(x)", "🦆" * 20, "..x", "x" * 200])
def test_names_of_volumes(host: Host, name: str) -> None:
    with host.unchanged():
        made = host.driver.create_volume(VolumeSpec(name=name, size_bytes=1 << 20))
        assert made.volume_id == name
        assert name in {each.volume_id for each in host.driver.list_volumes()}
        host.driver.delete_volume(name)
    with host.unchanged(), pytest.raises((errors.InvalidRequest, ValidationError)):
        host.driver.create_volume(VolumeSpec(name="🦆" * 62, size_bytes=1 << 20))


def _qemu_img(*arguments: str) -> None:
    subprocess.run(["qemu-img", *arguments], check=True, capture_output=True)


def _backing(path: Path) -> ImageFormat:
    _qemu_img(*("create", "-u", "-f", "qcow2", "-b", "/etc/shadow", "-F", "raw"), str(path), "64M")
    return ImageFormat.QCOW2


def _external_data(path: Path) -> ImageFormat:
    data = path.with_suffix(".data")
    _qemu_img("create", "-f", "qcow2", "-o", f"data_file={data},data_file_raw=on", str(path), "1M")
    return ImageFormat.QCOW2


def _extent(path: Path) -> ImageFormat:
    path.write_text(
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n"
        'createType="monolithicFlat"\nRW 2048 FLAT "/etc/shadow" 0\n'
    )
    return ImageFormat.VMDK


def _not_qcow2(path: Path) -> ImageFormat:
    path.write_bytes(b"no image at all" * 100)
    return ImageFormat.QCOW2


def _unknown_feature(path: Path) -> ImageFormat:
    _qemu_img("create", "-f", "qcow2", str(path), "1M")
    content = bytearray(path.read_bytes())
    content[72:80] = struct.pack(">Q", 1 << 40)
    path.write_bytes(content)
    return ImageFormat.QCOW2


def _qcow2_as_raw(path: Path) -> ImageFormat:
    _backing(path)
    return ImageFormat.RAW


def _empty(path: Path) -> ImageFormat:
    path.write_bytes(b"")
    return ImageFormat.QCOW2


@pytest.mark.parametrize(
    "make", [_backing, _external_data, _extent, _not_qcow2, _unknown_feature, _qcow2_as_raw, _empty]
)
def test_images(host: Host, tmp_path: Path, make: Callable[[Path], ImageFormat]) -> None:
    path = tmp_path / "image"
    image = FileImage(path=path, format=make(path))
    before = host.residue()
    for spec in (host.spec(image=image), host.spec(image=image, start=False)):
        with pytest.raises(errors.ImageRejected) as refused:
            host.driver.spawn(spec)
        assert refused.value.hint
        assert not changed(before, host.residue())


def test_wrong_checksum(host: Host, guest_image: Path) -> None:
    wrong = Checksum(algorithm="sha256", value=hashlib.sha256(b"another").hexdigest())
    image = FileImage(path=guest_image, format=ImageFormat.QCOW2, checksum=wrong)
    before = host.residue()
    with pytest.raises(errors.ImageRejected) as refused:
        host.spawn(image=image)
    assert refused.value.hint
    assert not changed(before, host.residue())


def test_larger_than_the_disk(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "image"
    _qemu_img("create", "-f", "qcow2", str(path), "2G")
    image = FileImage(path=path, format=ImageFormat.QCOW2)
    with host.unchanged(), pytest.raises(errors.ImageRejected) as refused:
        host.spawn(image=image, flavor=Flavor(vcpus=1, memory_mib=64, disk_gib=1))
    assert refused.value.hint


def test_files_that_are_none(host: Host, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    for path in (missing, tmp_path, Path("/dev/null")):
        before = host.residue()
        with pytest.raises(errors.InvalidRequest) as refused:
            host.spawn(image=FileImage(path=path, format=ImageFormat.QCOW2))
        assert refused.value.hint
        assert not changed(before, host.residue())


def test_what_the_host_may_not_open(host: Host, machine: Machine) -> None:
    """A folder in place of a file. (Here QEMU runs as root: no permission keeps it from a file.)"""
    folder = f"{host.peer.images}/folder-{uuid4().hex[:6]}"
    host.peer.path(folder).mkdir()
    host.peer.virsh("pool-refresh", POOL)  # a look at a file's size refreshes, and would show it
    try:
        with host.unchanged(), pytest.raises(errors.HypervisorError):
            machine.attach(local(folder, "folder"))
        assert machine.info.volumes == ()
    finally:
        host.peer.path(folder).rmdir()
        host.peer.virsh("pool-refresh", POOL)


def test_a_destination_that_is_none(host: Host) -> None:
    """It is told what is wrong with it, without its password."""
    uri = host.peer.uri
    with host.unchanged(), host.made_empty() as machine:
        for named, wrong in (
            (Destination(host="qemu://["), "uri"),
            (Destination(host=uri, storage="a,b"), "pool"),
            (Destination(host="qemu+tcp://u:hunter2@192.0.2.1/system"), "uri"),
            (Destination(host="qemu+ssh://-oProxyCommand=x/system"), "host"),
        ):
            with pytest.raises(errors.InvalidRequest, match=wrong) as refused:
                host.driver.cold_migrate(machine.uuid, named)
            assert refused.value.hint
            assert "hunter2" not in str(refused.value)


def test_no_memory(host: Host) -> None:
    """More than any host has: refused, and nothing is left."""
    with host.unchanged(), pytest.raises(errors.HypervisorError):
        host.driver.spawn(host.empty(flavor=Flavor(vcpus=1, memory_mib=1 << 40)))
