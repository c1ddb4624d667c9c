"""``rescue``, ``unrescue``, ``rebuild``: a guest that does not boot, and a new root disk."""

from __future__ import annotations

from typing import Annotated

import typer

from hvdrivers.cli import command as cmd
from hvdrivers.cli import machine, parse
from hvdrivers.cli.ask import confirm
from hvdrivers.cli.command import HostArgument, InstanceArgument, YesOption
from hvdrivers.cli.instances import show_info
from hvdrivers.cli.interrupt import long_operation
from hvdrivers.cli.report import BadUsageError
from hvdrivers.cli.session import Session

FormatOption = Annotated[
    str | None,
    typer.Option(
        "--format", metavar="FORMAT", help="The image's format, if its name does not end in it."
    ),
]
ChecksumOption = Annotated[
    str | None,
    typer.Option(metavar="sha256:HEX", help="What the image must hash to; a URL needs it."),
]


def rescue_instance(
    session: Session,
    host: HostArgument,
    instance: InstanceArgument,
    *,
    image: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGE",
            help="PATH, https://..., host:NAME or cached:KEY; none: the image it was made from.",
        ),
    ] = None,
    image_format: FormatOption = None,
    checksum: ChecksumOption = None,
    seed: Annotated[
        str | None,
        typer.Option(
            metavar="DISC",
            help="A seed disc that it has meanwhile: FILE[,label=..][,bus=..][,type=disk].",
        ),
    ] = None,
) -> None:
    """Boot an instance from a rescue image, with its own root disk second."""
    wanted = None
    if image is not None:
        wanted = parse.image(image, image_format=image_format, checksum=checksum)
    elif image_format is not None or checksum is not None:
        raise BadUsageError("--format and --checksum describe an image: give --image")
    disc = None if seed is None else machine.seed_disc(seed)
    with session.host(host) as driver:
        uuid = session.find(driver, instance)
        long_operation(
            lambda report: driver.rescue(
                uuid, wanted, seed=disc, timeout=session.timeout, progress=report
            ),
            unfinished=f"{uuid} may still be changing: hvdrivers show HOST {uuid}",
        )
        show_info(session, driver, uuid)


def unrescue_instance(session: Session, host: HostArgument, instance: InstanceArgument) -> None:
    """Boot a rescued instance from its own root disk again."""
    with session.host(host) as driver:
        uuid = session.find(driver, instance)
        driver.unrescue(uuid, timeout=session.timeout)
        show_info(session, driver, uuid)


def rebuild_instance(
    session: Session,
    host: HostArgument,
    instance: InstanceArgument,
    image: Annotated[
        str,
        typer.Argument(
            metavar="IMAGE", help="PATH, https://..., host:NAME or cached:KEY.", show_default=False
        ),
    ],
    *,
    image_format: FormatOption = None,
    checksum: ChecksumOption = None,
    yes: YesOption = False,
) -> None:
    """Replace the root disk of an instance by a fresh one. What is on it is lost."""
    wanted = parse.image(image, image_format=image_format, checksum=checksum, option="IMAGE")
    confirm(f"to be lost: what is on the root disk of {instance}", yes=yes)
    with session.host(host) as driver:
        uuid = session.find(driver, instance)
        long_operation(
            lambda report: driver.rebuild(uuid, wanted, timeout=session.timeout, progress=report),
            unfinished=f"{uuid} may still be changing: hvdrivers show HOST {uuid}",
        )
        show_info(session, driver, uuid)


rescue = cmd.command(rescue_instance)
unrescue = cmd.command(unrescue_instance)
rebuild = cmd.command(rebuild_instance)
