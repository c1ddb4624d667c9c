"""Clauses of ``contract/storage.py``: attach and detach.

The volumes are made by create_volume(): a driver without host volumes of its own cannot be tried.
Everything else about volumes is in ``volumes.py``.
"""

from __future__ import annotations

from uuid import UUID

from pydantic import SecretBytes

from hvdrivers.conformance.engine.clauses import Case, Level, check, clause
from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.image import ImageFormat
from hvdrivers.models.instance import InstanceInfo
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import (
    AttachedVolume,
    DiskBus,
    Volume,
    VolumeAttachment,
    VolumeEncryption,
)

STOR_001 = clause(
    "STOR-001",
    "attach_volume() gives the machine the volume at once, and what it returns is what every"
    " connection shows",
    operation="attach_volume",
)
STOR_002 = clause(
    "STOR-002", "an attached volume is there at every later start", operation="attach_volume"
)
STOR_003 = clause(
    "STOR-003",
    "attaching a volume that the instance has returns what is there and changes nothing",
    operation="attach_volume",
)
STOR_004 = clause(
    "STOR-004",
    "bus, read_only and boot_index of an attachment come back as they were asked for, or are"
    " refused with NotSupported",
    operation="attach_volume",
)
STOR_005 = clause(
    "STOR-005",
    "attach_volume() of a volume that the host cannot find raises VolumeNotFound and changes"
    " nothing",
    operation="attach_volume",
)
STOR_006 = clause(
    "STOR-006",
    "attach_volume() of a volume that a powered-on machine has raises DeviceBusy and changes"
    " nothing, unless it is multiattach; nor is a machine started with what another does not share",
    operation="attach_volume",
)
STOR_007 = clause(
    "STOR-007",
    "a volume that only a powered-off machine has can be attached to another",
    operation="attach_volume",
)
STOR_008 = clause(
    "STOR-008",
    "several machines have a multiattach volume at the same time, and each gives back its own",
    operation="attach_volume",
    needs=[Capability.MULTI_ATTACH],
)
STOR_009 = clause(
    "STOR-009",
    "attach_volume() to a machine without a free slot raises InsufficientResources and changes"
    " nothing",
    operation="attach_volume",
    level=Level.SHOULD,
)
STOR_010 = clause(
    "STOR-010",
    "detach_volume() takes the volume away, that one alone, at once and for every later start",
    operation="detach_volume",
)
STOR_011 = clause(
    "STOR-011",
    "after detach_volume() the volume is there with nothing of the attachment left, free to be"
    " used elsewhere",
    operation="detach_volume",
)
STOR_013 = clause(
    "STOR-013",
    "detach_volume() of a volume that this instance does not have succeeds and changes nothing,"
    " even if another instance has it",
    operation="detach_volume",
)
STOR_014 = clause(
    "STOR-014",
    "detach_volume() of the disk that the instance boots from raises InvalidRequest and changes"
    " nothing",
    operation="detach_volume",
    needs=[Capability.BOOT_FROM_VOLUME],
)
STOR_017 = clause(
    "STOR-017",
    "what a guest has written to a volume is there for the next machine that gets it",
    operation="detach_volume",
)

_MOST_DISKS = 48
_ON_AND_OFF = [
    Case("running", (InstanceState.RUNNING,)),
    Case("stopped", (InstanceState.STOPPED,)),
]


def expect_volume(trial: Trial, uuid: UUID, volume_id: str, there: bool, when: str) -> None:
    """A machine has a volume, once, or has it not: by two connections and by the observer."""
    for who, driver in (("this", trial.driver), ("another", trial.other)):
        found = [each.volume_id for each in driver.get_instance(uuid).volumes]
        trial.equal(
            found.count(volume_id), int(there), f"how often {who} connection shows it {when}"
        )
    if trial.observer is not None:
        trial.equal(volume_id in trial.observer.devices(uuid), there, f"whether it is seen {when}")


