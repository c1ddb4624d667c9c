"""Other connections, beyond what the suite looks at: passwords, files that are not there, budgets,
and a machine that moves while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any
from uuid import uuid4
from xml.etree import ElementTree as ET

import libvirt
import pytest

from hvdrivers.contract import errors
from hvdrivers.libvirt.held_volumes import volumes_of
from hvdrivers.models.migration import Destination
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import BridgeVif
from hvdrivers.models.volume import LocalVolume, VolumeAttachment, VolumeSpec
from hvdrivers.models.volume.iscsi import IscsiVolume
from tests.integration.libvirt.machines import Host
from tests.integration.libvirt.test_budgets import calls, numbers
from tests.integration.libvirt.test_remote_volumes import iscsi
from tests.peers.bridge import LinuxBridge
from tests.peers.fixtures import started
from tests.peers.libvirtd import LibvirtPeer
from tests.peers.tgt import IscsiServer


@pytest.fixture(scope="module")
def other_peer() -> Iterator[LibvirtPeer]:
    with started(LibvirtPeer) as peer:
        yield peer


def _iscsi(portal: str, password: str | None) -> VolumeAttachment:
    data: dict[str, Any] = {
        "target_portal": portal,
        "target_iqn": "iqn.2010-10.org.example:one",
        "target_lun": 1,
    }
    if password is not None:
        data |= {"auth_method": "CHAP", "auth_username": "u", "auth_password": password}
    volume = {"driver_volume_type": "iscsi", "data": data, "serial": "far"}
    return VolumeAttachment(volume=IscsiVolume.model_validate(volume))


def _file(path: str) -> VolumeAttachment:
    volume = {"driver_volume_type": "local", "data": {"device_path": path}, "serial": "near"}
    return VolumeAttachment(volume=LocalVolume.model_validate(volume))


def _secrets(host: Host) -> int:
    with closing(libvirt.open(host.peer.uri)) as raw:
        return len(raw.listAllSecrets())


def test_passwords_files_and_budgets(own: Host, linux_bridge: LinuxBridge) -> None:
    driver = own.driver
    path = own.peer.root / "near.raw"
    path.write_bytes(bytes(1 << 20))
    nic = BridgeVif(id="nic-near", address="52:54:00:00:03:01", bridge=linux_bridge.name)
    kept = _secrets(own)
    with (
        own.unchanged(),
        own.made_empty(
            volumes=(_iscsi("192.0.2.1:3260", "one"), _file(str(path))), vifs=(nic,)
        ) as m,
    ):
        before = m.xml(inactive=True)
        nowhere = nic.model_copy(update={"bridge": "hvnowhere"})
        for wrong, vifs, error in (
            (_file(f"{path}-absent"), (), errors.VolumeNotFound),
            (_iscsi("192.0.2.2:3260", None), (nowhere,), errors.NetworkNotFound),
        ):
            with pytest.raises(error):
                driver.reconnect(m.uuid, volumes=(wrong,), vifs=vifs)
            now = m.xml(inactive=True)
            assert [each.attrib for each in now.iter()] == [each.attrib for each in before.iter()]
        driver.reconnect(m.uuid, volumes=(_iscsi("192.0.2.2:3260", "two"),))
        hosts = [
            each.get("name") for each in m.xml(inactive=True).iterfind("devices/disk/source/host")
        ]
        assert hosts == ["192.0.2.2"]
        assert _secrets(own) == kept + 1
        driver.reconnect(m.uuid, volumes=(_iscsi("192.0.2.3:3260", None),))
        assert _secrets(own) == kept, "the password is not needed any more"
        wired = nic.model_copy(update={"address": None})
        assert calls(own.raw, lambda: own.raw.reconnect(m.uuid, vifs=(wired,))) == 7 + 1
        assert {7, 1, 2} <= set(numbers("reconnect"))
        assert [each.address for each in driver.get_instance(m.uuid).vifs] == [nic.mac]


def test_a_machine_that_moves_after_a_swap(own: Host, other_peer: LibvirtPeer) -> None:
    """The guest goes on with the number of the volume before, and has the new one at its next
    start."""
    there = Host(other_peer, own.image)
    size = 16 << 20
    try:
        with (
            started(IscsiServer) as server,
            own.volume(size_bytes=size) as before,
            own.empty_machine(volumes=(VolumeAttachment(volume=before),)) as machine,
        ):
            served = iscsi(server)
            own.driver.swap_volume(machine.uuid, before.volume_id, served)
            destination = Destination(host=other_peer.uri, address="127.0.0.1", volumes=(served,))
            own.driver.live_migrate(machine.uuid, destination)

            def numbers_of(*options: str) -> list[str | None]:
                xml = ET.fromstring(other_peer.virsh("dumpxml", str(machine.uuid), *options))
                return [volumes_of(xml)["san-1"].findtext("serial")]

            assert [each.volume_id for each in there.driver.get_instance(machine.uuid).volumes] == [
                "san-1"
            ]
            assert numbers_of() == [before.volume_id]
            assert numbers_of("--inactive") == ["san-1"]
            there.driver.destroy(machine.uuid)
    finally:
        there.close()


def test_a_machine_that_moves_gets_them_there(
    own: Host, other_peer: LibvirtPeer, linux_bridge: LinuxBridge
) -> None:
    nic = BridgeVif(id="nic-moves", address="52:54:00:00:03:02", bridge=linux_bridge.name)
    there = Host(other_peer, own.image)
    destination = Destination(host=other_peer.uri, address="127.0.0.1")
    try:
        with LinuxBridge() as other, own.empty_machine(vifs=(nic,)) as machine:
            # the two hosts have the network devices of one kernel
            there_too = {"bridge": other.name, "device": f"hv{uuid4().hex[:10]}"}
            wired = nic.model_copy(update=there_too)
            absent = VolumeAttachment(
                volume=there.driver.create_volume(VolumeSpec(name="not-mine", size_bytes=1 << 20))
            )
            wrong = destination.model_copy(update={"volumes": (absent,)})
            assert own.driver.check_live_migration(machine.uuid, wrong).blockers
            there.driver.delete_volume("not-mine")
            # a cold move that fails leaves the definition, and starts nothing
            own.driver.power_off(machine.uuid)
            lost = destination.model_copy(update={"vifs": (wired,), "address": "256.0.0.1"})
            with pytest.raises(errors.HypervisorError):
                own.driver.cold_migrate(machine.uuid, lost)
            assert machine.state is InstanceState.STOPPED
            source = machine.xml(inactive=True).find("devices/interface/source")
            assert source is not None
            assert source.get("bridge") == linux_bridge.name
            own.driver.power_on(machine.uuid)
            moved = destination.model_copy(update={"vifs": (wired,)})
            own.driver.live_migrate(machine.uuid, moved)
            xml = other_peer.virsh("dumpxml", str(machine.uuid))
            assert f"bridge='{other.name}'" in xml
            assert f"bridge='{linux_bridge.name}'" not in xml
            assert there.driver.get_instance(machine.uuid).state is InstanceState.RUNNING
            there.driver.destroy(machine.uuid)
    finally:
        there.close()
