"""What the pages about conformance show: the clauses of the suite, and the committed reports.

A page says ``<!-- conformance: clauses -->``, ``<!-- conformance: drivers -->``,
``<!-- conformance: profiles -->``, ``<!-- conformance: capabilities -->``,
``<!-- conformance: limits -->``, ``<!-- conformance: not_shown -->``,
``<!-- conformance: freedoms -->`` or ``<!-- conformance: mutants -->``. Nothing of it is written by
hand. Each report is a page of the site, too: ``reports/DRIVER.html``, which no commit holds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from hvdrivers.conformance.engine.clauses import Check, Clause, Level, by_profile, catalogue
from hvdrivers.conformance.engine.report import GOOD, ProfileVerdict, Report, Status, suite_hash
from hvdrivers.conformance.engine.summary import FREEDOMS, clauses_of, sentence, tier_of
from hvdrivers.conformance.engine.writers import to_html
from hvdrivers.conformance.mutants import Mutant, mutants
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.driver import OPERATIONS, ComputeDriver
from hvdrivers.contract.limits import Limit

REPORTS = Path(__file__).parent.parent / "reports"
MUTANTS = REPORTS / "mutants.json"

_MARKER = re.compile(r"<!-- conformance: (\w+) -->")
_VERDICTS = {
    ProfileVerdict.SUCCESS: "kept",
    ProfileVerdict.PARTIAL: "in part",
    ProfileVerdict.FAILURE: "**broken**",
    ProfileVerdict.NOT_CLAIMED: "·",
}


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _operation(name: str | None) -> str:
    if name is None:
        return ""
    rules = OPERATIONS[name]
    for base in ComputeDriver.__mro__:
        if name in base.__dict__.get("__hv_operations__", {}):
            path = f"hvdrivers.contract.{rules.topic}.{base.__name__}.{name}"
            return f"[`{name}`](reference/{rules.topic}.md#{path})"
    raise LookupError(name)


def _topic(check: Check) -> str:
    return check.function.__module__.rpartition(".")[2]


def clauses() -> str:
    """Every clause, by the file that it stands in."""
    known = catalogue()
    caught: dict[str, list[Mutant]] = {}
    for each in mutants():
        caught.setdefault(each.killed_by, []).append(each)
    topics: dict[str, list[Clause]] = {}
    for clause in known.clauses.values():
        topics.setdefault(_topic(known.of(clause.id)[0]), []).append(clause)
    parts = [
        f"{len(known.clauses)} clauses, {len(known.checks)} checks,"
        f" {sum(map(len, caught.values()))} mutants. Contract {_contract()}."
    ]
    for topic, found in topics.items():
        rows = [
            [
                f'<span id="{each.id}"></span>`{each.id}`',
                _cell(each.rule) + ("" if each.level is Level.MUST else f" *({each.level})*"),
                _operation(each.operation),
                ", ".join(f"`{need.value}`" for need in sorted(each.needs)),
                str(len(known.of(each.id))),
                str(len(caught.get(each.id, []))),
            ]
            for each in found
        ]
        head = ["clause", "rule", "operation", "needs", "checks", "mutants"]
        parts.append(f"## {topic}\n\n{_table(head, rows)}")
    return "\n\n".join(parts)


def _contract() -> str:
    from hvdrivers.conformance.engine.clauses import CONTRACT_VERSION

    return CONTRACT_VERSION


@cache
def reports() -> Mapping[str, Report]:
    """The committed reports, by the name of their file: a driver's, or that of one of its hosts."""
    return {
        path.stem: Report.model_validate_json(path.read_bytes())
        for path in sorted(REPORTS.glob("*.json"))
        if path != MUTANTS
    }


def drivers() -> str:
    """One line for each report."""
    rows = []
    for name, each in reports().items():
        host = each.host
        here = each.suite_hash == suite_hash()
        rows.append(
            [
                f"[`{name}`](reports/{name}.html) {_cell(each.driver_version)}",
                _cell(f"{host.product} {host.product_version}") if host else "none",
                f"{tier_of(each)}, {'independent observer' if each.observed else 'self-observed'}",
                f"**{each.verdict.value}**",
                _cell(sentence(each)),
                f"{each.started_at:%Y-%m-%d}{'' if here else ', by another version of the suite'}",
            ]
        )
    return _table(["driver", "host", "how", "verdict", "standing", "when"], rows)


