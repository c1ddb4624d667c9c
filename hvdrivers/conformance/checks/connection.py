"""Clauses of ``contract/connection.py``, and what a driver says about itself."""

from __future__ import annotations

import re
import time

from hvdrivers.conformance.engine.assertions import expect_state
from hvdrivers.conformance.engine.clauses import Case, check, clause
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, declared
from hvdrivers.models.state import InstanceState

CONN_001 = clause("CONN-001", "ping() of a host that answers succeeds", operation="ping")
CONN_002 = clause(
    "CONN-002",
    "host() names driver, product, versions, architecture and host, the same on every connection",
    operation="host",
)
CONN_003 = clause(
    "CONN-003",
    "close() may be called twice, ends this connection alone, and leaves machines as they are",
    operation="close",
)
CONN_004 = clause(
    "CONN-004",
    "every other operation on a closed driver raises ConnectionFailed",
    operation="close",
)
CONN_005 = clause(
    "CONN-005",
    "the capabilities are those that the class declares, but for what why_not() gives a reason for",
)
CONN_006 = clause(
    "CONN-006", "every connection to the same host has the same capabilities and the same reasons"
)
CONN_007 = clause(
    "CONN-007",
    "while the host does not answer an operation raises ConnectionFailed, and the same driver"
    " works again when it answers",
    operation="ping",
)
CONN_008 = clause("CONN-008", "the host's label is one line of printable text without credentials")
CONN_009 = clause(
    "CONN-009",
    "connect() to an address at which there is no host raises ConnectionFailed, which is retryable,"
    " within the limit for an attempt and five seconds more",
)

_ALLOWANCE = 5.0
"""Seconds that a call may come back later than its limit."""


@check(CONN_001)
def answers(trial: Trial) -> None:
    for driver in (trial.driver, trial.connect(), trial.driver):
        driver.ping()
        trial.check(True, "")


@check(CONN_002)
def says_what_it_is(trial: Trial) -> None:
    host = trial.driver.host()
    trial.equal(host.driver, trial.driver.driver_name, "name of the driver")
    trial.equal(host.driver, trial.target.driver_class().driver_name, "name that the class has")
    for field in ("product", "product_version", "api_version", "architecture", "hostname"):
        value = getattr(host, field)
        trial.check(value.strip() and value.isprintable(), f"{field} is {value!r}")
    for field in ("product_version", "api_version"):
        trial.check(re.search(r"\d", getattr(host, field)), f"{field} has no number in it")
    architecture = host.architecture
    trial.check(
        re.fullmatch(r"[a-z0-9_]+", architecture) and architecture not in {"amd64", "x64", "arm64"},
        f"{architecture!r} is not what `uname -m` says",
    )
    trial.equal(trial.driver.host(), host, "the second answer")
    trial.equal(trial.connect().host(), host, "the answer on another connection")


@check(CONN_003)
def ends_itself_alone(trial: Trial) -> None:
    first, second = trial.target.connect(), trial.connect()
    info = trial.spawn()
    first.set_metadata(info.uuid, {"hvct.a": "b"})
    with trial.unchanged():
        first.close()
        first.close()
        for driver in (second, trial.driver):
            trial.equal(driver.get_instance(info.uuid).state, InstanceState.RUNNING, "the machine")
        trial.connect().ping()
    second.set_metadata(info.uuid, {"hvct.a": "c"})
    expect_state(trial, info.uuid, InstanceState.RUNNING, "after a connection was closed")


@check(CONN_004)
def closed_is_closed(trial: Trial) -> None:
    uuid = trial.spawn(start=False).uuid
    closed = trial.target.connect()
    closed.ping()
    closed.close()
    with trial.unchanged():
        for call in (
            closed.ping,
            closed.host,
            closed.list_instances,
            lambda: closed.get_instance(uuid),
            lambda: closed.power_on(uuid),
            lambda: closed.destroy(uuid),
            closed.watch,
        ):
            with trial.raises(errors.ConnectionFailed) as caught:
                call()
            trial.check(not any(each.retryable for each in caught), "it says that a retry helps")


@check(CONN_005)
def reasons_are_complete(trial: Trial) -> None:
    has = trial.driver.capabilities
    code = declared(trial.target.driver_class())
    trial.equal(has - code, frozenset(), "capabilities that no code implements")
    narrowed = trial.driver.narrowed()
    trial.equal(code - has, frozenset(narrowed), "capabilities that this host has not")
    for capability in Capability:
        reason = trial.driver.why_not(capability)
        trial.equal(reason is None, capability in has, f"whether {capability} lacks a reason")
        if reason is not None:
            trial.check(
                len(reason.strip()) >= 8 and reason.isprintable(), f"{capability}: {reason!r}"
            )


@check(CONN_006)
def all_say_the_same(trial: Trial) -> None:
    other = trial.connect()
    trial.equal(other.capabilities, trial.driver.capabilities, "capabilities of another connection")
    trial.equal(other.narrowed(), trial.driver.narrowed(), "its reasons")
    trial.equal(other.host_label, trial.driver.host_label, "its label")


@check(CONN_007)
def comes_back(trial: Trial) -> None:
    uuid = trial.spawn().uuid
    driver = trial.connect()
    driver.ping()
    before = driver.get_instance(uuid)
    with trial.target.broken_connection(driver):
        # it may be back already: then it works
        for call in (driver.ping, lambda: driver.get_instance(uuid), lambda: driver.power_on(uuid)):
            try:
                call()
            except errors.HypervisorError as error:
                trial.check(
                    isinstance(error, errors.ConnectionFailed | errors.OutcomeUnknown),
                    f"raised {type(error).__name__} ({error}), not ConnectionFailed",
                )
                trial.check(error.retryable, "the error says that a retry is of no use")

    def works() -> bool:
        try:
            driver.ping()
        except errors.ConnectionFailed:
            return False
        return True

    trial.eventually(works, "the driver does not come back after the connection has", timeout=60.0)
    trial.equal(driver.get_instance(uuid), before, "the instance after that")
    driver.power_off(uuid)
    trial.equal(driver.get_instance(uuid).state, InstanceState.STOPPED, "after power_off()")


@check(CONN_008)
def label_is_harmless(trial: Trial) -> None:
    for text in (trial.driver.host_label, repr(trial.driver), str(trial.driver)):
        trial.check(text and text.isprintable(), f"{text!r} is not one line of printable text")
        trial.check(
            not re.search(r"//[^/\s]*:[^/\s]*@", text), "a user's password stands in the label"
        )


@check(CONN_009, cases=[Case("refused", (False,)), Case("silent", (True,))])
def nowhere_is_no_host(trial: Trial, silent: bool) -> None:
    limit = 1.0 * trial.target.time_scale
    began = time.monotonic()
    with trial.raises(errors.ConnectionFailed) as caught:
        trial.target.connect_nowhere(limit, silent=silent).close()
    took = time.monotonic() - began
    most = limit + _ALLOWANCE * trial.target.time_scale
    trial.check(took <= most, f"it took {took:.1f} seconds, with a limit of {limit:g}")
    trial.check(all(each.retryable for each in caught), "it says that a retry is of no use")
