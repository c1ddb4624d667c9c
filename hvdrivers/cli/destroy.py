"""``destroy``: remove instances."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from hvdrivers.cli import command as cmd
from hvdrivers.cli.ask import confirm
from hvdrivers.cli.codes import ExitCode
from hvdrivers.cli.command import HostArgument, YesOption
from hvdrivers.cli.complete import complete_instance
from hvdrivers.cli.output import Output, table
from hvdrivers.cli.report import tell
from hvdrivers.cli.session import Session, choose, uuid_of
from hvdrivers.cli.text import shown
from hvdrivers.contract.errors import HypervisorError, InstanceNotFound
from hvdrivers.models.instance import Keep

if TYPE_CHECKING:
    from hvdrivers.contract.driver import ComputeDriver


@dataclass
class _Target:
    uuid: UUID | None
    """None: nothing has the name that was given, and that may be so."""
    name: str | None
    state: str | None

    def described(self) -> str:
        if self.uuid is None:
            return f"{shown(self.name or '')} (no instance has this name)"
        if self.name is None:
            return f"{self.uuid} (not listed: only left-overs can be there)"
        return f"{self.uuid} ({shown(self.name)}, {self.state})"

    def result(self, outcome: str, error: str | None = None) -> dict[str, Any]:
        uuid = None if self.uuid is None else str(self.uuid)
        return {"uuid": uuid, "name": self.name, "outcome": outcome, "error": error}


def destroy_instances(
    session: Session,
    host: HostArgument,
    instances: Annotated[
        list[str],
        typer.Argument(
            metavar="INSTANCE...",
            help="UUIDs, beginnings of UUIDs, or names.",
            autocompletion=complete_instance,
            show_default=False,
        ),
    ],
    *,
    yes: YesOption = False,
    keep: Annotated[
        list[Keep] | None,
        typer.Option(
            metavar="PART",
            help="Leave this, as volumes of the host: root-disk, ephemeral-disks or swap-disk;"
            " repeatable.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be destroyed.")
    ] = False,
    missing_ok: Annotated[
        bool, typer.Option("--missing-ok", help="A name that no instance has is a success.")
    ] = False,
) -> None:
    """Remove instances and all that was made for them.

    Attached volumes stay, with their data. A whole UUID that is not there is a success: what an
    interrupted spawn has left of it is removed. A name, or the beginning of a UUID, that nothing
    has is an error, before anything is destroyed, as it may be mistyped; with --missing-ok it is a
    success. If some fail and some do not, the exit status is 5.
    """
    with session.host(host) as driver:
        targets = _targets(driver, instances, session.timeout, missing_ok=missing_ok)
        if dry_run:
            _write(session, [target.result("would be destroyed") for target in targets])
            return
        kept = f" (keeping: {', '.join(keep)})" if keep else ""
        listed = "\n".join(f"  {target.described()}" for target in targets)
        confirm(f"to be destroyed, with disks and snapshots{kept}:\n{listed}", yes=yes)
        results: list[dict[str, Any]] = []
        codes: list[ExitCode] = []
        try:
            for target in targets:
                results.append(_destroyed(session, driver, target, frozenset(keep or ()), codes))
        except KeyboardInterrupt:
            rest = targets[len(results) :]
            results += [
                target.result("unknown" if target is rest[0] else "untouched") for target in rest
            ]
            _write(session, results)
            raise
    _write(session, results)
    if codes:
        everything = len(codes) == len(targets) and len(set(codes)) == 1
        raise typer.Exit(codes[0] if everything else ExitCode.PARTIAL)


def _destroyed(
    session: Session,
    driver: ComputeDriver,
    target: _Target,
    keep: AbstractSet[Keep],
    codes: list[ExitCode],
) -> dict[str, Any]:
    if target.uuid is None:
        return target.result("absent")
    try:
        driver.destroy(target.uuid, keep=keep, timeout=session.timeout)
    except HypervisorError as error:
        codes.append(
            tell(
                error,
                as_json=session.output is Output.JSON,
                debug=session.debug,
                secrets=session.secrets,
            )
        )
        return target.result("failed", error.message)
    return target.result("absent" if target.name is None else "destroyed")


def _targets(
    driver: ComputeDriver, texts: Sequence[str], timeout: float | None, *, missing_ok: bool
) -> list[_Target]:
    """All of them, each once, before the first is touched."""
    there = driver.list_instances(timeout=timeout)
    by_uuid = {each.uuid: each for each in there}
    found: dict[UUID | str, _Target] = {}
    for text in texts:
        uuid = uuid_of(text)
        try:
            each = by_uuid.get(uuid) if uuid is not None else choose(there, text)
        except InstanceNotFound as error:
            if not missing_ok:
                error.hint = f"{error.hint}; --missing-ok makes it a success"
                raise
            found[text] = _Target(None, text, None)
            continue
        if each is not None:
            found[each.uuid] = _Target(each.uuid, each.name, each.state)
        elif uuid is not None:
            found[uuid] = _Target(uuid, None, None)
    return list(found.values())


def _write(session: Session, results: list[dict[str, Any]]) -> None:
    session.emit(
        results,
        lambda: table(
            ("UUID", "NAME", "OUTCOME", "ERROR"), ([*result.values()] for result in results)
        ),
    )


destroy = cmd.command(destroy_instances)
