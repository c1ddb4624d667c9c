"""``image``: what a host keeps to make instances from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hvdrivers.cli.ask import confirm
from hvdrivers.cli.command import Group, YesOption
from hvdrivers.cli.interrupt import long_operation
from hvdrivers.cli.output import details, size, table
from hvdrivers.cli.parse import image as parse_image
from hvdrivers.cli.session import Session

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.table import Table

    from hvdrivers.models.image import CachedImage

_group = Group("The host's cache of images.")
group = _group.app


def _view(found: Iterable[CachedImage]) -> Table:
    return table(
        ("KEY", "FORMAT", "VIRTUAL SIZE", "TAKEN", "IN USE", "LAST USED"),
        (
            (
                each.key,
                each.format,
                size(each.virtual_size_bytes),
                size(each.size_bytes),
                each.in_use,
                each.last_used,
            )
            for each in found
        ),
    )


@_group.command("cache")
def cache(
    session: Session,
    image: Annotated[
        str,
        typer.Argument(metavar="IMAGE", help="PATH or https://...", show_default=False),
    ],
    image_format: Annotated[
        str | None,
        typer.Option("--format", metavar="FORMAT", help="If the name does not end in it."),
    ] = None,
    checksum: Annotated[
        str | None,
        typer.Option(metavar="sha256:HEX", help="What it must hash to; a URL needs it."),
    ] = None,
) -> None:
    """Bring an image into the host's cache, so that spawning from it is quick."""
    wanted = parse_image(image, image_format=image_format, checksum=checksum, option="IMAGE")
    with session.host() as driver:
        made = long_operation(
            lambda report: driver.cache_image(wanted, timeout=session.timeout, progress=report),
            unfinished="the host may still be loading it: hvdrivers image HOST list",
        )
    session.emit(made, lambda: _view([made]))


@_group.command("list")
def list_images(session: Session) -> None:
    """List the images in the host's cache."""
    with session.host() as driver:
        found = sorted(
            driver.list_cached_images(timeout=session.timeout), key=lambda each: each.key
        )
    session.emit(found, lambda: _view(found))


@_group.command("evict")
def evict(
    session: Session,
    key: Annotated[
        str, typer.Argument(metavar="KEY", help="As list shows it.", show_default=False)
    ],
    yes: YesOption = False,
) -> None:
    """Remove an image from the host's cache. One that is not there is a success."""
    confirm(f"to be removed from the cache: {key}", yes=yes)
    with session.host() as driver:
        driver.evict_image(key, timeout=session.timeout)
    result = {"key": key, "outcome": "evicted"}
    session.emit(result, lambda: details(result))
