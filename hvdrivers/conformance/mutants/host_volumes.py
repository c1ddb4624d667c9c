"""Mutants of the host's own storage."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.fake.capacity import check_room
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.records import Disk, ImageRecord, Machine
from hvdrivers.models.progress import ProgressCallback
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import HostVolume, Volume, VolumeSpec


@mutant("STOR-050")
class VolumeIsRoundedDown(FakeDriver):
    """create_volume() rounds the size down to whole MiB, below what was asked for."""

    def _create_volume(self, spec: VolumeSpec, token: int) -> Volume:
        size = max(1 << 20, spec.capacity_bytes >> 20 << 20)
        return super()._create_volume(
            spec.model_copy(update={"size_bytes": size, "size_gib": None}), token
        )


@mutant("STOR-050")
class VolumeHasTwoIds(FakeDriver):
    """create_volume() returns another id than list_volumes() shows."""

    def _create_volume(self, spec: VolumeSpec, token: int) -> Volume:
        volume = super()._create_volume(spec, token)
        return volume.model_copy(update={"serial": volume.volume_id.rpartition("/")[2]})


@mutant("STOR-050")
class PoolIsIgnored(FakeDriver):
    """create_volume() makes every volume in the default pool."""

    def _create_volume(self, spec: VolumeSpec, token: int) -> Volume:
        self.fake_host.pool(spec.pool)
        return super()._create_volume(spec.model_copy(update={"pool": None}), token)


@mutant("STOR-050")
class GibibytesAreGigabytes(FakeDriver):
    """create_volume() takes a GiB for 10^9 bytes."""

    def _create_volume(self, spec: VolumeSpec, token: int) -> Volume:
        size = spec.size_bytes or (spec.size_gib or 0) * 10**9
        return super()._create_volume(
            spec.model_copy(update={"size_bytes": size, "size_gib": None}), token
        )


@mutant("STOR-050")
class NamelessVolumesAreOne(FakeDriver):
    """The second volume without a name is the first one."""

    def _create_volume(self, spec: VolumeSpec, token: int) -> Volume:
        if spec.name is None:
            for volume in self._list_volumes():
                if volume.name == "nameless":
                    return volume.to_volume()
            spec = spec.model_copy(update={"name": "nameless"})
        return super()._create_volume(spec, token)


@mutant("STOR-051")
class TakenNameReturnsWhatIsThere(FakeDriver):
    """create_volume() with a taken name returns the volume that has it, with another's data."""

    def _create_volume(self, spec: VolumeSpec, token: int) -> Volume:
        for volume in self._list_volumes():
            if volume.name == spec.name:
                return volume.to_volume()
        return super()._create_volume(spec, token)


@mutant("STOR-051")
class TakenNameEmptiesTheVolume(FakeDriver):
    """The right error for a taken name, after the volume was overwritten."""

    def _create_volume(self, spec: VolumeSpec, token: int) -> Volume:
        volumes = self.fake_host.pool(spec.pool).volumes
        if spec.name in volumes:
            volumes[spec.name].size_bytes = spec.capacity_bytes
        return super()._create_volume(spec, token)


@mutant("STOR-051")
class TakenNameIsInvalid(FakeDriver):
    """create_volume() answers a taken name with the error for any wrong argument."""

    def _create_volume(self, spec: VolumeSpec, token: int) -> Volume:
        try:
            return super()._create_volume(spec, token)
        except errors.VolumeExists as error:
            raise errors.InvalidRequest("the name is taken") from error


@mutant("STOR-058")
class LostReplyTakesTheOlderVolumeBack(FakeDriver):
    """create_volume() whose reply is lost deletes the volume of that name, also an older one."""

    def create_volume(self, spec: VolumeSpec, *, timeout: float | None = None) -> Volume:
        with self.link.task("create_volume", None, timeout) as task:
            try:
                made = task.call("create-volume", lambda: self._made_or_not(spec, task.token))
            except errors.OutcomeUnknown:
                if spec.name is not None:
                    self.fake_host.pool(spec.pool).volumes.pop(spec.name, None)
                raise
            if isinstance(made, errors.VolumeExists):
                raise made
            return made

    def _made_or_not(self, spec: VolumeSpec, token: int) -> Volume | errors.VolumeExists:
        try:
            return self._create_volume(spec, token)
        except errors.VolumeExists as error:
            return error


