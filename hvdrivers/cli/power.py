"""``power``: on, off, and what is between."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from hvdrivers.cli.command import Group, InstanceArgument
from hvdrivers.cli.instances import show_info
from hvdrivers.cli.session import Session

if TYPE_CHECKING:
    from hvdrivers.contract.driver import ComputeDriver

_group = Group("Switch an instance on or off, pause it, reboot it.")
power = _group.app


def _switch(
    session: Session, instance: str, change: Callable[[ComputeDriver, UUID, float | None], None]
) -> None:
    with session.host() as driver:
        uuid = session.find(driver, instance)
        change(driver, uuid, session.timeout)
        show_info(session, driver, uuid)


@_group.command("on")
def on(
    session: Session,
    instance: InstanceArgument,
    paused: Annotated[
        bool, typer.Option("--paused", help="Let its CPUs wait for unpause.")
    ] = False,
) -> None:
    """Start an instance. One that runs is a success."""
    if paused:
        _switch(
            session, instance, lambda driver, uuid, left: driver.start_paused(uuid, timeout=left)
        )
    else:
        _switch(session, instance, lambda driver, uuid, left: driver.power_on(uuid, timeout=left))


@_group.command("off")
def off(
    session: Session,
    instance: InstanceArgument,
    graceful: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=0, help="Let the guest shut down for so long, then cut."
        ),
    ] = 0,
) -> None:
    """Stop an instance, at once unless --graceful. One that is stopped is a success."""
    _switch(
        session,
        instance,
        lambda driver, uuid, left: driver.power_off(uuid, graceful=graceful, timeout=left),
    )


@_group.command("reboot")
def reboot(
    session: Session,
    instance: InstanceArgument,
    soft: Annotated[
        bool, typer.Option("--soft", help="Ask the guest, instead of a reset.")
    ] = False,
) -> None:
    """Start a running guest anew."""
    from hvdrivers.contract.power import RebootKind

    kind = RebootKind.SOFT if soft else RebootKind.HARD
    _switch(session, instance, lambda driver, uuid, left: driver.reboot(uuid, kind, timeout=left))


@_group.command("pause")
def pause(session: Session, instance: InstanceArgument) -> None:
    """Stop the CPUs and keep the memory."""
    _switch(session, instance, lambda driver, uuid, left: driver.pause(uuid, timeout=left))


@_group.command("unpause")
def unpause(session: Session, instance: InstanceArgument) -> None:
    """Let the CPUs of a paused instance run again."""
    _switch(session, instance, lambda driver, uuid, left: driver.unpause(uuid, timeout=left))


@_group.command("suspend")
def suspend(session: Session, instance: InstanceArgument) -> None:
    """Write the memory to disk and stop."""
    _switch(session, instance, lambda driver, uuid, left: driver.suspend(uuid, timeout=left))


@_group.command("resume")
def resume(session: Session, instance: InstanceArgument) -> None:
    """Go on where suspend stopped."""
    _switch(session, instance, lambda driver, uuid, left: driver.resume(uuid, timeout=left))


@_group.command("nmi")
def nmi(session: Session, instance: InstanceArgument) -> None:
    """Send a non-maskable interrupt, so that the guest dumps its kernel."""
    _switch(session, instance, lambda driver, uuid, left: driver.inject_nmi(uuid, timeout=left))
