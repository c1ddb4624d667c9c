"""Clauses of ``contract/snapshots.py``: the tree. Images, backups: ``export_backup.py``."""

from __future__ import annotations

from uuid import UUID

from hvdrivers.conformance.checks.host_volumes import fill_all
from hvdrivers.conformance.engine.assertions import booted, larger
from hvdrivers.conformance.engine.clauses import Case, Level, check, clause
from hvdrivers.conformance.engine.trial import METADATA_KEY, Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.instance import Flavor
from hvdrivers.models.snapshot import Snapshot
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import VolumeAttachment

SNAP_001 = clause(
    "SNAP-001",
    "create_snapshot() adds a snapshot below the current one, makes it current, and returns what"
    " every connection lists; the instance does not change",
    operation="create_snapshot",
)
SNAP_002 = clause(
    "SNAP-002",
    "list_snapshots() gives the tree, parents before children, with one that is current",
    operation="list_snapshots",
)
SNAP_003 = clause(
    "SNAP-003",
    "create_snapshot() with a name that the instance has raises InvalidRequest and changes nothing;"
    " other instances may have it",
    operation="create_snapshot",
)
SNAP_004 = clause(
    "SNAP-004",
    "create_snapshot() with the memory of a stopped machine raises InvalidRequest and changes"
    " nothing",
    operation="create_snapshot",
    needs=[Capability.SNAPSHOT_MEMORY],
)
SNAP_005 = clause(
    "SNAP-005",
    "revert_snapshot() brings the disks back, loses what came later, and leaves the machine"
    " STOPPED",
    operation="revert_snapshot",
)
SNAP_006 = clause(
    "SNAP-006",
    "revert_snapshot() leaves name, metadata, flavor, NICs, volumes and other snapshots as they are"
    " now",
    operation="revert_snapshot",
)
SNAP_007 = clause(
    "SNAP-007",
    "revert_snapshot() to one with memory continues the machine in the state that it had, and its"
    " guest does not start anew",
    operation="revert_snapshot",
    needs=[Capability.SNAPSHOT_MEMORY],
)
SNAP_008 = clause(
    "SNAP-008",
    "revert_snapshot() to one with memory raises InvalidRequest and changes nothing, if the devices"
    " or the flavor are others now",
    operation="revert_snapshot",
    needs=[Capability.SNAPSHOT_MEMORY],
)
SNAP_009 = clause(
    "SNAP-009",
    "revert_snapshot() to a snapshot that is not there raises VolumeNotFound and changes nothing",
    operation="revert_snapshot",
)
SNAP_013 = clause(
    "SNAP-013",
    "attached volumes are not part of a snapshot: a revert leaves their data",
    operation="revert_snapshot",
    needs=[Capability.HOST_VOLUMES],
)
SNAP_014 = clause(
    "SNAP-014",
    "create_snapshot() for which there is no room raises InsufficientResources and changes nothing",
    operation="create_snapshot",
    level=Level.SHOULD,
    needs=[Capability.HOST_VOLUMES],
)


def tree(trial: Trial, uuid: UUID) -> dict[str, str | None]:
    """The name of each snapshot's parent, by name; and the tree is whole and in order."""
    found = trial.driver.list_snapshots(uuid)
    names: dict[str | None, str | None] = {None: None}
    for each in found:
        trial.check(each.parent in names, f"{each.name} is listed before its parent, or has none")
        trial.check(each.id not in names, f"there are two snapshots {each.id}")
        names[each.id] = each.name
    return {each.name: names[each.parent] for each in found}


def current(trial: Trial, uuid: UUID) -> str | None:
    """The name of the current snapshot."""
    found = [each.name for each in trial.driver.list_snapshots(uuid) if each.current]
    trial.check(len(found) <= 1, f"several snapshots are current: {found}")
    return found[0] if found else None


def grown(trial: Trial, uuid: UUID) -> dict[str, Snapshot]:
    """``a`` with the children ``b`` and ``d``, and ``c`` below ``b``; ``d`` is current."""
    made = {name: trial.driver.create_snapshot(uuid, name) for name in ("a", "b", "c")}
    trial.driver.revert_snapshot(uuid, made["a"].id)
    made["d"] = trial.driver.create_snapshot(uuid, "d")
    trial.equal(tree(trial, uuid), {"a": None, "b": "a", "c": "b", "d": "a"}, "the tree")
    return made


@check(SNAP_001)
def is_made(trial: Trial) -> None:
    uuid = trial.spawn(start=False).uuid
    before = trial.driver.get_instance(uuid)
    parent = None
    for name in ("first", "second snapshot"):
        made = trial.driver.create_snapshot(uuid, name)
        found = (made.name, made.parent, made.with_memory, made.current)
        trial.equal(found, (name, parent, False, True), "the snapshot that was returned")
        for who in (trial.driver, trial.connect()):
            listed = {each.id: each for each in who.list_snapshots(uuid)}
            trial.equal(listed.get(made.id), made, "the snapshot that is listed")
        parent = made.id
    trial.equal(trial.driver.get_instance(uuid), before, "the instance after two snapshots")


