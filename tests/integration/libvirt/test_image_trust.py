"""What is on its way to the host, and what is there, passed off as something else."""

from __future__ import annotations

import mmap
import os
import subprocess
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.guard import guarded
from hvdrivers.libvirt.naming import disk_name
from hvdrivers.models.cloudinit import CloudInit
from hvdrivers.models.image import FileImage, HostImage, ImageFormat
from hvdrivers.models.instance import Flavor
from hvdrivers.models.progress import Phase, Progress
from hvdrivers.models.volume import PoolData, PoolVolume, VolumeAttachment, VolumeSpec
from tests.integration.libvirt.conftest import connect
from tests.integration.libvirt.machines import Host, local


def _qemu_img(*arguments: str) -> None:
    subprocess.run(["qemu-img", *arguments], check=True, capture_output=True)


@pytest.mark.parametrize("phase", [Phase.VERIFY, Phase.UPLOAD])
def test_a_backing_file_written_through_a_mapping(host: Host, tmp_path: Path, phase: Phase) -> None:
    """The header of a harmless qcow2 becomes one with a backing file after it was inspected: no
    time stamp changes, and the host must not get it."""
    path, hostile = tmp_path / "image.qcow2", tmp_path / "hostile.qcow2"
    _qemu_img("create", "-f", "qcow2", str(path), "64M")
    with path.open("r+b") as file:
        file.seek(3 << 20)
        file.write(uuid4().bytes)  # more than a piece, and content that no cache has
    secret = tmp_path / "secret.raw"
    secret.write_bytes(bytes(64 << 20))
    _qemu_img("create", "-f", "qcow2", "-b", str(secret), "-F", "raw", str(hostile), "64M")
    header = hostile.read_bytes()[:4096]
    flipped: list[Progress] = []
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        for offset in range(0, len(memory), mmap.PAGESIZE):
            memory[offset] = memory[offset]

        def flip(progress: Progress) -> None:
            if progress.phase is phase and (phase is Phase.UPLOAD or progress.fraction == 1.0):
                flipped.append(progress)
                memory[: len(header)] = header
                memory[-16:] = bytes(16)

        image = FileImage(path=path, format=ImageFormat.QCOW2)
        with host.unchanged():
            pool = host.raw.pools.disks()
            before = {each.name() for each in pool.listAllVolumes(0)}
            with pytest.raises(errors.ImageRejected):
                host.driver.cache_image(image, progress=flip)
            assert flipped
            assert {each.name() for each in pool.listAllVolumes(0)} == before


@pytest.mark.parametrize("suffix", ["root", "seed", "nvram", "console.log"])
def test_disks_of_other_instances(host: Host, suffix: str) -> None:
    """By name, as each kind of volume and image."""
    with (
        host.unchanged(),
        host.made_empty(cloud_init=CloudInit(user_data=b"secret")) as victim,
        host.made_empty() as thief,
    ):
        name = disk_name(victim.uuid, suffix)
        for stolen in (name, name.upper() if suffix == "root" else name):
            pools = [None, "hvdrivers", "hvdrivers-consoles"]
            path = f"{host.raw.pools.path(host.raw.pools.disks())}/{stolen}"
            volumes = [
                *(PoolVolume(serial="s", data=PoolData(pool=pool, name=stolen)) for pool in pools),
                *(local(f"{prefix}{path}", "s") for prefix in ("", "/.", "//")),
            ]
            for volume in volumes:
                with pytest.raises(errors.InvalidRequest):
                    host.driver.attach_volume(thief.uuid, VolumeAttachment(volume=volume))
                with pytest.raises(errors.InvalidRequest):
                    host.made(host.empty(volumes=(VolumeAttachment(volume=volume),)))
            for format_ in (None, ImageFormat.RAW):
                with pytest.raises(errors.InvalidRequest):
                    host.made(host.empty(image=HostImage(name=stolen, format=format_)))
        assert thief.info.volumes == ()


def test_cached_images_are_no_volumes_and_no_host_images(host: Host) -> None:
    with host.made_empty() as machine:
        names = [each.name() for each in host.raw.pools.disks().listAllVolumes(0)]
        cached = [name for name in names if name.startswith("hv-image-")]
        assert cached
        for name in cached:
            volume = PoolVolume(serial="s", data=PoolData(name=name))
            with pytest.raises(errors.InvalidRequest):
                host.driver.attach_volume(machine.uuid, VolumeAttachment(volume=volume))
            with pytest.raises(errors.InvalidRequest):
                host.made(host.empty(image=HostImage(name=name)))


