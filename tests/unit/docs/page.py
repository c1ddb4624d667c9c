"""Read docs/hypervisors.md: its tables, and the calls that its cells name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
FACTS = Path(__file__).parent / "facts"
PAGE = DOCS / "hypervisors.md"

LIBVIRT = re.compile(r"(vir[A-Z]\w*|libvirt_qemu)\.(\w+)")
CONSTANT = re.compile(r"(VIR_[A-Z0-9_]+)")
VSPHERE = re.compile(r"([A-Z]\w+)\.(\w+)")
_CMDLET = re.compile(r"([A-Z][a-zA-Z]+-[A-Z]\w+)((?: -?\w+)*)")


def tables() -> dict[str, list[list[str]]]:
    """The rows under each second-level heading, as lists of cells."""
    found: dict[str, list[list[str]]] = {}
    heading = ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            heading = line[3:]
        elif line.startswith("| `") and heading:
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            found.setdefault(heading, []).append([cells[0].strip("` "), *cells[1:]])
    return found


def spans(column: int) -> Iterator[str]:
    """Everything written as code in one column (1 libvirt, 2 vSphere, 3 Hyper-V)."""
    for rows in tables().values():
        for row in rows:
            yield from re.findall(r"`([^`]+)`", row[column])


def names(column: int, pattern: re.Pattern[str]) -> set[tuple[str, ...]]:
    """The parts of every code span of a column that is a call of this form."""
    return {match.groups() for span in spans(column) if (match := pattern.fullmatch(span))}


def cmdlets() -> Iterator[tuple[str, list[str]]]:
    """Each cmdlet of the Hyper-V column with the parameters that the page gives it."""
    for span in spans(3):
        match = _CMDLET.fullmatch(span)
        if match:
            yield match[1], [word[1:] for word in match[2].split() if word.startswith("-")]
