"""The inside of the simulator's guests, which are played: their users and programs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import gettempdir
from typing import Final
from uuid import UUID

from pydantic import SecretStr

from hvdrivers.conformance.engine.target import Target
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.hyperv.simulator.guests.played import USERS, Behaviour
from hvdrivers.hyperv.simulator.host import SimulatedHost
from hvdrivers.hyperv.simulator.state.machine import Machine
from hvdrivers.models.guest import GuestCredentials

_USER: Final = "Administrator"


class PlayedGuest(Target):
    """The part of the target that knows the guests."""

    host: SimulatedHost

    @abstractmethod
    def guest_of(self, uuid: UUID) -> Machine:
        """The machine of an instance, on whichever of the target's hosts it is."""

    @contextmanager
    def behaving(self, uuid: UUID, behaviour: Behaviour) -> Iterator[None]:
        """The guest acts so during the block."""
        with self.host.guests.acting(self.guest_of(uuid), behaviour):
            yield

    @contextmanager
    def deaf_guest(self, driver: ComputeDriver, uuid: UUID) -> Iterator[None]:
        with self.behaving(uuid, Behaviour(obeys_shutdown=False)):
            yield

    @contextmanager
    def silent_agent(self, driver: ComputeDriver, uuid: UUID) -> Iterator[None]:
        """The guest's integration services report no address, which is what a guest says of itself,
        and it does not answer PowerShell Direct."""
        with self.behaving(uuid, Behaviour(addresses=False, direct=False)):
            yield

    def guest_account(self, driver: ComputeDriver, uuid: UUID) -> GuestCredentials:
        return GuestCredentials(user=_USER, password=SecretStr(USERS[_USER]))

    @contextmanager
    def account_needed(self, driver: ComputeDriver, uuid: UUID) -> Iterator[GuestCredentials]:
        """Windows always asks for one."""
        yield self.guest_account(driver, uuid)

    def accepts_password(self, driver: ComputeDriver, uuid: UUID, user: str, password: str) -> bool:
        with self.host.world.lock:
            return self.host.guests.accounts(self.guest_of(uuid).id).get(user) == password

    @contextmanager
    def endless_program(self, driver: ComputeDriver, uuid: UUID) -> Iterator[Sequence[str]]:
        """Its programs are those of this computer, and no guest's end ends them: this one runs for
        as long as there is a file, and makes another one first."""
        lasts, begun = _file(uuid, "lasts"), _file(uuid, "begun")
        lasts.touch()
        script = f"echo >'{begun}'; while [ -e '{lasts}' ]; do /bin/sleep 0.1; done"
        try:
            yield ["/bin/sh", "-c", script]
        finally:
            lasts.unlink()
            begun.unlink(missing_ok=True)

    def program_runs(self, driver: ComputeDriver, uuid: UUID) -> bool:
        return _file(uuid, "begun").exists()


def _file(uuid: UUID, what: str) -> Path:
    """A file of this computer that belongs to an instance's endless program."""
    return Path(gettempdir(), f"hvct-{uuid}-{what}")
