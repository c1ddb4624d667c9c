"""docs/hypervisors.md covers the whole contract, and names only calls that exist."""

from __future__ import annotations

import json
import re
from collections import Counter
from types import MappingProxyType

import pytest

from hvdrivers.conformance.engine.clauses import catalogue
from hvdrivers.conformance.engine.report import Report, Status
from hvdrivers.conformance.engine.verifying import read_report
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.driver import OPERATIONS
from hvdrivers.contract.limits import Limit
from hvdrivers.contract.states import InstanceState
from hvdrivers.fake.driver import FakeDriver
from scripts import hypervisor_marks as marks
from tests.unit.docs.page import (
    CONSTANT,
    FACTS,
    LIBVIRT,
    PAGE,
    ROOT,
    VSPHERE,
    cmdlets,
    names,
    tables,
)

CANNOT = "\N{EN DASH}"
MARKS = {"●", "▲", "◐", "○", CANNOT}


def _facts(name: str) -> dict[str, list[str]]:
    facts: dict[str, list[str]] = json.loads((FACTS / f"{name}.json").read_text())
    return facts


@pytest.mark.parametrize(
    ("heading", "wanted"),
    [
        ("Operations", list(OPERATIONS)),
        ("States", [state.value for state in InstanceState]),
        ("Capabilities", [capability.value for capability in Capability]),
    ],
)
def test_one_row_for_each_and_none_for_unknown_ones(heading: str, wanted: list[str]) -> None:
    assert Counter(row[0] for row in tables()[heading]) == Counter(wanted)


def test_operations_stand_under_their_topic() -> None:
    topics = {}
    heading = ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("### "):
            heading = line[4:].lower()
        elif line.startswith("## "):
            heading = ""
        elif line.startswith("| `") and heading:
            topics[line.split("`")[1]] = heading
    assert topics == {name: rules.topic for name, rules in OPERATIONS.items()}


def test_every_cell_begins_with_its_standing() -> None:
    assert all(tables().values())
    for rows in tables().values():
        for row in rows:
            assert len(row) == 4, row
            assert {cell[:1] for cell in row[1:]} <= MARKS, row


def test_what_cannot_says_why() -> None:
    for row in tables()["Operations"]:
        assert CANNOT not in row[1:], f"{row[0]}: cannot, because?"


def test_cmdlets_and_their_parameters_are_documented() -> None:
    facts = _facts("hyperv")
    used = list(cmdlets())
    assert used
    for cmdlet, parameters in used:
        assert set(parameters) <= set(facts[cmdlet]), cmdlet
    assert {cmdlet for cmdlet, _ in used} == set(facts)


def test_libvirt_calls_exist() -> None:
    libvirt = pytest.importorskip("libvirt")
    libvirt_qemu = pytest.importorskip("libvirt_qemu")
    constants, calls = names(1, CONSTANT), names(1, LIBVIRT)
    assert constants
    assert calls
    for (constant,) in constants:
        assert hasattr(libvirt, constant)
    for owner, member in calls:
        home = libvirt_qemu if owner == "libvirt_qemu" else getattr(libvirt, owner)
        assert hasattr(home, member), f"{owner}.{member}"


def test_vsphere_calls_exist() -> None:
    facts = _facts("vsphere")
    assert names(2, VSPHERE) == {(owner, name) for owner, all_ in facts.items() for name in all_}


def test_marks_and_sources_are_those_of_the_drivers_and_their_reports() -> None:
    for package in ("libvirt", "pyVmomi", "winrm"):
        pytest.importorskip(package)
    text = PAGE.read_text("utf-8")
    assert marks.marked(text) == text, "run: python scripts/hypervisor_marks.py"
    for heading, driver in marks.COLUMNS.items():
        how = "from a report" if (marks.REPORTS / f"{driver}.json").exists() else "declared only"
        assert f"* **{heading}**: {how}." in text
    readme = marks.README.read_text("utf-8")
    assert marks.counted(readme) == readme, "run: python scripts/hypervisor_marks.py"
    assert all(f"; {column.count}; " in readme for column in marks.columns())


def _column(report: Report | None) -> marks.Column:
    return marks.Column("Fake", "fake", FakeDriver, report)


def test_a_mark_follows_the_report() -> None:
    report = read_report(marks.REPORTS / "fake.json")
    live = report.model_copy(update={"simulated": False})
    narrowed = live.model_copy(
        update={"capabilities": tuple(each for each in live.capabilities if each != "pause")}
    )
    of_pause = {each.id for each in catalogue().clauses.values() if each.operation == "pause"}
    results = [
        each.model_copy(update={"status": Status.FAILED}) if each.clause in of_pause else each
        for each in live.results
    ]
    broken = live.model_copy(update={"results": tuple(results)})
    for name in ("pause", "paused"):  # an operation and capability, and the state it leads to
        assert _column(report).mark(name, "○") == "◐"
        assert _column(live).mark(name, "○") == "●"
        assert _column(None).mark(name, CANNOT) == "▲"
        assert _column(narrowed).mark(name, "●") == "▲"
        assert _column(broken).mark(name, "●") == "▲"


def test_what_a_driver_does_not_declare_is_on_paper_whatever_a_report_says() -> None:
    class Bare(FakeDriver):
        limits = MappingProxyType({Limit.NEVER_CRASHED: "it shows them as stopped"})  # type: ignore[assignment]

    report = read_report(marks.REPORTS / "fake.json")
    column = marks.Column("Bare", "bare", Bare, report)
    assert column.mark("crashed", "●") == "○"
    assert column.mark("crashed", CANNOT) == CANNOT


@pytest.mark.parametrize(
    ("driver", "column", "call"), [("libvirt", 1, LIBVIRT), ("vmware", 2, VSPHERE)]
)
def test_cells_name_calls_that_the_driver_makes(
    driver: str, column: int, call: re.Pattern[str]
) -> None:
    sources = "".join(path.read_text() for path in (ROOT / "hvdrivers" / driver).glob("*.py"))
    looked = 0
    for row in [*tables()["Operations"], *tables()["States"]]:
        if row[column][0] in {"●", "◐", "▲"}:
            for span in re.findall(r"`([^`]+)`", row[column]):
                found = call.fullmatch(span)
                if found or CONSTANT.fullmatch(span):
                    name = found[2] if found else span
                    assert re.search(rf"\b{name}\b", sources), f"{row[0]}: {span}"
                    looked += 1
    assert looked
