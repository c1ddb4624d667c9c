"""Mutants of images in use. The rest of the cache is in ``images.py``."""

from __future__ import annotations

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.fake.driver import FakeDriver


@mutant("IMG-008")
class MovedDisksAreNotCounted(FakeDriver):
    """evict_image() removes the image that a disk in another pool is based on."""

    def _in_use(self, key: str) -> bool:
        return any(disk.base == key for disk in self._host.default_pool.disks.values())
