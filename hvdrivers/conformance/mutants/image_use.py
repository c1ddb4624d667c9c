"""Mutants of images in use. The rest of the cache is in ``images.py``."""

from __future__ import annotations

from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.image_store import Images
from hvdrivers.fake.records import ImageRecord
from hvdrivers.fake.steps import Task
from hvdrivers.models.image import FileImage, ImageRef


@mutant("IMG-008")
class MovedDisksAreNotCounted(FakeDriver):
    """evict_image() removes the image that a disk in another pool is based on."""

    def _in_use(self, key: str) -> bool:
        return any(disk.base == key for disk in self.fake_host.default_pool.disks.values())


@mutant("IMG-008")
class RebuiltDisksAreNotCounted(FakeDriver):
    """evict_image() removes the image that a disk was made from by rebuild()."""

    def _switch_root(self, uuid: UUID, image: ImageRef, record: ImageRecord) -> None:
        super()._switch_root(uuid, image, record)
        root = self.fake_host.disk(uuid, "root")
        if root is not None:
            root.base = None


@mutant("REBUILD-006")
class RescueBootsTheOldImage(FakeDriver):
    """rescue() without an image boots that of spawn(), years after a rebuild."""

    def _switch_root(self, uuid: UUID, image: ImageRef, record: ImageRecord) -> None:
        before = self.machines.find(uuid).image
        super()._switch_root(uuid, image, record)
        self.machines.find(uuid).image = before


@mutant("IMG-018")
class AnyCachedImageWillDo(FakeDriver):
    """An image that is named by its key is the first one in the cache."""

    class images_type(Images):
        def cached_by_key(self, key: str) -> ImageRecord:
            super().cached_by_key(key)
            return next(iter(self.host.default_pool.images.values()))


@mutant("IMG-018")
class AbsentKeyIsNoImage(FakeDriver):
    """A key that is not in the cache raises the wrong error."""

    class images_type(Images):
        def cached_by_key(self, key: str) -> ImageRecord:
            try:
                return super().cached_by_key(key)
            except errors.VolumeNotFound as error:
                raise errors.HypervisorFault("no such image") from error


@mutant("IMG-019")
class CachedImageIsReadAgain(FakeDriver):
    """spawn() reads the file of an image, also where the cache has it."""

    class images_type(Images):
        def provide(self, task: Task, ref: ImageRef) -> ImageRecord:
            if isinstance(ref, FileImage) and not ref.path.exists():
                raise errors.InvalidRequest(f"{ref.path} cannot be read")
            return super().provide(task, ref)
