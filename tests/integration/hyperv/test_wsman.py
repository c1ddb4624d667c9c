"""The WinRM service of the simulator, asked by clients that are not ours."""

from __future__ import annotations

import base64
import datetime
import ssl
from pathlib import Path
from typing import Any

import pytest
import requests
import winrm
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from winrm.exceptions import (
    InvalidCredentialsError,
    WinRMOperationTimeoutError,
    WSManFaultError,
)

from hvdrivers.hyperv.simulator.wsman import Quotas, Tls, WsmanServer
from hvdrivers.hyperv.simulator.wsman_faults import FaultRule, Strike
from tests.integration.hyperv.conftest import PASSWORD

ECHO = """
$line = [Console]::In.ReadLine()
while ($null -ne $line) { [Console]::Out.WriteLine("got $line"); $line = [Console]::In.ReadLine() }
exit 7
"""


def encoded(script: str) -> list[str]:
    return ["-NoProfile", "-EncodedCommand", base64.b64encode(script.encode("utf-16-le")).decode()]


def protocol(service: WsmanServer, transport: str = "basic", **changes: Any) -> winrm.Protocol:
    password = changes.pop("password", PASSWORD)
    changes = {"ca_trust_path": None, "proxy": None} | changes
    return winrm.Protocol(service.endpoint, transport, "Administrator", password, **changes)


@pytest.mark.parametrize("transport", ["basic", "ntlm"])
def test_pywinrm_talks_to_a_process_through_its_streams(
    service: WsmanServer, transport: str
) -> None:
    client = protocol(service, transport)
    shell = client.open_shell(codepage=65001)
    command = client.run_command(shell, "powershell", encoded(ECHO), console_mode_stdin=False)
    for word in (b"one", b"two"):
        client.send_command_input(shell, command, word + b"\n")
        assert client.get_command_output_raw(shell, command)[0] == b"got " + word + b"\r\n"
    client.send_command_input(shell, command, b"", end=True)
    assert client.get_command_output(shell, command) == (b"", b"", 7)
    client.cleanup_command(shell, command)
    client.close_shell(shell)
    assert not service.shells()


def test_what_ntlm_sends_over_http_is_sealed(service: WsmanServer) -> None:
    client = protocol(service, "ntlm")
    client.open_shell()
    answer = client.transport.build_session().post(
        service.endpoint, data=b"<plain/>", headers={"Content-Type": "application/soap+xml"}
    )
    assert answer.status_code in {401, 500}  # a sealed connection takes nothing in the clear
    service.kill_shells()


@pytest.mark.parametrize("transport", ["basic", "ntlm"])
def test_a_wrong_password_is_refused(service: WsmanServer, transport: str) -> None:
    with pytest.raises(InvalidCredentialsError):
        protocol(service, transport, password="wrong").open_shell()


@pytest.mark.parametrize("auth", ["basic", "ntlm"])
def test_pypsrp_runs_a_process(service: WsmanServer, auth: Any) -> None:
    from pypsrp.shell import Process, WinRS
    from pypsrp.wsman import WSMan

    encryption: Any = "never" if auth == "basic" else "always"
    with (
        WSMan(
            "127.0.0.1",
            port=service.port,
            username="Administrator",
            password=PASSWORD,
            ssl=False,
            auth=auth,
            encryption=encryption,
        ) as connection,
        WinRS(connection) as shell,
    ):
        script = "[Console]::Error.Write('err'); Write-Output 'wörd'; exit 5"
        process = Process(shell, "powershell", encoded(script))
        process.invoke()
        assert (process.rc, process.stdout.decode(), process.stderr) == (5, "wörd\r\n", b"err")


def test_a_command_line_of_more_than_8191_characters_is_refused_by_cmd(
    service: WsmanServer,
) -> None:
    session = winrm.Session(
        service.endpoint.removesuffix("/wsman"),
        ("Administrator", PASSWORD),
        transport="basic",
        ca_trust_path=None,
        proxy=None,
    )
    found = session.run_ps("#" + "x" * 3100)
    assert (found.status_code, found.std_err) == (1, b"The command line is too long.\r\n")
    assert session.run_ps("#" + "x" * 2900).status_code == 0