def profiles() -> str:
    """Verdicts, profile by driver."""
    rows = []
    for profile in sorted(by_profile(catalogue().clauses), key=lambda name: (name != "core", name)):
        cells = []
        for report in reports().values():
            found = next((each for each in report.profiles if each.profile == profile), None)
            cells.append("not run" if found is None else _VERDICTS[found.verdict])
        rows.append([profile, *cells])
    return _table(["profile", *reports()], rows)


def capabilities() -> str:
    """What is declared and proven, capability by driver."""
    needs = {
        each.id: frozenset(need.value for need in each.needs)
        for each in catalogue().clauses.values()
    }
    rows = [
        [
            f"`{capability.value}`",
            *(_proven(report, capability, needs) for report in reports().values()),
        ]
        for capability in Capability
    ]
    return _table(["capability", *reports()], rows)


def _proven(report: Report, capability: Capability, needs: Mapping[str, frozenset[str]]) -> str:
    if capability.value not in report.capabilities:
        return "·"
    own = [each for each in clauses_of(report) if capability.value in needs.get(each.id, ())]
    if any(each.status in {Status.FAILED, Status.ERROR} for each in own):
        return "**broken**"
    if any(each.status not in GOOD for each in own):
        return "in part"
    return "proven" if any(each.status is Status.PASSED for each in own) else "declared"


def freedoms() -> str:
    """What is left to the driver (MAY), clause by driver."""
    found = {name: {one.id: one for one in clauses_of(each)} for name, each in reports().items()}
    rows = []
    for clause in catalogue().clauses.values():
        if clause.level is Level.MAY:
            outcomes = [own.get(clause.id) for own in found.values()]
            cells = [FREEDOMS[each.status] if each else "not run" for each in outcomes]
            rows.append([f"[`{clause.id}`](clauses.md#{clause.id})", _cell(clause.rule), *cells])
    return _table(["clause", "what a driver may do", *found], rows)


def limits() -> str:
    """What of Core a hypervisor cannot do, limit by driver."""
    rows = [
        [
            f"`{limit.value}`",
            *(_cell(each.limits.get(limit.value, "·")) for each in reports().values()),
        ]
        for limit in Limit
    ]
    return _table(["limit", *reports()], rows)


def not_shown() -> str:
    """What a simulator cannot show, check by check."""
    rows = [
        [f"`{name}`", f"`{each.check}`", _cell(each.message)]
        for name, report in reports().items()
        for each in report.results
        if each.status is Status.NOT_SHOWN
    ]
    return _table(["driver", "check", "why"], rows) if rows else "*Nothing.*"


def mutant_score() -> str:
    """What the suite catches, by topic."""
    if not MUTANTS.exists():
        return "*No score is committed yet: `python scripts/conformance_reports.py`.*"
    score: Mapping[str, Any] = json.loads(MUTANTS.read_text(encoding="utf-8"))
    topics: dict[str, list[Mapping[str, Any]]] = {}
    for each in score["results"]:
        topics.setdefault(each["topic"].partition("_")[0], []).append(each)
    rows = [
        [
            topic,
            str(len(found)),
            str(sum(each["killed"] for each in found)),
            str(sum(each["killed_as_intended"] for each in found)),
        ]
        for topic, found in sorted(topics.items())
    ]
    total = [str(score[key]) for key in ("total", "killed", "killed_as_intended")]
    rows.append(["**all**", *(f"**{each}**" for each in total)])
    return _table(["topic", "mutants", "killed", "by their own clause"], rows)


PARTS: Mapping[str, Callable[[], str]] = {
    "clauses": clauses,
    "drivers": drivers,
    "profiles": profiles,
    "capabilities": capabilities,
    "freedoms": freedoms,
    "limits": limits,
    "not_shown": not_shown,
    "mutants": mutant_score,
}


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the reports' pages, so that links to them are checked. Called by mkdocs."""
    for name, each in reports().items():
        page = File.generated(config, f"reports/{name}.html", content=to_html(each))
        files.append(page)
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Fill the parts in. Called by mkdocs for each page."""

    def fill(match: re.Match[str]) -> str:
        depth = page.file.src_uri.count("/")
        return PARTS[match[1]]().replace("(reference/", f"({'../' * depth}reference/")

    return _MARKER.sub(fill, markdown)
