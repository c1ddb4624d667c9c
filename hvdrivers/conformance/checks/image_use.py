"""Clauses of ``contract/images.py``: an image that a disk is based on. The rest is in
``images.py``."""

from __future__ import annotations

from hvdrivers.conformance.checks.images import IMG_008, cached_images, fresh_image, key_of
from hvdrivers.conformance.checks.rescue_rebuild import REBUILD_006
from hvdrivers.conformance.engine.clauses import check, clause
from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.image import HostImage
from hvdrivers.models.state import InstanceState

IMG_018 = clause(
    "IMG-018",
    "HostImage(cached=True) makes an instance from the entry of the cache with that key; one that"
    " is not there raises VolumeNotFound and leaves nothing behind; or it raises NotSupported",
    operation="spawn",
    needs=[Capability.IMAGE_CACHE],
)
IMG_019 = clause(
    "IMG-019",
    "an image that is in the cache is not read again, by spawn() or cache_image(), if its reference"
    " has a checksum",
    operation="spawn",
    needs=[Capability.IMAGE_CACHE],
)


@check(IMG_018)
def is_made_from_what_is_cached(trial: Trial) -> None:
    trial.driver.cache_image(fresh_image(trial))  # another
    image = fresh_image(trial)
    key = trial.driver.cache_image(image).key
    named = HostImage(name=key, cached=True)
    if "cached" not in trial.driver.takes.get(HostImage, frozenset()):
        with trial.unchanged(), trial.raises(errors.NotSupported):
            trial.spawn(image=named, start=False)
        return
    image.path.unlink()
    info = trial.spawn(image=named, start=False)
    trial.equal(info.image, key, "the image that it was made from")
    trial.equal(trial.other.get_instance(info.uuid).image, key, "its image to another")
    with trial.unchanged(), trial.raises(errors.DeviceBusy):
        trial.driver.evict_image(key)  # it is based on that very image
    trial.driver.destroy(info.uuid)
    trial.driver.evict_image(key)
    with trial.unchanged(), trial.raises(errors.VolumeNotFound):
        trial.spawn(image=named)


@check(IMG_019)
def is_not_read_again(trial: Trial) -> None:
    image = fresh_image(trial)
    cached = trial.driver.cache_image(image)
    image.path.unlink()
    trial.equal(trial.driver.cache_image(image).key, cached.key, "the entry that is there")
    trial.equal(trial.spawn(image=image, start=False).image, cached.key, "the image of the machine")


@check(IMG_008)
def image_in_use_stays(trial: Trial) -> None:
    image = fresh_image(trial)
    uuid = trial.spawn(image=image, start=False).uuid
    key = key_of(image)
    before = set(cached_images(trial))
    for _ in range(2):
        with trial.unchanged(), trial.raises(errors.DeviceBusy):
            trial.other.evict_image(key)
        trial.equal(set(cached_images(trial)), before, "the cache after evict_image() was refused")
    trial.driver.power_on(uuid)
    with trial.unchanged(), trial.raises(errors.DeviceBusy):
        trial.driver.evict_image(key)
    second = trial.spawn(image=image, start=False).uuid
    trial.driver.destroy(uuid)
    with trial.unchanged(), trial.raises(errors.DeviceBusy):
        trial.driver.evict_image(key)
    trial.driver.destroy(second)
    trial.driver.evict_image(key)
    trial.check(key not in cached_images(trial), "it stays although nobody uses it")


@check(IMG_008, needs=[Capability.RESCUE])
def image_of_a_rescue_stays(trial: Trial) -> None:
    image = fresh_image(trial)
    uuid = trial.spawn(start=False).uuid
    trial.driver.rescue(uuid, image)
    with trial.unchanged(), trial.raises(errors.DeviceBusy):
        trial.driver.evict_image(key_of(image))
    trial.check(key_of(image) in cached_images(trial), "the image of a rescue disk is gone")
    trial.driver.unrescue(uuid)
    trial.driver.evict_image(key_of(image))


@check(IMG_008, needs=[Capability.STORAGE_MIGRATION])
def image_of_a_moved_disk_stays(trial: Trial) -> None:
    pools = [each.name for each in trial.driver.get_available_resource().storage]
    if len(pools) < 2:
        raise PreconditionMissing("the host has one storage pool: there is nowhere to move to")
    image = fresh_image(trial)
    uuid = trial.spawn(image=image, start=False).uuid
    for pool in pools:
        trial.driver.migrate_storage(uuid, pool)
        try:
            trial.driver.evict_image(key_of(image))
        except errors.DeviceBusy:
            there = key_of(image) in cached_images(trial)
            trial.check(there, f"the image of a disk in {pool} is gone")
        else:
            break  # the disk stands alone since it has moved
    trial.driver.power_on(uuid)
    trial.equal(trial.state(uuid), InstanceState.RUNNING, "state of the machine that has moved")


@check(IMG_008, needs=[Capability.REBUILD])
def image_of_a_rebuilt_disk_stays(trial: Trial) -> None:
    first, second = fresh_image(trial), fresh_image(trial)
    uuid = trial.spawn(image=first, start=False).uuid
    trial.driver.rebuild(uuid, second)
    with trial.unchanged(), trial.raises(errors.DeviceBusy):
        trial.driver.evict_image(key_of(second))
    trial.driver.evict_image(key_of(first))
    trial.equal(key_of(first) in cached_images(trial), False, "whether the old image is there")


@check(REBUILD_006, needs=[Capability.RESCUE, Capability.IMAGE_CACHE])
def is_rescued_from_the_new_image(trial: Trial) -> None:
    first, second = fresh_image(trial), fresh_image(trial)
    uuid = trial.spawn(image=first, start=False).uuid
    trial.driver.rebuild(uuid, second)
    trial.driver.evict_image(key_of(first))
    first.path.unlink()  # nobody can have it any more
    trial.driver.rescue(uuid)
    trial.equal(trial.state(uuid), InstanceState.RESCUED, "state after rebuild() and rescue()")
