"""Why a distant host refused a connection, where libvirt's code tells less than its transport does:
TLS and its certificates, SSH and its keys. https://libvirt.org/kbase/tlscerts.html
"""

from __future__ import annotations

import errno
import socket
from contextlib import suppress
from urllib.parse import urlsplit

import libvirt

from hvdrivers.contract import errors
from hvdrivers.libvirt.errors import translate

_NO_ERRNO = -1
_FOLDER = (
    "cacert.pem, clientcert.pem and clientkey.pem are in the folder that the URI names"
    " (?pkipath=/folder), else where libvirt keeps them (virt-pki-query-dn, virt-pki-validate)"
)


def refusal(uri: str, error: libvirt.libvirtError) -> errors.HypervisorError | None:
    """What a failure to connect means; None where the code says as much."""
    driver, _, transport = urlsplit(uri).scheme.partition("+")
    if transport == "tls" or (driver and not transport and urlsplit(uri).hostname):
        return _by_tls(uri, error)  # TLS is what libvirt takes for a host without a transport
    if transport == "ssh":
        return _by_ssh(error)
    return None


def _by_tls(uri: str, error: libvirt.libvirtError) -> errors.HypervisorError | None:
    code, number = error.get_error_code(), error.get_int1()
    hint = None
    if code == libvirt.VIR_ERR_AUTH_FAILED:
        hint = (
            "the host's certificate must be signed by an authority in cacert.pem, be valid now, and"
            f" name {urlsplit(uri).hostname!r}, as the URI does. Or the port speaks no TLS"
        )
    elif code == libvirt.VIR_ERR_SYSTEM_ERROR and number == errno.ENOENT:
        hint = _FOLDER
    elif code == libvirt.VIR_ERR_SYSTEM_ERROR and number == errno.EIO:
        hint = (
            "the host hung up after it had seen this client's certificate, or none: it must be"
            " signed by the host's authority, and allowed there (tls_allowed_dn_list). "
        ) + _FOLDER
    elif code == libvirt.VIR_ERR_SYSTEM_ERROR and number == _NO_ERRNO and _resolves(uri):
        hint = f"this client's own certificate is not fit: see the message. {_FOLDER}"
    if hint is None:
        return None
    translated = translate(error)
    return errors.AuthenticationFailed(
        translated.message, vendor_code=translated.vendor_code, hint=hint
    )


def _by_ssh(error: libvirt.libvirtError) -> errors.HypervisorError | None:
    """ssh has one answer for all: it ends, and its words are in the message."""
    if error.get_error_code() != libvirt.VIR_ERR_SYSTEM_ERROR:
        return None
    translated = translate(error)
    return errors.ConnectionFailed(
        translated.message,
        vendor_code=translated.vendor_code,
        hint="ssh must come in without a question: ssh -o BatchMode=yes USER@HOST virsh version."
        " The key is named by ?keyfile=, and the host must be known (known_hosts)",
    )


def _resolves(uri: str) -> bool:
    """Whether the host's name has an address here: that it has none shows in the same code."""
    with suppress(OSError, UnicodeError):
        return bool(socket.getaddrinfo(urlsplit(uri).hostname, None))
    return False
