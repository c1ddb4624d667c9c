"""Markdown: for a merge request, or a page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from hvdrivers.conformance.engine.clauses import Level, catalogue
from hvdrivers.conformance.engine.report import GOOD, CheckResult, Report
from hvdrivers.conformance.engine.summary import (
    FREEDOMS,
    ClauseOutcome,
    clauses_of,
    sentence,
    tally,
)

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$&])")


def to_markdown(report: Report) -> str:
    """The document."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield f"# Conformance of {_plain(report.driver)} {_plain(report.driver_version)}"
    yield ""
    yield f"**{report.verdict.value}**: {sentence(report)}"
    yield ""
    host = report.host
    facts = {
        "host": f"{host.product} {host.product_version}, {host.architecture}" if host else "none",
        "observed": "by an independent observer" if report.observed else "by the driver alone",
        "suite": f"`{report.suite_hash[:12]}`",
        "seed": f"`{report.seed}`",
        "at": f"{report.started_at:%Y-%m-%d %H:%M} UTC, {report.seconds:g} s",
        "checks": str(len(report.results)),
    }
    for name, value in facts.items():
        yield f"- {name}: {value if value.startswith('`') else _plain(value)}"
    yield ""
    yield "| profile | verdict | checks |"
    yield "| --- | --- | --- |"
    for profile in report.profiles:
        yield f"| {profile.profile} | {profile.verdict.value} | {tally(profile)} |"
    for each in report.leftovers:
        yield f"\n**Left behind**: {_plain(each)}"
    bad = [each for each in report.results if each.status not in GOOD]
    if bad:
        yield from ("", "## What is not met", "")
        yield from _unmet(bad)
    free = [each for each in clauses_of(report) if each.level is Level.MAY]
    if free:
        yield from ("", "## What it is free to do", "")
        yield from map(_freedom, free)
    if report.limits:
        yield from ("", "## What of Core its hypervisor cannot do", "")
        for limit, reason in report.limits.items():
            yield f"- `{limit}`: {_plain(reason)}"
    if report.absent:
        yield from ("", "## Capabilities that are not there", "")
        for capability, reason in report.absent.items():
            yield f"- `{capability}`: {_plain(reason)}"


def _unmet(results: Iterable[CheckResult]) -> Iterator[str]:
    clauses = catalogue().clauses
    last = ""
    for each in results:
        if each.clause != last:
            last = each.clause
            rule = clauses[each.clause].rule if each.clause in clauses else ""
            yield f"- **{each.clause}** ({each.level.value}) {_plain(rule)}"
        name = each.check.partition("/")[2]
        yield f"    - {each.status.value}: `{name}`: {_plain(each.message)}"


def _freedom(outcome: ClauseOutcome) -> str:
    rule = catalogue().clauses.get(outcome.id)
    return f"- **{outcome.id}** {_plain(rule.rule if rule else '')}: *{FREEDOMS[outcome.status]}*"


def _plain(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
