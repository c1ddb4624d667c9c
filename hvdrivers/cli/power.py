"""``power``: on, off, and what is between."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from hvdrivers.cli import command as cmd
from hvdrivers.cli.command import HostArgument, InstanceArgument
from hvdrivers.cli.instances import show_info
from hvdrivers.cli.report import BadUsageError
from hvdrivers.cli.session import Session


class Action(StrEnum):
    """What to do."""

    ON = "on"
    OFF = "off"
    REBOOT = "reboot"
    PAUSE = "pause"
    UNPAUSE = "unpause"
    SUSPEND = "suspend"
    RESUME = "resume"
    NMI = "nmi"


def switch(
    session: Session,
    host: HostArgument,
    instance: InstanceArgument,
    action: Annotated[
        Action,
        typer.Argument(
            metavar="ACTION", help="on, off, reboot, pause, unpause, suspend, resume or nmi."
        ),
    ],
    *,
    graceful: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=0, help="off: let the guest shut down for so long, then cut."
        ),
    ] = 0,
    soft: Annotated[
        bool, typer.Option("--soft", help="reboot: ask the guest, instead of a reset.")
    ] = False,
) -> None:
    """Switch an instance on or off, pause it, reboot it.

    It ends in the state that the action names; being there already is a success.
    """
    from hvdrivers.contract.power import RebootKind

    if graceful and action is not Action.OFF:
        raise BadUsageError(f"--graceful belongs to off, not to {action}")
    if soft and action is not Action.REBOOT:
        raise BadUsageError(f"--soft belongs to reboot, not to {action}")
    with session.host(host) as driver:
        uuid = session.find(driver, instance)
        timeout = session.timeout
        match action:
            case Action.ON:
                driver.power_on(uuid, timeout=timeout)
            case Action.OFF:
                driver.power_off(uuid, graceful=graceful, timeout=timeout)
            case Action.REBOOT:
                kind = RebootKind.SOFT if soft else RebootKind.HARD
                driver.reboot(uuid, kind, timeout=timeout)
            case Action.PAUSE:
                driver.pause(uuid, timeout=timeout)
            case Action.UNPAUSE:
                driver.unpause(uuid, timeout=timeout)
            case Action.SUSPEND:
                driver.suspend(uuid, timeout=timeout)
            case Action.RESUME:
                driver.resume(uuid, timeout=timeout)
            case Action.NMI:
                driver.inject_nmi(uuid, timeout=timeout)
        show_info(session, driver, uuid)


power = cmd.command(switch)
