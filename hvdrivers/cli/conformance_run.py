"""``conformance run`` and ``conformance reap``: what goes to a host."""

from __future__ import annotations

import os
import re
import sys
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from hvdrivers.cli.codes import ExitCode
from hvdrivers.cli.command import HostArgument
from hvdrivers.cli.output import table
from hvdrivers.cli.report import BadUsageError, CommandError, say
from hvdrivers.cli.session import Session
from hvdrivers.conformance.engine.clauses import Tier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from hvdrivers.conformance.engine.clauses import Check
    from hvdrivers.conformance.engine.jobs import Jobs
    from hvdrivers.conformance.engine.report import CheckResult, Report
    from hvdrivers.conformance.engine.runner import KnownIssue
    from hvdrivers.conformance.engine.runner import Session as Run
    from hvdrivers.conformance.engine.target import Target

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

ClauseNames = Annotated[
    list[str] | None,
    typer.Option("--clause", metavar="ID", help="Only this clause, or this check. Repeatable."),
]
ProfileNames = Annotated[
    list[str] | None,
    typer.Option("--profile", metavar="NAME", help="Only this profile. Repeatable."),
]


def run(
    session: Session,
    driver: Annotated[
        str, typer.Argument(metavar="DRIVER", help="The name of a driver.", show_default=False)
    ],
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="TOML file with the options of its target."),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="One option of its target. Repeatable."),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(metavar="IMAGE", help="What to spawn from: PATH or host:NAME."),
    ] = None,
    profile: ProfileNames = None,
    clause: ClauseNames = None,
    tier: Annotated[
        Tier | None,
        typer.Option(metavar="TIER", help="Only static (asks no host) or only host."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Of everything random, to do it again.")
    ] = None,
    jobs: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="Run so many checks at once, each on a host of its own: of a simulator.",
        ),
    ] = 1,
    report: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Write the report: .json, .xml (JUnit), .md, .html, .svg (badge). Repeatable.",
        ),
    ] = None,
    journal: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What is made on the host, written down before it is."),
    ] = None,
    known_issues: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="TOML file of checks that are known to fail."),
    ] = None,
) -> None:
    """Run the conformance suite against a driver.

    Makes machines and volumes whose names begin with hvct-, and removes them. Exit status: 0 if
    every profile that the driver claims is kept, 5 if something could not be tried or is a known
    issue, 1 if a clause is broken; 3 if the host cannot be reached.
    """
    from hvdrivers.conformance.engine.arguments import image_of, options_of
    from hvdrivers.conformance.engine.finding import find_target
    from hvdrivers.conformance.engine.known import read_known_issues
    from hvdrivers.conformance.engine.runner import Session as Run
    from hvdrivers.conformance.engine.writers import check_name, write

    for path in report or ():
        check_name(path)
    checks = chosen(profile, clause, [tier] if tier is not None else list(Tier))
    issues = read_known_issues(known_issues) if known_issues else []
    make = partial(
        find_target,
        driver,
        image=image_of(image) if image else None,
        options=options_of(option or (), config),
    )
    target = make()
    own_journal = journal is None and not target.simulated and tier is not Tier.STATIC
    journal = _default_journal(driver) if own_journal else journal
    given = _Given(journal=journal, known_issues=issues, seed=seed)
    with _leftovers_told(), _engine(target, make, jobs, report or (), given) as engine:
        if isinstance(engine, Run) and any(each.tier is Tier.HOST for each in checks):
            _reach(engine)
        with _Progress(len(checks)) as tell:
            engine.run(checks, on_result=tell)
        found = engine.report(complete=not (profile or clause or tier))
        # before the end of the target, which may fail
        for path in report or ():
            write(found, path)
            say(f"written: {path}")
        _keep_or_remove(journal, own=own_journal)
        session.emit(found, lambda: _summary(found))
    _exit(found)


