"""How each change is made so that it can be cut at any call and tried again: for ``faults.py``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from pydantic import SecretStr

from hvdrivers.conformance.engine.assertions import free_slice
from hvdrivers.conformance.engine.field_values import disk_qos, vif_qos
from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.limits import Limit
from hvdrivers.models.guest import Share
from hvdrivers.models.vif import Bandwidth, VifQos
from hvdrivers.models.volume import DiskQos, Volume, VolumeAttachment, VolumeSpec

Call = Callable[[Trial, UUID, float | None], object]
Step = Callable[[Trial, UUID], object]
Errors = tuple[type[errors.HypervisorError], ...]


def _nothing(_trial: Trial, _uuid: UUID) -> None:
    pass


@dataclass(frozen=True)
class Plan:
    """One operation."""

    call: Call
    """Makes the call, with a timeout."""
    prepare: Step = _nothing
    """Makes what the call needs; the UUID is free before it."""
    reset: Step = _nothing
    """Removes what destroy() does not."""
    refused: Errors = ()
    """What the repeated call may raise if the first one had worked (``Repeat.REFUSED``)."""
    atomic: bool = False
    """All or nothing, also where the outcome was unknown."""
    needs: tuple[Capability, ...] = ()


def _spawned(*, start: bool, **changes: Any) -> Step:
    return lambda trial, uuid: trial.driver.spawn(trial.spec(uuid=uuid, start=start, **changes))


_stopped, _running = _spawned(start=False), _spawned(start=True)


def _then(first: Step, name: str, *args: Any, **kwargs: Any) -> Step:
    def prepare(trial: Trial, uuid: UUID) -> None:
        first(trial, uuid)
        getattr(trial.driver, name)(uuid, *args, **kwargs)

    return prepare


def _op(name: str, *args: Any, **kwargs: Any) -> Call:
    return lambda trial, uuid, timeout: getattr(trial.driver, name)(
        uuid, *args, timeout=timeout, **kwargs
    )


def _everything(trial: Trial) -> dict[str, Any]:
    changes = {**trial.everything(), "start": False}
    if trial.has(Capability.VGPU) and (wanted := free_slice(trial)) is not None:
        changes["vgpus"] = (wanted,)
    return changes


def _attachment_made(trial: Trial, _uuid: UUID) -> None:
    """The volume is made beforehand, so that making it is not one of the calls."""
    _everything(trial)


def _volume_name(trial: Trial) -> str:
    return f"{trial.journal.prefix}cut"


def _create_volume(trial: Trial, _uuid: UUID, timeout: float | None) -> Volume:
    spec = VolumeSpec(name=_volume_name(trial), size_bytes=1 << 20)
    return trial.driver.create_volume(spec, timeout=timeout)


def _delete_named(trial: Trial, _uuid: UUID) -> None:
    for each in trial.driver.list_volumes():
        if _volume_name(trial) in each.name:  # the hypervisor's own contains it
            trial.driver.delete_volume(each.volume_id)


def _deletable(trial: Trial, uuid: UUID) -> None:
    trial.notes["volume"] = _create_volume(trial, uuid, None).volume_id


def _delete_volume(trial: Trial, _uuid: UUID, timeout: float | None) -> None:
    trial.driver.delete_volume(trial.notes["volume"], timeout=timeout)


def _with_volume(trial: Trial, uuid: UUID) -> None:
    trial.driver.spawn(trial.spec(uuid=uuid, start=False, volumes=(trial.attachment(),)))


def _with_nic(trial: Trial, uuid: UUID) -> None:
    trial.driver.spawn(trial.spec(uuid=uuid, start=False, vifs=(trial.target.vif("hvct-nic"),)))


def _reconnect(trial: Trial, uuid: UUID, timeout: float | None) -> None:
    trial.driver.reconnect(uuid, vifs=(trial.target.vif("hvct-nic"),), timeout=timeout)


def _attachable(trial: Trial, uuid: UUID) -> None:
    trial.attachment()
    _stopped(trial, uuid)


def _attach(trial: Trial, uuid: UUID, timeout: float | None) -> object:
    return trial.driver.attach_volume(uuid, trial.attachment(), timeout=timeout)


def _qos(trial: Trial, uuid: UUID, timeout: float | None) -> None:
    limits = disk_qos(trial, DiskQos(total_iops_sec=100))
    volume_id = trial.attachment().volume_id
    trial.driver.set_disk_qos(uuid, volume_id, limits, timeout=timeout)


def _vif_qos(trial: Trial, uuid: UUID, timeout: float | None) -> None:
    limits = vif_qos(trial, VifQos(inbound=Bandwidth(average=1000)))
    trial.driver.set_vif_qos(uuid, "hvct-nic", limits, timeout=timeout)


def _growable(trial: Trial, uuid: UUID) -> None:
    _with_volume(trial, uuid)
    trial.target.grow_volume(trial.driver, trial.attachment().volume_id, 128 << 20)


def _extend(trial: Trial, uuid: UUID, timeout: float | None) -> None:
    trial.driver.extend_volume(uuid, trial.attachment().volume_id, 128 << 20, timeout=timeout)


def _swappable(trial: Trial, uuid: UUID) -> None:
    trial.driver.spawn(trial.spec(uuid=uuid, volumes=(trial.attachment(),)))
    # a hypervisor may copy only to a volume of the same size
    spec = VolumeSpec(name=_volume_name(trial), size_bytes=64 << 20)
    trial.notes["volume"] = VolumeAttachment(volume=trial.driver.create_volume(spec))


def _after_swap(trial: Trial, uuid: UUID) -> None:
    trial.driver.destroy(uuid)
    _delete_named(trial, uuid)


def _swap(trial: Trial, uuid: UUID, timeout: float | None) -> object:
    volume_id = trial.attachment().volume_id
    return trial.driver.swap_volume(uuid, volume_id, trial.notes["volume"], timeout=timeout)


def _plug(trial: Trial, uuid: UUID, timeout: float | None) -> object:
    return trial.driver.plug_vif(uuid, trial.target.vif("hvct-nic"), timeout=timeout)


def _rescue(trial: Trial, uuid: UUID, timeout: float | None) -> None:
    trial.driver.rescue(uuid, trial.target.image(), timeout=timeout)


def _rescued(trial: Trial, uuid: UUID) -> None:
    _stopped(trial, uuid)
    _rescue(trial, uuid, None)


def _rebuild(trial: Trial, uuid: UUID, timeout: float | None) -> None:
    trial.driver.rebuild(uuid, trial.target.image(), timeout=timeout)


def _resize(trial: Trial, uuid: UUID, timeout: float | None) -> None:
    flavor = trial.target.flavor
    larger = flavor.model_copy(update={"vcpus": flavor.vcpus + 1, "disk_gib": flavor.disk_gib + 1})
    trial.driver.resize(uuid, larger, timeout=timeout)


def _elastic(trial: Trial, uuid: UUID) -> None:
    flavor = trial.target.flavor
    most = {"max_vcpus": 4, "max_memory_mib": flavor.memory_mib * 4}
    has = {
        "max_vcpus": Capability.HOT_RESIZE_CPU,
        "max_memory_mib": Capability.HOT_RESIZE_MEMORY,
    }
    update = {name: value for name, value in most.items() if trial.has(has[name])}
    trial.driver.spawn(trial.spec(uuid=uuid, flavor=flavor.model_copy(update=update)))
    trial.target.wait_booted(trial.driver, uuid)


def _hot_memory(trial: Trial, uuid: UUID, timeout: float | None) -> None:
    # memory comes in blocks of 128 MiB on x86_64
    trial.driver.hot_resize_memory(uuid, trial.target.flavor.memory_mib + 128, timeout=timeout)


def _with_snapshot(trial: Trial, uuid: UUID) -> None:
    _stopped(trial, uuid)
    trial.notes["snapshot"] = trial.driver.create_snapshot(uuid, "hvct").id


def _delete_snapshot(trial: Trial, uuid: UUID, timeout: float | None) -> None:
    trial.driver.delete_snapshot(uuid, trial.notes["snapshot"], timeout=timeout)


def _revert(trial: Trial, uuid: UUID, timeout: float | None) -> None:
    trial.driver.revert_snapshot(uuid, trial.notes["snapshot"], timeout=timeout)


def _share(trial: Trial) -> Share:
    return Share(tag="hvct", path=trial.target.shared_directories()[0])


def _attach_share(trial: Trial, uuid: UUID, timeout: float | None) -> None:
    trial.driver.attach_share(uuid, _share(trial), timeout=timeout)


def _with_share(trial: Trial, uuid: UUID) -> None:
    _stopped(trial, uuid)
    _attach_share(trial, uuid, None)


def _prepared(trial: Trial, uuid: UUID) -> None:
    _stopped(trial, uuid)
    trial.notes["move"] = trial.driver.prepare_move(uuid)


def _finish_move(trial: Trial, _uuid: UUID, timeout: float | None) -> None:
    trial.driver.finish_move(trial.notes["move"], timeout=timeout)


def _finished(trial: Trial, uuid: UUID) -> None:
    _prepared(trial, uuid)
    _finish_move(trial, uuid, None)


def _agent(trial: Trial, uuid: UUID) -> None:
    _running(trial, uuid)
    trial.target.wait_booted(trial.driver, uuid)


def _empty_host(trial: Trial, _uuid: UUID) -> None:
    on = {"running", "paused", "rescued"}
    if any(each.state in on for each in trial.driver.list_foreign()):
        raise PreconditionMissing("foreign machines are powered on")


def _in_maintenance(trial: Trial, uuid: UUID) -> None:
    _empty_host(trial, uuid)
    trial.driver.enter_maintenance()


def _leave_maintenance(trial: Trial, _uuid: UUID) -> None:
    if trial.has(Capability.MAINTENANCE):
        trial.driver.exit_maintenance()


def _in_first_pool(trial: Trial, uuid: UUID) -> None:
    pools = [pool.name for pool in trial.driver.get_available_resource().storage]
    if len(pools) < 2:
        raise PreconditionMissing("the host has one storage pool: there is nowhere to move to")
    _stopped(trial, uuid)
    trial.driver.migrate_storage(uuid, pools[0])
    trial.notes["pool"] = pools[1]


def _migrate_storage(trial: Trial, uuid: UUID, timeout: float | None) -> None:
    trial.driver.migrate_storage(uuid, trial.notes["pool"], timeout=timeout)


PLANS: dict[str, Plan] = {
    "spawn": Plan(
        lambda t, uuid, s: t.driver.spawn(t.spec(uuid=uuid, **_everything(t)), timeout=s),
        _attachment_made,
        refused=(errors.InstanceExists,),
        atomic=True,
    ),
    "destroy": Plan(
        _op("destroy"),
        lambda t, uuid: t.driver.spawn(t.spec(uuid=uuid, **_everything(t))),
    ),
    "prepare_move": Plan(_op("prepare_move"), _stopped, atomic=True),
    "finish_move": Plan(_finish_move, _prepared, atomic=True),
    "confirm_move": Plan(_op("confirm_move"), _finished),
    "revert_move": Plan(_op("revert_move"), _finished),
    "rename": Plan(_op("rename", "hvct-renamed"), _stopped, atomic=True),
    "set_metadata": Plan(_op("set_metadata", {"a": "b"}), _stopped, atomic=True),
    "power_on": Plan(_op("power_on"), _stopped, atomic=True),
    "power_off": Plan(_op("power_off"), _running, atomic=True),
    "reboot": Plan(_op("reboot"), _running),
    "pause": Plan(_op("pause"), _running, atomic=True),
    "unpause": Plan(_op("unpause"), _then(_running, "pause"), atomic=True),
    "start_paused": Plan(_op("start_paused"), _stopped, atomic=True),
    "suspend": Plan(_op("suspend"), _running),
    "resume": Plan(_op("resume"), _then(_running, "suspend")),
    "rescue": Plan(_rescue, _stopped, refused=(errors.InvalidState,)),
    "unrescue": Plan(_op("unrescue"), _rescued, refused=(errors.InvalidState,)),
    "rebuild": Plan(_rebuild, _stopped),
    "resize": Plan(_resize, _stopped),
    "hot_resize_cpu": Plan(_op("hot_resize_cpu", 2), _elastic),
    "hot_resize_memory": Plan(_hot_memory, _elastic),
    "inject_nmi": Plan(_op("inject_nmi"), _running),
    "attach_volume": Plan(_attach, _attachable, atomic=True, needs=(Capability.HOST_VOLUMES,)),
    "detach_volume": Plan(
        lambda t, uuid, s: t.driver.detach_volume(uuid, t.attachment().volume_id, timeout=s),
        _with_volume,
        needs=(Capability.HOST_VOLUMES,),
    ),
    "set_disk_qos": Plan(_qos, _with_volume, atomic=True, needs=(Capability.HOST_VOLUMES,)),
    "extend_volume": Plan(_extend, _growable, needs=(Capability.HOST_VOLUMES,)),
    "swap_volume": Plan(
        _swap,
        _swappable,
        _after_swap,
        refused=(errors.VolumeNotFound, errors.DeviceBusy),
        needs=(Capability.HOST_VOLUMES,),
    ),
    "migrate_storage": Plan(_migrate_storage, _in_first_pool, atomic=True),
    "create_volume": Plan(
        _create_volume, reset=_delete_named, refused=(errors.VolumeExists,), atomic=True
    ),
    "delete_volume": Plan(
        _delete_volume,
        _deletable,
        _delete_named,
        atomic=True,
    ),
    "plug_vif": Plan(_plug, _stopped, atomic=True),
    "unplug_vif": Plan(_op("unplug_vif", "hvct-nic"), _with_nic),
    "reconnect": Plan(_reconnect, _with_nic, atomic=True),
    "set_vif_qos": Plan(
        _vif_qos,
        _with_nic,
        atomic=True,
    ),
    "attach_share": Plan(_attach_share, _stopped, atomic=True),
    "detach_share": Plan(_op("detach_share", "hvct"), _with_share),
    "create_snapshot": Plan(
        _op("create_snapshot", "hvct"), _stopped, refused=(errors.InvalidRequest,), atomic=True
    ),
    "revert_snapshot": Plan(_revert, _with_snapshot),
    "delete_snapshot": Plan(_delete_snapshot, _with_snapshot),
    "begin_backup": Plan(_op("begin_backup"), _running, refused=(errors.DeviceBusy,)),
    "end_backup": Plan(_op("end_backup"), _then(_running, "begin_backup")),
    "set_guest_password": Plan(_op("set_guest_password", "root", SecretStr("hvct-secret")), _agent),
    "freeze": Plan(_op("freeze"), _agent),
    "thaw": Plan(_op("thaw"), _then(_agent, "freeze")),
    "guest_exec": Plan(_op("guest_exec", ["/bin/true"]), _agent),
    "enter_maintenance": Plan(
        lambda t, _, s: t.driver.enter_maintenance(timeout=s), _empty_host, _leave_maintenance
    ),
    "exit_maintenance": Plan(
        lambda t, _, s: t.driver.exit_maintenance(timeout=s),
        _in_maintenance,
        _leave_maintenance,
    ),
}
"""The changes that can be made again and again on one host. Those that are not here: adopt and
migration (they need another machine or host), host_power, and what changes only the image cache or
a file of the caller."""


def _crashed(trial: Trial, uuid: UUID) -> None:
    trial.unless(Limit.NEVER_CRASHED)
    _running(trial, uuid)
    trial.target.crash(trial.driver, uuid)


_paused, _suspended = _then(_running, "pause"), _then(_running, "suspend")
_paused_then_suspended = _then(_paused, "suspend")
_PAUSE, _SUSPEND = (Capability.PAUSE,), (Capability.SUSPEND,)

FROM_OTHER_STATES: dict[str, dict[str, Plan]] = {
    "power_on": {
        "suspended": Plan(_op("power_on"), _suspended, needs=_SUSPEND),
        "paused, suspended": Plan(
            _op("power_on"), _paused_then_suspended, needs=(*_PAUSE, *_SUSPEND)
        ),
        "crashed": Plan(_op("power_on"), _crashed),
    },
    "power_off": {
        "paused": Plan(_op("power_off"), _paused, needs=_PAUSE),
        "suspended": Plan(_op("power_off"), _suspended, needs=_SUSPEND),
        "crashed": Plan(_op("power_off"), _crashed, atomic=True),
    },
    "reboot": {
        "paused": Plan(_op("reboot"), _paused, needs=_PAUSE),
        "crashed": Plan(_op("reboot"), _crashed),
    },
    "rebuild": {"running": Plan(_rebuild, _running)},
    "suspend": {"paused": Plan(_op("suspend"), _paused, needs=(*_PAUSE, *_SUSPEND))},
    "resume": {
        "paused, suspended": Plan(_op("resume"), _paused_then_suspended, needs=(*_PAUSE, *_SUSPEND))
    },
    "set_metadata": {
        "suspended": Plan(_op("set_metadata", {"a": "b"}), _suspended, needs=_SUSPEND),
    },
    "destroy": {
        "running": Plan(_op("destroy"), _running),
        "suspended": Plan(_op("destroy"), _suspended, needs=_SUSPEND),
    },
}
"""Changes that a driver makes in another way, with more calls, from these states."""
