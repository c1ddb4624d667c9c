"""Mutants of metrics."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from datetime import timedelta
from itertools import count
from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.records import Machine
from hvdrivers.models.metrics import DiskMetrics, InstanceMetrics, VifMetrics
from hvdrivers.models.state import InstanceState

_DOWN = count(10**12, -1)


@mutant("METR-001")
class MetricsDropStopped(FakeDriver):
    """A machine that is switched off has no metrics."""

    def _read(self, uuids: AbstractSet[UUID] | None) -> list[InstanceMetrics]:
        return [each for each in super()._read(uuids) if each.state is not InstanceState.STOPPED]


@mutant("METR-001")
class MetricsOfForeignMachines(FakeDriver):
    """get_metrics() has machines that this library did not make."""

    def _read(self, uuids: AbstractSet[UUID] | None) -> list[InstanceMetrics]:
        machines = self.fake_host.machines.values()
        return [self._of(each) for each in machines if uuids is None or each.uuid in uuids]


@mutant("METR-001")
class ForeignMetricsOnRequest(FakeDriver):
    """get_metrics() of a foreign machine's UUID tells its counters."""

    def _read(self, uuids: AbstractSet[UUID] | None) -> list[InstanceMetrics]:
        if uuids is None:
            return super()._read(None)
        return [
            self._of(self.fake_host.machines[each])
            for each in uuids & self.fake_host.machines.keys()
        ]


@mutant("METR-001")
class MetricsDropSuspended(FakeDriver):
    """A SUSPENDED machine has no metrics."""

    def _read(self, uuids: AbstractSet[UUID] | None) -> list[InstanceMetrics]:
        return [each for each in super()._read(uuids) if each.state is not InstanceState.SUSPENDED]


@mutant("METR-002")
class MetricsOfAllAlways(FakeDriver):
    """get_metrics() of some has all."""

    def _read(self, uuids: AbstractSet[UUID] | None) -> list[InstanceMetrics]:
        return super()._read(None)


@mutant("METR-002")
class MetricsOfNoneAreOfAll(FakeDriver):
    """get_metrics() of an empty set has all, as if nothing had been said."""

    def _read(self, uuids: AbstractSet[UUID] | None) -> list[InstanceMetrics]:
        return super()._read(uuids or None)


@mutant("METR-002")
class MetricsOfAbsentRaise(FakeDriver):
    """get_metrics() raises InstanceNotFound when one of those asked for has gone."""

    def _read(self, uuids: AbstractSet[UUID] | None) -> list[InstanceMetrics]:
        found = super()._read(uuids)
        if uuids is not None and len(found) < len(uuids):
            raise errors.InstanceNotFound("one of them is not there")
        return found


@mutant("METR-003")
class MetricsSayRunning(FakeDriver):
    """The metrics of a PAUSED machine say that it is RUNNING."""

    def _of(self, machine: Machine) -> InstanceMetrics:
        found = super()._of(machine)
        if found.state is InstanceState.PAUSED:
            return found.model_copy(update={"state": InstanceState.RUNNING})
        return found


@mutant("METR-003")
class MetricsInKibibytes(FakeDriver):
    """memory_mib is in KiB."""

    def _of(self, machine: Machine) -> InstanceMetrics:
        found = super()._of(machine)
        return found.model_copy(update={"memory_mib": found.memory_mib * 1024})


@mutant("METR-003")
class MetricsOfOneCpu(FakeDriver):
    """vcpus is always 1."""

    def _of(self, machine: Machine) -> InstanceMetrics:
        return super()._of(machine).model_copy(update={"vcpus": 1})


@mutant("METR-004")
class CounterRunsBackwards(FakeDriver):
    """A disk's counter of written bytes goes back while the machine runs."""

    def _disks(self, machine: Machine) -> list[DiskMetrics]:
        return [
            each.model_copy(update={"write_bytes": next(_DOWN)}) for each in super()._disks(machine)
        ]


@mutant("METR-004")
class CpuTimeStandsStill(FakeDriver):
    """The CPU time is that of the first question."""

    def _of(self, machine: Machine) -> InstanceMetrics:
        found = super()._of(machine)
        first = self.__dict__.setdefault(f"cpu {machine.uuid}", found.cpu_time_ns)
        return found.model_copy(update={"cpu_time_ns": first})