@mutant("STOR-057")
class GetVolumeFindsByPrefix(FakeDriver):
    """get_volume() shows the first volume whose id begins like the one that is meant."""

    def _get_volume(self, volume_id: str) -> HostVolume:
        for volume in self._list_volumes():
            if volume.volume_id.startswith(volume_id):
                return volume
        raise errors.VolumeNotFound("no such volume")


@mutant("STOR-057")
class GetVolumeForgetsKeptDisks(FakeDriver):
    """get_volume() knows only what create_volume() made."""

    def _get_volume(self, volume_id: str) -> HostVolume:
        if volume_id.endswith("-root"):
            raise errors.VolumeNotFound("no such volume")
        return super()._get_volume(volume_id)


@mutant("STOR-052")
class AbsentPoolIsTheDefault(FakeDriver):
    """create_volume() in a pool that is not there makes the volume somewhere else."""

    def _create_volume(self, spec: VolumeSpec, token: int) -> Volume:
        if spec.pool not in self.fake_host.pools:
            spec = spec.model_copy(update={"pool": None})
        return super()._create_volume(spec, token)


@mutant("STOR-053")
class RoomIsNotCounted(FakeDriver):
    """create_volume() promises more than the pool has."""

    def _create_volume(self, spec: VolumeSpec, token: int) -> Volume:
        pool = self.fake_host.pool(spec.pool)
        total, pool.total_bytes = pool.total_bytes, 1 << 62
        try:
            return super()._create_volume(spec, token)
        finally:
            pool.total_bytes = total


@mutant("STOR-053")
class NoRoomLeavesAnEmptyVolume(FakeDriver):
    """The right error when there is no room, and a volume that could not grow."""

    def _create_volume(self, spec: VolumeSpec, token: int) -> Volume:
        try:
            return super()._create_volume(spec, token)
        except errors.InsufficientResources:
            small = spec.model_copy(update={"size_bytes": 512, "size_gib": None})
            super()._create_volume(small, token)
            raise


@mutant("STOR-054")
class ListForgetsKeptDisks(FakeDriver):
    """list_volumes() shows only what create_volume() made."""

    def _list_volumes(self) -> list[HostVolume]:
        return [each for each in super()._list_volumes() if not each.name.endswith("-root")]


@mutant("STOR-054")
class ListShowsSomeTwice(FakeDriver):
    """list_volumes() shows the volumes of the default pool once by its name and once by default."""

    def list_volumes(self, *, timeout: float | None = None) -> Sequence[HostVolume]:
        found = list(super().list_volumes(timeout=timeout))
        return [*found, *(each for each in found if each.pool == self.fake_host.default_pool.name)]


@mutant("STOR-055")
class DeleteByPrefix(FakeDriver):
    """delete_volume() deletes every volume whose id begins like the one that is meant."""

    def _delete_volume(self, volume_id: str) -> None:
        for volume in self._list_volumes():
            if volume.volume_id.startswith(volume_id):
                super()._delete_volume(volume.volume_id)


@mutant("STOR-055")
class DeleteOfAbsentRaises(FakeDriver):
    """delete_volume() of a volume that is gone raises VolumeNotFound."""

    def _delete_volume(self, volume_id: str) -> None:
        if volume_id not in {each.volume_id for each in self._list_volumes()}:
            raise errors.VolumeNotFound("no such volume")
        super()._delete_volume(volume_id)


