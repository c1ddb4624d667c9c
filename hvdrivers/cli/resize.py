"""``resize``: other CPUs, memory, root disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvdrivers.cli import command as cmd
from hvdrivers.cli.codes import ExitCode
from hvdrivers.cli.command import (
    HostArgument,
    InstanceArgument,
    MemoryOption,
    RootDiskOption,
    VcpusOption,
)
from hvdrivers.cli.instances import show_info
from hvdrivers.cli.interrupt import long_operation
from hvdrivers.cli.parse import checked, gib, mib
from hvdrivers.cli.report import BadUsageError, CommandError
from hvdrivers.cli.session import Session
from hvdrivers.contract.errors import HypervisorError

if TYPE_CHECKING:
    from uuid import UUID

    from hvdrivers.contract.driver import ComputeDriver


def resize_instance(
    session: Session,
    host: HostArgument,
    instance: InstanceArgument,
    *,
    vcpus: VcpusOption = None,
    memory: MemoryOption = None,
    disk: RootDiskOption = None,
) -> None:
    """Give an instance other CPUs and memory.

    A running instance is changed while it runs, within the head-room it was made with; a stopped
    one to any size. The root disk changes only while it is stopped, and never shrinks.
    """
    from hvdrivers.models.instance import Flavor
    from hvdrivers.models.state import InstanceState

    if vcpus is None and memory is None and disk is None:
        raise BadUsageError("nothing to change", hint="give --vcpus, --memory or --disk")
    memory_mib = None if memory is None else mib("--memory", memory)
    disk_gib = None if disk is None else gib("--disk", disk)
    with session.host(host) as driver:
        uuid = session.find(driver, instance)
        info = driver.get_instance(uuid, timeout=session.timeout)
        if info.state is InstanceState.RUNNING and disk_gib is None:
            _hot_resize(session, driver, uuid, vcpus, memory_mib)
        else:
            asked = {"vcpus": vcpus, "memory_mib": memory_mib, "disk_gib": disk_gib}
            changes = {name: value for name, value in asked.items() if value is not None}
            flavor = checked("resize", Flavor, info.flavor.model_dump() | changes)
            long_operation(
                lambda report: driver.resize(
                    uuid, flavor, timeout=session.timeout, progress=report
                ),
                unfinished=f"{uuid} may still be changing: hvdrivers show HOST {uuid}",
            )
        show_info(session, driver, uuid)


def _hot_resize(
    session: Session,
    driver: ComputeDriver,
    uuid: UUID,
    vcpus: int | None,
    memory_mib: int | None,
) -> None:
    if vcpus is not None:
        driver.hot_resize_cpu(uuid, vcpus, timeout=session.timeout)
    if memory_mib is None:
        return
    try:
        driver.hot_resize_memory(uuid, memory_mib, timeout=session.timeout)
    except HypervisorError as error:
        if vcpus is None:
            raise
        raise CommandError(
            f"the CPUs have been changed, and the memory has not: {error}",
            code=ExitCode.PARTIAL,
            hint=error.hint,
        ) from error


resize = cmd.command(resize_instance)