def test_a_recorded_format_is_not_contradicted(host: Host) -> None:
    """A guest has written a qcow2 header to its raw disk: nobody may make QEMU follow it."""
    with host.unchanged(), host.made_empty() as machine:
        for format_, other in (("raw", "qcow2"), ("qcow2", "raw")):
            made = host.driver.create_volume(
                VolumeSpec(name=f"v-{uuid4().hex[:8]}", size_bytes=1 << 20, format=format_)
            )
            assert isinstance(made, PoolVolume)
            name = made.data.name
            path = f"{host.raw.pools.path(host.raw.pools.disks())}/{name}"
            wrong = [
                PoolVolume(serial="s", data=PoolData(name=name, format=other)),
                local(path, "s", format=other),
            ]
            for volume in wrong:
                with pytest.raises(errors.InvalidRequest, match="made as"):
                    host.driver.attach_volume(machine.uuid, VolumeAttachment(volume=volume))
            with pytest.raises(errors.InvalidRequest, match="made as"):
                host.made(host.empty(image=HostImage(name=name, format=other)))
            with host.empty_machine(image=HostImage(name=name), start=False):
                pass  # as it is recorded
            host.driver.delete_volume(made.volume_id)


def test_a_foreign_raw_volume_is_not_read_as_qcow2(host: Host) -> None:
    """What the pool itself records of a volume of others."""
    pool = host.raw.pools.disks()
    name = f"foreign-{uuid4().hex[:8]}.img"
    path = host.peer.path(f"{host.raw.pools.path(pool)}/{name}")
    with host.unchanged(), host.made_empty() as machine:
        path.write_bytes(bytes(1 << 20))
        pool.refresh(0)
        volume = PoolVolume(serial="s", data=PoolData(name=name, format=ImageFormat.QCOW2))
        with pytest.raises(errors.InvalidRequest, match="made as"):
            host.driver.attach_volume(machine.uuid, VolumeAttachment(volume=volume))
        with pytest.raises(errors.InvalidRequest, match="made as"):
            host.made(host.empty(image=HostImage(name=name, format=ImageFormat.QCOW2)))
        with host.empty_machine(image=HostImage(name=name, format=ImageFormat.RAW), start=False):
            pass
        path.unlink()
        pool.refresh(0)


def test_formats_that_are_converted(own: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is cached is qcow2 of the disk's own size, also of a VHD whose geometry tells another;
    a conversion that is cut leaves nothing; without the program the capability is not there."""
    size = 5 * (1 << 20) + 512
    disk = own.peer.root / "disk.raw"
    disk.write_bytes(os.urandom(1 << 20) + bytes(size - (1 << 20)))
    for format_, name, options in (
        (ImageFormat.VMDK, "vmdk", "subformat=streamOptimized"),
        (ImageFormat.VHD, "vpc", "subformat=dynamic"),
    ):
        path = disk.with_suffix(f".{name}")
        command = ["qemu-img", "convert", "-O", name, "-o", options, str(disk), str(path)]
        subprocess.run(command, check=True, capture_output=True)
        image = FileImage(path=path, format=format_)
        with own.unchanged(), pytest.raises(errors.OperationTimeout):
            own.driver.cache_image(image, timeout=0.001)
        entry = own.driver.cache_image(image)
        assert entry.format is ImageFormat.QCOW2
        assert entry.virtual_size_bytes >= size
        with own.made_empty(image=image, flavor=Flavor(vcpus=1, memory_mib=64)) as machine:
            assert machine.info.image == entry.key
            copy = disk.with_suffix(".copy")
            own.driver.snapshot_to_image(machine.uuid, copy, ImageFormat.RAW)
            assert copy.read_bytes()[:size] == disk.read_bytes()
            copy.unlink()
        own.driver.evict_image(entry.key)
    monkeypatch.setenv("PATH", "")
    with closing(guarded(connect(own.peer))) as without:
        assert "qemu-img" in str(without.why_not(Capability.IMAGE_VHD))
        with pytest.raises(errors.NotSupported):
            without.spawn(own.empty(image=image))
