"""Mutants of what spawn() makes and destroy() leaves of it."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from uuid import UUID

from pydantic import SecretBytes

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.own_disks import OwnDisks
from hvdrivers.fake.records import Disk, ImageRecord, Machine
from hvdrivers.fake.steps import Task
from hvdrivers.fake.volumes import Volumes
from hvdrivers.models.cloudinit import CloudInit
from hvdrivers.models.instance import CpuPolicy, Firmware, InstanceSpec, Keep
from hvdrivers.models.state import InstanceState


@mutant("LIFE-003")
class DestroyForgetsSnapshots(FakeDriver):
    """destroy() leaves the files of snapshots."""

    class own_disks_type(OwnDisks):
        def delete(self, uuid: UUID, keep: AbstractSet[Keep]) -> None:
            kept = [each for each in self.host.disks_of(uuid) if "snapshot" in each[1].role]
            super().delete(uuid, keep)
            for pool, disk in kept:
                pool.disks[disk.name] = disk


class _Sparing(OwnDisks):
    _role = ""

    def create(self, task: Task, disk: Disk, seed: dict[str, SecretBytes] | None = None) -> None:
        if disk.role != self._role:
            super().create(task, disk, seed)


@mutant("LIFE-018")
class SpawnMakesNoEphemeralDisk(FakeDriver):
    """The flavor shows an ephemeral disk, and the machine has none."""

    class own_disks_type(_Sparing):
        _role = "ephemeral"


@mutant("LIFE-018")
class SpawnMakesNoSwapDisk(FakeDriver):
    """The flavor shows a swap disk, and the machine has none."""

    class own_disks_type(_Sparing):
        _role = "swap"


@mutant("LIFE-018")
class SpawnMakesNoSeed(FakeDriver):
    """cloud-init in the guest finds nothing: the seed disk was not made."""

    class own_disks_type(_Sparing):
        _role = "seed"


@mutant("LIFE-018")
class EphemeralDisksAreAllAlike(FakeDriver):
    """An ephemeral disk has 1 GiB, whatever the flavor says."""

    class own_disks_type(OwnDisks):
        def place(self, task: Task, disk: Disk, seed: dict[str, SecretBytes] | None) -> None:
            if disk.role == "ephemeral":
                disk.size_bytes = 1 << 30
            super().place(task, disk, seed)


@mutant("LIFE-008")
class KeepKeepsAnEmptyDisk(FakeDriver):
    """destroy(keep={ROOT_DISK}) leaves a volume of that name and size, with nothing on it."""

    class own_disks_type(OwnDisks):
        def delete(self, uuid: UUID, keep: AbstractSet[Keep]) -> None:
            super().delete(uuid, keep)
            for pool in self.host.pools.values():
                if f"{uuid}-root" in pool.volumes:
                    pool.volumes[f"{uuid}-root"].content = ("empty",)


@mutant("LIFE-008")
class KeepOverwrites(FakeDriver):
    """destroy(keep={ROOT_DISK}) replaces what was kept of an earlier instance with that UUID."""

    def _leftovers(self, uuid: UUID, keep: AbstractSet[Keep]) -> set[str]:
        for pool in self.fake_host.pools.values():
            if Keep.ROOT_DISK in keep and self.fake_host.disk(uuid, "root") is not None:
                pool.volumes.pop(f"{uuid}-root", None)
        return super()._leftovers(uuid, keep)


@mutant("LIFE-008")
class RefusedKeepStops(FakeDriver):
    """destroy(keep={ROOT_DISK}) that is refused has switched the machine off."""

    def _leftovers(self, uuid: UUID, keep: AbstractSet[Keep]) -> set[str]:
        try:
            return super()._leftovers(uuid, keep)
        except errors.VolumeExists:
            self._cut_power(uuid)
            raise


@mutant("LIFE-019")
class UefiIsOnlyShown(FakeDriver):
    """A machine that is to boot through UEFI boots through BIOS, and get_instance() says UEFI."""

    def _define(self, task: Task, spec: InstanceSpec, image: object) -> None:
        super()._define(task, spec, image)  # type: ignore[arg-type]
        self.fake_host.nvram.pop(spec.uuid, None)


class _Unfit(FakeDriver):
    def _set_firmware(self, machine: Machine, spec: InstanceSpec) -> None:
        super()._set_firmware(machine, spec)
        self._change(machine)

    def _change(self, machine: Machine) -> None:
        raise NotImplementedError


@mutant("LIFE-019")
class SecureBootIsOff(_Unfit):
    """The firmware takes any boot loader, although secure boot was asked for."""

    def _change(self, machine: Machine) -> None:
        machine.secure_boot = False


@mutant("LIFE-019")
class UefiIsSecureBoot(_Unfit):
    """Whoever asks for UEFI gets firmware that refuses his boot loader."""

    def _change(self, machine: Machine) -> None:
        machine.secure_boot = machine.firmware is Firmware.UEFI


@mutant("LIFE-019")
class TpmIsForgotten(_Unfit):
    """A TPM was asked for, and the machine has none."""

    def _change(self, machine: Machine) -> None:
        machine.vtpm = False


@mutant("LIFE-019")
class MemoryIsInTheClear(_Unfit):
    """The guest's memory is not encrypted, although that was asked for."""

    def _change(self, machine: Machine) -> None:
        machine.sev = False


