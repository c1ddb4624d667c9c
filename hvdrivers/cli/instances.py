"""Look at instances and change what is written on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from hvdrivers.cli import command as cmd
from hvdrivers.cli.command import HostArgument, InstanceArgument
from hvdrivers.cli.output import details, plain, size, table
from hvdrivers.cli.parse import pairs
from hvdrivers.cli.report import BadUsageError
from hvdrivers.cli.session import Session, uuid_of

if TYPE_CHECKING:
    from uuid import UUID

    from rich.table import Table

    from hvdrivers.contract.driver import ComputeDriver
    from hvdrivers.models.instance import InstanceInfo, InstanceSummary


def list_instances(
    session: Session,
    host: HostArgument,
    foreign: Annotated[
        bool, typer.Option("--foreign", help="The machines that others made, instead.")
    ] = False,
    addresses: Annotated[
        bool, typer.Option("--addresses", help="Also where each running guest can be reached.")
    ] = False,
) -> None:
    """List the instances of a host.

    With --addresses each running instance costs one more call to the host.
    """
    with session.host(host) as driver:
        if foreign:
            others = sorted(
                driver.list_foreign(timeout=session.timeout),
                key=lambda each: (each.name, each.uuid),
            )
            session.emit(
                others,
                lambda: table(
                    ("UUID", "NAME", "STATE"),
                    ((each.uuid, each.name, each.state) for each in others),
                ),
            )
            return
        found = sorted(
            driver.list_instances(timeout=session.timeout), key=lambda each: (each.name, each.uuid)
        )
        if addresses:
            _emit_with_addresses(session, driver, found)
            return
    session.emit(
        found,
        lambda: table(
            ("UUID", "NAME", "STATE", "VCPUS", "MEMORY"),
            (
                (each.uuid, each.name, each.state, each.vcpus, f"{each.memory_mib} MiB")
                for each in found
            ),
        ),
    )


def _emit_with_addresses(
    session: Session, driver: ComputeDriver, found: Sequence[InstanceSummary]
) -> None:
    rows = [
        {
            **each.model_dump(mode="json"),
            "addresses": addresses_of(session, driver, each.uuid, each.state)[0],
        }
        for each in found
    ]
    session.emit(
        rows,
        lambda: table(
            ("UUID", "NAME", "STATE", "ADDRESSES"),
            ((row["uuid"], row["name"], row["state"], row["addresses"]) for row in rows),
        ),
    )


UNTOLD = "neither the guest nor the host has told one yet"


def addresses_of(
    session: Session, driver: ComputeDriver, uuid: UUID, state: object
) -> tuple[list[str], str | None]:
    """Where a running guest can be reached, as far as the host knows now; if nobody knows, why."""
    from hvdrivers.contract import errors
    from hvdrivers.contract.capabilities import Capability
    from hvdrivers.models.state import InstanceState

    if state is not InstanceState.RUNNING:
        return [], f"the instance is {state}"
    lacking = driver.why_not(Capability.GUEST_ADDRESSES)
    if lacking is not None:
        return [], lacking
    try:
        found = driver.guest_addresses(uuid, timeout=session.timeout)
    except (
        errors.GuestAgentUnavailable,
        errors.InstanceNotFound,  # it has stopped or gone since
        errors.InvalidState,
    ) as error:
        return [], error.message
    local = [each.address for each in found if not each.address.is_link_local]
    known = list(dict.fromkeys(str(address) for address in local if not address.is_loopback))
    return known, None if known else UNTOLD


def show_instance(session: Session, host: HostArgument, instance: InstanceArgument) -> None:
    """Show one instance in full.

    Where no address of a running guest is known, the table says why.
    """
    with session.host(host) as driver:
        uuid = session.find(driver, instance)
        info = driver.get_instance(uuid, timeout=session.timeout)
        addresses, unknown = addresses_of(session, driver, uuid, info.state)
    session.emit(
        {**info.model_dump(mode="json"), "addresses": addresses},
        lambda: info_view(info, addresses or (f"none known: {unknown}",)),
    )


def show_info(session: Session, driver: ComputeDriver, uuid: UUID) -> None:
    """Write what the host says of an instance now: the result of every command that changes one."""
    info = driver.get_instance(uuid, timeout=session.timeout)
    session.emit(info, lambda: info_view(info))


def info_view(info: InstanceInfo, addresses: Sequence[str] | None = None) -> Table:
    """An instance for people."""
    flavor = info.flavor
    return details(
        {
            "uuid": info.uuid,
            "name": info.name,
            "state": info.state,
            "vcpus": _upto(flavor.vcpus, flavor.max_vcpus, ""),
            "memory": _upto(flavor.memory_mib, flavor.max_memory_mib, " MiB"),
            "disk": f"{flavor.disk_gib} GiB" if flavor.disk_gib else "as large as the image",
            "firmware": info.firmware,
            "image": info.image,
            "group": None
            if info.server_group is None
            else f"{info.server_group.name} ({info.server_group.policy})",
            "created": info.created_at,
            "volumes": [
                plain(
                    {
                        "id": each.volume_id,
                        "device": each.device,
                        "bus": each.bus,
                        "size": size(each.size_bytes),
                        "read-only": each.read_only or None,
                        "boot": each.boot_index,
                    }
                )
                for each in info.volumes
            ],
            "nics": [
                plain(
                    {"id": each.id, "type": each.type, "mac": each.address, "device": each.device}
                )
                for each in info.vifs
            ],
            **({} if addresses is None else {"addresses": list(addresses)}),
            "metadata": [f"{key}={value}" for key, value in sorted(info.metadata.items())],
        }
    )


def _upto(now: int, most: int | None, unit: str) -> str:
    return f"{now}{unit}" if most is None else f"{now}{unit} (at most {most})"


def rename_instance(
    session: Session,
    host: HostArgument,
    instance: InstanceArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The new label.")],
) -> None:
    """Change the label of an instance."""
    with session.host(host) as driver:
        uuid = session.find(driver, instance)
        driver.rename(uuid, name, timeout=session.timeout)
        show_info(session, driver, uuid)


def change_metadata(
    session: Session,
    host: HostArgument,
    instance: InstanceArgument,
    *,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Add or change an entry; repeatable."),
    ] = None,
    unset: Annotated[
        list[str] | None,
        typer.Option("--unset", metavar="KEY", help="Remove an entry; repeatable."),
    ] = None,
) -> None:
    """Show or change the metadata of an instance.

    The host replaces all entries at once: of two changes at the same time one can be lost.
    """
    changes = pairs("--set", set_ or ())
    with session.host(host) as driver:
        uuid = session.find(driver, instance)
        metadata = dict(driver.get_instance(uuid, timeout=session.timeout).metadata)
        if changes or unset:
            metadata = {k: v for k, v in metadata.items() if k not in (unset or ())} | changes
            driver.set_metadata(uuid, metadata, timeout=session.timeout)
    session.emit(metadata, lambda: table(("KEY", "VALUE"), sorted(metadata.items())))


def adopt_machine(
    session: Session,
    host: HostArgument,
    uuid: Annotated[str, typer.Argument(metavar="UUID", help="From list HOST --foreign.")],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="A label, instead of the machine's own.")
    ] = None,
) -> None:
    """Take over a machine that somebody else made.

    From then on it is an instance like any other, and destroy removes its disks too.
    """
    wanted = uuid_of(uuid)
    if wanted is None:
        raise BadUsageError(f"{uuid!r} is not a UUID", hint="hvdrivers list HOST --foreign")
    with session.host(host) as driver:
        info = driver.adopt(wanted, name=name, timeout=session.timeout)
    session.emit(info, lambda: info_view(info))


list_ = cmd.command(list_instances)
show = cmd.command(show_instance)
rename = cmd.command(rename_instance)
metadata = cmd.command(change_metadata)
adopt = cmd.command(adopt_machine)
