"""Mutants of on, off and reboot."""

from __future__ import annotations

import threading
from contextlib import suppress
from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.contract.power import RebootKind
from hvdrivers.fake.config import FakeConfig
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.host import FakeHost
from hvdrivers.fake.ports import Ports
from hvdrivers.fake.records import Machine, VolumeRecord
from hvdrivers.fake.showing import Showing
from hvdrivers.fake.starting import Starting
from hvdrivers.fake.volumes import Volumes
from hvdrivers.models.instance import InstanceInfo
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import VolumeAttachment


@mutant("POWER-001")
class PowerOnDoesNothing(FakeDriver):
    """power_on() does nothing."""

    def power_on(self, uuid: UUID, *, timeout: float | None = None) -> None:
        self.get_instance(uuid, timeout=timeout)


@mutant("POWER-001")
class PowerOnReturnsEarly(FakeDriver):
    """power_on() returns before the machine runs."""

    def power_on(self, uuid: UUID, *, timeout: float | None = None) -> None:
        with self.link.task("power_on", uuid, timeout) as task:
            task.call("look-up", lambda: self.machines.checked("power_on", uuid), changes=False)
        timer = threading.Timer(0.1, self._later, args=(uuid,))
        timer.daemon = True
        timer.start()

    def _later(self, uuid: UUID) -> None:
        with suppress(errors.HypervisorError), self.fake_host.world.lock:
            self._power_on(uuid)


@mutant("POWER-001")
class PowerOnLosesNics(FakeDriver):
    """The second power_on() starts the machine without its last NIC."""

    def _power_on(self, uuid: UUID) -> None:
        super()._power_on(uuid)
        ports = self.ports.of(uuid)
        if self.machines.find(uuid).boots > 1 and ports:
            self.fake_host.remove_ports(uuid, vif_id=ports[-1].vif.id)


@mutant("POWER-002")
class PowerOnRestarts(FakeDriver):
    """power_on() of a running machine starts it anew."""

    def _power_on(self, uuid: UUID) -> None:
        if self.machines.checked("power_on", uuid).state is InstanceState.RUNNING:
            self.fake_host.boot(self.machines.find(uuid))
        super()._power_on(uuid)


@mutant("POWER-003")
class PowerOffDoesNothing(FakeDriver):
    """power_off() does nothing."""

    def _power_off(self, uuid: UUID) -> None:
        self.machines.checked("power_off", uuid)


@mutant("POWER-003")
class PowerOffPauses(FakeDriver):
    """power_off() of a paused machine leaves it paused."""

    def _power_off(self, uuid: UUID) -> None:
        if self.machines.find(uuid).state is not InstanceState.PAUSED:
            super()._power_off(uuid)


@mutant("POWER-003")
class SecondPowerOffFails(FakeDriver):
    """power_off() of a stopped machine raises InvalidState."""

    def _power_off(self, uuid: UUID) -> None:
        if self.machines.find(uuid).state is InstanceState.STOPPED:
            raise errors.InvalidState("it is off", hint="none")
        super()._power_off(uuid)


@mutant("POWER-004")
class GracefulHearsNothing(FakeDriver):
    """power_off(graceful=) does not hear that the guest went down, and raises DeviceBusy."""

    def power_off(self, uuid: UUID, *, graceful: float = 0, timeout: float | None = None) -> None:
        machine = self.fake_host.machines.get(uuid)
        if graceful > 0 and machine is not None and machine.guest.acpi:
            raise errors.DeviceBusy("the guest did not say that it went down")
        super().power_off(uuid, graceful=graceful, timeout=timeout)


@mutant("POWER-005")
class GracefulCutsAtOnce(FakeDriver):
    """power_off(graceful=) cuts the power without asking."""

    def power_off(self, uuid: UUID, *, graceful: float = 0, timeout: float | None = None) -> None:
        super().power_off(uuid, timeout=timeout)


