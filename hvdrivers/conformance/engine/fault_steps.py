"""What a plan of fault checks does: the steps that prepare it, and the calls of the operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

from hvdrivers.conformance.engine.assertions import free_slice
from hvdrivers.conformance.engine.field_values import disk_qos, vif_qos
from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.group import ServerGroup, ServerGroupPolicy
from hvdrivers.models.guest import Share
from hvdrivers.models.instance import InstanceSpec
from hvdrivers.models.vif import Bandwidth, VifQos
from hvdrivers.models.volume import DiskQos, Volume, VolumeAttachment, VolumeSpec

Call = Callable[[Trial, UUID, float | None], object]
Step = Callable[[Trial, UUID], object]


def nothing(_trial: Trial, _uuid: UUID) -> None:
    pass


def spawned(*, start: bool, **changes: Any) -> Step:
    return lambda trial, uuid: trial.driver.spawn(trial.spec(uuid=uuid, start=start, **changes))


stopped, running = spawned(start=False), spawned(start=True)


def then(first: Step, name: str, *args: Any, **kwargs: Any) -> Step:
    def prepare(trial: Trial, uuid: UUID) -> None:
        first(trial, uuid)
        getattr(trial.driver, name)(uuid, *args, **kwargs)

    return prepare


def op(name: str, *args: Any, **kwargs: Any) -> Call:
    return lambda trial, uuid, timeout: getattr(trial.driver, name)(
        uuid, *args, timeout=timeout, **kwargs
    )


def guest_op(name: str, *args: Any) -> Call:
    """An operation of the guest's agent, with an account if it always asks for one."""
    return lambda trial, uuid, timeout: getattr(trial.driver, name)(
        uuid, *args, credentials=trial.target.guest_account(trial.driver, uuid), timeout=timeout
    )


def everything(trial: Trial) -> dict[str, Any]:
    changes = {**trial.everything(), "start": False}
    if trial.has(Capability.VGPU) and (wanted := free_slice(trial)) is not None:
        changes["vgpus"] = (wanted,)
    return changes


def _member(trial: Trial, uuid: UUID) -> InstanceSpec:
    name = f"{trial.journal.prefix}cut"
    group = ServerGroup(name=name, policy=ServerGroupPolicy.ANTI_AFFINITY)
    return trial.spec(uuid=uuid, server_group=group, start=False)


def _other(trial: Trial) -> UUID:
    if "member" not in trial.notes:
        trial.notes["member"] = uuid4()
        trial.will_destroy(trial.notes["member"])
    found: UUID = trial.notes["member"]
    return found


def other_member(trial: Trial, _uuid: UUID) -> None:
    trial.driver.spawn(_member(trial, _other(trial)))


def both_members(trial: Trial, uuid: UUID) -> None:
    other_member(trial, uuid)
    trial.driver.spawn(_member(trial, uuid))


def no_other_member(trial: Trial, _uuid: UUID) -> None:
    trial.driver.destroy(_other(trial))


def spawn_member(trial: Trial, uuid: UUID, timeout: float | None) -> None:
    trial.driver.spawn(_member(trial, uuid), timeout=timeout)


def attachment_made(trial: Trial, _uuid: UUID) -> None:
    """The volume is made beforehand, so that making it is not one of the calls."""
    everything(trial)


def volume_name(trial: Trial) -> str:
    return f"{trial.journal.prefix}cut"


def create_volume(trial: Trial, _uuid: UUID, timeout: float | None) -> Volume:
    spec = VolumeSpec(name=volume_name(trial), size_bytes=1 << 20)
    return trial.driver.create_volume(spec, timeout=timeout)


def delete_named(trial: Trial, _uuid: UUID) -> None:
    for each in trial.driver.list_volumes():
        if volume_name(trial) in each.name:  # the hypervisor's own contains it
            trial.driver.delete_volume(each.volume_id)


def deletable(trial: Trial, uuid: UUID) -> None:
    trial.notes["volume"] = create_volume(trial, uuid, None).volume_id


def delete_volume(trial: Trial, _uuid: UUID, timeout: float | None) -> None:
    trial.driver.delete_volume(trial.notes["volume"], timeout=timeout)


def with_volume(trial: Trial, uuid: UUID) -> None:
    trial.driver.spawn(trial.spec(uuid=uuid, start=False, volumes=(trial.attachment(),)))


def with_nic(trial: Trial, uuid: UUID) -> None:
    trial.driver.spawn(trial.spec(uuid=uuid, start=False, vifs=(trial.target.vif("hvct-nic"),)))


def reconnect(trial: Trial, uuid: UUID, timeout: float | None) -> None:
    trial.driver.reconnect(uuid, vifs=(trial.target.vif("hvct-nic"),), timeout=timeout)


def attachable(trial: Trial, uuid: UUID) -> None:
    trial.attachment()
    stopped(trial, uuid)


def attach(trial: Trial, uuid: UUID, timeout: float | None) -> object:
    return trial.driver.attach_volume(uuid, trial.attachment(), timeout=timeout)


def limit_disk(trial: Trial, uuid: UUID, timeout: float | None) -> None:
    limits = disk_qos(trial, DiskQos(total_iops_sec=100))
    volume_id = trial.attachment().volume_id
    trial.driver.set_disk_qos(uuid, volume_id, limits, timeout=timeout)


def limit_vif(trial: Trial, uuid: UUID, timeout: float | None) -> None:
    limits = vif_qos(trial, VifQos(inbound=Bandwidth(average=1000)))
    trial.driver.set_vif_qos(uuid, "hvct-nic", limits, timeout=timeout)


