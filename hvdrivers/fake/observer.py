"""What the conformance suite sees of a fake host beside the driver, and where it cuts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import ClassVar
from uuid import UUID

from hvdrivers.conformance.engine.observer import Cut, FaultSeam, Observer
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.fake.faults import FaultKind, FaultRule, InstalledFault
from hvdrivers.fake.host import FakeHost
from hvdrivers.fake.own_disks import role_of
from hvdrivers.models.base import Model
from hvdrivers.models.group import ServerGroupPolicy
from hvdrivers.models.guest import Share
from hvdrivers.models.instance import Firmware
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import VifQos


class FakeObserver(Observer):
    """Reads the host's records, not the driver."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host

    def states(self) -> dict[UUID, InstanceState]:
        return {each.uuid: each.state for each in self._host.ours()}

    def residue(self) -> frozenset[str]:
        # without times: one attempt is compared with the next
        return frozenset(
            re.sub(r"datetime\.datetime\([^()]*\)", "...", str(item))
            for item in self._host.inventory().without_cache().items
        )

    def devices(self, uuid: UUID) -> frozenset[str]:
        return frozenset(
            re.sub(rf" (by|of) {uuid}$", "", item.id)
            for item in self._host.inventory().of(uuid)
            if item.kind in {"lock", "port"}
        )

    def disk_limits(self, uuid: UUID) -> dict[str, dict[str, int]]:
        with self._host.world.lock:
            return {
                name: disk.qos.limits() if disk.qos is not None else {}
                for name, disk in self._host.machines[uuid].volumes.items()
            }

    def vif_limits(self, uuid: UUID) -> dict[str, VifQos | None]:
        with self._host.world.lock:
            ports = self._host.ports.values()
            return {port.vif.id: port.vif.qos for port in ports if port.owner == uuid}

    def options(self, uuid: UUID) -> dict[str, dict[str, object]]:
        with self._host.world.lock:
            disks = self._host.machines[uuid].volumes
            found: dict[str, Model] = {name: disk.attachment for name, disk in disks.items()}
            ports = self._host.ports.values()
            found |= {port.vif.id: port.vif for port in ports if port.owner == uuid}
            own = [disk for _, disk in self._host.disks_of(uuid) if disk.wish is not None]
            found |= {disk.role: disk.wish for disk in own if disk.wish is not None}
        return {
            name: {field: getattr(model, field) for field in type(model).model_fields}
            for name, model in found.items()
        }

    def hardware(self, uuid: UUID) -> dict[str, object]:
        with self._host.world.lock:
            machine = self._host.machines[uuid]
            wishes = machine.hardware
        found = {name: getattr(wishes, name) for name in type(wishes).model_fields}
        return found | {"numa": machine.numa}

    def shares(self, uuid: UUID) -> dict[str, Share]:
        with self._host.world.lock:
            return dict(self._host.machines[uuid].shares)

    def frozen(self, uuid: UUID) -> bool:
        with self._host.world.lock:
            return self._host.machines[uuid].frozen

    def fittings(self, uuid: UUID) -> frozenset[Capability]:
        host = self._host
        with host.world.lock:
            machine = host.machines[uuid]
            uefi = machine.firmware is Firmware.UEFI and uuid in host.nvram
            found = {
                Capability.UEFI: uefi,
                Capability.SECURE_BOOT: uefi and machine.secure_boot,
                Capability.VTPM: machine.vtpm and uuid in host.tpm,
                Capability.SEV: machine.sev,
            }
        return frozenset(each for each, there in found.items() if there)

    def kept_with(self, uuid: UUID) -> tuple[ServerGroupPolicy, frozenset[UUID]] | None:
        with self._host.world.lock:
            for group in self._host.groups.values():
                if uuid in group.members and len(group.members) > 1:
                    return group.policy, frozenset(group.members)
        return None

    def kept(self, uuid: UUID) -> frozenset[str]:
        with self._host.world.lock:
            disks = {disk.name for _, disk in self._host.disks_of(uuid)}
            return frozenset(disks | self._host.default_pool.images.keys())

    def own_disks(self, uuid: UUID) -> list[int]:
        with self._host.world.lock:
            disks = [disk for _, disk in self._host.disks_of(uuid)]
        return [disk.size_bytes for disk in disks if role_of(disk.role) is not None]

    def seed(self, uuid: UUID) -> dict[str, bytes]:
        return self._host.seed_files(uuid)

    def seed_disc(self, uuid: UUID) -> bytes:
        with self._host.world.lock:
            machine = self._host.machines[uuid]
            rescued = machine.state is InstanceState.RESCUED and machine.rescue_seed is not None
            disc = machine.rescue_seed if rescued else machine.seed_disc
            there = self._host.disk(uuid, "seed") is not None
        return disc.read() if disc is not None and (there or rescued) else b""

    def read_only(self, uuid: UUID) -> frozenset[str]:
        with self._host.world.lock:
            volumes = self._host.machines[uuid].volumes
            return frozenset(name for name, disk in volumes.items() if disk.attachment.read_only)

    def foreign(self) -> dict[UUID, tuple[str, InstanceState]]:
        with self._host.world.lock:
            machines = self._host.machines.values()
            return {each.uuid: (each.name, each.state) for each in machines if not each.ours}

    def power_off(self, uuid: UUID) -> None:
        self._host.shut_down_guest(uuid)


