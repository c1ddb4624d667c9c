"""Clauses of ``contract/images.py``, and of everything about images in spawn.

The images are small files that the suite makes itself, in a format that the driver takes, with
content that no host has seen: so nothing of them is in the cache before.
"""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from hvdrivers.conformance.checks.host_volumes import fill
from hvdrivers.conformance.engine import image_files as imagefiles
from hvdrivers.conformance.engine.clauses import Level, check, clause
from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.requirements import IMAGE_CAPABILITIES
from hvdrivers.models.image import CachedImage, FileImage, HostImage, ImageFormat, ImageRef
from hvdrivers.models.progress import Phase, Progress
from hvdrivers.models.state import InstanceState

IMG_001 = clause(
    "IMG-001",
    "cache_image() brings the image into the cache under the name of its content, where every"
    " connection sees it",
    operation="cache_image",
)
IMG_002 = clause(
    "IMG-002",
    "cache_image() of an image that is there uploads nothing, and there is still one",
    operation="cache_image",
)
IMG_003 = clause(
    "IMG-003",
    "two callers at the same time load an image once, both get it, and never half of it",
    operation="cache_image",
)
IMG_004 = clause(
    "IMG-004",
    "cache_image() of an unsafe image, or not of the format or checksum that was declared, raises"
    " ImageRejected and leaves nothing behind",
    operation="cache_image",
)
IMG_005 = clause(
    "IMG-005",
    "cache_image() for which there is no room raises InsufficientResources and changes nothing",
    operation="cache_image",
    level=Level.SHOULD,
)
IMG_006 = clause(
    "IMG-006",
    "list_cached_images() shows each entry once, as cache_image() returned it",
    operation="list_cached_images",
)
IMG_007 = clause(
    "IMG-007",
    "evict_image() removes that entry alone, for everybody; one that is not there is a success",
    operation="evict_image",
)
IMG_008 = clause(
    "IMG-008",
    "evict_image() of an image that an instance's disk is based on raises DeviceBusy and changes"
    " nothing, and succeeds once that is destroyed",
    operation="evict_image",
)
IMG_010 = clause(
    "IMG-010",
    "spawn() leaves the image in the cache, under the name that get_instance() shows, also after"
    " destroy()",
    operation="spawn",
    needs=[Capability.IMAGE_CACHE],
)
IMG_011 = clause(
    "IMG-011",
    "the second spawn() from an image, by whomever, uploads nothing",
    operation="spawn",
    needs=[Capability.IMAGE_CACHE],
)
IMG_012 = clause(
    "IMG-012",
    "spawn() from an unsafe image, or not of the format or checksum that was declared, raises"
    " ImageRejected and leaves nothing behind",
    operation="spawn",
)
IMG_013 = clause(
    "IMG-013",
    "spawn() from an image that is larger than the disk asked for raises ImageRejected and leaves"
    " no instance behind",
    operation="spawn",
)
IMG_014 = clause(
    "IMG-014",
    "spawn() from a file that is not there raises InvalidRequest and leaves nothing behind",
    operation="spawn",
)
IMG_015 = clause(
    "IMG-015",
    "cache_image() of an image that is on the host already raises InvalidRequest and changes"
    " nothing",
    operation="cache_image",
    needs=[Capability.IMAGE_HOST],
)

_ABSENT_KEY = "raw-sha256-" + "0" * 64
_HANDMADE = (ImageFormat.RAW, ImageFormat.QCOW2)


def image_folder(trial: Trial) -> Path:
    """A folder for image files, which goes with the check."""
    folder = TemporaryDirectory(prefix="hvct-")
    trial.after(folder.cleanup)
    return Path(folder.name)


def _format(trial: Trial) -> ImageFormat:
    for each in _HANDMADE:
        if trial.has(IMAGE_CAPABILITIES[each]):
            return each
    raise PreconditionMissing("the suite makes raw and qcow2 images, and the driver takes neither")


def fresh_image(trial: Trial, *, checksum: bool = True) -> FileImage:
    """A new image, which is evicted when the check is over."""
    image = imagefiles.fresh(image_folder(trial), _format(trial), checksum=checksum)
    if trial.has(Capability.IMAGE_CACHE):
        trial.after(partial(trial.driver.evict_image, key_of(image)))
    return image


def key_of(image: FileImage) -> str:
    """What the image is called in a cache, also where the reference has no checksum."""
    key = imagefiles.reference(image.path, image.format, checksum=True).cache_key()
    assert key is not None  # noqa: S101 - it has a checksum
    return key


def cached_images(trial: Trial) -> dict[str, CachedImage]:
    return {each.key: each for each in trial.driver.list_cached_images()}


def _phases(reports: list[Progress]) -> set[Phase]:
    return {each.phase for each in reports}


