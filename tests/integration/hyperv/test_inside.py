"""Programs and passwords inside a guest, by PowerShell Direct."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final
from uuid import UUID

import pytest
from pydantic import SecretStr

from hvdrivers.contract import errors
from hvdrivers.hyperv.simulator.guests.played import USERS, Behaviour
from hvdrivers.models.guest import GuestCredentials
from hvdrivers.models.image import FileImage
from tests.integration.hyperv.site import Site, held, spec
from tests.integration.hyperv.test_operations import machine_of
from tests.peers.waiting import wait_until

ADMIN: Final = GuestCredentials(user="Administrator", password=USERS["Administrator"])
QUOTES: Final = "'\u2018\u2019\u201a\u201b\"\u201c\u201d\u201e"


@pytest.fixture
def guest(site: Site, image: FileImage) -> Iterator[UUID]:
    uuid = site.driver.spawn(spec(image)).uuid
    booted(site, uuid)
    yield uuid
    site.driver.destroy(uuid)
    assert site.left() == []


def booted(site: Site, uuid: UUID) -> None:
    machine = machine_of(site, uuid)
    wait_until(
        lambda: machine.guest is not None and machine.guest.heartbeat(),
        timeout=60,
        what="the guest has booted",
    )


def users(site: Site, uuid: UUID) -> dict[str, str]:
    return site.host.guests.accounts(machine_of(site, uuid).id)


def test_each_is_one_request(site: Site, guest: UUID) -> None:
    with site.inner.session.seam.counting() as calls:
        done = site.driver.guest_exec(guest, ["/bin/cat"], stdin=b"x", credentials=ADMIN)
    assert (calls, done.stdout) == (["hyperv.GuestExec"], b"x")
    with site.inner.session.seam.counting() as calls:
        site.driver.set_guest_password(guest, "root", SecretStr("a-Secret-1"), credentials=ADMIN)
    assert calls == ["hyperv.GuestPassword"]
    assert users(site, guest)["root"] == "a-Secret-1"


def test_what_looks_like_script_stays_data(site: Site, guest: UUID, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    call = f"ni('{canary}')"
    hostile = [
        *(f"{quote};{call};#{quote}" for quote in QUOTES),
        f"$({call})",
        f'`"`;{call}`n',
        f"'@\n;{call}\n'@",
        "a\\",
        'a\\"b\\\\"',
        "",
        " ",
        "*",
        "%PATH%",
        "line\nbreak\r\n\ttab",
        "\u202e\ufeff\u0001",
        "x" * 10_000,
    ]
    run = site.driver.guest_exec
    code = "import sys; sys.stdout.write('\\0'.join(sys.argv[1:]))"
    done = run(guest, ["/usr/bin/env", "python3", "-c", code, *hostile], credentials=ADMIN)
    assert done.stdout.decode().split("\0") == hostile
    with pytest.raises(errors.InvalidRequest):
        run(guest, [f"$({call})"], credentials=ADMIN)
    for each in hostile:
        if len(each) < 6:
            continue
        password = SecretStr(each)
        site.driver.set_guest_password(guest, "root", password, credentials=ADMIN)
        assert users(site, guest)["root"] == each
        account = GuestCredentials(user="root", password=password)
        assert run(guest, ["/bin/true"], credentials=account).exit_code == 0
        with pytest.raises(errors.InvalidRequest):
            site.driver.set_guest_password(guest, each, password, credentials=ADMIN)
        # some of these no guarded driver gets: the model refuses them
        stranger = GuestCredentials.model_construct(user=each, password=SecretStr("x"))
        with pytest.raises(errors.PermissionDenied):
            run(guest, ["/bin/true"], credentials=stranger)
    for pattern in ("*", "r??t", "[a-z]oot"):
        with pytest.raises(errors.InvalidRequest):
            site.driver.set_guest_password(guest, pattern, SecretStr("abcdef"), credentials=ADMIN)
    assert not canary.exists()


def test_output_that_is_bytes_or_long(site: Site, guest: UUID) -> None:
    run = site.driver.guest_exec
    everything = bytes(range(256)) * 4096
    done = run(guest, ["/bin/cat"], stdin=everything, credentials=ADMIN)
    assert (done.stdout, done.truncated) == (everything, False)
    command = ["/bin/sh", "-c", "head -c 5000000 /dev/zero; echo error >&2; exit 200"]
    done = run(guest, command, credentials=ADMIN)
    assert (len(done.stdout), done.stderr) == (4 << 20, b"error\n")
    assert (done.truncated, done.exit_code) == (True, 200)
    # a program that does not read its input, and a child that keeps the output
    assert run(guest, ["/bin/true"], stdin=everything, credentials=ADMIN).exit_code == 0
    began = time.monotonic()
    done = run(guest, ["/bin/sh", "-c", "sleep 90 & echo left"], credentials=ADMIN)
    assert done.stdout == b"left\n"
    assert time.monotonic() - began < 80


@pytest.mark.parametrize(
    "command",
    [
        [],
        [""],
        ['/bin/"true'],
        ["/bin/true", "a\0b"],
        ["C:\\run.bat", "a"],
        ["C:\\run.CMD. ", "a"],
        ["/bin/true", "x" * 40_000],
        ["/no/such/program"],
        ["relative-and-absent"],
    ],
    ids=range(9),
)
def test_what_windows_does_not_start(site: Site, guest: UUID, command: list[str]) -> None:
    with pytest.raises(errors.InvalidRequest):
        site.driver.guest_exec(guest, command, credentials=ADMIN)


def test_secrets_are_in_no_error(site: Site, guest: UUID) -> None:
    secret = "hvt-not-to-be-seen"
    account = GuestCredentials(user="root", password=secret)
    with pytest.raises(errors.PermissionDenied) as caught:
        site.driver.guest_exec(guest, ["/bin/true"], credentials=account)
    assert caught.value.hint
    short = SecretStr("hvt-1")
    with pytest.raises(errors.InvalidRequest) as refused:
        site.driver.set_guest_password(guest, "root", short, credentials=ADMIN)
    shown = "".join(f"{each!r} {each} {each.__cause__!r}" for each in (caught.value, refused.value))
    assert secret not in shown
    assert "hvt-1" not in shown
    files = [each for each in site.host.drive.rglob("*") if each.is_file()]
    assert [each for each in files if secret.encode() in each.read_bytes()] == []


def test_a_password_of_the_account_itself(site: Site, guest: UUID) -> None:
    """The reply is lost: the caller repeats the call, with the account that he knows."""
    driver = site.driver
    new = SecretStr("another-Secret-2")
    with held(site, "Set-LocalUser") as release, ThreadPoolExecutor(1) as pool:
        setting = pool.submit(
            driver.set_guest_password, guest, "administrator", new, credentials=ADMIN
        )
        with release():
            site.service.kill_shells()
            assert isinstance(setting.exception(60), errors.OutcomeUnknown)
    for _ in range(2):
        driver.set_guest_password(guest, "administrator", new, credentials=ADMIN)
        assert users(site, guest)["Administrator"] == new.get_secret_value()


def test_a_guest_that_does_not_answer(site: Site, guest: UUID) -> None:
    machine = machine_of(site, guest)
    with site.host.guests.acting(machine, Behaviour(direct=False)):
        with pytest.raises(errors.GuestAgentUnavailable) as caught:
            site.driver.guest_exec(guest, ["/bin/true"], credentials=ADMIN)
        assert caught.value.retryable
    # hung: the call is given up at the deadline, and nothing has begun
    rule = site.host.state.faults.slow("Invoke-Command", before=3600.0, calls=1)
    with pytest.raises(errors.OperationTimeout):
        site.driver.guest_exec(guest, ["/bin/true"], credentials=ADMIN, timeout=1)
    rule.over = True
    site.host.world.notify()
    site.host.state.faults.clear()
    assert site.driver.guest_exec(guest, ["/bin/true"], credentials=ADMIN).exit_code == 0


def test_programs_that_run_on_hold_nobody_back(site: Site, guest: UUID, tmp_path: Path) -> None:
    """They are more than there are runspaces for requests of one kind; the last waits for one."""
    driver = site.driver
    script = "echo >$1.begun; while [ -e $2 ]; do /bin/sleep 0.1; done"
    lasts = tmp_path / "lasts"
    lasts.touch()
    many = site.config.workers + 2  # one is in the first runspace
    begun = [tmp_path / f"{number}" for number in range(many)]
    with ThreadPoolExecutor(many) as pool:
        running = [
            pool.submit(
                driver.guest_exec,
                guest,
                ["/bin/sh", "-c", script, "sh", str(each), str(lasts)],
                credentials=ADMIN,
                timeout=3600,
            )
            for each in begun
        ]
        try:
            wait_until(
                lambda: len(list(tmp_path.glob("*.begun"))) == many - 1,
                timeout=120,
                what="the programs run",
            )
            taken = driver.create_snapshot(guest, "beside")
            driver.delete_snapshot(guest, taken.id)
            driver.power_off(guest)
            ended = [each.exception(120) for each in running]
        finally:
            lasts.unlink()
    kinds = sorted(type(each).__name__ for each in ended)
    assert kinds == ["InvalidState", *["OutcomeUnknown"] * (many - 1)]
    with pytest.raises(errors.InvalidState):
        driver.guest_exec(guest, ["/bin/true"], credentials=ADMIN)


def test_a_client_that_dies_in_it(site: Site, guest: UUID) -> None:
    driver = site.driver
    entered = site.host.state.faults.slow("Invoke-Command", before=0.0, calls=1)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(driver.guest_exec, guest, ["/bin/sleep", "25"], credentials=ADMIN)
        wait_until(lambda: entered.seen > 0, timeout=60, what="it is under way")
        site.service.kill_shells()
        assert isinstance(running.exception(60), errors.OutcomeUnknown)
    assert driver.guest_exec(guest, ["/bin/true"], credentials=ADMIN).exit_code == 0