def chosen(
    profiles: Sequence[str] | None, clauses: Sequence[str] | None, tiers: Sequence[Tier]
) -> list[Check]:
    """The checks that the command line asks for."""
    from hvdrivers.conformance.engine.clauses import by_profile, catalogue
    from hvdrivers.conformance.engine.runner import selected
    from hvdrivers.plugins.discovery import alternatives, close_to

    known = catalogue()
    for name in profiles or ():
        if name not in by_profile(known.clauses):
            raise BadUsageError(
                f"--profile: there is no {name!r}",
                hint=alternatives(name, by_profile(known.clauses)),
            )
    for name in clauses or ():
        if name not in known.clauses and name not in known.checks:
            close = close_to(name, known.clauses)
            raise BadUsageError(
                f"--clause: there is no {name!r}",
                hint=f"{close}hvdrivers conformance list shows them all",
            )
    found = selected(profiles=profiles or (), clauses=clauses or (), tiers=tiers)
    if not found:
        raise BadUsageError("no check is in this profile, clause and tier at once")
    return found


class _Given(TypedDict):
    """What every engine takes."""

    journal: Path | None
    known_issues: Sequence[KnownIssue]
    seed: int | None


def _engine(
    target: Target,
    make: Callable[[], Target],
    jobs: int,
    reports: Sequence[Path],
    given: _Given,
) -> Run | Jobs:
    """What runs the checks: here, or in several processes, which make a target each."""
    from hvdrivers.conformance.engine.finding import close_target
    from hvdrivers.conformance.engine.jobs import Jobs
    from hvdrivers.conformance.engine.runner import Session as Run
    from hvdrivers.conformance.engine.worker import needs_own_host

    if jobs == 1:
        return Run(target, **given)
    try:
        needs_own_host(target)
    finally:
        close_target(target)
    return Jobs(make, jobs, seconds=_last_time(reports), on_trouble=say, **given)


def _last_time(reports: Sequence[Path]) -> dict[str, float]:
    """How long checks took, where the report that is to be written is there already."""
    from hvdrivers.conformance.engine.verifying import read_report
    from hvdrivers.contract.errors import InvalidRequest

    for path in reports:
        if path.suffix == ".json" and path.exists():
            with suppress(InvalidRequest):  # it will be another one
                return {each.check: each.seconds for each in read_report(path).results}
    return {}


@contextmanager
def _leftovers_told() -> Iterator[None]:
    from hvdrivers.conformance.engine.runner import LeftoversFound

    try:
        yield
    except LeftoversFound as error:
        raise CommandError(
            str(error),
            code=ExitCode.PARTIAL,
            hint="hvdrivers conformance reap HOST --dry-run shows them",
        ) from error


def _reach(engine: Run) -> None:
    """Connect before the first check: a host that is not there is no broken clause."""
    from hvdrivers.conformance.engine.worker import NO_HOST

    try:
        _ = engine.driver
    except NO_HOST:
        raise
    except Exception as error:  # noqa: BLE001 - the driver is broken: each check will say so
        say(f"the driver does not connect: {' '.join(f'{type(error).__name__}: {error}'.split())}")


