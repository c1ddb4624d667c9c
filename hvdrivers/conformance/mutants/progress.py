"""Mutants of what a ``progress=`` callback is told."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.models.image import CachedImage, ImageRef
from hvdrivers.models.instance import InstanceInfo, InstanceSpec
from hvdrivers.models.migration import Destination
from hvdrivers.models.progress import Progress, ProgressCallback


def _what_is_left(told: ProgressCallback | None) -> Callable[[Progress], None] | None:
    if told is None:
        return None

    def tell(report: Progress) -> None:
        left = (report.total or report.done) - report.done
        told(report.model_copy(update={"done": left}))

    return tell


def _twice(told: ProgressCallback | None) -> Callable[[Progress], None] | None:
    if told is None:
        return None

    def tell(report: Progress) -> None:
        told(report)
        told(report.model_copy(update={"done": 0}))

    return tell


@mutant("LAW-005")
class MigrationTellsWhatIsLeft(FakeDriver):
    """live_migrate() tells how much is left as how much is done."""

    def live_migrate(
        self,
        uuid: UUID,
        destination: Destination,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        told = _what_is_left(progress)
        super().live_migrate(uuid, destination, timeout=timeout, progress=told)


@mutant("LAW-005")
class UploadBeginsAgain(FakeDriver):
    """cache_image() tells at its end that nothing has been uploaded."""

    def cache_image(
        self,
        image: ImageRef,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> CachedImage:
        return super().cache_image(image, timeout=timeout, progress=_twice(progress))


@mutant("LAW-005")
class SpawnBeginsAgain(FakeDriver):
    """spawn() tells of each part of its image that nothing of it has arrived."""

    def spawn(
        self,
        spec: InstanceSpec,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> InstanceInfo:
        return super().spawn(spec, timeout=timeout, progress=_twice(progress))
