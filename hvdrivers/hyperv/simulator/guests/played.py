"""Played guests: they boot, tell addresses, answer or ignore a shutdown, and print marks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from uuid import UUID

from hvdrivers.hyperv.simulator.guests.serial import SerialPipes
from hvdrivers.hyperv.simulator.state.machine import Guest, Machine

if TYPE_CHECKING:
    from hvdrivers.hyperv.simulator.state.host import HostState

USERS: Final = {"Administrator": "hvsim-Admin-1", "root": "hvsim-Root-1"}
"""The users of a guest that nobody has changed, and their passwords."""


@dataclass
class Behaviour:
    """How a played guest acts. Seconds are real."""

    boot: float = 0.05
    shutdown: float = 0.05
    obeys_shutdown: bool = True
    services: bool = True
    addresses: bool = True
    direct: bool = True
    """It answers PowerShell Direct, as Windows does."""
    restless: bool = False
    """It writes memory faster than a live migration copies it."""


@dataclass
class PlayedGuests:
    """Makes the guests of one host. ``default`` is the behaviour of machines without their own."""

    host: "HostState"
    default: Behaviour = field(default_factory=Behaviour)
    of: dict[UUID, Behaviour] = field(default_factory=dict)
    users: dict[UUID, dict[str, str]] = field(default_factory=dict)
    """Passwords by user, of each machine whose guest was entered."""

    def __call__(self, machine: Machine, saved: object) -> "PlayedGuest":
        behaviour = self.of.get(machine.id, self.default)
        return PlayedGuest(machine, behaviour, saved, lambda: self.accounts(machine.id))

    def accounts(self, machine: UUID) -> dict[str, str]:
        """The users of a machine's guest, which outlive its runs."""
        return self.users.setdefault(machine, dict(USERS))

    @contextmanager
    def acting(self, machine: Machine, behaviour: Behaviour) -> Iterator[None]:
        """A machine's guest, the one that runs now and those after it, acts so during the block."""
        with self.host.world.lock:
            before = self.of.get(machine.id)
            self.of[machine.id] = behaviour
            guest = machine.guest if isinstance(machine.guest, PlayedGuest) else None
            usual = guest.behaviour if guest is not None else behaviour
            if guest is not None:
                guest.behaviour = behaviour
        try:
            yield
        finally:
            with self.host.world.lock:
                if before is None:
                    self.of.pop(machine.id, None)
                else:
                    self.of[machine.id] = before
                if guest is not None:
                    guest.behaviour = usual


class PlayedGuest:
    """One run of a guest, from power on to power off."""

    def __init__(
        self,
        machine: Machine,
        behaviour: Behaviour,
        saved: object,
        users: Callable[[], dict[str, str]],
    ) -> None:
        self._machine = machine
        self._users = users
        self.behaviour = behaviour
        self._host = machine.host
        self._serial = SerialPipes(machine)
        self._boots = saved if isinstance(saved, int) else 0
        self._booted = False
        self._gone = False
        if isinstance(saved, int):
            self._booted = True
        else:
            self._boot()

    def _boot(self) -> None:
        self._boots += 1
        self._booted = False
        turn = self._boots
        self._serial.write(f"BIOS: starting {self._machine.id}\r\n")

        def ready() -> None:
            if not self._gone and turn == self._boots:
                self._booted = True
                self._serial.write(f"guest: boot {turn} complete\r\n")

        self._host.world.after(self.behaviour.boot, ready)

    def power_off(self) -> None:
        self._gone = True
        self._serial.close()

    def reset(self) -> None:
        self._boot()

    def pause(self) -> None:
        pass  # A played guest does nothing on its own after it has booted.

    def resume(self) -> None:
        pass  # See pause.

    def remember(self) -> object:
        return self._boots

    def save(self) -> object:
        self.power_off()
        return self._boots

    def request_shutdown(self) -> None:
        if not (self._booted and self.behaviour.services and self.behaviour.obeys_shutdown):
            return
        self._serial.write("guest: shutting down\r\n")
        self._host.world.after(
            self.behaviour.shutdown, lambda: guest_stopped(self._machine, self, asked=True)
        )

    def stop_itself(self) -> None:
        """The guest's own user shuts it down. For tests."""
        guest_stopped(self._machine, self, asked=False)

    def inject_nmi(self) -> None:
        self._serial.write("guest: NMI received\r\n")

    def heartbeat(self) -> bool:
        return self._booted and self.behaviour.services and not self._gone

    def addresses(self, adapter: UUID) -> list[str]:
        if not (self.heartbeat() and self.behaviour.addresses):
            return []
        low = adapter.int
        return [
            f"10.{low >> 16 & 255}.{low >> 8 & 255}.{low & 255}",
            f"fe80::{low >> 32 & 0xFFFF:x}:{low & 0xFFFF:x}",
        ]

    def details(self) -> dict[str, str]:
        if not self.heartbeat():
            return {}
        return {
            "FullyQualifiedDomainName": self._machine.name,
            "OSName": "Simulated Linux",
            "OSVersion": "1.0",
            "IntegrationServicesVersion": "3.1",
        }

    def accounts(self) -> dict[str, str] | None:
        return self._users() if self.heartbeat() and self.behaviour.direct else None

    def changed(self) -> None:
        self._serial.refresh()

    def restless(self) -> bool:
        """Whether a live migration comes to no end."""
        return self.behaviour.restless

    def moved(self) -> None:
        """The machine has come to another host, and the guest has noticed nothing."""
        self._host = self._machine.host
        self._serial.move()


def guest_stopped(machine: Machine, guest: Guest, *, asked: bool) -> None:
    """The guest has ended its run: the machine goes off, unless it is not this run any more."""
    if machine.guest is not guest or machine.state not in ("Running", "Stopping", "Paused"):
        return
    machine.guest = None
    guest.power_off()
    machine.set_state("Off")
    machine.host.record("shut-down" if asked else "guest-shut-down", machine)
