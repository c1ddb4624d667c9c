"""What the pytest plug-in collects: an item per check, judged by the same engine.

A check that passed, or was refused as declared, is a passed test; one that failed is a failed one.
What pytest has no word for:

* a precondition that is missing fails under ``--hv-strict`` (and where ``$CI`` is set); elsewhere
  it stands in the summary under its own name. It counts against the level either way;
* a known issue, and a SHOULD or MAY that is not met, stand in the summary and fail nothing.

There is no skip among them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from hvdrivers.conformance.engine.clauses import Check, Level, Tier, catalogue
from hvdrivers.conformance.engine.finding import close_target
from hvdrivers.conformance.engine.known import read_known_issues
from hvdrivers.conformance.engine.pytest_keys import COLLECTED, RESULT
from hvdrivers.conformance.engine.report import BAD, GOOD, CheckResult, Report, Status
from hvdrivers.conformance.engine.runner import KnownIssue, Session, selected
from hvdrivers.conformance.engine.summary import remark, sentence
from hvdrivers.conformance.engine.target import Target
from hvdrivers.contract.errors import InvalidRequest, PluginError
from hvdrivers.raised import in_words

WORDS: dict[str, tuple[str, str, tuple[str, dict[str, bool]]]] = {
    "refused-as-declared": ("refused as declared", "r", ("REFUSED", {"green": True})),
    "precondition-missing": ("precondition missing", "P", ("PRECONDITION", {"yellow": True})),
    "not-shown": ("not shown by the simulator", "n", ("NOT SHOWN", {"yellow": True})),
    "known-issue": ("known issue", "k", ("KNOWN ISSUE", {"yellow": True})),
    "should": ("SHOULD not met", "s", ("SHOULD NOT MET", {"yellow": True})),
    "may": ("MAY not met", "m", ("MAY NOT MET", {"yellow": True})),
    "declined": ("declined", "d", ("DECLINED", {"green": True})),
}


class CheckFailed(Exception):
    """A check did not pass. pytest shows the result, not a traceback of the suite."""

    def __init__(self, result: CheckResult) -> None:
        super().__init__(result.message)
        self.result = result


class CheckItem(pytest.Item):
    """One check."""

    def __init__(self, *, hv_check: Check, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.hv_check = hv_check
        self.add_marker("conformance")
        self.extra_keyword_matches |= {hv_check.clause.id, hv_check.clause.profile}

    def runtest(self) -> None:
        """Run it, in the session of its collector."""
        assert isinstance(self.parent, Checks)  # noqa: S101 - nothing else makes these
        result = self.parent.run(self.hv_check)
        self.stash[RESULT] = result
        if result.status not in GOOD:
            raise CheckFailed(result)

    def repr_failure(self, excinfo: Any, style: Any = None) -> Any:
        """The clause, what was found, and where."""
        if not isinstance(excinfo.value, CheckFailed):
            return super().repr_failure(excinfo, style)
        result = excinfo.value.result
        rule = self.hv_check.clause
        head = f"{rule.id} ({rule.level}): {rule.rule}\n{result.status}: {result.message}"
        return f"{head}\n\n{result.detail}" if result.detail else head

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Where it is defined."""
        code = self.hv_check.function.__code__
        return Path(code.co_filename), code.co_firstlineno - 1, self.name


class Checks(pytest.Collector):
    """Has a session of the engine while its items run."""

    _session: Session | None = None
    _results: list[CheckResult]
    hv_report: Report | None = None
    hv_known: str | None = None

    def target(self) -> Target:
        """What to run against."""
        raise NotImplementedError

    def checks(self) -> Iterable[Check]:
        """What to run."""
        return selected(clauses=self.config.getoption("hv_clause"))

    def collect(self) -> Iterable[pytest.Item]:
        """An item per check. What cannot work is told here, once, and not by each of them."""
        try:
            close_target(self.target())
            self._issues()
        except (InvalidRequest, PluginError) as error:
            raise self.CollectError(f"{error.message}\nhint: {error.hint}") from error
        except Exception as error:
            raise self.CollectError(f"the target cannot be made: {in_words(error)}") from error
        for check in self.checks():
            yield CheckItem.from_parent(self, name=check.id, hv_check=check)

    def run(self, check: Check) -> CheckResult:
        """Run a check."""
        if self._session is None:
            raise RuntimeError("the collector has not been set up")
        return self._session.run_check(check)

    def setup(self) -> None:
        """Begin; also again, where another plug-in has mixed up the order of the tests."""
        option = self.config.getoption
        journal = option("hv_journal")
        session = Session(
            self.target(),
            journal=Path(journal) if journal else None,
            known_issues=self._issues(),
            seed=option("hv_seed"),
        )
        self._results = session.results = getattr(self, "_results", [])
        self._session = session.__enter__()
        collected = self.config.stash.setdefault(COLLECTED, [])
        if self not in collected:
            collected.append(self)

    def _issues(self) -> list[KnownIssue]:
        known = self.config.getoption("hv_known_issues") or self.hv_known
        return read_known_issues(Path(known)) if known else []

    def teardown(self) -> None:
        """End, and keep the report."""
        session, self._session = self._session, None
        if session is None:
            return
        ran = {each.check for each in session.results}
        try:
            self.hv_report = session.report(complete=ran >= set(catalogue().checks))
        finally:
            session.__exit__(None, None, None)


