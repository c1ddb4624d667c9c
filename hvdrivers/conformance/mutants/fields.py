"""Mutants of fields: what is asked for is passed over in silence."""

from __future__ import annotations

from typing import ClassVar
from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.contract.fields import Fields
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.models.instance import Flavor, InstanceInfo, InstanceSpec
from hvdrivers.models.progress import ProgressCallback
from hvdrivers.models.vif import AttachedVif, Vif
from hvdrivers.models.volume import AttachedVolume, DeviceType, VolumeAttachment


@mutant("STATIC-010")
class TakesWhatIsNoOption(FakeDriver):
    """The driver names a field that every driver has to take."""

    takes: ClassVar[Fields] = {**FakeDriver.takes, Flavor: frozenset({"vcpus"})}


@mutant("FIELD-001")
class CacheModeIsPassedOver(FakeDriver):
    """A cache mode is taken, and the disk has none."""

    def attach_volume(
        self, uuid: UUID, attachment: VolumeAttachment, *, timeout: float | None = None
    ) -> AttachedVolume:
        bare = attachment.model_copy(update={"cache": None})
        return super().attach_volume(uuid, bare, timeout=timeout)


@mutant("FIELD-001")
class DeviceTypeIsPassedOverBySpawn(FakeDriver):
    """A CD that spawn() is given becomes a disk."""

    def spawn(
        self,
        spec: InstanceSpec,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> InstanceInfo:
        disk = {"device_type": DeviceType.DISK}
        bare = tuple(each.model_copy(update=disk) for each in spec.volumes)
        changed = spec.model_copy(update={"volumes": bare})
        return super().spawn(changed, timeout=timeout, progress=progress)


@mutant("FIELD-002")
class VlanIsPassedOver(FakeDriver):
    """A VLAN tag is taken, and the port is untagged."""

    def plug_vif(self, uuid: UUID, vif: Vif, *, timeout: float | None = None) -> AttachedVif:
        return super().plug_vif(uuid, vif.model_copy(update={"vlan": None}), timeout=timeout)


@mutant("FIELD-002")
class QueuesByChance(FakeDriver):
    """The driver says that it takes a number of queues, and refuses every one."""

    def plug_vif(self, uuid: UUID, vif: Vif, *, timeout: float | None = None) -> AttachedVif:
        if vif.queues is not None:
            raise errors.NotSupported("one queue is enough")
        return super().plug_vif(uuid, vif, timeout=timeout)


@mutant("FIELD-003")
class VideoIsPassedOver(FakeDriver):
    """A graphics adapter is taken, and the machine has the usual one."""

    def spawn(
        self,
        spec: InstanceSpec,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> InstanceInfo:
        bare = spec.hardware.model_copy(update={"video": None})
        changed = spec.model_copy(update={"hardware": bare})
        return super().spawn(changed, timeout=timeout, progress=progress)
