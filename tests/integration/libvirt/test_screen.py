"""Screens of real machines: VNC and SPICE with a password of the moment, and pictures."""

from __future__ import annotations

import socket
import ssl
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.guard import guarded
from hvdrivers.libvirt.driver import LibvirtDriver
from hvdrivers.models.console import ConsoleKind
from tests.peers.libvirtd import LibvirtPeer

from .conftest import connect
from .faults import Fault, after, before, script
from .machines import Host, Machine, host

__all__ = ["host"]


@pytest.fixture(scope="module")
def headless(libvirt_peer: LibvirtPeer, guest_image: Path) -> Iterator[Host]:
    """The same host, for machines without a screen."""
    made = Host(libvirt_peer, guest_image, graphics="none")
    yield made
    made.close()


@pytest.fixture(scope="module")
def spice(libvirt_peer: LibvirtPeer, guest_image: Path) -> Iterator[Host]:
    """The same host, for machines with both servers, on another address than the usual one."""
    made = Host(libvirt_peer, guest_image, graphics="both", graphics_listen="127.0.0.2")
    yield made
    made.close()


@pytest.fixture
def empty(host: Host) -> Iterator[Machine]:
    """A machine without an operating system, stopped."""
    with host.made_empty() as machine:
        yield machine


def handshake(host: str, port: int) -> tuple[socket.socket, list[int]]:
    """Begin as a VNC client (RFC 6143, section 7.1); the security types that the server offers."""
    connection = socket.create_connection((host, port), timeout=30)
    version = connection.recv(12)
    assert version.startswith(b"RFB 003.008")
    connection.sendall(version)
    number = connection.recv(1)[0]
    return connection, list(connection.recv(number))


def lets_in(host: str, port: int, password: str) -> bool:
    """Whether the server takes this password (VNC authentication, section 7.2.2)."""
    connection, types = handshake(host, port)
    with connection:
        assert types == [2], "the server asks for no password"
        connection.sendall(b"\2")
        challenge = connection.recv(16)
        connection.sendall(answer(challenge, password))
        (result,) = struct.unpack(">I", connection.recv(4))
        return result == 0


def answer(challenge: bytes, password: str) -> bytes:
    """The challenge under DES, with the bits of each byte of the password turned round."""
    from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
    from cryptography.hazmat.primitives.ciphers import Cipher, modes

    key = bytes(int(f"{byte:08b}"[::-1], 2) for byte in password.encode()[:8].ljust(8, b"\0"))
    encryptor = Cipher(TripleDES(key * 3), modes.ECB()).encryptor()  # three times one key is DES
    return encryptor.update(challenge) + encryptor.finalize()


def lets_in_by_spice(
    host: str, port: int, password: str, *, tls: ssl.SSLContext | None = None
) -> bool:
    """Whether the server takes this password (SPICE protocol, "Protocol Ticketing": its public key
    comes with the reply to the link message, and takes the password back by RSA-OAEP)."""
    from cryptography.hazmat.primitives.asymmetric import padding, rsa
    from cryptography.hazmat.primitives.hashes import SHA1
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    with (
        socket.create_connection((host, port), timeout=30) as plain,
        tls.wrap_socket(plain, server_hostname=host) if tls else plain as connection,
    ):
        main_channel = struct.pack("<IBBIII", 0, 1, 0, 0, 0, 18)
        connection.sendall(b"REDQ" + struct.pack("<III", 2, 2, len(main_channel)) + main_channel)
        with connection.makefile("rb") as answers:
            magic, _, _, size = struct.unpack("<4sIII", answers.read(16))
            reply = answers.read(size)
            assert (magic, reply[:4]) == (b"REDQ", bytes(4))
            key = load_der_public_key(reply[4:166])
            assert isinstance(key, rsa.RSAPublicKey)
            oaep = padding.OAEP(padding.MGF1(SHA1()), SHA1(), None)
            connection.sendall(key.encrypt(password.encode() + b"\0", oaep))
            (result,) = struct.unpack("<I", answers.read(4))
    assert result in {0, 7}  # SPICE_LINK_ERR_OK, SPICE_LINK_ERR_PERMISSION_DENIED
    return bool(result == 0)


def test_only_the_ticket_of_the_moment_lets_in(host: Host, empty: Machine) -> None:
    host.driver.power_on(empty.uuid)
    first = host.driver.get_console(empty.uuid, ConsoleKind.VNC)
    assert (first.host, bool(first.port)) == ("127.0.0.1", True)
    assert first.ticket is not None
    assert first.port is not None
    assert not lets_in(first.host, first.port, "another")
    assert lets_in(first.host, first.port, first.ticket.get_secret_value())
    second = host.driver.get_console(empty.uuid, ConsoleKind.VNC)
    assert second.ticket is not None
    assert not lets_in(first.host, first.port, first.ticket.get_secret_value())
    assert lets_in(first.host, first.port, second.ticket.get_secret_value())


def test_without_a_ticket_nobody_gets_in(host: Host, empty: Machine) -> None:
    """The password that a machine is made with has expired."""
    host.driver.power_on(empty.uuid)
    xml = empty.xml()
    port = int(xml.find("devices/graphics").get("port"))  # type: ignore[union-attr, arg-type]
    domain = host.raw.connection.remote.lookupByUUIDString(str(empty.uuid))
    secret = empty.xml(secure=True).find("devices/graphics")
    assert secret is not None
    assert domain.isActive()
    for password in ("", secret.get("passwd") or ""):
        assert not lets_in("127.0.0.1", port, password)


