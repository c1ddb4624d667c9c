"""The site builds without a warning, loads nothing from elsewhere, and is in step with the code."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from hvdrivers.conformance.engine.clauses import catalogue
from hvdrivers.conformance.engine.verifying import read_report
from hvdrivers.conformance.engine.writers import to_html
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.driver import OPERATIONS, state_table
from hvdrivers.contract.states import End, InstanceState
from tests.unit.docs.layout import DESK, PHONE, widths
from tests.unit.docs.page import ROOT

_LOADED = {
    ("script", "src"),
    ("link", "href"),
    ("img", "src"),
    ("iframe", "src"),
    ("source", "src"),
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        check=False,
        text=True,
        timeout=1200,  # half a minute on a machine that does nothing else
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.ids: set[str] = set()
        self.rows: list[list[str]] = []
        self._cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if (tag, name) in _LOADED and value:
                self.loaded.append(value)
            if name == "id" and value:
                self.ids.add(value)
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in {"td", "th"}:
            self._cell = False

    def handle_data(self, data: str) -> None:
        if self._cell:
            self.rows[-1][-1] += data


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        for address in _Page(path.read_text()).loaded:
            # a canonical link is no request; there is none without site_url
            assert not re.match(r"(https?:)?//", address), f"{path.name}: {address}"
    for path in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//|@import", path.read_text()), path.name


def test_states_page_shows_the_table(site: Path) -> None:
    rows = {row[0]: row[1:] for row in _Page((site / "states.html").read_text()).rows if row}
    assert rows["operation"] == [state.value for state in InstanceState]
    words = {None: "·", End.SAME: "=", End.GONE: "gone", End.DEPENDS: "depends"}
    for name, row in state_table().items():
        ends = [row[state].end for state in InstanceState]
        assert rows[name] == [
            end.value if isinstance(end, InstanceState) else words[end] for end in ends
        ]


def test_reference_has_every_operation_and_capability(site: Path) -> None:
    index = _Page((site / "reference" / "index.html").read_text())
    assert {row[0] for row in index.rows[1:]} == set(OPERATIONS)
    page = _Page((site / "reference" / "capabilities.html").read_text())
    assert {each.value for each in Capability} <= {row[0] for row in page.rows if row}
    for name, rules in OPERATIONS.items():
        topic = _Page((site / "reference" / f"{rules.topic}.html").read_text())
        assert any(
            identifier.startswith(f"hvdrivers.contract.{rules.topic}.")
            and identifier.endswith(f".{name}")
            for identifier in topic.ids
        ), name


def test_pages_name_no_machine(site: Path) -> None:
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        assert str(ROOT) not in path.read_text(), path
    assert site.is_dir()


def test_the_graph_of_states_is_in_step() -> None:
    graphs = runpy.run_path(str(ROOT / "scripts" / "diagrams.py"))["GRAPHS"]
    for name, make in graphs.items():
        drawn = ROOT / "docs" / "diagrams" / f"{name}.svg"
        assert drawn.with_suffix(".dot").read_text() == make(), "python scripts/diagrams.py"
        assert "<svg" in drawn.read_text()


def test_every_report_is_a_page_that_the_matrix_leads_to(site: Path) -> None:
    matrix = (site / "support-matrix.html").read_text()
    found = [path for path in (ROOT / "docs" / "reports").glob("*.json") if path.stem != "mutants"]
    assert found
    for path in found:
        report = read_report(path)
        assert f'href="reports/{path.stem}.html"' in matrix
        page = _Page((site / "reports" / f"{path.stem}.html").read_text())
        assert {each.clause for each in report.results} <= page.ids


@pytest.mark.parametrize("name", ["fake", "hyperv", "libvirt"])
def test_a_report_fits_a_phone(tmp_path: Path, name: str) -> None:
    """With every clause open: the names of checks were wider than the page."""
    (tmp_path / "report.html").write_text(
        to_html(read_report(ROOT / "docs" / "reports" / f"{name}.json"))
    )
    assert widths(tmp_path, ["report.html"], [PHONE])[f"report.html {PHONE}"] <= PHONE


def test_a_page_that_does_not_fit_is_found(tmp_path: Path) -> None:
    wide = '<!doctype html><body style="margin: 0"><div style="width: 500px">x</div></body>'
    (tmp_path / "wide.html").write_text(wide)
    found = widths(tmp_path, ["wide.html"], [PHONE, DESK])
    assert found == {f"wide.html {PHONE}": 500, f"wide.html {DESK}": DESK}


def test_every_page_fits_a_phone_and_a_desk(site: Path, tmp_path: Path) -> None:
    """A table that is wider than its page scrolls by itself; the page never does."""
    folder = tmp_path / "site"
    shutil.copytree(site, folder)
    pages = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.html"))
    assert len(pages) > 20
    found = widths(folder, pages, [PHONE, DESK])
    assert {each: wide for each, wide in found.items() if wide > int(each.split()[-1])} == {}


def test_clauses_and_checks_that_pages_name_exist() -> None:
    known = catalogue()
    topics = "|".join(sorted({each.partition("-")[0] for each in known.clauses}))  # not SHA-256
    named = re.compile(rf"\b((?:{topics})-\d{{3}})\b(/\w+)?")
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for clause, check in named.findall(path.read_text("utf-8")):
            assert clause in known.clauses, f"{path.name}: {clause}"
            assert not check or clause + check in known.checks, f"{path.name}: {clause}{check}"
