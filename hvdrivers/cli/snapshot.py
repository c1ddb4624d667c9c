"""``snapshot``: points to come back to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hvdrivers.cli.ask import confirm
from hvdrivers.cli.command import Group, InstanceArgument, YesOption
from hvdrivers.cli.instances import show_info
from hvdrivers.cli.interrupt import long_operation
from hvdrivers.cli.output import details, size, table
from hvdrivers.cli.parse import checked
from hvdrivers.cli.session import Session

_group = Group("Snapshots of an instance.")
group = _group.app

SnapshotArgument = Annotated[
    str, typer.Argument(metavar="SNAPSHOT", help="Its id, as list shows it.", show_default=False)
]
_COLUMNS = ("ID", "NAME", "PARENT", "CREATED", "MEMORY", "CURRENT")


@_group.command("create")
def create(
    session: Session,
    instance: InstanceArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A label.", show_default=False)],
    memory: Annotated[
        bool, typer.Option("--memory", help="Also the memory of a running machine.")
    ] = False,
) -> None:
    """Remember the disks of an instance as they are now."""
    with session.host() as driver:
        made = driver.create_snapshot(
            session.find(driver, instance), name, memory=memory, timeout=session.timeout
        )
    session.emit(made, lambda: details(made.model_dump()))


@_group.command("list")
def list_snapshots(session: Session, instance: InstanceArgument) -> None:
    """List the snapshots of an instance, parents before children."""
    with session.host() as driver:
        found = driver.list_snapshots(session.find(driver, instance), timeout=session.timeout)
    session.emit(
        found,
        lambda: table(
            _COLUMNS,
            ((s.id, s.name, s.parent, s.created_at, s.with_memory, s.current) for s in found),
        ),
    )


@_group.command("revert")
def revert(
    session: Session,
    instance: InstanceArgument,
    snapshot: SnapshotArgument,
    yes: YesOption = False,
) -> None:
    """Go back to a snapshot. What happened since is lost."""
    confirm(f"to be lost: all that {instance} did since the snapshot {snapshot}", yes=yes)
    with session.host() as driver:
        uuid = session.find(driver, instance)
        driver.revert_snapshot(uuid, snapshot, timeout=session.timeout)
        show_info(session, driver, uuid)


@_group.command("delete")
def delete(
    session: Session,
    instance: InstanceArgument,
    snapshot: SnapshotArgument,
    children: Annotated[
        bool, typer.Option("--children", help="Also all that descend from it.")
    ] = False,
    yes: YesOption = False,
) -> None:
    """Forget a snapshot; the instance does not change. One that is not there is a success."""
    confirm(f"to be forgotten: the snapshot {snapshot} of {instance}", yes=yes)
    with session.host() as driver:
        uuid = session.find(driver, instance)
        driver.delete_snapshot(uuid, snapshot, children=children, timeout=session.timeout)
    result = {"uuid": str(uuid), "snapshot": snapshot, "outcome": "deleted"}
    session.emit(result, lambda: details(result))


@_group.command("export")
def export(
    session: Session,
    instance: InstanceArgument,
    target: Annotated[
        Path, typer.Argument(metavar="FILE", help="A new file here.", show_default=False)
    ],
    image_format: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="Of the file.")
    ] = "qcow2",
) -> None:
    """Copy the root disk, as it is now, into an image file on this machine."""
    from hvdrivers.models.image import ImageFormat

    wanted = checked("--format", ImageFormat, image_format)  # type: ignore[arg-type]
    with session.host() as driver:
        uuid = session.find(driver, instance)
        made = long_operation(
            lambda report: driver.snapshot_to_image(
                uuid, target, wanted, timeout=session.timeout, progress=report
            ),
            unfinished=f"{target} may still be written",
        )
    session.emit(
        made,
        lambda: details(
            {
                "file": target,
                "format": made.format,
                "size": size(made.file_size_bytes),
                "virtual size": size(made.virtual_size_bytes),
            }
        ),
    )
