"""Clauses of ``contract/consoles.py``."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from hvdrivers.conformance.engine.clauses import Case, check, clause
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.consoles import CONSOLE_CAPABILITIES
from hvdrivers.contract.power import RebootKind
from hvdrivers.models.console import ConsoleKind
from hvdrivers.models.state import InstanceState

CONS_001 = clause(
    "CONS-001",
    "get_console_log() returns the end of the log, at most max_bytes of it, and says whether there"
    " is more before it",
    operation="get_console_log",
)
CONS_002 = clause(
    "CONS-002",
    "the console log goes on over reboot(), power_off(), power_on(), suspend() and rescue()",
    operation="get_console_log",
)
CONS_003 = clause(
    "CONS-003",
    "the console log begins with the spawn: an instance that never ran has none, also under the"
    " UUID of one that did",
    operation="get_console_log",
)
CONS_004 = clause(
    "CONS-004",
    "get_console() of a kind that is declared names a console of that kind, its host, and where"
    " there is a ticket one that is valid now",
    operation="get_console",
)
CONS_005 = clause(
    "CONS-005",
    "each get_console() makes a new ticket where there are tickets",
    operation="get_console",
)
CONS_006 = clause("CONS-006", "get_console() changes nothing", operation="get_console")
CONS_007 = clause("CONS-007", "a screenshot is a picture of its media type", operation="screenshot")
CONS_008 = clause("CONS-008", "looking at a console changes nothing", operation="get_console_log")

_ALL = 1 << 22
_MAGIC = {
    "image/png": b"\x89PNG\r\n\x1a\n",
    "image/jpeg": b"\xff\xd8\xff",
    "image/x-portable-pixmap": b"P6",
    "image/bmp": b"BM",
}
_KINDS = [
    Case(kind.value, (kind,), needs=frozenset({needed}))
    for kind, needed in CONSOLE_CAPABILITIES.items()
]


def _longer(trial: Trial, uuid: UUID, than: int, when: str) -> bytes:
    """Wait until there is more in the log; all of it."""
    trial.eventually(
        lambda: len(trial.driver.get_console_log(uuid, max_bytes=_ALL).data) > than,
        f"nothing is written to the log {when}",
        timeout=60,
    )
    return trial.driver.get_console_log(uuid, max_bytes=_ALL).data


def _spoken(trial: Trial) -> UUID:
    """A stopped instance whose guest has written something; nobody writes to its log any more."""
    uuid = trial.spawn().uuid
    _longer(trial, uuid, 16, "by a guest that runs")
    trial.driver.power_off(uuid)
    return uuid


@check(CONS_001)
def end_of_the_log(trial: Trial) -> None:
    uuid = _spoken(trial)
    whole = trial.driver.get_console_log(uuid, max_bytes=_ALL)
    trial.check(not whole.truncated, "a log of a few lines is truncated")
    size = len(whole.data)
    for limit in (1, 7, size // 2, size - 1, size, size + 1):
        log = trial.driver.get_console_log(uuid, max_bytes=limit)
        expected = whole.data[-limit:]
        trial.check(log.data == expected, f"max_bytes={limit} of {size} is not the end of the log")
        trial.equal(log.truncated, limit < size, f"truncated, with max_bytes={limit} of {size}")
    trial.equal(trial.other.get_console_log(uuid, max_bytes=_ALL), whole, "log elsewhere")


@check(CONS_002)
def goes_on(trial: Trial) -> None:
    uuid = _spoken(trial)
    before = trial.driver.get_console_log(uuid, max_bytes=_ALL).data
    for name in ("power_on", "reboot"):
        getattr(trial.driver, name)(uuid)
        now = _longer(trial, uuid, len(before), f"after {name}()")
        trial.check(now.startswith(before), f"{name}() began a new log")
        before = now
    trial.target.wait_booted(trial.driver, uuid)
    before = trial.driver.get_console_log(uuid, max_bytes=_ALL).data
    trial.driver.reboot(uuid, RebootKind.SOFT)
    now = _longer(trial, uuid, len(before), "after a soft reboot()")
    trial.check(now.startswith(before), "a soft reboot() began a new log")


@check(
    CONS_002,
    cases=[
        Case("suspend", (InstanceState.SUSPENDED,), needs=frozenset({Capability.SUSPEND})),
        Case("rescue", (InstanceState.RESCUED,), needs=frozenset({Capability.RESCUE})),
    ],
)
def goes_on_elsewhere(trial: Trial, state: InstanceState) -> None:
    uuid = _spoken(trial)
    before = trial.driver.get_console_log(uuid, max_bytes=_ALL).data
    if state is InstanceState.RESCUED:
        trial.driver.rescue(uuid, trial.target.image())
    else:
        trial.driver.power_on(uuid)
        trial.driver.suspend(uuid)
    now = trial.driver.get_console_log(uuid, max_bytes=_ALL).data
    trial.check(now.startswith(before), f"the log of a {state} machine begins anew")


@check(CONS_003)
def begins_with_the_spawn(trial: Trial) -> None:
    uuid = _spoken(trial)
    trial.driver.destroy(uuid)
    trial.spawn(uuid=uuid, start=False)
    log = trial.driver.get_console_log(uuid)
    trial.equal((log.data, log.truncated), (b"", False), "log of an instance that never ran")


@check(CONS_004, cases=_KINDS)
def names_a_console(trial: Trial, kind: ConsoleKind) -> None:
    uuid = trial.spawn().uuid
    access = trial.driver.get_console(uuid, kind)
    trial.equal(access.kind, kind, "kind of the console")
    trial.check(access.host, "there is no host to connect to")
    trial.check(access.port or access.tls_port or access.path, "there is neither a port nor a path")
    if access.expires_at is not None:
        trial.check(access.expires_at > datetime.now(UTC), "the ticket has expired already")


@check(CONS_005, cases=_KINDS)
def ticket_is_new(trial: Trial, kind: ConsoleKind) -> None:
    uuid = trial.spawn().uuid
    other = trial.spawn().uuid
    found = [trial.driver.get_console(each, kind).ticket for each in (uuid, uuid, other)]
    tickets = [each.get_secret_value() for each in found if each is not None]
    trial.check(len(tickets) in {0, 3}, "some calls make a ticket and some do not")
    trial.check(len(set(tickets)) == len(tickets), "two calls gave the same ticket")


@check(CONS_006, cases=_KINDS)
def opening_changes_nothing(trial: Trial, kind: ConsoleKind) -> None:
    uuid = trial.spawn().uuid
    with trial.unchanged():
        trial.driver.get_console(uuid, kind)


@check(CONS_007)
def is_a_picture(trial: Trial) -> None:
    uuid = trial.spawn().uuid
    states = [InstanceState.RUNNING]
    if trial.has(Capability.PAUSE):
        states.append(InstanceState.PAUSED)
    for state in states:
        if state is InstanceState.PAUSED:
            trial.driver.pause(uuid)
        with trial.unchanged():
            shot = trial.driver.screenshot(uuid)
        trial.check(shot.media_type.startswith("image/"), f"{shot.media_type} is no picture")
        magic = _MAGIC.get(shot.media_type, b"")
        trial.check(
            len(shot.data) > len(magic) and shot.data.startswith(magic),
            f"the picture of a {state} machine is no {shot.media_type}",
        )


@check(CONS_008)
def looking_changes_nothing(trial: Trial) -> None:
    uuid = _spoken(trial)
    with trial.unchanged():
        first = trial.driver.get_console_log(uuid)
    trial.equal(trial.driver.get_console_log(uuid), first, "the log, read a second time")
