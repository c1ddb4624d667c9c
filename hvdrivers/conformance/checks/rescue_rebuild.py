"""Clauses of ``contract/lifecycle.py``: rescue and rebuild. Sizes are in ``resize.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID

from hvdrivers.conformance.engine import image_files as imagefiles
from hvdrivers.conformance.engine.assertions import (
    all_that_can_be_had,
    booted,
    expect_boots,
    expect_only_state,
    expect_state,
)
from hvdrivers.conformance.engine.clauses import Case, Clause, check, clause
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.image import HostImage, ImageFormat
from hvdrivers.models.instance import InstanceInfo, InstanceSpec
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import VolumeAttachment

RUNNING, STOPPED, RESCUED = InstanceState.RUNNING, InstanceState.STOPPED, InstanceState.RESCUED


def _rescue(number: str, rule: str, *needs: Capability, operation: str = "rescue") -> Clause:
    return clause(f"RESCUE-{number}", rule, operation=operation, needs=needs)


def _rebuild(number: str, rule: str, *needs: Capability) -> Clause:
    return clause(f"REBUILD-{number}", rule, operation="rebuild", needs=needs)


RESCUE_001 = _rescue(
    "001", "rescue() starts the guest anew, RESCUED, and nothing else of the instance changes"
)
RESCUE_002 = _rescue(
    "002",
    "unrescue() boots the own root disk again, as it was, and leaves nothing of the rescue",
    operation="unrescue",
)
RESCUE_003 = _rescue("003", "rescue() without an image boots the image the instance was made from")
RESCUE_004 = _rescue("004", "rescue() that is refused leaves the machine as it was, running on")
RESCUE_005 = _rescue(
    "005",
    "a rescued machine that was powered off stays STOPPED over unrescue(), which removes the"
    " rescue disk, and so does power_on()",
    operation="unrescue",
)
RESCUE_006 = _rescue(
    "006",
    "rescue() without an image of an instance that boots from a volume raises InvalidRequest and"
    " changes nothing",
    Capability.BOOT_FROM_VOLUME,
    Capability.HOST_VOLUMES,
    Capability.RESCUE_BOOT_FROM_VOLUME,
)
REBUILD_001 = _rebuild(
    "001", "rebuild() leaves UUID, name, metadata, size, NICs, volumes and state as they were"
)
REBUILD_002 = _rebuild(
    "002", "after rebuild() the root disk is fresh from the image, and the old one is gone"
)
REBUILD_003 = _rebuild(
    "003",
    "rebuild() of an instance that boots from a volume raises InvalidRequest and changes nothing",
    Capability.BOOT_FROM_VOLUME,
    Capability.HOST_VOLUMES,
)
REBUILD_004 = _rebuild(
    "004", "rebuild() that is refused leaves the old disk, and a running guest running"
)
REBUILD_005 = _rebuild(
    "005",
    "rebuild() of an instance with snapshots raises DeviceBusy and changes nothing",
    Capability.SNAPSHOTS,
)
REBUILD_006 = _rebuild(
    "006",
    "after rebuild() get_instance() names the image that the root disk was made from, and rescue()"
    " without an image boots that",
)
_FROM = [
    Case("running", (RUNNING,)),
    Case("stopped", (STOPPED,)),
]


def _from_volume(trial: Trial, *, start: bool) -> InstanceSpec:
    boots = VolumeAttachment(volume=trial.volume(1 << 30), boot_index=0)
    return trial.spec(volumes=(boots,), start=start)


@contextmanager
def _undisturbed(trial: Trial, state: InstanceState) -> Iterator[InstanceSpec]:
    """An instance with everything, that must be as it was after the block."""
    spec = trial.spec(start=state is RUNNING, **all_that_can_be_had(trial))
    trial.spawn(spec)
    with trial.unchanged():
        yield spec
        expect_state(trial, spec.uuid, state, "after the refusal")


def _has_been_on(trial: Trial, state: InstanceState) -> InstanceInfo:
    """An instance with everything that has been on: some things of it are made by its first start,
    such as UEFI's variables."""
    made = trial.spawn(**all_that_can_be_had(trial))
    if state is STOPPED:
        trial.driver.power_off(made.uuid)
    return trial.driver.get_instance(made.uuid)


@check(RESCUE_001, cases=_FROM)
def starts_in_rescue(trial: Trial, state: InstanceState) -> None:
    before = trial.spawn(start=state is RUNNING, **all_that_can_be_had(trial))
    trial.driver.rescue(before.uuid, trial.target.image())
    expect_only_state(trial, before, RESCUED, "after rescue()")


@check(RESCUE_001)
def is_another_start(trial: Trial) -> None:
    uuid = trial.spawn().uuid
    starts = booted(trial, uuid)
    trial.driver.rescue(uuid, trial.target.image())
    expect_boots(trial, uuid, starts + 1, "after rescue()")
    trial.driver.unrescue(uuid)
    expect_boots(trial, uuid, starts + 2, "after unrescue()")


