"""What a report comes down to: clauses instead of checks, a level, a sentence, a badge's text."""

from __future__ import annotations

from dataclasses import dataclass

from hvdrivers.conformance.engine.clauses import Level
from hvdrivers.conformance.engine.report import (
    BAD,
    GOOD,
    CheckResult,
    ProfileResult,
    ProfileVerdict,
    Report,
    Status,
)

_WORST_FIRST = (
    Status.FAILED,
    Status.ERROR,
    Status.PRECONDITION_MISSING,
    Status.NOT_SHOWN,
    Status.KNOWN_ISSUE,
    Status.DECLINED,
    Status.PASSED,
    Status.REFUSED,
)


FREEDOMS = {
    Status.PASSED: "it does",
    Status.DECLINED: "it does not",
    Status.REFUSED: "not declared",
    Status.FAILED: "it does, and does not do it right",
    Status.ERROR: "not known",
    Status.PRECONDITION_MISSING: "not tried",
    Status.NOT_SHOWN: "not shown by its simulator",
    Status.KNOWN_ISSUE: "not known",
}
"""What the status of a MAY clause says of the driver."""


@dataclass(frozen=True)
class ClauseOutcome:
    """One clause: as good as the worst of its checks."""

    id: str
    level: Level
    profile: str
    status: Status
    checks: tuple[CheckResult, ...]

    @property
    def met(self) -> bool:
        """Whether the driver keeps it, refuses it as it must, or declines it as it may."""
        return self.status in GOOD


def clauses_of(report: Report) -> list[ClauseOutcome]:
    """The clauses of a report, in its order."""
    groups: dict[str, list[CheckResult]] = {}
    for result in report.results:
        groups.setdefault(result.clause, []).append(result)
    return [
        ClauseOutcome(
            id=clause,
            level=group[0].level,
            profile=group[0].profile,
            status=min((each.status for each in group), key=_WORST_FIRST.index),
            checks=tuple(group),
        )
        for clause, group in groups.items()
    ]


def tier_of(report: Report) -> str:
    """``static`` (no host was asked), ``simulated`` or ``live``."""
    if report.host is None:
        return "static"
    return "simulated" if report.simulated else "live"


@dataclass(frozen=True)
class Standing:
    """The level that a report shows."""

    name: str
    """``Core``, ``Core+3`` (three more profiles) or ``Full``; ``clauses`` of a run of some."""
    reached: bool
    """Whether every MUST of it is met, in a complete run that left nothing behind."""
    met: int
    total: int
    """MUST clauses of the level."""
    failing: tuple[str, ...]
    """Profiles that the driver claims and does not keep."""

    @property
    def ratio(self) -> str:
        """``62/62``."""
        return f"{self.met}/{self.total}"


def standing_of(report: Report) -> Standing:
    """The level: Core, Core and some more profiles, or all of them. A run that was not complete
    has none."""
    verdicts = {each.profile: each.verdict for each in report.profiles}
    if not report.complete:
        must = [each for each in clauses_of(report) if each.level is Level.MUST]
        return Standing("clauses", False, sum(each.met for each in must), len(must), ())
    core = verdicts.get("core") is ProfileVerdict.SUCCESS
    more = {
        profile
        for profile, verdict in verdicts.items()
        if verdict is ProfileVerdict.SUCCESS and profile != "core"
    }
    others = set(verdicts) - {"core"}
    name = "Core"
    counted = {"core"}
    if core and more:
        name = "Full" if more == others else f"Core+{len(more)}"
        counted |= more
    must = [
        each for each in clauses_of(report) if each.profile in counted and each.level is Level.MUST
    ]
    return Standing(
        name=name,
        reached=core and not report.leftovers,
        met=sum(each.met for each in must),
        total=len(must),
        failing=tuple(
            sorted(
                each.profile
                for each in report.profiles
                if each.verdict in {ProfileVerdict.FAILURE, ProfileVerdict.PARTIAL}
            )
        ),
    )


def sentence(report: Report) -> str:
    """``Core 62/62 · live · contract 1.0``: level, ratio of clauses, tier."""
    found = standing_of(report)
    parts = [f"{found.name} {found.ratio}"]
    if not report.complete:
        parts.append("only in part")
    elif not found.reached:
        parts.append("not reached")
    elif found.failing:
        parts.append(f"{len(found.failing)} profiles failing")
    parts += [tier_of(report), f"contract {report.contract_version}"]
    return " · ".join(parts)


def remark(report: Report) -> str | None:
    """What a SHOULD that is not met means for the verdict, where there is one."""
    checks = [
        each for each in report.results if each.level is Level.SHOULD and each.status not in GOOD
    ]
    if not checks:
        return None
    failed = sum(each.status in BAD for each in checks)
    counts = {"failed": failed, "not tried": len(checks) - failed}
    shown = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    return (
        f"warning: checks of SHOULD clauses: {shown}. A SHOULD is a warning: verdict, level and"
        " exit status count MUST clauses alone"
    )


def colour(report: Report) -> str:
    """``green``, ``amber`` or ``red``."""
    if report.verdict is ProfileVerdict.FAILURE:
        return "red"
    if report.verdict is ProfileVerdict.SUCCESS and standing_of(report).reached:
        return "green"
    return "amber"


def tally(profile: ProfileResult) -> str:
    """A profile's counts in words: ``12 passed, 1 failed``."""
    counts = {
        "passed": profile.passed,
        "refused as declared": profile.refused,
        "failed": profile.failed,
        "precondition missing": profile.missing,
        "not shown by the simulator": profile.not_shown,
        "known issue": profile.known,
        "declined": profile.declined,
    }
    return ", ".join(f"{count} {word}" for word, count in counts.items() if count) or "nothing"
