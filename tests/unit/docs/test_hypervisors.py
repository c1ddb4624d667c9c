"""docs/hypervisors.md covers the whole contract, and names only calls that exist."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest

from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.driver import OPERATIONS
from hvdrivers.contract.states import InstanceState
from tests.unit.docs import marks
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
    for (constant,) in names(1, CONSTANT):
        assert hasattr(libvirt, constant)
    for owner, member in names(1, LIBVIRT):
        home = libvirt_qemu if owner == "libvirt_qemu" else getattr(libvirt, owner)
        assert hasattr(home, member), f"{owner}.{member}"


def test_vsphere_calls_exist() -> None:
    facts = _facts("vsphere")
    assert names(2, VSPHERE) == {(owner, name) for owner, all_ in facts.items() for name in all_}


def test_marks_of_libvirt_are_those_of_the_driver() -> None:
    pytest.importorskip("libvirt")
    assert marks.wrong() == [], "run: python -m tests.unit.docs.marks"


def test_libvirt_cells_name_calls_that_the_driver_makes() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "hvdrivers" / "libvirt").glob("*.py"))
    for row in [*tables()["Operations"], *tables()["States"]]:
        if row[1][0] in {"●", "▲"}:
            for span in re.findall(r"`([^`]+)`", row[1]):
                call = LIBVIRT.fullmatch(span)
                name = call[2] if call else span
                if call or CONSTANT.fullmatch(span):
                    assert re.search(rf"\b{name}\b", sources), f"{row[0]}: {span}"


def test_vsphere_and_hyperv_have_no_driver_yet() -> None:
    assert not [
        row[0] for rows in tables().values() for row in rows if {"●", "▲"} & set(row[2] + row[3])
    ]
