"""Mutants of spawn and destroy."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Any
from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.fake.config import FakeConfig
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.host import FakeHost
from hvdrivers.fake.machines import Machines
from hvdrivers.fake.own_disks import OwnDisks
from hvdrivers.fake.records import ImageRecord, Machine, VolumeRecord
from hvdrivers.fake.showing import Showing
from hvdrivers.fake.steps import Task
from hvdrivers.fake.volumes import Volumes
from hvdrivers.models.instance import InstanceInfo, InstanceSpec, Keep
from hvdrivers.models.progress import ProgressCallback
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import VolumeAttachment


@mutant("LIFE-001")
class SpawnReturnsEarly(FakeDriver):
    """spawn() says RUNNING of a machine that is only defined."""

    def _finish(self, task: Task, spec: InstanceSpec) -> InstanceInfo:
        info = super()._finish(task, spec.model_copy(update={"start": False}))
        state = InstanceState.RUNNING if spec.start else InstanceState.STOPPED
        return info.model_copy(update={"state": state})


@mutant("LIFE-001")
class OthersSeeItLater(FakeDriver):
    """What spawn() made is in the lists of its own connection alone."""

    class machines_type(Machines):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.made: set[UUID] = set()

        def find(self, uuid: UUID) -> Machine:
            if uuid not in self.made:
                raise errors.InstanceNotFound(f"no instance {uuid} is on this host", instance=uuid)
            return super().find(uuid)

    machines: machines_type

    def _define(self, task: Task, spec: InstanceSpec, image: ImageRecord | None) -> None:
        self.machines.made.add(spec.uuid)
        super()._define(task, spec, image)


@mutant("LIFE-002")
class StartIsIgnored(FakeDriver):
    """spawn(start=False) starts the machine."""

    def _finish(self, task: Task, spec: InstanceSpec) -> InstanceInfo:
        return super()._finish(task, spec.model_copy(update={"start": True}))


@mutant("LIFE-002")
class StartsForAMoment(FakeDriver):
    """spawn(start=False) starts the machine and stops it again."""

    def _finish(self, task: Task, spec: InstanceSpec) -> InstanceInfo:
        info = super()._finish(task, spec)
        if not spec.start:
            self.fake_host.boot(self.machines.find(spec.uuid))
        return info


class _Forgetful(OwnDisks):
    _role = ""

    def delete(self, uuid: UUID, keep: AbstractSet[Keep]) -> None:
        kept = [(pool, disk) for pool, disk in self.host.disks_of(uuid) if disk.role == self._role]
        super().delete(uuid, keep)
        for pool, disk in kept:
            pool.disks[disk.name] = disk


@mutant("LIFE-003")
class DestroyForgetsDisk(FakeDriver):
    """destroy() leaves the root disk."""

    class own_disks_type(_Forgetful):
        _role = "root"


@mutant("LIFE-003")
class DestroyForgetsSeed(FakeDriver):
    """destroy() leaves the seed image."""

    class own_disks_type(_Forgetful):
        _role = "seed"


@mutant("LIFE-003")
class DestroyForgetsMemory(FakeDriver):
    """destroy() of a suspended machine leaves its saved memory."""

    class own_disks_type(_Forgetful):
        _role = "memory"


@mutant("LIFE-003")
class DestroyForgetsRescueDisk(FakeDriver):
    """destroy() of a rescued machine leaves the rescue disk."""

    class own_disks_type(_Forgetful):
        _role = "rescue"


@mutant("LIFE-003")
class DestroyForgetsNvram(FakeDriver):
    """destroy() leaves the firmware's variables."""

    def _delete_firmware(self, uuid: UUID) -> None:
        self.fake_host.tpm.pop(uuid, None)


@mutant("LIFE-003")
class DestroyForgetsNvramWithoutTpm(FakeDriver):
    """destroy() removes the firmware's variables only of a machine that has a TPM."""

    def _leftovers(self, uuid: UUID, keep: AbstractSet[Keep]) -> set[str]:
        steps = super()._leftovers(uuid, keep)
        return steps if uuid in self.fake_host.tpm else steps - {"delete-firmware"}


@mutant("LIFE-003")
class DestroyForgetsTpm(FakeDriver):
    """destroy() leaves the TPM's state."""

    def _delete_firmware(self, uuid: UUID) -> None:
        self.fake_host.nvram.pop(uuid, None)


@mutant("LIFE-003")
class DestroyForgetsSecondPort(FakeDriver):
    """destroy() removes the first NIC's port from the switch, and leaves the others."""

    def _leftovers(self, uuid: UUID, keep: AbstractSet[Keep]) -> set[str]:
        steps = super()._leftovers(uuid, keep)
        if "delete-ports" in steps:
            ports = [port.vif.id for port in self.fake_host.ports.values() if port.owner == uuid]
            self.fake_host.remove_ports(uuid, vif_id=ports[0])
        return steps - {"delete-ports"}


@mutant("LIFE-003")
class DestroyForgetsLockWhenStopped(FakeDriver):
    """destroy() of a stopped machine does not let go of its volumes."""

    def _leftovers(self, uuid: UUID, keep: AbstractSet[Keep]) -> set[str]:
        steps = super()._leftovers(uuid, keep)
        return steps if "stop-machine" in steps else steps - {"release-volumes"}


