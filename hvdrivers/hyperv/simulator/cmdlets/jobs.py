"""Calls that change machines or virtual hard disks: Hyper-V shows them as jobs while they last, and
for a time after."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from uuid import UUID

from hvdrivers.hyperv.simulator.cmdlets.call import Call
from hvdrivers.hyperv.simulator.state.host import ConcreteJob, HostState, StorageJob
from hvdrivers.hyperv.simulator.wire import UInt16, Value

_KEPT: Final = 100
_DISKS: Final = ("New-VHD", "Convert-VHD", "Resize-VHD", "Merge-VHD", "Optimize-VHD", "Set-VHD")
_LOOKS: Final = ("Get-", "Measure-", "Test-", "Compare-", "Invoke-Cim")


def _affected(call: Call) -> Iterator[UUID]:
    """The machines that a call names, or whose parts it names."""
    for parameter, value in call.bound.items():
        for thing in call.things(parameter):
            # a machine has its own Id; a part of one has that of its machine too
            text = thing.get("VMId") or thing.get("Id", "")
            machine = next((m for m in call.host.machines if str(m) == text.lower()), None)
            if machine is not None:
                yield machine
        if parameter in {"Name", "VMName"} and isinstance(value, str):
            yield from (each.id for each in call.host.machines.values() if each.name == value)


@contextmanager
def under_way(call: Call) -> Iterator[None]:
    """A job for each machine or disk that the call changes, for as long as it takes. Under the
    lock."""
    host = call.host
    made: list[ConcreteJob | StorageJob] = []
    if call.cmdlet in _DISKS:
        made += [StorageJob(path, call.cmdlet) for path in call.texts("Path")]
    elif not call.cmdlet.startswith(_LOOKS):
        made += [ConcreteJob(each, call.cmdlet) for each in sorted(set(_affected(call)))]
    host.jobs += made
    try:
        yield
    finally:
        for job in made:
            job.state = 7
        over = [each for each in host.jobs if each.state == 7]
        for job in over[: len(over) - _KEPT]:
            host.jobs.remove(job)


def affecting(host: HostState, machine: str) -> Iterator[tuple[str, dict[str, Value]]]:
    """Class and properties of the jobs of a machine, as Msvm_AffectedJobElement leads to them."""
    for job in host.jobs:
        if isinstance(job, ConcreteJob) and str(job.machine) == machine.lower():
            yield (
                "Msvm_ConcreteJob",
                {
                    "InstanceID": str(job.id).upper(),
                    "Caption": job.caption,
                    "JobState": UInt16(job.state),
                },
            )
