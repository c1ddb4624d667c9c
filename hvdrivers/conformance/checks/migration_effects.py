"""Clauses of ``contract/migration.py``: what moves along, and what a failure leaves. The rest is in
``migration.py``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from uuid import UUID

from pydantic import SecretBytes

from hvdrivers.conformance.checks.migration import (
    MIGR_004,
    MIGR_012,
    Elsewhere,
    firmware,
    has,
    movable,
)
from hvdrivers.conformance.engine.assertions import booted, expect_state, some_slice
from hvdrivers.conformance.engine.clauses import Case, check, clause
from hvdrivers.conformance.engine.cutting import named, striking
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.migration import BlockerKind
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import VolumeAttachment, VolumeEncryption

MIGR_015 = clause(
    "MIGR-015",
    "cold_migrate() that is cut before it is done leaves the instance at the source and nothing at"
    " the destination",
    operation="cold_migrate",
)
MIGR_016 = clause(
    "MIGR-016",
    "a machine with a volume, or with a device of the host, moves with it and can be started there;"
    " or check_live_migration() lists that as a reason, and live_migrate() refuses it",
    operation="check_live_migration",
)
MIGR_017 = clause(
    "MIGR-017",
    "the host that an instance is on already is a blocker of kind STATE, the only one, and"
    " live_migrate() to it raises InvalidRequest and changes nothing",
    operation="check_live_migration",
)
MIGR_018 = clause(
    "MIGR-018",
    "cold_migrate() to the host that the instance is on already raises InvalidRequest and changes"
    " nothing",
    operation="cold_migrate",
)
MIGR_029 = clause(
    "MIGR-029",
    "a machine that moves takes nothing of the host's other machines along: what those have, the"
    " secret of an encrypted volume too, is there, and they start with it",
    operation="cold_migrate",
)
TAG = "hvct"


@check(MIGR_004)
def guest_notices_no_move(trial: Trial) -> None:
    there = Elsewhere(trial)
    uuid = movable(trial)
    there.expect(uuid)
    starts = booted(trial, uuid)
    trial.target.write_disk(trial.driver, uuid, "before")
    trial.driver.live_migrate(uuid, there.destination)
    trial.equal(trial.target.boots(there.driver, uuid), starts, "starts of the guest")
    found = list(trial.target.written(there.driver, uuid))
    trial.equal(found, ["before"], "what the guest finds on its disk at the destination")


@check(MIGR_012)
def data_moves_along(trial: Trial) -> None:
    there = Elsewhere(trial)
    uuid = movable(trial)
    there.expect(uuid)
    trial.target.wait_booted(trial.driver, uuid)
    trial.target.write_disk(trial.driver, uuid, "before")
    trial.driver.power_off(uuid)
    trial.driver.cold_migrate(uuid, there.destination)
    trial.check(trial.target.on_disk(there.driver, uuid, "before"), "lost by cold_migrate()")


@check(MIGR_012, needs=[Capability.SNAPSHOTS])
def snapshots_move_along(trial: Trial) -> None:
    there = Elsewhere(trial)
    uuid = movable(trial, start=False)
    there.expect(uuid)
    trial.driver.create_snapshot(uuid, "hvct")
    before, tree = trial.picture(), trial.driver.list_snapshots(uuid)
    try:
        trial.driver.cold_migrate(uuid, there.destination)
    except errors.InvalidRequest:
        trial.equal(trial.picture(), before, "the source, where snapshots are in the way")
    else:
        trial.equal(there.driver.list_snapshots(uuid), tree, "snapshots at the destination")


@check(MIGR_015)
def cut_keeps_it_here(trial: Trial) -> None:
    seam = trial.faults
    there = Elsewhere(trial)
    uuid = movable(trial, start=False)
    there.expect(uuid)
    before = there.picture()
    twin = movable(trial, start=False)
    there.expect(twin)
    with seam.counting() as calls:
        trial.driver.cold_migrate(twin, there.destination)
    there.driver.destroy(twin)
    for number in range(len(calls)):
        name, occurrence = named(calls, number)
        here, where = trial.picture(), f"cut before call {number + 1} ({name})"
        with striking(seam, name, occurrence, "before"):
            try:
                trial.driver.cold_migrate(uuid, there.destination)
            except errors.ConnectionFailed:
                trial.equal(trial.picture(), here, f"the source, {where}")
                trial.equal(there.picture(), before, f"the destination, {where}")
            except errors.OutcomeUnknown:
                places = [has(who, uuid) for who in (trial.driver, there.driver)]
                trial.equal(sum(places), 1, f"hosts that the instance is on, {where}")
                if places[1]:
                    break
            else:
                break  # it was done before that call, or the driver has made the call again
    if not has(there.driver, uuid):
        trial.driver.cold_migrate(uuid, there.destination)
    trial.check(has(there.driver, uuid), "it does not arrive when nothing cuts it")


def _volume(trial: Trial) -> dict[str, Any]:
    return {"volumes": (trial.attachment(),)}


def _slice(trial: Trial) -> dict[str, Any]:
    return {"vgpus": (some_slice(trial),)}


@check(
    MIGR_016,
    cases=[
        Case("volume", (_volume,), needs=frozenset({Capability.HOST_VOLUMES})),
        Case("slice", (_slice,), needs=frozenset({Capability.VGPU})),
    ],
)
def moves_or_is_a_reason(trial: Trial, changes: Callable[[Trial], dict[str, Any]]) -> None:
    there = Elsewhere(trial)
    having = changes(trial)
    before = trial.driver.get_available_resource()
    uuid = movable(trial, **having)
    there.expect(uuid)
    plan = trial.driver.check_live_migration(uuid, there.destination)
    if not plan.possible:
        kinds = {each.kind for each in plan.blockers}
        trial.check(kinds <= {BlockerKind.STORAGE, BlockerKind.DEVICE}, f"reasons: {kinds}")
        with trial.unchanged(), trial.raises(errors.InvalidRequest):
            trial.driver.live_migrate(uuid, there.destination)
        return
    info = trial.driver.get_instance(uuid)
    trial.driver.live_migrate(uuid, there.destination)
    trial.equal(there.driver.get_instance(uuid), info, "the instance at the destination")
    devices = trial.driver.get_available_resource().devices
    trial.equal(devices, before.devices, "devices that are left at the source")
    there.driver.power_off(uuid)
    there.driver.power_on(uuid)
    trial.equal(there.driver.get_instance(uuid).state, InstanceState.RUNNING, "state there")


@check(MIGR_017)
def is_there_already(trial: Trial) -> None:
    there = Elsewhere(trial)
    uuid = movable(trial)
    there.expect(uuid)
    trial.driver.live_migrate(uuid, there.destination)
    # what leads there from here leads from there to itself
    before = there.picture()
    plan = there.driver.check_live_migration(uuid, there.destination)
    kinds = [each.kind for each in plan.blockers]
    trial.equal(kinds, [BlockerKind.STATE], "blockers of the host that it is on")
    with trial.raises(errors.InvalidRequest):
        there.driver.live_migrate(uuid, there.destination)
    trial.equal(there.picture(), before, "the host that it is on")


@check(MIGR_018)
def is_there_already_when_stopped(trial: Trial) -> None:
    there = Elsewhere(trial)
    uuid = movable(trial, start=False)
    there.expect(uuid)
    trial.driver.cold_migrate(uuid, there.destination)
    before = there.picture()
    with trial.raises(errors.InvalidRequest):
        there.driver.cold_migrate(uuid, there.destination)
    trial.equal(there.picture(), before, "the host that it is on")


@check(MIGR_029)
def others_keep_what_they_have(trial: Trial) -> None:
    driver, target = trial.driver, trial.target
    with ExitStack() as stack:
        volumes: tuple[VolumeAttachment, ...] = ()
        if trial.has(Capability.ENCRYPTED_VOLUME):
            volume = stack.enter_context(target.locked_volume(driver, b"hvct-passphrase"))
            secret = VolumeEncryption(provider="luks", secret=SecretBytes(b"hvct-passphrase"))
            volumes = (VolumeAttachment(volume=volume, encryption=secret),)
        elif trial.has(Capability.HOST_VOLUMES):
            volumes = (VolumeAttachment(volume=trial.volume()),)
        vifs = (target.vif("hvct-stays"),)
        stays = trial.spawn(start=False, volumes=volumes, vifs=vifs, **firmware(trial)).uuid
        there = Elsewhere(trial)
        moves = movable(trial, start=False)
        there.expect(moves)
        before = driver.get_instance(stays)
        residue = _of(trial, stays)
        driver.cold_migrate(moves, there.destination)
        trial.equal(driver.get_instance(stays), before, "the other machine")
        trial.equal(_of(trial, stays), residue, "what the host has of the other machine")
        driver.power_on(stays)
        expect_state(trial, stays, InstanceState.RUNNING, "started after another one has moved")
        if trial.has(Capability.ENCRYPTED_VOLUME):
            opened = target.opened(driver, stays, volumes[0].volume_id)
            trial.check(opened, "the other machine has lost the passphrase of its volume")
        driver.power_off(stays)
        for each in volumes:
            driver.detach_volume(stays, each.volume_id)


def _of(trial: Trial, uuid: UUID) -> set[str]:
    found = trial.observer.residue() if trial.observer is not None else ()
    return {each for each in found if str(uuid) in each}
