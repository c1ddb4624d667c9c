"""Which storage pools of the host the driver's own disks may be in."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from hvdrivers.contract import errors
from hvdrivers.guard import guarded
from hvdrivers.libvirt.driver import LibvirtDriver
from hvdrivers.models.instance import Flavor
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import VolumeAttachment, VolumeSpec
from tests.integration.libvirt.conftest import connect
from tests.integration.libvirt.machines import Host
from tests.peers.libvirtd import LibvirtPeer
from tests.peers.precondition import PreconditionMissing

BY_PATH = ("--target", "/dev/disk/by-path")
TARGET = "/var/lib/libvirt/of-its-own"


@pytest.fixture
def device(tmp_path: Path) -> Iterator[str]:
    """A block device with a file system."""
    file = tmp_path / "device"
    with file.open("wb") as made:
        made.truncate(128 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(file)], check=True)
    found = subprocess.run(
        ["losetup", "--find", "--show", str(file)], capture_output=True, text=True, check=False
    )
    if found.returncode:
        raise PreconditionMissing(f"a loop device: {found.stderr.strip()}")
    yield found.stdout.strip()
    subprocess.run(["losetup", "--detach", found.stdout.strip()], check=True)


def test_a_file_system_that_libvirt_mounts(tmp_path: Path, device: str) -> None:
    """A pool of type fs, started by the driver: machines and volumes are there, and it stays."""
    with LibvirtPeer() as peer:
        peer.virsh("pool-define-as", "own", "fs", "--source-dev", device, "--target", TARGET)
        peer.inside("mkdir", "-p", TARGET)
        host = Host(peer, tmp_path / "none", pool="own")
        storage = host.driver.get_available_resource().storage[0]
        assert (storage.name, storage.for_new, storage.shared) == ("own", True, False)
        assert storage.total_gib < 0.2
        with host.volume() as volume:
            flavor = Flavor(vcpus=1, memory_mib=64, ephemeral_gib=1)
            attachment = VolumeAttachment(volume=volume)
            with host.empty_machine(flavor=flavor, volumes=(attachment,)) as machine:
                paths = [each.get("file") for each in machine.xml().findall("devices/disk/source")]
                assert len(paths) == 3
                assert all(str(each).startswith(TARGET) for each in paths)
                host.driver.power_off(machine.uuid)
                host.driver.power_on(machine.uuid)
                assert machine.state is InstanceState.RUNNING
        host.close()
        peer.virsh("pool-destroy", "own")  # unmounts it


@pytest.mark.parametrize(
    "definition",
    [
        ("logical", "--source-name", "vg", "--target", "/dev/vg"),
        ("mpath", "--target", "/dev/mapper"),
        ("disk", "--source-dev", "/dev/none", "--target", "/dev"),
        ("scsi", "--adapter-name", "scsi_host0", *BY_PATH),
        ("iscsi", *("--source-host", "127.0.0.1", "--source-dev", "iqn.2026-11.t:t", *BY_PATH)),
    ],
    ids=lambda each: str(each[0]),
)
def test_devices_are_no_place_for_files(host: Host, definition: tuple[str, ...]) -> None:
    """Whether such a pool runs or not, it is refused by its type, and nothing is left."""
    name = f"of-{definition[0]}"
    host.peer.virsh("pool-define-as", name, *definition)
    before = host.residue()
    try:
        raw = LibvirtDriver.connect(host.raw.config.model_copy(update={"pool": name}))
        with closing(guarded(raw)) as driver:
            for call in (
                lambda: driver.spawn(host.empty()),
                lambda: driver.create_volume(VolumeSpec(size_gib=1)),
                driver.get_available_resource,
            ):
                with pytest.raises(errors.NotSupported) as refused:
                    call()
                assert "dir, fs or netfs" in (refused.value.hint or "")
        with closing(guarded(connect(host.peer))) as driver:
            with pytest.raises(errors.NotSupported) as refused:
                driver.create_volume(VolumeSpec(size_gib=1, pool=name))
            assert refused.value.hint
        host.compare(before)
    finally:
        host.peer.virsh("pool-undefine", name)


def test_a_server_that_is_not_there(host: Host) -> None:
    """A netfs pool is a pool of files, and this one cannot be mounted."""
    target = ("--source-host", "127.0.0.1", "--source-path", "/none", "--target", TARGET)
    host.peer.virsh("pool-define-as", "far", "netfs", *target)
    try:
        raw = LibvirtDriver.connect(host.raw.config.model_copy(update={"pool": "far"}))
        with closing(guarded(raw)) as driver, pytest.raises(errors.HypervisorFault) as refused:
            driver.spawn(host.empty())
        assert refused.value.hint
    finally:
        host.peer.virsh("pool-undefine", "far")
        host.peer.inside("rm", "-rf", TARGET)
