"""How each change is made so that it can be cut at any call and tried again: for ``faults.py``."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from pydantic import SecretStr

from hvdrivers.conformance.engine import fault_steps as steps
from hvdrivers.conformance.engine.fault_steps import Call, Step
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.limits import Limit

Errors = tuple[type[errors.HypervisorError], ...]


@dataclass(frozen=True)
class Plan:
    """One operation."""

    call: Call
    """Makes the call, with a timeout."""
    prepare: Step = steps.nothing
    """Makes what the call needs; the UUID is free before it."""
    reset: Step = steps.nothing
    """Removes what destroy() does not."""
    refused: Errors = ()
    """What the repeated call may raise if the first one had worked (``Repeat.REFUSED``)."""
    atomic: bool = False
    """All or nothing, also where the outcome was unknown."""
    needs: tuple[Capability, ...] = ()


PLANS: dict[str, Plan] = {
    "spawn": Plan(
        lambda t, uuid, s: t.driver.spawn(t.spec(uuid=uuid, **steps.everything(t)), timeout=s),
        steps.attachment_made,
        refused=(errors.InstanceExists,),
        atomic=True,
    ),
    "destroy": Plan(
        steps.op("destroy"),
        lambda t, uuid: t.driver.spawn(t.spec(uuid=uuid, **steps.everything(t))),
    ),
    "prepare_move": Plan(steps.op("prepare_move"), steps.stopped, atomic=True),
    "finish_move": Plan(steps.finish_move, steps.prepared, atomic=True),
    "confirm_move": Plan(steps.op("confirm_move"), steps.finished),
    "revert_move": Plan(steps.op("revert_move"), steps.finished),
    "rename": Plan(steps.op("rename", "hvct-renamed"), steps.stopped, atomic=True),
    "set_metadata": Plan(steps.op("set_metadata", {"a": "b"}), steps.stopped, atomic=True),
    "power_on": Plan(steps.op("power_on"), steps.stopped, atomic=True),
    "power_off": Plan(steps.op("power_off"), steps.running, atomic=True),
    "reboot": Plan(steps.op("reboot"), steps.running),
    "pause": Plan(steps.op("pause"), steps.running, atomic=True),
    "unpause": Plan(steps.op("unpause"), steps.then(steps.running, "pause"), atomic=True),
    "start_paused": Plan(steps.op("start_paused"), steps.stopped, atomic=True),
    "suspend": Plan(steps.op("suspend"), steps.running),
    "resume": Plan(steps.op("resume"), steps.then(steps.running, "suspend")),
    "rescue": Plan(steps.rescue, steps.stopped, refused=(errors.InvalidState,)),
    "unrescue": Plan(steps.op("unrescue"), steps.rescued, refused=(errors.InvalidState,)),
    "rebuild": Plan(steps.rebuild, steps.stopped),
    "resize": Plan(steps.resize, steps.stopped),
    "hot_resize_cpu": Plan(steps.op("hot_resize_cpu", 2), steps.elastic),
    "hot_resize_memory": Plan(steps.hot_memory, steps.elastic),
    "inject_nmi": Plan(steps.op("inject_nmi"), steps.running),
    "attach_volume": Plan(
        steps.attach, steps.attachable, atomic=True, needs=(Capability.HOST_VOLUMES,)
    ),
    "detach_volume": Plan(
        lambda t, uuid, s: t.driver.detach_volume(uuid, t.attachment().volume_id, timeout=s),
        steps.with_volume,
        needs=(Capability.HOST_VOLUMES,),
    ),
    "set_disk_qos": Plan(
        steps.limit_disk, steps.with_volume, atomic=True, needs=(Capability.HOST_VOLUMES,)
    ),
    "extend_volume": Plan(steps.extend, steps.growable, needs=(Capability.HOST_VOLUMES,)),
    "swap_volume": Plan(
        steps.swap,
        steps.swappable,
        steps.after_swap,
        refused=(errors.VolumeNotFound, errors.DeviceBusy),
        needs=(Capability.HOST_VOLUMES,),
    ),
    "migrate_storage": Plan(steps.migrate_storage, steps.in_first_pool, atomic=True),
    "create_volume": Plan(
        steps.create_volume, reset=steps.delete_named, refused=(errors.VolumeExists,), atomic=True
    ),
    "delete_volume": Plan(
        steps.delete_volume,
        steps.deletable,
        steps.delete_named,
        atomic=True,
    ),
    "plug_vif": Plan(steps.plug, steps.stopped, atomic=True),
    "unplug_vif": Plan(steps.op("unplug_vif", "hvct-nic"), steps.with_nic),
    "reconnect": Plan(steps.reconnect, steps.with_nic, atomic=True),
    "set_vif_qos": Plan(
        steps.limit_vif,
        steps.with_nic,
        atomic=True,
    ),
    "attach_share": Plan(steps.attach_share, steps.stopped, atomic=True),
    "detach_share": Plan(steps.op("detach_share", "hvct"), steps.with_share),
    "create_snapshot": Plan(
        steps.op("create_snapshot", "hvct"),
        steps.stopped,
        refused=(errors.InvalidRequest,),
        atomic=True,
    ),
    "revert_snapshot": Plan(steps.revert, steps.with_snapshot),
    "delete_snapshot": Plan(steps.delete_snapshot, steps.with_snapshot),
    "begin_backup": Plan(steps.op("begin_backup"), steps.running, refused=(errors.DeviceBusy,)),
    "end_backup": Plan(steps.op("end_backup"), steps.then(steps.running, "begin_backup")),
    "set_guest_password": Plan(
        steps.guest_op("set_guest_password", "root", SecretStr("hvct-secret")), steps.agent
    ),
    "freeze": Plan(steps.op("freeze"), steps.agent),
    "thaw": Plan(steps.op("thaw"), steps.then(steps.agent, "freeze")),
    "guest_exec": Plan(steps.guest_op("guest_exec", ["/bin/true"]), steps.agent),
    "enter_maintenance": Plan(
        lambda t, _, s: t.driver.enter_maintenance(timeout=s),
        steps.empty_host,
        steps.leave_maintenance,
    ),
    "exit_maintenance": Plan(
        lambda t, _, s: t.driver.exit_maintenance(timeout=s),
        steps.in_maintenance,
        steps.leave_maintenance,
    ),
}
"""The changes that can be made again and again on one host. Those that are not here: adopt and
migration (they need another machine or host), host_power, and what changes only the image cache or
a file of the caller."""


def _crashed(trial: Trial, uuid: UUID) -> None:
    trial.unless(Limit.NEVER_CRASHED)
    steps.running(trial, uuid)
    trial.target.crash(trial.driver, uuid)


_paused, _suspended = steps.then(steps.running, "pause"), steps.then(steps.running, "suspend")
_paused_then_suspended = steps.then(_paused, "suspend")
_GROUP = (Capability.SERVER_GROUP,)
_PAUSE, _SUSPEND = (Capability.PAUSE,), (Capability.SUSPEND,)

FROM_OTHER_STATES: dict[str, dict[str, Plan]] = {
    "power_on": {
        "suspended": Plan(steps.op("power_on"), _suspended, needs=_SUSPEND),
        "paused, suspended": Plan(
            steps.op("power_on"), _paused_then_suspended, needs=(*_PAUSE, *_SUSPEND)
        ),
        "crashed": Plan(steps.op("power_on"), _crashed),
    },
    "power_off": {
        "paused": Plan(steps.op("power_off"), _paused, needs=_PAUSE),
        "suspended": Plan(steps.op("power_off"), _suspended, needs=_SUSPEND),
        "crashed": Plan(steps.op("power_off"), _crashed, atomic=True),
    },
    "reboot": {
        "paused": Plan(steps.op("reboot"), _paused, needs=_PAUSE),
        "crashed": Plan(steps.op("reboot"), _crashed),
    },
    "rebuild": {"running": Plan(steps.rebuild, steps.running)},
    "suspend": {"paused": Plan(steps.op("suspend"), _paused, needs=(*_PAUSE, *_SUSPEND))},
    "resume": {
        "paused, suspended": Plan(
            steps.op("resume"), _paused_then_suspended, needs=(*_PAUSE, *_SUSPEND)
        )
    },
    "set_metadata": {
        "suspended": Plan(steps.op("set_metadata", {"a": "b"}), _suspended, needs=_SUSPEND),
    },
    "spawn": {
        "into a group": Plan(
            steps.spawn_member,
            steps.other_member,
            steps.no_other_member,
            refused=(errors.InstanceExists,),
            atomic=True,
            needs=_GROUP,
        ),
    },
    "destroy": {
        "from a group": Plan(
            steps.op("destroy"), steps.both_members, steps.no_other_member, needs=_GROUP
        ),
        "running": Plan(steps.op("destroy"), steps.running),
        "suspended": Plan(steps.op("destroy"), _suspended, needs=_SUSPEND),
    },
}
"""Changes that a driver makes in another way, with more calls, from these states."""
