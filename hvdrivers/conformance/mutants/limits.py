"""Mutants of limits: what Core asks is left out in silence, or declared and not kept to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar
from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.contract.limits import Limit
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.models.instance import InstanceInfo
from hvdrivers.models.state import InstanceState


class _Declares(FakeDriver):
    """Declares what its host does not keep to."""

    declares: ClassVar[Mapping[Limit, str]] = {}

    @property
    def limits(self) -> Mapping[Limit, str]:
        return self.declares


@mutant("LIMIT-001")
class LimitWithoutReason(_Declares):
    """A limit is declared, and nobody learns why."""

    declares: ClassVar = {Limit.EVENTS_MERGED: ""}


@mutant("LIMIT-002")
class CrashIsShownAsStop(FakeDriver):
    """A machine that died is STOPPED, and no limit says so."""

    def get_instance(self, uuid: UUID, *, timeout: float | None = None) -> InstanceInfo:
        info = super().get_instance(uuid, timeout=timeout)
        if info.state is not InstanceState.CRASHED:
            return info
        return info.model_copy(update={"state": InstanceState.STOPPED})


@mutant("LIMIT-002")
class CrashesThoughItSaysNever(_Declares):
    """The limit never-crashed is declared, and a machine is CRASHED all the same."""

    declares: ClassVar = {Limit.NEVER_CRASHED: "the host shows no crash"}


@mutant("LIMIT-003")
class AsksThoughItSaysUnasked(_Declares):
    """The limit detach-unasked is declared, and a guest that keeps its NIC makes it busy."""

    declares: ClassVar = {Limit.DETACH_UNASKED: "the host asks no guest"}

    def unplug_vif(self, uuid: UUID, vif_id: str, *, timeout: float | None = None) -> None:
        if self.fake_host.guest(uuid).detach_seconds > 0:
            raise errors.DeviceBusy("the guest did not let go")
        super().unplug_vif(uuid, vif_id, timeout=timeout)


@mutant("LIMIT-004")
class GrowsOnlyIfAskedThoughItSaysUnasked(_Declares):
    """The limit growth-unasked is declared, and a guest that takes no CPU makes it busy."""

    declares: ClassVar = {Limit.GROWTH_UNASKED: "the host asks no guest"}
