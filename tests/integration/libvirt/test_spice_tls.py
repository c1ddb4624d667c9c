"""SPICE with TLS: a host that has it encrypts the screen, and its ticket lets in by that port."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from hvdrivers.models.console import ConsoleAccess, ConsoleKind
from tests.integration.libvirt.machines import Host
from tests.integration.libvirt.test_screen import lets_in_by_spice
from tests.peers.certificates import Authority
from tests.peers.libvirtd import LibvirtPeer

AUTHORITY, OTHER = Authority(), Authority("others")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("spice")
    AUTHORITY.trust(folder, "ca-cert.pem")
    AUTHORITY.give(folder, "server-", name="127.0.0.1")
    settings = {"spice_tls": 1, "spice_tls_x509_cert_dir": str(folder)}
    with LibvirtPeer(qemu=settings) as peer:
        made = Host(peer, folder / "none", graphics="spice")
        yield made
        made.close()


def client(folder: Path, authority: Authority) -> ssl.SSLContext:
    authority.trust(folder)
    return ssl.create_default_context(cafile=str(folder / "cacert.pem"))


def lets_in(access: ConsoleAccess, password: str, tls: ssl.SSLContext) -> bool:
    assert access.tls_port is not None
    return lets_in_by_spice(access.host, access.tls_port, password, tls=tls)


def test_the_ticket_by_tls(own: Host, tmp_path: Path) -> None:
    tls = client(tmp_path, AUTHORITY)
    with own.empty_machine() as machine:
        first = own.driver.get_console(machine.uuid, ConsoleKind.SPICE)
        assert first.ticket is not None
        assert first.tls_port not in {None, first.port}
        assert not lets_in(first, "another", tls)
        assert lets_in(first, first.ticket.get_secret_value(), tls)
        second = own.driver.get_console(machine.uuid, ConsoleKind.SPICE)
        assert second.ticket is not None
        assert (second.port, second.tls_port) == (first.port, first.tls_port)
        assert not lets_in(second, first.ticket.get_secret_value(), tls)
        assert lets_in(second, second.ticket.get_secret_value(), tls)
        with pytest.raises(ssl.SSLCertVerificationError):
            lets_in(second, "another", client(tmp_path, OTHER))


def test_a_host_without_it(libvirt_peer: LibvirtPeer, tmp_path: Path) -> None:
    host = Host(libvirt_peer, tmp_path / "none", graphics="spice")
    try:
        with host.empty_machine() as machine:
            access = host.driver.get_console(machine.uuid, ConsoleKind.SPICE)
            assert access.port
            assert access.tls_port is None
    finally:
        host.close()
