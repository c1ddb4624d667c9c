"""The table of libvirt's errors is complete, and its own words are the contract's."""

from __future__ import annotations

import errno

import pytest

libvirt = pytest.importorskip("libvirt")

from hvdrivers.contract import errors as e  # noqa: E402
from hvdrivers.libvirt.errors import (  # noqa: E402
    _BY_CLASS,
    CODES,
    TABLE,
    translate,
    translate_opening,
)


def raised(code: int, message: str = "words", number: int = 0) -> Exception:
    error = libvirt.libvirtError("")
    error.err = (code, 0, message, libvirt.VIR_ERR_ERROR, None, None, None, number, -1)
    return error


def test_every_code_of_the_library_is_in_the_table() -> None:
    assert set(CODES.values()) - TABLE.keys() == set()


def test_no_code_is_in_the_table_twice() -> None:
    words = " ".join(_BY_CLASS.values()).split()
    assert len(words) == len(set(words))


@pytest.mark.parametrize("code", sorted(CODES), ids=CODES.get)
def test_a_code_has_its_class_and_its_name(code: int) -> None:
    translated = translate(raised(code))
    assert translated.vendor_code is not None
    assert translated.vendor_code.startswith(CODES[code])
    if code != libvirt.VIR_ERR_SYSTEM_ERROR:
        assert type(translated) is TABLE[CODES[code]]


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, e.InsufficientResources),
        (errno.EACCES, e.PermissionDenied),
        (errno.ENOENT, e.VolumeNotFound),
        (errno.ECONNREFUSED, e.ConnectionFailed),
        (errno.EIO, e.HypervisorFault),
        (0, e.HypervisorFault),
    ],
)
def test_a_system_error_is_told_by_its_errno(number: int, expected: type[Exception]) -> None:
    translated = translate(raised(libvirt.VIR_ERR_SYSTEM_ERROR, number=number))
    assert type(translated) is expected


def test_an_unknown_code_is_a_fault() -> None:
    translated = translate(raised(99_999))
    assert type(translated) is e.HypervisorFault
    assert translated.vendor_code == "VIR_ERR_99999"


@pytest.mark.parametrize("message", ["", " \n", None])
def test_an_error_without_words_has_some(message: str) -> None:
    assert translate(raised(libvirt.VIR_ERR_INTERNAL_ERROR, message)).message


def test_an_error_without_anything() -> None:
    error = libvirt.libvirtError("no error was set")
    error.err = None
    assert type(translate(error)) is e.HypervisorFault


def test_only_the_first_line_is_the_message() -> None:
    text = "qemu unexpectedly closed the monitor\n2026: qemu: -drive file=/secret"
    translated = translate(raised(libvirt.VIR_ERR_INTERNAL_ERROR, text))
    assert translated.message == "qemu unexpectedly closed the monitor"


@pytest.mark.parametrize(
    ("code", "number", "expected"),
    [
        (libvirt.VIR_ERR_SYSTEM_ERROR, errno.ENOENT, e.ConnectionFailed),
        (libvirt.VIR_ERR_AUTH_FAILED, 0, e.AuthenticationFailed),
        (libvirt.VIR_ERR_SYSTEM_ERROR, errno.EACCES, e.PermissionDenied),
        (libvirt.VIR_ERR_INTERNAL_ERROR, 0, e.ConnectionFailed),
    ],
)
def test_a_failed_connect_is_no_missing_volume(
    code: int, number: int, expected: type[Exception]
) -> None:
    assert type(translate_opening(raised(code, number=number))) is expected
