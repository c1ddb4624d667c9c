"""What a guest finds in the machine that was spawned for it."""

from __future__ import annotations

import hashlib
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hvdrivers.contract import errors
from hvdrivers.contract.power import RebootKind
from hvdrivers.libvirt.naming import console_name
from hvdrivers.models.cloudinit import CloudInit
from hvdrivers.models.image import Checksum, FileImage, HostImage, HttpImage, ImageFormat
from hvdrivers.models.instance import Flavor, Keep
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import VolumeAttachment
from tests.integration.libvirt.machines import BOOT, Host, local


@pytest.fixture(scope="module")
def raw_image(guest_image: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "guest.raw"
    command = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(guest_image), str(path)]
    subprocess.run(command, check=True)
    return path


@pytest.fixture
def web(guest_image: Path) -> Iterator[str]:
    """The guest's image on a web server."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=str(guest_image.parent))
    ) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/{guest_image.name}"
        server.shutdown()
        thread.join()


def sha256(path: Path) -> Checksum:
    return Checksum(algorithm="sha256", value=hashlib.sha256(path.read_bytes()).hexdigest())


def test_everything_that_spawn_gives_is_seen_by_the_guest(host: Host, guest_image: Path) -> None:
    """One boot: resized root disk, ephemeral and swap disk, NoCloud seed, hostname, user data."""
    with (
        host.unchanged(),
        host.machine(
            name="whole",
            flavor=Flavor(vcpus=2, memory_mib=256, disk_gib=1, ephemeral_gib=1, swap_mib=32),
            image=FileImage(
                path=guest_image, format=ImageFormat.QCOW2, checksum=sha256(guest_image)
            ),
            cloud_init=CloudInit(
                hostname="whole-1",
                user_data=b"#!/bin/sh\necho hv-guest: I am $(hostname)\n",
                ssh_keys=("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBase64 me",),
            ),
        ) as machine,
    ):
        assert machine.state is InstanceState.RUNNING
        machine.booted()
        console = machine.console
        booted = console.expect(r"booted uuid=(\S+) vcpus=(\d+) memory_mib=(\d+) firmware=bios")
        assert booted[1] == str(machine.uuid)
        assert booted[2] == "2"
        assert 200 <= int(booted[3]) <= 256
        console.expect("root disk vda 1024 MiB")
        console.expect("disk vdb 1024 MiB")
        console.expect("disk vdc 32 MiB")
        console.expect(f"seed cidata hostname=whole-1 instance-id={machine.uuid}")
        console.expect("public-key ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBase64")
        console.expect("user-data #!/bin/sh")
        console.expect("user-data exit 0")
        console.expect("I am whole-1")


def test_raw_image_and_config_drive(host: Host, raw_image: Path) -> None:
    with (
        host.unchanged(),
        host.machine(
            image=FileImage(path=raw_image, format=ImageFormat.RAW),
            cloud_init=CloudInit(hostname="cd-1", datasource="configdrive", user_data=b"plain\n"),
        ) as machine,
    ):
        machine.booted()
        machine.console.expect("root disk vda 64 MiB")
        machine.console.expect(f"seed config-2 hostname=cd-1 instance-id={machine.uuid}")
        machine.console.expect("user-data plain")
        root = machine.xml().find("devices/disk/backingStore/format")
        assert root is not None
        assert root.get("type") == "raw"


def test_image_over_http(host: Host, guest_image: Path, web: str) -> None:
    """The same content as a file is the same cached image."""
    image = HttpImage(url=web, format=ImageFormat.QCOW2, checksum=sha256(guest_image))
    with host.machine(image=image, start=False) as machine:
        assert machine.info.image == image.cache_key()
        cached = {each.key for each in host.driver.list_cached_images()}
        assert image.cache_key() in cached


def test_image_that_is_on_the_host(host: Host, guest_image: Path) -> None:
    """A volume of the pool by its name, with and without a format; one boots."""
    pool = host.raw.config.pool
    name = "an administrator's image.qcow2"
    host.peer.virsh(
        *("vol-create-as", pool, name, str(64 << 20), "--format", "qcow2", "--allocation", "0")
    )
    host.peer.virsh("vol-upload", name, str(guest_image), "--pool", pool)
    host.peer.virsh("pool-refresh", pool)
    try:
        with (
            host.unchanged(),
            host.machine(image=HostImage(name=name)) as machine,
            host.machine(
                image=HostImage(name=name, format=ImageFormat.QCOW2), start=False
            ) as second,
        ):
            assert second.state is InstanceState.STOPPED
            assert machine.info.image == HostImage(name=name).cache_key()
            machine.booted()
    finally:
        host.peer.virsh("vol-delete", name, "--pool", pool)
    with host.unchanged(), pytest.raises(errors.VolumeNotFound):
        host.spawn(image=HostImage(name="there is none"))


def test_boot_from_volume(host: Host, raw_image: Path) -> None:
    """The volume boots; the machine has no disk of its own, and the volume outlives it."""
    with host.unchanged(), host.file(raw_image.read_bytes()) as path:
        boots = VolumeAttachment(volume=local(path, "boot-volume"), boot_index=0)
        with host.machine(image=None, volumes=(boots,)) as machine:
            machine.booted()
            machine.console.expect("root disk vda 64 MiB")
            machine.console.expect("boot number 1")
            info = machine.info
            assert info.image is None
            assert [each.volume_id for each in info.volumes] == ["boot-volume"]
            assert info.volumes[0].boot_index == 0
            with pytest.raises(errors.InvalidRequest):
                host.driver.detach_volume(machine.uuid, "boot-volume")
            assert machine.has("boot-volume") == (True, True)
        assert host.peer.path(path).read_bytes() != raw_image.read_bytes()  # it counts its boots


def test_not_started(host: Host) -> None:
    with host.unchanged(), host.machine(start=False) as machine:
        assert machine.state is InstanceState.STOPPED
        assert host.driver.get_console_log(machine.uuid).data == b""
        host.driver.power_on(machine.uuid)
        assert machine.state is InstanceState.RUNNING


def test_console_log(host: Host) -> None:
    """It goes on over a reboot, is cut where asked, and is there when the machine is off; what
    the daemon's rotation leaves is read, and is removed with the machine."""
    driver = host.driver
    with host.unchanged():
        machine = host.spawn()
        machine.booted()
        said = machine.said()
        driver.reboot(machine.uuid, RebootKind.HARD)
        machine.booted(said)
        log = driver.get_console_log(machine.uuid)
        assert b"boot number 1" in log.data
        assert b"boot number 2" in log.data
        assert not log.truncated
        driver.power_off(machine.uuid)
        whole = driver.get_console_log(machine.uuid)
        assert whole.data.startswith(log.data)
        assert whole.data == machine.console.path.read_bytes()
        end = driver.get_console_log(machine.uuid, max_bytes=20)
        assert end.data == whole.data[-20:]
        assert end.truncated
        exact = driver.get_console_log(machine.uuid, max_bytes=len(whole.data))
        assert (exact.data, exact.truncated) == (whole.data, False)

        # as virtlogd leaves it when the log was full
        path = machine.console.path
        path.rename(path.with_name(f"{path.name}.1"))
        path.with_name(f"{path.name}.0").write_bytes(b"older ")
        path.write_bytes(b"new")
        assert driver.get_console_log(machine.uuid, max_bytes=3).data == b"new"
        assert driver.get_console_log(machine.uuid, max_bytes=3).truncated
        both = driver.get_console_log(machine.uuid, max_bytes=9)
        assert (both.data, both.truncated) == (b"older new", True)
        rotated = driver.get_console_log(machine.uuid)
        assert (rotated.data, rotated.truncated) == (whole.data + b"older new", False)

        # and as it really comes about: the log is nearly full, and the guest goes on
        path.write_bytes(b"x" * ((2 << 20) - 5000) + b"\n")
        said = machine.said()
        driver.power_on(machine.uuid)
        machine.booted(said)
        machine.type("yes abcdefghijklmnopqrstuvwxyz | head -c 9000; echo; echo hv-guest: full")
        machine.console.expect("full", timeout=BOOT)
        assert path.stat().st_size < 20000
        log = driver.get_console_log(machine.uuid, max_bytes=1 << 20)
        assert len(log.data) == 1 << 20
        assert log.truncated
        assert b"hv-guest: full" in log.data[-200:]
        driver.destroy(machine.uuid)
        left = [each.name for each in path.parent.iterdir()]
        assert not [name for name in left if name.startswith(console_name(machine.uuid))]


