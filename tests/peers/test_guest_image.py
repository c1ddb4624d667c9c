"""The guest boots from its disk, reports its devices as they come and go, and powers off."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hvdrivers.testing.guestimage import GuestImageUnavailable, build_guest_image
from hvdrivers.testing.guestimage.inputs import run_tool, without_signature
from tests.peers.bridge import LinuxBridge
from tests.peers.guest import define_guest, make_volume
from tests.peers.libvirtd import LibvirtPeer
from tests.peers.observer import VirshError, changed
from tests.peers.precondition import missing
from tests.peers.waiting import wait_until


@pytest.mark.peer("libvirt")
def test_guest_boots_and_reports_its_devices(
    libvirt_peer: LibvirtPeer, linux_bridge: LinuxBridge, guest_image: Path
) -> None:
    before = libvirt_peer.residue()
    nic = f"<interface type='bridge'><source bridge='{linux_bridge.name}'/><model type='virtio'/>"
    first = f"{nic}<mac address='52:54:00:00:00:01'/></interface>"
    second = f"{nic}<mac address='52:54:00:00:00:02'/></interface>"
    with define_guest(libvirt_peer, guest_image, devices=first, vcpus=2) as guest:
        console = guest.console
        guest.start()

        booted = console.expect(r"booted uuid=(\S+) vcpus=(\d+) memory_mib=(\d+) firmware=bios")
        assert booted[1] == guest.uuid
        assert booted[2] == "2"
        assert 192 - 64 < int(booted[3]) <= 192
        console.expect("root disk vda 128 MiB$")
        console.expect("nic eth0 mac=52:54:00:00:00:01 attached$")
        console.expect("address eth0 198[.]1[89][.]")
        console.expect("ready$")
        assert len(linux_bridge.ports()) == 1

        volume = make_volume(libvirt_peer, "data.qcow2", 64)
        disk = (
            f"<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>"
            f"<source file='{volume}'/><target dev='vdb' bus='virtio'/>"
            "<serial>data-1</serial></disk>"
        )
        guest.hot_plug(disk)
        console.expect("disk vdb 64 MiB serial=data-1 attached$", timeout=30)
        guest.hot_plug(second)
        console.expect("nic eth1 mac=52:54:00:00:00:02 attached$", timeout=30)
        guest.unplug(disk)
        console.expect("disk vdb removed$", timeout=30)
        guest.unplug(second)
        console.expect("nic eth1 removed$", timeout=30)
        wait_until(lambda: len(linux_bridge.ports()) == 1, timeout=30, what="the tap is gone")
        libvirt_peer.virsh("vol-delete", "data.qcow2", "--pool", "default")

        libvirt_peer.virsh("shutdown", guest.uuid, "--mode", "acpi")
        console.expect("power button$", timeout=30)
        wait_until(lambda: guest.state() == "shut off", timeout=30, what="the machine is off")
    assert not changed(before, libvirt_peer.residue())


@pytest.mark.peer("libvirt")
def test_guest_takes_its_seed_and_serves_console_and_agent(
    libvirt_peer: LibvirtPeer, tmp_path: Path
) -> None:
    before = libvirt_peer.residue()
    seed = _make_seed(
        libvirt_peer,
        {
            "meta-data": "instance-id: i-7\nlocal-hostname: web-1\n",
            "user-data": '#!/bin/sh\necho "name $(hostname)"\nexit $((1 + 2))\n',
        },
        tmp_path,
    )
    devices = (
        f"<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{seed}'/>"
        "<target dev='vdb' bus='virtio'/><readonly/></disk>"
        "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
    )
    try:
        image = build_guest_image(with_agent=True, name="with-agent")
    except GuestImageUnavailable as error:
        missing(str(error))
    with define_guest(libvirt_peer, image, devices=devices) as guest:
        console = guest.console
        guest.start()

        console.expect("booted .* image=with-agent ")
        console.expect("boot number 1$")
        console.expect("seed cidata hostname=web-1 instance-id=i-7$")
        console.expect('user-data echo "name')
        console.expect("user-data exit 3$")
        assert "\nname web-1\n" in console.text()
        console.expect("ready$")
        with _terminal(libvirt_peer, guest.uuid) as send:
            send("ping\n")
            console.expect("pong$", timeout=30)
        wait_until(
            lambda: _agent(libvirt_peer, guest.uuid, "guest-get-host-name"),
            timeout=30,
            what="the agent answers",
        )
        assert "web-1" in _agent(libvirt_peer, guest.uuid, "guest-get-host-name")

        libvirt_peer.virsh("reset", guest.uuid)
        console.expect("boot number 2$")
    libvirt_peer.virsh("vol-delete", "seed", "--pool", "default")
    assert not changed(before, libvirt_peer.residue())


@contextmanager
def _terminal(peer: LibvirtPeer, domain: str) -> Iterator[Callable[[str], None]]:
    """What a person types on the machine's serial console."""
    libvirt = pytest.importorskip("libvirt")
    connection = libvirt.open(peer.uri)
    stream = connection.newStream(0)
    connection.lookupByUUIDString(domain).openConsole(None, stream, 0)
    try:
        yield lambda text: stream.send(text.encode())
    finally:
        stream.abort()
        connection.close()


def _agent(peer: LibvirtPeer, domain: str, command: str) -> str:
    try:
        return peer.virsh("qemu-agent-command", domain, f'{{"execute": "{command}"}}')
    except VirshError:
        return ""


def _make_seed(peer: LibvirtPeer, files: dict[str, str], folder: Path) -> str:
    path = peer.path(peer.images) / "seed"
    path.write_bytes(bytes(1440 * 1024))
    run_tool("mformat", "-i", str(path), "-f", "1440", "-v", "CIDATA", "::")
    for name, text in files.items():
        source = folder / name
        source.write_text(text)
        run_tool("mcopy", "-i", str(path), str(source), "::")
    peer.virsh("pool-refresh", "default")
    return f"{peer.images}/seed"


def test_build_is_cached_and_names_are_checked(tmp_path: Path, guest_image: Path) -> None:
    assert build_guest_image() == guest_image
    assert guest_image.stat().st_size < 25 * 1024 * 1024
    with pytest.raises(ValueError, match="not a name"):
        build_guest_image(name="../escape", cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_signature_is_taken_off_a_module() -> None:
    """As scripts/sign-file of Linux 6.1 appends it."""
    module, signature = b"\x7fELF and so on", b"PKCS #7"
    fields = struct.pack(">BBBBB3xI", 0, 0, 2, 0, 0, len(signature))
    mark = b"~Module signature appended~\n"
    assert without_signature(module + signature + fields + mark) == module
    assert without_signature(module) == module
