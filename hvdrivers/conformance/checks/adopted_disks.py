"""Clauses about the disks of an adopted machine (``contract/lifecycle.py``): what it boots from,
how large that is, what is copied of it, and what destroy() leaves."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID

from hvdrivers.conformance.checks.adopted import (
    adopted_clause,
    adopted_machine,
    expect_as_before,
    is_done,
)
from hvdrivers.conformance.engine.assertions import expect_only_state, larger
from hvdrivers.conformance.engine.clauses import Case, check, clause
from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.conformance.engine.target import FOREIGN_TEXT
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.disk import DiskRole, OwnDisk
from hvdrivers.models.image import FileImage, ImageFormat
from hvdrivers.models.instance import InstanceSpec, Keep
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import HostVolume, VolumeAttachment

RUNNING, STOPPED, RESCUED = InstanceState.RUNNING, InstanceState.STOPPED, InstanceState.RESCUED

ADOPT_012 = adopted_clause(
    "012",
    "rescue() of an adopted machine boots the image that is named, and unrescue() its own disk,"
    " which is as it was; nothing else of the machine changes, and nothing of the rescue is left",
    Capability.RESCUE,
)
ADOPT_013 = clause(
    "ADOPT-013",
    "rescue() without an image of an adopted machine whose disk is based on none raises"
    " InvalidRequest with a hint, and changes nothing",
    operation="adopt",
    needs=[Capability.RESCUE],
)
ADOPT_014 = adopted_clause(
    "014",
    "rebuild() replaces the root disk of an adopted machine by a fresh one from the image, which"
    " get_instance() names then; nothing else of the machine changes, and destroy() leaves neither"
    " disk",
    Capability.REBUILD,
)
ADOPT_015 = adopted_clause(
    "015",
    "destroy(keep=) of an adopted machine leaves its root disk as a host volume named <uuid>-root,"
    " with what is on it, and nothing else of the machine",
    Capability.HOST_VOLUMES,
)
ADOPT_016 = adopted_clause(
    "016",
    "resize() gives an adopted machine the root disk of the flavor, with what is on it; to a"
    " smaller one it raises InvalidRequest and changes nothing",
    Capability.RESIZE,
)
ADOPT_017 = adopted_clause(
    "017",
    "snapshot_to_image() of an adopted machine writes an image of its root disk, from which an"
    " instance can be spawned, and the machine stays as it is",
    Capability.SNAPSHOT_TO_IMAGE,
)
ADOPT_018 = adopted_clause(
    "018",
    "an adopted machine that is RUNNING has snapshots with its memory: reverting to one makes it"
    " RUNNING again, and it stays an instance of ours",
    Capability.SNAPSHOTS,
    Capability.SNAPSHOT_MEMORY,
)
_FROM = [Case("running", (RUNNING,)), Case("stopped", (STOPPED,))]


def _has_its_text(trial: Trial, uuid: UUID) -> bool:
    return trial.target.on_disk(trial.driver, uuid, FOREIGN_TEXT)


def _need_its_text(trial: Trial, uuid: UUID) -> None:
    if not _has_its_text(trial, uuid):
        raise PreconditionMissing("the target's foreign machine has no disk with FOREIGN_TEXT")


def _sizes(trial: Trial, uuid: UUID) -> list[int]:
    if trial.observer is None:
        raise PreconditionMissing("no observer")
    return sorted(trial.observer.own_disks(uuid))


def _things(trial: Trial, uuid: UUID) -> int | None:
    """How many things of the machine are on the host; None if nobody can tell."""
    if trial.observer is None:
        return None
    return sum(uuid.hex in line.replace("-", "") for line in trial.observer.residue())


@check(ADOPT_012, cases=_FROM)
def is_rescued(trial: Trial, state: InstanceState) -> None:
    with adopted_machine(trial, on=state is RUNNING) as info:
        uuid, driver = info.uuid, trial.driver
        _need_its_text(trial, uuid)
        things = _things(trial, uuid)
        if not is_done(trial, lambda: driver.rescue(uuid, trial.target.image())):
            return
        expect_only_state(trial, info, RESCUED, "after rescue()")
        trial.check(_has_its_text(trial, uuid), "rescue() has changed its disk")
        driver.unrescue(uuid)
        expect_only_state(trial, info, RUNNING, "after unrescue()")
        trial.check(_has_its_text(trial, uuid), "unrescue() has changed its disk")
        if state is STOPPED:
            driver.power_off(uuid)
        trial.equal(_things(trial, uuid), things, "what there is of it after the rescue")
        expect_as_before(trial, info)


@check(ADOPT_013, cases=_FROM)
def needs_an_image(trial: Trial, state: InstanceState) -> None:
    with (
        adopted_machine(trial, on=state is RUNNING) as info,
        trial.unchanged(),
        trial.raises(errors.InvalidRequest) as caught,
    ):
        trial.driver.rescue(info.uuid)
    trial.check(all(each.hint for each in caught), f"a refusal without a hint: {caught}")


@check(ADOPT_014, cases=_FROM)
def gets_a_fresh_disk(trial: Trial, state: InstanceState) -> None:
    before = trial.picture()
    with adopted_machine(trial, on=state is RUNNING) as info:
        uuid, driver = info.uuid, trial.driver
        _need_its_text(trial, uuid)
        count = len(_sizes(trial, uuid))
        if is_done(trial, lambda: driver.rebuild(uuid, trial.target.image())):
            image = driver.get_instance(uuid).image
            trial.check(image is not None, "get_instance() names no image after rebuild()")
            now = info.model_copy(update={"image": image})
            expect_only_state(trial, now, state, "after rebuild()")
            trial.check(not _has_its_text(trial, uuid), "the old disk is still there")
            trial.equal(len(_sizes(trial, uuid)), count, "disks of the machine after rebuild()")
            expect_as_before(trial, now)
    trial.equal(trial.picture(), before, "the host after rebuild() and destroy()")


@check(ADOPT_014)
def is_rescued_from_the_new_image(trial: Trial) -> None:
    with adopted_machine(trial) as info:
        uuid, driver = info.uuid, trial.driver
        if is_done(trial, lambda: driver.rebuild(uuid, trial.target.image())):
            now = driver.get_instance(uuid)
            driver.rescue(uuid)
            expect_only_state(trial, now, RESCUED, "after rebuild() and rescue()")


@check(ADOPT_015, cases=_FROM)
def leaves_its_disk(trial: Trial, state: InstanceState) -> None:
    before = trial.picture()
    with adopted_machine(trial, on=state is RUNNING) as info:
        uuid, driver = info.uuid, trial.driver
        _need_its_text(trial, uuid)
        trial.will_keep(uuid)
        keep = frozenset({Keep.ROOT_DISK})
        if is_done(trial, lambda: driver.destroy(uuid, keep=keep)):
            for machines in (driver.list_instances(), trial.other.list_foreign()):
                ids = {each.uuid for each in machines}
                trial.check(uuid not in ids, "the machine is there after destroy(keep=)")
            found = trial.kept(uuid)
            trial.equal(len(found), 1, f"host volumes named {uuid}-root")
            trial.check(_is_on(trial, found[0]), "what was on the disk is not on the volume")
            for each in trial.kept(uuid):
                driver.delete_volume(each.volume_id)
    trial.equal(trial.picture(), before, "the host after the kept disk is gone")


def _is_on(trial: Trial, volume: HostVolume) -> bool:
    """Whether the volume has the text of the foreign machine's disk."""
    takes = trial.driver.takes
    if "disks" in takes.get(InstanceSpec, ()) and "kept" in takes.get(OwnDisk, ()):
        root = OwnDisk(role=DiskRole.ROOT, kept=volume.volume_id)
        made = trial.spawn(start=False, image=None, disks=(root,))
    elif trial.has(Capability.BOOT_FROM_VOLUME):
        boots = VolumeAttachment(volume=volume.to_volume(), boot_index=0)
        made = trial.spawn(start=False, volumes=(boots,))
    else:
        raise PreconditionMissing("the driver makes no machine of a volume, to look at it")
    found = _has_its_text(trial, made.uuid)
    trial.driver.destroy(made.uuid)
    return found


