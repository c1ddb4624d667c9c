"""``reconnect``: a stopped instance whose servers have moved."""

from __future__ import annotations

from typing import Annotated

import typer

from hvdrivers.cli import command as cmd
from hvdrivers.cli import parse
from hvdrivers.cli.command import HostArgument, InstanceArgument
from hvdrivers.cli.instances import show_info
from hvdrivers.cli.report import BadUsageError
from hvdrivers.cli.session import Session


def reconnect_instance(
    session: Session,
    host: HostArgument,
    instance: InstanceArgument,
    *,
    volume: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VOLUME",
            help="@FILE with Cinder's connection_info in JSON, or a volume of the host; its id says"
            " which volume it is; repeatable.",
        ),
    ] = None,
    nic: Annotated[
        list[str] | None,
        typer.Option(metavar="NIC", help="The new wiring, with id=.. of the NIC; repeatable."),
    ] = None,
) -> None:
    """Replace the connections of volumes and NICs of a stopped instance, all of them or none."""
    if not volume and not nic:
        raise BadUsageError("nothing to change", hint="give --volume or --nic")
    vifs = tuple(parse.nic(text) for text in nic or ())
    with session.host(host) as driver:
        uuid = session.find(driver, instance)
        driver.reconnect(
            uuid,
            volumes=parse.volumes(driver, volume or ()),
            vifs=vifs,
            timeout=session.timeout,
        )
        show_info(session, driver, uuid)


reconnect = cmd.command(reconnect_instance)