@check(IMG_001)
def is_cached_by_content(trial: Trial) -> None:
    for checksum in (True, False):
        image = fresh_image(trial, checksum=checksum)
        key = key_of(image)
        trial.check(key not in cached_images(trial), "it is in the cache before anybody loaded it")
        entry = trial.driver.cache_image(image)
        trial.equal(entry.key, key, "the key that cache_image() returned")
        trial.equal(entry.virtual_size_bytes, imagefiles.DISK_BYTES, "the size of its disk")
        for driver in (trial.driver, trial.connect()):
            keys = [each.key for each in driver.list_cached_images()]
            trial.equal(keys.count(key), 1, "how often it is in the cache")


@check(IMG_001)
def other_content_is_another_entry(trial: Trial) -> None:
    entries = [trial.driver.cache_image(fresh_image(trial)) for _ in range(2)]
    trial.check(entries[0].key != entries[1].key, "two images have one key")
    trial.check(
        {each.key for each in entries} <= set(cached_images(trial)), "one of two is not there"
    )


@check(IMG_002)
def second_load_is_none(trial: Trial) -> None:
    for checksum in (True, False):
        image = fresh_image(trial, checksum=checksum)
        first = trial.driver.cache_image(image)
        before = set(cached_images(trial))
        for driver in (trial.driver, trial.other):
            reports: list[Progress] = []
            with trial.unchanged():
                again = driver.cache_image(image, progress=reports.append)
            trial.equal(again.key, first.key, "the key of an image that is there")
            trial.equal(again.virtual_size_bytes, first.virtual_size_bytes, "the size of its disk")
            trial.check(Phase.UPLOAD not in _phases(reports), "it was uploaded again")
        trial.equal(set(cached_images(trial)), before, "the cache after loading what is there")


@check(IMG_003)
def two_load_it_once(trial: Trial) -> None:
    image = fresh_image(trial)
    before = trial.observer.residue() if trial.observer is not None else None
    outcomes: list[object] = []
    gate = threading.Barrier(2)
    drivers = (trial.driver, trial.other)

    def load(number: int) -> None:
        gate.wait()
        try:
            outcomes.append(drivers[number].cache_image(image).key)
        except errors.HypervisorError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=load, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    trial.equal(outcomes, [key_of(image)] * 2, "what the two callers got")
    keys = [each.key for each in trial.driver.list_cached_images()]
    trial.equal(keys.count(key_of(image)), 1, "how often it is in the cache")
    if trial.observer is not None:
        trial.equal(trial.observer.residue(), before, "what the loads left beside the cache")


def _hostile(trial: Trial) -> list[tuple[str, ImageRef]]:
    found = [
        (word, image)
        for word, image in trial.target.hostile_images()
        if image.format is None or trial.has(IMAGE_CAPABILITIES[image.format])
    ]
    if not found:
        raise PreconditionMissing("the target has no hostile image of a format the driver takes")
    return found


@check(IMG_004)
def hostile_image_is_not_cached(trial: Trial) -> None:
    before = set(cached_images(trial))
    for word, image in _hostile(trial):
        with trial.unchanged(), trial.raises(errors.ImageRejected):
            trial.driver.cache_image(image)
        trial.equal(set(cached_images(trial)), before, f"the cache after {word} was rejected")


@check(IMG_005, needs=[Capability.HOST_VOLUMES])
def no_room_for_an_image(trial: Trial) -> None:
    image = fresh_image(trial)
    for pool in trial.driver.get_available_resource().storage:
        fill(trial, pool.name)
    before = set(cached_images(trial))
    with trial.unchanged(), trial.raises(errors.InsufficientResources):
        trial.driver.cache_image(image)
    trial.equal(set(cached_images(trial)), before, "the cache after there was no room")


@check(IMG_006)
def list_shows_what_was_cached(trial: Trial) -> None:
    made = [trial.driver.cache_image(fresh_image(trial)) for _ in range(2)]
    with trial.unchanged():
        found = trial.other.list_cached_images()
    keys = [each.key for each in found]
    trial.equal(len(keys), len(set(keys)), "how many different keys the list has")
    for entry in made:
        shown = next((each for each in found if each.key == entry.key), None)
        trial.equal(shown, entry, "what the list shows")


@check(IMG_006)
def use_is_shown(trial: Trial) -> None:
    image = fresh_image(trial)
    entry = trial.driver.cache_image(image)
    trial.check(entry.in_use in {False, None}, "an image that nobody has used is in use")
    uuid = trial.spawn(image=image, start=False).uuid
    used = cached_images(trial)[entry.key]
    trial.check(used.in_use in {True, None}, "an image that a disk is based on is not in use")
    trial.driver.destroy(uuid)
    left = cached_images(trial)[entry.key]
    trial.check(left.in_use in {False, None}, "an image is in use whose last disk is gone")


