"""Reports: what they say, what they cannot be made to say, and how they look as files."""

from __future__ import annotations

import json
import re
import runpy
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from typer.testing import CliRunner

from hvdrivers.cli.app import app
from hvdrivers.conformance.engine.clauses import Check, Clause, Level, Tier, catalogue
from hvdrivers.conformance.engine.report import (
    GOOD,
    CheckResult,
    ProfileVerdict,
    Report,
    Status,
    judge,
    overall,
)
from hvdrivers.conformance.engine.runner import Session, selected
from hvdrivers.conformance.engine.summary import (
    clauses_of,
    colour,
    remark,
    sentence,
    standing_of,
    tally,
)
from hvdrivers.conformance.engine.trial import Declined, Trial
from hvdrivers.conformance.engine.verifying import difference, read_report, verify
from hvdrivers.conformance.engine.writers import (
    WRITERS,
    to_html,
    to_json,
    to_junit,
    to_markdown,
    to_svg,
)
from hvdrivers.contract.errors import InvalidRequest
from hvdrivers.fake.conformance import FakeTarget

from .doors import ROOT

HOSTILE = 'a <script>alert("1")</script> & | `x` {{driver}} \x1b[31m\x00 \ud800 ]]> *b*'


@pytest.fixture(scope="module")
def real() -> Report:
    """Some checks of the fake, without a capability."""
    with Session(FakeTarget(without={"suspend": HOSTILE[:50]}), seed=1) as session:
        session.run(selected(clauses=["LIFE-001", "STATE-PAUSE", "STATE-SUSPEND", "STATIC-001"]))
        return session.report(complete=False)


