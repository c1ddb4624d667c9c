"""HTML: one file, nothing loaded from elsewhere, light and dark, readable without its script."""

from __future__ import annotations

import re
from html import escape
from importlib.resources import files

from hvdrivers.conformance.engine.clauses import Level, catalogue
from hvdrivers.conformance.engine.report import (
    CheckResult,
    ProfileResult,
    ProfileVerdict,
    Report,
    Status,
)
from hvdrivers.conformance.engine.summary import ClauseOutcome, clauses_of, colour, sentence, tally

_SHADES = {
    Status.PASSED: "good",
    Status.REFUSED: "calm",
    Status.DECLINED: "calm",
    Status.KNOWN_ISSUE: "warn",
    Status.PRECONDITION_MISSING: "warn",
    Status.NOT_SHOWN: "warn",
    Status.FAILED: "bad",
    Status.ERROR: "bad",
}
_VERDICTS = {
    ProfileVerdict.SUCCESS: "good",
    ProfileVerdict.PARTIAL: "warn",
    ProfileVerdict.FAILURE: "bad",
    ProfileVerdict.NOT_CLAIMED: "calm",
}
_COLOURS = {"green": "good", "amber": "warn", "red": "bad"}
_PLACE = re.compile(r"\{\{(\w+)\}\}")


def to_html(report: Report) -> str:
    """The page."""
    parts = {
        "title": escape(f"Conformance of {report.driver}"),
        "driver": escape(report.driver),
        "version": escape(report.driver_version),
        "shade": _COLOURS[colour(report)],
        "verdict": escape(report.verdict.value),
        "sentence": escape(sentence(report)),
        "facts": _facts(report),
        "leftovers": _leftovers(report),
        "profiles": "".join(map(_profile, report.profiles)),
        "filters": _filters(report),
        "clauses": "".join(map(_clause, clauses_of(report))),
        "absent": _absent(report),
        "latencies": _latencies(report),
    }
    page = files(__package__).joinpath("report.html").read_text(encoding="utf-8")
    # one pass: what a driver's message says is never taken for a place to fill
    return _PLACE.sub(lambda found: parts[found[1]], page)


def _tag(text: str, shade: str) -> str:
    return f'<span class="tag {shade}">{escape(text)}</span>'


def _facts(report: Report) -> str:
    host = report.host
    facts = {
        "Host": f"{host.product} {host.product_version}, {host.architecture}" if host else "none",
        "Observer": "independent" if report.observed else "none: self-observed",
        "When": f"{report.started_at:%Y-%m-%d %H:%M} UTC, in {report.seconds:g} s",
        "Checks": f"{len(report.results)}, seed {report.seed}",
        "Suite": report.suite_hash[:16],
        "Capabilities": f"{len(report.capabilities)} declared, {len(report.absent)} not there",
    }
    return "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in facts.items()
    )


def _leftovers(report: Report) -> str:
    if not report.leftovers:
        return ""
    items = "".join(f"<li>{escape(each)}</li>" for each in report.leftovers)
    return f'<div class="left"><b>Left behind</b><ul>{items}</ul></div>'


def _profile(profile: ProfileResult) -> str:
    counts = {
        "good": profile.passed,
        "calm": profile.refused + profile.declined,
        "warn": profile.missing + profile.known,
        "bad": profile.failed,
    }
    bar = "".join(
        f'<i class="{shade}" style="flex:{count}"></i>' for shade, count in counts.items() if count
    )
    return (
        f'<button class="profile" aria-pressed="false" data-profile="{escape(profile.profile)}">'
        f"<b>{escape(profile.profile)}"
        f"{_tag(profile.verdict.value, _VERDICTS[profile.verdict])}</b>"
        f'<span class="bar">{bar}</span><small>{escape(tally(profile))}</small></button>'
    )


def _filters(report: Report) -> str:
    outcomes = [each.status for each in clauses_of(report)]
    return "".join(
        f'<label><input type="checkbox" value="{status.value}" checked>'
        f"{_tag(f'{status.value} {outcomes.count(status)}', _SHADES[status])}</label>"
        for status in Status
        if status in outcomes
    )


def _clause(outcome: ClauseOutcome) -> str:
    known = catalogue().clauses.get(outcome.id)
    level = outcome.level.value
    shown = "" if outcome.level is Level.MUST else f'<span class="level">{level}</span>'
    opened = "" if outcome.met else " open"
    return (
        f'<div class="clause" id="{escape(outcome.id)}" data-profile="{escape(outcome.profile)}"'
        f' data-status="{outcome.status.value}"><details{opened}><summary>'
        f'<span class="id">{escape(outcome.id)}{shown}</span>'
        f'<span class="rule">{escape(known.rule if known else "")}</span>'
        f"{_tag(outcome.status.value, _SHADES[outcome.status])}</summary>"
        f'<ul class="checks">{"".join(map(_check, outcome.checks))}</ul></details></div>'
    )


def _check(result: CheckResult) -> str:
    message = f"<p>{escape(result.message)}</p>" if result.message else ""
    detail = f"<pre>{escape(result.detail)}</pre>" if result.detail else ""
    return (
        f"<li>{_tag(result.status.value, _SHADES[result.status])}"
        f"<code>{escape(result.check.partition('/')[2])}</code>"
        f'<span class="time">{result.seconds:.2f} s</span>{message}{detail}</li>'
    )


def _absent(report: Report) -> str:
    if not report.absent:
        return ""
    rows = "".join(
        f"<tr><td><code>{escape(capability)}</code></td><td>{escape(reason)}</td></tr>"
        for capability, reason in report.absent.items()
    )
    return (
        "<h2>Capabilities that are not there</h2>"
        f"<table><tr><th>Capability</th><th>Why</th></tr>{rows}</table>"
    )


def _latencies(report: Report) -> str:
    if not report.latencies:
        return ""
    rows = "".join(
        f'<tr><td><code>{escape(each.operation)}</code></td><td class="n">{each.calls}</td>'
        f'<td class="n">{each.p50 * 1000:.1f}</td><td class="n">{each.p95 * 1000:.1f}</td></tr>'
        for each in report.latencies
    )
    return (
        '<h2>How long operations took</h2><table><tr><th>Operation</th><th class="n">Calls</th>'
        f'<th class="n">p50, ms</th><th class="n">p95, ms</th></tr>{rows}</table>'
    )