@mutant("METR-005")
class MetricsWithoutVolumes(FakeDriver):
    """Attached volumes have no counters."""

    def _disks(self, machine: Machine) -> list[DiskMetrics]:
        volumes = {disk.device for disk in machine.volumes.values()}
        return [each for each in super()._disks(machine) if each.device not in volumes]


@mutant("METR-005")
class MetricsOfTheFirstNic(FakeDriver):
    """Only the first NIC has counters."""

    def _vifs(self, machine: Machine, seconds: float) -> list[VifMetrics]:
        return super()._vifs(machine, seconds)[:1]


@mutant("METR-006")
class OneCallForEachInstance(FakeDriver):
    """get_metrics() asks the host for one instance after the other."""

    def get_metrics(
        self, uuids: AbstractSet[UUID] | None = None, *, timeout: float | None = None
    ) -> Sequence[InstanceMetrics]:
        wanted = [
            each.uuid for each in self.fake_host.ours() if uuids is None or each.uuid in uuids
        ]
        found: list[InstanceMetrics] = []
        for uuid in wanted:
            found += super().get_metrics(frozenset({uuid}), timeout=timeout)
        return found


@mutant("METR-007")
class MetricsAreRemembered(FakeDriver):
    """A connection that has seen a machine once tells its metrics of then for ever."""

    def _read(self, uuids: AbstractSet[UUID] | None) -> list[InstanceMetrics]:
        seen: dict[UUID, InstanceMetrics] = self.__dict__.setdefault("seen", {})
        for each in super()._read(None):
            seen.setdefault(each.uuid, each)
        return [each for each in seen.values() if uuids is None or each.uuid in uuids]


@mutant("METR-010")
class VolumesHaveNoName(FakeDriver):
    """The counters of a volume do not say which it is."""

    def _disks(self, machine: Machine) -> list[DiskMetrics]:
        found = super()._disks(machine)
        return [each.model_copy(update={"volume_id": None}) for each in found]


@mutant("METR-011")
class MetricsOfAnotherZone(FakeDriver):
    """The time of metrics is the local one of the host, told as UTC."""

    def get_metrics(
        self, uuids: AbstractSet[UUID] | None = None, *, timeout: float | None = None
    ) -> Sequence[InstanceMetrics]:
        found = super().get_metrics(uuids, timeout=timeout)
        return [each.model_copy(update={"at": each.at + timedelta(hours=2)}) for each in found]


@mutant("METR-011")
class MetricsKeepTheirTime(FakeDriver):
    """The time of metrics is that of the first question."""

    def get_metrics(
        self, uuids: AbstractSet[UUID] | None = None, *, timeout: float | None = None
    ) -> Sequence[InstanceMetrics]:
        found = super().get_metrics(uuids, timeout=timeout)
        times = self.__dict__.setdefault("_times", {})
        return [
            each.model_copy(update={"at": times.setdefault(each.uuid, each.at)}) for each in found
        ]


class _OtherCpuTime(FakeDriver):
    """What get_metrics() says of the CPU time is another."""

    def _cpu_time(self, right: int) -> int:
        raise NotImplementedError

    def _of(self, machine: Machine) -> InstanceMetrics:
        found = super()._of(machine)
        if found.cpu_time_ns is None:
            return found
        return found.model_copy(update={"cpu_time_ns": self._cpu_time(found.cpu_time_ns)})


@mutant("METR-012")
class CpuTimeInMicroseconds(_OtherCpuTime):
    """The CPU time is in microseconds."""

    def _cpu_time(self, right: int) -> int:
        return right // 1000


@mutant("METR-012")
class CpuTimeTimesThousand(_OtherCpuTime):
    """The CPU time is a thousand times too large."""

    def _cpu_time(self, right: int) -> int:
        return right * 1000


@mutant("METR-012")
class CpuTimeOfTheHost(_OtherCpuTime):
    """The CPU time counts from the start of the host."""

    def _cpu_time(self, right: int) -> int:
        return right + 86400 * 10**9