@mutant("POWER-005")
class GracefulGivesUp(FakeDriver):
    """power_off(graceful=) leaves a guest on that does not go down."""

    def power_off(self, uuid: UUID, *, graceful: float = 0, timeout: float | None = None) -> None:
        machine = self.fake_host.machines.get(uuid)
        if graceful > 0 and machine is not None and not machine.guest.acpi:
            with self.link.task("power_off", uuid, timeout) as task:
                task.wait_for(graceful)
            return
        super().power_off(uuid, graceful=graceful, timeout=timeout)


@mutant("POWER-006")
class RebootDoesNothing(FakeDriver):
    """reboot() returns without a reboot."""

    def _reset(self, uuid: UUID, kind: RebootKind) -> None:
        self.machines.checked("reboot", uuid, kind)


@mutant("POWER-006")
class SecondRebootIsSkipped(FakeDriver):
    """A second reboot() counts as a repetition of the first."""

    def __init__(self, host: FakeHost, config: FakeConfig | None = None) -> None:
        super().__init__(host, config)
        self._done: set[UUID] = set()

    def _reset(self, uuid: UUID, kind: RebootKind) -> None:
        if uuid in self._done:
            self.machines.checked("reboot", uuid, kind)
        else:
            super()._reset(uuid, kind)
        self._done.add(uuid)


@mutant("POWER-006")
class HardRebootAsks(FakeDriver):
    """A hard reboot asks the guest, and gives up if it does not heed."""

    def reboot(
        self, uuid: UUID, kind: RebootKind = RebootKind.HARD, *, timeout: float | None = None
    ) -> None:
        machine = self.fake_host.machines.get(uuid)
        stubborn = machine is not None and not machine.guest.acpi
        if stubborn and kind is RebootKind.HARD:
            raise errors.DeviceBusy("the guest does not heed")
        super().reboot(uuid, kind, timeout=timeout)


@mutant("POWER-007")
class SoftRebootOnlyStops(FakeDriver):
    """A soft reboot lets the guest go down, and does not start it again."""

    def _reset(self, uuid: UUID, kind: RebootKind) -> None:
        if kind is RebootKind.SOFT:
            self._power_off(uuid)
        else:
            super()._reset(uuid, kind)


@mutant("POWER-008")
class SoftRebootIsHard(FakeDriver):
    """A soft reboot resets the machine."""

    def reboot(
        self, uuid: UUID, kind: RebootKind = RebootKind.HARD, *, timeout: float | None = None
    ) -> None:
        with self.link.task("reboot", uuid, timeout) as task:
            task.call("reset-machine", lambda: self._reset(uuid, kind))


@mutant("POWER-008")
class SoftRebootFallsBack(FakeDriver):
    """A soft reboot that is not heeded raises DeviceBusy, and resets the machine all the same."""

    def reboot(
        self, uuid: UUID, kind: RebootKind = RebootKind.HARD, *, timeout: float | None = None
    ) -> None:
        try:
            super().reboot(uuid, kind, timeout=timeout)
        except errors.DeviceBusy:
            with self.fake_host.world.lock:
                self.fake_host.boot(self.machines.find(uuid))
            raise


@mutant("POWER-012")
class PowerOnOvercommits(FakeDriver):
    """power_on() starts what the host has no memory for."""

    class starting_type(Starting):
        def check(self, machine: Machine) -> None:
            flavor = machine.flavor
            machine.flavor = flavor.model_copy(update={"memory_mib": 16})
            try:
                super().check(machine)
            finally:
                machine.flavor = flavor


@mutant("POWER-012")
class FullHostIsAFault(FakeDriver):
    """power_on() on a full host raises HypervisorFault."""

    class starting_type(Starting):
        def check(self, machine: Machine) -> None:
            try:
                super().check(machine)
            except errors.InsufficientResources as error:
                raise errors.HypervisorFault("cannot allocate memory") from error


@mutant("POWER-013")
class PowerOnSharesVolumes(FakeDriver):
    """power_on() does not look who has the volumes."""

    class volumes_type(Volumes):
        def check_free(self, uuid: UUID, attachment: VolumeAttachment) -> VolumeRecord:
            return self.find(attachment)


