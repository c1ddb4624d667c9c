"""Mutants of uploads that are not complete."""

from __future__ import annotations

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.records import ImageRecord
from hvdrivers.models.image import CachedImage


@mutant("IMG-020")
class RemainsAreHidden(FakeDriver):
    """What a client has left that died in an upload takes room, and no list shows it."""

    def _partial(self, name: str, record: ImageRecord) -> CachedImage | None:
        return None


@mutant("IMG-020")
class RemainsLookWhole(FakeDriver):
    """What a client has left that died in an upload is shown like any image."""

    def _partial(self, name: str, record: ImageRecord) -> CachedImage | None:
        shown = super()._partial(name, record)
        return shown.model_copy(update={"partial": False}) if shown is not None else None


@mutant("IMG-021")
class LivingUploadIsEvicted(FakeDriver):
    """evict_image() removes an upload that is under way."""

    def _refuse_alive(self, upload: ImageRecord) -> None:
        return


@mutant("IMG-021")
class RemainsStay(FakeDriver):
    """A partial upload is busy for ever."""

    def _refuse_alive(self, upload: ImageRecord) -> None:
        raise errors.DeviceBusy("somebody uploads it")


@mutant("IMG-021")
class EveryUploadIsEvicted(FakeDriver):
    """evict_image() of what a dead client has left removes the whole image of that key too."""

    def _evict(self, key: str) -> None:
        super()._evict(key)
        self.fake_host.default_pool.images.pop(key.partition(".")[0], None)