def shown_volume(info: InstanceInfo, volume_id: str) -> AttachedVolume | None:
    """A volume as get_instance() shows it."""
    return next((each for each in info.volumes if each.volume_id == volume_id), None)


def shareable(trial: Trial) -> Volume:
    """A volume that several machines may have: raw where the driver does that, as a format with
    tables of its own can have one writer only."""
    try:
        volume = trial.volume(format=ImageFormat.RAW)
    except errors.NotSupported:
        volume = trial.volume()
    return volume.model_copy(update={"multiattach": True})


@check(STOR_001, cases=_ON_AND_OFF)
def is_attached_at_once(trial: Trial, state: InstanceState) -> None:
    attachment = trial.attachment()
    uuid = trial.in_state(state)
    attached = trial.driver.attach_volume(uuid, attachment)
    trial.equal(attached.volume_id, attachment.volume_id, "volume_id that attach_volume() returned")
    expect_volume(trial, uuid, attachment.volume_id, True, "after attach_volume()")
    shown = shown_volume(trial.connect().get_instance(uuid), attachment.volume_id)
    trial.equal(shown, attached, "what another connection shows")
    if attached.size_bytes is not None:
        listed = {each.volume_id: each for each in trial.driver.list_volumes()}
        size = listed[attachment.volume_id].capacity_bytes
        trial.equal(attached.size_bytes, size, "the size that the machine sees")
    trial.equal(trial.state(uuid), state, "state after attach_volume()")


@check(STOR_002, cases=_ON_AND_OFF)
def is_there_at_the_next_start(trial: Trial, state: InstanceState) -> None:
    attachment = trial.attachment()
    uuid = trial.in_state(state)
    trial.driver.attach_volume(uuid, attachment)
    if state is InstanceState.RUNNING:
        trial.driver.power_off(uuid)
        expect_volume(trial, uuid, attachment.volume_id, True, "after power_off()")
    trial.driver.power_on(uuid)
    expect_volume(trial, uuid, attachment.volume_id, True, "after power_on()")


@check(STOR_003, cases=_ON_AND_OFF)
def again_returns_what_is_there(trial: Trial, state: InstanceState) -> None:
    attachment = trial.attachment()
    uuid = trial.in_state(state)
    first = trial.driver.attach_volume(uuid, attachment)
    other = attachment.model_copy(update={"read_only": True, "device": "vdk"})
    with trial.unchanged():
        trial.equal(trial.driver.attach_volume(uuid, attachment), first, "the second reply")
        again = trial.other.attach_volume(uuid, other)
        trial.equal(again, first, "the reply where other options were asked for")


@check(STOR_004)
def comes_back_as_asked(trial: Trial) -> None:
    volume = trial.volume()
    uuid = trial.in_state(InstanceState.STOPPED)
    asked: list[dict[str, object]] = [{"bus": bus} for bus in DiskBus]
    asked += [{"read_only": True}, {"read_only": False}, {"boot_index": 3}, {"boot_index": None}]
    for options in asked:
        attachment = VolumeAttachment.model_validate({"volume": volume, **options})
        before = trial.picture()
        try:
            attached = trial.driver.attach_volume(uuid, attachment)
        except errors.NotSupported:
            trial.equal(trial.picture(), before, f"the host after {options} was refused")
            continue
        shown = shown_volume(trial.driver.get_instance(uuid), volume.volume_id)
        for field, value in options.items():
            trial.equal(getattr(attached, field), value, f"{field} that attach_volume() returned")
            trial.equal(getattr(shown, field, None), value, f"{field} that get_instance() shows")
        trial.driver.detach_volume(uuid, volume.volume_id)


@check(STOR_005, cases=_ON_AND_OFF)
def absent_volume_is_refused(trial: Trial, state: InstanceState) -> None:
    attachment = trial.attachment()
    uuid = trial.in_state(state)
    trial.driver.delete_volume(attachment.volume_id)
    with trial.unchanged(), trial.raises(errors.VolumeNotFound):
        trial.driver.attach_volume(uuid, attachment)