@check(SNAP_001)
def is_made_while_it_runs(trial: Trial) -> None:
    uuid = trial.spawn().uuid
    made = trial.driver.create_snapshot(uuid, "hvct")
    trial.equal(made.with_memory, False, "with_memory of one that was made without")
    listed = [each for each in trial.other.list_snapshots(uuid) if each.id == made.id]
    trial.equal(listed, [made], "the snapshot that is listed")


@check(SNAP_001)
def running_machine_runs_on(trial: Trial) -> None:
    uuid = trial.spawn().uuid
    trial.driver.create_snapshot(uuid, "hvct")
    trial.equal(trial.state(uuid), InstanceState.RUNNING, "state after create_snapshot()")


@check(SNAP_002)
def is_a_tree(trial: Trial) -> None:
    uuid = trial.spawn(start=False).uuid
    trial.equal(tree(trial, uuid), {}, "the tree of a new instance")
    made = grown(trial, uuid)
    trial.equal(current(trial, uuid), "d", "the current snapshot")
    trial.driver.revert_snapshot(uuid, made["c"].id)
    trial.equal(current(trial, uuid), "c", "the current snapshot after a revert")
    other = trial.spawn(start=False).uuid
    trial.equal(tree(trial, other), {}, "the tree of another instance")


@check(SNAP_003)
def name_is_unique(trial: Trial) -> None:
    uuid, other = trial.spawn(start=False).uuid, trial.spawn(start=False).uuid
    trial.driver.create_snapshot(uuid, "hvct")
    with trial.unchanged(), trial.raises(errors.InvalidRequest):
        trial.driver.create_snapshot(uuid, "hvct")
    trial.driver.create_snapshot(other, "hvct")
    trial.equal(tree(trial, other), {"hvct": None}, "the tree of the other instance")


@check(SNAP_004)
def stopped_has_no_memory(trial: Trial) -> None:
    uuid = trial.spawn(start=False).uuid
    with trial.unchanged(), trial.raises(errors.InvalidRequest):
        trial.driver.create_snapshot(uuid, "hvct", memory=True)


@check(SNAP_005)
def brings_the_disks_back(trial: Trial) -> None:
    driver, target = trial.driver, trial.target
    uuid = trial.spawn().uuid
    target.wait_booted(driver, uuid)
    target.write_disk(driver, uuid, "one")
    driver.power_off(uuid)
    early = driver.create_snapshot(uuid, "early")
    driver.power_on(uuid)
    target.wait_booted(driver, uuid)
    target.write_disk(driver, uuid, "two")
    driver.power_off(uuid)
    late = driver.create_snapshot(uuid, "late")
    driver.power_on(uuid)
    for snapshot, texts in ((early, ["one"]), (late, ["one", "two"]), (early, ["one"])):
        driver.revert_snapshot(uuid, snapshot.id)
        trial.equal(trial.state(uuid), InstanceState.STOPPED, "state after the revert")
        trial.equal(current(trial, uuid), snapshot.name, "the current snapshot")
        driver.power_on(uuid)
        target.wait_booted(driver, uuid)
        trial.equal(list(target.written(driver, uuid)), texts, f"the disk of {snapshot.name!r}")


@check(
    SNAP_005,
    cases=[
        Case("ephemeral", ("ephemeral_gib", 1), needs=frozenset({Capability.EPHEMERAL_DISK})),
        Case("swap", ("swap_mib", 16), needs=frozenset({Capability.SWAP_DISK})),
    ],
)
def brings_every_disk_back(trial: Trial, field: str, size: int) -> None:
    driver, target, disk = trial.driver, trial.target, field.partition("_")[0]
    uuid = trial.spawn(flavor=larger(target.flavor, **{field: size})).uuid
    target.wait_booted(driver, uuid)
    target.write_disk(driver, uuid, "one", disk)
    snapshot = driver.create_snapshot(uuid, "hvct")
    target.write_disk(driver, uuid, "two", disk)
    driver.revert_snapshot(uuid, snapshot.id)
    driver.power_on(uuid)
    target.wait_booted(driver, uuid)
    found = list(target.written(driver, uuid, disk))
    trial.equal(found, ["one"], f"what is on the {disk} disk after the revert")


@check(SNAP_006)
def leaves_the_rest(trial: Trial) -> None:
    uuid = trial.spawn(start=False).uuid
    first = trial.driver.create_snapshot(uuid, "first")
    trial.driver.create_snapshot(uuid, "second")
    trial.driver.rename(uuid, f"{trial.journal.prefix}renamed")
    trial.driver.set_metadata(uuid, {METADATA_KEY: trial.journal.run, "since": "then"})
    trial.driver.plug_vif(uuid, trial.target.vif("hvct-nic"))
    if trial.has(Capability.HOST_VOLUMES):
        trial.driver.attach_volume(uuid, trial.attachment())
    before, names = trial.driver.get_instance(uuid), tree(trial, uuid)
    trial.driver.revert_snapshot(uuid, first.id)
    trial.equal(trial.driver.get_instance(uuid), before, "the instance after the revert")
    trial.equal(tree(trial, uuid), names, "the tree after the revert")
    if trial.observer is not None:
        trial.check("hvct-nic" in trial.observer.devices(uuid), "the NIC is not there any more")


