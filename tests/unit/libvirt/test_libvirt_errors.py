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
    translate_on_live,
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
        (errno.ECONNREFUSED, e.HypervisorFault),
        (errno.EPIPE, e.HypervisorFault),
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


_ADD = "Child process (tc {} add dev tap0 parent 1:1) unexpected exit status 2: {}\n"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (_ADD.format("qdisc", "Error: Specified qdisc kind is unknown."), e.NotSupported),
        (_ADD.format("qdisc", "RTNETLINK answers: No such file or directory"), e.NotSupported),
        (
            _ADD.format(
                "filter",
                "Error: Failed to load TC action module.\nWe have an error talking to the kernel",
            ),
            e.NotSupported,
        ),
        (_ADD.format("filter", "Error: TC classifier not found."), e.NotSupported),
        (_ADD.format("qdisc", 'Cannot find device "tap0"'), e.HypervisorFault),
        (_ADD.format("class", "RTNETLINK answers: Operation not permitted"), e.HypervisorFault),
        # the words of another program
        ("Child process (ip link) exit status 2: Specified qdisc kind is unknown", None),
    ],
)
def test_a_kernel_that_cannot_limit_a_nic(message: str, expected: type[Exception] | None) -> None:
    translated = translate(raised(libvirt.VIR_ERR_INTERNAL_ERROR, f"internal error: {message}"))
    assert type(translated) is (expected or e.HypervisorFault)
    assert translated.vendor_code == "VIR_ERR_INTERNAL_ERROR"


@pytest.mark.parametrize("message", ["", " \n", None])
def test_an_error_without_words_has_some(message: str) -> None:
    assert translate(raised(libvirt.VIR_ERR_INTERNAL_ERROR, message)).message


def test_an_error_without_anything() -> None:
    error = libvirt.libvirtError("no error was set")
    error.err = None
    assert type(translate(error)) is e.HypervisorFault


def test_the_reason_may_stand_on_the_last_line() -> None:
    """QEMU's own words follow on lines of their own; the message is one line."""
    words = "process exited\n  while connecting\n\nfilesystem does not support O_DIRECT\n"
    translated = translate(raised(libvirt.VIR_ERR_INTERNAL_ERROR, words))
    assert translated.message == (
        "process exited while connecting filesystem does not support O_DIRECT"
    )


@pytest.mark.parametrize("code", sorted(CODES), ids=CODES.get)
def test_on_a_connection_that_lives_no_error_says_that_the_host_is_away(code: int) -> None:
    assert type(translate_on_live(raised(code, number=errno.ECONNREFUSED))) is not (
        e.ConnectionFailed
    )


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


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOENT, "libvirt-daemon-system"),
        (errno.EACCES, "group libvirt"),
        (errno.ECONNREFUSED, "systemctl start libvirtd"),
    ],
)
def test_a_failed_connect_says_what_to_do(number: int, words: str) -> None:
    error = translate_opening(raised(libvirt.VIR_ERR_SYSTEM_ERROR, number=number))
    assert words in (error.hint or "")


def test_a_long_message_keeps_its_end() -> None:
    """QEMU says why after an option of any length."""
    error = libvirt.libvirtError("")
    command = "internal error: process exited: qemu-system-x86_64 " + "-device x " * 200
    reason = "Could not open 'disk': filesystem does not support O_DIRECT"
    error.err = (libvirt.VIR_ERR_INTERNAL_ERROR, 0, command + reason, 2, None, None, None, 0, 0)
    message = translate(error).message
    assert message.startswith("internal error: process exited")
    assert message.endswith("filesystem does not support O_DIRECT")
    assert len(message) <= 500
