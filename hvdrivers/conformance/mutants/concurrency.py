"""Mutants that only many callers at once bring to light."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from typing import ClassVar
from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.own_disks import OwnDisks
from hvdrivers.fake.records import Machine
from hvdrivers.fake.showing import Showing
from hvdrivers.models.instance import (
    InstanceInfo,
    InstanceSpec,
    InstanceSummary,
    Keep,
    Metadata,
)
from hvdrivers.models.progress import Phase, Progress, ProgressCallback
from hvdrivers.models.state import InstanceState

_LOCK = threading.Lock()


@mutant("CONC-001")
class PowerOffTakesEffectLater(FakeDriver):
    """power_off() returns, and the machine goes off a moment later."""

    def power_off(self, uuid: UUID, *, graceful: float = 0, timeout: float | None = None) -> None:
        with self.link.task("power_off", uuid, timeout) as task:
            task.call("look-up", lambda: self.machines.checked("power_off", uuid), changes=False)
        timer = threading.Timer(0.02, self._later, args=(uuid,))
        timer.daemon = True
        timer.start()

    def _later(self, uuid: UUID) -> None:
        with suppress(errors.HypervisorError), self.fake_host.world.lock:
            self._power_off(uuid)


@mutant("CONC-001")
class StateIsCachedForAMoment(FakeDriver):
    """get_instance() shows a state that is some milliseconds old."""

    _seen: tuple[float, InstanceState] | None = None

    def get_instance(self, uuid: UUID, *, timeout: float | None = None) -> InstanceInfo:
        info = super().get_instance(uuid, timeout=timeout)
        now = time.monotonic()
        if self._seen is None or now - self._seen[0] > 0.02:
            self._seen = (now, info.state)
        return info.model_copy(update={"state": self._seen[1]})


@mutant("CONC-002")
class OneLockForAll(FakeDriver):
    """power_off() holds a lock of the driver while it waits for the guest."""

    def power_off(self, uuid: UUID, *, graceful: float = 0, timeout: float | None = None) -> None:
        with _LOCK:
            super().power_off(uuid, graceful=graceful, timeout=timeout)


@mutant("CONC-003")
class SpawnsQueue(FakeDriver):
    """Spawns wait for each other."""

    _queue = threading.Lock()

    def spawn(
        self,
        spec: InstanceSpec,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> InstanceInfo:
        with self._queue:
            return super().spawn(spec, timeout=timeout, progress=progress)


@mutant("CONC-004")
class LastSpawnWins(FakeDriver):
    """spawn() looks whether the UUID is free, and a moment later takes it in any case."""

    def _check_new(self, uuid: UUID) -> None:
        machine = self.fake_host.machines.get(uuid)
        if machine is None or machine.state is not InstanceState.BUILDING:
            super()._check_new(uuid)

    class own_disks_type(OwnDisks):
        def make(self, *args: object) -> None:
            time.sleep(0.02)
            super().make(*args)  # type: ignore[arg-type]


@mutant("CONC-005")
class DestroyOfDestroyedFails(FakeDriver):
    """destroy() of an instance that another destroys at that moment raises InstanceNotFound."""

    _looked: ClassVar[threading.Condition] = threading.Condition()
    _looks: ClassVar[Counter[UUID]] = Counter()
    """Callers that have seen it: several connections count together."""

    def destroy(
        self, uuid: UUID, *, keep: AbstractSet[Keep] = frozenset(), timeout: float | None = None
    ) -> None:
        machines = self.fake_host.machines
        if uuid in machines:
            with self._looked:
                self._looks[uuid] += 1
                first = self._looks[uuid] == 1
                self._looked.notify_all()
                self._looked.wait_for(lambda: self._looks[uuid] > 1, 5.0)
            end = time.monotonic() + 30.0
            while not first and uuid in machines and time.monotonic() < end:
                time.sleep(0.01)
            if uuid not in machines:
                raise errors.InstanceNotFound("it has gone meanwhile", instance=uuid)
        super().destroy(uuid, keep=keep, timeout=timeout)


@mutant("CONC-008")
class ArgumentsAreShared(FakeDriver):
    """The driver keeps the metadata of the last call in one place for all threads."""

    _metadata: Metadata = {}  # noqa: RUF012 - that is the fault

    def set_metadata(self, uuid: UUID, metadata: Metadata, *, timeout: float | None = None) -> None:
        type(self)._metadata = metadata
        time.sleep(0.002)
        super().set_metadata(uuid, self._metadata, timeout=timeout)


@mutant("CONC-009")
class BuildingLooksStopped(FakeDriver):
    """While it is built the instance is STOPPED to everybody."""

    class showing_type(Showing):
        def info(self, machine: Machine) -> InstanceInfo:
            info = super().info(machine)
            if info.state is InstanceState.BUILDING:
                return info.model_copy(update={"state": InstanceState.STOPPED})
            return info


@mutant("CONC-010")
class BuildingCanBeStarted(FakeDriver):
    """power_on() starts a machine that is not finished."""

    def _power_on(self, uuid: UUID) -> None:
        if self.machines.find(uuid).state is not InstanceState.BUILDING:
            super()._power_on(uuid)


@mutant("CONC-010")
class BuildingIsBusy(FakeDriver):
    """A machine that is being built refuses with DeviceBusy, an error of the wrong class."""

    def _set_metadata(self, uuid: UUID, metadata: Metadata) -> None:
        if self.machines.find(uuid).state is InstanceState.BUILDING:
            raise errors.DeviceBusy("it is being built")
        super()._set_metadata(uuid, metadata)


@mutant("CONC-010")
class DestroyWaitsForTheSpawn(FakeDriver):
    """destroy() of an instance that is being built waits until it is there."""

    def destroy(
        self, uuid: UUID, *, keep: AbstractSet[Keep] = frozenset(), timeout: float | None = None
    ) -> None:
        while (
            there := self.fake_host.machines.get(uuid)
        ) and there.state is InstanceState.BUILDING:
            time.sleep(0.01)
        super().destroy(uuid, keep=keep, timeout=timeout)


@mutant("CONC-010")
class DestroyLeavesTheSpawnAlone(FakeDriver):
    """destroy() of an instance that is being built succeeds, and removes nothing."""

    def destroy(
        self, uuid: UUID, *, keep: AbstractSet[Keep] = frozenset(), timeout: float | None = None
    ) -> None:
        machine = self.fake_host.machines.get(uuid)
        if machine is None or machine.state is not InstanceState.BUILDING:
            super().destroy(uuid, keep=keep, timeout=timeout)


@mutant("CONC-011")
class ListAsksOneByOne(FakeDriver):
    """list_instances() asks for each instance by itself, and fails if one has gone meanwhile."""

    def list_instances(self, *, timeout: float | None = None) -> Sequence[InstanceSummary]:
        listed = super().list_instances(timeout=timeout)
        time.sleep(0.003)
        return [self.get_instance(each.uuid).summary() for each in listed]


@mutant("CONC-020")
class TellsNoProgress(FakeDriver):
    """A move tells no progress on its way, so that nothing can end it."""

    def migrate_storage(
        self,
        uuid: UUID,
        pool: str,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        if progress is not None:
            progress(Progress(phase=Phase.COPY, done=0, total=1, unit="percent"))
        super().migrate_storage(uuid, pool, timeout=timeout)