def growable(trial: Trial, uuid: UUID) -> None:
    with_volume(trial, uuid)
    trial.target.grow_volume(trial.driver, trial.attachment().volume_id, 128 << 20)


def extend(trial: Trial, uuid: UUID, timeout: float | None) -> None:
    trial.driver.extend_volume(uuid, trial.attachment().volume_id, 128 << 20, timeout=timeout)


def swappable(trial: Trial, uuid: UUID) -> None:
    trial.driver.spawn(trial.spec(uuid=uuid, volumes=(trial.attachment(),)))
    # a hypervisor may copy only to a volume of the same size
    spec = VolumeSpec(name=volume_name(trial), size_bytes=64 << 20)
    trial.notes["volume"] = VolumeAttachment(volume=trial.driver.create_volume(spec))


def after_swap(trial: Trial, uuid: UUID) -> None:
    trial.driver.destroy(uuid)
    delete_named(trial, uuid)


def swap(trial: Trial, uuid: UUID, timeout: float | None) -> object:
    volume_id = trial.attachment().volume_id
    return trial.driver.swap_volume(uuid, volume_id, trial.notes["volume"], timeout=timeout)


def plug(trial: Trial, uuid: UUID, timeout: float | None) -> object:
    return trial.driver.plug_vif(uuid, trial.target.vif("hvct-nic"), timeout=timeout)


def rescue(trial: Trial, uuid: UUID, timeout: float | None) -> None:
    trial.driver.rescue(uuid, trial.target.image(), timeout=timeout)


def rescued(trial: Trial, uuid: UUID) -> None:
    stopped(trial, uuid)
    rescue(trial, uuid, None)


def rebuild(trial: Trial, uuid: UUID, timeout: float | None) -> None:
    trial.driver.rebuild(uuid, trial.target.image(), timeout=timeout)


def resize(trial: Trial, uuid: UUID, timeout: float | None) -> None:
    flavor = trial.target.flavor
    larger = flavor.model_copy(update={"vcpus": flavor.vcpus + 1, "disk_gib": flavor.disk_gib + 1})
    trial.driver.resize(uuid, larger, timeout=timeout)


def elastic(trial: Trial, uuid: UUID) -> None:
    flavor = trial.target.flavor
    most = {"max_vcpus": 4, "max_memory_mib": flavor.memory_mib * 4}
    has = {
        "max_vcpus": Capability.HOT_RESIZE_CPU,
        "max_memory_mib": Capability.HOT_RESIZE_MEMORY,
    }
    update = {name: value for name, value in most.items() if trial.has(has[name])}
    trial.driver.spawn(trial.spec(uuid=uuid, flavor=flavor.model_copy(update=update)))
    trial.target.wait_booted(trial.driver, uuid)


def hot_memory(trial: Trial, uuid: UUID, timeout: float | None) -> None:
    # memory comes in blocks of 128 MiB on x86_64
    trial.driver.hot_resize_memory(uuid, trial.target.flavor.memory_mib + 128, timeout=timeout)


def with_snapshot(trial: Trial, uuid: UUID) -> None:
    stopped(trial, uuid)
    trial.notes["snapshot"] = trial.driver.create_snapshot(uuid, "hvct").id


def delete_snapshot(trial: Trial, uuid: UUID, timeout: float | None) -> None:
    trial.driver.delete_snapshot(uuid, trial.notes["snapshot"], timeout=timeout)


def revert(trial: Trial, uuid: UUID, timeout: float | None) -> None:
    trial.driver.revert_snapshot(uuid, trial.notes["snapshot"], timeout=timeout)


def share(trial: Trial) -> Share:
    return Share(tag="hvct", path=trial.target.shared_directories()[0])


def attach_share(trial: Trial, uuid: UUID, timeout: float | None) -> None:
    trial.driver.attach_share(uuid, share(trial), timeout=timeout)


def with_share(trial: Trial, uuid: UUID) -> None:
    stopped(trial, uuid)
    attach_share(trial, uuid, None)


def prepared(trial: Trial, uuid: UUID) -> None:
    stopped(trial, uuid)
    trial.notes["move"] = trial.driver.prepare_move(uuid)


def finish_move(trial: Trial, _uuid: UUID, timeout: float | None) -> None:
    trial.driver.finish_move(trial.notes["move"], timeout=timeout)


def finished(trial: Trial, uuid: UUID) -> None:
    prepared(trial, uuid)
    finish_move(trial, uuid, None)


def agent(trial: Trial, uuid: UUID) -> None:
    running(trial, uuid)
    trial.target.wait_booted(trial.driver, uuid)


def empty_host(trial: Trial, _uuid: UUID) -> None:
    on = {"running", "paused", "rescued"}
    if any(each.state in on for each in trial.driver.list_foreign()):
        raise PreconditionMissing("foreign machines are powered on")


def in_maintenance(trial: Trial, uuid: UUID) -> None:
    empty_host(trial, uuid)
    trial.driver.enter_maintenance()


def leave_maintenance(trial: Trial, _uuid: UUID) -> None:
    if trial.has(Capability.MAINTENANCE):
        trial.driver.exit_maintenance()


def in_first_pool(trial: Trial, uuid: UUID) -> None:
    pools = [pool.name for pool in trial.driver.get_available_resource().storage]
    if len(pools) < 2:
        raise PreconditionMissing("the host has one storage pool: there is nowhere to move to")
    stopped(trial, uuid)
    trial.driver.migrate_storage(uuid, pools[0])
    trial.notes["pool"] = pools[1]


def migrate_storage(trial: Trial, uuid: UUID, timeout: float | None) -> None:
    trial.driver.migrate_storage(uuid, trial.notes["pool"], timeout=timeout)