@mutant("LIFE-019")
class TpmIsForOneStart(FakeDriver):
    """power_off() takes the TPM away, and every key that the guest has sealed."""

    def _power_off(self, uuid: UUID) -> None:
        super()._power_off(uuid)
        self.fake_host.tpm.pop(uuid, None)


class _Generous(FakeDriver):
    _whole = True

    def _claim_devices(self, task: Task, spec: InstanceSpec) -> None:
        before = self.fake_host.claims
        self.fake_host.claims = [each for each in before if (each.slice is None) is not self._whole]
        count = len(self.fake_host.claims)
        try:
            super()._claim_devices(task, spec)
        finally:
            self.fake_host.claims = before + self.fake_host.claims[count:]


@mutant("LIFE-020")
class DevicesAreGivenTwice(_Generous):
    """Two machines have the same device of the host."""


@mutant("LIFE-020")
class SlicesAreEndless(_Generous):
    """A GPU is cut into more slices than it has."""

    _whole = False


@mutant("LIFE-020")
class AnyDeviceIsCut(FakeDriver):
    """A slice is taken from whichever GPU has one, although a device was named."""

    def _claim_devices(self, task: Task, spec: InstanceSpec) -> None:
        anywhere = [each.model_copy(update={"parent": None}) for each in spec.vgpus]
        super()._claim_devices(task, spec.model_copy(update={"vgpus": tuple(anywhere)}))


@mutant("LIFE-022")
class PartsAreDevicesOfTheirOwn(FakeDriver):
    """A network adapter is given away whole while another machine has one of its functions."""

    def _claim_devices(self, task: Task, spec: InstanceSpec) -> None:
        wanted = {each.address for each in spec.pci_devices}
        before = self.fake_host.claims
        self.fake_host.claims = [each for each in before if each.address in wanted]
        count = len(self.fake_host.claims)
        try:
            super()._claim_devices(task, spec)
        finally:
            self.fake_host.claims = before + self.fake_host.claims[count:]


@mutant("LIFE-020")
class HalfOfTheDevicesStay(FakeDriver):
    """spawn() with two slices of which one is left raises the right error, and keeps that one."""

    def _claim_devices(self, task: Task, spec: InstanceSpec) -> None:
        try:
            super()._claim_devices(task, spec)
        except errors.InsufficientResources:
            self.__dict__["half"] = list(self.fake_host.claims)
            raise

    def _define(self, task: Task, spec: InstanceSpec, image: object) -> None:
        try:
            super()._define(task, spec, image)  # type: ignore[arg-type]
        except errors.InsufficientResources:
            self.fake_host.claims = self.__dict__.pop("half", self.fake_host.claims)
            raise


