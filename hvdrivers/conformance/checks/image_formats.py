"""Clauses of ``contract/images.py``: images in the formats of other hypervisors.

qemu-img makes them, of a disk with a text in it, so that the disk of the machine can be looked at.
"""

from __future__ import annotations

import shutil
from functools import partial

from hvdrivers.conformance.checks.images import fresh_image, image_folder, key_of
from hvdrivers.conformance.engine import image_files as imagefiles
from hvdrivers.conformance.engine.clauses import Case, check, clause
from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.requirements import IMAGE_CAPABILITIES
from hvdrivers.models.image import FileImage, ImageFormat

IMG_022 = clause(
    "IMG-022",
    "a disk made from an image has the content and the size of the disk in it, whatever the format"
    " of the image",
    operation="spawn",
)
IMG_023 = clause(
    "IMG-023",
    "an image whose disk is larger than the disk asked for is rejected also where its file is small"
    " because of its format",
    operation="spawn",
)

_FORMATS = [
    Case(each.value, (each,), needs=frozenset({IMAGE_CAPABILITIES[each]}))
    for each in imagefiles.CONVERTED
]


def _made(trial: Trial, image_format: ImageFormat, text: str, size: int) -> FileImage:
    if shutil.which("qemu-img") is None:
        raise PreconditionMissing("qemu-img, which makes images in this format, is not installed")
    image = imagefiles.with_text(image_folder(trial), image_format, text, size)
    if trial.has(Capability.IMAGE_CACHE):
        trial.after(partial(trial.driver.evict_image, key_of(image)))
    return image


@check(IMG_022, cases=_FORMATS)
def has_the_images_content(trial: Trial, image_format: ImageFormat) -> None:
    text = imagefiles.new_text()
    image = _made(trial, image_format, text, imagefiles.DISK_BYTES)
    if trial.has(Capability.IMAGE_CACHE):
        entry = trial.driver.cache_image(image)
        trial.equal(entry.virtual_size_bytes, imagefiles.DISK_BYTES, "the size of its disk")
        trial.equal(entry.key, key_of(image), "the key that cache_image() returned")
    flavor = trial.target.flavor.model_copy(update={"disk_gib": 0})  # as large as the image
    uuid = trial.spawn(image=image, start=False, flavor=flavor).uuid
    if (observer := trial.target.observer()) is not None:
        trial.equal(list(observer.own_disks(uuid)), [imagefiles.DISK_BYTES], "sizes of its disks")
    trial.check(trial.target.on_disk(trial.driver, uuid, text), "its disk is not the image's")
    other = trial.spawn(image=fresh_image(trial), start=False, flavor=flavor).uuid
    trial.check(not trial.target.on_disk(trial.driver, other, text), "another image's disk has it")


@check(IMG_023, cases=_FORMATS)
def larger_disk_is_refused(trial: Trial, image_format: ImageFormat) -> None:
    image = _made(trial, image_format, imagefiles.new_text(), 2 << 30)
    flavor = trial.target.flavor.model_copy(update={"disk_gib": 1})
    spec = trial.spec(image=image, start=False, flavor=flavor)
    trial.will_destroy(spec.uuid)
    with trial.unchanged(), trial.raises(errors.ImageRejected):
        trial.driver.spawn(spec)
