"""Mutants: what reads and rebuilds do about a connection that breaks."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.contract.events import EventStream
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.models.events import LifecycleKind
from hvdrivers.models.image import ImageRef
from hvdrivers.models.instance import InstanceInfo
from hvdrivers.models.progress import ProgressCallback
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import (
    HostVolume,
)


@mutant("FAULT-READ")
class ReadOfUnknownOutcome(FakeDriver):
    """A read whose reply is lost raises OutcomeUnknown, as if it had changed something."""

    def get_instance(self, uuid: UUID, *, timeout: float | None = None) -> InstanceInfo:
        try:
            return super().get_instance(uuid, timeout=timeout)
        except errors.ConnectionFailed as error:
            raise errors.OutcomeUnknown(error.message) from error


@mutant("FAULT-READ")
class ListOfUnknownOutcome(FakeDriver):
    """list_volumes() whose reply is lost raises OutcomeUnknown."""

    def list_volumes(self, *, timeout: float | None = None) -> Sequence[HostVolume]:
        try:
            return super().list_volumes(timeout=timeout)
        except errors.ConnectionFailed as error:
            raise errors.OutcomeUnknown(error.message) from error


@mutant("FAULT-READ")
class WatchOfUnknownOutcome(FakeDriver):
    """watch() whose reply is lost raises OutcomeUnknown."""

    def watch(self, *, timeout: float | None = None) -> EventStream:
        try:
            return super().watch(timeout=timeout)
        except errors.ConnectionFailed as error:
            raise errors.OutcomeUnknown(error.message) from error


@mutant("FAULT-READ")
class WatchIsDeafAfterALostReply(FakeDriver):
    """A watch() that is repeated after its reply was lost gives a stream that tells no changes."""

    _lost = False

    def watch(self, *, timeout: float | None = None) -> EventStream:
        try:
            stream = super().watch(timeout=timeout)
        except errors.ConnectionFailed:
            self._lost = True
            raise
        if self._lost:
            stream.close()
        return stream


@mutant("FAULT-REBUILD")
class RebuildForgetsThatItRan(FakeDriver):
    """rebuild() of a running machine switches it off first. One that is cut leaves it off, and the
    next one leaves it as it finds it."""

    def rebuild(
        self,
        uuid: UUID,
        image: ImageRef,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        ran = self.machines.find(uuid).state is InstanceState.RUNNING
        if ran:
            self.fake_host.set_state(
                self.machines.find(uuid), InstanceState.STOPPED, LifecycleKind.STOPPED
            )
        try:
            super().rebuild(uuid, image, timeout=timeout, progress=progress)
        except errors.HypervisorError as error:
            raise errors.OutcomeUnknown(error.message) from error
        if ran:
            self.fake_host.set_state(
                self.machines.find(uuid), InstanceState.RUNNING, LifecycleKind.STARTED
            )
