"""``move``: to another host or flavor in steps, with a way back."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hvdrivers.cli import machine
from hvdrivers.cli.command import (
    CpuPolicyOption,
    Group,
    InstanceArgument,
    MaxMemoryOption,
    MaxVcpusOption,
    MemoryOption,
    NumaNodesOption,
    PageSizeOption,
    RootDiskOption,
    TherePasswordOption,
    ThereStorageOption,
    ThereUserOption,
    VcpusOption,
)
from hvdrivers.cli.instances import info_view, show_info
from hvdrivers.cli.interrupt import long_operation
from hvdrivers.cli.output import details
from hvdrivers.cli.parse import checked, read_file, secret_of
from hvdrivers.cli.report import BadUsageError
from hvdrivers.cli.session import Session

if TYPE_CHECKING:
    from uuid import UUID

    from hvdrivers.contract.driver import ComputeDriver
    from hvdrivers.models.flavor import Flavor

_group = Group("Move a stopped instance in steps that can be taken back.")
group = _group.app


@_group.command("prepare")
def prepare(
    session: Session,
    instance: InstanceArgument,
    destination: Annotated[
        str | None,
        typer.Argument(
            metavar="DESTINATION",
            help="The host to go to, in the words of the hypervisor; none: it stays on its host.",
            show_default=False,
        ),
    ] = None,
    storage: ThereStorageOption = None,
    user: ThereUserOption = None,
    password_env: TherePasswordOption = None,
    vcpus: VcpusOption = None,
    memory: MemoryOption = None,
    disk: RootDiskOption = None,
    max_vcpus: MaxVcpusOption = None,
    max_memory: MaxMemoryOption = None,
    cpu_policy: CpuPolicyOption = None,
    page_size: PageSizeOption = None,
    numa_nodes: NumaNodesOption = None,
) -> None:
    """Copy an instance to where it goes, and write the move that finish takes.

    Store what `-o json` writes: `move finish DESTINATION FILE` reads it. The instance stays here as
    a stopped copy, until `move confirm` or `move revert`.
    """
    from hvdrivers.models.migration import Destination

    wanted = None
    if destination is not None:
        value: dict[str, object] = {"host": destination, "storage": storage, "user": user}
        value["password"] = secret_of("--password-env", password_env)
        wanted = checked("DESTINATION", Destination, value)
    elif storage or user or password_env:
        raise BadUsageError("--storage, --user and --password-env need a DESTINATION")
    sizes = machine.changes(
        vcpus=vcpus,
        memory=memory,
        disk=disk,
        max_vcpus=max_vcpus,
        max_memory=max_memory,
        cpu_policy=cpu_policy,
        page_size=page_size,
        numa_nodes=numa_nodes,
    )
    with session.host() as driver:
        uuid = session.find(driver, instance)
        flavor = _flavor(session, driver, uuid, sizes)
        made = long_operation(
            lambda report: driver.prepare_move(
                uuid, wanted, flavor=flavor, timeout=session.timeout, progress=report
            ),
            unfinished=f"{uuid} may be half prepared: hvdrivers move revert HOST {uuid}",
        )
    session.emit(
        made,
        lambda: details(
            {
                "uuid": made.uuid,
                "source": made.source,
                "destination": made.destination.host if made.destination else None,
                "token": made.token,
            }
        ),
    )


def _flavor(
    session: Session, driver: ComputeDriver, uuid: UUID, changes: dict[str, Any]
) -> Flavor | None:
    if not changes:
        return None
    info = driver.get_instance(uuid, timeout=session.timeout)
    return machine.changed("move prepare", info.flavor, changes)


@_group.command("finish")
def finish(
    session: Session,
    move: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="What prepare wrote; - is standard input.", show_default=False
        ),
    ],
    password_env: Annotated[
        str | None,
        typer.Option(
            metavar="VARIABLE",
            help="Environment variable with the destination's password, which FILE does not have.",
        ),
    ] = None,
) -> None:
    """At the destination: make the instance of what was prepared. It is stopped."""
    from hvdrivers.models.migration import Move

    text = sys.stdin.buffer.read() if str(move) == "-" else read_file("FILE", move)
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadUsageError(f"FILE: {move} is not JSON") from error
    if not isinstance(found, dict):
        raise BadUsageError(f"FILE: {move} is not a JSON object")
    if isinstance(found.get("destination"), dict):
        # the file has asterisks there
        found["destination"]["password"] = secret_of("--password-env", password_env)
    wanted = checked("FILE", Move, found)
    with session.host() as driver:
        info = long_operation(
            lambda report: driver.finish_move(wanted, timeout=session.timeout, progress=report),
            unfinished=f"{wanted.uuid} may still be made: hvdrivers show HOST {wanted.uuid}",
        )
    session.emit(info, lambda: info_view(info))


@_group.command("confirm")
def confirm_(session: Session, instance: InstanceArgument) -> None:
    """At the source, after finish: remove the copy that is kept to come back to."""
    with session.host() as driver:
        uuid = session.find(driver, instance)
        driver.confirm_move(uuid, timeout=session.timeout)
    result = {"uuid": str(uuid), "outcome": "confirmed"}
    session.emit(result, lambda: details(result))


@_group.command("revert")
def revert(session: Session, instance: InstanceArgument) -> None:
    """At the source: be the instance again. Destroy it at the destination first."""
    with session.host() as driver:
        uuid = session.find(driver, instance)
        driver.revert_move(uuid, timeout=session.timeout)
        show_info(session, driver, uuid)
