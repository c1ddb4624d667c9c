"""Fake machines go on and off."""

from __future__ import annotations

from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, provides
from hvdrivers.contract.power import CrashDump, Pause, Power, RebootKind, StartPaused, Suspend
from hvdrivers.fake.base import FakeBase
from hvdrivers.fake.capacity import check_room
from hvdrivers.fake.host import FakeHost
from hvdrivers.fake.records import Disk, Machine
from hvdrivers.models.events import LifecycleKind
from hvdrivers.models.state import InstanceState


class FakePower(FakeBase, Power):
    """The power topic of Core."""

    def power_on(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """1 call."""
        with self.link.task("power_on", uuid, timeout) as task:
            task.call("start-machine", lambda: self._power_on(uuid))

    def _power_on(self, uuid: UUID) -> None:
        machine = self.machines.checked("power_on", uuid)
        if machine.state is InstanceState.RUNNING:
            return
        self.starting.check(machine)
        self.fake_host.remove_disks(uuid, "rescue")
        if machine.state is InstanceState.SUSPENDED:
            self.fake_host.remove_disks(uuid, "memory")
            self.fake_host.set_state(machine, InstanceState.RUNNING, LifecycleKind.RESUMED)
        else:
            self.fake_host.set_state(machine, InstanceState.RUNNING, LifecycleKind.STARTED)
            self.fake_host.boot(machine)

    def power_off(self, uuid: UUID, *, graceful: float = 0, timeout: float | None = None) -> None:
        """1 call, 2 if the guest is asked."""
        with self.link.task("power_off", uuid, timeout, slow="stop-machine") as task:
            if graceful > 0:
                machine = task.call(
                    "ask-shutdown", lambda: self.machines.checked("power_off", uuid), changes=False
                )
                if machine.state is InstanceState.RUNNING:
                    guest = machine.guest
                    needs = guest.shutdown_seconds if guest.acpi else graceful
                    # leave time to cut the power before the deadline
                    task.wait_for(min(needs, graceful, task.remaining * 0.9))
            task.call("stop-machine", lambda: self._power_off(uuid))

    def _power_off(self, uuid: UUID) -> None:
        machine = self.machines.checked("power_off", uuid)
        self.fake_host.remove_disks(uuid, "memory", "rescue")
        if machine.state is not InstanceState.STOPPED:
            self.fake_host.set_state(machine, InstanceState.STOPPED, LifecycleKind.STOPPED)

    def reboot(
        self, uuid: UUID, kind: RebootKind = RebootKind.HARD, *, timeout: float | None = None
    ) -> None:
        """1 call, 2 for a soft one."""
        with self.link.task("reboot", uuid, timeout, slow="reset-machine") as task:
            if kind is RebootKind.SOFT:
                machine = task.call(
                    "ask-reboot", lambda: self.machines.checked("reboot", uuid, kind), changes=False
                )
                guest = machine.guest
                seconds = guest.shutdown_seconds if guest.acpi else float("inf")
                if not task.wait_for(seconds):
                    raise errors.DeviceBusy(
                        "the guest did not go down within the deadline; it runs on",
                        hint="use RebootKind.HARD, or give it longer",
                    )
            task.call("reset-machine", lambda: self._reset(uuid, kind))

    def _reset(self, uuid: UUID, kind: RebootKind) -> None:
        machine = self.machines.checked("reboot", uuid, kind)
        outcome = self.machines.outcome("reboot", machine, kind).after(machine.state)
        self.starting.check(machine)
        state = outcome if isinstance(outcome, InstanceState) else machine.state
        self.fake_host.set_state(machine, state, LifecycleKind.REBOOTED)
        self.fake_host.boot(machine)


class FakePause(FakeBase, Pause):
    """The clock of a machine."""

    def pause(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """1 call."""
        with self.link.task("pause", uuid, timeout) as task:
            task.call(
                "pause-machine", lambda: self._set_paused("pause", uuid, InstanceState.PAUSED)
            )

    def unpause(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """1 call."""
        with self.link.task("unpause", uuid, timeout) as task:
            task.call(
                "unpause-machine", lambda: self._set_paused("unpause", uuid, InstanceState.RUNNING)
            )

    def _set_paused(self, operation: str, uuid: UUID, state: InstanceState) -> None:
        machine = self.machines.checked(operation, uuid)
        paused = state is InstanceState.PAUSED
        if machine.state is not state:
            kind = LifecycleKind.PAUSED if paused else LifecycleKind.RESUMED
            self.fake_host.set_state(machine, state, kind)
            if not paused and machine.waits:
                self.fake_host.boot(machine)
            if not paused and machine.pending_nmi:
                machine.pending_nmi = False
                _take_nmi(self.fake_host, machine)


def _take_nmi(host: FakeHost, machine: Machine) -> None:
    machine.write_console("Uhhuh. NMI received for unknown reason")
    if machine.guest.crashes_on_nmi:
        host.crash(machine.uuid)


class FakeStartPaused(FakeBase, StartPaused):
    """On, and frozen."""

    def start_paused(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """1 call."""
        with self.link.task("start_paused", uuid, timeout) as task:
            task.call("start-machine", lambda: self._start_paused(uuid))

    def _start_paused(self, uuid: UUID) -> None:
        machine = self.machines.checked("start_paused", uuid)
        if machine.state is InstanceState.PAUSED:
            return
        self.starting.check(machine)
        saved = machine.state is InstanceState.SUSPENDED
        self.fake_host.remove_disks(uuid, "rescue", "memory")
        self.fake_host.start_paused(machine)
        machine.waits = not saved  # a saved guest goes on, and does not start again


class FakeSuspend(FakeBase, Suspend):
    """Machines to disk and back."""

    def suspend(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """2 calls, 1 if it is suspended already."""
        with self.link.task("suspend", uuid, timeout, slow="save-memory") as task:
            saved = task.call(
                "save-memory",
                lambda: self._save(uuid, task.token),
                undo=(
                    "drop-memory",
                    lambda: self.fake_host.remove_disks(uuid, "memory", token=task.token),
                ),
            )
            if saved:
                task.call("stop-machine", lambda: self._suspended(uuid))

    def _save(self, uuid: UUID, token: int) -> bool:
        machine = self.machines.checked("suspend", uuid)
        if machine.state is InstanceState.SUSPENDED:
            return False
        self.starting.refuse_devices(uuid)
        size = machine.flavor.memory_mib << 20
        pool = self.fake_host.default_pool
        check_room(pool, size)
        memory = Disk(uuid, "memory", size, (f"memory:{machine.boots}",), token)
        pool.disks[memory.name] = memory
        return True

    def _suspended(self, uuid: UUID) -> None:
        machine = self.machines.checked("suspend", uuid)
        self.fake_host.set_state(machine, InstanceState.SUSPENDED, LifecycleKind.SUSPENDED)

    def resume(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """1 call."""
        with self.link.task("resume", uuid, timeout) as task:
            task.call("restore-memory", lambda: self._resume(uuid))

    def _resume(self, uuid: UUID) -> None:
        machine = self.machines.checked("resume", uuid)
        if machine.state is not InstanceState.RUNNING:
            self.starting.check(machine)
            self.fake_host.remove_disks(uuid, "memory")
            self.fake_host.set_state(machine, InstanceState.RUNNING, LifecycleKind.RESUMED)


class FakeCrashDump(FakeBase, CrashDump):
    """Non-maskable interrupts."""

    def inject_nmi(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """1 call."""
        with self.link.task("inject_nmi", uuid, timeout) as task:
            task.call("inject-nmi", lambda: self._inject(uuid))

    @provides(Capability.NMI_PAUSED)
    def _inject(self, uuid: UUID) -> None:
        machine: Machine = self.machines.checked("inject_nmi", uuid)
        if machine.state is InstanceState.PAUSED:
            machine.pending_nmi = True
        else:
            _take_nmi(self.fake_host, machine)