@mutant("STOR-056")
class DeleteLooksAtRunningMachines(FakeDriver):
    """delete_volume() deletes the volume of a machine that is switched off."""

    def _delete_volume(self, volume_id: str) -> None:
        for volume in self.fake_host.volumes():
            if volume.volume_id == volume_id:
                volume.locks = {
                    key: lock
                    for key, lock in volume.locks.items()
                    if self.fake_host.world.has_open(*key)
                }
        super()._delete_volume(volume_id)


@mutant("STOR-060")
class NothingMoves(FakeDriver):
    """migrate_storage() copies, throws the copy away and reports success."""

    def _switch_pool(self, uuid: UUID, pool: str, token: int) -> None:
        self._drop_copies(uuid, token)


@mutant("STOR-060")
class RootDiskMovesAlone(FakeDriver):
    """migrate_storage() leaves the ephemeral and the swap disk where they were."""

    def _to_move(self, uuid: UUID, pool: str) -> list[Disk]:
        return [disk for disk in super()._to_move(uuid, pool) if disk.role == "root"]


@mutant("STOR-060")
class CopiesStay(FakeDriver):
    """migrate_storage() moves the disks, and leaves the old files behind."""

    def _switch_pool(self, uuid: UUID, pool: str, token: int) -> None:
        old = [(place, disk) for place, disk in self.fake_host.disks_of(uuid)]
        super()._switch_pool(uuid, pool, token)
        for place, disk in old:
            if place is not self.fake_host.pool(pool):
                rest = Disk(uuid, f"{disk.role}.old", disk.size_bytes, disk.content, 0)
                place.disks[rest.name] = rest


@mutant("STOR-063")
class MovedDisksAreThoseOfTheStart(FakeDriver):
    """migrate_storage() loses what was written since the instance was made."""

    def _switch_pool(self, uuid: UUID, pool: str, token: int) -> None:
        super()._switch_pool(uuid, pool, token)
        for _, disk in self.fake_host.disks_of(uuid):
            disk.content = disk.content[:1]


@mutant("STOR-061")
class AbsentDestinationIsInvalid(FakeDriver):
    """migrate_storage() to a pool that is not there raises InvalidRequest."""

    def migrate_storage(
        self,
        uuid: UUID,
        pool: str,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        try:
            super().migrate_storage(uuid, pool, timeout=timeout, progress=progress)
        except errors.VolumeNotFound as error:
            raise errors.InvalidRequest("no such pool") from error


@mutant("STOR-062")
class FullDestinationIsFilled(FakeDriver):
    """migrate_storage() overfills the destination."""

    def _copy_disks(self, uuid: UUID, pool: str, token: int) -> None:
        target = self.fake_host.pool(pool)
        total, target.total_bytes = target.total_bytes, 1 << 62
        try:
            super()._copy_disks(uuid, pool, token)
        finally:
            target.total_bytes = total


@mutant("STOR-056")
class SuspendedMachinesHaveNothing(FakeDriver):
    """delete_volume() deletes the volume that a suspended machine would go on with."""

    def _delete_volume(self, volume_id: str) -> None:
        for record in self.fake_host.volumes():
            for key in list(record.locks):
                machine = self.fake_host.machines.get(key[1])
                if machine is not None and machine.state is InstanceState.SUSPENDED:
                    del record.locks[key]
        super()._delete_volume(volume_id)


@mutant("STOR-064")
class RebuildGoesHome(FakeDriver):
    """rebuild() makes the new root disk in the first pool, wherever the instance was moved to."""

    def _place_new(self, uuid: UUID, record: ImageRecord, token: int) -> None:
        super()._place_new(uuid, record, token)
        made = self.fake_host.home(uuid).disks.pop(f"{uuid}/root.new-{token}")
        check_room(self.fake_host.default_pool, made.size_bytes)
        self.fake_host.default_pool.disks[made.name] = made


@mutant("STOR-064")
class GrowsInTheFirstPool(FakeDriver):
    """resize() wants the room for a larger disk in the first pool, where the disk is not."""

    def _grow(self, machine: Machine, root: Disk, size: int) -> None:
        check_room(self.fake_host.default_pool, size - root.size_bytes)
        super()._grow(machine, root, size)
