"""The peer is a host of its own that can fail on request, and it leaves nothing behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from tests.peers.bridge import LinuxBridge
from tests.peers.fixtures import started
from tests.peers.guest import define_guest
from tests.peers.libvirtd import LibvirtPeer
from tests.peers.observer import VirshError, changed
from tests.peers.openvswitch import OvsBridge
from tests.peers.waiting import wait_until

pytestmark = pytest.mark.peer("libvirt")

_SECRET = "<secret ephemeral='no' private='yes'><uuid>{}</uuid></secret>"
_FOREVER = """
import signal, sys
from tests.peers.bridge import LinuxBridge
from tests.peers.libvirtd import LibvirtPeer
peer = LibvirtPeer()
bridge = LinuxBridge() if peer.privileged else None
print(peer.root, bridge.name if bridge else "-", peer.daemon_pid, flush=True)
signal.pause()
"""


def test_machines_survive_a_crash_of_the_daemon(guest_image: Path) -> None:
    with started(LibvirtPeer) as peer:
        guest = define_guest(peer, guest_image)  # it goes with the peer
        guest.start()
        pid = peer.qemu_pid(guest.uuid)
        guest.console.expect("booted")

        peer.kill()
        with pytest.raises(VirshError):
            peer.virsh("list")
        peer.start()

        assert guest.state() == "running"
        assert peer.qemu_pid(guest.uuid) == pid
        guest.console.expect("ready")


def test_two_peers_are_two_hosts() -> None:
    with started(LibvirtPeer) as one, started(LibvirtPeer) as two:
        secret = one.root / "secret.xml"
        identity = str(uuid.uuid4())
        secret.write_text(_SECRET.format(identity))
        before = one.residue(), two.residue()
        one.virsh("secret-define", str(secret))

        assert one.host_uuid in one.virsh("capabilities")
        assert two.host_uuid in two.virsh("capabilities")
        assert any(identity in entry for entry in one.residue() - before[0])
        assert not changed(before[1], two.residue())
        one.virsh("secret-undefine", identity)
        assert not changed(before[0], one.residue())


def test_residue_sees_volumes_and_files_that_no_pool_lists(libvirt_peer: LibvirtPeer) -> None:
    before = libvirt_peer.residue()
    libvirt_peer.virsh("vol-create-as", "default", "left", "1M")
    assert any("volume of default: left" in entry for entry in libvirt_peer.residue() - before)
    libvirt_peer.virsh("vol-delete", "left", "--pool", "default")

    stray = libvirt_peer.path(libvirt_peer.images) / "stray"
    stray.touch()
    assert any(entry.endswith("images/stray") for entry in libvirt_peer.residue() - before)
    stray.unlink()
    assert not changed(before, libvirt_peer.residue())


def test_a_silent_host_answers_again() -> None:
    with started(LibvirtPeer) as peer:
        peer.sigstop()
        with pytest.raises(subprocess.TimeoutExpired):
            peer.virsh("list", timeout=1)
        peer.sigcont()
        peer.virsh("list")


def test_nothing_is_left_when_the_test_run_is_killed(libvirt_peer: LibvirtPeer) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _FOREVER], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        root, bridge, daemon = process.stdout.readline().split()
        assert Path(root).is_dir()
        process.send_signal(signal.SIGKILL)
        process.wait()
    device = Path("/sys/class/net", bridge)
    wait_until(
        lambda: not (Path(root).exists() or device.exists() or _is_alive(daemon)),
        timeout=120,
        what=f"{root}, {bridge} and process {daemon} are gone",
    )


def test_open_vswitch_takes_a_tap_of_libvirt(
    libvirt_peer: LibvirtPeer, ovs_bridge: OvsBridge, linux_bridge: LinuxBridge, guest_image: Path
) -> None:
    before = libvirt_peer.residue()
    nic = (
        f"<interface type='bridge'><source bridge='{ovs_bridge.name}'/>"
        "<virtualport type='openvswitch'/><model type='virtio'/></interface>"
    )
    with define_guest(libvirt_peer, guest_image, devices=nic) as guest:
        guest.start()
        (port,) = ovs_bridge.ports()
        assert guest.uuid in ovs_bridge.interface(port, "external_ids")
        guest.console.expect(r"address eth0 198\.1[89]\.")
    assert ovs_bridge.ports() == set()
    assert not changed(before, libvirt_peer.residue())


def _is_alive(pid: str) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
