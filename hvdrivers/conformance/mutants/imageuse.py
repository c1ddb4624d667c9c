"""Mutants of images in use. The rest of the cache is in ``images.py``."""

from __future__ import annotations

from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.records import ImageRecord
from hvdrivers.models.image import ImageRef


@mutant("IMG-008")
class MovedDisksAreNotCounted(FakeDriver):
    """evict_image() removes the image that a disk in another pool is based on."""

    def _in_use(self, key: str) -> bool:
        return any(disk.base == key for disk in self._host.default_pool.disks.values())


@mutant("IMG-008")
class RebuiltDisksAreNotCounted(FakeDriver):
    """evict_image() removes the image that a disk was made from by rebuild()."""

    def _switch_root(self, uuid: UUID, image: ImageRef, record: ImageRecord) -> None:
        super()._switch_root(uuid, image, record)
        root = self._host.disk(uuid, "root")
        if root is not None:
            root.base = None


@mutant("REBUILD-006")
class RescueBootsTheOldImage(FakeDriver):
    """rescue() without an image boots that of spawn(), years after a rebuild."""

    def _switch_root(self, uuid: UUID, image: ImageRef, record: ImageRecord) -> None:
        before = self._machine(uuid).image
        super()._switch_root(uuid, image, record)
        self._machine(uuid).image = before
