"""A fake machine's own disks: made at spawn, from images, from nothing, or from kept ones."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID

from pydantic import SecretBytes

from hvdrivers import cloudinit
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, provides
from hvdrivers.driverkit.checks import root_disk_bytes
from hvdrivers.driverkit.own_disks import wanted_disks
from hvdrivers.fake.capacity import check_room
from hvdrivers.fake.image_store import whole
from hvdrivers.fake.records import Disk, ImageRecord
from hvdrivers.fake.steps import Task
from hvdrivers.hints import DETACH_FIRST, LARGER_DISK, VOLUMES
from hvdrivers.models.disk import DiskRole, OwnDisk
from hvdrivers.models.instance import InstanceSpec, Keep

if TYPE_CHECKING:
    from hvdrivers.fake.host import FakeHost
    from hvdrivers.fake.machines import Machines

_SEED_BYTES = 1 << 20
_KEPT_ROLES = {
    Keep.ROOT_DISK: DiskRole.ROOT,
    Keep.EPHEMERAL_DISKS: DiskRole.EPHEMERAL,
    Keep.SWAP_DISK: DiskRole.SWAP,
}


def role_of(name: str) -> DiskRole | None:
    """The role of one of an instance's own disks, by its name; None for any other disk."""
    stem, _, number = name.partition("-")
    known = stem in set(DiskRole) and (not number or number.isdigit())
    return DiskRole(stem) if known else None


def kept_roles(keep: AbstractSet[Keep]) -> set[DiskRole]:
    """The roles of the disks that destroy() leaves."""
    return {_KEPT_ROLES[each] for each in keep}


class OwnDisks:
    """What spawn() and destroy() do about disks."""

    def __init__(self, host: FakeHost, machines: Machines) -> None:
        self.host = host
        self.machines = machines

    @provides(
        Capability.EPHEMERAL_DISK,
        Capability.SWAP_DISK,
        Capability.CONFIG_DRIVE,
        Capability.USER_DATA,
        Capability.SEED_DISC,
    )
    def make(self, task: Task, spec: InstanceSpec, image: ImageRecord | None) -> None:
        for disk, wish in self.wanted(task, spec, image):
            if wish is not None and wish.kept is not None:
                self._take_kept(task, disk, wish.kept)
            else:
                self.create(task, disk)
        seed: dict[str, SecretBytes] = {}
        if spec.cloud_init is not None:
            files = cloudinit.seed_files(spec.cloud_init, uuid=spec.uuid, name=spec.name)
            seed = {path: SecretBytes(data) for path, data in files.items()}
            disk = Disk(spec.uuid, "seed", _SEED_BYTES, ("seed", *seed), task.token)
            self.create(task, disk, seed)
        if spec.seed is not None:
            disc = whole(spec.seed)
            size = len(disc.read())
            self.create(task, Disk(spec.uuid, "seed", size, ("seed disc",), task.token))
            self.host.machines[spec.uuid].seed_disc = disc

    def wanted(
        self, task: Task, spec: InstanceSpec, image: ImageRecord | None
    ) -> Iterator[tuple[Disk, OwnDisk | None]]:
        for disk in wanted_disks(spec):
            wish, size, base = disk.wish, disk.size, None
            if wish.role is DiskRole.ROOT and image is not None:
                size = root_disk_bytes(image.virtual_size_bytes, spec.flavor.disk_gib)
                base = image.key
            content = image.content if wish.role is DiskRole.ROOT and image else ("empty",)
            if wish.file_system is not None:
                content = (f"formatted:{wish.file_system}:{wish.label}",)
            made = Disk(spec.uuid, disk.name, size, content, task.token, base, wish=wish)
            yield made, wish

    def create(self, task: Task, disk: Disk, seed: dict[str, SecretBytes] | None = None) -> None:
        task.call(
            f"create-{disk.role}-disk",
            lambda: self.place(task, disk, seed),
            undo=(
                "delete-disk",
                lambda: self.host.remove_disks(disk.owner, disk.role, token=task.token),
            ),
        )

    def place(self, task: Task, disk: Disk, seed: dict[str, SecretBytes] | None) -> None:
        machine = self.machines.building(disk.owner, task.token)
        check_room(self.host.default_pool, disk.size_bytes)
        self.host.default_pool.disks[disk.name] = disk
        machine.seed = seed or machine.seed
        used = self.host.default_pool.images.get(disk.base or "")
        if used is not None:
            used.last_used = self.host.clock.wall()

    def _take_kept(self, task: Task, disk: Disk, volume_id: str) -> None:
        task.call(
            "take-kept-disk",
            lambda: self.own_volume(task, disk, volume_id),
            undo=("give-kept-disk-back", lambda: self.give_back(disk, volume_id, task.token)),
        )

    def own_volume(self, task: Task, disk: Disk, volume_id: str) -> None:
        self.machines.building(disk.owner, task.token)
        for pool in self.host.pools.values():
            for name, record in pool.volumes.items():
                if record.volume_id == volume_id:
                    self.check_kept(disk, volume_id)
                    # a kept disk may grow, as at resize()
                    size = max(disk.size_bytes, record.size_bytes)
                    check_room(pool, size - record.size_bytes)
                    del pool.volumes[name]
                    mine = replace(disk, size_bytes=size, content=record.content, base=None)
                    pool.disks[mine.name] = mine
                    return
        raise errors.VolumeNotFound(f"the host has no volume {volume_id!r}", hint=VOLUMES)

    def check_kept(self, disk: Disk, volume_id: str) -> None:
        record = next(each for each in self.host.volumes() if each.volume_id == volume_id)
        attached = any(volume_id in each.volumes for each in self.host.machines.values())
        if record.locks or attached:
            raise errors.DeviceBusy(
                f"volume {volume_id!r} is attached to a machine", hint=DETACH_FIRST
            )
        if disk.size_bytes and disk.size_bytes < record.size_bytes:
            raise errors.InvalidRequest(
                f"volume {volume_id!r} is larger than the disk of the spec", hint=LARGER_DISK
            )

    def give_back(self, disk: Disk, volume_id: str, token: int) -> None:
        pool_name, _, name = volume_id.partition("/")
        for pool, mine in list(self.host.disks_of(disk.owner)):
            if mine.role == disk.role and mine.token == token and pool.name == pool_name:
                self.host.to_volume(pool, mine, name)

    def check_kept_names(self, uuid: UUID, keep: AbstractSet[Keep]) -> None:
        """Raise VolumeExists if what destroy() is to keep has no name left."""
        roles = kept_roles(keep)
        for _, disk in self.host.disks_of(uuid):
            name = f"{uuid}-{disk.role}"
            taken = any(name in pool.volumes for pool in self.host.pools.values())
            if role_of(disk.role) in roles and taken:
                raise errors.VolumeExists(f"there is a volume {name} already", instance=uuid)

    def delete(self, uuid: UUID, keep: AbstractSet[Keep]) -> None:
        roles = kept_roles(keep)
        for pool, disk in list(self.host.disks_of(uuid)):
            if role_of(disk.role) in roles:
                self.host.to_volume(pool, disk, f"{uuid}-{disk.role}")
        self.host.remove_disks(uuid)
