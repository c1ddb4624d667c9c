"""A world: fake hosts that know each other, and what they share."""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING
from uuid import UUID

from hvdrivers.contract.errors import InvalidRequest
from hvdrivers.fake.records import Pool, VolumeRecord
from hvdrivers.hints import ANOTHER_NAME

if TYPE_CHECKING:
    from hvdrivers.fake.config import FakeConfig
    from hvdrivers.fake.host import FakeHost
    from hvdrivers.models.migration import Move

_MAKING = ("size", "clock", "accept_any_network", "accept_any_volume")


class FakeWorld:
    """Hosts by name, shared pools, and the volumes of storage servers.

    All state in it is guarded by one lock that is held for single calls only, never while time
    passes. So a migration is one change for both hosts, and different instances do not wait for
    each other's latencies.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.volumes: dict[str, VolumeRecord] = {}
        self._pools: dict[str, Pool] = {}
        self._hosts: dict[str, FakeHost] = {}

    def host(self, name: str, config: FakeConfig | None = None) -> FakeHost:
        """The host of this name, made by ``config`` if it is new.

        Raises:
            InvalidRequest: it exists, and ``config`` says that it is another.
        """
        from hvdrivers.fake.config import FakeConfig
        from hvdrivers.fake.host import FakeHost

        config = config or FakeConfig()
        with self.lock:
            host = self._hosts.get(name)
            if host is None:
                return FakeHost(
                    name,
                    size=config.size,
                    world=self,
                    clock=config.clock,
                    accept_any_network=config.accept_any_network,
                    accept_any_volume=config.accept_any_volume,
                )
            for field in _MAKING:
                if field in config.model_fields_set and getattr(config, field) != getattr(
                    host, field
                ):
                    raise InvalidRequest(
                        f"the fake host {name} exists, with another {field}",
                        hint="leave it out, or choose another name",
                    )
            return host

    def forget_move(self, move: Move) -> None:
        """Remove what a move has prepared at its destination. The caller holds the lock."""
        target = None if move.destination is None else self.find(move.destination.host)
        if target is None or move.uuid not in target.incoming:
            return
        del target.incoming[move.uuid]
        target.remove_disks(move.uuid, token=int(move.token))

    def find(self, name: str) -> FakeHost | None:
        """The host of this name, if there is one. ``fake://NAME`` is understood."""
        with self.lock:
            return self._hosts.get(name.removeprefix("fake://").rstrip("/"))

    @property
    def hosts(self) -> tuple[FakeHost, ...]:
        """All of them."""
        with self.lock:
            return tuple(self._hosts.values())

    def join(self, host: FakeHost) -> None:
        """Take a host in.

        Raises:
            InvalidRequest: there is one of this name.
        """
        with self.lock:
            if host.name in self._hosts:
                raise InvalidRequest(f"there is a fake host {host.name} already", hint=ANOTHER_NAME)
            self._hosts[host.name] = host

    def has_open(self, host_name: str, uuid: UUID) -> bool:
        """Whether a machine with a hold on a volume is powered on, and so has it open."""
        host = self._hosts.get(host_name)
        machine = None if host is None else host.machines.get(uuid)
        return machine is not None and machine.takes_memory

    def shared_pool(self, name: str, total_bytes: int) -> Pool:
        """The pool of this name that several hosts have."""
        with self.lock:
            return self._pools.setdefault(name, Pool(name, total_bytes, shared=True))

    def reset(self) -> None:
        """Forget everything: for the end of a test. Drivers that are still connected keep their
        host, which nobody else finds any more."""
        with self.lock:
            self.volumes.clear()
            self._pools.clear()
            self._hosts.clear()


@functools.cache
def default_world() -> FakeWorld:
    """The world of this process, in which ``connect("fake", host="alpha")`` finds its host."""
    return FakeWorld()