@check(STOR_006)
def running_machine_keeps_it(trial: Trial) -> None:
    attachment = trial.attachment()
    owner = trial.spawn(volumes=(attachment,)).uuid
    other = trial.spawn(start=False).uuid
    with trial.unchanged(), trial.raises(errors.DeviceBusy):
        trial.other.attach_volume(other, attachment)
    expect_volume(trial, owner, attachment.volume_id, True, "after another wanted it")


@check(STOR_006, needs=[Capability.PAUSE])
def paused_machine_keeps_it(trial: Trial) -> None:
    attachment = trial.attachment()
    trial.in_state(InstanceState.PAUSED, volumes=(attachment,))
    other = trial.spawn(start=False).uuid
    with trial.unchanged(), trial.raises(errors.DeviceBusy):
        trial.driver.attach_volume(other, attachment)


@check(STOR_006, needs=[Capability.MULTI_ATTACH])
def is_not_shared_by_one_alone(trial: Trial) -> None:
    volume = shareable(trial)
    trial.spawn(volumes=(VolumeAttachment(volume=volume),))
    other = trial.spawn(start=False).uuid
    alone = VolumeAttachment(volume=volume.model_copy(update={"multiattach": False}))
    with trial.unchanged(), trial.raises(errors.DeviceBusy):
        trial.driver.attach_volume(other, alone)


@check(STOR_006, needs=[Capability.MULTI_ATTACH])
def one_alone_shares_with_nobody(trial: Trial) -> None:
    volume = shareable(trial)
    alone = VolumeAttachment(volume=volume.model_copy(update={"multiattach": False}))
    trial.spawn(volumes=(alone,))
    other = trial.spawn(start=False).uuid
    before = trial.picture()
    try:
        trial.driver.attach_volume(other, VolumeAttachment(volume=volume))
    except errors.DeviceBusy:
        trial.equal(trial.picture(), before, "the host after that was refused")
        return
    with trial.unchanged(), trial.raises(errors.DeviceBusy):
        trial.driver.power_on(other)


@check(STOR_007)
def powered_off_machine_does_not_hold_it(trial: Trial) -> None:
    attachment = trial.attachment()
    trial.spawn(volumes=(attachment,), start=False)
    other = trial.spawn(start=False).uuid
    trial.driver.attach_volume(other, attachment)
    expect_volume(trial, other, attachment.volume_id, True, "in the second machine")


@check(STOR_008)
def two_have_it(trial: Trial) -> None:
    attachment = VolumeAttachment(volume=shareable(trial))
    first = trial.spawn(volumes=(attachment,)).uuid
    second = trial.spawn(start=False).uuid
    trial.driver.attach_volume(second, attachment)
    for uuid in (first, second):
        expect_volume(trial, uuid, attachment.volume_id, True, "while two have it")
    trial.driver.detach_volume(second, attachment.volume_id)
    expect_volume(trial, second, attachment.volume_id, False, "after it was given back")
    expect_volume(trial, first, attachment.volume_id, True, "after the other gave it back")


@check(STOR_009)
def no_slot_is_left(trial: Trial) -> None:
    uuid = trial.spawn().uuid
    for number in range(_MOST_DISKS):
        attachment = VolumeAttachment(volume=trial.volume(1 << 20))
        before = trial.picture()
        try:
            trial.driver.attach_volume(uuid, attachment)
        except errors.InsufficientResources:
            trial.check(number > 0, "there was no slot for even one volume")
            trial.equal(trial.picture(), before, "the host after there was no slot")
            return
    raise PreconditionMissing(f"the machine takes more than {_MOST_DISKS} disks")


