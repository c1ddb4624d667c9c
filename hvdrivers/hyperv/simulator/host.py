"""A simulated host: the state, the server of the modules, and the environment of PowerShell."""

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from hvdrivers.hyperv.simulator.cmdlets.power import start
from hvdrivers.hyperv.simulator.guests.played import PlayedGuests
from hvdrivers.hyperv.simulator.modules.generate import write_modules
from hvdrivers.hyperv.simulator.state.host import HostState
from hvdrivers.hyperv.simulator.state.world import World
from hvdrivers.hyperv.simulator.stateserver import StateServer

PRELUDE = "$env:PATH = ''; Import-Module SimulatedHost -DisableNameChecking; Add-SimulatedDrive;"
"""Makes drive ``C:``. The engine loads modules by itself only after one was imported by name. The
programs of this machine are none of the host's, and the engine would look through them all again
and again."""


class SimulatedHost:
    """A Hyper-V host without Windows.

    ``state`` is the whole truth about it, for tests and observers: read and change it under
    ``state.world.lock``. Hosts that share a ``world`` and are introduced with :meth:`meet` can
    migrate machines to each other.
    """

    def __init__(
        self,
        name: str = "HV1",
        *,
        folder: Path | None = None,
        world: World | None = None,
        language: str = "en",
    ) -> None:
        self._own_folder = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="hvsim-"))
        self.drive = self.folder / "c"
        self._modules = self.folder / "modules"
        self._temporary = self.folder / "t"
        self._own_world = world is None
        self.world = world or World()
        for part in (self.drive, self._modules, self._temporary):
            part.mkdir(parents=True, exist_ok=True)
        self.state = HostState(name, self.world, self.drive, language=language)
        self.state.pipes = self._temporary
        self.guests = PlayedGuests(self.state)
        self.state.guests = self.guests
        self._server = StateServer(self.state, self.folder / "s")
        self._endpoint: str | None = None
        self.up = True
        """False from the time when it has gone down until it is up again."""
        self._told: list[Callable[[], None]] = []
        self.state.power = self._power

    def start(self) -> None:
        """Write the modules and serve them."""
        write_modules(self._modules)
        self._server.start()

    def close(self) -> None:
        """Stop serving, end every guest, and remove the folder where the host made it itself."""
        with self.world.lock:
            self.state.closing = True
            self.world.notify()
        self._server.close()
        with self.world.lock:
            for machine in self.state.machines.values():
                if machine.guest is not None:
                    machine.guest.power_off()
                    machine.guest = None
        if self._own_world:
            self.world.close()
        if self._own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def environment(self) -> Mapping[str, str]:
        """Variables of every PowerShell process of this host."""
        return {
            "PSModulePath": str(self._modules),
            "HVSIM_SERVER": str(self.folder / "s"),
            "HVSIM_DRIVE": str(self.drive),
            # where those of the guests are, by PowerShell Direct
            "HVSIM_PROGRAMS": os.environ.get("PATH", ""),
            "COMPUTERNAME": self.state.name,
            # Named pipes are UNIX sockets in the folder for temporary files.
            "TMPDIR": str(self._temporary),
        }

    def prelude(self) -> str:
        """Text that makes drive ``C:`` in a fresh PowerShell."""
        return PRELUDE

    def endpoint_started(self, endpoint: str) -> None:
        """The wire tells where clients reach this host."""
        self._endpoint = endpoint

    def reset(self) -> None:
        """Remove every machine, switch and file, for the next test."""
        with self.world.lock:
            machines = list(self.state.machines.values())
            self.state.wait_for(lambda: not any(m.merging for m in machines), 60)
            self.state.wipe()
            for machine in machines:
                if machine.guest is not None:
                    machine.guest.power_off()
                    machine.guest = None
        for entry in self.drive.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        self.state.make_folders()

    def restart(self) -> None:
        """The host goes down and comes up: machines are off, and its disks have other numbers. A
        machine that was on starts again if its settings say so."""
        with self.world.lock:
            was_on = [machine for machine in self.state.machines.values() if machine.on]
            for machine in was_on:
                if machine.guest is not None:
                    machine.guest.power_off()
                    machine.guest = None
                machine.set_state("Off")
            self.state.storage.restart()
            self.state.booted = datetime.now(UTC)
            for machine in was_on:
                if machine.config.start_action != "Nothing":
                    start(machine)

    def _power(self, again: bool) -> None:
        """Go down a moment after the answer, and with ``again`` up."""
        threading.Thread(target=self._go_down, args=(again,), daemon=True).start()

    def _go_down(self, again: bool) -> None:
        with self.world.lock:
            self.state.pause(self.state.timing.going_down)
            self.up = False
            told = list(self._told)
        for each in told:
            each()
        self.restart()
        if again:
            with self.world.lock:
                self.state.pause(self.state.timing.coming_up)
            self.power_up()

    def power_up(self) -> None:
        """What the button does to a host that is down."""
        with self.world.lock:
            self.up = True
            self.world.notify()

    def on_down(self, told: Callable[[], None]) -> None:
        """Have a function called each time that the host goes down."""
        self._told.append(told)

    def meet(self, other: "SimulatedHost") -> None:
        """Let this host and another one of the same world find each other by name."""
        if other.world is not self.world:
            raise ValueError("hosts that meet must share one world")
        self.state.peers[other.state.name.lower()] = other.state
        other.state.peers[self.state.name.lower()] = self.state

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
