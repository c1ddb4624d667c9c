"""Certificates of an authority of the tests' own, as libvirt's TLS wants them."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAY = timedelta(days=1)


class Authority:
    """A certificate authority; its files go into folders that the caller names."""

    def __init__(self, name: str = "tests") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.now(UTC)
        self._certificate = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 30 * _DAY)
            .not_valid_after(now + 30 * _DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def trust(self, folder: Path, file: str = "cacert.pem") -> None:
        """Put its own certificate into a folder."""
        pem = self._certificate.public_bytes(serialization.Encoding.PEM)
        (folder / file).write_bytes(pem)

    def give(
        self,
        folder: Path,
        of: str,
        *,
        name: str = "localhost",
        days: tuple[int, int] = (-1, 1),
        until: datetime | None = None,
    ) -> None:
        """Put ``<of>cert.pem`` and ``<of>key.pem`` into a folder.

        Args:
            of: ``server``, ``client``, or ``server-`` where QEMU reads them.
            name: of the host, or its IP address.
            days: from when until when it is valid, counted from now.
            until: in place of the end of these.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        alternative: x509.GeneralName = x509.DNSName(name)
        with suppress(ValueError):
            alternative = x509.IPAddress(ip_address(name))
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + days[0] * _DAY)
            .not_valid_after(until or now + days[1] * _DAY)
            .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        (folder / f"{of}cert.pem").write_bytes(pem)
        secret = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        (folder / f"{of}key.pem").write_bytes(secret)


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=not signs,  # libvirt 9 wants it, whatever the key is
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