@check(STOR_010, cases=_ON_AND_OFF)
def is_taken_away(trial: Trial, state: InstanceState) -> None:
    going, staying = trial.attachment(), VolumeAttachment(volume=trial.volume())
    uuid = trial.in_state(state, volumes=(going, staying))
    if state is InstanceState.RUNNING:
        trial.target.wait_booted(trial.driver, uuid)
    trial.driver.detach_volume(uuid, going.volume_id)
    for when, step in (
        ("after detach_volume()", None),
        ("after power_off()", trial.driver.power_off),
        ("after power_on()", trial.driver.power_on),
    ):
        if step is not None:
            step(uuid)
        expect_volume(trial, uuid, going.volume_id, False, when)
        expect_volume(trial, uuid, staying.volume_id, True, when)


@check(STOR_011, cases=_ON_AND_OFF)
def leaves_no_trace(trial: Trial, state: InstanceState) -> None:
    attachment = trial.attachment()
    uuid = trial.in_state(state)
    if state is InstanceState.RUNNING:
        trial.target.wait_booted(trial.driver, uuid)
    other = trial.spawn(start=False).uuid
    with trial.unchanged():
        trial.driver.attach_volume(uuid, attachment)
        trial.driver.detach_volume(uuid, attachment.volume_id)
    trial.driver.attach_volume(other, attachment)
    expect_volume(trial, other, attachment.volume_id, True, "in the machine that gets it next")


@check(STOR_011, needs=[Capability.ENCRYPTED_VOLUME])
def leaves_no_secret(trial: Trial) -> None:
    attachment = VolumeAttachment(
        volume=trial.volume(),
        encryption=VolumeEncryption(provider="luks", secret=SecretBytes(b"hvct-passphrase")),
    )
    # not started: the volume is empty, so that nothing could open it with this passphrase
    uuid = trial.in_state(InstanceState.STOPPED)
    with trial.unchanged():
        trial.driver.attach_volume(uuid, attachment)
        trial.driver.detach_volume(uuid, attachment.volume_id)


@check(STOR_013, cases=_ON_AND_OFF)
def not_attached_is_a_success(trial: Trial, state: InstanceState) -> None:
    attachment = trial.attachment()
    uuid = trial.in_state(state, volumes=(attachment,))
    if state is InstanceState.RUNNING:
        trial.target.wait_booted(trial.driver, uuid)
    with trial.unchanged():
        trial.driver.detach_volume(uuid, "hvct-absent")
    trial.driver.detach_volume(uuid, attachment.volume_id)
    with trial.unchanged():
        trial.driver.detach_volume(uuid, attachment.volume_id)


@check(STOR_013)
def of_another_is_left_alone(trial: Trial) -> None:
    attachment = trial.attachment()
    owner = trial.spawn(volumes=(attachment,), start=False).uuid
    other = trial.spawn(start=False).uuid
    with trial.unchanged():
        trial.driver.detach_volume(other, attachment.volume_id)
    expect_volume(trial, owner, attachment.volume_id, True, "after another was told to detach it")


@check(STOR_014)
def boot_disk_stays(trial: Trial) -> None:
    root = VolumeAttachment(volume=trial.volume(), boot_index=0)
    uuid = trial.spawn(volumes=(root,), start=False).uuid
    with trial.unchanged(), trial.raises(errors.InvalidRequest):
        trial.driver.detach_volume(uuid, root.volume_id)


@check(STOR_017)
def data_goes_with_the_volume(trial: Trial) -> None:
    attachment = trial.attachment()
    target, volume_id = trial.target, attachment.volume_id
    first = trial.spawn(volumes=(attachment,)).uuid
    target.wait_booted(trial.driver, first)
    target.write_disk(trial.driver, first, "hvct first", volume_id)
    trial.driver.detach_volume(first, volume_id)
    second = trial.spawn(volumes=(attachment,)).uuid
    target.wait_booted(trial.driver, second)
    found = list(target.written(trial.driver, second, volume_id))
    trial.equal(found, ["hvct first"], "what the second machine finds on it")
    target.write_disk(trial.driver, second, "hvct second", volume_id)
    trial.driver.destroy(second)
    trial.driver.attach_volume(first, attachment)
    found = list(target.written(trial.driver, first, volume_id))
    trial.equal(found, ["hvct first", "hvct second"], "what is on it after destroy()")
