"""Reports: what a run found, as data. ``docs`` and badges are made from these, never by hand."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, Field

from hvdrivers.conformance.engine.clauses import Level, catalogue
from hvdrivers.models.base import Model
from hvdrivers.models.host import HostInfo

SCHEMA_VERSION = 1


def _writable(text: str) -> str:
    # what a driver raises may hold what a tenant wrote: half of a surrogate pair fits in no file
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


Text = Annotated[str, AfterValidator(_writable)]
"""Text that any encoding of a report can hold."""


class Status(StrEnum):
    """How a check ended. There is no plain skip."""

    PASSED = "passed"
    FAILED = "failed"
    """The driver broke the clause."""
    ERROR = "error"
    """The check could not be done: an unexpected exception, of the driver or of the suite."""
    REFUSED = "refused-as-declared"
    """The driver does not declare what the clause needs, and refuses it as it must; or it declares
    that its hypervisor cannot do it (``limit``): a pass."""
    NOT_SHOWN = "not-shown"
    """The simulator cannot show it, and its target says why. Never a pass: it counts against the
    level. A live run has none."""
    PRECONDITION_MISSING = "precondition-missing"
    """The target could not give what the check needs. Counts against the level."""
    KNOWN_ISSUE = "known-issue"
    """Failed, as an entry with a bug and a date says it will."""
    DECLINED = "declined"
    """Of a MAY clause: the driver does not do it, as it is free to. Counts for nothing."""


GOOD = frozenset({Status.PASSED, Status.REFUSED, Status.DECLINED})
BAD = frozenset({Status.FAILED, Status.ERROR})
UNTRIED = frozenset({Status.PRECONDITION_MISSING, Status.NOT_SHOWN, Status.KNOWN_ISSUE})
"""Of a MUST: nobody knows whether the driver keeps it, or it is known not to."""


class CheckResult(Model):
    """One check."""

    check: str
    clause: str
    level: Level
    profile: str
    status: Status
    message: Text = ""
    limit: str | None = None
    """The limit that the driver declares and that the check would break."""
    detail: Text = ""
    """Where it failed: a traceback without secrets."""
    seconds: float = 0.0


class ProfileVerdict(StrEnum):
    """How a driver does in one profile."""

    SUCCESS = "success"
    PARTIAL = "partial"
    """Nothing failed, but something that a MUST needs could not be tried."""
    FAILURE = "failure"
    NOT_CLAIMED = "not-claimed"
    """The driver declares nothing of it, and refuses it."""


class ProfileResult(Model):
    """One profile."""

    profile: str
    verdict: ProfileVerdict
    passed: int
    failed: int
    refused: int
    missing: int
    known: int
    declined: int = 0
    not_shown: int = 0


class Latency(Model):
    """How long the calls of one operation took, seconds."""

    operation: str
    calls: int
    p50: float
    p95: float


class Report(Model):
    """One run."""

    schema_version: Literal[1] = 1
    contract_version: str
    suite_hash: str
    """SHA-256 over the suite's own files: two reports with the same hash ran the same checks."""
    driver: str
    driver_version: str
    host: HostInfo | None
    simulated: bool
    observed: bool
    """Whether an independent observer stood beside the driver; otherwise it is self-observed."""
    seed: int
    started_at: AwareDatetime
    seconds: float
    complete: bool
    """False: only some profiles or clauses were asked for."""
    capabilities: tuple[str, ...]
    absent: dict[str, str]
    """Capabilities that are not there, and why."""
    limits: dict[str, str] = Field(default_factory=dict)
    """What of Core the hypervisor cannot do, and why."""
    takes: tuple[str, ...] = ()
    """Optional fields of specs, volumes and NICs that the driver honours."""
    results: tuple[CheckResult, ...]
    profiles: tuple[ProfileResult, ...]
    verdict: ProfileVerdict
    leftovers: tuple[Text, ...] = ()
    latencies: tuple[Latency, ...] = ()


def judge(results: Iterable[CheckResult]) -> list[ProfileResult]:
    """The verdict of each profile, from its results alone (``verify`` computes it again)."""
    groups: dict[str, list[CheckResult]] = {}
    for result in results:
        groups.setdefault(result.profile, []).append(result)
    return [_judge(profile, group) for profile, group in sorted(groups.items())]


def _judge(profile: str, results: list[CheckResult]) -> ProfileResult:
    must = [each for each in results if each.level is Level.MUST]
    count = {status: sum(each.status is status for each in results) for status in Status}
    if any(each.status in BAD for each in must):
        verdict = ProfileVerdict.FAILURE
    elif any(each.status in UNTRIED for each in must):
        verdict = ProfileVerdict.PARTIAL
    elif all(each.status is Status.REFUSED for each in results):
        verdict = ProfileVerdict.NOT_CLAIMED
    else:
        verdict = ProfileVerdict.SUCCESS
    return ProfileResult(
        profile=profile,
        verdict=verdict,
        passed=count[Status.PASSED],
        failed=count[Status.FAILED] + count[Status.ERROR],
        refused=count[Status.REFUSED],
        missing=count[Status.PRECONDITION_MISSING],
        known=count[Status.KNOWN_ISSUE],
        declined=count[Status.DECLINED],
        not_shown=count[Status.NOT_SHOWN],
    )


def overall(profiles: Iterable[ProfileResult], *, leftovers: bool) -> ProfileVerdict:
    """The verdict of a run: that of its worst profile. Leftovers are a failure of their own."""
    verdicts = {each.verdict for each in profiles}
    for worst in (ProfileVerdict.FAILURE, ProfileVerdict.PARTIAL):
        if worst in verdicts or (leftovers and worst is ProfileVerdict.FAILURE):
            return worst
    return ProfileVerdict.SUCCESS


def suite_hash() -> str:
    """What the suite is made of."""
    catalogue()
    digest = hashlib.sha256()
    rooms = (Path(__file__).parent, Path(__file__).parents[1] / "checks")
    for path in sorted(each for room in rooms for each in room.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
