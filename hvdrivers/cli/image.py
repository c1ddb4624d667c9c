"""``image``: what a host keeps to make instances from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from hvdrivers.cli.ask import confirm
from hvdrivers.cli.command import Group, YesOption
from hvdrivers.cli.interrupt import long_operation
from hvdrivers.cli.output import details, size, table
from hvdrivers.cli.parse import image as parse_image
from hvdrivers.cli.session import Session
from hvdrivers.contract import errors

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.table import Table

    from hvdrivers.contract.driver import ComputeDriver
    from hvdrivers.models.image import CachedImage

_group = Group("The host's cache of images.")
group = _group.app


def _view(found: Iterable[CachedImage]) -> Table:
    return table(
        ("KEY", "FORMAT", "STATE", "VIRTUAL SIZE", "TAKEN", "IN USE", "LAST USED"),
        (
            (
                each.key,
                each.format,
                "partial" if each.partial else "complete",
                None if each.partial else size(each.virtual_size_bytes),
                size(each.size_bytes),
                "unknown" if each.in_use is None and not each.partial else each.in_use,
                each.last_written if each.partial else each.last_used,
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
            unfinished="the host may still be loading it: hvdrivers image list HOST",
        )
    session.emit(made, lambda: _view([made]))


@_group.command("list")
def list_images(session: Session) -> None:
    """List the images in the host's cache.

    A partial one is an upload that is under way, or what an upload has left whose client died; it
    shows when it was last written to, by the host's clock. IN USE is "unknown" on a host that
    cannot list what is based on an image (libvirt); image evict asks, and refuses if something is.
    """
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


@_group.command("reap")
def reap(
    session: Session,
    *,
    yes: YesOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what may be removed.")
    ] = False,
) -> None:
    """Remove what uploads have left whose clients died.

    Removes the partial images that nobody has written to for ten minutes, by the host's clock. One
    that was written to since then may be an upload that is under way: it stays, and is named.
    """
    with session.host() as driver:
        found = [
            each for each in driver.list_cached_images(timeout=session.timeout) if each.partial
        ]
        if found and not dry_run:
            listed = ", ".join(f"{each.key} ({size(each.size_bytes)})" for each in found)
            confirm(f"to be removed, where nobody writes to them: {listed}", yes=yes)
        results = [_reaped(session, driver, each, dry_run=dry_run) for each in found]
    session.emit(
        results,
        lambda: table(
            ("KEY", "TAKEN", "LAST WRITTEN", "OUTCOME", "WHY"),
            (
                (
                    each["key"],
                    size(each["size_bytes"]),
                    each["last_written"],
                    each["outcome"],
                    each["why"],
                )
                for each in results
            ),
        ),
    )


def _reaped(
    session: Session, driver: ComputeDriver, entry: CachedImage, *, dry_run: bool
) -> dict[str, Any]:
    outcome, why = "found" if dry_run else "removed", None
    if not dry_run:
        try:
            driver.evict_image(entry.key, timeout=session.timeout)
        except errors.DeviceBusy as error:
            outcome, why = "kept", error.message
    return {
        "key": entry.key,
        "size_bytes": entry.size_bytes,
        "last_written": entry.last_written,
        "outcome": outcome,
        "why": why,
    }
