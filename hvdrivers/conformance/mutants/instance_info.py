"""Mutants of what is seen of an instance, and of labels and metadata."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract.capabilities import Capability, provides
from hvdrivers.fake.config import FakeConfig
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.host import FakeHost
from hvdrivers.models.instance import InstanceInfo, InstanceSummary, Metadata
from hvdrivers.models.state import InstanceState


@mutant("LIFE-013")
class StaleCache(FakeDriver):
    """get_instance() remembers the name, and forgets it only when this connection renames."""

    def __init__(self, host: FakeHost, config: FakeConfig | None = None) -> None:
        super().__init__(host, config)
        self._names: dict[UUID, str] = {}

    def get_instance(self, uuid: UUID, *, timeout: float | None = None) -> InstanceInfo:
        info = super().get_instance(uuid, timeout=timeout)
        return info.model_copy(update={"name": self._names.setdefault(uuid, info.name)})

    @provides(Capability.HOT_RENAME)
    def rename(self, uuid: UUID, name: str, *, timeout: float | None = None) -> None:
        super().rename(uuid, name, timeout=timeout)
        self._names[uuid] = name


@mutant("LIFE-013")
class DestroyedIsRemembered(FakeDriver):
    """get_instance() shows what another connection has destroyed."""

    def __init__(self, host: FakeHost, config: FakeConfig | None = None) -> None:
        super().__init__(host, config)
        self._last: dict[UUID, InstanceInfo] = {}

    def get_instance(self, uuid: UUID, *, timeout: float | None = None) -> InstanceInfo:
        if uuid in self._last and uuid not in self.fake_host.machines:
            return self._last[uuid]
        self._last[uuid] = super().get_instance(uuid, timeout=timeout)
        return self._last[uuid]

    def _forget(self, uuid: UUID) -> None:
        self._last.pop(uuid, None)
        super()._forget(uuid)


@mutant("LIFE-014")
class ListDropsOne(FakeDriver):
    """list_instances() leaves out the newest instance."""

    def list_instances(self, *, timeout: float | None = None) -> Sequence[InstanceSummary]:
        return list(super().list_instances(timeout=timeout))[:-1]


@mutant("LIFE-014")
class ListDropsSuspended(FakeDriver):
    """list_instances() leaves out suspended instances."""

    def _summaries(self) -> list[InstanceSummary]:
        return [each for each in super()._summaries() if each.state is not InstanceState.SUSPENDED]


@mutant("LIFE-014")
class ListSaysRunning(FakeDriver):
    """In the list a paused machine runs."""

    def _summaries(self) -> list[InstanceSummary]:
        running = {"state": InstanceState.RUNNING}
        return [
            each.model_copy(update=running) if each.state is InstanceState.PAUSED else each
            for each in super()._summaries()
        ]


@mutant("LIFE-015")
class RenameAffectsAll(FakeDriver):
    """rename() gives the label to every instance that has the old one."""

    def _rename(self, uuid: UUID, name: str) -> None:
        old = self.machines.find(uuid).name
        super()._rename(uuid, name)
        for machine in self.fake_host.ours():
            if machine.name == old and machine.metadata:
                machine.name = name


@mutant("LIFE-015")
class RenameRefusesDoubles(FakeDriver):
    """rename() to a label that another instance has changes nothing, and says nothing."""

    def _rename(self, uuid: UUID, name: str) -> None:
        if all(each.name != name or each.uuid == uuid for each in self.fake_host.ours()):
            super()._rename(uuid, name)
        else:
            self.machines.checked("rename", uuid)


@mutant("LIFE-015")
class RenameLosesMetadata(FakeDriver):
    """rename() of a running machine writes its record anew, without the metadata."""

    def _rename(self, uuid: UUID, name: str) -> None:
        super()._rename(uuid, name)
        machine = self.machines.find(uuid)
        if machine.state is InstanceState.RUNNING:
            machine.metadata = {}


@mutant("LIFE-016")
class MetadataMerges(FakeDriver):
    """set_metadata() merges into what is there."""

    def _set_metadata(self, uuid: UUID, metadata: Metadata) -> None:
        machine = self.machines.checked("set_metadata", uuid)
        machine.metadata = {**machine.metadata, **metadata}


@mutant("LIFE-016")
class EmptyMetadataIsNoChange(FakeDriver):
    """set_metadata() to nothing leaves what was there."""

    def _set_metadata(self, uuid: UUID, metadata: Metadata) -> None:
        if metadata:
            super()._set_metadata(uuid, metadata)


@mutant("LIFE-017")
class NameOfTheRunningMachine(FakeDriver):
    """A name given while the machine runs is lost when it stops."""

    _before: dict[UUID, str] = {}  # noqa: RUF012 - all connections see the same

    def _rename(self, uuid: UUID, name: str) -> None:
        machine = self.machines.find(uuid)
        if machine.state is InstanceState.RUNNING:
            self._before.setdefault(uuid, machine.name)
        super()._rename(uuid, name)

    def _power_off(self, uuid: UUID) -> None:
        super()._power_off(uuid)
        machine = self.machines.find(uuid)
        machine.name = self._before.pop(uuid, machine.name)


@mutant("LIFE-017")
class MetadataOfTheRunningMachine(FakeDriver):
    """Metadata set while the machine runs are lost when it stops."""

    _before: dict[UUID, dict[str, str]] = {}  # noqa: RUF012 - all connections see the same

    def _set_metadata(self, uuid: UUID, metadata: Metadata) -> None:
        machine = self.machines.checked("set_metadata", uuid)
        if machine.state is InstanceState.RUNNING:
            self._before.setdefault(uuid, dict(machine.metadata))
        super()._set_metadata(uuid, metadata)

    def _power_off(self, uuid: UUID) -> None:
        super()._power_off(uuid)
        machine = self.machines.find(uuid)
        machine.metadata = self._before.pop(uuid, machine.metadata)
