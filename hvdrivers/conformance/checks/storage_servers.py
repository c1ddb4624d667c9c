"""Clauses of ``contract/storage.py``: volumes of storage servers, of the kinds that the target
serves. A server is no part of a host, so a target may have none of a kind, and says so."""

from __future__ import annotations

from collections.abc import Iterator

from hvdrivers.conformance.checks.storage import expect_volume, shown_volume
from hvdrivers.conformance.engine.clauses import Case, Level, check, clause
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.requirements import SERVED_VOLUMES
from hvdrivers.models.volume import VolumeAttachment

STOR_076 = clause(
    "STOR-076",
    "a volume of a storage server is in the machine after spawn() and attach_volume(), is refused"
    " to a second one with DeviceBusy, and is gone after detach_volume() with nothing left of it,"
    " as a volume of the host is",
    operation="attach_volume",
    level=Level.SHOULD,
)
STOR_077 = clause(
    "STOR-077",
    "extend_volume() shows a volume that has grown at its storage server with its new size, at"
    " once and after a restart of the machine",
    operation="extend_volume",
    level=Level.SHOULD,
)


def served_kinds() -> Iterator[Case]:
    """A case for each kind of storage server."""
    for kind in SERVED_VOLUMES:
        yield Case(kind.value.removeprefix("volume-"), (kind,), needs=frozenset({kind}))


@check(STOR_076, cases=served_kinds())
def is_a_volume_as_any(trial: Trial, kind: Capability) -> None:
    driver = trial.driver
    with trial.target.served_volume(driver, kind) as volume:
        attachment = VolumeAttachment(volume=volume)
        other = trial.spawn(start=False).uuid
        uuid = trial.spawn(volumes=(attachment,)).uuid
        expect_volume(trial, uuid, volume.volume_id, True, "after spawn()")
        with trial.unchanged(), trial.raises(errors.DeviceBusy):
            driver.attach_volume(other, attachment)
        trial.target.wait_booted(driver, uuid)
        driver.detach_volume(uuid, volume.volume_id)
        expect_volume(trial, uuid, volume.volume_id, False, "after detach_volume()")
        attached = driver.attach_volume(uuid, attachment)
        trial.equal(attached.volume_id, volume.volume_id, "volume_id that attach_volume() returned")
        expect_volume(trial, uuid, volume.volume_id, True, "after attach_volume()")
        trial.equal(driver.attach_volume(uuid, attachment), attached, "the second reply")
        driver.power_off(uuid)
        expect_volume(trial, uuid, volume.volume_id, True, "after power_off()")
        driver.power_on(uuid)
        expect_volume(trial, uuid, volume.volume_id, True, "after power_on()")
        driver.power_off(uuid)
        driver.detach_volume(uuid, volume.volume_id)
        expect_volume(trial, uuid, volume.volume_id, False, "after the second detach_volume()")
        with trial.unchanged():
            driver.attach_volume(other, attachment)  # nothing of the first one is in the way
            expect_volume(trial, other, volume.volume_id, True, "in the second machine")
            driver.detach_volume(other, volume.volume_id)


@check(STOR_077, cases=served_kinds())
def grows_at_its_server(trial: Trial, kind: Capability) -> None:
    driver = trial.driver
    with trial.target.served_volume(driver, kind) as volume:
        uuid = trial.spawn(volumes=(VolumeAttachment(volume=volume),)).uuid
        shown = shown_volume(driver.get_instance(uuid), volume.volume_id)
        size = 2 * ((shown and shown.size_bytes) or 64 << 20)
        trial.target.grow_volume(driver, volume.volume_id, size)
        driver.extend_volume(uuid, volume.volume_id, size)
        for when in ("after extend_volume()", "after a restart"):
            found = shown_volume(driver.get_instance(uuid), volume.volume_id)
            trial.check(found and found.size_bytes in {size, None}, f"{when} it is {found}")
            driver.power_off(uuid)
            driver.power_on(uuid)
