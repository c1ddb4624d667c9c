"""The fake against an independent model of a few lines, in any order of operations."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

import pytest
from fakery import CIRROS, SMALL, bridge_nic, rbd, spec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from hvdrivers.contract import errors
from hvdrivers.fake import FakeHost, FaultRule, HostSize, ManualClock

MEMORY = 5 * SMALL.memory_mib
VOLUMES = ("v1", "v2", "v3")
PORT = "6f2d8c1e-7b1a-4c5e-9a55-0c1d2e3f4a5b"  # one powered-on machine has it at a time
NICS = ("eth0", PORT)
ON = {"running", "paused", "rescued"}


@dataclass
class Model:
    """What an instance is, said as simply as possible."""

    state: str
    volumes: set[str] = field(default_factory=set)
    nics: set[str] = field(default_factory=set)
    writes: list[str] = field(default_factory=list)


# what an operation does in a state; absent: InvalidState
POWER = {
    "power_on": {"stopped": "running", "suspended": "running", "crashed": "running"}
    | {"running": "running"},
    "power_off": dict.fromkeys(
        ("running", "paused", "suspended", "stopped", "rescued", "crashed"), "stopped"
    ),
    "reboot": {"running": "running", "paused": "running", "crashed": "running"}
    | {"rescued": "rescued"},
    "pause": {"running": "paused", "paused": "paused"},
    "unpause": {"paused": "running", "running": "running"},
    "suspend": {"running": "suspended", "paused": "suspended", "suspended": "suspended"},
    "resume": {"suspended": "running", "running": "running"},
    "rescue": {"running": "rescued", "stopped": "rescued", "crashed": "rescued"},
    "unrescue": {"rescued": "running", "stopped": "stopped", "crashed": "stopped"}
    | {"running": "running"},
}


class FakeAgainstModel(RuleBasedStateMachine):
    instances = Bundle("instances")

    @initialize()
    def begin(self) -> None:
        size = HostSize(memory_mib=MEMORY, hugepages={})
        self.host = FakeHost(size=size, clock=ManualClock())
        self.driver = self.host.connect()
        self.model: dict[UUID, Model] = {}
        self.foreign = self.host.add_foreign(memory_mib=SMALL.memory_mib)
        self.foreign_items = self.host.inventory().of(self.foreign)

    def teardown(self) -> None:
        if hasattr(self, "driver"):
            for uuid in list(self.model):
                self.driver.destroy(uuid)
            left = self.host.inventory().without_cache().items
            assert left == self.foreign_items
            self.driver.close()

    # ---- what the model knows -------------------------------------------------------------------

    def full(self, uuid: UUID | None = None) -> bool:
        on = [each for each, model in self.model.items() if model.state in ON and each != uuid]
        return (len(on) + 2) * SMALL.memory_mib > MEMORY  # one is foreign, one is to come

    def open_elsewhere(self, uuid: UUID, volume: str) -> bool:
        return any(
            volume in model.volumes and model.state in ON
            for other, model in self.model.items()
            if other != uuid
        )

    def plugged_elsewhere(self, uuid: UUID, name: str) -> bool:
        return name == PORT and any(
            name in model.nics and model.state in ON
            for other, model in self.model.items()
            if other != uuid
        )

    def starts(self, uuid: UUID, before: str, after: str) -> type[Exception] | None:
        """Why an instance cannot be powered on now."""
        if after not in ON:
            return None
        if before not in ON and self.full(uuid):
            return errors.InsufficientResources
        if any(self.open_elsewhere(uuid, each) for each in self.model[uuid].volumes):
            return errors.DeviceBusy
        if any(self.plugged_elsewhere(uuid, each) for each in self.model[uuid].nics):
            return errors.DeviceBusy
        return None

    # ---- rules ----------------------------------------------------------------------------------

    @rule(target=instances, start=st.booleans(), volume=st.sampled_from((*VOLUMES, "")))
    def spawn(self, start: bool, volume: str):
        attached = (rbd(volume),) if volume else ()
        wanted = spec(start=start, volumes=attached, image=CIRROS)
        busy = volume and self.open_elsewhere(wanted.uuid, volume)
        if busy or (start and self.full()):
            with pytest.raises((errors.DeviceBusy, errors.InsufficientResources)):
                self.driver.spawn(wanted)
            return multiple()
        self.driver.spawn(wanted)
        self.model[wanted.uuid] = Model(
            "running" if start else "stopped", set(filter(None, [volume]))
        )
        return wanted.uuid

    @rule(uuid=consumes(instances), cut=st.booleans())
    def destroy(self, uuid: UUID, cut: bool) -> None:
        if cut:
            fault = FaultRule(operation="undefine-machine", when="after", times=1)
            with self.host.faults.add(fault), pytest.raises(errors.OutcomeUnknown):
                self.driver.destroy(uuid)
        self.driver.destroy(uuid)
        self.driver.destroy(uuid)
        del self.model[uuid]

    @rule(uuid=instances, operation=st.sampled_from(sorted(POWER)))
    def power(self, uuid: UUID, operation: str) -> None:
        model = self.model[uuid]
        after = POWER[operation].get(model.state)
        call = getattr(self.driver, operation)
        if after is None:
            with pytest.raises(errors.InvalidState):
                call(uuid)
            return
        refused = None if after == model.state else self.starts(uuid, model.state, after)
        if refused is not None:
            with pytest.raises(refused):
                call(uuid)
            return
        call(uuid)
        model.state = after

    @rule(uuid=instances)
    def crash(self, uuid: UUID) -> None:
        if self.model[uuid].state in ON:
            self.host.crash(uuid)
            self.model[uuid].state = "crashed"

    @rule(uuid=instances, volume=st.sampled_from(VOLUMES))
    def attach(self, uuid: UUID, volume: str) -> None:
        model = self.model[uuid]
        if model.state not in {"running", "paused", "stopped"}:
            expected = errors.InvalidState
        elif volume not in model.volumes and self.open_elsewhere(uuid, volume):
            expected = errors.DeviceBusy
        else:
            self.driver.attach_volume(uuid, rbd(volume))
            model.volumes.add(volume)
            return
        with pytest.raises(expected):
            self.driver.attach_volume(uuid, rbd(volume))

    @rule(uuid=instances, volume=st.sampled_from(VOLUMES))
    def detach(self, uuid: UUID, volume: str) -> None:
        model = self.model[uuid]
        if model.state not in {"running", "paused", "stopped"}:
            with pytest.raises(errors.InvalidState):
                self.driver.detach_volume(uuid, volume)
            return
        self.driver.detach_volume(uuid, volume)
        model.volumes.discard(volume)

    @rule(uuid=instances, name=st.sampled_from(NICS))
    def plug(self, uuid: UUID, name: str) -> None:
        model = self.model[uuid]
        if model.state not in {"running", "paused", "stopped"}:
            expected = errors.InvalidState
        elif name not in model.nics and self.plugged_elsewhere(uuid, name):
            expected = errors.DeviceBusy
        else:
            self.driver.plug_vif(uuid, bridge_nic(name))
            model.nics.add(name)
            return
        with pytest.raises(expected):
            self.driver.plug_vif(uuid, bridge_nic(name))

    @rule(uuid=instances, name=st.sampled_from(NICS))
    def unplug(self, uuid: UUID, name: str) -> None:
        model = self.model[uuid]
        if model.state not in {"running", "paused", "stopped"}:
            with pytest.raises(errors.InvalidState):
                self.driver.unplug_vif(uuid, name)
            return
        self.driver.unplug_vif(uuid, name)
        model.nics.discard(name)

    @rule(uuid=instances, text=st.text("ab", max_size=2))
    def write(self, uuid: UUID, text: str) -> None:
        self.host.write_disk(uuid, text)
        self.model[uuid].writes.append(f"write:{text}")

    @rule(uuid=instances)
    def rebuild(self, uuid: UUID) -> None:
        model = self.model[uuid]
        if model.state not in {"running", "stopped", "crashed"}:
            with pytest.raises(errors.InvalidState):
                self.driver.rebuild(uuid, CIRROS)
            return
        self.driver.rebuild(uuid, CIRROS)
        model.writes.clear()
        if model.state == "crashed":
            model.state = "stopped"

    @rule()
    def restart_host(self) -> None:
        self.host.restart_host()
        self.foreign_items = self.host.inventory().of(self.foreign)
        for model in self.model.values():
            if model.state in ON:
                model.state = "stopped"

    # ---- what always holds ----------------------------------------------------------------------

    @invariant()
    def the_same(self) -> None:
        if not hasattr(self, "driver"):
            return
        listed = {each.uuid: each.state.value for each in self.driver.list_instances()}
        assert listed == {uuid: model.state for uuid, model in self.model.items()}
        for uuid, model in self.model.items():
            info = self.driver.get_instance(uuid)
            assert {each.volume_id for each in info.volumes} == model.volumes
            assert {each.id for each in info.vifs} == model.nics
            assert list(self.host.disk_content(uuid)[1:]) == model.writes
        resources = self.driver.get_available_resource()
        on = sum(model.state in ON for model in self.model.values())
        foreign = self.host.machines[self.foreign].state.value in ON
        assert resources.memory.used_mib == (on + foreign) * SMALL.memory_mib
        assert resources.instances == len(self.model)
        inventory = self.host.inventory()
        locks = sum(len(model.volumes) for model in self.model.values())
        assert len(inventory.kind("lock")) == locks
        assert len(inventory.kind("port")) == sum(len(m.nics) for m in self.model.values())
        memories = [item for item in inventory.kind("disk") if item.id.endswith("/memory")]
        assert len(memories) == sum(m.state == "suspended" for m in self.model.values())


TestFakeAgainstModel = FakeAgainstModel.TestCase
TestFakeAgainstModel.settings = settings(
    max_examples=100,
    stateful_step_count=30,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