class _Progress:
    """What goes wrong, at once; and how far it is: a line on a terminal, elsewhere one a tenth."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._terminal = sys.stderr.isatty()

    def __enter__(self) -> Callable[[CheckResult], None]:
        return self._tell

    def __exit__(self, *_: object) -> None:
        self._wipe()

    def _wipe(self) -> None:
        if self._terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def _tell(self, result: CheckResult) -> None:
        from hvdrivers.conformance.engine.report import GOOD

        self._done += 1
        if result.status not in GOOD:
            self._wipe()
            status = f"{result.status.value} ({result.level.value})"
            say(f"{status} {result.check}: {' '.join(result.message.split())}")
        if self._terminal:
            sys.stderr.write(f"\r\x1b[K{self._done}/{self._total} {result.check}"[:100])
            sys.stderr.flush()
        elif (
            self._total >= 20
            and self._done * 10 // self._total > (self._done - 1) * 10 // self._total
        ):
            say(f"{self._done} of {self._total} checks")


def _default_journal(driver: str) -> Path:
    """A file of its own for each run against a real host."""
    base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    folder = base / "hvdrivers" / "conformance"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{driver}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}.jsonl"


def _keep_or_remove(journal: Path | None, *, own: bool) -> None:
    """A journal with nothing unfinished is of no use to anybody."""
    from hvdrivers.conformance.engine.journal import unfinished

    if journal is None or not journal.exists():
        return
    left = list(unfinished(journal))
    if left:
        say(f"{len(left)} things may be left: hvdrivers conformance reap HOST --journal {journal}")
    elif own:
        journal.unlink()


def _summary(report: Report) -> str:
    from hvdrivers.cli.output import rendered
    from hvdrivers.conformance.engine.report import GOOD
    from hvdrivers.conformance.engine.summary import remark, sentence, tally

    lines = [
        rendered(
            table(
                ("PROFILE", "VERDICT", "CHECKS"),
                [(each.profile, each.verdict.value, tally(each)) for each in report.profiles],
            )
        )
    ]
    unmet = [each for each in report.results if each.status not in GOOD]
    if unmet:
        lines += [
            "",
            rendered(table(("LEVEL", "STATUS", "CHECK", "MESSAGE"), list(_said_once(unmet)))),
        ]
    lines += [f"left behind: {each}" for each in report.leftovers]
    lines += ["", f"verdict: {report.verdict.value} ({sentence(report)}; seed {report.seed})"]
    lines += filter(None, [remark(report)])
    return "\n".join(lines)


def _said_once(results: Iterable[CheckResult]) -> Iterator[tuple[str, str, str, str]]:
    """A row for each check. One fault fails many checks with the same words, but for the UUID."""
    first: dict[str, str] = {}
    for each in results:
        message = " ".join(each.message.split())
        words = _UUID.sub("UUID", message)
        found = first.setdefault(words, each.check)
        if found != each.check and len(message) > len(f"as {found}"):
            message = f"as {found}"
        yield each.level.value, each.status.value, each.check, message


def _exit(report: Report) -> None:
    from hvdrivers.conformance.engine.report import ProfileVerdict

    if report.verdict is ProfileVerdict.FAILURE:
        raise typer.Exit(ExitCode.FAILED)
    if report.verdict is ProfileVerdict.PARTIAL:
        raise typer.Exit(ExitCode.PARTIAL)


def reap(
    session: Session,
    host: HostArgument,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be removed.")
    ] = False,
    journal: Annotated[
        list[Path] | None,
        typer.Option(
            "--journal", metavar="FILE", help="Also what this journal has open. Repeatable."
        ),
    ] = None,
) -> None:
    """Remove what an interrupted run of the suite has left on a host.

    That is: instances and volumes whose names begin with hvct-, instances with the suite's mark in
    their metadata, and what a journal has open. Nothing else is touched, no foreign machine either.
    Exit status: 5 if something could not be removed.
    """
    from hvdrivers.conformance.engine.journal import Journal, unfinished
    from hvdrivers.conformance.engine.reaping import half_made, leftovers_on
    from hvdrivers.conformance.engine.reaping import reap as remove

    journals = journal or []
    for path in journals:
        if not path.is_file():
            raise BadUsageError(f"--journal: {path} is not a file")
    with session.host(host) as driver:
        found = [*leftovers_on(driver, journals), *half_made(driver, journals)]
        if not dry_run:
            found = remove(driver, found)
    done = not dry_run and all(each.outcome == "removed" for each in found)
    if done:
        for path in journals:
            for entry in list(unfinished(path)):
                Journal(path).done(entry.id)
    session.emit(
        found,
        lambda: table(
            ("KIND", "ID", "NAME", "WHY", "OUTCOME"),
            ((each.kind, each.id, each.name, each.why, each.outcome) for each in found),
        ),
    )
    if not dry_run and not done:
        raise typer.Exit(ExitCode.PARTIAL)
