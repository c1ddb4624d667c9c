"""Programs and passwords in guests: what is left in them, guests that lie, hosts that cannot be
reached, and where a secret must not appear."""

from __future__ import annotations

import logging
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretStr, ValidationError

from hvdrivers.contract import errors
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.driverkit import cut_after, cut_before
from hvdrivers.driverkit.deadline import Deadline, bounding
from hvdrivers.models.guest import GuestCredentials
from hvdrivers.vmware.conformance.target import VmwareTarget
from hvdrivers.vmware.driver import VmwareDriver
from tests.integration.vmware.conftest import SpecFactory
from tests.peers.vcsim import GUEST_PASSWORD, GUEST_USER, VcsimPeer

ADMIN = GuestCredentials(user=GUEST_USER, password=GUEST_PASSWORD)
ROOT = GuestCredentials(user="root", password="hvct-root")
LOGIN = "InvalidGuestLogin"


@pytest.fixture
def target(peer: VcsimPeer) -> Iterator[VmwareTarget]:
    made = VmwareTarget(**peer.options, guest_user=GUEST_USER, guest_password=GUEST_PASSWORD)
    yield made
    made.close()


@pytest.fixture
def guest(
    driver: VmwareDriver, guarded_driver: ComputeDriver, target: VmwareTarget, spec: SpecFactory
) -> Iterator[UUID]:
    uuid = driver.spawn(spec(start=True)).uuid
    target.wait_booted(guarded_driver, uuid)
    yield uuid
    driver.destroy(uuid)


def left(peer: VcsimPeer) -> list[str]:
    """What is in all guests: files with their modes, and folders."""
    return sorted(_text(peer, "/guests").split("\n"))[1:]


def _text(peer: VcsimPeer, path: str) -> str:
    from urllib.request import urlopen

    with urlopen(f"{peer.control}{path}", timeout=30) as got:
        return str(got.read().decode())


def test_nothing_is_left_in_the_guest(peer: VcsimPeer, driver: VmwareDriver, guest: UUID) -> None:
    done = driver.guest_exec(guest, ["/bin/cat"], stdin=b"in\0put", credentials=ADMIN)
    assert (done.exit_code, done.stdout, done.truncated) == (0, b"in\0put", False)
    with pytest.raises(errors.InvalidRequest, match="no such program"):
        driver.guest_exec(guest, ["/bin/none"], credentials=ADMIN)
    wrong = GuestCredentials(user="root", password="wrong")
    with pytest.raises(errors.PermissionDenied, match="refused the account"):
        driver.guest_exec(guest, ["/bin/true"], credentials=wrong)
    assert left(peer) == []


def test_what_is_in_the_guest_meanwhile_is_the_accounts_alone(
    peer: VcsimPeer, driver: VmwareDriver, guest: UUID
) -> None:
    seen: list[str] = []

    def look(name: str, send: Callable[[], Any], /) -> Any:
        if name == "StartProgramInGuest":
            seen.extend(left(peer))
        return send()

    with driver.session.seam.through(look):
        driver.guest_exec(guest, ["/bin/cat"], stdin=b"secret", credentials=ADMIN)
    folder, file = seen
    assert file == f"{folder}/stdin 600"
    assert folder.startswith("/tmp/hvdrivers-")


@pytest.mark.parametrize("fault", [cut_before, cut_after])
def test_nothing_is_left_wherever_a_call_is_cut(
    peer: VcsimPeer, driver: VmwareDriver, guest: UUID, fault: Any
) -> None:
    def run() -> Any:
        return driver.guest_exec(guest, ["/bin/echo", "x"], credentials=ADMIN)

    run()
    with driver.session.seam.counting() as calls:
        run()
    for number, name in enumerate(calls, start=1):
        with driver.session.seam.cut(fault, occurrence=number) as cut:
            if fault is cut_after and name == "StartProgramInGuest":
                with pytest.raises(errors.OutcomeUnknown):
                    run()
            else:
                assert run().stdout == b"x\n"
        assert cut.struck
        assert left(peer) == [], f"{fault.__name__} call {number}, {name}"


def test_a_server_that_goes_away_before_the_start_has_run_nothing(
    peer: VcsimPeer, driver: VmwareDriver, guest: UUID
) -> None:
    """Each further sending is cut too: nothing can be removed, and the error says so."""
    with (
        driver.session.seam.cut(cut_before, name="InitiateFileTransferToGuest", repeats=10),
        pytest.raises(errors.ConnectionFailed),
    ):
        driver.guest_exec(guest, ["/bin/true"], credentials=ADMIN)
    assert left(peer) == []