class Package(pytest.Directory, Checks):
    """``--pyargs hvdrivers.conformance``: the driver that ``--hv-driver`` names."""

    def target(self) -> Target:
        from hvdrivers.conformance.engine.arguments import image_of, options_of
        from hvdrivers.conformance.engine.finding import find_target

        option = self.config.getoption
        config = option("hv_config")
        image = option("hv_image")
        return find_target(
            option("hv_driver"),
            image=image_of(image) if image else None,
            options=options_of(option("hv_option"), Path(config) if config else None),
        )


class Suite(Checks):
    """A subclass of ConformanceSuite."""

    _suite: Any

    @classmethod
    def of(cls, parent: pytest.Collector, name: str, suite: type) -> Suite:
        """The collector for a class."""
        made: Suite = cls.from_parent(parent, name=name)
        made._suite = suite
        made.hv_known = suite.known_issues  # type: ignore[attr-defined] # a ConformanceSuite
        return made

    def target(self) -> Target:
        made = self._suite.target
        return made if isinstance(made, Target) else made()

    def checks(self) -> Iterable[Check]:
        tiers = [Tier(each) for each in self._suite.tiers] or list(Tier)
        clauses = self.config.getoption("hv_clause")
        return selected(profiles=self._suite.profiles, clauses=clauses, tiers=tiers)


def mark(report: Any, result: CheckResult, *, strict: bool) -> None:
    """Give the report of pytest the status of the check."""
    status = result.status.value
    if result.status in {Status.REFUSED, Status.DECLINED}:
        report.hv_status = status
    elif result.level is not Level.MUST and result.status not in GOOD:
        _mild(report, result.level.lower(), result)
    elif result.status in {Status.KNOWN_ISSUE, Status.NOT_SHOWN} or (
        result.status is Status.PRECONDITION_MISSING and not strict
    ):
        _mild(report, status, result)


def _mild(report: Any, status: str, result: CheckResult) -> None:
    """Neither passed nor failed. ``wasxfail`` is what keeps it from counting as a bare skip."""
    report.hv_status = status
    report.outcome = "skipped"
    report.wasxfail = f"{result.status.value}: {result.message}"
    report.longrepr = None


def write_reports(config: pytest.Config) -> None:
    """Write what --hv-report asks for."""
    from hvdrivers.conformance.engine.writers import write

    found = [each for each in config.stash[COLLECTED] if each.hv_report is not None]
    for name in config.getoption("hv_report"):
        path = Path(name)
        for each in found:
            assert each.hv_report is not None  # noqa: S101 - filtered above
            # one file each, where there is more than one suite
            named = path.with_stem(f"{path.stem}-{each.name}") if len(found) > 1 else path
            write(each.hv_report, named)


def tell(config: pytest.Config, terminal: Any) -> None:
    """The verdict of each suite, and why it is no better."""
    for each in config.stash[COLLECTED]:
        report = each.hv_report
        if report is None:
            continue
        terminal.section(f"conformance of {report.driver}", "-", bold=True)
        for result in report.results:
            if result.status not in GOOD | BAD:
                terminal.line(f"{result.status.value} {result.check}: {result.message}")
        for what in report.leftovers:
            terminal.line(f"left behind: {what}", red=True)
        terminal.line(f"verdict: {report.verdict.value} ({sentence(report)})")
        if note := remark(report):
            terminal.line(note)
