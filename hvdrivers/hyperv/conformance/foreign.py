"""Machines that others make on a simulated host, while the conformance suite runs there."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from uuid import UUID, uuid4

from hvdrivers.conformance.engine.image_files import DISK_BYTES
from hvdrivers.conformance.engine.target import FOREIGN_TEXT
from hvdrivers.hyperv.conformance import marks
from hvdrivers.hyperv.simulator.host import SimulatedHost
from hvdrivers.hyperv.simulator.state.devices import Config, HardDrive, Memory, Slot
from hvdrivers.hyperv.simulator.state.machine import Machine

THEIRS: Final = "C:\\hvct-theirs"
"""The folder of the disks of machines of others."""


@contextmanager
def machine_of_others(host: SimulatedHost, name: str | None) -> Iterator[UUID]:
    """A running machine."""
    state = host.state
    path = f"{THEIRS}\\{uuid4()}.vhdx"
    file = state.files.file(path)
    with host.world.lock:
        file.parent.mkdir(exist_ok=True)
        state.disks.create(path, DISK_BYTES, "Dynamic")
        marks.write(file, FOREIGN_TEXT)
        config = Config(
            name=name or "somebody else's",
            generation=2,
            memory=Memory(startup=64 << 20),
            scsi=1,
        )
        config.drives.append(HardDrive(Slot("SCSI", 0, 0), path))
        machine = Machine(host=state, config=config, path=state.settings.machine_path)
        state.machines[machine.id] = machine
        if state.guests is not None:
            machine.guest = state.guests(machine, None)
        machine.set_state("Running")
    try:
        yield machine.id
    finally:
        with host.world.lock:
            if machine.guest is not None:
                machine.guest.power_off()
                machine.guest = None
            state.machines.pop(machine.id, None)
        file.unlink(missing_ok=True)


@contextmanager
def copy_of(host: SimulatedHost, original: Machine) -> Iterator[UUID]:
    """Export and import as a copy: another Id, and the same name, notes, path and NICs."""
    state = host.state
    with host.world.lock:
        config = copy.deepcopy(original.config)
        config.drives.clear()
        machine = Machine(host=state, config=config, path=original.path)
        state.machines[machine.id] = machine
    try:
        yield machine.id
    finally:
        with host.world.lock:
            state.machines.pop(machine.id, None)
