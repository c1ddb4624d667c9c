"""The state machine of ``model.py``: what the contract makes of each operation, by its own table
of states, and the rules by which Hypothesis chooses the next one."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid5

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.conformance.engine.trial import METADATA_KEY, Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.driver import OPERATIONS
from hvdrivers.contract.states import Outcome
from hvdrivers.models.instance import InstanceSpec
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import VolumeAttachment

_VALUES = ("", "a", "b & <c>", "\u00e9")
_NAMESPACE = UUID("c7b6a3de-6f4c-4a53-9a6e-2f3a9f6f2b11")
_POWERED_ON = frozenset({InstanceState.RUNNING, InstanceState.PAUSED, InstanceState.RESCUED})
_POWERING_ON = frozenset({"power_on", "resume"})
_POWER: dict[str, Capability | None] = {
    "power_on": None,
    "power_off": None,
    "reboot": None,
    "pause": Capability.PAUSE,
    "unpause": Capability.PAUSE,
    "suspend": Capability.SUSPEND,
    "resume": Capability.SUSPEND,
}


@dataclass
class _Machine:
    """One instance, as it must be."""

    name: str
    state: InstanceState
    metadata: dict[str, str]
    volumes: set[str] = field(default_factory=set)
    nics: set[str] = field(default_factory=set)


def machine_for(trial: Trial, scripts: list[str]) -> type[RuleBasedStateMachine]:
    """A state machine of this trial's driver.

    Args:
        scripts: gets the script of each sequence that failed; the last one is the shortest.
    """
    uuids = [uuid5(_NAMESPACE, f"{trial.journal.run}{number}") for number in range(2)]
    for uuid in uuids:
        trial.will_destroy(uuid)
    volumes = [trial.volume() for _ in range(2)] if trial.has(Capability.HOST_VOLUMES) else []
    try:
        nics = [trial.target.vif(f"hvct-nic-{number}") for number in range(2)]
    except PreconditionMissing:
        nics = []
    powers = sorted(name for name, needs in _POWER.items() if needs is None or trial.has(needs))
    # guests that run let go of devices only when they have booted: cold there
    hot = not trial.target.guests_run

    class Sequence(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.machines: dict[UUID, _Machine] = {}
            self.lines = [
                "from uuid import UUID",
                "import hvdrivers",
                "from hvdrivers import *",
                "from hvdrivers.models.vif import *",
                "from hvdrivers.models.volume import *",
                "",
                f"driver = hvdrivers.connect({trial.target.name!r})  # and its options",
            ]

        @contextmanager
        def noted(self) -> Iterator[None]:
            try:
                yield
            except Exception as error:
                scripts.append("\n".join([*self.lines, f"# {error}"]))
                raise

        # ---- making a call, and judging it -----------------------------------------------------

        def act(
            self, line: str, call: Callable[[], object], expected: type[Exception] | None
        ) -> bool:
            """Make a call that must raise ``expected``; whether it worked."""
            self.lines.append(line + (f"  # {expected.__name__}" if expected else ""))
            with self.noted():
                if expected is None:
                    call()
                    return True
                with trial.raises(expected):  # type: ignore[arg-type]
                    call()
            return False

        def expected(self, operation: str, uuid: UUID) -> type[Exception] | None:
            """What the table of states says."""
            if uuid not in self.machines:
                return errors.InstanceNotFound
            legal = self.outcome(operation, uuid).legal
            return None if legal else errors.InvalidState

        def outcome(self, operation: str, uuid: UUID) -> Outcome:
            row = OPERATIONS[operation].row_for({}, trial.driver.capabilities)
            assert row is not None  # noqa: S101 - only operations of instances are asked for
            return row[self.machines[uuid].state]

        def chosen(self, number: int) -> UUID:
            """One of the instances that are there; now and then one that may not be."""
            there = list(self.machines)
            if number == 0 or not there:
                return uuids[number % len(uuids)]
            return there[number % len(there)]

        # ---- the rules -------------------------------------------------------------------------

        @initialize(start=st.booleans())
        def begin(self, start: bool) -> None:
            self.spawn(0, start)

        @rule(seed=st.integers(0, 2**32 - 1))
        def step(self, seed: int) -> None:
            # one rule, as Hypothesis likes some rules and neglects others: here what changes the
            # state is tried most, and what ends a life least
            chance = random.Random(seed)  # noqa: S311 - what is drawn decides which step it is
            number = chance.randrange(8)
            actions: dict[Callable[[], object], int] = {
                lambda: self.change_power(number, chance.randrange(7)): 8,
                lambda: self.power(number, chance.choice(powers)): 2,
                lambda: self.set_metadata(number, chance.choice(_VALUES)): 3,
                lambda: self.rename(number, chance.choice(["x", "y z"])): 2,
                lambda: self.spawn(number, chance.random() < 0.5): 2,
                lambda: self.destroy(number): 1,
            }
            if volumes:
                actions[lambda: self.attach(number, chance.randrange(2))] = 3
                actions[lambda: self.detach(number, chance.randrange(2))] = 2
            if nics:
                actions[lambda: self.plug(number, chance.randrange(2))] = 3
                actions[lambda: self.unplug(number, chance.randrange(2))] = 2
            chance.choices(list(actions), list(actions.values()))[0]()

        def spawn(self, number: int, start: bool) -> None:
            uuid = uuids[number % len(uuids)]
            spec: InstanceSpec = trial.spec(uuid=uuid, start=start)
            data = spec.model_dump_json(exclude_defaults=True)
            taken = errors.InstanceExists if uuid in self.machines else None
            line = f"driver.spawn(InstanceSpec.model_validate_json({data!r}))"
            if self.act(line, lambda: trial.driver.spawn(spec), taken):
                state = InstanceState.RUNNING if start else InstanceState.STOPPED
                self.machines[uuid] = _Machine(spec.name, state, dict(spec.metadata))

        def destroy(self, number: int) -> None:
            uuid = self.chosen(number)
            line = f"driver.destroy(UUID({str(uuid)!r}))"
            self.act(line, lambda: trial.driver.destroy(uuid), None)
            self.machines.pop(uuid, None)

        def change_power(self, number: int, index: int) -> None:
            uuid = self.chosen(number)
            if uuid in self.machines:
                state = self.machines[uuid].state
                found = [each for each in powers if self.outcome(each, uuid).after(state) != state]
                self._power(uuid, found[index % len(found)])

        def power(self, number: int, name: str) -> None:
            self._power(self.chosen(number), name)

        def _power(self, uuid: UUID, name: str) -> None:
            expected = self.expected(name, uuid)
            if name in _POWERING_ON and expected is None and self._holds_busy(uuid):
                expected = errors.DeviceBusy
            line = f"driver.{name}(UUID({str(uuid)!r}))"
            if self.act(line, lambda: getattr(trial.driver, name)(uuid), expected):
                machine = self.machines[uuid]
                end = self.outcome(name, uuid).after(machine.state)
                if isinstance(end, InstanceState):
                    machine.state = end

        def _holds_busy(self, uuid: UUID) -> bool:
            mine = self.machines[uuid]
            return mine.state not in _POWERED_ON and any(
                each.volumes & mine.volumes
                for other, each in self.machines.items()
                if other != uuid and each.state in _POWERED_ON
            )

        def set_metadata(self, number: int, value: str) -> None:
            uuid = self.chosen(number)
            wanted = {METADATA_KEY: trial.journal.run, "k": value}
            expected = self.expected("set_metadata", uuid)
            line = f"driver.set_metadata(UUID({str(uuid)!r}), {wanted!r})"
            if self.act(line, lambda: trial.driver.set_metadata(uuid, wanted), expected):
                self.machines[uuid].metadata = wanted

        def rename(self, number: int, suffix: str) -> None:
            uuid, name = self.chosen(number), f"{trial.journal.prefix}{suffix}"
            expected = self.expected("rename", uuid)
            stopped = uuid in self.machines and self.machines[uuid].state is InstanceState.STOPPED
            if expected is None and not stopped and not trial.has(Capability.HOT_RENAME):
                expected = errors.NotSupported
            line = f"driver.rename(UUID({str(uuid)!r}), {name!r})"
            if self.act(line, lambda: trial.driver.rename(uuid, name), expected):
                self.machines[uuid].name = name

        def _plugging(self, operation: str, uuid: UUID) -> bool:
            """Whether this is tried at all: a real guest that has not booted keeps its devices."""
            machine = self.machines.get(uuid)
            return hot or machine is None or machine.state is InstanceState.STOPPED

        def attach(self, number: int, index: int) -> None:
            uuid, attachment = self.chosen(number), VolumeAttachment(volume=volumes[index])
            if not self._plugging("attach_volume", uuid):
                return
            expected = self.expected("attach_volume", uuid)
            name = attachment.volume_id
            if expected is None and name not in self.machines[uuid].volumes:
                held = any(
                    name in each.volumes and each.state in _POWERED_ON
                    for each in self.machines.values()
                )
                expected = errors.DeviceBusy if held else None
            data = attachment.model_dump_json(exclude_defaults=True)
            line = (
                f"driver.attach_volume(UUID({str(uuid)!r}),"
                f" VolumeAttachment.model_validate_json({data!r}))"
            )
            call = lambda: trial.driver.attach_volume(uuid, attachment)  # noqa: E731
            if self.act(line, call, expected):
                self.machines[uuid].volumes.add(name)

        def detach(self, number: int, index: int) -> None:
            uuid, name = self.chosen(number), volumes[index].volume_id
            if not self._plugging("detach_volume", uuid):
                return
            expected = self.expected("detach_volume", uuid)
            line = f"driver.detach_volume(UUID({str(uuid)!r}), {name!r})"
            if self.act(line, lambda: trial.driver.detach_volume(uuid, name), expected):
                self.machines[uuid].volumes.discard(name)

        def plug(self, number: int, index: int) -> None:
            uuid, vif = self.chosen(number), nics[index]
            if not self._plugging("plug_vif", uuid) or self._plugged_elsewhere(uuid, vif.id):
                return
            expected = self.expected("plug_vif", uuid)
            data = vif.model_dump_json(exclude_defaults=True)
            line = (
                f"driver.plug_vif(UUID({str(uuid)!r}),"
                f" {type(vif).__name__}.model_validate_json({data!r}))"
            )
            if self.act(line, lambda: trial.driver.plug_vif(uuid, vif), expected):
                self.machines[uuid].nics.add(vif.id)

        def _plugged_elsewhere(self, uuid: UUID, name: str) -> bool:
            # one port is one machine's: what happens otherwise is another clause
            return any(name in each.nics for other, each in self.machines.items() if other != uuid)

        def unplug(self, number: int, index: int) -> None:
            uuid, name = self.chosen(number), nics[index].id
            if not self._plugging("unplug_vif", uuid):
                return
            expected = self.expected("unplug_vif", uuid)
            line = f"driver.unplug_vif(UUID({str(uuid)!r}), {name!r})"
            if self.act(line, lambda: trial.driver.unplug_vif(uuid, name), expected):
                self.machines[uuid].nics.discard(name)

        # ---- what must hold after each ---------------------------------------------------------

        @invariant()
        def is_as_foretold(self) -> None:
            with self.noted():
                self.compare()

        def compare(self) -> None:
            listed = {each.uuid: each for each in trial.driver.list_instances()}
            there = {uuid for uuid in uuids if uuid in listed}
            trial.equal(there, set(self.machines), "instances that are listed")
            for uuid, machine in self.machines.items():
                info = trial.driver.get_instance(uuid)
                trial.equal(listed[uuid], info.summary(), f"line of {uuid} in the list")
                found: Any = (
                    info.name,
                    info.state,
                    dict(info.metadata),
                    {each.volume_id for each in info.volumes},
                    {each.id for each in info.vifs},
                )
                wanted = (
                    machine.name,
                    machine.state,
                    machine.metadata,
                    machine.volumes,
                    machine.nics,
                )
                trial.equal(found, wanted, f"instance {uuid}")
                if trial.observer is not None:
                    devices = trial.observer.devices(uuid)
                    trial.equal(
                        devices, machine.volumes | machine.nics, f"observed devices of {uuid}"
                    )

        def teardown(self) -> None:
            for uuid in uuids:
                trial.driver.destroy(uuid)

    return Sequence
