"""Mutants of faults: errors, undo and retries that are not what they say."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Any, ClassVar, TypeVar
from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.fake.config import FakeConfig
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.host import FakeHost
from hvdrivers.fake.link import Link
from hvdrivers.fake.records import Disk
from hvdrivers.fake.steps import Task
from hvdrivers.models.events import LifecycleKind
from hvdrivers.models.instance import InstanceInfo, InstanceSpec, Keep
from hvdrivers.models.progress import ProgressCallback
from hvdrivers.models.snapshot import Snapshot
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import AttachedVif, Vif
from hvdrivers.models.volume import (
    AttachedVolume,
    Volume,
    VolumeAttachment,
    VolumeSpec,
)

_T = TypeVar("_T")


class _Forgetful(Task):
    forgets: ClassVar[str]

    def call(
        self,
        name: str,
        effect: Callable[[], _T],
        *,
        undo: tuple[str, Callable[[], object]] | None = None,
        covered: bool = False,
        changes: bool = True,
    ) -> _T:
        if undo is not None and undo[0] == self.forgets:
            undo, covered = None, True
        return super().call(name, effect, undo=undo, covered=covered, changes=changes)


class _OwnTasks(Link):
    def __init__(
        self, host: FakeHost, config: FakeConfig, own: type[Task], operations: AbstractSet[str]
    ) -> None:
        super().__init__(host, config)
        self._own = own
        self._operations = operations

    def task(
        self, operation: str, uuid: UUID | None, timeout: float | None, **options: Any
    ) -> Task:
        cls = self._own if operation in self._operations else Task
        return cls(self, operation, uuid, timeout, **options)


class _WithTask(FakeDriver):
    """A driver whose operations go another way."""

    task: ClassVar[type[Task]]
    operations: ClassVar[set[str]]

    def __init__(self, host: FakeHost, config: FakeConfig | None = None) -> None:
        super().__init__(host, config)
        self.link = _OwnTasks(host, config or FakeConfig(), self.task, self.operations)


@mutant("FAULT-SPAWN")
class UndoForgetsADisk(_WithTask):
    """A spawn that fails leaves the disks that it has made."""

    class task(_Forgetful):
        forgets = "delete-disk"

    operations: ClassVar = {"spawn"}


@mutant("FAULT-SPAWN")
class UndoForgetsTheMachine(_WithTask):
    """A spawn that fails leaves the definition."""

    class task(_Forgetful):
        forgets = "undefine-machine"

    operations: ClassVar = {"spawn"}


@mutant("FAULT-ATTACH-VOLUME")
class UndoForgetsTheVolume(_WithTask):
    """An attach that fails leaves the volume connected."""

    class task(_Forgetful):
        forgets = "disconnect-volume"

    operations: ClassVar = {"attach_volume"}


@mutant("FAULT-MIGRATE-STORAGE")
class UndoForgetsTheCopies(_WithTask):
    """A migration of the disks that fails leaves what it has copied in the other pool."""

    class task(_Forgetful):
        forgets = "delete-copies"

    operations: ClassVar = {"migrate_storage"}


@mutant("FAULT-PLUG-VIF")
class UndoForgetsThePort(_WithTask):
    """A plug that fails leaves the port on the switch."""

    class task(_Forgetful):
        forgets = "delete-port"

    operations: ClassVar = {"plug_vif"}


@mutant("FAULT-TWICE")
class UndoGoesOnAfterAFailedStep(_WithTask):
    """A spawn whose machine could not be removed again goes on and removes the machine's disks."""

    class task(Task):
        _remove: tuple[str, Callable[[], object]] | None = None

        def call(
            self,
            name: str,
            effect: Callable[[], _T],
            *,
            undo: tuple[str, Callable[[], object]] | None = None,
            covered: bool = False,
            changes: bool = True,
        ) -> _T:
            if name == "define-machine":
                self._remove = undo
            elif name in {"start-machine", "finish-machine"}:
                undo = self._remove  # what was defined last goes first
            return super().call(name, effect, undo=undo, covered=covered, changes=changes)

        def _send_undo(self, name: str, effect: Callable[[], object]) -> None:
            if not (self._not_undone and name == "undefine-machine"):  # once is enough
                super()._send_undo(name, effect)

    operations: ClassVar = {"spawn"}


@mutant("FAULT-DEAD")
class NeverReportsAFailedUndo(_WithTask):
    """A plug whose undo fails says that nothing has changed: the port stays on the switch."""

    class task(Task):
        def _send_undo(self, name: str, effect: Callable[[], object]) -> None:
            super()._send_undo(name, effect)
            self._not_undone = False

    operations: ClassVar = {"plug_vif", "attach_volume", "spawn"}


