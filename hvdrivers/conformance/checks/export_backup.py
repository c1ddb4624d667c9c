"""Clauses of ``contract/snapshots.py`` that are not the tree: images out of instances, backups."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID

from hvdrivers.conformance.engine.assertions import booted, expect_no_boot
from hvdrivers.conformance.engine.clauses import Case, check, clause
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.images.inspect import inspect_image
from hvdrivers.models.image import FileImage, ImageFormat
from hvdrivers.models.progress import Progress
from hvdrivers.models.snapshot import Backup, ChangedExtent
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import VolumeAttachment

COPY_001 = clause(
    "COPY-001",
    "snapshot_to_image() writes an image of the format asked for that stands alone, and describes"
    " it; or raises NotSupported",
    operation="snapshot_to_image",
)
COPY_002 = clause(
    "COPY-002",
    "snapshot_to_image() onto a file that exists, or where none can be written, raises"
    " InvalidRequest and writes nothing",
    operation="snapshot_to_image",
)
COPY_003 = clause(
    "COPY-003",
    "after a snapshot_to_image() that failed there is no file",
    operation="snapshot_to_image",
)
COPY_004 = clause(
    "COPY-004",
    "snapshot_to_image() changes nothing: a running machine runs on",
    operation="snapshot_to_image",
)
COPY_005 = clause(
    "COPY-005", "an instance can be spawned from the image", operation="snapshot_to_image"
)
COPY_006 = clause(
    "COPY-006",
    "snapshot_to_image() of a SUSPENDED machine writes its root disk, and leaves it SUSPENDED: it"
    " goes on where it was",
    operation="snapshot_to_image",
    needs=[Capability.SUSPEND],
)
COPY_007 = clause(
    "COPY-007",
    "snapshot_to_image() of an instance that boots from a volume raises InvalidRequest, as there is"
    " no root disk, and writes nothing",
    operation="snapshot_to_image",
    needs=[Capability.HOST_VOLUMES, Capability.BOOT_FROM_VOLUME],
)
BACK_001 = clause(
    "BACK-001",
    "begin_backup() without since= is full: it covers the root disk, and its extents lie in it",
    operation="begin_backup",
)
BACK_002 = clause(
    "BACK-002",
    "begin_backup() while one is open raises DeviceBusy, and the open one stays open",
    operation="begin_backup",
)
BACK_003 = clause(
    "BACK-003",
    "begin_backup() with since= has what was written since then, and not what was there before",
    operation="begin_backup",
)
BACK_004 = clause(
    "BACK-004",
    "begin_backup() since a point that is not there raises VolumeNotFound and opens nothing",
    operation="begin_backup",
)
BACK_005 = clause(
    "BACK-005",
    "end_backup() closes it, by its id or whatever is open; closing what is closed succeeds",
    operation="end_backup",
)
BACK_006 = clause(
    "BACK-006",
    "begin_backup() since a point before a revert or a rebuild has what that changed, or raises"
    " VolumeNotFound",
    operation="begin_backup",
)


@contextmanager
def _folder() -> Iterator[Path]:
    with TemporaryDirectory(prefix="hvct-") as name:
        yield Path(name)


@check(COPY_001, cases=[Case(each.value, (each,)) for each in ImageFormat])
def stands_alone(trial: Trial, format_: ImageFormat) -> None:
    uuid = trial.spawn(start=False).uuid
    with _folder() as folder:
        target = folder / "image"
        try:
            info = trial.driver.snapshot_to_image(uuid, target, format_)
        except errors.NotSupported:
            trial.check(not target.exists(), "a file was written in spite of NotSupported")
            return
        length = target.stat().st_size
        if format_ is ImageFormat.RAW:
            size = length  # whatever is in it; reading all of it would take its time
        else:
            # refuses backing files, and what is damaged
            size = inspect_image(target, format_).virtual_size_bytes
        trial.equal(info.format, format_, "format in the description")
        sizes = (info.virtual_size_bytes, info.file_size_bytes)
        trial.equal(sizes, (size, length), "sizes in the description")
        least = trial.target.flavor.disk_gib << 30
        trial.check(size >= least, "the image is smaller than the disk")
        trial.equal(sorted(each.name for each in folder.iterdir()), ["image"], "what was written")


@check(COPY_006)
def copies_what_is_suspended(trial: Trial) -> None:
    uuid = trial.spawn().uuid
    starts = booted(trial, uuid)
    trial.driver.suspend(uuid)
    with _folder() as folder, trial.unchanged():
        info = trial.driver.snapshot_to_image(uuid, folder / "image")
        size = inspect_image(folder / "image", info.format).virtual_size_bytes
        least = trial.target.flavor.disk_gib << 30
        trial.check(size >= least, "the image is smaller than the disk")
    trial.driver.resume(uuid)
    expect_no_boot(trial, uuid, starts, "after the copy and resume()")


@check(COPY_002)
def writes_over_nothing(trial: Trial) -> None:
    uuid = trial.spawn(start=False).uuid
    with _folder() as folder:
        taken = folder / "taken"
        taken.write_bytes(b"mine")
        for target in (taken, folder / "no" / "folder"):
            with trial.unchanged(), trial.raises(errors.InvalidRequest):
                trial.driver.snapshot_to_image(uuid, target)
        trial.equal(taken.read_bytes(), b"mine", "content of a file that existed")
        trial.equal(sorted(each.name for each in folder.iterdir()), ["taken"], "what is there")


class _Enough(Exception):
    pass


@check(COPY_007)
def copies_no_volume(trial: Trial) -> None:
    boots = VolumeAttachment(volume=trial.volume(1 << 30), boot_index=0)
    uuid = trial.spawn(trial.spec(volumes=(boots,), start=False)).uuid
    with _folder() as folder, trial.unchanged():
        with trial.raises(errors.InvalidRequest):
            trial.driver.snapshot_to_image(uuid, folder / "image")
        trial.equal(list(folder.iterdir()), [], "what was written")


@check(COPY_003)
def failure_leaves_no_file(trial: Trial) -> None:
    uuid = trial.spawn(start=False).uuid

    def stop(_progress: Progress) -> None:
        raise _Enough

    with _folder() as folder:
        try:
            trial.driver.snapshot_to_image(uuid, folder / "image", progress=stop)
        except _Enough:
            trial.check(True, "the callback's exception came back")
        trial.equal(list(folder.iterdir()), [], "what a callback that raised has left")
        with trial.raises(errors.InstanceNotFound):
            trial.driver.destroy(uuid)
            trial.driver.snapshot_to_image(uuid, folder / "image")
        trial.equal(list(folder.iterdir()), [], "what is left of an instance that is not there")


@check(COPY_004)
def runs_on(trial: Trial) -> None:
    uuid = trial.spawn().uuid
    with _folder() as folder, trial.unchanged():
        trial.driver.snapshot_to_image(uuid, folder / "image")
    trial.equal(trial.state(uuid), InstanceState.RUNNING, "state")


@check(COPY_005)
def makes_another(trial: Trial) -> None:
    uuid = trial.spawn(start=False).uuid
    with _folder() as folder:
        target = folder / "image.qcow2"
        trial.driver.snapshot_to_image(uuid, target)
        image = FileImage(path=target, format=ImageFormat.QCOW2)
        made = trial.spawn(image=image, start=False)
        trial.equal(made.state, InstanceState.STOPPED, "an instance made from the image")


def _ended(trial: Trial, uuid: UUID, since: str | None = None) -> Backup:
    backup = trial.driver.begin_backup(uuid, since=since)
    trial.driver.end_backup(uuid, backup.id)
    return backup


def _booted(trial: Trial) -> UUID:
    uuid = trial.spawn().uuid
    trial.target.wait_booted(trial.driver, uuid)
    return uuid


def _covered(backup: Backup) -> set[tuple[str, int, int]]:
    return {(each.disk, each.offset, each.length) for each in backup.extents if not each.zero}


def _outside(backup: Backup, other: Backup) -> int:
    """Bytes that the first covers and the second does not, however they cut them into ranges."""
    left = 0
    for disk, offset, length in _covered(backup):
        at, end = offset, offset + length
        for _, begin, size in sorted(each for each in _covered(other) if each[0] == disk):
            if begin + size > at and begin < end:
                left += max(begin - at, 0)
                at = begin + size
        left += max(end - at, 0)
    return left


@check(BACK_001)
def full(trial: Trial) -> None:
    uuid = _booted(trial)
    backup = trial.driver.begin_backup(uuid)
    trial.after(lambda: trial.driver.end_backup(uuid))
    trial.equal(backup.since, None, "since, of a full backup")
    trial.check("root" in backup.disks, f"the root disk is not covered: {backup.disks}")
    trial.check(any(each.disk == "root" for each in backup.extents), "the root disk is empty")
    for each in backup.extents:
        trial.check(_sane(each, backup), f"an extent that cannot be: {each}")
    trial.equal(trial.state(uuid), InstanceState.RUNNING, "state while a backup is open")


def _sane(extent: ChangedExtent, backup: Backup) -> bool:
    return extent.disk in backup.disks and extent.offset >= 0 and extent.length > 0


@check(BACK_002)
def one_at_a_time(trial: Trial) -> None:
    uuid = _booted(trial)
    backup = trial.driver.begin_backup(uuid)
    for since in (None, backup.id):
        with trial.unchanged(), trial.raises(errors.DeviceBusy):
            trial.driver.begin_backup(uuid, since=since)
    trial.driver.end_backup(uuid, backup.id)
    trial.driver.end_backup(uuid, trial.driver.begin_backup(uuid).id)


@check(BACK_003)
def only_what_changed(trial: Trial) -> None:
    driver, target = trial.driver, trial.target
    uuid = _booted(trial)
    target.write_disk(driver, uuid, "one")
    whole = _ended(trial, uuid)
    target.write_disk(driver, uuid, "two")
    second = _ended(trial, uuid, whole.id)
    trial.equal(second.since, whole.id, "since")
    trial.check(second.id != whole.id, "two backups have the same id")
    trial.check(_covered(second), "what was written since then is not in it")
    size = sum(length for _, _, length in _covered(second))
    trial.check(
        size < sum(length for _, _, length in _covered(whole)), "it is as large as a full one"
    )
    # the earlier point stays valid, and has both
    third = _ended(trial, uuid, whole.id)
    trial.check(_outside(second, third) == 0, "what changed since the first is not all of it")
    if not target.guests_run:
        trial.equal(_covered(_ended(trial, uuid, third.id)), set(), "changes of a silent guest")


@check(BACK_004)
def point_is_not_there(trial: Trial) -> None:
    uuid = _booted(trial)
    with trial.unchanged(), trial.raises(errors.VolumeNotFound):
        trial.driver.begin_backup(uuid, since="hvct-absent")
    _ended(trial, uuid)


@check(BACK_005)
def closes_it(trial: Trial) -> None:
    uuid = _booted(trial)
    with trial.unchanged():
        trial.driver.end_backup(uuid)
    first = trial.driver.begin_backup(uuid)
    trial.driver.end_backup(uuid)
    second = trial.driver.begin_backup(uuid, since=first.id)
    trial.driver.end_backup(uuid, first.id)
    with trial.raises(errors.DeviceBusy):
        trial.driver.begin_backup(uuid)  # the second is still open
    trial.driver.end_backup(uuid, second.id)
    trial.driver.end_backup(uuid, second.id)
    _ended(trial, uuid, second.id)


def _revert(trial: Trial, uuid: UUID) -> None:
    trial.driver.revert_snapshot(uuid, trial.notes["snapshot"])
    trial.driver.power_on(uuid)


def _rebuild(trial: Trial, uuid: UUID) -> None:
    trial.driver.rebuild(uuid, trial.target.image())


@check(
    BACK_006,
    cases=[
        Case("revert", (_revert,), needs=frozenset({Capability.SNAPSHOTS})),
        Case("rebuild", (_rebuild,), needs=frozenset({Capability.REBUILD})),
    ],
)
def disk_is_another(trial: Trial, replace_disk: Callable[[Trial, UUID], None]) -> None:
    uuid = _booted(trial)
    if replace_disk is _revert:
        trial.notes["snapshot"] = trial.driver.create_snapshot(uuid, "hvct").id
    trial.target.write_disk(trial.driver, uuid, "one")
    before = _ended(trial, uuid)
    replace_disk(trial, uuid)
    trial.target.wait_booted(trial.driver, uuid)
    try:
        since = _ended(trial, uuid, before.id)
    except errors.VolumeNotFound:
        trial.check(True, "the point is not there any more, and it says so")
    else:
        trial.check(_covered(since), "a disk with other content has no changes")


@check(COPY_005)
def has_what_was_written(trial: Trial) -> None:
    uuid = _booted(trial)
    trial.target.write_disk(trial.driver, uuid, "one")
    trial.driver.power_off(uuid)
    with _folder() as folder:
        target = folder / "image.qcow2"
        trial.driver.snapshot_to_image(uuid, target)
        image = FileImage(path=target, format=ImageFormat.QCOW2)
        other = trial.spawn(image=image, start=False).uuid
        trial.check(trial.target.on_disk(trial.driver, other, "one"), "it is an older image")


@check(BACK_005)
def closes_what_a_stop_has_left(trial: Trial) -> None:
    uuid = _booted(trial)
    first = trial.driver.begin_backup(uuid)
    trial.driver.power_off(uuid)
    for backup_id in (None, first.id):  # a stop may have closed it
        trial.driver.end_backup(uuid, backup_id)
    trial.equal(trial.state(uuid), InstanceState.STOPPED, "state after end_backup()")
    trial.driver.power_on(uuid)
    trial.target.wait_booted(trial.driver, uuid)
    _ended(trial, uuid)
