"""A fake host: the truth behind every driver that is connected to it."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING
from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.fake.behaviour import GuestBehaviour
from hvdrivers.fake.clock import Clock, RealClock
from hvdrivers.fake.config import HostSize, Latency
from hvdrivers.fake.controls import Controls
from hvdrivers.fake.event_streams import Change, FakeEventStream, device, lifecycle
from hvdrivers.fake.faults import Faults
from hvdrivers.fake.groups import GroupRecord
from hvdrivers.fake.records import (
    Claim,
    Content,
    Disk,
    Machine,
    Pool,
    Port,
    Secret,
    VolumeRecord,
)
from hvdrivers.fake.steps import Call
from hvdrivers.fake.world import FakeWorld
from hvdrivers.models.events import DeviceKind, LifecycleKind
from hvdrivers.models.host import HostInfo
from hvdrivers.models.state import POWERED_ON, InstanceState

if TYPE_CHECKING:
    from hvdrivers.fake.config import FakePool

_NUMBERS = itertools.count(1)


class FakeHost(Controls):
    """A host in memory. ``host.connect()`` gives a driver for it.

    Args:
        name: None makes one up. Hosts that migrate to each other know themselves by name.
        size: what it has.
        world: the hosts that it can reach; None: none but itself.
        clock: its time; see :class:`ManualClock`.
        accept_any_network: every network, bridge and switch exists.
        accept_any_volume: every pool volume and local path exists.

    Attributes:
        faults: rules for every connection.
        latency: seconds by operation or call, for every connection.
        default_guest: how guests behave that are spawned from now on.
        reads_image: what a test wants to find again of an image's content; gets the descriptor.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        size: HostSize | None = None,
        world: FakeWorld | None = None,
        clock: Clock | None = None,
        accept_any_network: bool = False,
        accept_any_volume: bool = False,
    ) -> None:
        self.name = name or f"private-{next(_NUMBERS)}"
        self.size = size or HostSize()
        self.world = world or FakeWorld()
        self.clock: Clock = clock or RealClock()
        self.accept_any_network = accept_any_network
        self.accept_any_volume = accept_any_volume
        self.faults = Faults()
        self.latency: dict[str, Latency] = {}
        self.default_guest = GuestBehaviour()
        self.reads_image: Callable[[int], Content] = lambda _descriptor: ()

        self.machines: dict[UUID, Machine] = {}
        self.incoming: dict[UUID, Machine] = {}
        self.pools = {pool.name: self._pool(pool) for pool in self.size.pools}
        self.ports: dict[tuple[UUID, str], Port] = {}
        self.nvram: dict[UUID, int] = {}
        self.tpm: dict[UUID, int] = {}
        self.secrets: dict[str, Secret] = {}
        self.claims: list[Claim] = []
        self.groups: dict[str, GroupRecord] = {}
        self.networks = {
            "network": set(self.size.networks),
            "bridge": set(self.size.bridges),
            "ovs": set(self.size.ovs_bridges),
            "macvtap": set(self.size.interfaces),
            "dvs": set(self.size.port_groups),
            "hyperv": set(self.size.switches),
        }
        self.local_volumes = {
            path: VolumeRecord(path, size, (f"local:{path}",))
            for path, size in self.size.local_volumes.items()
        }
        self.lost_volumes: set[str] = set()
        self.maintenance = False
        self.reachable = True
        self.epoch = 0
        self.streams: set[FakeEventStream] = set()
        self._round_trips = 0
        self._transcript: deque[Call] = deque(maxlen=10_000)
        self.world.join(self)

    def __repr__(self) -> str:
        return f"<FakeHost {self.label}>"

    @property
    def label(self) -> str:
        """``fake://NAME``: what errors and logs call it."""
        return f"fake://{self.name}"

    def _pool(self, pool: FakePool) -> Pool:
        if pool.shared:
            return self.world.shared_pool(pool.name, pool.total_gib << 30)
        return Pool(name=pool.name, total_bytes=pool.total_gib << 30, shared=False)

    # ---- what the calls of a driver use, under the world's lock --------------------------------

    @property
    def info(self) -> HostInfo:
        """Product, version, architecture."""
        return HostInfo(
            driver="fake",
            product="hvdrivers fake",
            product_version=self.size.product_version,
            api_version="1",
            architecture=self.size.architecture,
            hostname=self.name,
            accelerated=None,
        )

    @property
    def default_pool(self) -> Pool:
        """Where disks go that ask for no other."""
        return next(iter(self.pools.values()))

    def pool(self, name: str | None) -> Pool:
        """A pool by name.

        Raises:
            VolumeNotFound: there is none.
        """
        if name is None:
            return self.default_pool
        if name not in self.pools:
            raise errors.VolumeNotFound(
                f"the host has no pool {name!r}", hint=f"there are: {', '.join(self.pools)}"
            )
        return self.pools[name]

    def ours(self) -> list[Machine]:
        """The machines that list_instances() shows."""
        return [machine for machine in self.machines.values() if machine.ours]

    def disks_of(self, uuid: UUID) -> Iterator[tuple[Pool, Disk]]:
        """The disks that an instance owns, and where they are."""
        for pool in self.pools.values():
            for disk in list(pool.disks.values()):
                if disk.owner == uuid:
                    yield pool, disk

    def disk(self, uuid: UUID, role: str) -> Disk | None:
        """One disk of an instance."""
        for _, disk in self.disks_of(uuid):
            if disk.role == role:
                return disk
        return None

    def home(self, uuid: UUID) -> Pool:
        """The pool that an instance's root disk is in: where migrate_storage() has put it."""
        homes = (pool for pool, disk in self.disks_of(uuid) if disk.role == "root")
        return next(homes, self.default_pool)

    def has_image(self, key: str | None) -> bool:
        """Whether a disk with this base can be opened."""
        return key is None or any(key in pool.images for pool in self.pools.values())

    def remove_disks(self, uuid: UUID, *roles: str, token: int | None = None) -> None:
        """Delete disks of an instance: of these roles, or all; only what ``token`` made, or all."""
        for pool, disk in self.disks_of(uuid):
            if (not roles or disk.role in roles) and token in {None, disk.token}:
                del pool.disks[disk.name]

    def to_volume(self, pool: Pool, disk: Disk, name: str) -> None:
        """Turn an instance's disk into a volume of its pool."""
        del pool.disks[disk.name]
        pool.volumes[name] = VolumeRecord(
            volume_id=f"{pool.name}/{name}",
            size_bytes=disk.size_bytes,
            content=disk.content,
            name=name,
            pool=pool.name,
        )

    def volumes(self) -> Iterator[VolumeRecord]:
        """Every volume that anybody has told this host of."""
        yield from self.world.volumes.values()
        yield from self.local_volumes.values()
        for pool in self.pools.values():
            yield from pool.volumes.values()

    def unlock(self, uuid: UUID, *, volume_id: str | None = None, token: int | None = None) -> None:
        """Let a machine go of one volume, or of all."""
        key = (self.name, uuid)
        for volume in list(self.volumes()):
            lock = volume.locks.get(key)
            if lock is None or volume_id not in {None, lock.volume_id}:
                continue
            if token in {None, lock.token}:
                del volume.locks[key]

    def remove_secrets(self, uuid: UUID, *, token: int | None = None) -> None:
        """Forget credentials of a machine."""
        for key, secret in list(self.secrets.items()):
            if secret.owner == uuid and token in {None, secret.token}:
                del self.secrets[key]

    def remove_ports(
        self, uuid: UUID, *, vif_id: str | None = None, token: int | None = None
    ) -> None:
        """Take ports of a machine, and the devices behind them, away."""
        for key, port in list(self.ports.items()):
            if port.owner == uuid and vif_id in {None, port.vif.id} and token in {None, port.token}:
                del self.ports[key]
                self.release(uuid, use=port.vif.id)

    def forget_attachment(self, uuid: UUID, volume_id: str) -> None:
        """Unlock a volume and forget its secrets."""
        self.unlock(uuid, volume_id=volume_id)
        prefix = f"{uuid}/{volume_id}/"
        for name in [name for name in self.secrets if name.startswith(prefix)]:
            del self.secrets[name]

    def release(self, uuid: UUID, *, use: str | None = None, token: int | None = None) -> None:
        """Give devices of a machine back."""
        self.claims = [
            claim
            for claim in self.claims
            if not (
                claim.owner == uuid and use in {None, claim.use} and token in {None, claim.token}
            )
        ]

    # ---- changes that everybody hears of -------------------------------------------------------

    def set_state(self, machine: Machine, state: InstanceState, kind: LifecycleKind) -> None:
        """Change a state, and tell it."""
        if state in POWERED_ON and machine.state not in POWERED_ON:
            machine.started_at = self.clock.now()
        machine.state = state
        machine.claims = False
        if state not in POWERED_ON:
            machine.frozen = False
            self.end_programs(machine.uuid)
            for backup in machine.backups.values():
                backup.open = False
        self.tell_lifecycle(machine, kind, state)

    def start_paused(self, machine: Machine) -> None:
        """Power a machine on, and let its guest wait."""
        self.set_state(machine, InstanceState.PAUSED, LifecycleKind.PAUSED)
        machine.waits = True

    def tell_lifecycle(
        self, machine: Machine, kind: LifecycleKind, state: InstanceState | None
    ) -> None:
        """Deliver a lifecycle event, if the machine is ours."""
        if machine.ours:
            self._tell(lifecycle(self.clock.wall(), machine.uuid, kind, state))

    def tell_device(self, machine: Machine, kind: DeviceKind, name: str) -> None:
        """Deliver a device event of a machine that is powered on."""
        if machine.ours and machine.state in POWERED_ON:
            self._tell(device(self.clock.wall(), machine.uuid, kind, name))

    def _tell(self, change: Change) -> None:
        for stream in self.streams:
            stream.deliver(change)

    def boot(self, machine: Machine) -> None:
        """What the guest does when it starts from its disks."""
        machine.boots += 1
        machine.pending_nmi = False
        machine.waits = False
        machine.asked_for.clear()
        machine.started_at = self.clock.now()
        machine.frozen = False
        self.end_programs(machine.uuid)
        machine.write_console(f"Booting (start {machine.boots}, {machine.firmware.value})")
        machine.write_console(machine.guest.console)

    def agent_answers(self, machine: Machine) -> bool:
        """Whether the guest's agent is there by now."""
        up = self.clock.now() - machine.started_at
        return machine.guest.agent and up >= machine.guest.boot_seconds

    # ---- counting ------------------------------------------------------------------------------

    def record(self, call: Call) -> None:
        """Count a round trip."""
        self._round_trips += 1
        self._transcript.append(call)

    @property
    def round_trips(self) -> int:
        """Calls of all connections that have reached the host."""
        return self._round_trips

    def transcript(self) -> tuple[Call, ...]:
        """The last calls that have reached the host, oldest first."""
        with self.world.lock:
            return tuple(self._transcript)