@check(RESCUE_002, cases=_FROM)
def leaves_nothing_of_it(trial: Trial, state: InstanceState) -> None:
    before = _has_been_on(trial, state)
    lines = _residue_but_machine(trial, before.uuid.hex)
    trial.driver.rescue(before.uuid, trial.target.image())
    trial.driver.unrescue(before.uuid)
    expect_only_state(trial, before, RUNNING, "after unrescue()")
    if state is STOPPED:
        trial.driver.power_off(before.uuid)  # a machine that is on has more on the host: its taps
    trial.equal(_residue_but_machine(trial, before.uuid.hex), lines, "what is on the host")


def _residue_but_machine(trial: Trial, hex_: str) -> int | None:
    """How many things there are of an instance; None if nobody can tell."""
    if trial.observer is None:
        return None
    return sum(hex_ in line.replace("-", "") for line in trial.observer.residue())


@check(RESCUE_002)
def own_disk_is_as_it_was(trial: Trial) -> None:
    uuid = trial.spawn().uuid
    trial.target.wait_booted(trial.driver, uuid)
    trial.target.write_disk(trial.driver, uuid, "before")
    trial.driver.rescue(uuid, trial.target.image())
    trial.check(trial.target.on_disk(trial.driver, uuid, "before"), "lost by rescue()")
    trial.driver.unrescue(uuid)
    trial.check(trial.target.on_disk(trial.driver, uuid, "before"), "lost by unrescue()")


@check(RESCUE_003)
def boots_its_own_image(trial: Trial) -> None:
    before = trial.spawn()
    trial.driver.rescue(before.uuid)
    expect_only_state(trial, before, RESCUED, "after rescue()")
    trial.driver.unrescue(before.uuid)
    expect_only_state(trial, before, RUNNING, "after unrescue()")


@check(RESCUE_004, cases=_FROM, needs=[Capability.IMAGE_HOST])
def absent_image_changes_nothing(trial: Trial, state: InstanceState) -> None:
    with _undisturbed(trial, state) as spec, trial.raises(errors.VolumeNotFound):
        trial.driver.rescue(spec.uuid, HostImage(name="hvct-no-such-image"))


@check(RESCUE_004)
def hostile_image_is_refused(trial: Trial) -> None:
    images = trial.target.hostile_images()
    uuid = trial.spawn().uuid
    for why, image in images:
        with trial.unchanged(), trial.raises(errors.ImageRejected, errors.NotSupported) as caught:
            trial.driver.rescue(uuid, image)
        trial.check(caught, why)


@check(RESCUE_005, cases=[Case("unrescue", (False,)), Case("power_on", (True,))])
def ends_by_itself(trial: Trial, on: bool) -> None:
    before = _has_been_on(trial, STOPPED)
    lines = _residue_but_machine(trial, before.uuid.hex)
    trial.driver.rescue(before.uuid, trial.target.image())
    trial.driver.power_off(before.uuid)
    expect_only_state(trial, before, STOPPED, "after power_off()")
    if on:
        trial.driver.power_on(before.uuid)
    else:
        trial.driver.unrescue(before.uuid)
    expect_only_state(trial, before, RUNNING if on else STOPPED, "after that")
    if on:
        trial.driver.power_off(before.uuid)
    trial.equal(_residue_but_machine(trial, before.uuid.hex), lines, "what is on the host")


@check(RESCUE_006)
def volume_needs_an_image(trial: Trial) -> None:
    spec = _from_volume(trial, start=False)
    trial.spawn(spec)
    with trial.unchanged(), trial.raises(errors.InvalidRequest):
        trial.driver.rescue(spec.uuid)
    trial.driver.rescue(spec.uuid, trial.target.image())
    expect_state(trial, spec.uuid, RESCUED, "after rescue() with an image")


@check(REBUILD_001, cases=_FROM)
def the_rest_stays(trial: Trial, state: InstanceState) -> None:
    changes = all_that_can_be_had(trial)
    before = trial.spawn(start=state is RUNNING, metadata={"hvct.kept": "yes"}, **changes)
    trial.driver.rebuild(before.uuid, trial.target.image())
    expect_only_state(trial, before, state, "after rebuild()")


@check(REBUILD_002, cases=_FROM)
def leaves_one_disk(trial: Trial, state: InstanceState) -> None:
    uuid = trial.in_state(state)
    lines = _residue_but_machine(trial, uuid.hex)
    for _ in range(2):
        trial.driver.rebuild(uuid, trial.target.image())
        trial.equal(_residue_but_machine(trial, uuid.hex), lines, "what is on the host")
        trial.equal(trial.state(uuid), state, "state after rebuild()")


