"""Clauses about images and volumes that are not what they seem: a file that is changed on its way,
half a checksum, the disks of another instance."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from hvdrivers.conformance.checks.images import cached_images, fresh_image
from hvdrivers.conformance.engine import image_files as imagefiles
from hvdrivers.conformance.engine.assertions import all_that_can_be_had
from hvdrivers.conformance.engine.clauses import check, clause
from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.image import HostImage
from hvdrivers.models.progress import Phase, Progress
from hvdrivers.models.volume import PoolData, PoolVolume, VolumeAttachment

IMG_016 = clause(
    "IMG-016",
    "an image file that somebody writes to after it was verified raises ImageRejected, also where"
    " no time stamp tells, and leaves nothing behind",
    operation="cache_image",
    needs=[Capability.IMAGE_CACHE],
)
IMG_017 = clause(
    "IMG-017",
    "the cache is looked up by the whole checksum: one that differs anywhere finds nothing, and"
    " raises ImageRejected",
    operation="cache_image",
    needs=[Capability.IMAGE_CACHE],
)
HOSTILE_010 = clause(
    "HOSTILE-010",
    "what the host keeps for instances (disks, seeds, logs, cached images) cannot be named as a"
    " volume: InvalidRequest, VolumeNotFound or NotSupported, and nothing changes",
    operation="attach_volume",
    needs=[Capability.VOLUME_POOL],
)
HOSTILE_011 = clause(
    "HOSTILE-011",
    "what the host keeps for instances (disks, seeds, logs, cached images) cannot be named as an"
    " image: InvalidRequest, VolumeNotFound or NotSupported, and nothing changes",
    operation="spawn",
    needs=[Capability.IMAGE_HOST],
)

_REFUSED = (errors.InvalidRequest, errors.VolumeNotFound, errors.NotSupported)


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        for offset in range(0, len(memory), mmap.PAGESIZE):
            memory[offset] = memory[offset]  # from here on a write changes no time stamp
        yield memory


class _Flipper:
    """Changes one byte of a mapped file when its verification has ended."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        self.done = False

    def __call__(self, progress: Progress) -> None:
        verified = progress.phase is Phase.VERIFY and progress.done == progress.total
        if verified and not self.done:
            self.done = True
            self._memory[-1] ^= 0xFF


@check(IMG_016)
def changed_file_is_rejected(trial: Trial) -> None:
    for checksum in (True, False):
        image = fresh_image(trial, checksum=checksum)
        before = set(cached_images(trial))
        with _mapped(image.path) as memory:
            flip = _Flipper(memory)
            with trial.unchanged(), trial.raises(errors.ImageRejected):
                trial.driver.cache_image(image, progress=flip)
            if not flip.done:
                raise PreconditionMissing("the driver reports no verification of an image")
        trial.equal(set(cached_images(trial)), before, "the cache after the image was changed")


@check(IMG_017)
def half_a_checksum_finds_nothing(trial: Trial) -> None:
    image = fresh_image(trial)
    right = imagefiles.reference(image.path, image.format, checksum=True, algorithm="sha512")
    trial.driver.cache_image(right)
    key = right.cache_key()
    assert key is not None  # noqa: S101 - it has a checksum
    trial.after(partial(trial.driver.evict_image, key))
    assert right.checksum is not None  # noqa: S101
    digest = right.checksum.value
    for position in (0, 70, 127):
        digit = "0" if digest[position] != "0" else "1"
        value = digest[:position] + digit + digest[position + 1 :]
        wrong = right.model_copy(
            update={"checksum": right.checksum.model_copy(update={"value": value})}
        )
        with trial.unchanged(), trial.raises(errors.ImageRejected):
            trial.driver.cache_image(wrong)


def _kept(trial: Trial) -> list[str]:
    if trial.observer is None:
        raise PreconditionMissing("without an observer nobody knows the names of disks")
    changes = all_that_can_be_had(trial)
    victim = trial.spawn(**changes)
    names = sorted(trial.observer.kept(victim.uuid))
    if not names:
        raise PreconditionMissing("the host keeps nothing of a machine under a name")
    return names


@check(HOSTILE_010)
def disks_of_others_are_no_volumes(trial: Trial) -> None:
    names, thief = _kept(trial), trial.spawn(start=False)
    with trial.unchanged():
        for name in names:
            try:
                volume = PoolVolume(serial="hvct-stolen", data=PoolData(name=name))
            except ValidationError:
                continue  # no volume can have that name
            with trial.raises(*_REFUSED):
                trial.driver.attach_volume(thief.uuid, VolumeAttachment(volume=volume))


@check(HOSTILE_011)
def disks_of_others_are_no_images(trial: Trial) -> None:
    names = _kept(trial)
    with trial.unchanged():
        for name in names:
            spec = trial.spec(image=HostImage(name=name), start=False)
            trial.will_destroy(spec.uuid)
            with trial.raises(*_REFUSED):
                trial.driver.spawn(spec)
