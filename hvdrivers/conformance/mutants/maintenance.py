"""Mutants of the host as a whole."""

from __future__ import annotations

from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.models.host import HostPowerAction
from hvdrivers.models.image import ImageRef
from hvdrivers.models.instance import InstanceInfo, InstanceSpec
from hvdrivers.models.progress import ProgressCallback


@mutant("MAINT-001")
class SpawnSlipsThrough(FakeDriver):
    """In maintenance only power_on() is refused; spawn() goes through."""

    def spawn(
        self,
        spec: InstanceSpec,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> InstanceInfo:
        before, self.fake_host.maintenance = self.fake_host.maintenance, False
        try:
            return super().spawn(spec, timeout=timeout, progress=progress)
        finally:
            self.fake_host.maintenance = before


@mutant("MAINT-001")
class MaintenanceOfOneConnection(FakeDriver):
    """Maintenance is known to the connection that began it, and to no other."""

    own = False

    def _enter(self) -> None:
        super()._enter()
        self.fake_host.maintenance = False
        self.own = True

    def _leave(self) -> None:
        self.own = False

    def in_maintenance(self, *, timeout: float | None = None) -> bool:
        return self.own


@mutant("MAINT-001")
class RefusedAsInvalidState(FakeDriver):
    """power_on() in maintenance raises InvalidState, as if the machine were at fault."""

    def power_on(self, uuid: object, *, timeout: float | None = None) -> None:
        if self.fake_host.maintenance:
            raise errors.InvalidState("the host is in maintenance", hint="wait")
        super().power_on(uuid, timeout=timeout)  # type: ignore[arg-type]


@mutant("MAINT-002")
class MaintenanceAlthoughMachinesRun(FakeDriver):
    """enter_maintenance() raises, and the host is in maintenance all the same."""

    def _enter(self) -> None:
        try:
            super()._enter()
        finally:
            self.fake_host.maintenance = True


@mutant("MAINT-002")
class MachinesOfOthersDoNotCount(FakeDriver):
    """enter_maintenance() looks only at the machines of ours, and takes the host from others."""

    def _enter(self) -> None:
        if any(machine.takes_memory for machine in self.fake_host.ours()):
            super()._enter()
        self.fake_host.maintenance = True


@mutant("MAINT-003")
class EnteringTogglesIt(FakeDriver):
    """enter_maintenance() in maintenance ends it."""

    def _enter(self) -> None:
        before = self.fake_host.maintenance
        super()._enter()
        self.fake_host.maintenance = not before


@mutant("MAINT-003")
class EntriesAreCounted(FakeDriver):
    """Two entries need two exits."""

    def _enter(self) -> None:
        super()._enter()
        vars(self.fake_host)["entries"] = vars(self.fake_host).get("entries", 0) + 1

    def _leave(self) -> None:
        vars(self.fake_host)["entries"] = max(0, vars(self.fake_host).get("entries", 0) - 1)
        self.fake_host.maintenance = vars(self.fake_host)["entries"] > 0


@mutant("MAINT-004")
class DestroyEndsMaintenance(FakeDriver):
    """When the last machine has gone, so has the maintenance."""

    def destroy(self, uuid: object, **options: object) -> None:
        super().destroy(uuid, **options)  # type: ignore[arg-type]
        if not self.fake_host.ours():
            self.fake_host.maintenance = False


@mutant("MAINT-005")
class ResumeSlipsThrough(FakeDriver):
    """In maintenance resume() powers a suspended machine on."""

    def _resume(self, uuid: UUID) -> None:
        before, self.fake_host.maintenance = self.fake_host.maintenance, False
        try:
            super()._resume(uuid)
        finally:
            self.fake_host.maintenance = before


@mutant("MAINT-005")
class RescueSlipsThrough(FakeDriver):
    """In maintenance rescue() powers a stopped machine on."""

    def _rescue_image(self, uuid: UUID, image: ImageRef | None) -> ImageRef:
        before, self.fake_host.maintenance = self.fake_host.maintenance, False
        try:
            return super()._rescue_image(uuid, image)
        finally:
            self.fake_host.maintenance = before

    def _start_rescue(self, uuid: UUID) -> None:
        before, self.fake_host.maintenance = self.fake_host.maintenance, False
        try:
            super()._start_rescue(uuid)
        finally:
            self.fake_host.maintenance = before


@mutant("HOSTP-001")
class RebootsUnderItsMachines(FakeDriver):
    """host_power(REBOOT) does not look whether machines run."""

    def _power(self, action: HostPowerAction) -> None:
        if action is HostPowerAction.REBOOT:
            self.fake_host.restart_host()
        else:
            super()._power(action)


@mutant("HOSTP-002")
class RebootIsAccepted(FakeDriver):
    """A reboot is accepted, and does not happen."""

    def _power(self, action: HostPowerAction) -> None:
        if action is not HostPowerAction.REBOOT:
            super()._power(action)


@mutant("HOSTP-002")
class RebootForgetsTransientMachines(FakeDriver):
    """Stopped machines are gone after a reboot: they were never defined for good."""

    def _power(self, action: HostPowerAction) -> None:
        super()._power(action)
        if action is HostPowerAction.REBOOT:
            self.fake_host.machines.clear()


@mutant("HOSTP-003")
class ShutdownIsAReboot(FakeDriver):
    """A host that is shut down comes back by itself."""

    def _power(self, action: HostPowerAction) -> None:
        super()._power(HostPowerAction.REBOOT)
