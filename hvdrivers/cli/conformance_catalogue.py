"""``conformance list``, ``explain`` and ``mutants``: what the suite asks, and what it catches."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Annotated

import typer

from hvdrivers.cli.codes import ExitCode
from hvdrivers.cli.output import details, table
from hvdrivers.cli.report import BadUsageError, say
from hvdrivers.cli.session import Session

if TYPE_CHECKING:
    from rich.table import Table

    from hvdrivers.conformance.mutants import MutantResult


def list_clauses(
    session: Session,
    needs: Annotated[
        list[str] | None,
        typer.Option(metavar="CAPABILITY", help="Only clauses that need this. Repeatable."),
    ] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only clauses of this profile. Repeatable."),
    ] = None,
) -> None:
    """List the clauses of the suite."""
    from hvdrivers.conformance.engine.clauses import by_profile, catalogue
    from hvdrivers.contract.capabilities import Capability
    from hvdrivers.plugins.discovery import alternatives

    known = catalogue()
    profiles = by_profile(known.clauses)
    for name in profile or ():
        if name not in profiles:
            raise BadUsageError(
                f"--profile: there is no {name!r}", hint=alternatives(name, profiles)
            )
    for name in needs or ():
        if name not in set(Capability):
            raise BadUsageError(
                f"--needs: there is no capability {name!r}",
                hint=alternatives(name, set(Capability)),
            )
    wanted = [
        each
        for each in known.clauses.values()
        if (not profile or each.profile in profile) and set(needs or ()) <= set(each.needs)
    ]
    checks = {each.id: known.of(each.id) for each in wanted}
    session.emit(
        [
            {
                "id": each.id,
                "level": each.level,
                "profile": each.profile,
                "operation": each.operation,
                "needs": each.needs,
                "since": each.since,
                "rule": each.rule,
                "checks": [check.id for check in checks[each.id]],
            }
            for each in wanted
        ],
        lambda: table(
            ("CLAUSE", "LEVEL", "PROFILE", "CHECKS", "RULE"),
            (
                (each.id, each.level, each.profile, len(checks[each.id]), each.rule)
                for each in wanted
            ),
        ),
    )


def explain(
    session: Session,
    clause: Annotated[
        str,
        typer.Argument(metavar="ID", help="A clause, or one of its checks.", show_default=False),
    ],
) -> None:
    """Explain one clause: its rule, what it needs, how it is checked, what it has caught."""
    from hvdrivers.conformance.engine.clauses import catalogue
    from hvdrivers.conformance.mutants import mutants as all_mutants
    from hvdrivers.plugins.discovery import close_to

    known = catalogue()
    name = clause.partition("/")[0]
    if name not in known.clauses:
        raise BadUsageError(
            f"there is no clause {name!r}",
            hint=f"{close_to(name, known.clauses)}hvdrivers conformance list shows them all",
        )
    found = known.clauses[name]
    checks = {each.id: inspect.getdoc(each.function) or "" for each in known.of(name)}
    caught = {each.name: each.fault for each in all_mutants() if each.killed_by == name}
    session.emit(
        {
            "id": found.id,
            "rule": found.rule,
            "level": found.level,
            "profile": found.profile,
            "operation": found.operation,
            "needs": found.needs,
            "since": found.since,
            "checks": checks,
            "mutants": caught,
        },
        lambda: details(
            {
                "clause": found.id,
                "rule": found.rule,
                "level": found.level,
                "profile": found.profile,
                "operation": found.operation,
                "needs": sorted(found.needs),
                "since": f"contract {found.since}",
                "checks": [f"{key}: {text}" if text else key for key, text in checks.items()],
                "mutants": [f"{key}: {text}" for key, text in caught.items()],
                "try it": f"hvdrivers conformance run fake --clause {found.id}",
            }
        ),
    )


def mutants(
    session: Session,
    topic: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only mutants of this topic. Repeatable."),
    ] = None,
) -> None:
    """Run the suite against drivers that are broken on purpose.

    Each has one fault, and names the clause that must find it. Exit status: 1 unless every one of
    them is killed by its clause.
    """
    from hvdrivers.conformance.mutants import mutants as all_mutants
    from hvdrivers.conformance.mutants import run_mutants
    from hvdrivers.fake.conformance import mutant_target
    from hvdrivers.plugins.discovery import alternatives

    everything = all_mutants()
    topics = {each.topic for each in everything}
    for name in topic or ():
        if name not in topics:
            raise BadUsageError(f"--topic: there is no {name!r}", hint=alternatives(name, topics))
    wanted = [each for each in everything if not topic or each.topic in topic]
    seen = 0

    def tell(result: MutantResult) -> None:
        nonlocal seen
        seen += 1
        if not result.killed_as_intended:
            by = f"only by {', '.join(result.killers[:3])}" if result.killed else "by nothing"
            say(f"{result.name} is killed {by}, not by {result.intended}: {result.fault}")
        if seen * 10 // len(wanted) > (seen - 1) * 10 // len(wanted):
            say(f"{seen} of {len(wanted)} mutants")

    score = run_mutants(mutant_target, wanted, on_result=tell, processes=4)

    def view() -> Table:
        rows: list[tuple[object, ...]] = []
        for name in sorted({each.topic for each in score.results}):
            own = [each for each in score.results if each.topic == name]
            killed = sum(each.killed for each in own)
            rows.append((name, len(own), killed, sum(each.killed_as_intended for each in own)))
        rows.append(("all", score.total, score.killed, score.killed_as_intended))
        return table(("TOPIC", "MUTANTS", "KILLED", "BY THEIR CLAUSE"), rows)

    session.emit(score, view)
    if not score.killed_as_intended == score.killed == score.total:
        raise typer.Exit(ExitCode.FAILED)
