"""Clauses of ``contract/lifecycle.py``: the instance's own disks, as the spec wishes them, kept by
destroy() and taken over by another spawn()."""

from __future__ import annotations

from typing import Any

from hvdrivers.conformance.engine.assertions import larger
from hvdrivers.conformance.engine.clauses import Case, check, clause
from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.disk import DiskRole, FileSystem, OwnDisk
from hvdrivers.models.instance import InstanceSpec, Keep
from hvdrivers.models.volume import DiskBus, HostVolume

FIELD_004 = clause(
    "FIELD-004",
    "an optional field of a disk of the instance's own that the driver takes is what the machine"
    " gets; one that it does not take, or a value that it does not, raises NotSupported and makes"
    " nothing",
    operation="spawn",
    needs=[Capability.EPHEMERAL_DISK],
)
LIFE_026 = clause(
    "LIFE-026",
    "a driver that takes several ephemeral disks makes each in its size; any other raises"
    " NotSupported and makes nothing",
    operation="spawn",
    needs=[Capability.EPHEMERAL_DISK],
)
LIFE_027 = clause(
    "LIFE-027",
    "destroy(keep=) leaves the ephemeral disks and the swap disk as host volumes named"
    " <uuid>-ephemeral, <uuid>-ephemeral-1 and <uuid>-swap, or raises NotSupported and changes"
    " nothing",
    operation="destroy",
    needs=[Capability.HOST_VOLUMES],
)
LIFE_028 = clause(
    "LIFE-028",
    "spawn() makes an instance's own disk of a host volume, with what is on it: it is no host"
    " volume afterwards, and after a spawn() that failed it is one again; or raises NotSupported",
    operation="spawn",
    needs=[Capability.HOST_VOLUMES],
)

_EPHEMERAL = frozenset({Capability.EPHEMERAL_DISK})
_SWAP = frozenset({Capability.SWAP_DISK})
_GRAIN = 1 << 20
_VALUES: dict[str, tuple[object, ...]] = {
    "bus": tuple(DiskBus),
    "file_system": tuple(FileSystem),
    "label": ("HVCT",),
}


def _takes(trial: Trial, *names: str) -> bool:
    takes = trial.driver.takes
    disks = "disks" in takes.get(InstanceSpec, frozenset())
    return disks and set(names) <= takes.get(OwnDisk, frozenset())


@check(FIELD_004, cases=[Case(name, (name,)) for name in _VALUES])
def disk_has_it_or_is_refused(trial: Trial, field: str) -> None:
    takes = _takes(trial, field)
    flavor = larger(trial.target.flavor, ephemeral_gib=1)
    accepted: list[object] = []
    for value in _VALUES[field]:
        wishes = {"role": DiskRole.EPHEMERAL, field: value}
        if field == "label":
            wishes["file_system"] = next(iter(FileSystem))
        before = trial.picture()
        try:
            uuid = trial.spawn(
                start=False, flavor=flavor, disks=(OwnDisk.model_validate(wishes),)
            ).uuid
        except errors.NotSupported as error:
            trial.equal(trial.picture(), before, f"the host after {value!r} was refused ({error})")
            continue
        accepted.append(value)
        if trial.observer is None:
            raise PreconditionMissing("there is no observer, and get_instance() shows no own disks")
        found = trial.observer.options(uuid).get("ephemeral", {}).get(field)
        trial.equal(found, value, f"{field} of the ephemeral disk")
        break
    trial.equal(bool(accepted), takes, f"whether the driver, which says so, takes {field}")


@check(LIFE_026)
def each_has_its_size(trial: Trial) -> None:
    changes: dict[str, Any] = {
        "flavor": larger(trial.target.flavor, disk_gib=3, ephemeral_gib=1),
        "disks": tuple(OwnDisk(role=DiskRole.EPHEMERAL, size_mib=size) for size in (256, 768)),
    }
    if not _takes(trial, "size_mib"):
        with trial.unchanged(), trial.raises(errors.NotSupported):
            trial.spawn(start=False, **changes)
        return
    before = trial.picture()
    uuid = trial.spawn(start=False, **changes).uuid
    if trial.observer is None:
        raise PreconditionMissing("no observer")
    wanted = [256 << 20, 768 << 20, 3 << 30]
    found = sorted(trial.observer.own_disks(uuid))
    sound = [size <= each < size + _GRAIN for size, each in zip(wanted, found, strict=False)]
    trial.check(len(found) == 3 and all(sound), f"disks of {wanted} bytes are {found} bytes")
    trial.driver.destroy(uuid)
    trial.equal(trial.picture(), before, "the host after destroy()")


_KINDS = [
    Case("ephemeral", (Keep.EPHEMERAL_DISKS, DiskRole.EPHEMERAL), needs=_EPHEMERAL),
    Case("swap", (Keep.SWAP_DISK, DiskRole.SWAP), needs=_SWAP),
]


def _with(trial: Trial, role: DiskRole) -> dict[str, Any]:
    sizes = {"ephemeral_gib": 1} if role is DiskRole.EPHEMERAL else {"swap_mib": 48}
    return {"flavor": larger(trial.target.flavor, **sizes)} if role is not DiskRole.ROOT else {}


