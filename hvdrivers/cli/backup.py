"""``backup``: a point in time that backup software reads."""

from __future__ import annotations

from typing import Annotated

import typer

from hvdrivers.cli.command import Group, InstanceArgument
from hvdrivers.cli.output import details, size
from hvdrivers.cli.session import Session

_group = Group("Open a point in time for backup software, and close it.")
group = _group.app


@_group.command("begin")
def begin(
    session: Session,
    instance: InstanceArgument,
    since: Annotated[
        str | None,
        typer.Option(metavar="BACKUP", help="An earlier one: only what changed since then."),
    ] = None,
) -> None:
    """Open a consistent point in time for reading, while the guest runs on.

    `-o json` has the extents to copy.
    """
    with session.host() as driver:
        uuid = session.find(driver, instance)
        made = driver.begin_backup(uuid, since=since, timeout=session.timeout)
    session.emit(
        made,
        lambda: details(
            {
                "id": made.id,
                "since": made.since,
                "disks": made.disks,
                "to copy": size(sum(each.length for each in made.extents if not each.zero)),
                "location": made.location,
            }
        ),
    )


@_group.command("end")
def end(
    session: Session,
    instance: InstanceArgument,
    backup: Annotated[
        str | None,
        typer.Argument(metavar="BACKUP", help="Its id; none: the open one.", show_default=False),
    ] = None,
) -> None:
    """Close a backup. One that is closed is a success."""
    with session.host() as driver:
        uuid = session.find(driver, instance)
        driver.end_backup(uuid, backup, timeout=session.timeout)
    result = {"uuid": str(uuid), "backup": backup, "outcome": "closed"}
    session.emit(result, lambda: details(result))