@check(REBUILD_002)
def is_fresh(trial: Trial) -> None:
    uuid = trial.spawn().uuid
    trial.target.wait_booted(trial.driver, uuid)
    trial.target.write_disk(trial.driver, uuid, "old")
    trial.check(trial.target.on_disk(trial.driver, uuid, "old"), "the mark is not on the disk")
    starts = trial.target.boots(trial.driver, uuid)
    trial.driver.rebuild(uuid, trial.target.image())
    trial.check(not trial.target.on_disk(trial.driver, uuid, "old"), "the old disk is still there")
    expect_boots(trial, uuid, starts + 1, "after rebuild()")


@check(REBUILD_003)
def volume_is_not_rebuilt(trial: Trial) -> None:
    spec = _from_volume(trial, start=False)
    trial.spawn(spec)
    with trial.unchanged(), trial.raises(errors.InvalidRequest):
        trial.driver.rebuild(spec.uuid, trial.target.image())


@check(REBUILD_004, cases=_FROM, needs=[Capability.IMAGE_HOST])
def absent_image_keeps_the_disk(trial: Trial, state: InstanceState) -> None:
    with _undisturbed(trial, state) as spec, trial.raises(errors.VolumeNotFound):
        trial.driver.rebuild(spec.uuid, HostImage(name="hvct-no-such-image"))


@check(REBUILD_004)
def hostile_image_keeps_the_disk(trial: Trial) -> None:
    images = trial.target.hostile_images()
    uuid = trial.spawn().uuid
    for why, image in images:
        with trial.unchanged(), trial.raises(errors.ImageRejected, errors.NotSupported) as caught:
            trial.driver.rebuild(uuid, image)
        trial.check(caught, why)


@check(REBUILD_004, needs=[Capability.IMAGE_QCOW2])
def too_large_image_keeps_the_disk(trial: Trial) -> None:
    folder = TemporaryDirectory(prefix="hvct-")
    trial.after(folder.cleanup)
    image = imagefiles.large(Path(folder.name), trial.target.flavor.disk_gib + 1)
    if trial.has(Capability.IMAGE_CACHE):
        trial.after(lambda: trial.driver.evict_image(image.cache_key() or ""))
    uuid = trial.spawn().uuid
    with trial.unchanged(), trial.raises(errors.ImageRejected):
        trial.driver.rebuild(uuid, image)
    expect_state(trial, uuid, RUNNING, "after rebuild() was refused")


@check(REBUILD_005)
def snapshots_keep_the_disk(trial: Trial) -> None:
    uuid = trial.spawn(start=False).uuid
    snapshot = trial.driver.create_snapshot(uuid, "hvct")
    with trial.unchanged(), trial.raises(errors.DeviceBusy):
        trial.driver.rebuild(uuid, trial.target.image())
    trial.driver.delete_snapshot(uuid, snapshot.id)
    trial.driver.rebuild(uuid, trial.target.image())
    expect_state(trial, uuid, STOPPED, "after rebuild() without snapshots")


@check(REBUILD_006, needs=[Capability.IMAGE_QCOW2])
def is_of_the_new_image(trial: Trial) -> None:
    folder = TemporaryDirectory(prefix="hvct-")
    trial.after(folder.cleanup)
    image = imagefiles.fresh(Path(folder.name), ImageFormat.QCOW2, checksum=True)
    if trial.has(Capability.IMAGE_CACHE):
        trial.after(lambda: trial.driver.evict_image(image.cache_key() or ""))
    before = trial.spawn(start=False)
    made = trial.spawn(start=False, image=image)
    trial.check(made.image != before.image, "instances of two images name the same one")
    trial.driver.rebuild(before.uuid, image)
    for driver in (trial.driver, trial.other):
        found = driver.get_instance(before.uuid).image
        trial.equal(found, made.image, "the image that is named after rebuild()")


def _rebuild_it(trial: Trial, uuid: UUID) -> None:
    trial.driver.rebuild(uuid, trial.target.image())


def _rescue_and_back(trial: Trial, uuid: UUID) -> None:
    trial.driver.rescue(uuid, trial.target.image())
    trial.driver.unrescue(uuid)


@check(
    cases=[
        Case("rebuild", (_rebuild_it,), REBUILD_001, needs=frozenset({Capability.HOST_VOLUMES})),
        Case("rescue", (_rescue_and_back,), RESCUE_002, frozenset({Capability.HOST_VOLUMES})),
    ],
)
def volumes_keep_their_data(trial: Trial, call: Callable[[Trial, UUID], None]) -> None:
    driver, target, volume = trial.driver, trial.target, trial.attachment()
    uuid = trial.spawn(volumes=(volume,)).uuid
    target.wait_booted(driver, uuid)
    target.write_disk(driver, uuid, "kept", volume.volume_id)
    call(trial, uuid)
    target.wait_booted(driver, uuid)
    found = list(target.written(driver, uuid, volume.volume_id))
    trial.equal(found, ["kept"], "what is on the volume")
