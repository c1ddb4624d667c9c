"""Laws that hold for every operation alike: reads change nothing, a repeated call converges."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from uuid import UUID, uuid4

from hvdrivers.conformance.checks.states import CALLS
from hvdrivers.conformance.engine.assertions import STATE_NEEDS, booted, expect_no_boot, larger
from hvdrivers.conformance.engine.clauses import Case, check, clause
from hvdrivers.conformance.engine.field_values import disk_qos, limiting_a_nic, vif_qos
from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.driver import OPERATIONS, ComputeDriver, state_table
from hvdrivers.contract.operation import Repeat
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import Bandwidth, VifQos
from hvdrivers.models.volume import DiskQos

LAW_001 = clause("LAW-001", "a read changes nothing, and reads the same again")
LAW_002 = clause(
    "LAW-002",
    "an operation that converges succeeds a second time, on any connection, and changes nothing"
    " more",
)
LAW_003 = clause(
    "LAW-003",
    "what changes a running machine and leaves it RUNNING does not start its guest anew, but for"
    " reboot() and rebuild()",
)

LAW_004 = clause(
    "LAW-004",
    "an error tells by retryable whether to wait helps: DeviceBusy may pass, unless something has"
    " to be removed first; a wrong request or state does not",
)
LAW_007 = clause(
    "LAW-007",
    "get_instance() and list_instances() agree about every instance, in every state and on every"
    " connection (tried here, and after every check)",
)

Step = Callable[[Trial, UUID], object]

READS: dict[str, Callable[[ComputeDriver], object]] = {
    "ping": lambda driver: driver.ping(),
    "host": lambda driver: driver.host(),
    "list_instances": lambda driver: sorted(each.uuid for each in driver.list_instances()),
    "list_foreign": lambda driver: sorted(each.uuid for each in driver.list_foreign()),
    "get_available_resource": lambda driver: driver.get_available_resource().cpu.total,
    "placement_inventories": lambda driver: [each.name for each in driver.placement_inventories()],
    "get_volume_connector": lambda driver: driver.get_volume_connector(),
    "get_metrics": lambda driver: len(driver.get_metrics()),
}


@check(LAW_001, cases=[Case(name, (call,)) for name, call in READS.items()])
def reads_leave_all_as_it_is(trial: Trial, call: Callable[[ComputeDriver], object]) -> None:
    trial.spawn(start=False)
    with trial.unchanged():
        first = call(trial.driver)
        trial.equal(call(trial.driver), first, "the second reply")
        trial.equal(call(trial.connect()), first, "the reply on another connection")


_TRIED = (
    InstanceState.STOPPED,
    InstanceState.RUNNING,
    InstanceState.PAUSED,
    InstanceState.SUSPENDED,
    InstanceState.RESCUED,
)


@check(
    LAW_007,
    cases=[
        Case(state, (state,), needs=frozenset({STATE_NEEDS[state]} if state in STATE_NEEDS else ()))
        for state in (*_TRIED, InstanceState.CRASHED)
    ],
)
def get_and_list_agree(trial: Trial, state: InstanceState) -> None:
    uuid = trial.in_state(state)
    trial.expect_agreement(trial.driver, trial.other)
    trial.equal(trial.state(uuid), state, "state")
    trial.driver.set_metadata(uuid, {"hvct.law": "agree"})
    trial.expect_agreement(trial.driver, trial.other)
    trial.driver.power_off(uuid)
    trial.expect_agreement(trial.driver, trial.other)
    trial.driver.rename(uuid, f"{trial.journal.prefix}law")
    trial.expect_agreement(trial.driver, trial.other)


def _converging() -> Iterator[Case]:
    for name, row in state_table().items():
        rules = OPERATIONS.get(name)
        if rules is None or not rules.changes or rules.repeat is not Repeat.CONVERGES:
            continue
        if name not in CALLS or name == "destroy":
            continue
        legal = [state for state in _TRIED if row[state].legal]
        # a change of state is told apart from none at all
        moving = [
            state
            for state in legal
            if isinstance(after := row[state].after(state), InstanceState)
            and after is not state
            and row[after].legal
        ]
        for state in (moving or legal)[:1]:
            needs = {rules.capability} if rules.capability is not None else set()
            needs |= {STATE_NEEDS[state]} if state in STATE_NEEDS else set()
            if name == "attach_volume":
                needs.add(Capability.HOST_VOLUMES)
            yield Case(name, (name, state), needs=frozenset(needs))


@check(LAW_002, cases=_converging())
def converges(trial: Trial, name: str, state: InstanceState) -> None:
    uuid = trial.in_state(state)
    call = CALLS[name]
    call(trial, uuid)
    with trial.unchanged():
        call(trial, uuid)
    other = Trial(trial.target, trial.connect(), trial.journal)
    if name != "attach_volume":  # its argument is made by the trial that it belongs to
        with trial.unchanged():
            call(other, uuid)
            other.check(True, "")


def _volume_comes_and_goes(trial: Trial, uuid: UUID) -> None:
    volume = trial.driver.attach_volume(uuid, trial.attachment()).volume_id
    if trial.has(Capability.DISK_QOS):
        trial.driver.set_disk_qos(uuid, volume, disk_qos(trial, DiskQos(total_iops_sec=100)))
    if trial.has(Capability.EXTEND_VOLUME):
        size = next(each.size_bytes for each in trial.driver.get_instance(uuid).volumes)
        trial.driver.extend_volume(uuid, volume, size or 64 << 20)
    trial.driver.detach_volume(uuid, volume)


def _nic_comes_and_goes(trial: Trial, uuid: UUID) -> None:
    trial.driver.plug_vif(uuid, trial.target.vif("hvct-nic"))
    if trial.has(Capability.VIF_QOS):
        limits = vif_qos(trial, VifQos(inbound=Bandwidth(average=1000)))
        with suppress(PreconditionMissing), limiting_a_nic(trial):
            trial.driver.set_vif_qos(uuid, "hvct-nic", limits)
    trial.driver.unplug_vif(uuid, "hvct-nic")


def _snapshot_comes_and_goes(trial: Trial, uuid: UUID) -> None:
    made = trial.driver.create_snapshot(uuid, "hvct")
    trial.driver.delete_snapshot(uuid, made.id)


def _backup_comes_and_goes(trial: Trial, uuid: UUID) -> None:
    trial.driver.end_backup(uuid, trial.driver.begin_backup(uuid).id)


def _freezes(trial: Trial, uuid: UUID) -> None:
    trial.driver.freeze(uuid)
    trial.driver.thaw(uuid)


def _grows(trial: Trial, uuid: UUID) -> None:
    flavor = trial.driver.get_instance(uuid).flavor
    if flavor.max_vcpus is not None:
        trial.driver.hot_resize_cpu(uuid, flavor.max_vcpus)
    if flavor.max_memory_mib is not None:
        trial.driver.hot_resize_memory(uuid, flavor.max_memory_mib)


def _disks_move(trial: Trial, uuid: UUID) -> None:
    for pool in trial.driver.get_available_resource().storage:
        trial.driver.migrate_storage(uuid, pool.name)


GENTLE: dict[str, tuple[Step, frozenset[Capability]]] = {
    "rename": (CALLS["rename"], frozenset({Capability.HOT_RENAME})),
    "set_metadata": (CALLS["set_metadata"], frozenset()),
    "volumes": (_volume_comes_and_goes, frozenset({Capability.HOST_VOLUMES})),
    "nics": (_nic_comes_and_goes, frozenset()),
    "snapshots": (_snapshot_comes_and_goes, frozenset({Capability.SNAPSHOTS})),
    "backups": (_backup_comes_and_goes, frozenset({Capability.INCREMENTAL_BACKUP})),
    "freeze": (_freezes, frozenset({Capability.GUEST_FREEZE})),
    "hot_resize_cpu": (_grows, frozenset({Capability.HOT_RESIZE_CPU})),
    "hot_resize_memory": (_grows, frozenset({Capability.HOT_RESIZE_MEMORY})),
    "migrate_storage": (_disks_move, frozenset({Capability.STORAGE_MIGRATION})),
}
"""What may be done to a running machine without its guest being started anew."""


@check(LAW_003)
def guest_runs_on(trial: Trial) -> None:
    flavor = trial.target.flavor
    more = {}
    if trial.has(Capability.HOT_RESIZE_CPU):
        more["max_vcpus"] = flavor.vcpus + 1
    if trial.has(Capability.HOT_RESIZE_MEMORY):
        more["max_memory_mib"] = flavor.memory_mib + 128
    uuid = trial.spawn(flavor=larger(flavor, **more)).uuid
    starts = booted(trial, uuid)
    for name, (step, needs) in GENTLE.items():
        if all(map(trial.has, needs)):
            step(trial, uuid)
            trial.equal(trial.state(uuid), InstanceState.RUNNING, f"state after {name}")
            expect_no_boot(trial, uuid, starts, f"after {name}")


@check(LAW_004)
def says_whether_to_retry(trial: Trial) -> None:
    driver, on, off = trial.driver, trial.spawn().uuid, trial.spawn(start=False).uuid
    refused: list[tuple[type[errors.HypervisorError], Callable[[], object]]] = [
        (errors.InstanceExists, lambda: driver.spawn(trial.spec(uuid=on))),
        (errors.InstanceNotFound, lambda: driver.power_on(uuid4())),
        (errors.InvalidRequest, lambda: driver.rename(off, " ")),
        (errors.InvalidState, lambda: driver.reboot(off)),
    ]
    with suppress(PreconditionMissing):
        nowhere = trial.target.vif_to_nowhere("hvct-nowhere")
        refused.append((errors.NetworkNotFound, lambda: driver.plug_vif(off, nowhere)))
    if trial.has(Capability.HOST_VOLUMES):
        driver.attach_volume(on, trial.attachment())
        busy = trial.attachment()
        refused.append((errors.DeviceBusy, lambda: driver.attach_volume(off, busy)))
    for kind, call in refused:
        with trial.raises(kind) as caught:
            call()
        trial.equal(caught[0].retryable, kind.retryable_default, f"retryable of {caught[0]!r}")


def _delete_attached(trial: Trial) -> None:
    trial.spawn(start=False, volumes=(trial.attachment(),))
    trial.driver.delete_volume(trial.attachment().volume_id)


def _evict_used(trial: Trial) -> None:
    trial.driver.evict_image(trial.spawn(start=False).image or "")


def _rebuild_with_snapshot(trial: Trial) -> None:
    uuid = trial.spawn(start=False).uuid
    trial.driver.create_snapshot(uuid, "hvct")
    trial.driver.rebuild(uuid, trial.target.image())


@check(
    LAW_004,
    cases=[
        Case("delete_volume", (_delete_attached,), needs=frozenset({Capability.HOST_VOLUMES})),
        Case("evict_image", (_evict_used,), needs=frozenset({Capability.IMAGE_CACHE})),
        Case(
            "rebuild",
            (_rebuild_with_snapshot,),
            needs=frozenset({Capability.REBUILD, Capability.SNAPSHOTS}),
        ),
    ],
)
def does_not_pass_by_itself(trial: Trial, call: Callable[[Trial], None]) -> None:
    with trial.raises(errors.DeviceBusy) as caught:
        call(trial)
    trial.check(not caught[0].retryable, f"it says that to wait helps: {caught[0]!r}")