@mutant("LIFE-020")
class AbsentDeviceIsInvalid(FakeDriver):
    """A device that is not there raises InvalidRequest, as if another host would refuse it too."""

    def _claim_devices(self, task: Task, spec: InstanceSpec) -> None:
        there = {each.address for each in self.fake_host.size.devices}
        if any(each.address not in there for each in spec.pci_devices):
            raise errors.InvalidRequest("no such device")
        super()._claim_devices(task, spec)


@mutant("LIFE-020")
class PinnedCpusAreShared(FakeDriver):
    """More CPUs are pinned than are set aside: two machines have the same one."""

    def _check_size(self, machine: Machine, spec: InstanceSpec) -> None:
        flavor = machine.flavor
        machine.flavor = flavor.model_copy(update={"cpu_policy": CpuPolicy.SHARED})
        try:
            super()._check_size(machine, spec)
        finally:
            machine.flavor = flavor


@mutant("LIFE-020")
class PagesAreEndless(FakeDriver):
    """A machine gets ordinary memory for huge pages that are not there."""

    def _check_size(self, machine: Machine, spec: InstanceSpec) -> None:
        flavor = machine.flavor
        machine.flavor = flavor.model_copy(update={"page_size_kib": None})
        try:
            super()._check_size(machine, spec)
        finally:
            machine.flavor = flavor


class _Roomy(FakeDriver):
    _field = ""

    def _check_spec(self, spec: InstanceSpec) -> None:
        few = getattr(spec, self._field)[:1]
        super()._check_spec(spec.model_copy(update={self._field: few}))


@mutant("LIFE-021")
class SpawnCountsNoVolumes(_Roomy):
    """spawn() puts more volumes into a machine than attach_volume() would."""

    _field = "volumes"

    class volumes_type(Volumes):
        def check_slot(self, machine: Machine) -> None:
            if machine.state is not InstanceState.BUILDING:
                super().check_slot(machine)


@mutant("LIFE-021")
class SpawnCountsNoNics(_Roomy):
    """spawn() puts more NICs into a machine than plug_vif() would."""

    _field = "vifs"


@mutant("FAULT-SPAWN")
class HalfSpawnKeepsTheDevice(FakeDriver):
    """A slice that a spawn has taken is nobody's once the spawn has failed, and nobody gets it."""

    def _undefine(self, uuid: UUID, token: int) -> None:
        claims = self.fake_host.claims
        super()._undefine(uuid, token)
        self.fake_host.claims = claims


class _OtherSeed(OwnDisks):
    def _seed(self, spec: InstanceSpec, seed: CloudInit) -> InstanceSpec:
        raise NotImplementedError

    def make(self, task: Task, spec: InstanceSpec, image: ImageRecord | None) -> None:
        if spec.cloud_init is not None:
            spec = self._seed(spec, spec.cloud_init)
        super().make(task, spec, image)


@mutant("LIFE-024")
class HostNameIsTheUuid(FakeDriver):
    """A guest whose spec has no host name is named after its UUID."""

    class own_disks_type(_OtherSeed):
        def _seed(self, spec: InstanceSpec, seed: CloudInit) -> InstanceSpec:
            return spec.model_copy(update={"name": str(spec.uuid)})


@mutant("LIFE-024")
class HostNameIsTheLabel(FakeDriver):
    """The host name of the spec is not given to the guest, which gets one made from the label."""

    class own_disks_type(_OtherSeed):
        def _seed(self, spec: InstanceSpec, seed: CloudInit) -> InstanceSpec:
            return spec.model_copy(
                update={"cloud_init": seed.model_copy(update={"hostname": None})}
            )


@mutant("LIFE-024")
class UserDataAreLost(FakeDriver):
    """The seed has no user data: nothing of what the caller has asked for is run."""

    class own_disks_type(_OtherSeed):
        def _seed(self, spec: InstanceSpec, seed: CloudInit) -> InstanceSpec:
            return spec.model_copy(
                update={"cloud_init": seed.model_copy(update={"user_data": None})}
            )
