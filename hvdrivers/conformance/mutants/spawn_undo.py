"""Mutants: a spawn() that fails half way, or is ended."""

from __future__ import annotations

import time
from uuid import UUID

from pydantic import SecretStr

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.image_store import Images
from hvdrivers.fake.records import ImageRecord, Secret
from hvdrivers.fake.steps import Task
from hvdrivers.models.events import LifecycleKind
from hvdrivers.models.image import ImageRef
from hvdrivers.models.instance import InstanceInfo, InstanceSpec
from hvdrivers.models.progress import ProgressCallback
from hvdrivers.models.state import InstanceState


@mutant("LIFE-009")
class HalfSpawnKeepsMachine(FakeDriver):
    """spawn() that fails leaves the machine's definition, as if it were STOPPED."""

    def _undefine(self, uuid: UUID, token: int) -> None:
        machine = self.fake_host.machines.get(uuid)
        if machine is not None and machine.token == token:
            self.fake_host.set_state(machine, InstanceState.STOPPED, LifecycleKind.STOPPED)


@mutant("LIFE-009")
class HalfSpawnKeepsFirmware(FakeDriver):
    """spawn() that fails late leaves the TPM's state."""

    def _undefine(self, uuid: UUID, token: int) -> None:
        state = self.fake_host.tpm.get(uuid)
        super()._undefine(uuid, token)
        if state is not None:
            self.fake_host.tpm[uuid] = state

    def _check_spec(self, spec: InstanceSpec) -> None:
        self._check_new(spec.uuid)  # the rest fails where it is needed


@mutant("LIFE-009")
class HalfSpawnKeepsSecret(FakeDriver):
    """spawn() that fails leaves a secret on the host."""

    def _check_spec(self, spec: InstanceSpec) -> None:
        try:
            super()._check_spec(spec)
        except errors.HypervisorError:
            if spec.cloud_init is not None and spec.cloud_init.user_data is not None:
                self.fake_host.secrets[f"{spec.uuid}/left"] = Secret(
                    spec.uuid, 0, SecretStr("left")
                )
            raise


@mutant("LIFE-009")
class WrongErrorForVolume(FakeDriver):
    """An absent volume is a HypervisorFault, though nothing is left."""

    def _check_spec(self, spec: InstanceSpec) -> None:
        try:
            super()._check_spec(spec)
        except errors.VolumeNotFound as error:
            raise errors.HypervisorFault("storage error") from error


@mutant("LIFE-009")
class AbsentImageIsIgnored(FakeDriver):
    """An image that the host has not is replaced by one that it has."""

    class images_type(Images):
        def provide(self, task: Task, ref: ImageRef) -> ImageRecord:
            try:
                return super().provide(task, ref)
            except errors.VolumeNotFound:
                return super().provide(task, ref.model_copy(update={"name": "cirros"}))


@mutant("LIFE-010")
class DeadlineKeepsHalf(FakeDriver):
    """spawn() that runs out of time raises OperationTimeout and leaves what it has made."""

    def _undefine(self, uuid: UUID, token: int) -> None:
        machine = self.fake_host.machines.get(uuid)
        if machine is None or machine.state is not InstanceState.BUILDING or not machine.claims:
            super()._undefine(uuid, token)


@mutant("LIFE-011")
class UuidIsRemembered(FakeDriver):
    """The metadata of a destroyed instance come back with its UUID."""

    _remembered: dict[UUID, dict[str, str]] = {}  # noqa: RUF012 - that is the fault

    def _forget(self, uuid: UUID) -> None:
        machine = self.fake_host.machines.get(uuid)
        if machine is not None:
            self._remembered[uuid] = machine.metadata
        super()._forget(uuid)

    def _define(self, task: Task, spec: InstanceSpec, image: ImageRecord | None) -> None:
        super()._define(task, spec, image)
        self.fake_host.machines[spec.uuid].metadata.update(self._remembered.get(spec.uuid, {}))


@mutant("LIFE-012")
class CallbackIsSwallowed(FakeDriver):
    """What the progress callback raises does not stop spawn()."""

    def spawn(
        self,
        spec: InstanceSpec,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> InstanceInfo:
        if progress is not None:
            try:
                super().spawn(spec, timeout=timeout, progress=progress)
            except errors.HypervisorError:
                raise
            except Exception:  # noqa: BLE001 - that is the fault
                time.sleep(0)
        return super().spawn(spec, timeout=timeout)
