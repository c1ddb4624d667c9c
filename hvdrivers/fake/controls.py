"""What a test does to a fake host from outside: cut cables, crash guests, look into disks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast
from uuid import UUID, uuid4

from hvdrivers.contract.errors import (
    ConnectionFailed,
    InstanceNotFound,
    InvalidRequest,
    VolumeNotFound,
)
from hvdrivers.contract.limits import Limit
from hvdrivers.fake.behaviour import GuestBehaviour
from hvdrivers.fake.inventory import Inventory, take_inventory
from hvdrivers.fake.records import Content, Disk, Lock, Machine, VolumeRecord
from hvdrivers.models.events import DeviceKind, LifecycleKind
from hvdrivers.models.instance import Flavor
from hvdrivers.models.state import POWERED_ON, InstanceState

if TYPE_CHECKING:
    from hvdrivers.contract.driver import ComputeDriver
    from hvdrivers.fake.host import FakeHost


class Controls:
    """The hand that tests a fake host. Base of :class:`FakeHost`; each method is one change."""

    @property
    def _it(self) -> FakeHost:
        return cast("FakeHost", self)

    def connect(self, **options: object) -> ComputeDriver:
        """A new driver for this host, guarded as ``hvdrivers.connect()`` gives it.

        Args:
            options: fields of :class:`FakeConfig` that are a connection's own: ``without``,
                ``faults``, ``latency``, ``event_buffer``, ``operation_timeout_scale``.
        """
        from hvdrivers.fake.config import FakeConfig
        from hvdrivers.fake.driver import FakeDriver
        from hvdrivers.guard import guarded

        config = FakeConfig.model_validate(options)
        self.check_reachable()
        return guarded(FakeDriver(self._it, config), timeout_scale=config.operation_timeout_scale)

    def inventory(self) -> Inventory:
        """Everything that is there now."""
        with self._it.world.lock:
            return take_inventory(self._it)

    def _find(self, uuid: UUID) -> Machine:
        machine = self._it.machines.get(uuid)
        if machine is None:
            raise InstanceNotFound(f"no machine {uuid} is on {self._it.label}", instance=uuid)
        return machine

    # ---- the connection ------------------------------------------------------------------------

    def disconnect(self) -> None:
        """Cut every connection once. The next call makes a new one; event streams resynchronise."""
        host = self._it
        with host.world.lock:
            host.epoch += 1
            for stream in host.streams:
                stream.lose_connection()

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        """While the block lasts nothing reaches the host: ConnectionFailed. Machines run on."""
        self.stop_answering()
        try:
            yield
        finally:
            self.answer_again()

    def stop_answering(self) -> None:
        """Be unreachable until :meth:`answer_again`."""
        with self._it.world.lock:
            self._it.reachable = False
            self.disconnect()

    def check_reachable(self) -> None:
        """Raise ConnectionFailed while nothing reaches the host."""
        if not self._it.reachable:
            raise ConnectionFailed(
                "the host does not answer",
                vendor_code="FAKE_UNREACHABLE",
                hint="FakeHost.answer_again() ends that",
            )

    def answer_again(self) -> None:
        """Be reachable again."""
        with self._it.world.lock:
            self._it.reachable = True
            for stream in self._it.streams:
                stream.wake()

    def restart_host(self) -> None:
        """The host loses power and comes back: machines that were on are STOPPED, connections are
        cut, nobody hears of it but by a resync."""
        host = self._it
        with host.world.lock:
            host.disconnect()
            for machine in host.machines.values():
                if machine.state in POWERED_ON:
                    host.remove_disks(machine.uuid, "rescue")
                    host.set_state(machine, InstanceState.STOPPED, LifecycleKind.STOPPED)
            self.answer_again()

    # ---- guests --------------------------------------------------------------------------------

    def guest(self, uuid: UUID) -> GuestBehaviour:
        """How this guest behaves, to be changed.

        Raises:
            InstanceNotFound: there is no such machine.
        """
        with self._it.world.lock:
            return self._find(uuid).guest

    def runs_programs(self, uuid: UUID) -> bool:
        """Whether guest_exec() waits for a program of the guest."""
        with self._it.world.lock:
            return bool(self._find(uuid).programs)

    def end_programs(self, uuid: UUID) -> None:
        """Nobody learns any more how the programs have ended that run in the guest; not an error
        if there is no such machine."""
        with self._it.world.lock:
            machine = self._it.machines.get(uuid)
            if machine is not None:
                for each in machine.programs:
                    each.set()
                machine.programs.clear()

    def let_go(self, uuid: UUID) -> None:
        """The guest lets go, too late, of the volumes and NICs that it was asked for in vain."""
        with self._it.world.lock:
            machine = self._find(uuid)
            if machine.state in POWERED_ON:
                for device in sorted(machine.asked_for):
                    if machine.volumes.pop(device, None) is not None:
                        self._it.forget_attachment(uuid, device)
                    self._it.remove_ports(uuid, vif_id=device)
                    self._it.tell_device(machine, DeviceKind.REMOVED, device)
            machine.asked_for.clear()

    def crash(self, uuid: UUID) -> None:
        """The guest's kernel dies."""
        with self._it.world.lock:
            machine = self._find(uuid)
            if machine.state not in POWERED_ON:
                raise InvalidRequest(
                    "only a machine that is powered on can crash", hint="power_on() it first"
                )
            machine.write_console("Kernel panic - not syncing")
            self._it.remove_disks(uuid, "rescue")
            if Limit.NEVER_CRASHED in self._it.size.limits:
                self._it.set_state(machine, InstanceState.STOPPED, LifecycleKind.STOPPED)
            else:
                self._it.set_state(machine, InstanceState.CRASHED, LifecycleKind.CRASHED)

    def shut_down_guest(self, uuid: UUID) -> None:
        """The guest powers itself off."""
        with self._it.world.lock:
            machine = self._find(uuid)
            if machine.state in POWERED_ON:
                machine.write_console("Power down")
                self._it.remove_disks(uuid, "rescue")
                self._it.set_state(machine, InstanceState.STOPPED, LifecycleKind.STOPPED)

    def console(self, uuid: UUID) -> bytes:
        """All that the guest has written to its serial console."""
        with self._it.world.lock:
            return bytes(self._find(uuid).console)

    def password(self, uuid: UUID, user: str) -> str | None:
        """The password that a user of the guest has been given."""
        with self._it.world.lock:
            secret = self._find(uuid).passwords.get(user)
            return None if secret is None else secret.get_secret_value()

    # ---- disks ---------------------------------------------------------------------------------

    def write_disk(self, uuid: UUID, text: str, disk: str = "root") -> None:
        """The guest writes something.

        Args:
            text: what; two disks with the same history of writes are equal.
            disk: the role of one of its own disks (``root``, ``ephemeral``, ``swap``), or a
                volume id; ``root`` is also the volume that a machine boots from.
        """
        with self._it.world.lock:
            machine = self._find(uuid)
            if machine.frozen:
                raise InvalidRequest("the guest's file systems are frozen", hint="thaw() it first")
            holder = self._disk(machine, disk)
            holder.content = (*holder.content, f"write:{text}")

    def disk_content(self, uuid: UUID, disk: str = "root") -> Content:
        """What is on a disk: where it came from, and the writes since."""
        with self._it.world.lock:
            return self._disk(self._find(uuid), disk).content

    def seed_files(self, uuid: UUID) -> dict[str, bytes]:
        """The files on the instance's seed disk, secrets in clear."""
        with self._it.world.lock:
            seed = self._find(uuid).seed
            return {path: data.get_secret_value() for path, data in seed.items()}

    def _disk(self, machine: Machine, name: str) -> Disk | VolumeRecord:
        for volume_id, attached in machine.volumes.items():
            boots = name == "root" and attached.attachment.boot_index == 0
            if name == volume_id or boots:
                return attached.record
        disk = self._it.disk(machine.uuid, name)
        if disk is None:
            raise VolumeNotFound(
                f"the machine has no disk {name!r}",
                hint="name root, ephemeral or swap, or the id of a volume that is attached",
            )
        return disk

    # ---- the surroundings ----------------------------------------------------------------------

    def add_foreign(
        self,
        uuid: UUID | None = None,
        *,
        name: str = "somebody else's",
        state: InstanceState = InstanceState.RUNNING,
        vcpus: int = 1,
        memory_mib: int = 512,
        disk_gib: int = 1,
        volumes: tuple[str, ...] = (),
    ) -> UUID:
        """A machine that this library did not make, with a root disk of ``disk_gib`` GiB.

        Args:
            volumes: ids of volumes that it has open.

        Returns:
            Its UUID.
        """
        host = self._it
        uuid = uuid or uuid4()
        with host.world.lock:
            if uuid in host.machines:
                raise InvalidRequest(
                    f"there is a machine {uuid} already", hint="choose another UUID"
                )
            host.machines[uuid] = Machine(
                uuid=uuid,
                name=name,
                state=state,
                flavor=Flavor(vcpus=vcpus, memory_mib=memory_mib, disk_gib=disk_gib),
                created_at=host.clock.wall(),
                token=0,
                guest=host.default_guest.copy(),
                ours=False,
                started_at=host.clock.now(),
            )
            disk = Disk(uuid, "root", disk_gib << 30, ("foreign",), token=0)
            host.default_pool.disks[disk.name] = disk
            for volume_id in volumes:
                lock = Lock(0, multiattach=False, volume_id=volume_id)
                self.add_volume(volume_id).locks[host.name, uuid] = lock
        return uuid

    def copy_machine(self, uuid: UUID) -> UUID:
        """Somebody copies a machine by the host's own means; the copy is nobody's of ours.

        Returns:
            The UUID of the copy.
        """
        with self._it.world.lock:
            original = self._find(uuid)
            name = original.name
        copy = self.add_foreign(name=name, state=InstanceState.STOPPED)
        with self._it.world.lock:
            machine = self._find(copy)
            machine.metadata, machine.copy_of = dict(original.metadata), uuid
        return copy

    def remove_foreign(self, uuid: UUID) -> None:
        """Its owner deletes it."""
        with self._it.world.lock:
            machine = self._find(uuid)
            if machine.ours:
                raise InvalidRequest("that is one of ours", hint="destroy() it")
            self._it.remove_disks(uuid)
            self._it.unlock(uuid)
            del self._it.machines[uuid]

    def add_network(self, kind: str, name: str) -> None:
        """Make a network: ``kind`` is the VIF's type, ``network``, ``bridge``, ``ovs``,
        ``macvtap``, ``dvs`` or ``hyperv``."""
        self._it.networks[kind].add(name)

    def remove_network(self, kind: str, name: str) -> None:
        """Somebody deletes a network; machines on it keep their NICs until they start again."""
        self._it.networks[kind].discard(name)

    def add_volume(self, volume_id: str, *, size_gib: int = 1) -> VolumeRecord:
        """A volume of a storage server, by the id that attachments name. Without this one of
        1 GiB appears when it is first attached."""
        with self._it.world.lock:
            return self._it.world.volumes.setdefault(
                volume_id, VolumeRecord(volume_id, size_gib << 30, (f"volume:{volume_id}",))
            )

    def resize_volume(self, volume_id: str, size_bytes: int) -> None:
        """A volume grows at its server; machines see it after extend_volume()."""
        with self._it.world.lock:
            for volume in self._it.volumes():
                if volume.volume_id == volume_id:
                    volume.size_bytes = size_bytes

    def lose_volume(self, volume_id: str) -> None:
        """The host cannot find or open this volume any more."""
        self._it.lost_volumes.add(volume_id)

    def find_volume(self, volume_id: str) -> None:
        """The opposite of :meth:`lose_volume`."""
        self._it.lost_volumes.discard(volume_id)
