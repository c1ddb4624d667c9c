"""Clauses of ``contract/storage.py``: swap_volume()."""

from __future__ import annotations

from hvdrivers.conformance.checks.storage import expect_volume, shown_volume
from hvdrivers.conformance.engine.clauses import check, clause
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import VolumeAttachment

_SIZE = 64 << 20

STOR_030 = clause(
    "STOR-030",
    "swap_volume() puts the replacement into the old volume's place while the guest runs, and"
    " gives the old one back",
    operation="swap_volume",
)
STOR_031 = clause(
    "STOR-031",
    "swap_volume() of a volume that is not attached, as when it is repeated, raises VolumeNotFound"
    " and changes nothing",
    operation="swap_volume",
)
STOR_032 = clause(
    "STOR-032",
    "swap_volume() to a smaller volume raises InvalidRequest, and the guest keeps the old one",
    operation="swap_volume",
)
STOR_033 = clause(
    "STOR-033",
    "after swap_volume() the guest finds its data on the replacement, and writes to that alone",
    operation="swap_volume",
)
STOR_034 = clause(
    "STOR-034",
    "swap_volume() to a volume that the instance has already raises InvalidRequest, to one that"
    " another powered-on machine has DeviceBusy, and nothing changes",
    operation="swap_volume",
)
STOR_035 = clause(
    "STOR-035",
    "swap_volume() of a PAUSED machine replaces the volume and leaves it PAUSED",
    operation="swap_volume",
    needs=[Capability.HOST_VOLUMES, Capability.PAUSE],
)


@check(STOR_035)
def swaps_what_stands_still(trial: Trial) -> None:
    old, new = trial.attachment(), VolumeAttachment(volume=trial.volume())
    uuid = trial.in_state(InstanceState.PAUSED, volumes=(old,))
    trial.driver.swap_volume(uuid, old.volume_id, new)
    trial.equal(trial.state(uuid), InstanceState.PAUSED, "state after swap_volume()")
    expect_volume(trial, uuid, new.volume_id, True, "after swap_volume()")
    expect_volume(trial, uuid, old.volume_id, False, "after swap_volume()")
    trial.driver.delete_volume(old.volume_id)  # DeviceBusy if it was not given back


@check(STOR_030)
def takes_the_old_ones_place(trial: Trial) -> None:
    old, new = trial.attachment(), VolumeAttachment(volume=trial.volume())
    neighbour = VolumeAttachment(volume=trial.volume())
    uuid = trial.spawn(volumes=(old, neighbour)).uuid
    before = shown_volume(trial.driver.get_instance(uuid), old.volume_id)
    swapped = trial.driver.swap_volume(uuid, old.volume_id, new)
    trial.equal(swapped.volume_id, new.volume_id, "volume_id that swap_volume() returned")
    expect_volume(trial, uuid, new.volume_id, True, "after swap_volume()")
    expect_volume(trial, uuid, old.volume_id, False, "after swap_volume()")
    expect_volume(trial, uuid, neighbour.volume_id, True, "beside what was swapped")
    after = shown_volume(trial.other.get_instance(uuid), new.volume_id)
    trial.equal(after, swapped, "what another connection shows")
    for field in ("device", "bus", "address"):
        trial.equal(getattr(after, field), getattr(before, field), f"{field}, which the guest sees")
    trial.equal(trial.state(uuid), InstanceState.RUNNING, "state after swap_volume()")
    trial.driver.delete_volume(old.volume_id)  # DeviceBusy if it was not given back
    with trial.unchanged(), trial.raises(errors.DeviceBusy):
        trial.driver.delete_volume(new.volume_id)


@check(STOR_030)
def replacement_is_there_at_the_next_start(trial: Trial) -> None:
    old, new = trial.attachment(), VolumeAttachment(volume=trial.volume())
    uuid = trial.spawn(volumes=(old,)).uuid
    trial.driver.swap_volume(uuid, old.volume_id, new)
    trial.driver.power_off(uuid)
    trial.driver.power_on(uuid)
    expect_volume(trial, uuid, new.volume_id, True, "at the next start")
    expect_volume(trial, uuid, old.volume_id, False, "at the next start")


@check(STOR_030, needs=[Capability.BOOT_FROM_VOLUME])
def replacement_boots(trial: Trial) -> None:
    old = VolumeAttachment(volume=trial.volume(), boot_index=0)
    new = VolumeAttachment(volume=trial.volume())
    uuid = trial.spawn(volumes=(old,)).uuid
    trial.driver.swap_volume(uuid, old.volume_id, new)
    shown = shown_volume(trial.other.get_instance(uuid), new.volume_id)
    trial.equal(shown and shown.boot_index, 0, "boot_index of what the machine boots from now")


@check(STOR_031)
def repeated_swap_is_refused(trial: Trial) -> None:
    old, new = trial.attachment(), VolumeAttachment(volume=trial.volume())
    uuid = trial.spawn(volumes=(old,)).uuid
    with trial.unchanged(), trial.raises(errors.VolumeNotFound):
        trial.driver.swap_volume(uuid, "hvct-absent", new)
    trial.driver.swap_volume(uuid, old.volume_id, new)
    with trial.unchanged(), trial.raises(errors.VolumeNotFound):
        trial.driver.swap_volume(uuid, old.volume_id, new)


@check(STOR_032)
def smaller_is_refused(trial: Trial) -> None:
    old, small = trial.attachment(), VolumeAttachment(volume=trial.volume(_SIZE // 2))
    uuid = trial.spawn(volumes=(old,)).uuid
    with trial.unchanged(), trial.raises(errors.InvalidRequest):
        trial.driver.swap_volume(uuid, old.volume_id, small)
    expect_volume(trial, uuid, old.volume_id, True, "after a swap that was refused")
    trial.driver.delete_volume(small.volume_id)  # DeviceBusy if the machine has a hold on it


@check(STOR_034)
def taken_replacement_is_refused(trial: Trial) -> None:
    old, own, others = (VolumeAttachment(volume=trial.volume()) for _ in range(3))
    uuid = trial.spawn(volumes=(old, own)).uuid
    trial.spawn(volumes=(others,))
    for replacement, error in ((own, errors.InvalidRequest), (others, errors.DeviceBusy)):
        with trial.unchanged(), trial.raises(error):
            trial.driver.swap_volume(uuid, old.volume_id, replacement)
    for each in (old, own):
        expect_volume(trial, uuid, each.volume_id, True, "after swaps that were refused")


@check(STOR_033)
def data_is_copied(trial: Trial) -> None:
    old, new = trial.attachment(), VolumeAttachment(volume=trial.volume())
    target = trial.target
    uuid = trial.spawn(volumes=(old,)).uuid
    target.wait_booted(trial.driver, uuid)
    target.write_disk(trial.driver, uuid, "hvct before", old.volume_id)
    trial.driver.swap_volume(uuid, old.volume_id, new)
    found = list(target.written(trial.driver, uuid, new.volume_id))
    trial.equal(found, ["hvct before"], "what the guest finds on the replacement")
    target.write_disk(trial.driver, uuid, "hvct after", new.volume_id)
    trial.driver.attach_volume(uuid, old)
    found = list(target.written(trial.driver, uuid, old.volume_id))
    trial.equal(found, ["hvct before"], "what is on the old volume")
    found = list(target.written(trial.driver, uuid, new.volume_id))
    trial.equal(found, ["hvct before", "hvct after"], "what is on the replacement")
