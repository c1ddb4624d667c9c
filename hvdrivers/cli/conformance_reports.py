"""``conformance verify``, ``diff`` and ``badge``: reports that are there already."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hvdrivers.cli.codes import ExitCode
from hvdrivers.cli.output import details, table, write
from hvdrivers.cli.session import Session

if TYPE_CHECKING:
    from rich.table import Table


def verify(
    session: Session,
    report: Annotated[
        Path, typer.Argument(metavar="REPORT", help="A report in JSON.", show_default=False)
    ],
) -> None:
    """Compute a report's verdicts again, from its results, and compare.

    Exit status: 1 if they differ, if results are missing or claim what they cannot, or if the
    report was made by another version of the suite.
    """
    from hvdrivers.conformance.engine.summary import sentence
    from hvdrivers.conformance.engine.verifying import read_report
    from hvdrivers.conformance.engine.verifying import verify as problems_of

    found = read_report(report)
    problems = problems_of(found)
    session.emit(
        {
            "holds": not problems,
            "problems": problems,
            "verdict": found.verdict,
            "standing": sentence(found),
        },
        lambda: details(
            {
                "driver": f"{found.driver} {found.driver_version}",
                "verdict": found.verdict.value,
                "standing": sentence(found),
                "holds": not problems,
                "problems": problems,
            }
        ),
    )
    if problems:
        raise typer.Exit(ExitCode.FAILED)


def diff(
    session: Session,
    old: Annotated[
        Path, typer.Argument(metavar="OLD", help="A report in JSON.", show_default=False)
    ],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="A later one.", show_default=False)],
) -> None:
    """Compare two reports. Exit status: 1 if something has become worse."""
    from hvdrivers.conformance.engine.verifying import difference, read_report

    found = difference(read_report(old), read_report(new))

    def view() -> Table:
        rows: list[tuple[object, ...]] = []
        for word in ("worse", "better", "other"):
            for each in getattr(found, word):
                rows.append((word, each.check, each.old or "-", each.new or "-", each.message))
        for word in ("lost", "gained"):
            for capability in getattr(found, f"capabilities_{word}"):
                rows.append((word, capability, "", "", "a capability"))
        rows.append(("verdict", "", found.old_verdict, found.new_verdict, ""))
        return table(("", "CHECK", "OLD", "NEW", "MESSAGE"), rows)

    session.emit(found, view)
    if found.regressed:
        raise typer.Exit(ExitCode.FAILED)


def badge(
    session: Session,
    report: Annotated[
        Path, typer.Argument(metavar="REPORT", help="A report in JSON.", show_default=False)
    ],
) -> None:
    """Write a badge as SVG to standard output: level, ratio of clauses, tier.

    A report that does not hold (see verify) gets none.
    """
    del session
    from hvdrivers.cli.report import CommandError
    from hvdrivers.conformance.engine.verifying import read_report
    from hvdrivers.conformance.engine.verifying import verify as problems_of
    from hvdrivers.conformance.engine.writers import to_svg

    found = read_report(report)
    problems = problems_of(found)
    if problems:
        raise CommandError(
            f"the report does not hold: {problems[0]}", hint="hvdrivers conformance verify REPORT"
        )
    write(to_svg(found))
