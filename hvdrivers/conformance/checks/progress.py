"""A clause of ``models/progress.py``: what a ``progress=`` callback is told."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from hvdrivers.conformance.checks.migration import Elsewhere, movable
from hvdrivers.conformance.engine import image_files as imagefiles
from hvdrivers.conformance.engine.clauses import Case, check, clause
from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.requirements import IMAGE_CAPABILITIES
from hvdrivers.models.image import FileImage, ImageFormat
from hvdrivers.models.progress import Phase, Progress, ProgressCallback

LAW_005 = clause(
    "LAW-005",
    "what an operation tells of its progress never goes down within a phase",
)


def _new_image(trial: Trial) -> FileImage:
    """An image that no host has seen: so there is something to upload."""
    formats = (ImageFormat.QCOW2, ImageFormat.RAW)
    taken = next((each for each in formats if trial.has(IMAGE_CAPABILITIES[each])), None)
    if taken is None:
        raise PreconditionMissing("the suite makes raw and qcow2 images, and none is taken")
    folder = TemporaryDirectory(prefix="hvct-")
    trial.after(folder.cleanup)
    image = imagefiles.fresh(Path(folder.name), taken, checksum=True)
    key = image.cache_key()
    if trial.has(Capability.IMAGE_CACHE) and key is not None:
        trial.after(partial(trial.driver.evict_image, key))
    return image


def _cache_image(trial: Trial, told: ProgressCallback) -> None:
    trial.driver.cache_image(_new_image(trial), progress=told)


def _spawn(trial: Trial, told: ProgressCallback) -> None:
    spec = trial.spec(image=_new_image(trial), start=False)
    trial.will_destroy(spec.uuid)
    trial.driver.spawn(spec, progress=told)


def _rebuild(trial: Trial, told: ProgressCallback) -> None:
    image = _new_image(trial)
    trial.driver.rebuild(trial.spawn(start=False).uuid, image, progress=told)


def _migrate_storage(trial: Trial, told: ProgressCallback) -> None:
    pools = trial.driver.get_available_resource().storage
    if len(pools) == 1:
        raise PreconditionMissing("the host has one pool only")
    trial.driver.migrate_storage(trial.spawn(start=False).uuid, pools[1].name, progress=told)


def _live_migrate(trial: Trial, told: ProgressCallback) -> None:
    there = Elsewhere(trial)
    uuid = movable(trial)
    there.expect(uuid)
    trial.driver.live_migrate(uuid, there.destination, progress=told)


@check(
    LAW_005,
    cases=[
        Case("cache_image", (_cache_image,), needs=frozenset({Capability.IMAGE_CACHE})),
        Case("spawn", (_spawn,)),
        Case("rebuild", (_rebuild,), needs=frozenset({Capability.REBUILD})),
        Case(
            "migrate_storage", (_migrate_storage,), needs=frozenset({Capability.STORAGE_MIGRATION})
        ),
        Case("live_migrate", (_live_migrate,), needs=frozenset({Capability.LIVE_MIGRATION})),
    ],
)
def never_goes_down(trial: Trial, step: Callable[[Trial, ProgressCallback], None]) -> None:
    reports: list[Progress] = []
    step(trial, reports.append)
    trial.check(all(isinstance(each, Progress) for each in reports), "it was told no Progress")
    most: dict[Phase, int] = {}
    for each in reports:
        before = most.get(each.phase, 0)
        trial.check(each.done >= before, f"it went down from {before} to {each}")
        most[each.phase] = each.done
