"""What one thread does to its instance on one host, and what it looks at."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.driver import OPERATIONS
from hvdrivers.contract.power import RebootKind
from hvdrivers.models.instance import CpuPolicy, Flavor, InstanceSpec
from hvdrivers.models.snapshot import Snapshot
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import PoolVolume, VolumeAttachment
from tests.soak.errors import Violation
from tests.soak.further import Further
from tests.soak.hosts import image_of, uuid_of
from tests.soak.model import Expected

if TYPE_CHECKING:
    from tests.soak.client import Client

_MOST_CPUS = 3
_MOST_SNAPSHOTS = 4
_BLOCK_MIB = 128
"""Memory is plugged in such blocks."""


def _own_disks(flavor: Flavor) -> dict[str, int]:
    """The sizes of a flavor that resize() cannot change."""
    return {"ephemeral_gib": flavor.ephemeral_gib, "swap_mib": flavor.swap_mib}


def _descendants(point: Snapshot, found: Sequence[Snapshot]) -> set[str]:
    """The names of the snapshots below this one. Parents come before their children."""
    below = {point.id}
    names = set()
    for each in found:
        if each.parent in below:
            below.add(each.id)
            names.add(each.name)
    return names


class Worker:
    """One thread's instance on one host."""

    def __init__(
        self, client: Client, host: Mapping[str, Any], index: int, thread: int, rng: random.Random
    ) -> None:
        self.client = client
        self.host = host
        self.driver = client.drivers[index]
        self.rng = rng
        self.uuid = uuid_of(client.config["seed"], client.number, thread, index)
        self.volumes: list[str] = host["volumes"][thread][:2]
        self.spare: str = host["volumes"][thread][2]
        """To which the content of the first one may be moved."""
        self.nic = f"nic-{self.uuid}" if host["vif"] is not None else None
        """The id of a NIC that comes and goes; None where the host has no network."""
        self._further = Further(self)
        self.flavor = Flavor.model_validate(host["flavor"])
        self.model = self._expected(known=client.config["fresh"])

    def step(self) -> None:
        """One random operation, and often a look at what it did."""
        try:
            self._act()
            if self.rng.random() < 0.4:
                self._look()
        except Violation as violation:
            self.client.violated(str(violation), self.uuid)
            self.model = self._expected(known=False)

    def _expected(self, *, known: bool) -> Expected:
        model = Expected(
            known=known,
            forgets_crashes=self.host["forgets_crashes"],
            runs_to_the_end=self.host["runs_to_the_end"],
            capabilities=self.driver.capabilities,
        )
        devices = [*self.volumes, self.spare, *([self.nic] if self.nic else [])]
        model.attached = dict.fromkeys(devices, False if known else None)
        if not known:
            model.taken_over(devices)
        return model

    # -- changes ----------------------------------------------------------------------------------

    def _act(self) -> None:
        if None in self.model.possible and self.rng.random() < 0.8:
            self._spawn()
            return
        actions: list[tuple[float, Callable[[], object]]] = [
            (3, lambda: self.plain("power_on")),
            (2, lambda: self.plain("power_off")),
            (1, lambda: self.plain("reboot", RebootKind.HARD)),
            (4, self._attach),
            (4, self._detach),
            (2, self._metadata),
            (1.5, lambda: self.plain("destroy")),
            (0.5, self._spawn),
            (1, self._bulk),
        ]
        for operation, weight in (("pause", 1), ("unpause", 2), ("suspend", 1), ("resume", 2)):
            if self.driver.why_not(OPERATIONS[operation].capability) is None:  # type: ignore[arg-type]
                actions.append((weight, lambda operation=operation: self.plain(operation)))  # type: ignore[misc]
        for operation, weight, act in (
            ("rename", 0.7, self._rename),
            ("resize", 1, self._resize),
            ("hot_resize_cpu", 0.7, self._hot_cpu),
            ("hot_resize_memory", 0.7, self._hot_memory),
            ("rebuild", 0.7, self._rebuild),
            ("snapshot_to_image", 0.7, self._copy_out),
            ("extend_volume", 0.7, self._extend),
            ("create_snapshot", 0.7, self._snapshot),
            ("revert_snapshot", 0.5, self._revert),
            ("delete_snapshot", 0.6, self._forget),
            ("rescue", 0.5, self._rescue),
            ("unrescue", 0.5, lambda: self.plain("unrescue")),
            *self._further.actions(),
        ):
            if self._can(OPERATIONS[operation].capability):
                actions.append((weight, act))
        weights = [weight for weight, _ in actions]
        self.rng.choices([action for _, action in actions], weights)[0]()

    def _can(self, capability: Capability | None) -> bool:
        return capability is None or self.driver.why_not(capability) is None

    def _flavor(self, *, disks: bool) -> Flavor:
        """The host's flavor, or one with room to grow, or one with more disks."""
        changes: dict[str, object] = {}
        base = Flavor.model_validate(self.host["flavor"])
        if self._can(Capability.HOT_RESIZE_CPU) and self.rng.random() < 0.5:
            changes["max_vcpus"] = _MOST_CPUS
        if self._can(Capability.HOT_RESIZE_MEMORY) and self.rng.random() < 0.5:
            changes["max_memory_mib"] = base.memory_mib + 2 * _BLOCK_MIB
        if disks and self._can(Capability.EPHEMERAL_DISK) and self.rng.random() < 0.3:
            changes["ephemeral_gib"] = 1
        if disks and self._can(Capability.SWAP_DISK) and self.rng.random() < 0.3:
            changes["swap_mib"] = 8
        if self._can(Capability.CPU_PINNING) and self.rng.random() < 0.4:
            changes["cpu_policy"] = CpuPolicy.DEDICATED
        if self._can(Capability.HUGEPAGES) and self.rng.random() < 0.3:
            changes["page_size_kib"] = 2048
        return base.model_copy(update=changes)

    def _spawn(self) -> None:
        started = self.rng.random() < 0.8
        self.flavor = self._flavor(disks=True)
        spec = InstanceSpec(
            uuid=self.uuid,
            name=f"soak-{self.client.number}",
            flavor=self.flavor,
            image=image_of(self.host),
            start=started,
        )
        try:
            self.client.call(
                self.uuid, "spawn", lambda timeout: self.driver.spawn(spec, timeout=timeout)
            )
        except errors.HypervisorError as error:
            self.model.failed("spawn", error, started=started)
        else:
            self.model.succeeded("spawn", started=started)
            for what, value in (
                ("name", spec.name),
                ("vcpus", spec.flavor.vcpus),
                ("memory_mib", spec.flavor.memory_mib),
            ):
                self.model.value_set(what, value, sure=True)

    # -- changes of more than the state -----------------------------------------------------------

    def _rename(self) -> None:
        name = f"soak-{self.client.number} <{self.rng.randrange(1 << 16)}>"
        self.changing("rename", name, values={"name": name})

    def _resize(self) -> None:
        wanted = self._flavor(disks=False).model_copy(
            update={"vcpus": self.rng.choice((1, 2)), **_own_disks(self.flavor)}
        )
        values = {"vcpus": wanted.vcpus, "memory_mib": wanted.memory_mib}
        if self.changing("resize", wanted, values=values):
            self.flavor = wanted

    def _hot_cpu(self) -> None:
        vcpus = self.rng.randint(1, _MOST_CPUS)
        self.changing("hot_resize_cpu", vcpus, values={"vcpus": vcpus})

    def _hot_memory(self) -> None:
        memory = self.flavor.memory_mib + self.rng.choice((0, 1, 2)) * _BLOCK_MIB
        self.changing("hot_resize_memory", memory, values={"memory_mib": memory})

    def _rebuild(self) -> None:
        self.changing("rebuild", image_of(self.host))

    def _copy_out(self) -> None:
        target = self.client.folder / f"image-{self.uuid}"
        try:
            self.changing("snapshot_to_image", target)
        finally:
            target.unlink(missing_ok=True)

    def _extend(self) -> None:
        size = (8 << 20) + 4096 * self.rng.randint(1, 64)
        self.changing("extend_volume", self.rng.choice(self.volumes), size)

    def _rescue(self) -> None:
        self.changing("rescue", image_of(self.host))

    # -- snapshots --------------------------------------------------------------------------------

    def _snapshot(self) -> None:
        found = self._snapshots()
        if found is None or len(found) >= _MOST_SNAPSHOTS:
            return
        memory = self._can(Capability.SNAPSHOT_MEMORY) and self.rng.random() < 0.5
        name = f"point <{self.rng.randrange(1 << 16)}>"
        done = self.changing("create_snapshot", name, keywords={"memory": memory})
        self.model.snapshots.made(name, done)

    def _revert(self) -> None:
        if found := self._snapshots():
            point = self.rng.choice(found)
            done = self.changing("revert_snapshot", point.id)
            if done and not self.client.has_died(self.uuid):
                self.model.reverted(with_memory=point.with_memory)

    def _forget(self) -> None:
        if found := self._snapshots():
            point = self.rng.choice(found)
            children = self.rng.random() < 0.3
            gone = {point.name} | (_descendants(point, found) if children else set())
            done = self.changing("delete_snapshot", point.id, keywords={"children": children})
            self.model.snapshots.deleted(gone, done)

    def _snapshots(self) -> Sequence[Snapshot] | None:
        """What list_snapshots() shows, which must be what was made; None: it cannot tell now."""
        try:
            found: Sequence[Snapshot] = self.client.call(
                self.uuid,
                "list_snapshots",
                lambda timeout: self.driver.list_snapshots(self.uuid, timeout=timeout),
            )
        except errors.HypervisorError:
            return None
        self.model.snapshots.seen({each.name for each in found})
        return found

    def changing(
        self,
        operation: str,
        *arguments: object,
        values: Mapping[str, object] | None = None,
        keywords: Mapping[str, object] | None = None,
        keep: Callable[[Any], object] = lambda _: None,
    ) -> bool | None:
        """One change, after which get_instance() shows these values. True: it succeeded; False:
        nothing has changed; None: nobody knows.

        Args:
            keep: gets what it returns.
        """
        before = self.model.possible
        values = values or {}
        try:
            keep(
                self.client.call(
                    self.uuid,
                    operation,
                    lambda timeout: getattr(self.driver, operation)(
                        self.uuid, *arguments, **(keywords or {}), timeout=timeout
                    ),
                )
            )
        except errors.HypervisorError as error:
            self._with_deaths(before, partial(self._failed, operation, error))
            if isinstance(error, errors.OutcomeUnknown | errors.HypervisorFault):
                for what, value in values.items():
                    self.model.value_set(what, value, sure=False)
                return None
            return False
        self._with_deaths(before, lambda: self.model.succeeded(operation))
        for what, value in values.items():
            self.model.value_set(what, value, sure=True)
        return True

    def plain(self, operation: str, variant: Enum | None = None) -> None:
        before = self.model.possible
        arguments = (self.uuid,) if variant is None else (self.uuid, variant)
        try:
            self.client.call(
                self.uuid,
                operation,
                lambda timeout: getattr(self.driver, operation)(*arguments, timeout=timeout),
            )
        except errors.HypervisorError as error:
            self._with_deaths(before, partial(self._failed, operation, error, variant))
        else:
            self._with_deaths(before, lambda: self.model.succeeded(operation, variant))

    def _failed(
        self, operation: str, error: errors.HypervisorError, variant: Enum | None = None
    ) -> None:
        died = self.client.has_died(self.uuid)
        self.model.failed(operation, error, variant, died=died)

    def _with_deaths(self, before: frozenset[Any], settle: Callable[[], None]) -> None:
        """Settle; if that fails, once more for a machine that has died meanwhile."""
        try:
            settle()
        except Violation:
            if not self.client.has_died(self.uuid):
                raise
            self.model.possible = before | {InstanceState.CRASHED, InstanceState.STOPPED}
            settle()

    def attachment(self, volume: str) -> VolumeAttachment:
        """One of this worker's volumes."""
        fields = self.host["pool_volumes"][volume]
        return VolumeAttachment(volume=PoolVolume.model_validate(fields))

    def _attach(self) -> None:
        volume = self.rng.choice(self.volumes)
        self.device("attach_volume", volume, self.attachment(volume), attached=True)

    def _detach(self) -> None:
        volume = self.rng.choice([*self.volumes, self.spare])
        self.device("detach_volume", volume, volume, attached=False)

    def device(self, operation: str, device: str, argument: object, *, attached: bool) -> None:
        """Attach or detach a volume, or plug or unplug a NIC.

        Args:
            device: its id.
        """
        before = self.model.possible
        # a machine without an operating system lets go of nothing: that is DeviceBusy in the end
        seconds = 3.0 if not attached else None
        try:
            self.client.call(
                self.uuid,
                operation,
                lambda timeout: getattr(self.driver, operation)(
                    self.uuid, argument, timeout=seconds or timeout
                ),
            )
        except errors.HypervisorError as error:
            self._with_deaths(before, partial(self._failed, operation, error))
            if isinstance(error, errors.OutcomeUnknown | errors.HypervisorFault):
                self.model.device_set(device, attached, sure=False)
            if not attached and isinstance(error, errors.DeviceBusy | errors.OutcomeUnknown):
                self.model.device_kept(device)
        else:
            self._with_deaths(before, lambda: self.model.succeeded(operation))
            self.model.device_set(device, attached, sure=True)

    def _metadata(self) -> None:
        before = self.model.possible
        value = {"step": str(self.rng.randrange(1 << 30)), "text": "<&>'\"\n"}
        try:
            self.client.call(
                self.uuid,
                "set_metadata",
                lambda timeout: self.driver.set_metadata(self.uuid, value, timeout=timeout),
            )
        except errors.HypervisorError as error:
            self._with_deaths(before, partial(self._failed, "set_metadata", error))
            if isinstance(error, errors.OutcomeUnknown | errors.HypervisorFault):
                self.model.metadata_set(value, sure=False)
        else:
            self._with_deaths(before, lambda: self.model.succeeded("set_metadata"))
            self.model.metadata_set(value, sure=True)

    # -- looks ------------------------------------------------------------------------------------

    def _look(self) -> None:
        """get and list, which must agree with the model and so with each other."""
        try:
            info = self.client.call(
                self.uuid,
                "get_instance",
                lambda timeout: self.driver.get_instance(self.uuid, timeout=timeout),
            )
        except errors.InstanceNotFound:
            self.model.seen(None, "get_instance()")
        except errors.HypervisorError:
            return
        else:
            self._seen(info.state, "get_instance()")
            self.model.seen_whole(info)
        try:
            found = self.client.call(
                self.uuid,
                "list_instances",
                lambda timeout: self.driver.list_instances(timeout=timeout),
            )
        except errors.HypervisorError:
            return
        states = {each.uuid: each.state for each in found}
        self._seen(states.get(self.uuid), "list_instances()")

    def _seen(self, state: InstanceState | None, where: str) -> None:
        # asked after the read: a machine can die between two reads
        self.model.seen(state, where, died=self.client.has_died(self.uuid))

    def _bulk(self) -> None:
        for read in ("get_metrics", "list_volumes", "get_available_resource", "list_foreign"):
            call = getattr(self.driver, read)
            with suppress(errors.HypervisorError):
                self.client.call(self.uuid, read, lambda timeout, call=call: call(timeout=timeout))  # type: ignore[misc]