@mutant("POWER-020")
class PowerOnWithoutItsVolume(FakeDriver):
    """power_on() starts a machine whose volume has gone: its guest misses a disk."""

    class volumes_type(Volumes):
        def check_free(self, uuid: UUID, attachment: VolumeAttachment) -> VolumeRecord:
            try:
                return super().check_free(uuid, attachment)
            except errors.VolumeNotFound:
                machine = self.host.machines.get(uuid)
                if machine is None or attachment.volume_id not in machine.volumes:
                    raise
                return machine.volumes[attachment.volume_id].record


@mutant("POWER-020")
class LostVolumeIsAFault(FakeDriver):
    """power_on() of a machine whose volume has gone is a HypervisorFault."""

    def _power_on(self, uuid: UUID) -> None:
        try:
            super()._power_on(uuid)
        except errors.VolumeNotFound as error:
            raise errors.HypervisorFault(error.message) from error


@mutant("POWER-021")
class PausedGuestIsAsked(FakeDriver):
    """power_off(graceful=) gives a paused guest its time, though it hears nothing."""

    def power_off(self, uuid: UUID, *, graceful: float = 0, timeout: float | None = None) -> None:
        if self.machines.find(uuid).state is InstanceState.PAUSED:
            with self.link.task("power_off", uuid, timeout) as task:
                task.wait_for(graceful)
        super().power_off(uuid, graceful=graceful, timeout=timeout)


@mutant("POWER-022")
class StartsWithoutItsNetwork(FakeDriver):
    """power_on() does not look whether the network of a NIC is still there."""

    class starting_type(Starting):
        def check(self, machine: Machine) -> None:
            with suppress(errors.NetworkNotFound):
                super().check(machine)


@mutant("POWER-014")
class RemembersTheState(FakeDriver):
    """get_instance() says RUNNING of what this connection has started, until it stops it."""

    class showing_type(Showing):
        def __init__(self, ports: Ports) -> None:
            super().__init__(ports)
            self.on: set[UUID] = set()

        def info(self, machine: Machine) -> InstanceInfo:
            info = super().info(machine)
            if info.state is InstanceState.RUNNING:
                self.on.add(machine.uuid)
            if machine.uuid in self.on and info.state is InstanceState.STOPPED:
                return info.model_copy(update={"state": InstanceState.RUNNING})
            return info

    showing: showing_type

    def _power_off(self, uuid: UUID) -> None:
        super()._power_off(uuid)
        self.showing.on.discard(uuid)


@mutant("POWER-015")
class CrashedStaysDown(FakeDriver):
    """power_on() of a crashed machine does nothing."""

    def _power_on(self, uuid: UUID) -> None:
        if self.machines.find(uuid).state is not InstanceState.CRASHED:
            super()._power_on(uuid)


@mutant("POWER-016")
class NmiRestarts(FakeDriver):
    """inject_nmi() resets the machine."""

    def _inject(self, uuid: UUID) -> None:
        super()._inject(uuid)
        self.fake_host.boot(self.machines.find(uuid))


@mutant("POWER-016")
class NmiGoesNowhere(FakeDriver):
    """inject_nmi() checks the state and sends nothing."""

    def _inject(self, uuid: UUID) -> None:
        self.machines.checked("inject_nmi", uuid)


def _half_destroyed(host: FakeHost, machine: Machine) -> bool:
    return machine.image_key is not None and host.disk(machine.uuid, "root") is None


@mutant("POWER-027")
class StartsWithoutItsDisk(FakeDriver):
    """A machine whose root disk an interrupted destroy() has deleted is started, from nothing."""

    class starting_type(Starting):
        def check(self, machine: Machine) -> None:
            if not _half_destroyed(self.host, machine):
                super().check(machine)


@mutant("POWER-027")
class NoDiskIsAFault(FakeDriver):
    """That the root disk has gone is told in the hypervisor's own words, as a fault of it."""

    class starting_type(Starting):
        def check(self, machine: Machine) -> None:
            if _half_destroyed(self.host, machine):
                raise errors.HypervisorFault("cannot open the file of the disk")
            super().check(machine)
