"""Clauses of seed discs that the caller gives as they are, and of machines that start paused."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import SecretBytes

from hvdrivers.conformance.engine.assertions import expect_boots, expect_no_boot, expect_state
from hvdrivers.conformance.engine.clauses import Case, check, clause
from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.seed import SeedDisc
from hvdrivers.models.state import InstanceState, StartAs

SEED_001 = clause(
    "SEED-001",
    "a machine has the seed disc that spawn() was given, byte for byte, from bytes and from a file,"
    " and destroy() leaves nothing of it",
    operation="spawn",
    needs=[Capability.SEED_DISC],
)
SEED_002 = clause(
    "SEED-002",
    "a seed disc whose file cannot be read raises InvalidRequest, and nothing is made",
    operation="spawn",
    needs=[Capability.SEED_DISC],
)
SEED_003 = clause(
    "SEED-003",
    "rescue() with a seed disc gives the rescued machine that one, and unrescue() its own again",
    operation="rescue",
    needs=[Capability.SEED_DISC],
)
START_001 = clause(
    "START-001",
    "spawn() and start_paused() leave a machine that is to start paused PAUSED; its guest starts"
    " with unpause(), once",
    operation="start_paused",
    needs=[Capability.PAUSE],
)
START_002 = clause(
    "START-002",
    "start_paused() of a SUSPENDED machine leaves it PAUSED where it was saved",
    operation="start_paused",
    needs=[Capability.PAUSE, Capability.SUSPEND],
)


def _disc(trial: Trial, text: str) -> bytes:
    """A disc that no library would make: no file system, and no two sectors alike."""
    del trial
    return b"".join(sha256(f"{text}{number}".encode()).digest() for number in range(512))


def _found(trial: Trial, uuid: object) -> bytes:
    if trial.observer is None:
        raise PreconditionMissing("there is no observer to look at the seed disc")
    return trial.observer.seed_disc(uuid)  # type: ignore[arg-type]


@check(SEED_001, cases=[Case("bytes", (False,)), Case("file", (True,))])
def is_what_was_given(trial: Trial, from_file: bool) -> None:
    disc = _disc(trial, "hvct")
    before = trial.picture()
    with TemporaryDirectory(prefix="hvct-") as folder:
        path = Path(folder) / "seed"
        path.write_bytes(disc)
        seed = SeedDisc(path=path) if from_file else SeedDisc(content=SecretBytes(disc))
        uuid = trial.spawn(start=False, seed=seed).uuid
    trial.check(_found(trial, uuid) == disc, "the disc in the machine is another")
    trial.driver.power_on(uuid)
    trial.check(_found(trial, uuid) == disc, "the disc in the running machine is another")
    trial.driver.destroy(uuid)
    trial.equal(trial.picture(), before, "the host after destroy()")


@check(SEED_002)
def unreadable_is_refused(trial: Trial) -> None:
    with TemporaryDirectory(prefix="hvct-") as folder:
        absent = Path(folder) / "absent"
        with trial.unchanged(), trial.raises(errors.InvalidRequest):
            trial.spawn(start=False, seed=SeedDisc(path=absent))


@check(SEED_003)
def rescued_machine_has_its_own(trial: Trial) -> None:
    own, other = _disc(trial, "own"), _disc(trial, "rescue")
    uuid = trial.spawn(start=False, seed=SeedDisc(content=SecretBytes(own))).uuid
    seed = SeedDisc(content=SecretBytes(other))
    trial.driver.rescue(uuid, trial.target.image(), seed=seed)
    trial.check(_found(trial, uuid) == other, "the disc in the rescued machine is another")
    trial.driver.unrescue(uuid)
    trial.check(_found(trial, uuid) == own, "the disc after unrescue() is not its own")


@check(START_001, cases=[Case("spawn", (True,)), Case("start_paused", (False,))])
def guest_waits(trial: Trial, by_spawn: bool) -> None:
    if by_spawn:
        info = trial.spawn(start_as=StartAs.PAUSED)
        trial.equal(info.state, InstanceState.PAUSED, "state that spawn() returned")
        uuid = info.uuid
    else:
        uuid = trial.spawn(start=False).uuid
        trial.driver.start_paused(uuid)
    expect_state(trial, uuid, InstanceState.PAUSED, "after it was started paused")
    # a guest that stands still cannot be waited for: what it has said by now must do
    trial.equal(trial.target.boots(trial.driver, uuid), 0, "starts of the guest before unpause()")
    with trial.unchanged():
        trial.driver.start_paused(uuid)
    trial.driver.unpause(uuid)
    expect_state(trial, uuid, InstanceState.RUNNING, "after unpause()")
    expect_boots(trial, uuid, 1, "after unpause()")
    trial.driver.pause(uuid)
    trial.driver.unpause(uuid)
    trial.target.wait_booted(trial.driver, uuid)
    expect_boots(trial, uuid, 1, "after a second unpause()")


@check(START_002)
def saved_guest_waits(trial: Trial) -> None:
    uuid = trial.in_state(InstanceState.RUNNING)
    expect_boots(trial, uuid, 1, "after spawn()")
    trial.driver.suspend(uuid)
    trial.driver.start_paused(uuid)
    expect_state(trial, uuid, InstanceState.PAUSED, "after start_paused()")
    trial.driver.unpause(uuid)
    expect_no_boot(trial, uuid, 1, "after unpause(): it goes on where it was saved")
