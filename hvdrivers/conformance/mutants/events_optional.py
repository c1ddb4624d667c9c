"""Mutants of what the optional operations tell."""

from __future__ import annotations

from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.moving import Moving
from hvdrivers.fake.records import ImageRecord, Machine
from hvdrivers.models.events import DeviceKind
from hvdrivers.models.image import ImageRef
from hvdrivers.models.instance import InstanceInfo
from hvdrivers.models.state import InstanceState


@mutant("EVENT-014")
class RescueIsNoEvent(FakeDriver):
    """A machine that is rescued is RUNNING to everybody who watches."""

    def _start_rescue(self, uuid: UUID) -> None:
        waiting, self.fake_host.streams = self.fake_host.streams, set()
        try:
            super()._start_rescue(uuid)
        finally:
            self.fake_host.streams = waiting


@mutant("EVENT-014")
class RevertIsNoEvent(FakeDriver):
    """A machine that a revert stops is RUNNING to everybody who watches."""

    def _continue(self, machine: Machine, state: InstanceState) -> None:
        machine.state = state


@mutant("REBUILD-007")
class RebuildIsNoEvent(FakeDriver):
    """Who watches never learns that the guest of a machine has started anew, from another disk."""

    def _switch_root(self, uuid: UUID, image: ImageRef, record: ImageRecord) -> None:
        waiting, self.fake_host.streams = self.fake_host.streams, set()
        try:
            super()._switch_root(uuid, image, record)
        finally:
            self.fake_host.streams = waiting


@mutant("EVENT-014")
class AdoptionIsNoEvent(FakeDriver):
    """Who watches never learns of an instance that was adopted."""

    def _adopt(self, uuid: UUID, name: str | None, metadata: object) -> InstanceInfo:
        waiting, self.fake_host.streams = self.fake_host.streams, set()
        try:
            return super()._adopt(uuid, name, metadata)  # type: ignore[arg-type]
        finally:
            self.fake_host.streams = waiting


@mutant("EVENT-014")
class MigrationIsNoEvent(FakeDriver):
    """An instance that has moved is still there to everybody who watches the source."""

    class moving_type(Moving):
        def switch_host(self, operation: str, uuid: UUID, destination: object) -> None:
            waiting, self.host.streams = self.host.streams, set()
            try:
                super().switch_host(operation, uuid, destination)  # type: ignore[arg-type]
            finally:
                self.host.streams = waiting


@mutant("EVENT-015")
class RefusedNicIsNoEvent(FakeDriver):
    """Who watches does not learn that a guest has refused to let go of a NIC."""

    def _ask_guest(self, machine: Machine, device: str) -> None:
        if machine.guest.refuses_unplug:
            raise errors.DeviceBusy("the guest refuses")


@mutant("EVENT-015")
class RefusedVolumeIsRemoved(FakeDriver):
    """A volume that the guest has refused to let go of is told as one that has gone."""

    def _ask_unplug(self, machine: Machine, device: str) -> None:
        if machine.guest.refuses_unplug:
            self.fake_host.tell_device(machine, DeviceKind.REMOVED, device)
            raise errors.DeviceBusy("the guest refuses")
