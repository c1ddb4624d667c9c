"""``share``: directories of the host inside the guest."""

from __future__ import annotations

from typing import Annotated

import typer

from hvdrivers.cli.command import Group, InstanceArgument
from hvdrivers.cli.output import details
from hvdrivers.cli.parse import checked
from hvdrivers.cli.session import Session

_group = Group("Directories of the host that a guest mounts.")
group = _group.app

TagArgument = Annotated[
    str,
    typer.Argument(metavar="TAG", help="The name that the guest mounts.", show_default=False),
]


@_group.command("attach")
def attach(
    session: Session,
    instance: InstanceArgument,
    tag: TagArgument,
    path: Annotated[
        str,
        typer.Argument(metavar="PATH", help="Absolute path on the host.", show_default=False),
    ],
    read_only: Annotated[
        bool, typer.Option("--readonly", help="The guest cannot write to it.")
    ] = False,
) -> None:
    """Let a stopped instance mount a directory of the host after its next start."""
    from hvdrivers.models.guest import Share

    share = checked("share", Share, {"tag": tag, "path": path, "read_only": read_only})
    with session.host() as driver:
        uuid = session.find(driver, instance)
        driver.attach_share(uuid, share, timeout=session.timeout)
    result = {"uuid": str(uuid), **share.model_dump(), "outcome": "attached"}
    session.emit(result, lambda: details(result))


@_group.command("detach")
def detach(session: Session, instance: InstanceArgument, tag: TagArgument) -> None:
    """Take a share away from a stopped instance. One that is not there is a success."""
    with session.host() as driver:
        uuid = session.find(driver, instance)
        driver.detach_share(uuid, tag, timeout=session.timeout)
    result = {"uuid": str(uuid), "tag": tag, "outcome": "detached"}
    session.emit(result, lambda: details(result))
