"""The second door: the suite under pytest, and fixtures for tests of orchestrators.

::

    pytest --hv-driver acme --hv-option address=lab1 --pyargs hvdrivers.conformance

pytest loads this module in every project that has hvdrivers installed: so it imports nothing of
the suite until somebody asks for it.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hvdrivers.conformance.engine.pytest_keys import COLLECTED, RESULT

if TYPE_CHECKING:
    from hvdrivers.fake.faults import Faults
    from hvdrivers.fake.host import FakeHost

_HERE = Path(__file__).parents[1]
_SUITE = "hvdrivers.conformance"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the suite. All begin with --hv-."""
    group = parser.getgroup("hvdrivers", "hvdrivers: conformance of a driver")
    add = group.addoption
    add("--hv-driver", metavar="NAME", help=f"the driver that --pyargs {_SUITE} is about")
    add("--hv-option", metavar="K=V", action="append", default=[], help="option of its target")
    add("--hv-config", metavar="FILE", help="TOML file of options of its target")
    add("--hv-image", metavar="IMAGE", help="image to spawn from: PATH, https://… or host:NAME")
    add("--hv-clause", metavar="ID", action="append", default=[], help="only this clause or check;"
        " may be repeated")  # fmt: skip
    add("--hv-report", metavar="FILE", action="append", default=[], help="write the report: .json,"
        " .xml (JUnit), .md, .html or .svg; may be repeated")  # fmt: skip
    add("--hv-known-issues", metavar="FILE", help="TOML file of known issues")
    add("--hv-journal", metavar="FILE", help="what is made on the host, for 'reap'")
    add("--hv-seed", metavar="N", type=int, help="of everything that is random")
    add("--hv-strict", action="store_true", default=bool(os.environ.get("CI")),
        help="a precondition that is missing fails (always where $CI is set)")  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """Find out early what cannot work."""
    config.addinivalue_line("markers", "conformance: a check of the conformance suite of hvdrivers")
    asked = any(each.partition("::")[0] == _SUITE for each in config.args)
    if asked and not config.getoption("hv_driver"):
        raise pytest.UsageError(f"{_SUITE} needs a driver: add --hv-driver NAME")
    if config.getoption("hv_driver") and config.getoption("numprocesses", None):
        raise pytest.UsageError("the suite takes a host for itself: without -n")
    if config.getoption("hv_report"):
        from hvdrivers.conformance.engine.writers import check_name
        from hvdrivers.contract.errors import InvalidRequest

        try:
            for name in config.getoption("hv_report"):
                check_name(Path(name))
        except InvalidRequest as error:
            raise pytest.UsageError(f"--hv-report {error.message} ({error.hint})") from error


def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """The package of the suite is collected as its checks, where a driver is named."""
    if path != _HERE or not parent.config.getoption("hv_driver"):
        return None
    from hvdrivers.conformance.engine.items import Package

    # wherever it is installed
    return Package.from_parent(parent, path=path, nodeid=_SUITE)


def pytest_pycollect_makeitem(
    collector: pytest.Module | pytest.Class, name: str, obj: object
) -> pytest.Collector | list[pytest.Collector] | None:
    """A subclass of ConformanceSuite is collected as the checks of its target."""
    if not (isinstance(obj, type) and any("__hv_conformance__" in c.__dict__ for c in obj.__mro__)):
        return None
    if obj.target is None:  # type: ignore[attr-defined] # a ConformanceSuite
        return []  # the base itself, imported into the module
    from hvdrivers.conformance.engine.items import Suite

    return Suite.of(collector, name, obj)


@pytest.hookimpl(tryfirst=True)
def pytest_report_teststatus(report: Any) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
    """Statuses of checks as they are: pytest knows no such words."""
    status = getattr(report, "hv_status", None)
    if status is None or report.when != "call":
        return None
    from hvdrivers.conformance.engine.items import WORDS

    return WORDS.get(status)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Mark the report of a check with its status."""
    report = yield
    result = item.stash.get(RESULT, None)
    if result is not None and report.when == "call":
        from hvdrivers.conformance.engine.items import mark

        mark(report, result, strict=item.config.getoption("hv_strict"))
    return report


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the reports."""
    if COLLECTED in session.config.stash:
        from hvdrivers.conformance.engine.items import write_reports

        write_reports(session.config)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The verdict, and why it is no better."""
    if COLLECTED in config.stash:
        from hvdrivers.conformance.engine.items import tell

        tell(config, terminalreporter)


@pytest.fixture
def hv_fake() -> FakeHost:
    """A host in memory, of this test alone: ``hv_fake.connect()`` gives a driver for it."""
    from hvdrivers.fake.host import FakeHost

    return FakeHost()


@pytest.fixture
def hv_faults(hv_fake: FakeHost) -> Iterator[Faults]:
    """The faults of ``hv_fake``: ``hv_faults.add(FaultRule(operation="spawn", when="after"))``."""
    yield hv_fake.faults
    hv_fake.faults.clear()