def test_spice_beside_vnc(spice: Host) -> None:
    """Each has a ticket of its own, and the password that a machine is made with has expired."""
    driver = spice.driver
    with spice.made_empty() as machine:
        driver.power_on(machine.uuid)
        made = machine.xml(secure=True).find("devices/graphics[@type='spice']")
        assert made is not None
        port = int(made.get("port") or 0)
        for password in ("", made.get("passwd") or ""):
            assert not lets_in_by_spice("127.0.0.2", port, password)
        with spice.raw.connection.counting() as calls:
            first = driver.get_console(machine.uuid, ConsoleKind.SPICE)
        assert sum(calls.values()) <= 4
        assert (first.kind, first.host, first.port) == (ConsoleKind.SPICE, "127.0.0.2", port)
        assert first.tls_port is None
        assert first.ticket is not None
        assert lets_in_by_spice(first.host, port, first.ticket.get_secret_value())
        second = driver.get_console(machine.uuid, ConsoleKind.SPICE)
        vnc = driver.get_console(machine.uuid, ConsoleKind.VNC)
        assert second.ticket is not None
        assert vnc.ticket is not None
        assert vnc.port is not None
        assert not lets_in_by_spice(first.host, port, first.ticket.get_secret_value())
        assert not lets_in_by_spice(first.host, port, vnc.ticket.get_secret_value())
        assert lets_in_by_spice(first.host, port, second.ticket.get_secret_value())
        assert lets_in(vnc.host, vnc.port, vnc.ticket.get_secret_value())


@pytest.mark.parametrize("fault", [before, after])
def test_a_ticket_after_a_cut_of_each_call(
    spice: Host, libvirt_peer: LibvirtPeer, fault: Callable[[LibvirtDriver, LibvirtPeer], Fault]
) -> None:
    """A call whose reply is lost may have set a ticket that nobody knows; the next one lets in."""
    with spice.made_empty() as machine:
        spice.driver.power_on(machine.uuid)
        for number in range(5):
            with (
                script(spice.raw, number, fault(spice.raw, libvirt_peer)) as seam,
                suppress(errors.ConnectionFailed, errors.OutcomeUnknown),
            ):
                spice.driver.get_console(machine.uuid, ConsoleKind.SPICE)
            if not seam.reached:
                break
            access = spice.driver.get_console(machine.uuid, ConsoleKind.SPICE)
            assert access.ticket is not None
            assert access.port is not None
            assert lets_in_by_spice(access.host, access.port, access.ticket.get_secret_value())
        assert not seam.reached
        assert number >= 3


def test_a_picture(host: Host, empty: Machine) -> None:
    host.driver.power_on(empty.uuid)
    shot = host.driver.screenshot(empty.uuid)
    assert shot.media_type == "image/png"
    assert shot.data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", shot.data[16:24])
    assert width >= 320
    begin = shot.data.index(b"IDAT")
    (length,) = struct.unpack(">I", shot.data[begin - 4 : begin])
    pixels = zlib.decompress(shot.data[begin + 4 : begin + 4 + length])
    assert len(pixels) == height * (1 + 3 * width)
    host.driver.pause(empty.uuid)
    assert host.driver.screenshot(empty.uuid).data.startswith(b"\x89PNG")
    with host.raw.connection.counting() as calls:
        host.driver.screenshot(empty.uuid)
    assert sum(calls.values()) <= 4


def test_a_host_of_machines_without_a_screen(headless: Host) -> None:
    driver = headless.driver
    assert Capability.SCREENSHOT not in driver.capabilities
    assert "graphics" in (driver.why_not(Capability.CONSOLE_VNC) or "")
    with headless.empty_machine() as machine:
        assert machine.xml().find("devices/graphics") is None
        with pytest.raises(errors.NotSupported):
            driver.screenshot(machine.uuid)


def test_a_machine_that_was_made_without_spice(spice: Host, empty: Machine) -> None:
    spice.driver.power_on(empty.uuid)
    with pytest.raises(errors.NotSupported, match="no SPICE server"):
        spice.driver.get_console(empty.uuid, ConsoleKind.SPICE)
    assert spice.driver.get_console(empty.uuid, ConsoleKind.VNC).host == "127.0.0.1"


def test_a_machine_that_was_made_without_a_screen(host: Host, headless: Host) -> None:
    with headless.empty_machine() as machine:
        with pytest.raises(errors.NotSupported, match="screen"):
            host.driver.get_console(machine.uuid, ConsoleKind.VNC)
        with pytest.raises(errors.NotSupported, match="screen"):
            host.driver.screenshot(machine.uuid)


def test_an_address_that_the_host_has_not(host: Host) -> None:
    """QEMU's words have no code; the hint has the address."""
    elsewhere = guarded(connect(host.peer, graphics_listen="192.0.2.77"))
    with closing(elsewhere), host.unchanged(), pytest.raises(errors.HypervisorError) as refused:
        elsewhere.spawn(host.empty())
    assert "192.0.2.77" in (refused.value.hint or "")