@mutant("LIFE-003")
class DestroyRemovesEverybodysPorts(FakeDriver):
    """destroy() removes the ports of every instance on the host."""

    def _forget(self, uuid: UUID) -> None:
        super()._forget(uuid)
        self.fake_host.ports.clear()


@mutant("LIFE-004")
class SpawnOverwrites(FakeDriver):
    """spawn() of an existing UUID replaces a stopped machine."""

    def _check_new(self, uuid: UUID) -> None:
        machine = self.fake_host.machines.get(uuid)
        if machine is None or not machine.ours or machine.state is not InstanceState.STOPPED:
            super()._check_new(uuid)


@mutant("LIFE-004")
class SpawnReturnsWhatIsThere(FakeDriver):
    """spawn() of an existing UUID returns the existing instance."""

    def spawn(
        self,
        spec: InstanceSpec,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> InstanceInfo:
        try:
            return super().spawn(spec, timeout=timeout, progress=progress)
        except errors.InstanceExists:
            return self.get_instance(spec.uuid)


@mutant("LIFE-004")
class SpawnRenamesWhatIsThere(FakeDriver):
    """spawn() of an existing UUID raises InstanceExists, and has set its metadata all the same."""

    def _check_new(self, uuid: UUID) -> None:
        machine = self.fake_host.machines.get(uuid)
        if machine is not None:
            machine.metadata["hvct.seen"] = "twice"
        super()._check_new(uuid)


@mutant("LIFE-005")
class DestroyTwiceFails(FakeDriver):
    """destroy() of what this connection has destroyed raises InstanceNotFound."""

    def __init__(self, host: FakeHost, config: FakeConfig | None = None) -> None:
        super().__init__(host, config)
        self._destroyed: set[UUID] = set()

    def _leftovers(self, uuid: UUID, keep: AbstractSet[Keep]) -> set[str]:
        if uuid in self._destroyed and uuid not in self.fake_host.machines:
            raise errors.InstanceNotFound("it has gone", instance=uuid)
        self._destroyed.add(uuid)
        return super()._leftovers(uuid, keep)


@mutant("LIFE-006")
class SpawnSortsNics(FakeDriver):
    """NICs come in another order than they were asked for."""

    class showing_type(Showing):
        def info(self, machine: Machine) -> InstanceInfo:
            info = super().info(machine)
            return info.model_copy(update={"vifs": info.vifs[::-1]})


@mutant("LIFE-006")
class FirmwareIsBios(FakeDriver):
    """UEFI is asked for, BIOS is given."""

    class showing_type(Showing):
        def info(self, machine: Machine) -> InstanceInfo:
            return super().info(machine).model_copy(update={"firmware": "bios"})


@mutant("LIFE-006")
class ClockInLocalTime(FakeDriver):
    """created_at is hours off: local time, said to be UTC."""

    class showing_type(Showing):
        def info(self, machine: Machine) -> InstanceInfo:
            info = super().info(machine)
            if info.created_at is None:
                return info
            hours = info.created_at.replace(hour=(info.created_at.hour + 5) % 24)
            return info.model_copy(update={"created_at": hours})


@mutant("LIFE-007")
class DestroyDeletesVolumes(FakeDriver):
    """destroy() deletes attached volumes."""

    def _release_volumes(self, uuid: UUID) -> None:
        machine = self.fake_host.machines.get(uuid)
        for name in machine.volumes if machine is not None else ():
            for pool in self.fake_host.pools.values():
                pool.volumes.pop(name.rpartition("/")[2], None)
        super()._release_volumes(uuid)


@mutant("LIFE-008")
class KeepKeepsNothing(FakeDriver):
    """destroy(keep={ROOT_DISK}) deletes the root disk."""

    class own_disks_type(OwnDisks):
        def delete(self, uuid: UUID, keep: AbstractSet[Keep]) -> None:
            super().delete(uuid, frozenset())


@mutant("LIFE-008")
class KeepKeepsAll(FakeDriver):
    """destroy(keep={ROOT_DISK}) keeps the ephemeral and the swap disk too."""

    class own_disks_type(OwnDisks):
        def delete(self, uuid: UUID, keep: AbstractSet[Keep]) -> None:
            if keep:
                for pool, disk in list(self.host.disks_of(uuid)):
                    if disk.role == "root":
                        self.host.to_volume(pool, disk, f"{uuid}-root")
            else:
                super().delete(uuid, keep)


@mutant("LIFE-008")
class KeptDiskIsReplaced(FakeDriver):
    """destroy(keep={ROOT_DISK}) puts the root disk in place of one that was kept before."""

    def _leftovers(self, uuid: UUID, keep: AbstractSet[Keep]) -> set[str]:
        if keep:
            self.fake_host.default_pool.volumes.pop(f"{uuid}-root", None)
        return super()._leftovers(uuid, keep)


@mutant("LIFE-009")
class SpawnSharesVolumes(FakeDriver):
    """spawn() starts a second machine on a volume that a running one writes to."""

    class volumes_type(Volumes):
        def check_free(self, uuid: UUID, attachment: VolumeAttachment) -> VolumeRecord:
            machine = self.host.machines.get(uuid)
            if machine is None or machine.state is InstanceState.BUILDING:
                return self.find(attachment)
            return super().check_free(uuid, attachment)
