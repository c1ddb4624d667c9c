"""Mutants of reconnect(), of seed discs, and of machines that start paused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from pydantic import SecretBytes

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.models.image import ImageRef
from hvdrivers.models.instance import InstanceInfo, InstanceSpec
from hvdrivers.models.migration import Destination
from hvdrivers.models.progress import ProgressCallback
from hvdrivers.models.seed import SeedDisc
from hvdrivers.models.state import InstanceState, StartAs
from hvdrivers.models.vif import Vif
from hvdrivers.models.volume import VolumeAttachment


class _Reconnects(FakeDriver):
    def reconnect(
        self,
        uuid: UUID,
        *,
        volumes: Sequence[VolumeAttachment] = (),
        vifs: Sequence[Vif] = (),
        timeout: float | None = None,
    ) -> None:
        self.instead(uuid, volumes, vifs, super().reconnect)

    def instead(self, uuid: UUID, volumes: Any, vifs: Any, usual: Any) -> None:
        raise NotImplementedError


@mutant("RECON-001")
class VolumesStay(_Reconnects):
    """reconnect() passes over volumes."""

    def instead(self, uuid: UUID, volumes: Any, vifs: Any, usual: Any) -> None:
        usual(uuid, vifs=vifs)


@mutant("RECON-001")
class ReconnectForgetsTheBootVolume(_Reconnects):
    """A boot volume with another connection boots no more."""

    def instead(self, uuid: UUID, volumes: Any, vifs: Any, usual: Any) -> None:
        usual(uuid, volumes=volumes, vifs=vifs)
        for disk in self.fake_host.machines[uuid].volumes.values():
            disk.attachment = disk.attachment.model_copy(update={"boot_index": None})


@mutant("RECON-005")
class KeepsTheOldPassphrase(_Reconnects):
    """A volume behind a new connection is opened with the passphrase of the old one."""

    def instead(self, uuid: UUID, volumes: Any, vifs: Any, usual: Any) -> None:
        before = dict(self.fake_host.secrets)
        usual(uuid, volumes=volumes, vifs=vifs)
        self.fake_host.secrets |= before


@mutant("RECON-002")
class NicsStay(_Reconnects):
    """reconnect() passes over NICs."""

    def instead(self, uuid: UUID, volumes: Any, vifs: Any, usual: Any) -> None:
        usual(uuid, volumes=volumes)


@mutant("RECON-003")
class ReconnectsHalf(_Reconnects):
    """reconnect() does what it can before it raises."""

    def instead(self, uuid: UUID, volumes: Any, vifs: Any, usual: Any) -> None:
        for each in vifs:
            usual(uuid, vifs=(each,))
        usual(uuid, volumes=volumes)


@mutant("RECON-003")
class UnknownNicIsPassedOver(_Reconnects):
    """A NIC that the instance has not is passed over."""

    def instead(self, uuid: UUID, volumes: Any, vifs: Any, usual: Any) -> None:
        known = {each.id for each in self.get_instance(uuid).vifs}
        usual(uuid, volumes=volumes, vifs=tuple(each for each in vifs if each.id in known))


@mutant("RECON-004")
class MovesWithItsOldWiring(FakeDriver):
    """The NICs of the destination are looked at, and not used."""

    def cold_migrate(
        self,
        uuid: UUID,
        destination: Destination,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        ports = {key: port.vif for key, port in self.fake_host.ports.items() if key[0] == uuid}
        super().cold_migrate(uuid, destination, timeout=timeout, progress=progress)
        there = self.fake_host.world.find(destination.host)
        if there is not None:
            for key, vif in ports.items():
                there.ports[key].vif = vif


class _Spawns(FakeDriver):
    def spawn(
        self,
        spec: InstanceSpec,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> InstanceInfo:
        return super().spawn(self.changed(spec), timeout=timeout, progress=progress)

    def changed(self, spec: InstanceSpec) -> InstanceSpec:
        raise NotImplementedError


@mutant("SEED-001")
class SeedIsCutShort(_Spawns):
    """The end of a seed disc is lost."""

    def changed(self, spec: InstanceSpec) -> InstanceSpec:
        if spec.seed is None:
            return spec
        cut = SeedDisc(content=SecretBytes(spec.seed.read()[:-512]))
        return spec.model_copy(update={"seed": cut})


@mutant("SEED-002")
class UnreadableSeedIsPassedOver(_Spawns):
    """A seed disc that is not there is left out."""

    def changed(self, spec: InstanceSpec) -> InstanceSpec:
        absent = (
            spec.seed is not None and spec.seed.path is not None and not spec.seed.path.exists()
        )
        return spec.model_copy(update={"seed": None}) if absent else spec


@mutant("SEED-003")
class RescueKeepsTheSeed(FakeDriver):
    """A rescued machine has its own seed disc, whatever rescue() was given."""

    def rescue(
        self,
        uuid: UUID,
        image: ImageRef | None = None,
        *,
        seed: SeedDisc | None = None,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        super().rescue(uuid, image, timeout=timeout, progress=progress)


@mutant("START-001")
class SpawnStartsAtOnce(_Spawns):
    """spawn() starts the guest, also where it is to wait."""

    def changed(self, spec: InstanceSpec) -> InstanceSpec:
        return spec.model_copy(update={"start_as": StartAs.RUNNING})


@mutant("START-001")
class PausesAfterItRan(FakeDriver):
    """start_paused() starts the machine and then pauses it: the guest has run meanwhile."""

    def start_paused(self, uuid: UUID, *, timeout: float | None = None) -> None:
        if self.fake_host.machines[uuid].state is InstanceState.STOPPED:
            self.power_on(uuid, timeout=timeout)
            self.pause(uuid, timeout=timeout)
            return
        super().start_paused(uuid, timeout=timeout)


@mutant("START-001")
class StartsAtEachUnpause(FakeDriver):
    """A machine that was started paused starts anew at each unpause()."""

    def unpause(self, uuid: UUID, *, timeout: float | None = None) -> None:
        machine = self.fake_host.machines.get(uuid)
        if machine is not None and machine.state is InstanceState.PAUSED:
            machine.waits = True
        super().unpause(uuid, timeout=timeout)


@mutant("START-002")
class SavedGuestStartsAnew(FakeDriver):
    """start_paused() drops what a suspended machine has saved."""

    def start_paused(self, uuid: UUID, *, timeout: float | None = None) -> None:
        if self.fake_host.machines[uuid].state is InstanceState.SUSPENDED:
            self.power_off(uuid, timeout=timeout)
        super().start_paused(uuid, timeout=timeout)
