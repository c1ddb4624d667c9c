"""Clauses of ``contract/guest.py``."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from uuid import UUID, uuid4

from pydantic import SecretStr

from hvdrivers.conformance.engine.clauses import Case, Level, check, clause
from hvdrivers.conformance.engine.observer import Observer, PreconditionMissing
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.power import RebootKind
from hvdrivers.models.guest import AddressSource, ExecResult, GuestCredentials

GUEST_001 = clause(
    "GUEST-001",
    "after set_guest_password() the guest takes the new password of that user, and no other",
    operation="set_guest_password",
)
GUEST_002 = clause(
    "GUEST-002",
    "set_guest_password() of a user that the guest does not know raises InvalidRequest",
    operation="set_guest_password",
)
GUEST_003 = clause(
    "GUEST-003",
    "where the agent asks for an account: none raises InvalidRequest, a wrong one PermissionDenied,"
    " and nothing is done",
    operation="set_guest_password",
    level=Level.SHOULD,
)
GUEST_004 = clause(
    "GUEST-004",
    "freeze() freezes the guest's file systems until thaw(), however often each is called",
    operation="freeze",
)
GUEST_005 = clause("GUEST-005", "thaw() of what is not frozen succeeds", operation="thaw")
GUEST_006 = clause(
    "GUEST-006",
    "guest_exec() gives the program its arguments as they are and its input, and returns its output"
    " and its exit code",
    operation="guest_exec",
)
GUEST_007 = clause(
    "GUEST-007",
    "guest_exec() of a program that the guest does not have raises InvalidRequest",
    operation="guest_exec",
)
GUEST_008 = clause(
    "GUEST-008",
    "guest_exec() of a program that still runs at the deadline raises OutcomeUnknown, in time",
    operation="guest_exec",
)
GUEST_009 = clause(
    "GUEST-009",
    "without an agent each of these raises GuestAgentUnavailable, retryable, without waiting",
    operation="freeze",
)
GUEST_010 = clause(
    "GUEST-010",
    "guest_addresses() gives addresses of the instance's own NICs, each with its source, and none"
    " for an instance without NICs",
    operation="guest_addresses",
)
GUEST_011 = clause(
    "GUEST-011",
    "without an agent guest_addresses() still returns, with what other sources know",
    operation="guest_addresses",
)
GUEST_012 = clause(
    "GUEST-012",
    "a machine that was frozen is not when it is powered off, nor when its guest has started anew",
    operation="freeze",
    level=Level.SHOULD,
)
_PASSWORD = "hvct-Secret-1"  # noqa: S105 - of a machine that lives for a moment
_ASKS: dict[str, tuple[Capability, Callable[[Trial, UUID], object]]] = {
    "set_guest_password": (
        Capability.GUEST_PASSWORD,
        lambda t, uuid: _set_password(t, uuid, "root", _PASSWORD),
    ),
    "freeze": (Capability.GUEST_FREEZE, lambda t, uuid: t.driver.freeze(uuid)),
    "thaw": (Capability.GUEST_FREEZE, lambda t, uuid: t.driver.thaw(uuid)),
    "guest_exec": (
        Capability.GUEST_EXEC,
        lambda t, uuid: run_program(t, uuid, ["/bin/true"]),
    ),
}


def booted(trial: Trial) -> UUID:
    """An instance whose guest has booted."""
    uuid = trial.spawn().uuid
    trial.target.wait_booted(trial.driver, uuid)
    return uuid


def _set_password(trial: Trial, uuid: UUID, user: str, password: str) -> None:
    account = trial.target.guest_account(trial.driver, uuid)
    trial.driver.set_guest_password(uuid, user, SecretStr(password), credentials=account)


def run_program(trial: Trial, uuid: UUID, command: Sequence[str], **options: Any) -> ExecResult:
    """guest_exec(), with an account where the guest asks for one."""
    account = trial.target.guest_account(trial.driver, uuid)
    return trial.driver.guest_exec(uuid, command, credentials=account, **options)


@check(GUEST_001)
def password_is_taken(trial: Trial) -> None:
    uuid, other = booted(trial), booted(trial)
    for password in (_PASSWORD, f"{_PASSWORD} 'second\" \\"):
        _set_password(trial, uuid, "root", password)
        accepts = trial.target.accepts_password(trial.driver, uuid, "root", password)
        trial.check(accepts, "the guest does not take the password that was set")
    old = trial.target.accepts_password(trial.driver, uuid, "root", _PASSWORD)
    trial.check(not old, "the guest still takes the password before")
    elsewhere = trial.target.accepts_password(trial.driver, other, "root", password)
    trial.check(not elsewhere, "another guest got the password")


@check(GUEST_002)
def user_is_unknown(trial: Trial) -> None:
    uuid = booted(trial)
    with trial.unchanged(), trial.raises(errors.InvalidRequest):
        _set_password(trial, uuid, "hvct-nobody", _PASSWORD)


@check(GUEST_003)
def account_is_asked_for(trial: Trial) -> None:
    uuid = booted(trial)
    password = SecretStr(_PASSWORD)
    with trial.target.account_needed(trial.driver, uuid) as account:
        with trial.unchanged(), trial.raises(errors.InvalidRequest):
            trial.driver.set_guest_password(uuid, "root", password)
        wrong = GuestCredentials(user=account.user, password=SecretStr("hvct-wrong"))
        with trial.unchanged(), trial.raises(errors.PermissionDenied) as caught:
            trial.driver.set_guest_password(uuid, "root", password, credentials=wrong)
        trial.check("hvct-wrong" not in str(caught[0]), "the error shows the password")
        trial.driver.set_guest_password(uuid, "root", password, credentials=account)
        accepts = trial.target.accepts_password(trial.driver, uuid, "root", _PASSWORD)
        trial.check(accepts, "the guest does not take the password that was set")


@check(GUEST_004)
def freezes_and_thaws(trial: Trial) -> None:
    if trial.observer is None:
        raise PreconditionMissing("no observer")
    uuid = booted(trial)
    for round_ in ("first", "second"):
        trial.driver.freeze(uuid)
        trial.check(trial.observer.frozen(uuid), f"not frozen after the {round_} freeze()")
        trial.driver.freeze(uuid)
        trial.check(trial.observer.frozen(uuid), "not frozen after freeze() was called twice")
        trial.driver.thaw(uuid)
        trial.check(not trial.observer.frozen(uuid), f"still frozen after the {round_} thaw()")


@check(GUEST_005)
def thawing_twice_is_a_success(trial: Trial) -> None:
    uuid = booted(trial)
    with trial.unchanged():
        trial.driver.thaw(uuid)
    trial.driver.freeze(uuid)
    trial.driver.thaw(uuid)
    with trial.unchanged():
        trial.driver.thaw(uuid)


@check(GUEST_006)
def runs_a_program(trial: Trial) -> None:
    uuid = booted(trial)
    run = partial(run_program, trial)
    hostile = ["a b", "$(id)", "; false", "'\"\\", "*"]
    echoed = run(uuid, ["/bin/echo", *hostile])
    expected = (0, " ".join(hostile).encode() + b"\n", b"")
    trial.equal((echoed.exit_code, echoed.stdout, echoed.stderr), expected, "echo of arguments")
    text = bytes(range(256))
    copied = run(uuid, ["/bin/cat"], stdin=text)
    trial.equal((copied.exit_code, copied.stdout), (0, text), "what cat made of its input")
    trial.equal(run(uuid, ["/bin/cat"]).stdout, b"", "what cat made of no input")
    trial.equal(run(uuid, ["/bin/false"]).exit_code, 1, "exit code of false")
    trial.equal(run(uuid, ["/bin/true"]).exit_code, 0, "exit code of true")


@check(GUEST_007)
def program_is_unknown(trial: Trial) -> None:
    uuid = booted(trial)
    with trial.unchanged(), trial.raises(errors.InvalidRequest):
        run_program(trial, uuid, ["/hvct/no-such-program"])


@check(GUEST_008)
def program_outlives_the_deadline(trial: Trial) -> None:
    uuid = booted(trial)
    with trial.target.endless_program(trial.driver, uuid) as command:
        began = time.monotonic()
        with trial.raises(errors.OutcomeUnknown):
            run_program(trial, uuid, command, timeout=0.5 * trial.target.time_scale)
        took = time.monotonic() - began
        trial.check(took < 0.5 * trial.target.time_scale + 60, f"it took {took:.1f} seconds")


@check(
    GUEST_009,
    cases=[Case(name, (name,), needs=frozenset({needed})) for name, (needed, _) in _ASKS.items()],
)
def agent_is_silent(trial: Trial, name: str) -> None:
    uuid = booted(trial)
    with trial.target.silent_agent(trial.driver, uuid):
        began = time.monotonic()
        with trial.unchanged(), trial.raises(errors.GuestAgentUnavailable) as caught:
            _ASKS[name][1](trial, uuid)
        took = time.monotonic() - began
        trial.check(took < 20 * trial.target.time_scale, f"it took {took:.0f} seconds to say so")
        trial.check(caught[0].retryable, "the error does not say that it can be repeated")
    _ASKS[name][1](trial, uuid)


@check(GUEST_010)
def addresses_are_its_own(trial: Trial) -> None:
    first = trial.spawn(vifs=(trial.target.vif("hvct-one"), trial.target.vif("hvct-two"))).uuid
    second = trial.spawn(vifs=(trial.target.vif("hvct-three"),)).uuid
    for uuid in (first, second):
        trial.target.wait_booted(trial.driver, uuid)
        macs = {each.address for each in trial.driver.get_instance(uuid).vifs}
        trial.eventually(
            lambda uuid=uuid, macs=macs: (  # type: ignore[misc]
                {each.mac for each in trial.driver.guest_addresses(uuid)} == macs
            ),
            "not every NIC has an address, or there are addresses of others",
            timeout=60,
        )
        for each in trial.driver.guest_addresses(uuid):
            trial.check(each.source in set(AddressSource), f"{each} has no source")
            if each.source is AddressSource.ARP:
                trial.equal(each.prefix_length, None, "prefix length that a neighbour table knows")


@check(GUEST_010)
def no_nic_no_address(trial: Trial) -> None:
    uuid = booted(trial)
    with trial.unchanged():
        found = trial.driver.guest_addresses(uuid)
    trial.equal(list(found), [], "addresses of an instance without NICs")
    with trial.raises(errors.InstanceNotFound):
        trial.driver.guest_addresses(uuid4())


@check(GUEST_011)
def other_sources_know(trial: Trial) -> None:
    uuid = trial.spawn(vifs=(trial.target.vif("hvct-nic"),)).uuid
    trial.target.wait_booted(trial.driver, uuid)
    with trial.target.silent_agent(trial.driver, uuid):
        found = trial.driver.guest_addresses(uuid)
    sources = {each.source for each in found}
    trial.check(AddressSource.AGENT not in sources, "an agent that is silent gave an address")


@check(GUEST_003, needs=[Capability.GUEST_EXEC])
def account_is_asked_for_by_exec(trial: Trial) -> None:
    uuid = booted(trial)
    run = trial.driver.guest_exec
    with trial.target.account_needed(trial.driver, uuid) as account:
        with trial.unchanged(), trial.raises(errors.InvalidRequest):
            run(uuid, ["/bin/true"])
        wrong = GuestCredentials(user=account.user, password=SecretStr("hvct-wrong"))
        with trial.unchanged(), trial.raises(errors.PermissionDenied) as caught:
            run(uuid, ["/bin/true"], credentials=wrong)
        trial.check("hvct-wrong" not in str(caught[0]), "the error shows the password")
        done = run(uuid, ["/bin/true"], credentials=account)
        trial.equal(done.exit_code, 0, "exit code, with the right account")


def _off_and_on(trial: Trial, observer: Observer, uuid: UUID) -> None:
    trial.driver.power_off(uuid)
    trial.check(not observer.frozen(uuid), "frozen while it is powered off")
    trial.driver.power_on(uuid)


def _reset(trial: Trial, _observer: Observer, uuid: UUID) -> None:
    trial.driver.reboot(uuid, RebootKind.HARD)


@check(GUEST_012, cases=[Case("power-on", (_off_and_on,)), Case("reboot", (_reset,))])
def starts_with_none_frozen(
    trial: Trial, start_anew: Callable[[Trial, Observer, UUID], None]
) -> None:
    if trial.observer is None:
        raise PreconditionMissing("no observer")
    uuid = booted(trial)
    trial.driver.freeze(uuid)
    trial.check(trial.observer.frozen(uuid), "not frozen after freeze()")
    start_anew(trial, trial.observer, uuid)
    trial.target.wait_booted(trial.driver, uuid)
    trial.check(not trial.observer.frozen(uuid), "still frozen after the guest has started anew")
