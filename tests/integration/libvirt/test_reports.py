"""What others have reported of drivers over libvirt, tried with this one. Each test names the
report; the trackers are on github.com."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from hvdrivers.libvirt.host_nics import macvtap_name
from hvdrivers.models.migration import BlockerKind, Destination
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import MacvtapVif, TapVif
from hvdrivers.models.volume import IscsiVolume, VolumeAttachment
from tests.integration.libvirt.machines import Host, Machine
from tests.peers.libvirtd import LibvirtPeer
from tests.peers.tgt import PASSWORD, USER, IscsiServer


def test_iscsi_at_an_ipv6_portal(host: Host) -> None:
    """kubevirt/kubevirt#4150: a portal with an IPv6 address, whose colons are not its port's."""
    with IscsiServer(address="[::1]") as server, host.unchanged(), host.empty_machine() as machine:
        data = {
            "target_portal": f"[::1]:{server.port}",
            "target_iqn": server.iqn,
            "target_lun": 1,
            "auth_method": "CHAP",
            "auth_username": USER,
            "auth_password": PASSWORD,
        }
        volume = IscsiVolume.model_validate({"serial": "six", "data": data})
        machine.attach(volume)
        assert machine.has("six") == (True, True)
        assert str(host.driver.get_volume_connector().initiator) in server.sessions()
        host.driver.power_off(machine.uuid)
        host.driver.power_on(machine.uuid)
        assert machine.state is InstanceState.RUNNING
        host.driver.power_off(machine.uuid)
        host.driver.detach_volume(machine.uuid, "six")


def test_unplugged_in_the_moment_after(host: Host, machine: Machine) -> None:
    """autotest/tp-libvirt#3999, #4583 and #4856: the guest has not taken a device yet when it is to
    let go of it ("power indicator blinking"), and libvirt refuses that at once."""
    with host.unchanged(), host.volume() as volume:
        for _ in range(3):
            nic = TapVif(id=str(uuid4()), exists=False)
            host.driver.plug_vif(machine.uuid, nic)
            host.driver.unplug_vif(machine.uuid, nic.id, timeout=120)
            host.driver.attach_volume(machine.uuid, VolumeAttachment(volume=volume))
            host.driver.detach_volume(machine.uuid, volume.volume_id, timeout=120)
            assert machine.has(volume.volume_id) == (False, False)
            assert machine.info.vifs == ()


@pytest.fixture
def both_have(host: Host) -> Iterator[tuple[str, LibvirtPeer]]:
    """An interface of the same name on this host and on another, and that host."""
    name = f"hvr{uuid4().hex[:8]}"
    add = ("ip", "link", "add", name, "type", "veth", "peer", f"{name}b")
    up = ("ip", "link", "set", name, "up")
    with LibvirtPeer(network=True) as there:
        for command in (add, up):
            subprocess.run(command, check=True)
            there.inside(*command)
        try:
            yield name, there
        finally:
            subprocess.run(["ip", "link", "delete", name], check=True)


def test_macvtap_moves_with_its_address(
    host: Host, both_have: tuple[str, LibvirtPeer], tmp_path: Path
) -> None:
    """kubevirt/kubevirt#2935: after a live migration the device has another MAC address than the
    guest, whose packets go nowhere."""
    source, peer = both_have
    there = Host(peer, tmp_path / "none")
    vif = MacvtapVif(id=str(uuid4()), source=source)
    spec = host.empty(vifs=(vif,))
    machine = host.made(spec)
    destination = Destination(host=peer.uri, address=peer.address)
    try:
        with there.empty_machine(vifs=(vif,)) as other:
            (blocker,) = host.driver.check_live_migration(machine.uuid, destination).blockers
            assert blocker.kind is BlockerKind.NETWORK
            assert macvtap_name(vif, other.uuid) in blocker.reason
        host.driver.live_migrate(machine.uuid, destination, timeout=120)
        (nic,) = there.driver.get_instance(machine.uuid).vifs
        device = macvtap_name(vif, machine.uuid)
        assert (nic.type, nic.address, nic.device) == ("macvtap", vif.mac, device)
        within = ("nsenter", f"--net=/proc/{peer.daemon_pid}/ns/net")
        shown = subprocess.run(
            [*within, "ip", "-json", "link", "show", device],
            capture_output=True,
            text=True,
            check=True,
        )
        (link,) = json.loads(shown.stdout)
        assert (link["address"], link["link"]) == (vif.mac, source)
        here = subprocess.run(["ip", "link", "show", device], capture_output=True, check=False)
        assert here.returncode, "the device on the host that it has left"
        there.driver.power_off(machine.uuid)
        there.driver.power_on(machine.uuid)
    finally:
        there.driver.destroy(machine.uuid)
        host.driver.destroy(machine.uuid)
        there.close()
