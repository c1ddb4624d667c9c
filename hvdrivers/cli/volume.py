"""``volume``: volumes of the host, and of instances."""

from __future__ import annotations

from typing import Annotated

import typer

from hvdrivers.cli.ask import confirm
from hvdrivers.cli.command import Group, InstanceArgument, YesOption
from hvdrivers.cli.instances import show_info
from hvdrivers.cli.interrupt import long_operation
from hvdrivers.cli.output import details, size, table
from hvdrivers.cli.parse import checked, gib, numbers, volumes
from hvdrivers.cli.report import BadUsageError
from hvdrivers.cli.session import Session

_group = Group("Volumes: make, attach, swap, limit, detach, delete.")
group = _group.app

VolumeIdArgument = Annotated[
    str, typer.Argument(metavar="VOLUME", help="Its id, as list shows it.", show_default=False)
]


@_group.command("create")
def create(
    session: Session,
    size_: Annotated[str, typer.Option("--size", metavar="SIZE", help="GiB, or with a unit.")],
    name: Annotated[str | None, typer.Option(metavar="NAME", help="None: made up.")] = None,
    pool: Annotated[
        str | None, typer.Option(metavar="POOL", help="Pool or datastore, if not the default one.")
    ] = None,
    volume_format: Annotated[
        str | None,
        typer.Option("--format", metavar="FORMAT", help="If not what suits the hypervisor."),
    ] = None,
) -> None:
    """Make an empty volume in the host's own storage."""
    from hvdrivers.models.volume import VolumeSpec

    spec = checked(
        "volume",
        VolumeSpec,
        {"size_gib": gib("--size", size_), "name": name, "pool": pool, "format": volume_format},
    )
    with session.host() as driver:
        volume = driver.create_volume(spec, timeout=session.timeout)
    session.emit(
        {"volume_id": volume.volume_id, "volume": volume},
        lambda: details({"id": volume.volume_id, "type": volume.driver_volume_type}),
    )


@_group.command("list")
def list_volumes(session: Session) -> None:
    """List the volumes in the host's own storage."""
    with session.host() as driver:
        found = sorted(
            driver.list_volumes(timeout=session.timeout), key=lambda each: (each.pool, each.name)
        )
    session.emit(
        found,
        lambda: table(
            ("ID", "NAME", "POOL", "FORMAT", "SIZE", "TAKEN"),
            (
                (
                    each.volume_id,
                    each.name,
                    each.pool,
                    each.format,
                    size(each.capacity_bytes),
                    size(each.allocation_bytes),
                )
                for each in found
            ),
        ),
    )


@_group.command("show")
def show(session: Session, volume: VolumeIdArgument) -> None:
    """Show one volume in the host's own storage."""
    with session.host() as driver:
        found = driver.get_volume(volume, timeout=session.timeout)
    session.emit(
        found,
        lambda: details(
            {
                "id": found.volume_id,
                "name": found.name,
                "pool": found.pool,
                "format": found.format,
                "size": size(found.capacity_bytes),
                "taken": size(found.allocation_bytes),
                "path": found.path,
            }
        ),
    )


@_group.command("delete")
def delete(
    session: Session,
    volume: VolumeIdArgument,
    yes: YesOption = False,
) -> None:
    """Delete a volume of the host, with its data. One that is not there is a success."""
    confirm(f"to be deleted, with its data: {volume}", yes=yes)
    with session.host() as driver:
        driver.delete_volume(volume, timeout=session.timeout)
    session.emit(
        {"volume_id": volume, "outcome": "deleted"},
        lambda: details({"id": volume, "outcome": "deleted"}),
    )


@_group.command("attach")
def attach(
    session: Session,
    instance: InstanceArgument,
    volume: Annotated[
        str,
        typer.Argument(
            metavar="VOLUME",
            help="A volume of the host, ID[,bus=..][,readonly][,cache=..]; or @FILE with Cinder's"
            " connection_info in JSON.",
            show_default=False,
        ),
    ],
) -> None:
    """Attach a volume to an instance, at once and for every later start."""
    with session.host() as driver:
        uuid = session.find(driver, instance)
        (attachment,) = volumes(driver, (volume,), option="VOLUME")
        made = driver.attach_volume(uuid, attachment, timeout=session.timeout)
    session.emit(
        made,
        lambda: details(
            {
                "id": made.volume_id,
                "device": made.device,
                "bus": made.bus,
                "size": size(made.size_bytes),
                "read-only": made.read_only,
            }
        ),
    )


@_group.command("detach")
def detach(session: Session, instance: InstanceArgument, volume: VolumeIdArgument) -> None:
    """Detach a volume; ends when the guest has let go. One that is not attached is a success."""
    with session.host() as driver:
        uuid = session.find(driver, instance)
        driver.detach_volume(uuid, volume, timeout=session.timeout)
        show_info(session, driver, uuid)


@_group.command("extend")
def extend(
    session: Session,
    instance: InstanceArgument,
    volume: VolumeIdArgument,
    size_: Annotated[
        str, typer.Option("--size", metavar="SIZE", help="What it has now: GiB, or with a unit.")
    ],
) -> None:
    """Tell an instance that an attached volume has grown at its server."""
    with session.host() as driver:
        uuid = session.find(driver, instance)
        driver.extend_volume(uuid, volume, gib("--size", size_) << 30, timeout=session.timeout)
        show_info(session, driver, uuid)


@_group.command("connector")
def connector(session: Session) -> None:
    """Show how the host names itself to storage servers, in the keys that Cinder wants."""
    with session.host() as driver:
        found = driver.get_volume_connector(timeout=session.timeout).to_cinder()
    session.emit(found, lambda: details(found))


@_group.command("swap")
def swap(
    session: Session,
    instance: InstanceArgument,
    volume: VolumeIdArgument,
    replacement: Annotated[
        str,
        typer.Argument(
            metavar="REPLACEMENT", help="As for attach: ID, or @FILE.", show_default=False
        ),
    ],
) -> None:
    """Copy an attached volume to another and go on with that, without the guest noticing."""
    with session.host() as driver:
        uuid = session.find(driver, instance)
        (attachment,) = volumes(driver, (replacement,), option="REPLACEMENT")
        made = long_operation(
            lambda report: driver.swap_volume(
                uuid, volume, attachment, timeout=session.timeout, progress=report
            ),
            unfinished=f"{volume} may still be copied: hvdrivers show HOST {uuid}",
        )
    session.emit(made, lambda: details(made.model_dump()))


@_group.command("qos")
def qos(
    session: Session,
    instance: InstanceArgument,
    volume: VolumeIdArgument,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LIMIT=N",
            help="total_bytes_sec=N, read_iops_sec=N and so on, as Cinder's qos_specs; repeatable.",
        ),
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="Remove all limits.")] = False,
) -> None:
    """Change the limits of an attached volume, at once and for later starts."""
    from hvdrivers.models.volume import DiskQos

    if bool(limit) is none:
        raise BadUsageError("give --limit, or --none")
    wanted = checked("--limit", DiskQos, numbers("--limit", ",".join(limit))) if limit else None
    with session.host() as driver:
        uuid = session.find(driver, instance)
        driver.set_disk_qos(uuid, volume, wanted, timeout=session.timeout)
        show_info(session, driver, uuid)