@mutant("FAULT-SPAWN")
class UndoesNothingAtADeadline(_WithTask):
    """A spawn whose deadline passes leaves what it has begun."""

    class task(Task):
        def __exit__(self, exc_type: Any, exc: Any, traceback: Any) -> None:
            if isinstance(exc, errors.OperationTimeout):
                self._undo.pop_all()
            super().__exit__(exc_type, exc, traceback)

    operations: ClassVar = {"spawn"}


@mutant("FAULT-SPAWN")
class LostReplyIsConnectionFailed(FakeDriver):
    """A spawn whose last reply is lost raises ConnectionFailed, though the machine is there."""

    def spawn(
        self,
        spec: InstanceSpec,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> InstanceInfo:
        try:
            return super().spawn(spec, timeout=timeout, progress=progress)
        except errors.OutcomeUnknown as error:
            raise errors.ConnectionFailed(error.message) from error


@mutant("FAULT-DETACH-VOLUME")
class LostReplyIsSuccess(FakeDriver):
    """A detach_volume() takes any reply that was lost for the last, and returns half-way."""

    def detach_volume(self, uuid: UUID, volume_id: str, *, timeout: float | None = None) -> None:
        try:
            super().detach_volume(uuid, volume_id, timeout=timeout)
        except errors.OutcomeUnknown:
            return


@mutant("FAULT-SET-METADATA")
class SwallowsABrokenConnection(FakeDriver):
    """set_metadata() returns although the request was never sent."""

    def set_metadata(self, uuid: UUID, metadata: Any, *, timeout: float | None = None) -> None:
        try:
            super().set_metadata(uuid, metadata, timeout=timeout)
        except errors.ConnectionFailed:
            return


@mutant("FAULT-SPAWN")
class RetryMakesASecondDisk(FakeDriver):
    """A spawn after one whose outcome was unknown makes a disk beside that of the first."""

    def spawn(
        self,
        spec: InstanceSpec,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> InstanceInfo:
        unsure = self.__dict__.setdefault("_unsure", set())
        try:
            info = super().spawn(spec, timeout=timeout, progress=progress)
        except errors.OutcomeUnknown:
            unsure.add(spec.uuid)
            raise
        if spec.uuid in unsure:
            disk = Disk(spec.uuid, "root-1", 1 << 30, ("empty",), token=0)
            self.fake_host.default_pool.disks[disk.name] = disk
        return info


@mutant("FAULT-CREATE-VOLUME")
class RetryMakesASecondVolume(FakeDriver):
    """create_volume() whose reply was lost makes another under a new name."""

    def create_volume(self, spec: VolumeSpec, *, timeout: float | None = None) -> Volume:
        try:
            return super().create_volume(spec, timeout=timeout)
        except errors.VolumeExists:
            again = spec.model_copy(update={"name": f"{spec.name}-1"})
            return super().create_volume(again, timeout=timeout)


@mutant("FAULT-CREATE-SNAPSHOT")
class RetryMakesASecondSnapshot(FakeDriver):
    """A create_snapshot() that is repeated makes another of a like name."""

    def create_snapshot(
        self, uuid: UUID, name: str, *, memory: bool = False, timeout: float | None = None
    ) -> Snapshot:
        try:
            return super().create_snapshot(uuid, name, memory=memory, timeout=timeout)
        except errors.InvalidRequest:
            return super().create_snapshot(uuid, f"{name}-1", memory=memory, timeout=timeout)


@mutant("FAULT-ATTACH-VOLUME")
class RetryFindsTheVolumeBusy(FakeDriver):
    """attach_volume() repeated after a lost reply takes its own hold for that of another."""

    def attach_volume(
        self, uuid: UUID, attachment: VolumeAttachment, *, timeout: float | None = None
    ) -> AttachedVolume:
        machine = self.fake_host.machines.get(uuid)
        if machine is not None and attachment.volume_id in machine.volumes:
            raise errors.DeviceBusy("the volume is in use")
        return super().attach_volume(uuid, attachment, timeout=timeout)


@mutant("FAULT-DESTROY")
class RetryOfDestroyFails(FakeDriver):
    """destroy() of what an interrupted destroy has taken away says that it is not there."""

    def destroy(
        self, uuid: UUID, *, keep: AbstractSet[Keep] = frozenset(), timeout: float | None = None
    ) -> None:
        seen = self.__dict__.setdefault("_seen", set())
        if uuid in seen and uuid not in self.fake_host.machines:
            raise errors.InstanceNotFound("it has gone")
        if uuid in self.fake_host.machines:
            seen.add(uuid)
        super().destroy(uuid, keep=keep, timeout=timeout)
        seen.discard(uuid)


@mutant("FAULT-RENAME")
class ExpiredSessionIsNoPermission(FakeDriver):
    """A session that has expired is reported as PermissionDenied, which nobody retries."""

    def rename(self, uuid: UUID, name: str, *, timeout: float | None = None) -> None:
        try:
            super().rename(uuid, name, timeout=timeout)
        except errors.AuthenticationFailed as error:
            raise errors.PermissionDenied(error.message) from error


@mutant("FAULT-PLUG-VIF")
class TimeoutIsAFault(FakeDriver):
    """A deadline that passes is reported as a fault of the hypervisor."""

    def plug_vif(self, uuid: UUID, vif: Vif, *, timeout: float | None = None) -> AttachedVif:
        try:
            return super().plug_vif(uuid, vif, timeout=timeout)
        except errors.OperationTimeout as error:
            raise errors.HypervisorFault(error.message) from error


@mutant("FAULT-DETACH-VOLUME")
class TimeoutAfterTheChange(FakeDriver):
    """detach_volume() that cannot tell its outcome says that the deadline passed."""

    def detach_volume(self, uuid: UUID, volume_id: str, *, timeout: float | None = None) -> None:
        try:
            super().detach_volume(uuid, volume_id, timeout=timeout)
        except errors.OutcomeUnknown as error:
            raise errors.OperationTimeout(error.message) from error


@mutant("FAULT-RESUME")
class ResumesInTwoSteps(FakeDriver):
    """A machine that was paused before it was suspended comes back paused, and a second call lets
    it run: where that one is cut it stays paused, and resume() is refused."""

    def suspend(self, uuid: UUID, *, timeout: float | None = None) -> None:
        machine = self.fake_host.machines.get(uuid)
        paused = machine is not None and machine.state is InstanceState.PAUSED
        super().suspend(uuid, timeout=timeout)
        if paused:
            self.__dict__.setdefault("_paused", set()).add(uuid)

    def resume(self, uuid: UUID, *, timeout: float | None = None) -> None:
        paused = self.__dict__.setdefault("_paused", set())
        if uuid not in paused:
            super().resume(uuid, timeout=timeout)
            return
        with self.link.task("resume", uuid, timeout) as task:
            task.call("restore-memory", lambda: self._back_paused(uuid))
            task.call("run-machine", lambda: self._let_run(uuid))
        paused.discard(uuid)

    def _back_paused(self, uuid: UUID) -> None:
        machine = self.machines.checked("resume", uuid)
        self.fake_host.remove_disks(uuid, "memory")
        self.fake_host.set_state(machine, InstanceState.PAUSED, LifecycleKind.RESUMED)

    def _let_run(self, uuid: UUID) -> None:
        machine = self.fake_host.machines[uuid]
        self.fake_host.set_state(machine, InstanceState.RUNNING, LifecycleKind.RESUMED)


@mutant("FAULT-POWER-OFF")
class ForgetsACrashByAStart(FakeDriver):
    """power_off() of a crashed machine starts it, frozen, and stops it: where it is cut between the
    two the machine is powered on, though nobody has asked for that."""

    def power_off(self, uuid: UUID, *, graceful: float = 0, timeout: float | None = None) -> None:
        machine = self.fake_host.machines.get(uuid)
        if machine is not None and machine.state is InstanceState.CRASHED:
            with self.link.task("power_off", uuid, timeout) as task:
                task.call(
                    "start-machine",
                    lambda: self.fake_host.set_state(
                        machine, InstanceState.PAUSED, LifecycleKind.STARTED
                    ),
                )
        super().power_off(uuid, graceful=graceful, timeout=timeout)


@mutant("FAULT-RESIZE")
class ResizeBeginsWithItsRecord(FakeDriver):
    """resize() writes the new flavor down first, and leaves it when the disk cannot grow."""

    def resize(
        self,
        uuid: UUID,
        flavor: Any,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        machine = self.fake_host.machines[uuid]
        try:
            super().resize(uuid, flavor, timeout=timeout, progress=progress)
        except errors.ConnectionFailed:
            machine.flavor = machine.flavor.model_copy(update={"vcpus": flavor.vcpus})
            raise
