"""Volumes behind a network, and volumes that are encrypted: QEMU opens them itself.

iSCSI against a real server (tgt) with CHAP, LUKS on a real file. Ceph and NFS need servers that do
not run here: their definitions are taken by libvirt, and shown to be what they should be. The
machines have no operating system: QEMU opens its disks before the first instruction.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID
from xml.etree import ElementTree as ET

import pytest

from hvdrivers.conformance.engine.clauses import catalogue
from hvdrivers.conformance.engine.report import Status
from hvdrivers.conformance.engine.runner import Session
from hvdrivers.contract import errors
from hvdrivers.libvirt.conformance.target import LibvirtTarget
from hvdrivers.libvirt.event_hub import Adopted, Rescued
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import (
    IscsiVolume,
    NfsVolume,
    RbdVolume,
    VolumeAttachment,
    VolumeEncryption,
    parse_connection_info,
)
from tests.integration.libvirt.faults import Send, after, before, script
from tests.peers.fixtures import started
from tests.peers.libvirtd import POOL, LibvirtPeer
from tests.peers.tgt import PASSWORD, USER, IscsiServer
from tests.peers.waiting import wait_until

from .machines import Host, Machine, host, local

__all__ = ["host"]


@pytest.fixture(scope="module")
def server() -> Iterator[IscsiServer]:
    with started(IscsiServer) as peer:
        yield peer


def iscsi(server: IscsiServer, password: str = PASSWORD) -> VolumeAttachment:
    data = {
        "target_portal": f"127.0.0.1:{server.port}",
        "target_iqn": server.iqn,
        "target_lun": 1,
        "auth_method": "CHAP",
        "auth_username": USER,
        "auth_password": password,
    }
    volume = IscsiVolume.model_validate({"serial": "san-1", "data": data})
    return VolumeAttachment(volume=volume)


def secrets(host: Host) -> set[str]:
    return {line for line in host.residue() if line.startswith("secret ")}


def disk_of(machine: Machine, volume_id: str) -> ET.Element:
    from hvdrivers.libvirt.devices import volumes_of

    return volumes_of(machine.xml(inactive=True))[volume_id]


def test_iscsi_with_chap(host: Host, server: IscsiServer) -> None:
    """Cold, hot, and with a wrong password; the password is in no definition and no log."""
    driver = host.driver
    initiator = driver.get_volume_connector().initiator
    with host.unchanged(), host.made_empty() as machine:
        uuid = machine.uuid
        driver.attach_volume(uuid, iscsi(server))
        assert len(secrets(host)) == 1
        assert driver.attach_volume(uuid, iscsi(server)).volume_id == "san-1"
        driver.power_on(uuid)  # QEMU has logged in, or it would not run
        assert machine.state is InstanceState.RUNNING
        assert str(initiator) in server.sessions()
        assert PASSWORD not in host.peer.virsh("dumpxml", str(uuid), "--security-info")
        # another machine does not get what this one has
        with host.made_empty() as other, pytest.raises(errors.DeviceBusy):
            driver.attach_volume(other.uuid, iscsi(server))
        driver.power_off(uuid)
        driver.detach_volume(uuid, "san-1")
        driver.detach_volume(uuid, "san-1")
        assert secrets(host) == set()
        # hot, and refused by the server
        driver.power_on(uuid)
        with pytest.raises(errors.HypervisorError) as caught:
            driver.attach_volume(uuid, iscsi(server, "hv-Wrong-123456"))
        assert "hv-Wrong" not in f"{caught.value} {caught.value.__cause__}"
        assert secrets(host) == set()
        assert driver.attach_volume(uuid, iscsi(server)).volume_id == "san-1"
        assert machine.has("san-1") == (True, True)
    assert secrets(host) == set()  # destroy() takes them along


@pytest.mark.parametrize("on", [False, True], ids=["off", "on"])
def test_an_attachment_whose_reply_is_lost_keeps_its_password(
    host: Host, server: IscsiServer, on: bool
) -> None:
    """The volume is attached, and get_instance() says so: the machine must start with it. A call
    that was not sent leaves no password."""
    driver, call = host.driver, "Domain.attachDeviceFlags"
    with host.unchanged(), host.empty_machine(start=on) as machine:
        uuid = machine.uuid
        with (
            script(host.raw, call, before(host.raw, host.peer)) as seam,
            pytest.raises(errors.ConnectionFailed),
        ):
            driver.attach_volume(uuid, iscsi(server))
        assert seam.reached
        assert machine.has("san-1") == (False, False)
        assert secrets(host) == set()
        with (
            script(host.raw, call, after(host.raw, host.peer)) as seam,
            pytest.raises(errors.OutcomeUnknown),
        ):
            driver.attach_volume(uuid, iscsi(server))
        assert seam.reached
        assert [each.volume_id for each in machine.info.volumes] == ["san-1"]
        driver.power_off(uuid)
        driver.power_on(uuid)
        assert machine.state is InstanceState.RUNNING


def test_an_attachment_that_outlasts_its_deadline_keeps_its_password(
    host: Host, server: IscsiServer
) -> None:
    """The server answers when the driver has given up, and QEMU opens the volume then."""
    driver = host.driver
    with host.unchanged(), host.empty_machine() as machine, server.silent() as go_on:

        def too_late(_name: str, send: Send) -> object:
            host.raw.connection.deadline.pass_now()
            return send()

        with (
            script(host.raw, "Domain.attachDeviceFlags", too_late) as seam,
            pytest.raises(errors.OutcomeUnknown),
        ):
            driver.attach_volume(machine.uuid, iscsi(server))
        assert seam.reached
        go_on()
        wait_until(
            lambda: machine.has("san-1") == (True, True), timeout=60, what="QEMU opens the volume"
        )
        assert len(secrets(host)) == 1


def test_a_move_whose_reply_is_lost_keeps_the_password(
    host: Host, guest_image: Path, server: IscsiServer
) -> None:
    """The machine runs there, and must start there again."""
    lost = after(host.raw, host.peer)
    with (
        started(LibvirtPeer) as peer,
        closing(Host(peer, guest_image)) as there,
        host.unchanged(),
        host.empty_machine(volumes=(iscsi(server),)) as machine,
    ):
        to = there.destination(volumes=(iscsi(server),))
        with (
            script(host.raw, "Domain.migrate3", lost) as seam,
            pytest.raises(errors.OutcomeUnknown),
        ):
            host.driver.live_migrate(machine.uuid, to)
        assert seam.reached
        moved = Machine(there, machine.uuid)
        assert moved.state is InstanceState.RUNNING
        there.driver.power_off(machine.uuid)
        there.driver.power_on(machine.uuid)
        assert moved.state is InstanceState.RUNNING
        there.driver.destroy(machine.uuid)
        host.driver.destroy(machine.uuid)
        assert secrets(there) == set()


def test_spawn_from_a_volume_with_a_secret(host: Host, server: IscsiServer) -> None:
    boots = iscsi(server).model_copy(update={"boot_index": 0})
    with host.unchanged():
        with host.machine(image=None, volumes=(boots,)) as machine:
            assert machine.state is InstanceState.RUNNING
            assert len(secrets(host)) == 1
        wrong = iscsi(server, "hv-Wrong-123456").model_copy(update={"boot_index": 0})
        with pytest.raises(errors.HypervisorError):
            host.spawn(image=None, volumes=(wrong,))


def luks(path: str, passphrase: bytes) -> VolumeAttachment:
    secret = VolumeEncryption.model_validate({"provider": "luks", "secret": passphrase})
    return VolumeAttachment(volume=local(path, "locked"), encryption=secret)


def make_luks(path: Path, secret: Path) -> None:
    """A small LUKS disk. qemu-img measures first how long a hash takes, by CPU time, and gives up
    where the kernel says that it took none: then it is to be called again."""
    create = ["qemu-img", "create", "-q", "-f", "luks", "--object", f"secret,id=s,file={secret}"]
    create += ["-o", "key-secret=s,iter-time=10", str(path), "4M"]
    for _ in range(100):
        done = subprocess.run(create, check=False, capture_output=True, text=True)
        if "Unable to get accurate CPU usage" not in done.stderr:
            break
    assert done.returncode == 0, done.stderr


def test_luks(host: Host, tmp_path: Path) -> None:
    made = tmp_path / "luks"
    secret = tmp_path / "secret"
    secret.write_bytes(b"a passphrase")
    make_luks(made, secret)
    driver = host.driver
    with host.unchanged(), host.file(made.read_bytes()) as path, host.made_empty() as machine:
        driver.attach_volume(machine.uuid, luks(path, b"wrong"))
        with pytest.raises(errors.HypervisorError) as refused:
            driver.power_on(machine.uuid)
        assert "passphrase" in (refused.value.hint or "")
        driver.detach_volume(machine.uuid, "locked")
        driver.attach_volume(machine.uuid, luks(path, b"a passphrase"))
        assert len(secrets(host)) == 1
        driver.power_on(machine.uuid)
        assert machine.state is InstanceState.RUNNING
        driver.power_off(machine.uuid)
        driver.detach_volume(machine.uuid, "locked")
        for provider in ("luks2", "plain"):
            encryption = VolumeEncryption.model_validate({"provider": provider, "secret": b"x"})
            attachment = luks(path, b"x").model_copy(update={"encryption": encryption})
            with pytest.raises(errors.NotSupported):
                driver.attach_volume(machine.uuid, attachment)


def test_the_suites_checks_on_a_real_server(host: Host, server: IscsiServer) -> None:
    """By a file of volumes, as the command takes it: the password is on no command line."""
    listed = host.peer.root / "served.json"
    listed.write_text(json.dumps([iscsi(server).volume.to_connection_info()]))
    check = catalogue().checks["STOR-076/is_a_volume_as_any[iscsi]"]
    target = LibvirtTarget(uri=host.peer.uri, virt_type="qemu", served=str(listed))
    with host.unchanged(), Session(target) as session:
        result = session.run_check(check)
        assert result.status is Status.PASSED, f"{result.message}\n{result.detail}"


def test_several_paths_are_not_promised(host: Host, server: IscsiServer) -> None:
    """Cold, hot, and in a spawn, whichever way it is said; nothing is left."""
    driver = host.driver
    told = iscsi(server).volume.to_connection_info()
    data = told["data"]
    assert isinstance(data, dict)
    volumes = [
        parse_connection_info({**told, "data": {**data, "enforce_multipath": True}}),
        parse_connection_info({"driver_volume_type": "iscsi", "volume_id": "san-1", **data}
                              | {"enforce_multipath": True}),
    ]  # fmt: skip
    with host.unchanged():
        with host.made_empty() as machine:
            for running in (False, True):
                if running:
                    driver.power_on(machine.uuid)
                for volume in volumes:
                    with pytest.raises(errors.NotSupported) as caught:
                        driver.attach_volume(machine.uuid, VolumeAttachment(volume=volume))
                    assert "enforce_multipath" in (caught.value.hint or "")
                assert machine.info.volumes == ()
                assert secrets(host) == set()
            assert driver.attach_volume(machine.uuid, iscsi(server)).volume_id == "san-1"
        boots = VolumeAttachment(volume=volumes[0], boot_index=0)
        with pytest.raises(errors.NotSupported):
            host.spawn(image=None, volumes=(boots,))


def test_budget(host: Host, server: IscsiServer) -> None:
    raw = host.raw
    with host.made_empty() as machine:
        for expected, call in (
            (8 + 2, lambda: raw.attach_volume(machine.uuid, iscsi(server))),
            (6 + 2, lambda: raw.detach_volume(machine.uuid, "san-1")),
        ):
            with raw.connection.counting() as calls:
                call()
            assert sum(calls.values()) <= expected, calls


CEPH: dict[str, Any] = {
    "name": "volumes/image 1",
    "hosts": ["192.0.2.1", "192.0.2.2"],
    "ports": ["6789", "6790"],
    "auth_enabled": True,
    "auth_username": "cinder",
    "keyring": "[client.cinder]\n\tkey = AQBSdFhcGgUIGhAA3bQkVMkkVtCxTkiQDBF4nQ==\n",
}


def test_ceph_and_nfs_by_their_definition(host: Host) -> None:
    driver = host.driver
    ceph = RbdVolume.model_validate({"serial": "ceph-1", "data": CEPH})
    nfs = NfsVolume.model_validate(
        {"serial": "nfs-1", "data": {"export": "192.0.2.9:/a path", "name": "volume-1"}}
    )
    with host.unchanged(), host.made_empty() as machine:
        driver.attach_volume(machine.uuid, VolumeAttachment(volume=ceph))
        driver.attach_volume(machine.uuid, VolumeAttachment(volume=nfs))
        source = disk_of(machine, "ceph-1").find("source")
        assert source is not None
        assert (source.get("protocol"), source.get("name")) == ("rbd", "volumes/image 1")
        hosts = [(each.get("name"), each.get("port")) for each in source.iterfind("host")]
        assert hosts == [("192.0.2.1", "6789"), ("192.0.2.2", "6790")]
        secret = disk_of(machine, "ceph-1").find(".//auth/secret")
        assert secret is not None
        assert UUID(secret.attrib["uuid"])
        source = disk_of(machine, "nfs-1").find("source")
        assert source is not None
        assert (source.get("protocol"), source.get("name")) == ("nfs", "/a path/volume-1")
        assert [each.get("name") for each in source.iterfind("host")] == ["192.0.2.9"]
        # the storage server encrypts it: there is nothing for QEMU to do
        back = VolumeEncryption(provider="luks", control_location="back-end")
        inside = ceph.model_copy(update={"serial": "ceph-2"})
        driver.attach_volume(machine.uuid, VolumeAttachment(volume=inside, encryption=back))
        assert disk_of(machine, "ceph-2").find(".//encryption") is None
        # what QEMU's client has no word for
        odd = ceph.model_copy(update={"data": ceph.data.model_copy(update={"name": "a/ns/b"})})
        with pytest.raises(errors.NotSupported):
            driver.attach_volume(
                machine.uuid, VolumeAttachment(volume=odd.model_copy(update={"serial": "c2"}))
            )


def test_a_volume_named_as_the_drivers_notes(host: Host) -> None:
    """The notes of moves are secrets of libvirt's too. By its id a volume is none of them: a file
    that it names was deleted with the instance, and a note with the volume."""
    data = {"target_portal": "192.0.2.1:3260", "target_iqn": "iqn.x:a"}
    data |= {"auth_method": "CHAP", "auth_username": "u", "auth_password": "password-1"}

    def attach(machine: Machine, serial: str, lun: int) -> None:
        volume = {"serial": serial, "data": {**data, "target_lun": lun}}
        machine.attach(IscsiVolume.model_validate(volume))

    kept = host.raw.secrets
    with host.unchanged(), host.file() as path:
        host.peer.virsh("pool-refresh", POOL)
        with host.made_empty() as machine:
            attach(machine, f"/left{path}", 1)
            attach(machine, "/move in steps/", 2)
            kept.keep_note(machine.uuid, "a note")
            kept.forget_left(machine.uuid)
            assert len(secrets(host)) == 3
            host.driver.detach_volume(machine.uuid, "/move in steps/")
            assert kept.note(machine.uuid) == "a note"
            with host.raw.hub.listening() as events:
                attach(machine, "/adopted/1/running/nobody", 3)
                attach(machine, "/rescued/rescue-ab", 4)
                host.raw.identity.put_rescue(machine.uuid, "rescue-cd")
                told = events.wait(lambda event: isinstance(event, Adopted | Rescued), 60)
                assert isinstance(told, Rescued)
                assert told.name == "rescue-cd"
                host.raw.identity.remove_rescues(machine.uuid, ["rescue-cd"])
            host.peer.virsh("undefine", str(machine.uuid))
        assert secrets(host) == set()
        assert host.peer.path(path).exists()
