"""Mutants of CPUs, shared and dedicated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.fake.capacity import taken
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.records import Machine
from hvdrivers.fake.starting import Starting
from hvdrivers.models.instance import CpuPolicy, Flavor, InstanceInfo, InstanceSpec
from hvdrivers.models.progress import ProgressCallback


@mutant("POWER-023")
class NoCpuIsShared(FakeDriver):
    """A machine is refused once the CPUs of all machines are as many as the host's threads."""

    def _check_size(self, machine: Machine, spec: InstanceSpec) -> None:
        super()._check_size(machine, spec)
        size = self.fake_host.size
        used = taken(self.fake_host.machines.values()).shared_cpus
        if spec.start and used + spec.flavor.vcpus > size.threads - size.dedicated_cpus:
            raise errors.InsufficientResources("the host's threads are all given away")


@contextmanager
def _unpinned(machine: Machine) -> Iterator[None]:
    """Look at dedicated CPUs as if they were shared."""
    before = machine.flavor
    if before.cpu_policy is CpuPolicy.DEDICATED:
        machine.flavor = before.model_copy(update={"cpu_policy": CpuPolicy.SHARED})
    try:
        yield
    finally:
        machine.flavor = before


@mutant("POWER-024")
class PinnedCpusAreShared(FakeDriver):
    """power_on() pins a machine to threads that another has to itself."""

    class starting_type(Starting):
        def check(self, machine: Machine) -> None:
            with _unpinned(machine):
                super().check(machine)


@mutant("POWER-024")
class SpawnPinsTwice(FakeDriver):
    """spawn() pins a machine to threads that another has to itself."""

    def _check_size(self, machine: Machine, spec: InstanceSpec) -> None:
        with _unpinned(machine):
            super()._check_size(machine, spec)


@mutant("POWER-025")
class TooManyCpusAreAFault(FakeDriver):
    """A machine with more CPUs than the host has threads is a fault of the hypervisor."""

    def spawn(
        self,
        spec: InstanceSpec,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> InstanceInfo:
        if spec.start and spec.flavor.vcpus > self.fake_host.size.threads:
            raise errors.HypervisorFault("the number of CPUs exceeds what the host has")
        return super().spawn(spec, timeout=timeout, progress=progress)


@mutant("RESIZE-004")
class AnyNumberOfCpus(FakeDriver):
    """resize() gives a machine more CPUs than it can ever be started with."""

    def _resize(self, uuid: UUID, flavor: Flavor) -> None:
        vcpus = min(flavor.vcpus, self.fake_host.size.threads)
        super()._resize(uuid, flavor.model_copy(update={"vcpus": vcpus}))
        self.machines.find(uuid).flavor = flavor


@mutant("HOTCPU-005")
class OneNodeGetsMore(FakeDriver):
    """A hot-plugged CPU goes to whichever NUMA node is next."""

    def _resize_hot(self, operation: str, uuid: UUID, field: str, wanted: int) -> None:
        machine = self.machines.checked(operation, uuid)
        before = machine.flavor
        machine.flavor = before.model_copy(update={"numa_nodes": None})
        try:
            super()._resize_hot(operation, uuid, field, wanted)
        finally:
            update = {"numa_nodes": before.numa_nodes}
            machine.flavor = machine.flavor.model_copy(update=update)
