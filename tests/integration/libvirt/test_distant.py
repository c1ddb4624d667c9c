"""Hosts that are reached over TLS, as ``docs/libvirt.md`` says, on this machine's loopback; and
what each certificate that is not fit is answered with. Of SSH only what ssh itself says where there
is no server: see test_ssh.py."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hvdrivers import connect
from hvdrivers.contract import errors
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.guard import guarded
from hvdrivers.libvirt.config import LibvirtConfig
from hvdrivers.libvirt.conformance.seam import lose_the_reply
from hvdrivers.libvirt.driver import LibvirtDriver
from hvdrivers.models.image import FileImage, ImageFormat
from hvdrivers.models.instance import Flavor, InstanceSpec
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import UserVif
from hvdrivers.models.volume import VolumeAttachment
from tests.integration.libvirt.faults import Send, script, sees_the_end
from tests.integration.libvirt.machines import Host
from tests.peers.certificates import Authority
from tests.peers.libvirtd import LibvirtPeer
from tests.peers.waiting import wait_until

AUTHORITY, OTHER = Authority(), Authority("others")


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The host's folder."""
    folder = tmp_path_factory.mktemp("server")
    AUTHORITY.trust(folder)
    AUTHORITY.give(folder, "server")
    return folder


@pytest.fixture(scope="module")
def port(peer: LibvirtPeer, pki: Path) -> Iterator[int]:
    with peer.tls(pki) as made:
        yield made


@pytest.fixture
def client(tmp_path: Path) -> Path:
    """A client's folder, in which everything is as it should be."""
    AUTHORITY.trust(tmp_path)
    AUTHORITY.give(tmp_path, "client")
    return tmp_path


def open_at(port: int, folder: Path | str, *, host: str = "localhost") -> ComputeDriver:
    return connect(f"qemu+tls://{host}:{port}/system?pkipath={folder}", virt_type="qemu")


def test_a_machine_over_tls(port: int, client: Path) -> None:
    """Spawned, with its disk sent over the same connection, and seen by another one."""
    image = client / "empty.raw"
    image.write_bytes(bytes(1 << 20))
    spec = InstanceSpec(
        name="far",
        flavor=Flavor(vcpus=1, memory_mib=64),
        image=FileImage(path=image, format=ImageFormat.RAW),
    )
    with open_at(port, client) as driver, open_at(port, client) as other:
        driver.spawn(spec)
        assert other.get_instance(spec.uuid).state is InstanceState.RUNNING
        driver.destroy(spec.uuid)
        assert other.list_instances() == []


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        (OTHER.trust, "own certificate"),
        (lambda folder: (OTHER.trust(folder), OTHER.give(folder, "client")), "cacert.pem"),
        (lambda folder: OTHER.give(folder, "client"), "own certificate"),
        (lambda folder: AUTHORITY.give(folder, "client", days=(-9, -1)), "own certificate"),
        (lambda folder: (folder / "clientcert.pem").unlink(), "clientcert.pem"),
        (lambda folder: [each.unlink() for each in folder.iterdir()], "pkipath"),
        (lambda folder: [each.unlink() for each in folder.glob("client*")], "host's authority"),
    ],
    ids=[
        "authority of others",
        "all of others",
        "certificate of others",
        "expired",
        "half of it",
        "nothing",
        "no certificate",
    ],
)
def test_a_client_that_is_not_fit(port: int, client: Path, change: object, hint: str) -> None:
    change(client)  # type: ignore[operator]
    with pytest.raises(errors.AuthenticationFailed) as refused:
        open_at(port, client)
    assert hint in (refused.value.hint or ""), refused.value
    assert not refused.value.retryable
    assert refused.value.vendor_code


def test_a_host_of_another_name(port: int, client: Path) -> None:
    """Unless the caller says that it need not be the one."""
    with pytest.raises(errors.AuthenticationFailed) as refused:
        open_at(port, client, host="127.0.0.1")
    assert "127.0.0.1" in (refused.value.hint or "")
    with connect(f"qemu+tls://127.0.0.1:{port}/system?no_verify=1&pkipath={client}") as driver:
        driver.ping()


def test_a_port_that_speaks_no_tls(peer: LibvirtPeer, port: int, client: Path) -> None:
    with pytest.raises(errors.AuthenticationFailed) as refused:
        open_at(peer.tcp_port, client)
    assert "speaks no TLS" in (refused.value.hint or "")