@check(SNAP_006, needs=[Capability.RESIZE])
def leaves_the_size(trial: Trial) -> None:
    uuid = trial.spawn(start=False).uuid
    snapshot = trial.driver.create_snapshot(uuid, "hvct")
    trial.driver.resize(uuid, _another(trial))
    before = trial.driver.get_instance(uuid)
    trial.driver.revert_snapshot(uuid, snapshot.id)
    trial.equal(trial.driver.get_instance(uuid), before, "the instance after the revert")
    trial.driver.power_on(uuid)
    trial.equal(trial.driver.get_instance(uuid).flavor, _another(trial), "flavor while it runs")


def _another(trial: Trial) -> Flavor:
    """More CPUs and memory; the disk stays, as a disk with snapshots may not grow."""
    flavor = trial.target.flavor
    return larger(flavor, vcpus=flavor.vcpus + 1, memory_mib=flavor.memory_mib + 128)


@check(SNAP_007)
def continues(trial: Trial) -> None:
    uuid = trial.spawn().uuid
    running = trial.driver.create_snapshot(uuid, "running", memory=True)
    trial.equal(running.with_memory, True, "with_memory")
    listed = [each for each in trial.other.list_snapshots(uuid) if each.id == running.id]
    trial.equal(listed, [running], "the snapshot that is listed")
    wanted = [(running, InstanceState.RUNNING)]
    if trial.has(Capability.PAUSE):
        trial.driver.pause(uuid)
        paused = trial.driver.create_snapshot(uuid, "paused", memory=True)
        wanted.append((paused, InstanceState.PAUSED))
    trial.driver.power_off(uuid)
    for snapshot, state in wanted:
        trial.driver.revert_snapshot(uuid, snapshot.id)
        trial.equal(trial.state(uuid), state, f"state after the revert to {snapshot.name!r}")
        if trial.observer is not None:
            trial.equal(trial.observer.states().get(uuid), state, "observed state")


@check(SNAP_007)
def guest_goes_on(trial: Trial) -> None:
    uuid = trial.spawn().uuid
    starts = booted(trial, uuid)
    snapshot = trial.driver.create_snapshot(uuid, "hvct", memory=True)
    for off in (False, True):
        if off:
            trial.driver.power_off(uuid)
        trial.driver.revert_snapshot(uuid, snapshot.id)
        trial.equal(trial.target.boots(trial.driver, uuid), starts, "starts of the guest")


@check(SNAP_008, needs=[Capability.RESIZE])
def flavor_is_another(trial: Trial) -> None:
    uuid = trial.spawn().uuid
    made = trial.driver.create_snapshot(uuid, "hvct", memory=True)
    trial.driver.power_off(uuid)
    trial.driver.resize(uuid, _another(trial))
    with trial.unchanged(), trial.raises(errors.InvalidRequest):
        trial.driver.revert_snapshot(uuid, made.id)


@check(SNAP_008)
def devices_are_others(trial: Trial) -> None:
    uuid = trial.spawn().uuid
    made = trial.driver.create_snapshot(uuid, "hvct", memory=True)
    trial.driver.plug_vif(uuid, trial.target.vif("hvct-nic"))
    with trial.unchanged(), trial.raises(errors.InvalidRequest):
        trial.driver.revert_snapshot(uuid, made.id)


@check(SNAP_009)
def absent_is_not_found(trial: Trial) -> None:
    uuid, other = trial.spawn(start=False).uuid, trial.spawn(start=False).uuid
    trial.driver.create_snapshot(uuid, "hvct")
    for name in ("hvct-absent", "hvct"):
        with trial.unchanged(), trial.raises(errors.VolumeNotFound):
            trial.driver.revert_snapshot(other, name)


@check(SNAP_013)
def volumes_are_not_part_of_it(trial: Trial) -> None:
    driver, target = trial.driver, trial.target
    volume = trial.volume()
    uuid = trial.spawn(volumes=(VolumeAttachment(volume=volume),)).uuid
    target.wait_booted(driver, uuid)
    try:
        snapshot = driver.create_snapshot(uuid, "hvct")
    except errors.InvalidRequest:
        trial.check(True, "this hypervisor cannot leave volumes out, and says so")
        return
    target.write_disk(driver, uuid, "since", volume.volume_id)
    driver.revert_snapshot(uuid, snapshot.id)
    driver.power_on(uuid)
    target.wait_booted(driver, uuid)
    found = list(target.written(driver, uuid, volume.volume_id))
    trial.equal(found, ["since"], "what is on the volume after the revert")


@check(SNAP_014)
def no_room_for_a_snapshot(trial: Trial) -> None:
    uuid = trial.spawn().uuid
    fill_all(trial)
    memory = trial.has(Capability.SNAPSHOT_MEMORY)
    with trial.unchanged(), trial.raises(errors.InsufficientResources):
        trial.driver.create_snapshot(uuid, "hvct", memory=memory)