def test_receive_waits_for_the_operation_timeout(service: WsmanServer) -> None:
    client = protocol(service, operation_timeout_sec=1, read_timeout_sec=60)
    shell = client.open_shell()
    command = client.run_command(shell, "powershell", encoded(ECHO), console_mode_stdin=False)
    with pytest.raises(WinRMOperationTimeoutError):
        client.get_command_output_raw(shell, command)
    client.close_shell(shell)


def test_an_idle_timeout_has_to_be_a_duration(service: WsmanServer) -> None:
    with pytest.raises(WSManFaultError) as caught:
        protocol(service).open_shell(idle_timeout=3600)
    assert caught.value.wsman_fault_code == 2150858817


def test_a_shell_that_is_gone_has_its_own_fault(service: WsmanServer) -> None:
    client = protocol(service)
    shell = client.open_shell()
    service.kill_shells()
    with pytest.raises(WSManFaultError) as caught:
        client.run_command(shell, "powershell", encoded(""))
    assert caught.value.wsman_fault_code == 2150858843


def test_quotas(service: WsmanServer) -> None:
    quotas = Quotas(max_shells_per_user=2, max_operations_per_user=1)
    with WsmanServer(users={"Administrator": PASSWORD}, quotas=quotas) as small:
        client = protocol(small)
        shell = client.open_shell()
        client.open_shell()
        with pytest.raises(WSManFaultError) as shells:
            client.open_shell()
        assert shells.value.wsman_fault_code == 2150859173
        client.run_command(shell, "nothing")
        with pytest.raises(WSManFaultError) as operations:
            client.run_command(shell, "nothing")
        assert operations.value.wmierror_code == 0x803381A6


def test_a_rule_strikes_the_message_that_carries_certain_bytes(service: WsmanServer) -> None:
    client = protocol(service)
    shell = client.open_shell()
    command = client.run_command(shell, "powershell", encoded(ECHO), console_mode_stdin=False)
    with service.faults.add(
        FaultRule(Strike.CUT_BEFORE, action="Send", contains=b"second")
    ) as rule:
        client.send_command_input(shell, command, b"first\n")
        with pytest.raises(requests.ConnectionError):
            client.send_command_input(shell, command, b"second\n")
    client.send_command_input(shell, command, b"third\n", end=True)
    assert rule.hits == 1
    assert client.get_command_output(shell, command)[0] == b"got first\r\ngot third\r\n"
    client.close_shell(shell)


def _signed(folder: Path, name: str, key: Any, signer: tuple[Any, Any] | None = None) -> Path:
    """A certificate with its key; without a signer it signs itself."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer, signing = signer or (subject, key)
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
        .add_extension(x509.BasicConstraints(ca=signer is None, path_length=None), True)
        .sign(signing, hashes.SHA256())
    )
    path = folder / f"{name}.pem"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    path.with_suffix(".key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


def test_tls_by_password_and_by_client_certificate(service: WsmanServer, tmp_path: Path) -> None:
    host_key, client_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    host = _signed(tmp_path, "localhost", host_key)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    client = _signed(tmp_path, "operator", client_key, (name, host_key))
    tls = Tls(certificate=host, key=host.with_suffix(".key"), client_authority=host)
    with WsmanServer(users={"Administrator": PASSWORD}, tls=tls) as secure:
        endpoint = secure.endpoint.replace("127.0.0.1", "localhost")
        for transport in ("basic", "ntlm"):
            by_password = winrm.Protocol(
                endpoint, transport, "Administrator", PASSWORD, ca_trust_path=str(host), proxy=None
            )
            assert by_password.open_shell()
        by_certificate = winrm.Protocol(
            endpoint,
            "certificate",
            cert_pem=str(client),
            cert_key_pem=str(client.with_suffix(".key")),
            ca_trust_path=str(host),
            proxy=None,
        )
        by_certificate.open_shell()
        assert [each.owner for each in secure.shells()][-1] == "operator"
        with pytest.raises(requests.exceptions.SSLError):
            winrm.Protocol(
                endpoint, "basic", "Administrator", PASSWORD, ca_trust_path=None, proxy=None
            ).open_shell()
    assert ssl.OPENSSL_VERSION
