"""Disks of an instance's own: kept by destroy(), taken over by spawn(), and what stops that."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretBytes

from hvdrivers.contract import errors
from hvdrivers.models.disk import DiskRole, OwnDisk
from hvdrivers.models.image import ImageFormat
from hvdrivers.models.instance import Flavor, Keep
from hvdrivers.models.seed import SeedDisc
from hvdrivers.models.volume import DeviceType, DiskBus, VolumeAttachment
from tests.integration.libvirt.children import killed_in
from tests.integration.libvirt.test_relocation import write

from .machines import Host, host

__all__ = ["host"]

FLAVOR = Flavor(vcpus=1, memory_mib=64, ephemeral_gib=1, swap_mib=16)


def test_disks_that_outlive_their_machine(host: Host) -> None:
    driver = host.driver
    disks = (
        OwnDisk(role=DiskRole.EPHEMERAL, size_mib=256, bus=DiskBus.SCSI),
        OwnDisk(role=DiskRole.EPHEMERAL, size_mib=768),
    )
    with host.unchanged():
        spec = host.empty(flavor=FLAVOR, disks=disks, start=False)
        machine = host.made(spec)
        serials = sorted(str(each.text) for each in machine.xml().iterfind("devices/disk/serial"))
        assert serials == ["ephemeral", "ephemeral-1", "swap"]
        with host.raw.connection.counting() as calls:
            driver.destroy(spec.uuid, keep=frozenset(Keep))
        made = calls["StoragePool.createXML"], calls["StoragePool.createXMLFrom"]
        assert made == (8, 4), calls
        names = ("root", "ephemeral", "ephemeral-1", "swap")
        assert {each.volume_id for each in driver.list_volumes()} == {
            f"{spec.uuid}-{name}" for name in names
        }
        # the next one grows what it takes over; what it does not want stays
        flavor = FLAVOR.model_copy(update={"swap_mib": 32, "ephemeral_gib": 0})
        wishes = (
            OwnDisk(role=DiskRole.ROOT, kept=f"{spec.uuid}-root"),
            OwnDisk(role=DiskRole.SWAP, kept=f"{spec.uuid}-swap"),
        )
        changes: dict[str, Any] = {"image": None, "flavor": flavor, "disks": wishes}
        with host.made_empty(**changes) as heir:
            sizes = {
                disk.findtext("serial"): host.peer.virsh(
                    "domblkinfo", str(heir.uuid), disk.find("target").attrib["dev"]
                ).split()[1]
                for disk in heir.xml().iterfind("devices/disk")
            }
            assert int(sizes["swap"]) == 32 << 20
            left = {f"{spec.uuid}-ephemeral", f"{spec.uuid}-ephemeral-1"}
            assert {each.volume_id for each in driver.list_volumes()} == left
        for each in left:
            driver.delete_volume(each)


def test_what_cannot_be_taken_over(host: Host) -> None:
    driver = host.driver

    def taking(volume_id: str, **changes: Any) -> Any:
        wish = OwnDisk(role=DiskRole.ROOT, kept=volume_id)
        flavor = Flavor(vcpus=1, memory_mib=64)
        return host.empty(
            **({"image": None, "flavor": flavor, "disks": (wish,), "start": False} | changes)
        )

    with (
        host.volume(size_bytes=8 << 20) as kept,
        host.volume(size_bytes=2 << 30) as large,
        host.volume(format=ImageFormat.RAW) as raw,
        host.unchanged(),
    ):
        small = Flavor(vcpus=1, memory_mib=64, disk_gib=1)
        for spec, error in (
            (taking(raw.volume_id), errors.NotSupported),
            (taking(large.volume_id, flavor=small), errors.InvalidRequest),
            (taking("nobody's"), errors.VolumeNotFound),
        ):
            with pytest.raises(error):
                driver.spawn(spec)

        # another client takes it at the last moment: this spawn leaves nothing, as if it had come
        # a moment later
        taken: list[str] = []

        def gone(name: str, send: Any) -> Any:
            if name == "StorageVol.delete" and not taken:
                taken.append(name)
                host.peer.virsh("vol-delete", f"hv-volume-{kept.volume_id}.qcow2", "hvdrivers")
            return send()

        spec = taking(kept.volume_id)
        host.raw.connection.seam = gone
        try:
            with pytest.raises(errors.VolumeNotFound):
                driver.spawn(spec)
        finally:
            host.raw.connection.seam = None
        assert spec.uuid not in {each.uuid for each in driver.list_instances()}
        name = f"hv-volume-{kept.volume_id}.qcow2"
        host.peer.virsh("vol-create-as", "hvdrivers", name, str(8 << 20), "--format", "qcow2")


def test_seed_discs_in_every_drive(host: Host, tmp_path: Path) -> None:
    """The machine starts with the disc, also one whose size is no whole number of sectors; what
    QEMU has no drive for, and a file that is no disc, are refused before anything is made."""
    content = b"what the guest reads: \xff\x00<&" * 100 + b"!"
    assert len(content) % 512
    file = tmp_path / "a seed, \u00fc"
    file.write_bytes(content)
    with host.unchanged():
        for bus, kind in (
            (None, DeviceType.CDROM),
            (DiskBus.SATA, DeviceType.CDROM),
            (DiskBus.USB, DeviceType.CDROM),
            (None, DeviceType.DISK),
            (DiskBus.SCSI, DeviceType.DISK),
            (DiskBus.USB, DeviceType.DISK),
        ):
            seed = SeedDisc(path=file, bus=bus, device_type=kind)
            # beside a volume, so that names of devices meet
            with host.volume() as volume:
                attached = VolumeAttachment(volume=volume, bus=bus)
                with host.empty_machine(seed=seed, volumes=(attached,)) as machine:
                    disk = machine.xml().find("devices/disk/alias[@name='ua-own-seed']/..")
                    assert disk is not None
                    assert disk.get("device") == kind.value, seed
                    assert disk.find("readonly") is not None
                    target, source = disk.find("target"), disk.find("source")
                    assert target is not None
                    usual = "scsi" if kind is DeviceType.CDROM else "virtio"
                    assert target.get("bus") == (bus.value if bus else usual)
                    assert source is not None
                    there = host.peer.path(source.attrib["file"]).read_bytes()
                    assert there.rstrip(b"\x00") == content
                    assert [each.volume_id for each in machine.info.volumes] == [volume.volume_id]
        given = SeedDisc(content=SecretBytes(content))
        for refused, error in (
            ({"bus": DiskBus.SATA, "device_type": DeviceType.DISK}, errors.NotSupported),
            ({"bus": DiskBus.IDE}, errors.NotSupported),
            ({"bus": DiskBus.NVME, "device_type": DeviceType.DISK}, errors.NotSupported),
            ({"content": None, "path": tmp_path}, errors.InvalidRequest),
            ({"content": None, "path": Path("/dev/null")}, errors.InvalidRequest),
            ({"content": None, "path": Path("/dev/zero")}, errors.InvalidRequest),
            ({"content": None, "path": Path("a\x00b")}, errors.InvalidRequest),
        ):
            with pytest.raises(error):
                host.driver.spawn(host.empty(seed=given.model_copy(update=refused)))


def test_a_machine_that_ran_after_a_disk_was_kept(host: Host) -> None:
    """A client dies between two disks. Another lets the machine run, and then keeps what the guest
    has written until now."""
    driver = host.driver
    with host.unchanged():
        machine = host.made(host.empty(flavor=FLAVOR, start=False))
        uuid = machine.uuid
        write(machine, 1)
        pool = host.raw.pools.disks()
        number = 0
        while not any(".kept-" in name for name in host.raw.pools.volumes(pool)):
            keywords = {"keep": set(Keep)}
            assert killed_in(
                *(host.peer.uri, "destroy", (uuid,), number, "after"),
                reads=False,
                keywords=keywords,
            )
            number += 1
        driver.power_on(uuid)
        driver.power_off(uuid)
        write(machine, 2)
        driver.destroy(uuid, keep=set(Keep))
        for role in ("ephemeral", "root", "swap"):
            path = host.raw.pools.disk_path(f"hv-volume-{uuid}-{role}.qcow2")
            read = ["qemu-io", "-f", "qcow2", "-c", "read -P 2 0 64k", str(host.peer.path(path))]
            done = subprocess.run(read, capture_output=True, text=True, check=True)
            assert "verification failed" not in done.stdout, role
            driver.delete_volume(f"{uuid}-{role}")