def test_nobody_there(peer: LibvirtPeer, client: Path) -> None:
    """These may be there later."""
    for uri in (
        f"qemu+tls://localhost:1/system?pkipath={client}",
        f"qemu+tls://no.such.host.invalid/system?pkipath={client}",
        "qemu+ssh://root@127.0.0.1:1/system?no_tty=1",
        "qemu+ssh://root@no.such.host.invalid/system?no_tty=1",
    ):
        with pytest.raises(errors.ConnectionFailed) as refused:
            connect(uri)
        assert type(refused.value) is errors.ConnectionFailed, uri
        assert refused.value.retryable
        assert ("ssh" in (refused.value.hint or "")) is ("+ssh" in uri), refused.value.hint


def _cut(port: int) -> None:
    """Break this process's connections to the host, as a network does."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            with socket.socket(fileno=os.dup(int(name))) as each:
                if each.family != socket.AF_UNIX and each.getpeername()[1] == port:
                    each.shutdown(socket.SHUT_RDWR)
        except OSError:
            continue  # not connected, or the listing's own descriptor


@pytest.mark.parametrize(
    ("operation", "call"),
    [
        ("spawn", "Connect.createXML"),
        ("attach_volume", "Domain.attachDeviceFlags"),
        ("create_snapshot", "Domain.snapshotCreateXML"),
        ("destroy", "Domain.undefineFlags"),
        ("begin_backup", "Domain.backupBegin"),
        ("end_backup", "Domain.abortJob"),
        ("rescue", "Connect.createXML"),
        ("unrescue", "Domain.createWithFlags"),
        ("plug_vif", "Domain.attachDeviceFlags"),
        ("revert_snapshot", "Domain.monitor[snapshot-load]"),
    ],
)
def test_cut_in_the_middle(own: Host, port: int, client: Path, operation: str, call: str) -> None:
    """The host has done what it was asked, and its answer is lost: the caller learns that it does
    not know, a repetition converges, and nothing is left."""
    spec = own.empty()
    uri = f"qemu+tls://localhost:{port}/system?pkipath={client}"
    far = LibvirtDriver.connect(
        LibvirtConfig(uri=uri, virt_type="qemu", host_root=own.peer.host_root)
    )
    far.host()

    def lost(_name: str, send: Send) -> object:
        def cut() -> None:
            _cut(port)
            sees_the_end(far.connection.links.links)

        return lose_the_reply(send, far.config, cut)

    with closing(guarded(far)) as driver, own.volume() as volume, own.unchanged():
        if operation != "spawn":
            driver.spawn(spec)
        arguments: dict[str, tuple[object, ...]] = {
            "spawn": (spec,),
            "attach_volume": (spec.uuid, VolumeAttachment(volume=volume)),
            "create_snapshot": (spec.uuid, "one"),
            "plug_vif": (spec.uuid, UserVif(id="nic", address="52:54:00:00:04:09")),
            "rescue": (spec.uuid, spec.image),
        }
        if operation == "end_backup":
            driver.begin_backup(spec.uuid)
        elif operation == "unrescue":
            driver.rescue(spec.uuid, spec.image)
        elif operation == "revert_snapshot":
            made = driver.create_snapshot(spec.uuid, "one", memory=True)
            arguments[operation] = (spec.uuid, made.id)
        chosen = arguments.get(operation, (spec.uuid,))
        with script(far, call, lost) as seam, pytest.raises(errors.OutcomeUnknown):
            getattr(driver, operation)(*chosen)
        assert seam.reached
        getattr(driver, operation)(*chosen)
        rescued = operation == "rescue"
        state = InstanceState.RESCUED if rescued else InstanceState.RUNNING
        found = [each.state for each in own.driver.list_instances()]
        assert found == ([] if operation == "destroy" else [state])
        if operation.endswith("snapshot"):
            assert [each.name for each in own.driver.list_snapshots(spec.uuid)] == ["one"]
        driver.destroy(spec.uuid)


def test_a_host_whose_certificate_expires(peer: LibvirtPeer, pki: Path, client: Path) -> None:
    """libvirtd does not start with one that has expired; it runs on with one that does."""
    until = datetime.now(UTC) + timedelta(seconds=6)
    AUTHORITY.give(pki, "server", until=until)
    with peer.tls(pki) as port:

        def refused() -> errors.AuthenticationFailed | None:
            try:
                open_at(port, client).close()
            except errors.AuthenticationFailed as error:
                return error
            return None

        error = wait_until(refused, timeout=30, what="the certificate has expired")
        assert datetime.now(UTC) >= until
        assert "valid now" in (error.hint or "")
        AUTHORITY.give(pki, "server")
