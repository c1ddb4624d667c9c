"""``resize``: other CPUs, memory, root disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvdrivers.cli import command as cmd
from hvdrivers.cli import machine
from hvdrivers.cli.codes import ExitCode
from hvdrivers.cli.command import (
    CpuPolicyOption,
    HostArgument,
    InstanceArgument,
    MaxMemoryOption,
    MaxVcpusOption,
    MemoryOption,
    NumaNodesOption,
    PageSizeOption,
    RootDiskOption,
    VcpusOption,
)
from hvdrivers.cli.instances import show_info
from hvdrivers.cli.interrupt import long_operation
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
    max_vcpus: MaxVcpusOption = None,
    max_memory: MaxMemoryOption = None,
    cpu_policy: CpuPolicyOption = None,
    page_size: PageSizeOption = None,
    numa_nodes: NumaNodesOption = None,
) -> None:
    """Give an instance another size: CPUs, memory, root disk.

    CPUs and memory of a running instance change while it runs, up to --max-vcpus and --max-memory
    that it was made with. Everything else, and any size, needs a stopped one. The root disk never
    shrinks.
    """
    from hvdrivers.models.state import InstanceState

    changes = machine.changes(
        vcpus=vcpus,
        memory=memory,
        disk=disk,
        max_vcpus=max_vcpus,
        max_memory=max_memory,
        cpu_policy=cpu_policy,
        page_size=page_size,
        numa_nodes=numa_nodes,
    )
    if not changes:
        raise BadUsageError("nothing to change", hint="hvdrivers resize --help")
    with session.host(host) as driver:
        uuid = session.find(driver, instance)
        info = driver.get_instance(uuid, timeout=session.timeout)
        if info.state is InstanceState.RUNNING and changes.keys() <= {"vcpus", "memory_mib"}:
            _hot_resize(session, driver, uuid, vcpus, changes.get("memory_mib"))
        else:
            flavor = machine.changed("resize", info.flavor, changes)
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
