"""Clauses about uploads that are not complete: those under way, and what dead clients have left."""

from __future__ import annotations

from hvdrivers.conformance.checks.images import cached_images, fresh_image, key_of
from hvdrivers.conformance.engine.clauses import check, clause
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors

IMG_020 = clause(
    "IMG-020",
    "list_cached_images() shows what a client has left that died in an upload, as partial, under a"
    " key of its own, and cache_image() of the same image brings the whole of it",
    operation="list_cached_images",
)
IMG_021 = clause(
    "IMG-021",
    "evict_image() of a partial upload that was written to a moment ago raises DeviceBusy"
    " (retryable) and changes nothing; of one that is quiet it removes that alone",
    operation="evict_image",
)


@check(IMG_020)
def remains_are_shown(trial: Trial) -> None:
    image = fresh_image(trial)
    for quiet in (False, True):
        with trial.target.dead_upload(trial.driver, key_of(image), quiet=quiet) as key:
            for driver in (trial.driver, trial.other):
                found = {each.key: each for each in driver.list_cached_images()}
                trial.check(key in found, "what a dead client has left is not shown")
                trial.check(found[key].partial, "what a dead client has left is shown as whole")
                trial.check(key_of(image) not in found, "half an image is shown as the image")
            whole = trial.driver.cache_image(image)
            trial.equal(whole.key, key_of(image), "the key of the image that came after that")
            trial.check(not whole.partial, "an image that was brought entirely is partial")
            after = cached_images(trial)
            trial.check(after[whole.key] == whole, "the list does not show the whole image")
            trial.driver.evict_image(whole.key)


@check(IMG_021)
def what_may_be_alive_stays(trial: Trial) -> None:
    image = fresh_image(trial)
    with trial.target.dead_upload(trial.driver, key_of(image), quiet=False) as key:
        before = cached_images(trial)
        with trial.unchanged(), trial.raises(errors.DeviceBusy) as caught:
            trial.driver.evict_image(key)
        trial.check(caught[0].retryable, "an upload that ends by itself is no reason to wait")
        trial.equal(cached_images(trial).keys(), before.keys(), "the cache after DeviceBusy")


@check(IMG_021)
def what_is_quiet_is_removed(trial: Trial) -> None:
    image = fresh_image(trial)
    whole = trial.driver.cache_image(image).key
    with trial.target.dead_upload(trial.driver, key_of(image), quiet=True) as key:
        before = set(cached_images(trial))
        trial.driver.evict_image(key)
        trial.equal(set(cached_images(trial)), before - {key}, "the cache without the remains")
        trial.check(whole in before, "the whole image is not shown beside the remains")
        trial.driver.evict_image(key)  # one that is not there is a success
