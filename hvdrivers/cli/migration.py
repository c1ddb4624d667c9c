"""``migration``: what can be asked of a live migration that runs."""

from __future__ import annotations

from hvdrivers.cli.command import Group, InstanceArgument
from hvdrivers.cli.output import details
from hvdrivers.cli.session import Session

_group = Group("Look at a running live migration, end it or hurry it.")
group = _group.app


@_group.command("progress")
def progress(session: Session, instance: InstanceArgument) -> None:
    """Show where the migration of an instance stands."""
    with session.host() as driver:
        uuid = session.find(driver, instance)
        found = driver.migration_progress(uuid, timeout=session.timeout)
    session.emit(found, lambda: details(found.model_dump()))


@_group.command("abort")
def abort(session: Session, instance: InstanceArgument) -> None:
    """Stop a migration: the instance runs on at its source. Without one it is a success."""
    with session.host() as driver:
        uuid = session.find(driver, instance)
        driver.abort_migration(uuid, timeout=session.timeout)
    result = {"uuid": str(uuid), "outcome": "aborted"}
    session.emit(result, lambda: details(result))


@_group.command("force")
def force(session: Session, instance: InstanceArgument) -> None:
    """Make a migration end soon, though the guest stands still for longer."""
    with session.host() as driver:
        uuid = session.find(driver, instance)
        driver.force_migration(uuid, timeout=session.timeout)
    result = {"uuid": str(uuid), "outcome": "forced"}
    session.emit(result, lambda: details(result))
