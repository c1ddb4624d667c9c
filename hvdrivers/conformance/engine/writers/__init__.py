"""Reports as files. The name's end says which: .json, .xml (JUnit), .md, .html, .svg (badge)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from hvdrivers.conformance.engine.report import Report
from hvdrivers.conformance.engine.writers.badge import to_svg
from hvdrivers.conformance.engine.writers.html import to_html
from hvdrivers.conformance.engine.writers.json import to_json
from hvdrivers.conformance.engine.writers.junit import to_junit
from hvdrivers.conformance.engine.writers.markdown import to_markdown
from hvdrivers.contract.errors import InvalidRequest

WRITERS: Mapping[str, Callable[[Report], str]] = {
    ".json": to_json,
    ".xml": to_junit,
    ".md": to_markdown,
    ".html": to_html,
    ".svg": to_svg,
}

__all__ = [
    "WRITERS",
    "check_name",
    "to_html",
    "to_json",
    "to_junit",
    "to_markdown",
    "to_svg",
    "write",
]


def check_name(path: Path) -> None:
    """Refuse a name whose end says nothing: before a run, not after it.

    Raises:
        InvalidRequest: the end is none of those above.
    """
    if path.suffix not in WRITERS:
        raise InvalidRequest(
            f"{path.name}: its end does not say what kind of report it is",
            hint=f"one of {', '.join(WRITERS)}",
        )


def write(report: Report, path: Path) -> None:
    """Write a report as its name says."""
    check_name(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(WRITERS[path.suffix](report), encoding="utf-8")
