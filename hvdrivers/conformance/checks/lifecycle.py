"""Clauses of ``contract/lifecycle.py``: spawn, destroy, look, name and mark.

Rescue, resize and rebuild are in ``rescue_rebuild.py``, machines of others in ``foreign.py``.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from hvdrivers.conformance.engine.assertions import (
    IMPOSSIBLE_DISK_GIB,
    IMPOSSIBLE_MEMORY_MIB,
    STATE_NEEDS,
    absent_network,
    all_that_can_be_had,
    expect_state,
    larger,
)
from hvdrivers.conformance.engine.clauses import Case, Clause, check, clause
from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.cloudinit import CloudInit
from hvdrivers.models.image import HostImage
from hvdrivers.models.instance import Firmware, InstanceInfo, InstanceSpec, Keep
from hvdrivers.models.progress import Progress
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import VolumeAttachment


def _spawn(number: str, rule: str) -> Clause:
    return clause(f"LIFE-{number}", rule, operation="spawn")


def _destroy(number: str, rule: str, *needs: Capability) -> Clause:
    return clause(f"LIFE-{number}", rule, operation="destroy", needs=needs)


LIFE_001 = _spawn("001", "spawn() returns the instance RUNNING, and every other connection sees it")
LIFE_002 = _spawn("002", "spawn() with start=False leaves the instance STOPPED, never started")
LIFE_003 = _destroy(
    "003", "after destroy() nothing that was made for the instance is left on the host"
)
LIFE_004 = _spawn("004", "spawn() of a UUID that exists raises InstanceExists and changes nothing")
LIFE_005 = _destroy("005", "destroy() of an absent instance succeeds, as often as it is called")
LIFE_006 = _spawn("006", "every field of the spec comes back as it was asked for")
LIFE_007 = _destroy(
    "007",
    "destroy() leaves attached volumes, with nothing of the attachment, free for another instance",
    Capability.HOST_VOLUMES,
)
LIFE_008 = _destroy(
    "008",
    "destroy(keep={ROOT_DISK}) leaves the root disk, with what is on it, as the host volume"
    " <uuid>-root, and nothing else; where one is there it raises VolumeExists and changes"
    " nothing",
    Capability.HOST_VOLUMES,
)
LIFE_009 = _spawn("009", "spawn() that is refused leaves nothing at all")
LIFE_010 = _spawn(
    "010",
    "spawn() that does not end within its deadline raises OperationTimeout and leaves nothing",
)
LIFE_011 = _spawn("011", "the UUID of a destroyed instance can be spawned again, as a new one")
LIFE_012 = _spawn(
    "012", "what the progress callback of spawn() raises comes back, and nothing is left"
)
LIFE_018 = _spawn(
    "018",
    "spawn() makes each disk that the spec asks for: ephemeral, swap, seed; in the size asked for",
)


@check(LIFE_001)
def is_running_and_seen(trial: Trial) -> None:
    other = trial.other
    info = trial.spawn()
    trial.equal(info.state, InstanceState.RUNNING, "state that spawn() returned")
    trial.equal(other.get_instance(info.uuid), info, "what another connection sees")
    expect_state(trial, info.uuid, InstanceState.RUNNING, "after spawn()")


@check(LIFE_002)
def is_stopped(trial: Trial) -> None:
    info = trial.spawn(start=False)
    trial.equal(info.state, InstanceState.STOPPED, "state that spawn() returned")
    expect_state(trial, info.uuid, InstanceState.STOPPED, "after spawn()")


@check(LIFE_002)
def has_never_started(trial: Trial) -> None:
    info = trial.spawn(start=False)
    trial.equal(trial.target.boots(trial.driver, info.uuid), 0, "starts of the guest")


_DESTROYED = [
    Case(
        state.value, (state,), needs=frozenset({STATE_NEEDS[state]} if state in STATE_NEEDS else ())
    )
    for state in InstanceState
    if state is not InstanceState.BUILDING
]


@check(LIFE_003, cases=_DESTROYED)
def leaves_nothing(trial: Trial, state: InstanceState) -> None:
    everything = all_that_can_be_had(trial)
    before = trial.picture()
    uuid = trial.in_state(state, **everything)
    trial.driver.destroy(uuid)
    trial.equal(trial.picture(), before, "the host after spawn() and destroy()")
    with trial.raises(errors.InstanceNotFound):
        trial.other.get_instance(uuid)


@check(LIFE_003, needs=[Capability.UEFI])
def leaves_no_variables(trial: Trial) -> None:
    with trial.unchanged():
        uuid = trial.spawn(firmware=Firmware.UEFI).uuid
        trial.driver.destroy(uuid)


@check(LIFE_003)
def leaves_the_others(trial: Trial) -> None:
    staying = trial.spawn(**trial.everything())
    alike = {key: value for key, value in trial.everything().items() if key != "volumes"}
    if "vifs" in alike:
        alike["vifs"] = (trial.target.vif("hvct-other-nic"),)
    with trial.unchanged():
        going = trial.spawn(**alike)
        trial.driver.destroy(going.uuid)
    trial.equal(trial.driver.get_instance(staying.uuid), staying, "the instance beside it")


@check(LIFE_003, needs=[Capability.SNAPSHOTS])
def leaves_no_snapshot(trial: Trial) -> None:
    with trial.unchanged():
        uuid = trial.spawn(start=False).uuid
        for name in ("first", "second"):
            trial.driver.create_snapshot(uuid, name)
        trial.driver.destroy(uuid)
    trial.spawn(uuid=uuid, start=False)
    trial.equal(list(trial.driver.list_snapshots(uuid)), [], "snapshots of one that is new")


@check(LIFE_004, cases=[Case("running", (True,)), Case("stopped", (False,))])
def refuses_a_taken_uuid(trial: Trial, start: bool) -> None:
    info = trial.spawn(start=start)
    with trial.unchanged(), trial.raises(errors.InstanceExists):
        trial.driver.spawn(trial.spec(uuid=info.uuid))
    with trial.unchanged(), trial.raises(errors.InstanceExists):
        trial.other.spawn(trial.spec(uuid=info.uuid, start=not start, metadata={"hvct.a": "b"}))


@check(LIFE_005)
def absent_is_a_success(trial: Trial) -> None:
    with trial.unchanged():
        trial.driver.destroy(uuid4())
    info = trial.spawn(start=False)
    trial.driver.destroy(info.uuid)
    trial.driver.destroy(info.uuid)
    trial.other.destroy(info.uuid)
    trial.check(
        info.uuid not in {each.uuid for each in trial.driver.list_instances()}, "it is still listed"
    )


def _expect_as_asked(trial: Trial, info: InstanceInfo, spec: InstanceSpec, who: str) -> None:
    for field in ("uuid", "name", "flavor", "metadata"):
        trial.equal(getattr(info, field), getattr(spec, field), f"{field} that {who}")
    trial.equal([each.id for each in info.vifs], [each.id for each in spec.vifs], f"NICs {who}")
    volumes = sorted(each.volume_id for each in info.volumes)
    trial.equal(volumes, sorted(each.volume.volume_id for each in spec.volumes), f"volumes {who}")
    if spec.firmware is not None:
        trial.equal(info.firmware, spec.firmware, f"firmware that {who}")
    trial.equal(info.image is None, spec.image is None, f"whether there is an image that {who}")


@check(LIFE_006, cases=[Case("plain", (False,)), Case("everything", (True,))])
def comes_back_as_asked(trial: Trial, everything: bool) -> None:
    changes = all_that_can_be_had(trial) if everything else {}
    spec = trial.spec(
        uuid=UUID(int=uuid4().int ^ (0xF << 76)),  # of no version that RFC 9562 knows
        metadata={"hvct.Key:a/b-c_d": "x=1\ny", "hvct.empty": ""},
        start=False,
        **changes,
    )
    began = datetime.now(UTC)
    info = trial.spawn(spec)
    _expect_as_asked(trial, info, spec, "spawn() returned")
    _expect_as_asked(trial, trial.connect().get_instance(spec.uuid), spec, "get_instance() shows")
    if info.created_at is not None:
        off = abs(info.created_at - began)
        # the host's clock may be off, its time zone may not
        trial.check(off < timedelta(minutes=15), f"created_at is off by {off}")


@check(LIFE_007)
def volumes_stay(trial: Trial) -> None:
    attachment = trial.attachment()
    volume = [
        each for each in trial.driver.list_volumes() if each.volume_id == attachment.volume_id
    ]
    info = trial.spawn(volumes=(attachment,))
    trial.driver.destroy(info.uuid)
    left = [each for each in trial.driver.list_volumes() if each.volume_id == attachment.volume_id]
    trial.equal(left, volume, "the volume after destroy()")
    second = trial.spawn(volumes=(attachment,))
    trial.equal(
        [each.volume_id for each in second.volumes], [attachment.volume_id], "volumes of the second"
    )


@check(LIFE_008)
def keeps_the_root_disk(trial: Trial) -> None:
    everything = trial.everything()
    before = trial.picture()
    info = trial.spawn(**everything)
    trial.will_keep(info.uuid)
    trial.driver.destroy(info.uuid, keep=frozenset({Keep.ROOT_DISK}))
    kept = trial.kept(info.uuid)
    trial.equal(len(kept), 1, f"host volumes named {info.uuid}-root")
    if trial.target.flavor.disk_gib:
        size = trial.target.flavor.disk_gib << 30
        trial.equal(kept[0].capacity_bytes, size, "size of what was kept")
    trial.driver.delete_volume(kept[0].volume_id)
    trial.equal(trial.picture(), before, "the host after the kept disk was deleted")


@check(LIFE_008)
def keeps_it_once(trial: Trial) -> None:
    info = trial.spawn(start=False)
    keep = frozenset({Keep.ROOT_DISK})
    trial.will_keep(info.uuid)
    trial.driver.destroy(info.uuid, keep=keep)
    kept = trial.kept(info.uuid)
    trial.equal(len(kept), 1, f"host volumes named {info.uuid}-root")
    with trial.unchanged():
        trial.driver.destroy(info.uuid, keep=keep)
        trial.driver.destroy(info.uuid)
    trial.spawn(uuid=info.uuid)
    with trial.unchanged(), trial.raises(errors.VolumeExists):
        trial.driver.destroy(info.uuid, keep=keep)
    trial.driver.destroy(info.uuid)
    left = [each.volume_id for each in trial.kept(info.uuid)]
    trial.equal(left, [each.volume_id for each in kept], "what was kept of the first instance")


_STARTED = [Case("running", (True,)), Case("stopped", (False,))]


@check(LIFE_009, cases=_STARTED)
def absent_network_leaves_nothing(trial: Trial, start: bool) -> None:
    changes = absent_network(trial)
    with trial.unchanged(), trial.raises(errors.NetworkNotFound):
        trial.spawn(start=start, **changes)


@check(LIFE_009, cases=_STARTED, needs=[Capability.HOST_VOLUMES])
def absent_volume_leaves_nothing(trial: Trial, start: bool) -> None:
    changes = all_that_can_be_had(trial)
    gone = trial.volume()
    trial.driver.delete_volume(gone.volume_id)
    changes["volumes"] = (*changes["volumes"], VolumeAttachment(volume=gone))
    with trial.unchanged(), trial.raises(errors.VolumeNotFound):
        trial.spawn(start=start, **changes)


@check(LIFE_009, needs=[Capability.HOST_VOLUMES])
def busy_volume_leaves_nothing(trial: Trial) -> None:
    changes = all_that_can_be_had(trial)
    trial.spawn(volumes=changes["volumes"])
    changes.pop("vifs", None)  # whose ports nobody else has
    with trial.unchanged(), trial.raises(errors.DeviceBusy):
        trial.spawn(**changes)


@check(LIFE_009, needs=[Capability.IMAGE_HOST])
def absent_image_leaves_nothing(trial: Trial) -> None:
    changes = all_that_can_be_had(trial)
    with trial.unchanged(), trial.raises(errors.VolumeNotFound):
        trial.spawn(image=HostImage(name="hvct-no-such-image"), **changes)


@check(LIFE_009)
def too_much_memory_leaves_nothing(trial: Trial) -> None:
    changes = all_that_can_be_had(trial)
    changes["flavor"] = larger(changes["flavor"], memory_mib=IMPOSSIBLE_MEMORY_MIB)
    with trial.unchanged(), trial.raises(errors.InsufficientResources):
        trial.spawn(**changes)


@check(LIFE_009, needs=[Capability.EPHEMERAL_DISK])
def too_large_disk_leaves_nothing(trial: Trial) -> None:
    changes = all_that_can_be_had(trial)
    changes["flavor"] = larger(changes["flavor"], ephemeral_gib=IMPOSSIBLE_DISK_GIB)
    before = trial.picture()
    try:
        info = trial.spawn(start=False, **changes)
    except errors.InsufficientResources:
        trial.equal(trial.picture(), before, "the host after the refusal")
    else:  # thin disks take no room before they are written
        trial.equal(info.flavor, changes["flavor"], "flavor that spawn() returned")


@check(LIFE_009)
def hostile_image_leaves_nothing(trial: Trial) -> None:
    changes = all_that_can_be_had(trial)
    for why, image in trial.target.hostile_images():
        # an image whose format the host does not take is refused for that
        allowed = [errors.ImageRejected, errors.NotSupported]
        with trial.unchanged(), trial.raises(*allowed) as caught:
            trial.spawn(image=image, **changes)
        trial.check(caught, why)


@check(LIFE_010)
def deadline_leaves_nothing(trial: Trial) -> None:
    changes = all_that_can_be_had(trial)
    spec = trial.spec(**changes)
    trial.will_destroy(spec.uuid)
    with (
        trial.unchanged(),
        trial.target.slowed("spawn", 3600.0),
        trial.raises(errors.OperationTimeout),
    ):
        trial.driver.spawn(spec, timeout=0.5 * trial.target.time_scale)


@check(LIFE_011)
def uuid_is_free_again(trial: Trial) -> None:
    first = trial.spawn(metadata={"hvct.first": "yes"})
    trial.driver.destroy(first.uuid)
    spec = trial.spec(uuid=first.uuid, metadata={"hvct.second": "yes"}, start=False)
    info = trial.driver.spawn(spec)
    _expect_as_asked(trial, info, spec, "the second spawn() returned")
    _expect_as_asked(trial, trial.other.get_instance(spec.uuid), spec, "is seen of the second")


class _Stop(Exception):
    pass


@check(LIFE_012)
def callback_stops_it(trial: Trial) -> None:
    reports: list[object] = []

    def stop(progress: Progress) -> None:
        reports.append(progress)
        raise _Stop

    spec = trial.spec(**all_that_can_be_had(trial))
    trial.will_destroy(spec.uuid)
    before = trial.picture()
    stopped = False
    try:
        trial.driver.spawn(spec, progress=stop)
    except _Stop:
        stopped = True
    trial.equal(stopped, bool(reports), "whether what the callback raised came back")
    trial.check(all(isinstance(each, Progress) for each in reports), "it was told no Progress")
    if stopped:
        trial.equal(trial.picture(), before, "the host after the callback had raised")


@check(
    LIFE_018,
    cases=[
        Case("ephemeral", ({"ephemeral_gib": 1},), needs=frozenset({Capability.EPHEMERAL_DISK})),
        Case("swap", ({"swap_mib": 16},), needs=frozenset({Capability.SWAP_DISK})),
        Case("seed", ({},), needs=frozenset({Capability.CONFIG_DRIVE})),
    ],
)
def each_disk_is_made(trial: Trial, update: dict[str, int]) -> None:
    if trial.observer is None:
        raise PreconditionMissing("no observer")
    with_it: dict[str, Any] = {"flavor": larger(trial.target.flavor, **update)}
    if not update:
        with_it["cloud_init"] = CloudInit()
    counts = []
    for changes in ({}, with_it):
        before = trial.observer.residue()
        trial.spawn(start=False, **changes)
        counts.append(len(trial.observer.residue() - before))
    trial.equal(counts[1], counts[0] + 1, "things that spawn() has made, with that disk")