def test_a_password_of_the_account_itself(
    peer: VcsimPeer,
    driver: VmwareDriver,
    guarded_driver: ComputeDriver,
    target: VmwareTarget,
    guest: UUID,
) -> None:
    """The account's old password is no more when Tools are asked for the end of the program."""
    new = "n\u00e9w 'Secret\" $(id) \\ %"
    driver.set_guest_password(guest, "root", SecretStr(new), credentials=ROOT)
    assert target.accepts_password(guarded_driver, guest, "root", new)
    assert not target.accepts_password(guarded_driver, guest, "root", "hvct-root")
    assert left(peer) == []
    with pytest.raises(errors.PermissionDenied):
        driver.set_guest_password(guest, "root", SecretStr("again"), credentials=ROOT)
    assert left(peer) == []


@pytest.mark.parametrize("fault", [cut_before, cut_after])
def test_a_password_of_the_account_itself_wherever_a_call_is_cut(
    peer: VcsimPeer,
    driver: VmwareDriver,
    guarded_driver: ComputeDriver,
    target: VmwareTarget,
    guest: UUID,
    fault: Any,
) -> None:
    """It is the old one or the new one, and another call with either of them sets it."""
    now = "hvct-root"

    def change(old: str, new: str) -> None:
        account = GuestCredentials(user="root", password=old)
        driver.set_guest_password(guest, "root", SecretStr(new), credentials=account)

    with driver.session.seam.counting() as calls:
        change(now, "first")
    now = "first"
    for number, name in enumerate(calls, start=1):
        new = f"number-{number}"
        with driver.session.seam.cut(fault, occurrence=number) as cut:
            try:
                change(now, new)
            except errors.OutcomeUnknown:
                assert (fault, name) == (cut_after, "StartProgramInGuest")
        assert cut.struck
        assert target.accepts_password(guarded_driver, guest, "root", new), name
        now = new
        assert left(peer) == [], name


def test_a_hostile_account(driver: VmwareDriver, guest: UUID) -> None:
    for user in ("</username><password>", "root' OR 1=1", "&amp;", "r\u00f6\u00f6t", ""):
        account = GuestCredentials(user=user, password="]]></password>&")
        with pytest.raises(errors.PermissionDenied):
            driver.guest_exec(guest, ["/bin/true"], credentials=account)
    with pytest.raises(ValidationError, match=r"U\+0000"):
        GuestCredentials(user="root\0", password="x")
    for account in (
        # a driver that is not guarded gets what nobody has looked at
        GuestCredentials.model_construct(user="root\0", password=SecretStr("x")),
        GuestCredentials(user="root", password="x\x1b"),
    ):
        with pytest.raises(errors.InvalidRequest):
            driver.guest_exec(guest, ["/bin/true"], credentials=account)


def test_hostile_arguments(peer: VcsimPeer, driver: VmwareDriver, guest: UUID) -> None:
    hostile = [
        "> /etc/passwd",
        "2>&1",
        "'; rm -rf / #",
        "$(reboot)",
        "`reboot`",
        "a\nb\tc",
        "<x>&amp;]]>",
        "-n",
        "",
        "\u202e\U0001f4a9",
        "%s %n",
        "!!",
    ]
    done = driver.guest_exec(guest, ["/bin/echo", *hostile], credentials=ADMIN)
    assert done.stdout.decode() == " ".join(hostile) + "\n"
    assert left(peer) == []


def test_input_of_any_bytes_and_size(driver: VmwareDriver, guest: UUID) -> None:
    data = bytes(range(256)) * (4 << 12)
    done = driver.guest_exec(guest, ["/bin/cat"], stdin=data, credentials=ADMIN)
    assert done.stdout == data


@pytest.mark.parametrize(
    ("user", "password"),
    [
        ("root:x", "a"),
        ("root\nhvct-user:b", "a"),
        ("", "a"),
        ("root", "a\nhvct-user:b"),
        ("root", ""),
        ("root", "a\0"),
    ],
)
def test_no_line_of_chpasswd_becomes_two(
    driver: VmwareDriver,
    guarded_driver: ComputeDriver,
    target: VmwareTarget,
    guest: UUID,
    user: str,
    password: str,
) -> None:
    with driver.session.seam.counting() as calls, pytest.raises(errors.InvalidRequest):
        driver.set_guest_password(guest, user, SecretStr(password), credentials=ADMIN)
    assert list(calls) == ["RetrievePropertiesEx"]
    assert target.accepts_password(guarded_driver, guest, "hvct-user", "hvct-user-secret")