def _left(trial: Trial, keep: Keep, role: DiskRole, *, write: bool = False) -> HostVolume:
    """A disk that a destroy() has kept; it is deleted after the check."""
    uuid = trial.spawn(start=write, **_with(trial, role)).uuid
    if write:
        trial.target.wait_booted(trial.driver, uuid)
        trial.target.write_disk(trial.driver, uuid, "hvct kept", role.value)
    trial.will_keep(uuid, role.value)
    trial.driver.destroy(uuid, keep=frozenset({keep}))
    found = trial.kept(uuid, role.value)
    trial.equal(len(found), 1, f"host volumes named {uuid}-{role.value}")
    return found[0]


@check(LIFE_027, cases=_KINDS)
def keeps_that_disk_alone(trial: Trial, keep: Keep, role: DiskRole) -> None:
    if keep.value not in trial.driver.takes.get(Keep, frozenset()):
        uuid = trial.spawn(start=False, **_with(trial, role)).uuid
        with trial.unchanged(), trial.raises(errors.NotSupported):
            trial.driver.destroy(uuid, keep=frozenset({keep}))
        return
    before = trial.picture()
    volume = _left(trial, keep, role)
    size = 1 << 30 if role is DiskRole.EPHEMERAL else 48 << 20
    trial.check(size <= volume.capacity_bytes < size + _GRAIN, f"{volume} is not of {size} bytes")
    trial.driver.delete_volume(volume.volume_id)
    trial.equal(trial.picture(), before, "the host after the kept disk was deleted")


_TAKEN = [Case("root", (Keep.ROOT_DISK, DiskRole.ROOT)), *_KINDS]


def _from(trial: Trial, role: DiskRole, volume_id: str) -> dict[str, Any]:
    changes = _with(trial, role) | {"disks": (OwnDisk(role=role, kept=volume_id),)}
    return changes | ({"image": None} if role is DiskRole.ROOT else {})


def _can_take(trial: Trial, keep: Keep, role: DiskRole) -> bool:
    """Whether the driver does it; one that does not must refuse it."""
    if _takes(trial, "kept"):
        kept = {Keep.ROOT_DISK.value} | trial.driver.takes.get(Keep, frozenset())
        return keep.value in kept
    volume = trial.volume()
    with trial.unchanged(), trial.raises(errors.NotSupported):
        trial.spawn(start=False, **_from(trial, role, volume.volume_id))
    return False


@check(LIFE_028, cases=_TAKEN)
def goes_on_with_what_was_kept(trial: Trial, keep: Keep, role: DiskRole) -> None:
    if not _can_take(trial, keep, role):
        return
    volume = _left(trial, keep, role, write=True)
    uuid = trial.spawn(**_from(trial, role, volume.volume_id)).uuid
    listed = {each.volume_id for each in trial.other.list_volumes()}
    trial.check(volume.volume_id not in listed, "it is a host volume still")
    trial.target.wait_booted(trial.driver, uuid)
    found = list(trial.target.written(trial.driver, uuid, role.value))
    trial.equal(found, ["hvct kept"], "what the guest finds on the disk")
    trial.driver.destroy(uuid)
    listed = {each.volume_id for each in trial.driver.list_volumes()}
    trial.check(volume.volume_id not in listed, "destroy() has made it a host volume again")


@check(LIFE_028)
def stays_kept_after_a_failure(trial: Trial) -> None:
    if not _can_take(trial, Keep.ROOT_DISK, DiskRole.ROOT):
        return
    volume = _left(trial, Keep.ROOT_DISK, DiskRole.ROOT)
    gone = trial.volume()
    trial.driver.delete_volume(gone.volume_id)
    with trial.unchanged(), trial.raises(errors.VolumeNotFound):
        trial.spawn(**_from(trial, DiskRole.ROOT, gone.volume_id))
    changes = _from(trial, DiskRole.ROOT, volume.volume_id)
    with trial.unchanged(), trial.raises(errors.NetworkNotFound):
        trial.spawn(**changes, vifs=(trial.target.vif_to_nowhere("hvct-absent"),))
    if trial.has(Capability.EPHEMERAL_DISK):
        # the root disk has been taken over by the time that the other is looked for
        changes |= _with(trial, DiskRole.EPHEMERAL)
        changes["disks"] += (OwnDisk(role=DiskRole.EPHEMERAL, kept=gone.volume_id),)
        with trial.unchanged(), trial.raises(errors.VolumeNotFound):
            trial.spawn(**changes)


@check(LIFE_028)
def attached_volume_is_not_taken(trial: Trial) -> None:
    if not _can_take(trial, Keep.ROOT_DISK, DiskRole.ROOT):
        return
    attachment = trial.attachment()
    trial.spawn(start=False, volumes=(attachment,))
    with trial.unchanged(), trial.raises(errors.DeviceBusy):
        trial.spawn(**_from(trial, DiskRole.ROOT, attachment.volume_id))
