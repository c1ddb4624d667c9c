"""Clauses of ``contract/storage.py`` about the host's own storage: volumes that are made, listed
and deleted there, and instances' disks that move from one pool to another."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

from hvdrivers.conformance.checks.storage import expect_volume
from hvdrivers.conformance.engine.clauses import Case, Level, check, clause
from hvdrivers.conformance.engine.cutting import named, striking
from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.instance import Keep
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import HostVolume, VolumeAttachment, VolumeSpec

STOR_050 = clause(
    "STOR-050",
    "create_volume() makes one volume, of at least the size and in the pool and format asked for,"
    " which list_volumes() shows to everybody",
    operation="create_volume",
)
STOR_051 = clause(
    "STOR-051",
    "create_volume() with a name that is taken raises VolumeExists and changes nothing",
    operation="create_volume",
)
STOR_052 = clause(
    "STOR-052",
    "create_volume() in a pool that is not there raises VolumeNotFound and changes nothing",
    operation="create_volume",
)
STOR_053 = clause(
    "STOR-053",
    "create_volume() for which there is no room raises InsufficientResources and changes nothing",
    operation="create_volume",
    level=Level.SHOULD,
)
STOR_054 = clause(
    "STOR-054",
    "list_volumes() shows each volume once, and what destroy(keep=...) has kept",
    operation="list_volumes",
)
STOR_055 = clause(
    "STOR-055",
    "delete_volume() deletes that volume alone; one that is not there is a success",
    operation="delete_volume",
)
STOR_056 = clause(
    "STOR-056",
    "delete_volume() of a volume that a machine has, powered on or off, raises DeviceBusy and"
    " changes nothing",
    operation="delete_volume",
)
STOR_057 = clause(
    "STOR-057",
    "get_volume() shows a volume as list_volumes() does, also one that destroy(keep=...) has kept;"
    " for an id that the list does not show it raises VolumeNotFound",
    operation="get_volume",
)
STOR_058 = clause(
    "STOR-058",
    "create_volume() with a name that is taken, whose request is cut, leaves the volume that has"
    " the name as it was, and takes nothing away",
    operation="create_volume",
)
STOR_064 = clause(
    "STOR-064",
    "after migrate_storage() the instance lives in that pool: resize() and rebuild() take room"
    " there, and none where it was before",
    operation="migrate_storage",
    level=Level.SHOULD,
)

_SIZE = 64 << 20
_GIB = 1 << 30
ABSENT_POOL = "hvct-no-such-pool"
ON_AND_OFF = [
    Case("running", (InstanceState.RUNNING,)),
    Case("stopped", (InstanceState.STOPPED,)),
]


def pools_of(trial: Trial) -> list[str]:
    return [pool.name for pool in trial.driver.get_available_resource().storage]


def _listed(trial: Trial) -> dict[str, HostVolume]:
    return {each.volume_id: each for each in trial.driver.list_volumes()}


@check(STOR_050)
def is_listed_and_usable(trial: Trial) -> None:
    before = set(_listed(trial))
    # an odd size: a driver may round up, never down
    size = _SIZE + 512
    volume = trial.volume(size)
    for driver in (trial.driver, trial.other):
        new = [each for each in driver.list_volumes() if each.volume_id not in before]
        trial.equal([each.volume_id for each in new], [volume.volume_id], "new in the list")
        trial.check(trial.journal.prefix in new[0].name, f"it is called {new[0].name}")
        trial.check(
            size <= new[0].capacity_bytes < size + (16 << 20),
            f"{size} bytes were asked for, and it has {new[0].capacity_bytes}",
        )
        trial.equal(new[0].to_volume(), volume, "the volume that the list shows")
    uuid = trial.spawn(start=False).uuid
    trial.driver.attach_volume(uuid, VolumeAttachment(volume=volume))
    expect_volume(trial, uuid, volume.volume_id, True, "as create_volume() returned it")


@check(STOR_050)
def pool_and_format_are_kept(trial: Trial) -> None:
    usual = trial.volume()
    like = _listed(trial)[usual.volume_id]
    volume = trial.volume(pool=like.pool, format=like.format)
    shown = _listed(trial)[volume.volume_id]
    trial.equal((shown.pool, shown.format), (like.pool, like.format), "pool and format")
    for pool in pools_of(trial):
        volume = trial.volume(pool=pool)
        trial.equal(_listed(trial)[volume.volume_id].pool, pool, "the pool that it was made in")


@check(STOR_050)
def gibibytes_are_understood(trial: Trial) -> None:
    volume = trial.volume(None, size_gib=1)
    trial.equal(_listed(trial)[volume.volume_id].capacity_bytes, _GIB, "bytes of 1 GiB")


@check(STOR_050)
def nameless_ones_are_different(trial: Trial) -> None:
    made = set()
    for _ in range(2):
        volume_id = trial.driver.create_volume(VolumeSpec(size_bytes=1 << 20)).volume_id
        trial.after(partial(trial.driver.delete_volume, volume_id))
        made.add(volume_id)
    trial.equal(len(made), 2, "how many volumes there are")
    trial.check(made <= set(_listed(trial)), "they are not in the list")


@check(STOR_051)
def taken_name_is_refused(trial: Trial) -> None:
    name = f"{trial.journal.prefix}taken"
    volume = trial.volume(name=name)
    before = _listed(trial)[volume.volume_id]
    with trial.unchanged(), trial.raises(errors.VolumeExists):
        trial.driver.create_volume(VolumeSpec(name=name, size_bytes=2 * _SIZE))
    trial.equal(_listed(trial).get(volume.volume_id), before, "the volume that had the name")


@check(STOR_058, cases=[Case(kind, (kind,)) for kind in ("before", "after")])
def taken_name_that_is_cut(trial: Trial, kind: str) -> None:
    seam = trial.faults
    name = f"{trial.journal.prefix}taken"
    volume = trial.volume(name=name)
    before = _listed(trial)[volume.volume_id]
    spec = VolumeSpec(name=name, size_bytes=2 * _SIZE)
    with seam.counting() as calls, trial.raises(errors.VolumeExists):
        trial.driver.create_volume(spec)
    allowed = (errors.VolumeExists, errors.ConnectionFailed, errors.OutcomeUnknown)
    for number in range(len(calls)):
        with (
            trial.unchanged(),
            striking(seam, *named(calls, number), kind),
            trial.raises(*allowed),
        ):
            trial.driver.create_volume(spec)
        where = f"the volume that had the name, cut {kind} call {number + 1}"
        trial.equal(_listed(trial).get(volume.volume_id), before, where)


@check(STOR_052)
def absent_pool_is_refused(trial: Trial) -> None:
    with trial.unchanged(), trial.raises(errors.VolumeNotFound):
        trial.volume(pool=ABSENT_POOL)


@check(STOR_053)
def no_room_is_refused(trial: Trial) -> None:
    pools = trial.driver.get_available_resource().storage
    much = 4 * max(int(pool.total_gib) + 1 for pool in pools)
    before = trial.picture()
    try:
        volume = trial.volume(None, size_gib=much)
    except errors.InsufficientResources:
        trial.equal(trial.picture(), before, "the host after there was no room")
        return
    made = _listed(trial)[volume.volume_id]
    trial.equal(made.capacity_bytes, much * _GIB, "the size of what was made")
    thin = made.allocation_bytes is None or made.allocation_bytes < made.capacity_bytes
    trial.check(thin, f"the host has no {much} GiB, and says that the volume takes them")
    raise PreconditionMissing("a volume takes no room before it is written to")


@check(STOR_054)
def each_is_listed_once(trial: Trial) -> None:
    made = {trial.volume().volume_id for _ in range(3)}
    ids = [each.volume_id for each in trial.other.list_volumes()]
    trial.equal(len(ids), len(set(ids)), "how many different ids the list has")
    trial.check(made <= set(ids), "the list lacks some of what was made")


@check(STOR_054)
def kept_disk_is_listed(trial: Trial) -> None:
    uuid = trial.spawn(start=False).uuid
    before = set(_listed(trial))
    trial.will_keep(uuid)
    trial.driver.destroy(uuid, keep=frozenset({Keep.ROOT_DISK}))
    new = [each for each in trial.driver.list_volumes() if each.volume_id not in before]
    trial.equal(len(new), 1, "how many volumes were kept")
    trial.check(f"{uuid}-root" in new[0].name, f"what was kept is called {new[0].name}")
    other = trial.spawn(start=False).uuid
    trial.driver.attach_volume(other, VolumeAttachment(volume=new[0].to_volume()))
    expect_volume(trial, other, new[0].volume_id, True, "in the next machine")
    trial.driver.destroy(other)
    trial.driver.delete_volume(new[0].volume_id)
    trial.equal(set(_listed(trial)), before, "the list after what was kept was deleted")


@check(STOR_055)
def is_deleted_alone(trial: Trial) -> None:
    # names of which one begins with the other
    name = f"{trial.journal.prefix}a"
    going, staying = trial.volume(name=name), trial.volume(name=f"{name}b")
    before = set(_listed(trial))
    trial.driver.delete_volume(going.volume_id)
    for driver in (trial.driver, trial.other):
        ids = {each.volume_id for each in driver.list_volumes()}
        trial.equal(ids, before - {going.volume_id}, "volumes after delete_volume()")
    trial.check(staying.volume_id in _listed(trial), "another volume is gone too")
    with trial.unchanged():
        trial.driver.delete_volume(going.volume_id)
        trial.driver.delete_volume("hvct-absent")
    again = trial.volume(name=name)
    trial.check(again.volume_id in _listed(trial), "the name cannot be used again")


@check(
    STOR_056,
    cases=[
        *ON_AND_OFF,
        Case("suspended", (InstanceState.SUSPENDED,), needs=frozenset({Capability.SUSPEND})),
    ],
)
def attached_one_stays(trial: Trial, state: InstanceState) -> None:
    attachment = trial.attachment()
    uuid = trial.in_state(state, volumes=(attachment,))
    with trial.unchanged(), trial.raises(errors.DeviceBusy):
        trial.driver.delete_volume(attachment.volume_id)
    expect_volume(trial, uuid, attachment.volume_id, True, "after delete_volume() was refused")
    trial.driver.destroy(uuid)
    trial.driver.delete_volume(attachment.volume_id)
    trial.check(attachment.volume_id not in _listed(trial), "it cannot be deleted once it is free")


@check(STOR_057)
def is_shown_as_the_list_shows_it(trial: Trial) -> None:
    # names of which one begins with the other
    name = f"{trial.journal.prefix}v"
    going = trial.volume(name=name).volume_id
    trial.volume(name=f"{name}v")
    uuid = trial.spawn(start=False).uuid
    trial.will_keep(uuid)
    trial.driver.destroy(uuid, keep=frozenset({Keep.ROOT_DISK}))
    for driver in (trial.driver, trial.other):
        for each in driver.list_volumes():
            trial.equal(driver.get_volume(each.volume_id), each, f"volume {each.volume_id}")
    trial.driver.delete_volume(going)
    for absent in (going, going[:-1], "hvct-absent"):
        with trial.unchanged(), trial.raises(errors.VolumeNotFound):
            trial.driver.get_volume(absent)


def fill(trial: Trial, name: str, leaving: int = 0) -> None:
    """Leave ``leaving`` bytes, and less than 1 MiB more, free in a pool. Only where nobody else
    needs it."""
    if not trial.target.fillable:
        raise PreconditionMissing("the suite may not fill the host's pools (fillable)")
    if trial.target.thin:
        filling = ExitStack()
        trial.after(filling.close)
        filling.enter_context(trial.target.filled(trial.driver, name, leaving))
        return
    pools = {pool.name: pool for pool in trial.driver.get_available_resource().storage}
    free = int((pools[name].total_gib - pools[name].used_gib) * _GIB)
    trial.volume(max(512, free - leaving - 4096), pool=name)
    pools = {pool.name: pool for pool in trial.driver.get_available_resource().storage}
    if pools[name].total_gib - pools[name].used_gib > leaving / _GIB + 1 / 1024:
        raise PreconditionMissing("a volume takes no room before it is written to")


def require_thick(trial: Trial) -> None:
    """Raise PreconditionMissing where a full pool lets a disk grow."""
    if trial.target.thin:
        raise PreconditionMissing("a disk takes no room before it is written to (thin)")


def fill_all(trial: Trial, leaving: int = 0) -> None:
    """Leave ``leaving`` bytes, and less than 1 MiB more, free in every pool."""
    for name in pools_of(trial):
        fill(trial, name, leaving)