def _result(check_id: str, status: Status, **fields: object) -> CheckResult:
    check = catalogue().checks[check_id]
    return CheckResult(
        check=check.id,
        clause=check.clause.id,
        level=check.clause.level,
        profile=check.clause.profile,
        status=status,
        **fields,  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def whole(real: Report) -> Report:
    """A complete report in which everything has passed."""
    results = tuple(_result(name, Status.PASSED, seconds=0.01) for name in catalogue().checks)
    capabilities = sorted(
        {need for check in catalogue().checks.values() for need in check.all_needs}
    )
    return rejudged(real, results, complete=True, capabilities=tuple(capabilities), absent={})


def rejudged(report: Report, results: tuple[CheckResult, ...], **fields: object) -> Report:
    """The report with other results, and what follows from them."""
    profiles = judge(results)
    found = overall(profiles, leftovers=bool(fields.get("leftovers")))
    return report.model_copy(
        update={"results": results, "profiles": tuple(profiles), "verdict": found, **fields}
    )


def changed(report: Report, check_id: str, status: Status, **fields: object) -> Report:
    """The report with another status of one check, and what follows."""
    return rejudged(
        report,
        tuple(
            _result(check_id, status, **fields) if each.check == check_id else each
            for each in report.results
        ),
    )


CORE = "LIFE-005/absent_is_a_success"


@pytest.fixture(scope="module")
def ugly(whole: Report) -> Report:
    """One of each status, and text that means something to every format."""
    names = [each.check for each in whole.results if each.profile == "core"][: len(Status)]
    report = whole
    for name, status in zip(names, Status, strict=True):
        report = changed(report, name, status, message=HOSTILE, detail=f"{HOSTILE}\nline 2")
    hostile = HOSTILE.replace("\ud800", "")  # where the model does not look
    leftovers = (f"instance {hostile}",)
    return rejudged(report, report.results, leftovers=leftovers, driver_version=hostile)


# ---- levels ----------------------------------------------------------------------------------


def test_a_complete_success_is_full(whole: Report) -> None:
    found = standing_of(whole)
    must = [each for each in catalogue().clauses.values() if each.level is Level.MUST]
    assert (found.name, found.reached, found.met, found.total) == ("Full", True, *[len(must)] * 2)
    assert re.fullmatch(r"Full (\d+)/\1 · simulated · contract 1\.0", sentence(whole))
    assert colour(whole) == "green"


def test_only_core_is_core(whole: Report) -> None:
    results = tuple(
        each if each.profile == "core" else _result(each.check, Status.REFUSED)
        for each in whole.results
    )
    report = rejudged(whole, results)
    assert re.fullmatch(r"Core (\d+)/\1 · simulated · contract 1\.0", sentence(report))
    assert report.verdict is ProfileVerdict.SUCCESS


@pytest.mark.parametrize(
    ("status", "verdict", "shade"),
    [
        (Status.FAILED, ProfileVerdict.FAILURE, "red"),
        (Status.ERROR, ProfileVerdict.FAILURE, "red"),
        (Status.PRECONDITION_MISSING, ProfileVerdict.PARTIAL, "amber"),
        (Status.KNOWN_ISSUE, ProfileVerdict.PARTIAL, "amber"),
    ],
)
def test_one_check_of_core_decides_the_level(
    whole: Report, status: Status, verdict: ProfileVerdict, shade: str
) -> None:
    report = changed(whole, CORE, status)
    found = standing_of(report)
    assert (report.verdict, found.reached, found.name) == (verdict, False, "Core")
    assert found.met == found.total - 1
    assert "not reached" in sentence(report)
    assert colour(report) == shade
    (clause,) = [each for each in clauses_of(report) if not each.met]
    assert clause.id == "LIFE-005"


def test_leftovers_and_parts_reach_no_level(whole: Report) -> None:
    assert "not reached" in sentence(rejudged(whole, whole.results, leftovers=("instance x",)))
    part = rejudged(whole, whole.results[:5], complete=False)
    assert "only in part" in sentence(part)
    assert not standing_of(part).reached


def test_a_should_is_a_warning(whole: Report) -> None:
    should = next(
        each.id for each in catalogue().checks.values() if each.clause.level is Level.SHOULD
    )
    assert remark(whole) is None
    report = changed(whole, should, Status.FAILED)
    assert report.verdict is ProfileVerdict.SUCCESS
    assert standing_of(report).reached
    assert "1 failed. A SHOULD is a warning" in (remark(report) or "")
    untried = changed(whole, should, Status.PRECONDITION_MISSING)
    assert "1 not tried. A SHOULD is a warning" in (remark(untried) or "")


def _may(status: Status, **fields: object) -> CheckResult:
    check = next(each for each in catalogue().checks.values() if each.clause.level is Level.MAY)
    return _result(check.id, status, **fields)


@pytest.mark.parametrize("status", [each for each in Status if each is not Status.PASSED])
def test_a_may_changes_nothing(whole: Report, status: Status) -> None:
    report = changed(whole, _may(status).check, status)
    assert (report.verdict, sentence(report)) == (whole.verdict, sentence(whole))
    assert [(each.profile, each.verdict) for each in report.profiles] == [
        (each.profile, each.verdict) for each in whole.profiles
    ]
    assert colour(report) == "green"


def test_only_a_may_is_declined() -> None:
    def nothing(_trial: Trial) -> None:
        raise Declined("it does something else")

    found = {}
    with Session(FakeTarget()) as session:
        for level in Level:
            clause = Clause(id="X-001", rule="x", level=level)
            found[level] = session.run_check(Check(clause, nothing, Tier.HOST))
    assert {level: each.status for level, each in found.items()} == {
        Level.MUST: Status.ERROR,
        Level.SHOULD: Status.ERROR,
        Level.MAY: Status.DECLINED,
    }
    assert found[Level.MAY].message == "it does something else"


def test_what_is_declined_is_told(whole: Report) -> None:
    told = _may(Status.DECLINED, message="it does not")
    report = changed(whole, told.check, Status.DECLINED, message="it does not")
    assert verify(report) == []
    (profile,) = [each for each in report.profiles if each.profile == told.profile]
    assert profile.declined == 1
    assert tally(profile).endswith("1 declined")
    brief = next(line for line in to_json(report).splitlines() if f'"{told.check}"' in line)
    assert '"level": "MAY"' in brief
    assert '"status": "declined"' in brief
    assert f"**{told.clause}** " in to_markdown(report)
    assert "*it does not*" in to_markdown(report)
    assert "not met" not in to_markdown(report)
    assert f'>{told.clause}<span class="level">MAY</span>' in to_html(report)
    assert '<span class="tag calm">declined</span>' in to_html(report)
    root = ET.fromstring(to_junit(report))
    (case,) = [each for each in root.iter("testcase") if each.get("name") == told.check]
    assert [each.tag for each in case] == ["system-out"]
    assert difference(whole, report).regressed is False


# ---- verify ----------------------------------------------------------------------------------


def test_an_honest_report_holds(real: Report, whole: Report) -> None:
    assert verify(real) == []
    assert verify(whole) == []


def _without(report: Report, check_id: str) -> Report:
    results = tuple(each for each in report.results if each.check != check_id)
    return rejudged(report, results)


@pytest.mark.parametrize(
    ("forge", "told"),
    [
        (lambda r: r.model_copy(update={"suite_hash": "0" * 64}), "another suite"),
        (lambda r: r.model_copy(update={"contract_version": "0.9"}), "about contract 0.9"),
        (lambda r: changed(r, CORE, Status.FAILED).model_copy(
            update={"profiles": r.profiles, "verdict": r.verdict}), "core: it says success"),
        (lambda r: changed(r, CORE, Status.FAILED).model_copy(
            update={"verdict": r.verdict}), "the verdict: it says success"),
        (lambda r: _without(r, CORE), f"{CORE} is missing"),
        (lambda r: changed(r, CORE, Status.REFUSED), "what it needs is declared"),
        (lambda r: changed(r, CORE, Status.DECLINED), "counts as declined"),
        (lambda r: r.model_copy(update={"capabilities": ()}), "counts as passed without"),
        (lambda r: rejudged(r, (*r.results, r.results[0])), "more than once"),
        (lambda r: rejudged(r, (
            r.results[0].model_copy(update={"level": Level.SHOULD}), *r.results[1:])),
         "is not what it says"),
        (lambda r: rejudged(r, (
            *r.results, r.results[0].model_copy(update={"check": "LIFE-999/x"}))), "no check of"),
        (lambda r: r.model_copy(update={"leftovers": ("instance x",)}), "the verdict"),
        (lambda r: r.model_copy(update={"profiles": r.profiles[1:]}), "is missing"),
        (lambda r: r.model_copy(update={"profiles": (
            r.profiles[0].model_copy(update={"passed": 999}), *r.profiles[1:])}), "its counts"),
    ],
)  # fmt: skip
def test_a_forged_report_does_not(whole: Report, forge: object, told: str) -> None:
    problems = verify(forge(whole))  # type: ignore[operator]
    assert any(told in each for each in problems), problems


def _command(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["conformance", *map(str, arguments)])
    return done.exit_code, done.stdout, done.stderr


def test_the_commands_about_reports(whole: Report, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    forged = tmp_path / "forged.json"
    worse = changed(whole, CORE, Status.FAILED, message="it is still there")
    good.write_text(to_json(whole))
    bad.write_text(to_json(worse))
    forged.write_text(to_json(worse.model_copy(update={"verdict": whole.verdict})))
    assert _command("verify", good)[0] == 0
    code, out, _ = _command("verify", bad, "-o", "json")
    assert (code, json.loads(out)["verdict"]) == (0, "failure")  # it is bad, and says so
    code, out, _ = _command("verify", forged, "-o", "json")
    assert code == 1
    assert json.loads(out)["problems"] == ["the verdict: it says success, its results say failure"]
    code, out, _ = _command("diff", good, bad, "-o", "json")
    assert code == 1
    assert [each["check"] for each in json.loads(out)["worse"]] == [CORE]
    assert _command("diff", bad, good)[0] == 0
    code, out, _ = _command("badge", good)
    assert (code, out) == (0, to_svg(whole))
    code, out, err = _command("badge", forged)
    assert (code, out) == (1, "")
    assert "does not hold" in err


def test_diff(whole: Report) -> None:
    other = next(each.check for each in whole.results if each.profile != "core")
    new = changed(changed(whole, CORE, Status.KNOWN_ISSUE), other, Status.REFUSED)
    new = new.model_copy(update={"capabilities": new.capabilities[1:]})
    found = difference(whole, new)
    assert [each.check for each in found.worse] == [CORE]
    assert [each.check for each in found.other] == [other]
    assert found.capabilities_lost == whole.capabilities[:1]
    assert found.regressed
    back = difference(new, whole)
    assert [each.check for each in back.better] == [CORE]
    assert not back.regressed
    added = difference(_without(whole, CORE), changed(whole, CORE, Status.FAILED))
    assert [each.check for each in added.worse] == [CORE]


# ---- files -----------------------------------------------------------------------------------


def test_json_comes_back(real: Report, ugly: Report, tmp_path: Path) -> None:
    for report in (real, ugly):
        path = tmp_path / "report.json"
        path.write_text(to_json(report), encoding="utf-8")
        assert read_report(path) == report
    assert "\\ud800" in next(each.message for each in ugly.results if each.message)
    lines = to_json(real).splitlines()
    assert sum('"check"' in line for line in lines) == len(real.results)


def test_what_is_no_report_is_refused(tmp_path: Path) -> None:
    for text in ("", "[]", "{}", '{"schema_version": 2}'):
        path = tmp_path / "report.json"
        path.write_text(text)
        with pytest.raises(InvalidRequest, match="is not a conformance report"):
            read_report(path)


def test_the_schema_is_in_step() -> None:
    module = runpy.run_path(str(ROOT / "scripts" / "report_schema.py"))
    committed = json.loads(module["TARGET"].read_text(encoding="utf-8"))
    assert committed == json.loads(json.dumps(module["schema"]())), (
        "python scripts/report_schema.py"
    )
    assert set(committed["properties"]) == set(Report.model_fields)
    assert committed["additionalProperties"] is False


def test_junit_has_the_usual_shape(real: Report, ugly: Report) -> None:
    for report in (real, ugly):
        root = ET.fromstring(to_junit(report))
        assert root.tag == "testsuites"
        seen = 0
        for suite in root:
            assert suite.tag == "testsuite"
            assert {"name", "tests", "failures", "errors", "skipped", "time"} <= set(suite.attrib)
            tags = [each.tag for each in suite]
            cases = suite.findall("testcase")
            # xs:sequence: properties, then the cases
            assert tags == ["properties"] * tags.count("properties") + ["testcase"] * len(cases)
            assert int(suite.get("tests", "")) == len(cases)
            for word, attribute in (
                ("failure", "failures"),
                ("error", "errors"),
                ("skipped", "skipped"),
            ):
                assert int(suite.get(attribute, "")) == len(suite.findall(f"testcase/{word}"))
            for case in cases:
                assert set(case.attrib) == {"name", "classname", "time"}
                assert float(case.get("time", "")) >= 0
                assert len(case) <= 1
                assert {each.tag for each in case} <= {"failure", "error", "skipped", "system-out"}
            seen += len(cases)
        assert seen == int(root.get("tests", "")) == len(report.results) + bool(report.leftovers)


def test_junit_paints_nothing_green(ugly: Report) -> None:
    root = ET.fromstring(to_junit(ugly))
    bad = {Status.FAILED, Status.ERROR, Status.PRECONDITION_MISSING}
    for result in ugly.results:
        (case,) = [each for each in root.iter("testcase") if each.get("name") == result.check]
        red = case.find("failure") is not None or case.find("error") is not None
        assert red is (result.status in bad and result.level is Level.MUST), result.check
        if result.status is Status.KNOWN_ISSUE:
            assert case.find("skipped") is not None


def test_markdown_shows_what_is_not_met(ugly: Report) -> None:
    text = to_markdown(ugly)
    assert text.startswith("# Conformance of fake")
    assert "**failure**: Core" in text
    assert "<script>" not in text
    for each in ugly.results:
        name = each.check.partition("/")[2]
        shown = f"{each.status.value}: `{name}`" in text
        assert shown is (each.status not in GOOD), each.check


class _Page(HTMLParser):
    """Tags, and whether they nest."""

    VOID = frozenset({"meta", "input", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in {"src", "href", "action"}:
                self.addresses.append(value or "")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_html_is_one_file_that_nobody_can_write_into(ugly: Report) -> None:
    text = to_html(ugly)
    page = _Page(text)
    assert page.open == []
    assert page.addresses == []
    assert not re.search(r"@import|url\(|https?://", text)
    assert "default-src 'none'" in text
    assert page.tags.count("script") == 1
    assert len(page.ids) == len(set(page.ids))
    assert {each.clause for each in ugly.results} <= set(page.ids)
    assert "{{driver}}" in text  # of the hostile message: not filled in
    assert "prefers-color-scheme: dark" in text


def test_badge_says_level_ratio_and_tier(whole: Report, ugly: Report) -> None:
    for report in (whole, ugly):
        svg = to_svg(report)
        root = ET.fromstring(svg)
        assert sentence(report) in (root.get("aria-label") or "")
    assert "Full" in to_svg(whole)
    assert "not reached" in to_svg(ugly)


def test_every_writer_takes_every_report(real: Report, whole: Report, ugly: Report) -> None:
    for report in (real, whole, ugly, rejudged(real, (), host=None, latencies=())):
        for write in WRITERS.values():
            write(report).encode("utf-8")


# ---- what is committed -----------------------------------------------------------------------


def test_committed_reports_hold_in_themselves() -> None:
    module = runpy.run_path(str(ROOT / "scripts" / "conformance_reports.py"))
    folder: Path = module["FOLDER"]
    paths = {path.stem: path for path in folder.glob("*.json")}
    assert "fake" in paths
    for name, path in paths.items():
        if name != "mutants":
            report = read_report(path)
            assert list(report.profiles) == judge(report.results), name
            assert report.verdict is overall(report.profiles, leftovers=bool(report.leftovers))
            assert report.complete
    for name, svg in module["badges"]().items():
        assert folder.joinpath(f"{name}.svg").read_text(encoding="utf-8") == svg, (
            "python scripts/conformance_reports.py badges"
        )


def test_the_pages_are_made_from_the_suite_and_the_reports() -> None:
    parts = runpy.run_path(str(ROOT / "docs" / "hooks" / "conformance.py"))["PARTS"]
    clauses = parts["clauses"]()
    for each in catalogue().clauses.values():
        assert f"`{each.id}` | " in clauses
    assert "| [`fake`](reports/fake.html) " in parts["drivers"]()
    assert parts["profiles"]().splitlines()[2].startswith("| core | ")
    assert "| `pause` | " in parts["capabilities"]()
    assert "(clauses.md#NET-008) | " in parts["freedoms"]()
    assert " *(MAY)* | " in clauses