def test_an_account_that_may_not_set_passwords(driver: VmwareDriver, guest: UUID) -> None:
    weak = GuestCredentials(user="hvct-user", password="hvct-user-secret")
    with pytest.raises(errors.InvalidRequest) as caught:
        driver.set_guest_password(guest, "root", SecretStr("hunter2"), credentials=weak)
    assert caught.value.vendor_code == "exit code 1"


def test_no_secret_is_shown(
    guarded_driver: ComputeDriver, guest: UUID, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = GuestCredentials(user="root", password="hunter2-account")
    for password in ("hunter2-new", "hunter2-new\n"):
        for account in (wrong, ADMIN):
            user = "nobody" if account is ADMIN else "root"
            with pytest.raises(errors.HypervisorError) as caught:
                guarded_driver.set_guest_password(
                    guest, user, SecretStr(password), credentials=account
                )
            shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
            assert "hunter2" not in shown
            assert GUEST_PASSWORD not in shown
    with pytest.raises(errors.PermissionDenied):
        guarded_driver.guest_exec(guest, ["/bin/true"], credentials=wrong)
    assert "hunter2" not in caplog.text
    assert GUEST_PASSWORD not in caplog.text
    assert "token-" not in caplog.text


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        ("no-code", "does not say how"),
        ("other", "does not know the program"),
        ("short", "not known"),
    ],
)
def test_a_guest_that_lies_of_a_program(
    peer: VcsimPeer, driver: VmwareDriver, target: VmwareTarget, guest: UUID, lie: str, words: str
) -> None:
    target.set_extra(guest, "hvct.lie", lie)
    with pytest.raises(errors.OutcomeUnknown, match=words):
        driver.guest_exec(guest, ["/bin/echo", "some output"], stdin=b"x", credentials=ADMIN)
    assert left(peer) == []


def test_a_guest_that_lies_of_its_folder(
    peer: VcsimPeer, driver: VmwareDriver, target: VmwareTarget, guest: UUID
) -> None:
    """The driver would remove that folder in the end."""
    target.set_extra(guest, "hvct.lie", "elsewhere")
    with driver.session.seam.counting() as calls, pytest.raises(errors.HypervisorFault):
        driver.guest_exec(guest, ["/bin/true"], credentials=ADMIN)
    assert "DeleteDirectoryInGuest" not in calls


def test_a_guest_without_a_place_for_files(
    driver: VmwareDriver, target: VmwareTarget, guest: UUID
) -> None:
    """It is no volume that is missing."""
    target.set_extra(guest, "hvct.lie", "no-tmp")
    with pytest.raises(errors.HypervisorFault) as caught:
        driver.guest_exec(guest, ["/bin/true"], credentials=ADMIN)
    assert caught.value.vendor_code == "FileNotFound"


def test_a_guest_that_lies_of_a_size(
    driver: VmwareDriver, target: VmwareTarget, guest: UUID
) -> None:
    target.set_extra(guest, "hvct.lie", "large")
    done = driver.guest_exec(guest, ["/bin/echo", "x"], credentials=ADMIN)
    assert (done.stdout, done.truncated) == (b"x\n", False)


def test_a_flood(peer: VcsimPeer, driver: VmwareDriver, guest: UUID) -> None:
    size = (16 << 20) + 1
    done = driver.guest_exec(guest, ["/hvct/flood", str(size)], credentials=ADMIN)
    assert (len(done.stdout), len(done.stderr), done.truncated) == (16 << 20, 16 << 20, True)
    whole = driver.guest_exec(guest, ["/hvct/flood", str(size - 1)], credentials=ADMIN)
    assert (len(whole.stdout), whole.truncated) == (16 << 20, False)
    assert left(peer) == []


def test_a_file_that_never_ends(
    peer: VcsimPeer, driver: VmwareDriver, target: VmwareTarget, guest: UUID
) -> None:
    target.set_extra(guest, "hvct.lie", "slow")
    began = time.monotonic()
    with pytest.raises(errors.OutcomeUnknown):
        driver.guest_exec(guest, ["/bin/echo", "a" * 3600], credentials=ADMIN, timeout=2)
    assert time.monotonic() - began < 300  # and not the hour that the file takes
    assert left(peer) == []


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("CreateTemporaryDirectoryInGuest", errors.OutcomeUnknown),
        ("InitiateFileTransferToGuest", errors.OperationTimeout),
        ("StartProgramInGuest", errors.OutcomeUnknown),
        ("ListProcessesInGuest", errors.OutcomeUnknown),
        ("InitiateFileTransferFromGuest", errors.OutcomeUnknown),
    ],
)
def test_a_guest_that_hangs(
    peer: VcsimPeer,
    driver: VmwareDriver,
    guest: UUID,
    method: str,
    kind: type[errors.HypervisorError],
) -> None:
    """Whatever does not come back, the deadline holds."""
    peer.ask("/delay", "POST", method=method, ms=1500)
    try:
        with pytest.raises(kind):
            driver.guest_exec(guest, ["/bin/true"], credentials=ADMIN, timeout=0.5)
    finally:
        peer.ask("/fault", "DELETE")


