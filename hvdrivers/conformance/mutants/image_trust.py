"""Mutants that trust files, checksums and names too much."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.image_store import Images
from hvdrivers.fake.records import ImageRecord, VolumeRecord
from hvdrivers.fake.steps import Task
from hvdrivers.fake.volumes import Volumes
from hvdrivers.models.image import HostImage, ImageRef
from hvdrivers.models.volume import PoolVolume

if TYPE_CHECKING:
    from hvdrivers.images import LocalImage


@mutant("IMG-016")
class TimeStampsAreTrusted(FakeDriver):
    """After the upload only the file's time stamps are compared."""

    class images_type(Images):
        def verify_sent(self, local: LocalImage) -> None:
            local.verify_unchanged()


@mutant("IMG-017")
class ChecksumsAreCutOff(FakeDriver):
    """The cache is looked up by the first 256 bits of a longer checksum."""

    class images_type(Images):
        def provide(self, task: Task, ref: ImageRef) -> ImageRecord:
            checksum = getattr(ref, "checksum", None)
            known = self.__dict__.setdefault("known", {})
            half = checksum.value[:64] if checksum is not None else None
            if half is not None and half in known:
                found: ImageRecord = known[half]
                return found
            record = super().provide(task, ref)
            if half is not None:
                known[half] = record
            return record


@mutant("HOSTILE-010")
class AnyDiskIsAVolume(FakeDriver):
    """A cached image, the base of other machines' disks, can be attached by its name."""

    class volumes_type(Volumes):
        def pool_volume(self, volume: PoolVolume) -> VolumeRecord:
            for pool in self.host.pools.values():
                image = pool.images.get(volume.data.name)
                if image is not None:
                    return VolumeRecord(volume.volume_id, image.size_bytes, image.content)
            return super().pool_volume(volume)


@mutant("HOSTILE-011")
class TheCacheIsAnImage(FakeDriver):
    """A cached image can be named as an image of the host."""

    class images_type(Images):
        def host_image(self, ref: HostImage) -> ImageRecord:
            found = self.host.default_pool.images.get(ref.name)
            return found if found is not None else super().host_image(ref)