def test_two_connections_see_the_same(host: Host, guest_image: Path) -> None:
    metadata = {"owner": '<team> & "x"\n\tline two', "empty": "", "emoji": "🦆", "nul": "\x00\x1b"}
    with host.machine(name="räksmörgås & <b>", metadata=metadata, start=False) as machine:
        other = Host(host.peer, guest_image)
        try:
            assert other.driver.get_instance(machine.uuid) == machine.info
            assert machine.info.name == "räksmörgås & <b>"
            assert machine.info.metadata == metadata
            other.driver.set_metadata(machine.uuid, {"k": "v"})
            assert machine.info.metadata == {"k": "v"}
            other.driver.rename(machine.uuid, "100% / new")
            assert machine.info.name == "100% / new"
            assert machine.info.metadata == {"k": "v"}
            assert machine.uuid in {each.uuid for each in other.driver.list_instances()}
        finally:
            other.close()


def test_the_root_disk_can_be_kept(host: Host) -> None:
    with host.unchanged():
        machine = host.spawn(start=False)
        host.driver.destroy(machine.uuid, keep=frozenset({Keep.ROOT_DISK}))
        kept = {each.volume_id: each for each in host.driver.list_volumes()}
        volume = kept[f"{machine.uuid}-root"]
        assert volume.capacity_bytes == 64 << 20
        boots = VolumeAttachment(volume=volume.to_volume(), boot_index=0)
        again = host.made_empty(image=None, volumes=(boots,))
        with again, pytest.raises(errors.DeviceBusy):
            host.driver.delete_volume(volume.volume_id)
        host.driver.delete_volume(volume.volume_id)