@check(IMG_007)
def is_evicted_alone(trial: Trial) -> None:
    image, other = fresh_image(trial), fresh_image(trial)
    key = trial.driver.cache_image(image).key
    trial.driver.cache_image(other)
    before = set(cached_images(trial))
    trial.driver.evict_image(key)
    for driver in (trial.driver, trial.other):
        left = {each.key for each in driver.list_cached_images()}
        trial.equal(left, before - {key}, "the cache after evict_image()")
    for absent in (key, _ABSENT_KEY):
        with trial.unchanged():
            trial.driver.evict_image(absent)
        trial.equal(
            set(cached_images(trial)), before - {key}, "the cache after nothing was evicted"
        )
    reports: list[Progress] = []
    again = trial.driver.cache_image(image, progress=reports.append)
    trial.equal(again.key, key, "the key of an image that comes back")
    trial.check(key in cached_images(trial), "an image that was evicted does not come back")


@check(IMG_010)
def spawn_fills_the_cache(trial: Trial) -> None:
    for checksum in (True, False):
        image = fresh_image(trial, checksum=checksum)
        info = trial.spawn(image=image, start=False)
        trial.equal(info.image, key_of(image), "the image that the instance was made from")
        shown = trial.other.get_instance(info.uuid)
        trial.equal(shown.image, key_of(image), "the image that another connection shows")
        trial.check(key_of(image) in cached_images(trial), "it is not in the cache after spawn()")
        trial.driver.destroy(info.uuid)
        trial.check(key_of(image) in cached_images(trial), "it is not in the cache after destroy()")


@check(IMG_011)
def second_spawn_uploads_nothing(trial: Trial) -> None:
    image = fresh_image(trial)
    uploads = []
    for driver in (trial.driver, trial.driver, trial.other):
        reports: list[Progress] = []
        spec = trial.spec(image=image, start=False)
        trial.will_destroy(spec.uuid)
        info = driver.spawn(spec, progress=reports.append)
        trial.equal(info.state, InstanceState.STOPPED, "state")
        uploads.append(Phase.UPLOAD in _phases(reports))
    # whoever reports no uploads cannot be caught at one; the key says the rest
    trial.equal(uploads[1:], [False, False], "whether the second and the third uploaded")
    keys = [each.key for each in trial.driver.list_cached_images()]
    trial.equal(keys.count(key_of(image)), 1, "how often it is in the cache")


@check(IMG_012)
def hostile_image_is_not_spawned_from(trial: Trial) -> None:
    cached = set(cached_images(trial)) if trial.has(Capability.IMAGE_CACHE) else set()
    for word, image in _hostile(trial):
        spec = trial.spec(image=image, start=False)
        trial.will_destroy(spec.uuid)
        with trial.unchanged(), trial.raises(errors.ImageRejected):
            trial.driver.spawn(spec)
        if trial.has(Capability.IMAGE_CACHE):
            trial.equal(set(cached_images(trial)), cached, f"the cache after {word} was rejected")


@check(IMG_013)
def too_large_image_is_refused(trial: Trial) -> None:
    image = imagefiles.large(image_folder(trial), 2)
    if not trial.has(IMAGE_CAPABILITIES[image.format]):
        raise PreconditionMissing("the driver takes no qcow2 image, which is large in a small file")
    if trial.has(Capability.IMAGE_CACHE):
        trial.after(partial(trial.driver.evict_image, key_of(image)))
    spec = trial.spec(
        image=image,
        start=False,
        flavor=trial.target.flavor.model_copy(update={"disk_gib": 1}),
    )
    trial.will_destroy(spec.uuid)
    with trial.unchanged(), trial.raises(errors.ImageRejected):
        trial.driver.spawn(spec)
    # as large as the image, and the same image is fine
    trial.spawn(
        image=image, start=False, flavor=trial.target.flavor.model_copy(update={"disk_gib": 0})
    )


@check(IMG_014)
def absent_file_is_refused(trial: Trial) -> None:
    image = FileImage(path=image_folder(trial) / "absent.img", format=_format(trial))
    spec = trial.spec(image=image, start=False)
    trial.will_destroy(spec.uuid)
    with trial.unchanged(), trial.raises(errors.InvalidRequest):
        trial.driver.spawn(spec)


@check(IMG_015)
def host_image_is_there_already(trial: Trial) -> None:
    before = set(cached_images(trial))
    image = HostImage(name=getattr(trial.target.image(), "name", "hvct"))
    with trial.unchanged(), trial.raises(errors.InvalidRequest):
        trial.driver.cache_image(image)
    trial.equal(set(cached_images(trial)), before, "the cache after that was refused")
