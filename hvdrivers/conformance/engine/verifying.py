"""Reports against themselves, and against each other."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from pydantic import ValidationError

from hvdrivers.conformance.engine.clauses import CONTRACT_VERSION, Level, Tier, catalogue
from hvdrivers.conformance.engine.report import (
    BAD,
    GOOD,
    UNTRIED,
    ProfileVerdict,
    Report,
    Status,
    judge,
    overall,
    suite_hash,
)
from hvdrivers.contract.errors import InvalidRequest
from hvdrivers.invalid import in_words
from hvdrivers.models.base import Model


def read_report(path: Path) -> Report:
    """A report from its JSON.

    Raises:
        InvalidRequest: it cannot be read, or is none.
    """
    try:
        return Report.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise InvalidRequest(
            f"{path} is not a conformance report: {in_words(error, most=1)}",
            hint="docs/conformance-report.schema.json describes one",
        ) from error


def verify(report: Report) -> list[str]:
    """Everything in a report that does not follow from its results and from this suite."""
    return [*_of_the_suite(report), *_of_the_results(report), *_of_the_verdicts(report)]


def _of_the_suite(report: Report) -> list[str]:
    if report.contract_version != CONTRACT_VERSION:
        return [f"it is about contract {report.contract_version}; this is {CONTRACT_VERSION}"]
    if report.suite_hash != suite_hash():
        return [
            f"it was made by another suite: its hash is {report.suite_hash[:12]}, that of this one"
            f" {suite_hash()[:12]}"
        ]
    return []


def _of_the_results(report: Report) -> list[str]:
    found = []
    checks = catalogue().checks
    declared = set(report.capabilities)
    for result in report.results:
        check = checks.get(result.check)
        if check is None:
            found.append(f"{result.check} is no check of this suite")
            continue
        said = (result.clause, result.level, result.profile)
        if said != (check.clause.id, check.clause.level, check.clause.profile):
            found.append(f"{result.check} is not what it says: {', '.join(said)}")
        if result.status is Status.DECLINED and check.clause.level is not Level.MAY:
            found.append(f"{result.check} counts as declined, but no driver is free to")
        if check.tier is Tier.STATIC or report.host is None:
            continue
        missing = {each.value for each in check.all_needs} - declared
        if result.limit is not None and result.limit not in report.limits:
            found.append(f"{result.check} names the limit {result.limit}, which is not declared")
        if result.status is Status.REFUSED and not missing and result.limit is None:
            found.append(f"{result.check} counts as refused, but what it needs is declared")
        if result.status is Status.NOT_SHOWN and not report.simulated:
            found.append(f"{result.check} was not shown, but the host is no simulator")
        if result.status is Status.PASSED and missing:
            found.append(f"{result.check} counts as passed without {', '.join(sorted(missing))}")
    repeated = [
        name for name, count in Counter(e.check for e in report.results).items() if count > 1
    ]
    found += [f"{name} is there more than once" for name in repeated]
    if report.complete:
        absent = set(checks) - {each.check for each in report.results}
        found += [
            f"{name} is missing, though the run is said to be complete" for name in sorted(absent)
        ]
    return found


def _of_the_verdicts(report: Report) -> list[str]:
    found = []
    profiles = judge(report.results)
    said = {each.profile: each for each in report.profiles}
    for profile in profiles:
        claimed = said.pop(profile.profile, None)
        if claimed is None:
            found.append(f"the profile {profile.profile} is missing")
        elif claimed != profile:
            found.append(
                f"{profile.profile}: it says {claimed.verdict}, its results say {profile.verdict}"
                if claimed.verdict is not profile.verdict
                else f"{profile.profile}: its counts are not those of its results"
            )
    found += [f"the profile {name} has no results" for name in said]
    verdict = overall(profiles, leftovers=bool(report.leftovers))
    if report.verdict is not verdict:
        found.append(f"the verdict: it says {report.verdict}, its results say {verdict}")
    return found


class Change(Model):
    """A check whose result is another now."""

    check: str
    old: Status | None
    """None: it was not run."""
    new: Status | None
    message: str = ""


class Difference(Model):
    """Two reports beside each other."""

    worse: tuple[Change, ...]
    better: tuple[Change, ...]
    other: tuple[Change, ...]
    """Neither, or run in one of the two only."""
    capabilities_gained: tuple[str, ...]
    capabilities_lost: tuple[str, ...]
    old_verdict: ProfileVerdict
    new_verdict: ProfileVerdict
    same_suite: bool

    @property
    def regressed(self) -> bool:
        """Whether something that worked does not, or is not there any more."""
        return bool(self.worse or self.capabilities_lost)


_RANK = dict.fromkeys(BAD, 0) | dict.fromkeys(UNTRIED, 1)


def difference(old: Report, new: Report) -> Difference:
    """What has changed from one report to the next."""
    before = {each.check: each for each in old.results}
    after = {each.check: each for each in new.results}
    worse: list[Change] = []
    better: list[Change] = []
    other: list[Change] = []
    for name in dict.fromkeys([*before, *after]):
        was = before[name].status if name in before else None
        now = after[name].status if name in after else None
        if was is now:
            continue
        message = after[name].message if name in after else ""
        change = Change(check=name, old=was, new=now, message=message)
        if was is None or now is None or {was, now} <= GOOD:
            # a check that is new and fails is worse than none
            (worse if was is None and _rank(now) == 0 else other).append(change)
        elif _rank(now) < _rank(was):
            worse.append(change)
        elif _rank(now) > _rank(was):
            better.append(change)
        else:
            other.append(change)
    return Difference(
        worse=tuple(worse),
        better=tuple(better),
        other=tuple(other),
        capabilities_gained=tuple(sorted(set(new.capabilities) - set(old.capabilities))),
        capabilities_lost=tuple(sorted(set(old.capabilities) - set(new.capabilities))),
        old_verdict=old.verdict,
        new_verdict=new.verdict,
        same_suite=old.suite_hash == new.suite_hash,
    )


def _rank(status: Status | None) -> int:
    return 2 if status is None else _RANK.get(status, 2)