def test_tools_that_end_while_the_program_runs(
    driver: VmwareDriver, target: VmwareTarget, guest: UUID
) -> None:
    """As when the program switches the guest off."""
    stop = threading.Timer(
        0.3, lambda: target.set_extra(guest, "SET.guest.toolsRunningStatus", "guestToolsNotRunning")
    )
    stop.start()
    with pytest.raises(errors.OutcomeUnknown) as caught:
        driver.guest_exec(guest, ["/bin/sleep", "60"], credentials=ADMIN, timeout=30)
    stop.join()
    assert caught.value.vendor_code == "GuestOperationsUnavailable"


def test_a_program_that_the_guest_does_not_know_after_a_reboot(
    driver: VmwareDriver, guest: UUID, target: VmwareTarget, guarded_driver: ComputeDriver
) -> None:
    def reboot() -> None:
        driver.reboot(guest)
        target.wait_booted(guarded_driver, guest)

    again = threading.Timer(0.3, reboot)
    again.start()
    with pytest.raises(errors.OutcomeUnknown):
        driver.guest_exec(guest, ["/bin/sleep", "60"], credentials=ADMIN, timeout=30)
    again.join()


def _runs(driver: VmwareDriver, guest: UUID) -> errors.ConnectionFailed | None:
    """Why a program cannot be run; that it was not started then."""
    with driver.session.seam.counting() as calls:
        try:
            driver.guest_exec(guest, ["/bin/true"], stdin=b"secret", credentials=ADMIN)
        except errors.ConnectionFailed as error:
            assert "StartProgramInGuest" not in calls
            return error
    return None


def test_a_host_that_cannot_be_reached_runs_nothing(
    peer: VcsimPeer, driver: VmwareDriver, guest: UUID
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    peer.ask("/esx", "POST", port=port)
    try:
        error = _runs(driver, guest)
    finally:
        peer.ask("/esx", "POST", port=peer.options["port"])
    if peer.mode == "vpx":
        assert error is not None
        assert f"localhost, port {port}" in str(error.hint)
    else:
        assert error is None  # an ESXi host sends its files itself
    assert left(peer) == []


def test_a_host_with_another_certificate_gets_nothing(
    peer: VcsimPeer, driver: VmwareDriver, guest: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's thumbprint is given, so the host must have the certificate that the server
    knows."""
    one = driver.reader.one

    def another(obj: Any, *paths: str) -> Any:
        found = one(obj, *paths)
        if "config.certificate" not in paths:
            return found
        text = bytes(each & 0xFF for each in found["config.certificate"]).decode()
        first, middle, *rest = text.splitlines()
        changed = "\n".join([first, middle.swapcase(), *rest]).encode()
        return type(found)(found.obj, {**found.values, "config.certificate": list(changed)})

    monkeypatch.setattr(driver.reader, "one", another)
    error = _runs(driver, guest)
    if peer.mode == "vpx":
        assert error is not None
        assert "thumbprint" in error.message
    else:
        assert error is None  # an ESXi host sends its files itself


def test_the_deadline_is_one_for_all_steps(driver: VmwareDriver, guest: UUID) -> None:
    with bounding(Deadline(600)):
        began = time.monotonic()
        with pytest.raises(errors.OutcomeUnknown, match="still runs"):
            driver.guest_exec(guest, ["/bin/sleep", "600"], credentials=ADMIN, timeout=1)
    assert time.monotonic() - began < 300


def test_guests_of_a_family_without_a_shell(
    driver: VmwareDriver, target: VmwareTarget, guest: UUID
) -> None:
    target.set_extra(guest, "SET.guest.guestFamily", "windowsGuest")
    with driver.session.seam.counting() as calls, pytest.raises(errors.NotSupported):
        driver.guest_exec(guest, ["/bin/true"], credentials=ADMIN)
    assert list(calls) == ["RetrievePropertiesEx"]