@check(ADOPT_016)
def gets_a_larger_disk(trial: Trial) -> None:
    with adopted_machine(trial) as info:
        uuid, driver = info.uuid, trial.driver
        _need_its_text(trial, uuid)
        wanted = larger(info.flavor, disk_gib=3)
        if not is_done(trial, lambda: driver.resize(uuid, wanted)):
            return
        trial.equal(trial.other.get_instance(uuid).flavor.disk_gib, 3, "disk_gib after resize()")
        trial.equal(_sizes(trial, uuid), [3 << 30], "sizes of the disks in bytes")
        trial.check(_has_its_text(trial, uuid), "what was on the disk is lost")
        with trial.unchanged(), trial.raises(errors.InvalidRequest):
            driver.resize(uuid, larger(wanted, disk_gib=2))
        trial.equal(_sizes(trial, uuid), [3 << 30], "sizes after a resize() that was refused")


@check(ADOPT_017, cases=_FROM)
def is_copied(trial: Trial, state: InstanceState) -> None:
    with (
        adopted_machine(trial, on=state is RUNNING) as info,
        TemporaryDirectory(prefix="hvct-") as folder,
    ):
        uuid, driver, target = info.uuid, trial.driver, Path(folder) / "image.qcow2"
        _need_its_text(trial, uuid)
        with trial.unchanged():
            done = is_done(trial, lambda: driver.snapshot_to_image(uuid, target))
        trial.equal(target.exists(), done, "whether a file was written")
        expect_as_before(trial, info)
        if done:
            image = FileImage(path=target, format=ImageFormat.QCOW2)
            made = trial.spawn(start=False, image=image).uuid
            trial.check(_has_its_text(trial, made), "the image has not what is on the disk")


@check(ADOPT_018)
def goes_back_with_its_memory(trial: Trial) -> None:
    with adopted_machine(trial, on=True) as info:
        uuid, driver = info.uuid, trial.driver
        _need_its_text(trial, uuid)
        if not is_done(trial, lambda: driver.create_snapshot(uuid, "one", memory=True)):
            return
        expect_as_before(trial, info)
        (made,) = trial.other.list_snapshots(uuid)
        trial.equal((made.name, made.with_memory), ("one", True), "its snapshot")
        driver.power_off(uuid)
        driver.revert_snapshot(uuid, made.id)
        expect_as_before(trial, info)
        trial.check(_has_its_text(trial, uuid), "what was on the disk is lost")
        driver.delete_snapshot(uuid, made.id)
        trial.equal(list(driver.list_snapshots(uuid)), [], "its snapshots after the only one went")
        expect_as_before(trial, info)
