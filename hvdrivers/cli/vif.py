"""``vif``: the NICs of an instance."""

from __future__ import annotations

from typing import Annotated

import typer

from hvdrivers.cli.command import Group, InstanceArgument
from hvdrivers.cli.instances import show_info
from hvdrivers.cli.output import details
from hvdrivers.cli.parse import checked, numbers
from hvdrivers.cli.parse import nic as parse_nic
from hvdrivers.cli.report import BadUsageError
from hvdrivers.cli.session import Session

_group = Group("NICs: plug, limit, unplug.")
group = _group.app


@_group.command("plug")
def plug(
    session: Session,
    instance: InstanceArgument,
    nic: Annotated[
        str,
        typer.Argument(
            metavar="NIC",
            help="network:NAME, bridge:NAME or ovs:NAME with [,mac=..][,id=..], or"
            " type=..,key=.., or @FILE with JSON.",
            show_default=False,
        ),
    ],
) -> None:
    """Give an instance a NIC, at once and for every later start.

    Without id= each call makes another NIC; with it, repeating the call changes nothing.
    """
    vif = parse_nic(nic, option="NIC")
    with session.host() as driver:
        uuid = session.find(driver, instance)
        made = driver.plug_vif(uuid, vif, timeout=session.timeout)
    session.emit(
        made,
        lambda: details(
            {
                "id": made.id,
                "type": made.type,
                "mac": made.address,
                "device": made.device,
                "model": made.model,
            }
        ),
    )


@_group.command("unplug")
def unplug(
    session: Session,
    instance: InstanceArgument,
    vif_id: Annotated[
        str, typer.Argument(metavar="VIF", help="Its id, as show shows it.", show_default=False)
    ],
) -> None:
    """Take a NIC away; ends when the guest has let go. One that is not plugged is a success."""
    with session.host() as driver:
        uuid = session.find(driver, instance)
        driver.unplug_vif(uuid, vif_id, timeout=session.timeout)
        show_info(session, driver, uuid)


@_group.command("qos")
def qos(
    session: Session,
    instance: InstanceArgument,
    vif_id: Annotated[
        str, typer.Argument(metavar="VIF", help="Its id, as show shows it.", show_default=False)
    ],
    inbound: Annotated[
        str | None,
        typer.Option(
            metavar="LIMITS", help="To the guest: average=KBIT_S[,peak=KBIT_S][,burst=KBIT]."
        ),
    ] = None,
    outbound: Annotated[
        str | None, typer.Option(metavar="LIMITS", help="From the guest, likewise.")
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="Remove all limits.")] = False,
) -> None:
    """Change the limits of a NIC, at once and for later starts."""
    from hvdrivers.models.vif import VifQos

    given = {
        name: numbers(f"--{name}", text)
        for name, text in (("inbound", inbound), ("outbound", outbound))
        if text is not None
    }
    if bool(given) is none:
        raise BadUsageError("give --inbound or --outbound, or --none")
    wanted = checked("qos", VifQos, given) if given else None
    with session.host() as driver:
        uuid = session.find(driver, instance)
        driver.set_vif_qos(uuid, vif_id, wanted, timeout=session.timeout)
        show_info(session, driver, uuid)
