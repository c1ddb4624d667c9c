"""Two connections that change one instance at the same moment: its devices, size, disk, record."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from uuid import UUID, uuid4

from hvdrivers.conformance.engine.assertions import expect_state, larger
from hvdrivers.conformance.engine.clauses import Case, check, clause
from hvdrivers.conformance.engine.concurrency_tools import together
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.models.instance import InstanceInfo
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import VolumeAttachment

CONC_012 = clause(
    "CONC-012",
    "device operations of two connections on one instance at the same moment have the outcome of"
    " one after the other: both succeed, and neither undoes the other",
)

CONC_021 = clause(
    "CONC-021",
    "two connections that change size, root disk, metadata or devices of one instance at the same"
    " moment have the outcome of one after the other: what each has done is there, and an instance"
    " that one of them has destroyed is gone",
)

CONC_022 = clause(
    "CONC-022",
    "delete_volume() beside attach_volume() or spawn() with that volume, on another connection, has"
    " the outcome of one after the other: the volume is there and attached, or neither",
    needs=[Capability.HOST_VOLUMES],
)

_ROUNDS = 3
_ON, _OFF = InstanceState.RUNNING, InstanceState.STOPPED
Change = Callable[[ComputeDriver, UUID], object]


def _pair(changes: Iterable[Change]) -> tuple[Change, Change]:
    one, two = changes
    return one, two


class _Devices:
    """Two devices of one kind: how each comes, goes, and is seen."""

    def __init__(self, trial: Trial, kind: str) -> None:
        self._trial = trial
        self._volumes = kind == "volume"
        if self._volumes:
            attachments = [VolumeAttachment(volume=trial.volume()) for _ in range(2)]
            self.ids = [each.volume_id for each in attachments]
            self.come: tuple[Change, Change] = _pair(map(self._attach, attachments))
            self.go: tuple[Change, Change] = _pair(map(self._detach, self.ids))
        else:
            self.ids = ["hvct-nic-1", "hvct-nic-2"]
            self.come = _pair(map(self._plug, self.ids))
            self.go = _pair(map(self._unplug, self.ids))

    @staticmethod
    def _attach(attachment: VolumeAttachment) -> Change:
        return lambda driver, uuid: driver.attach_volume(uuid, attachment)

    @staticmethod
    def _detach(volume_id: str) -> Change:
        return lambda driver, uuid: driver.detach_volume(uuid, volume_id)

    def _plug(self, vif_id: str) -> Change:
        vif = self._trial.target.vif(vif_id)
        return lambda driver, uuid: driver.plug_vif(uuid, vif)

    @staticmethod
    def _unplug(vif_id: str) -> Change:
        return lambda driver, uuid: driver.unplug_vif(uuid, vif_id)

    def shown(self, uuid: UUID) -> list[str]:
        """The ids of those that the instance has, the same on both connections."""
        found = []
        for driver in (self._trial.driver, self._trial.other):
            info = driver.get_instance(uuid)
            ids = (
                [each.volume_id for each in info.volumes]
                if self._volumes
                else [each.id for each in info.vifs]
            )
            found.append(sorted(ids))
        self._trial.equal(found[1], found[0], "devices on the other connection")
        return found[0]


def _cases() -> Iterator[Case]:
    for kind, needs in (("volume", {Capability.HOST_VOLUMES}), ("nic", set[Capability]())):
        for state in (_OFF, _ON):
            yield Case(f"{kind}s-come-{state}", (kind, state), needs=frozenset(needs))


def _both(trial: Trial, uuid: UUID, first: Change, second: Change, what: str) -> list[object]:
    results = together(
        trial, [partial(first, trial.driver, uuid), partial(second, trial.other, uuid)]
    )
    for each in results:
        trial.check(not isinstance(each, Exception), f"{what}: one of two got {each!r}")
    return results


@check(CONC_012, cases=_cases())
def both_have_effect(trial: Trial, kind: str, state: InstanceState) -> None:
    uuid = trial.in_state(state)
    devices = _Devices(trial, kind)
    one, two = devices.ids
    for _ in range(_ROUNDS if state is _OFF else 1):  # a start takes its time on a real host
        _both(trial, uuid, *devices.come, f"two {kind}s come")
        trial.equal(devices.shown(uuid), sorted((one, two)), f"two {kind}s that came at once")
        if state is _ON:
            trial.driver.power_off(uuid)
        _both(trial, uuid, devices.go[0], devices.go[0], f"a {kind} goes twice")
        trial.equal(devices.shown(uuid), [two], f"a {kind} that both took away")
        if state is _ON:
            trial.driver.power_on(uuid)
        results = _both(trial, uuid, devices.come[0], devices.come[0], f"a {kind} comes twice")
        trial.equal(results[1], results[0], f"the {kind} that both have got")
        trial.equal(devices.shown(uuid), sorted((one, two)), f"a {kind} that came twice")
        if state is _ON:
            trial.driver.power_off(uuid)
        _both(trial, uuid, *devices.go, f"two {kind}s go")
        trial.equal(devices.shown(uuid), [], f"{kind}s when both have gone")
        if state is _ON:
            trial.driver.power_on(uuid)
        _both(trial, uuid, devices.come[0], _labelled, f"a {kind} and metadata")
        trial.equal(devices.shown(uuid), [one], f"a {kind} that came with metadata")
        trial.equal(
            trial.driver.get_instance(uuid).metadata.get("hvct.two"), "yes", "metadata beside it"
        )
        trial.driver.power_off(uuid)
        devices.go[0](trial.driver, uuid)
        if state is _ON:
            trial.driver.power_on(uuid)


def _labelled(driver: ComputeDriver, uuid: UUID) -> None:
    driver.set_metadata(uuid, {"hvct.two": "yes"})


_STEP_MIB = 128
"""Memory comes in blocks: 128 MiB on x86_64."""
Seen = Callable[[InstanceInfo], bool]


def _changes(trial: Trial) -> dict[str, tuple[Change, Seen]]:
    """What can be done to a stopped instance, and whether it is seen."""
    size = larger(trial.target.flavor, vcpus=trial.target.flavor.vcpus + 1)
    changes: dict[str, tuple[Change, Seen]] = {
        "metadata": (_labelled, lambda info: info.metadata.get("hvct.two") == "yes"),
        "resize": (
            lambda driver, uuid: driver.resize(uuid, size),
            lambda info: info.flavor.vcpus == size.vcpus,
        ),
        "rebuild": (
            lambda driver, uuid: driver.rebuild(uuid, trial.target.image()),
            lambda info: info.image is not None,
        ),
    }
    if trial.has(Capability.HOST_VOLUMES):
        attachment = VolumeAttachment(volume=trial.volume())
        changes["volume"] = (
            lambda driver, uuid: driver.attach_volume(uuid, attachment),
            lambda info: [each.volume_id for each in info.volumes] == [attachment.volume_id],
        )
    return changes


_NEEDS = {
    "resize": Capability.RESIZE,
    "rebuild": Capability.REBUILD,
    "volume": Capability.HOST_VOLUMES,
}
_PAIRS = [
    ("rebuild", "rebuild"),
    ("rebuild", "resize"),
    ("rebuild", "metadata"),
    ("rebuild", "volume"),
    ("resize", "volume"),
    ("resize", "metadata"),
]


def _case(*names: str) -> Case:
    needs = frozenset(_NEEDS[each] for each in names if each in _NEEDS)
    return Case("-".join(names), names, needs=needs)


@check(CONC_021, cases=[_case(*pair) for pair in _PAIRS])
def neither_is_lost(trial: Trial, one: str, two: str) -> None:
    before = trial.picture()
    changes = _changes(trial)
    for _ in range(_ROUNDS):
        uuid = trial.spawn(start=False).uuid
        _both(trial, uuid, changes[one][0], changes[two][0], f"{one} and {two}")
        for name, beside in ((one, two), (two, one)):
            seen = changes[name][1](trial.driver.get_instance(uuid))
            trial.check(seen, f"{name} has succeeded beside {beside}, and is not there")
        trial.driver.power_on(uuid)
        expect_state(trial, uuid, _ON, f"after {one} and {two} at the same moment")
        trial.driver.destroy(uuid)
    after = trial.picture()
    trial.equal(after["instances"], before["instances"], "instances at the end")


@check(CONC_021, cases=[_case("resize"), _case("rebuild")])
def stays_destroyed(trial: Trial, name: str) -> None:
    change = _changes(trial)[name][0]
    for _ in range(_ROUNDS):
        uuid = trial.spawn(start=False).uuid
        changed, destroyed = together(
            trial, [partial(change, trial.driver, uuid), partial(trial.other.destroy, uuid)]
        )
        trial.equal(destroyed, None, "what destroy() did")
        allowed = changed is None or isinstance(changed, errors.HypervisorError)
        trial.check(allowed, f"{name} got {changed!r}")
        for driver in (trial.driver, trial.other):
            with trial.raises(errors.InstanceNotFound):
                driver.get_instance(uuid)


@check(CONC_021, needs=[Capability.HOT_RESIZE_MEMORY])
def asks_for_the_same_memory(trial: Trial) -> None:
    base = trial.target.flavor
    wanted = base.memory_mib + _STEP_MIB
    most = base.memory_mib + 3 * _STEP_MIB
    uuid = trial.spawn(flavor=larger(base, max_memory_mib=most)).uuid
    trial.target.wait_booted(trial.driver, uuid)

    def ask(driver: ComputeDriver, uuid: UUID) -> None:
        driver.hot_resize_memory(uuid, wanted)

    _both(trial, uuid, ask, ask, "the same memory twice")
    found = trial.driver.get_instance(uuid).flavor.memory_mib
    trial.equal(found, wanted, "MiB after two asked for the same")


_GAVE_WAY = (errors.VolumeNotFound, errors.DeviceBusy)


@check(CONC_022, cases=[Case("attach", (False,)), Case("spawn", (True,))])
def is_deleted_or_attached(trial: Trial, spawns: bool) -> None:
    if spawns:
        uuid = uuid4()
        trial.will_destroy(uuid)
    else:
        uuid = trial.spawn(start=False).uuid
    for _ in range(_ROUNDS):
        volume = trial.volume()
        attachment = VolumeAttachment(volume=volume)
        if spawns:
            spec = trial.spec(uuid=uuid, start=False, volumes=(attachment,))
            use: Callable[[], object] = partial(trial.other.spawn, spec)
        else:
            use = partial(trial.other.attach_volume, uuid, attachment)
        used, deleted = together(
            trial, [use, partial(trial.driver.delete_volume, volume.volume_id)]
        )
        what = f"the one who attaches got {used!r}, the one who deletes {deleted!r}"
        for each in (used, deleted):
            refused = isinstance(each, _GAVE_WAY)
            trial.check(refused or not isinstance(each, Exception), what)
        there = volume.volume_id in {each.volume_id for each in trial.driver.list_volumes()}
        trial.equal(there, deleted is not None, f"whether the volume is there, where {what}")
        attached = volume.volume_id in _volumes_of(trial, uuid)
        trial.equal(attached, not isinstance(used, Exception), f"attached or not, where {what}")
        trial.check(there or not attached, f"it is attached, and has gone: {what}")
        if spawns:
            trial.driver.destroy(uuid)
        elif attached:
            trial.driver.detach_volume(uuid, volume.volume_id)
        trial.driver.delete_volume(volume.volume_id)


def _volumes_of(trial: Trial, uuid: UUID) -> list[str]:
    try:
        return [each.volume_id for each in trial.driver.get_instance(uuid).volumes]
    except errors.InstanceNotFound:
        return []