class FakeSeam(FaultSeam):
    """The fault rules of the host. Calls of every connection count, in the order of arrival."""

    deadline = 30.0  # a rule strikes at once

    _KINDS: ClassVar = {
        "before": FaultKind.BEFORE,
        "after": FaultKind.AFTER,
        "timeout": FaultKind.TIMEOUT,
        "expired": FaultKind.AUTH_EXPIRED,
    }

    def __init__(self, host: FakeHost) -> None:
        self._host = host

    @contextmanager
    def counting(self) -> Iterator[list[str]]:
        names: list[str] = []
        before = self._host.round_trips
        yield names
        calls = self._host.transcript()[-(self._host.round_trips - before) or None :]
        if self._host.round_trips > before:
            names += [call.name for call in calls if not call.undoing]

    @contextmanager
    def cut(self, name: str, occurrence: int, kind: str) -> Iterator[Cut]:
        cut = Cut()
        rule = FaultRule(operation=name, when=self._KINDS[kind], nth=occurrence)
        with self._host.faults.add(rule) as fault:
            try:
                yield cut
            finally:
                cut.struck = fault.hits > 0

    @contextmanager
    def cut_twice(self, name: str, occurrence: int, then: int) -> Iterator[Sequence[Cut]]:
        first, second = Cut(), Cut()
        with ExitStack() as rules:
            added: list[InstalledFault] = []

            def lost() -> errors.HypervisorError:
                # from this call on
                rule = FaultRule(operation="*", when=FaultKind.BEFORE, nth=then, undo=True)
                added.append(rules.enter_context(self._host.faults.add(rule)))
                return errors.OutcomeUnknown("the connection broke before the reply came")

            rule = FaultRule(operation=name, when=FaultKind.AFTER, nth=occurrence, error=lost)
            rules.enter_context(self._host.faults.add(rule))
            try:
                yield first, second
            finally:
                first.struck = bool(added)
                second.struck = any(each.hits for each in added)

    @contextmanager
    def host_dies(self, name: str, occurrence: int) -> Iterator[Cut]:
        cut = Cut()
        with ExitStack() as rules:

            def dead() -> errors.HypervisorError:
                cut.struck = True
                rule = FaultRule(operation="*", when=FaultKind.BEFORE, undo=True)
                rules.enter_context(self._host.faults.add(rule))
                return errors.ConnectionFailed("the host does not answer")

            rule = FaultRule(operation=name, when=FaultKind.BEFORE, nth=occurrence, error=dead)
            rules.enter_context(self._host.faults.add(rule))
            yield cut
