"""Set the marks of docs/hypervisors.md, and the counts of capabilities in the README:
``python scripts/hypervisor_marks.py``.

A mark says what this repository's driver does. It comes from two sources, never from the author:
what the driver's class declares, and what the committed report of the driver in docs/reports shows.
Only the choice between ``○`` and ``–`` is the author's: both say that the driver does not have it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hvdrivers.conformance.engine.clauses import Clause, catalogue
from hvdrivers.conformance.engine.report import BAD, Report, Status
from hvdrivers.conformance.engine.summary import clauses_of, tier_of
from hvdrivers.conformance.engine.verifying import read_report
from hvdrivers.contract.capabilities import Capability, declared
from hvdrivers.contract.driver import OPERATIONS, Driver
from hvdrivers.contract.limits import Limit
from hvdrivers.contract.states import InstanceState
from hvdrivers.plugins.discovery import load_driver

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "hypervisors.md"
README = DOCS.parent / "README.md"
REPORTS = DOCS / "reports"

LIVE, SIMULATED, DECLARED, PAPER, CANNOT = "●", "◐", "▲", "○", "\N{EN DASH}"
COLUMNS = {"libvirt": "libvirt", "vSphere": "vmware", "Hyper-V": "hyperv"}
"""The columns of the page in order, each with the name of its driver."""

_LEADS_TO = {
    InstanceState.BUILDING: "spawn",
    InstanceState.RUNNING: "power_on",
    InstanceState.PAUSED: "pause",
    InstanceState.SUSPENDED: "suspend",
    InstanceState.STOPPED: "power_off",
    InstanceState.RESCUED: "rescue",
}
"""The operation that leads to each state; no operation leads to CRASHED."""
_CRASH = "LIMIT-002"
"""The clause that makes a machine crash and looks at its state."""
_ROW = re.compile(r"\| `(?P<name>[^`]+)` \| (?P<cells>.*) \|")
_SOURCES = re.compile(r"(?<=<!-- sources -->\n).*?(?=<!-- end of sources -->)", re.DOTALL)


@dataclass(frozen=True)
class Column:
    """One driver: what its class declares, and what its report shows."""

    heading: str
    driver: str
    cls: type[Driver]
    report: Report | None

    @property
    def count(self) -> str:
        """How many capabilities the class declares."""
        return f"{len(declared(self.cls))} of {len(Capability)} capabilities"

    @cached_property
    def _statuses(self) -> dict[str, set[Status]]:
        if self.report is None:
            return {}
        return {
            each.id: {check.status for check in each.checks} for each in clauses_of(self.report)
        }

    def _shown(self, clauses: Iterable[Clause], need: Capability | None) -> bool:
        """Whether the report has a passed check of one of these clauses, and no failed one."""
        if self.report is None or (need is not None and need not in self.report.capabilities):
            return False  # a host can lack what the class declares: nothing was tried there
        found: set[Status] = set()
        for clause in clauses:
            found |= self._statuses.get(clause.id, set())
        return Status.PASSED in found and not found & BAD

    def mark(self, name: str, written: str) -> str:
        """The mark of an operation, a state or a capability.

        Args:
            written: the mark that the page has.
        """
        known = catalogue().clauses.values()
        own: list[Clause]
        need: Capability | None
        has = True
        if name == InstanceState.CRASHED:
            need, own = None, [each for each in known if each.id == _CRASH]
            has = Limit.NEVER_CRASHED not in self.cls.limits
        elif name in set(Capability):
            need = Capability(name)
            own = [
                each
                for each in known
                if need in each.needs
                or (each.operation is not None and OPERATIONS[each.operation].capability == need)
            ]
        else:
            operation = name
            if name not in OPERATIONS or name in {*InstanceState}:
                operation = _LEADS_TO[InstanceState(name)]
            need = OPERATIONS[operation].capability
            own = [each for each in known if each.operation == operation]
        if not has or (need is not None and need not in declared(self.cls)):
            return CANNOT if written == CANNOT else PAPER
        if self.report is None or not self._shown(own, need):
            return DECLARED
        return SIMULATED if self.report.simulated else LIVE

    def source(self) -> str:
        """Where the marks of the column come from, in one line of Markdown."""
        if self.report is None:
            return (
                f"* **{self.heading}**: declared only. The class of the driver `{self.driver}`"
                f" declares {self.count}; no report of it is committed."
            )
        host = self.report.host
        product = f"{host.product} {host.product_version}" if host else "no host"
        return (
            f"* **{self.heading}**: from a report. The driver `{self.driver}` ran against {product}"
            f" ({tier_of(self.report)}, {self.report.started_at:%Y-%m-%d}):"
            f" [report](reports/{self.driver}.json). Its class declares {self.count}."
        )


def columns() -> Iterator[Column]:
    """The columns of the page.

    Raises:
        PluginError: the library that a driver needs is not installed.
    """
    for heading, driver in COLUMNS.items():
        path = REPORTS / f"{driver}.json"
        report = read_report(path) if path.exists() else None
        yield Column(heading, driver, load_driver(driver), report)


def marked(text: str) -> str:
    """The page with the right marks, and with its list of sources."""
    found = list(columns())

    def row(match: re.Match[str]) -> str:
        cells = match["cells"].split(" | ")
        if len(cells) != len(found):
            return match[0]
        new = (
            column.mark(match["name"], cell[0]) + cell[1:]
            for column, cell in zip(found, cells, strict=True)
        )
        return f"| `{match['name']}` | {' | '.join(new)} |"

    sources = "\n" + "\n".join(column.source() for column in found) + "\n\n"
    return _SOURCES.sub(lambda _: sources, _ROW.sub(row, text))


def counted(text: str) -> str:
    """The README with the right counts of capabilities in its table of drivers."""
    for column in columns():
        row = rf"(?m)^(\| `{column.driver}` \|.*?; )\d+ of \d+ capabilities"
        text = re.sub(row, rf"\g<1>{column.count}", text)
    return text


def main() -> None:
    """Write the page and the README anew."""
    for path, anew in ((PAGE, marked), (README, counted)):
        path.write_text(anew(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
