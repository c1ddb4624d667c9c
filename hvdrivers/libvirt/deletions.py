"""Deleting a volume beside a client that gives it to a machine: one of the two learns of the other.

Libvirt deletes a file whoever has it, and has no question "who uses this". So delete_volume() makes
a mark in the volume's pool before it looks for users, and removes it last. A client that has given
the volume to a machine lists that pool afterwards. Either the deletion sees the machine, or the
client sees the mark, or that the volume has gone. It waits for the end of the deletion, and takes
back what it has done if the volume has gone.

A process that dies in a deletion leaves its mark. Its age is the difference of two times of files
on the host: whoever meets an old one removes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import PurePosixPath
from secrets import token_hex

from hvdrivers.contract import errors
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.driverkit.undo import changed, undoing
from hvdrivers.libvirt.chains import described
from hvdrivers.libvirt.files import written_at
from hvdrivers.libvirt.naming import DELETING_PREFIX
from hvdrivers.libvirt.pools import Pools, delete, in_time, volume_xml
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.session import Connection
from hvdrivers.libvirt.volumes import VOLUME_NAME
from hvdrivers.models.volume import LocalVolume, PoolVolume, Volume

_ABANDONED = 600.0
"""Seconds after which a mark is that of a dead process. A deletion looks whether its mark is still
there before it deletes."""
_LONGEST = 60.0
"""Seconds for which an attachment waits for the end of a deletion."""


class Deletions:
    """Marks of deletions."""

    def __init__(self, connection: Connection, pools: Pools) -> None:
        self._connection = connection
        self._pools = pools
        self._left_marks: set[tuple[str, str]] = set()
        """Pool and name of marks that this driver could not remove: the host could not be
        reached."""

    @contextmanager
    def deleting(self, pool: Remote, volume_id: str) -> Iterator[Remote]:
        """Stands around a deletion: the look for users, and the deletion itself. Three calls, and
        one for each older mark of the pool; one more in another pool than the driver's own. What an
        earlier deletion by this driver could not remove goes first. The block calls
        ``require_mark()`` before it deletes."""
        name = _mark(volume_id)
        place = pool.name()
        self._remove_left_marks(lambda where, _: where == place)
        mine = {(place, name)}

        def remove() -> None:
            self._remove_mark(place, name)
            mine.clear()

        try:
            with undoing() as undo:
                undo.callback(remove)
                mark: Remote = pool.createXML(volume_xml(name, 0, "raw"), 0)
                yield mark
                with changed():
                    undo.close()
        finally:
            self._left_marks.update(mine)

    def require_mark(self, pool: Remote, mark: Remote) -> None:
        """Raise DeviceBusy if another client took the mark for an abandoned one. One call, and one
        for each mark that others have left in the pool."""
        marks = _marks(self._pools.volumes(pool))
        name = mark.name()
        if name not in marks:
            raise errors.DeviceBusy(
                "the look for the users of the volume took too long",
                hint="call again: another client may have attached the volume meanwhile",
            )
        if len(marks) > 1:
            self._remove_abandoned_marks(mark, marks)

    def ended(self, volume_id: str) -> None:
        """A volume has gone: so does what earlier deletions of it by this driver could not remove.
        No call where there is no such mark."""
        self._remove_left_marks(lambda _, name: name.startswith(_marks_of(volume_id)))

    def _remove_left_marks(self, chosen: Callable[[str, str], bool]) -> None:
        for left in [each for each in tuple(self._left_marks) if chosen(*each)]:
            self._remove_mark(*left)
            self._left_marks.discard(left)

    def _remove_mark(self, pool: str, name: str) -> None:
        # the pool is looked up now: this is how things are undone after a connection was lost
        with suppress(errors.VolumeNotFound):
            delete(self._pools.named(pool).storageVolLookupByName(name))

    @staticmethod
    def _remove_abandoned_marks(new: Remote, marks: Mapping[str, Remote]) -> None:
        """Remove what dead processes have left. One call for each mark.

        Args:
            new: a volume that has just been made. It tells the time by the host's clock.
        """
        now = written_at(described(new))
        for mark in marks.values():
            at = written_at(described(mark))
            if now is not None and at is not None and now - at > _ABANDONED:
                delete(mark)

    def require_kept(self, volume: Volume, deadline: Deadline) -> None:
        """After a machine has got a volume: wait for the end of a deletion that has begun before.
        No call for volumes that delete_volume() does not know, one for others; of another pool
        than the driver's own one more, two for a local one.

        Raises:
            VolumeNotFound: it has been deleted.
            DeviceBusy: the deletion does not come to its end.
        """
        name, pool = self._file_of(volume)
        named = VOLUME_NAME.fullmatch(name)
        if named is None or pool is None:
            return
        until = Deadline(deadline.within(_LONGEST))
        looked: list[bool] = []

        def look() -> None:
            volumes = self._pools.volumes(pool)
            if name not in volumes:
                raise errors.VolumeNotFound(
                    f"the volume {named['id']!r} has just been deleted",
                    hint="another client has called delete_volume(); list_volumes() has the others",
                )
            marks = _marks(volumes, named["id"])
            if not marks:
                return
            if not looked:  # those of dead processes are gone at the next look
                looked.append(True)
                with self.deleting(pool, named["id"]) as new:
                    self._remove_abandoned_marks(new, marks)
            raise errors.DeviceBusy(
                f"another client is about to delete the volume {named['id']!r}",
                hint="call again when that has ended. If that client has died, the volume is free"
                f" again in {_ABANDONED / 60:.0f} minutes",
            )

        in_time(look, errors.DeviceBusy, _pauses(until))

    def _file_of(self, volume: Volume) -> tuple[str, Remote | None]:
        """Name and pool of a volume's file; no pool for one in none."""
        if isinstance(volume, PoolVolume):
            if VOLUME_NAME.fullmatch(volume.data.name) is None:
                return "", None
            return volume.data.name, self._pools.named(volume.data.pool)
        if isinstance(volume, LocalVolume):
            name = PurePosixPath(volume.path).name
            if VOLUME_NAME.fullmatch(name) is not None:
                if volume.path == self._pools.disk_path(name):
                    return name, self._pools.disks()  # also if it has gone
                with suppress(errors.VolumeNotFound):
                    stored = self._connection.remote.storageVolLookupByPath(volume.path)
                    return name, stored.storagePoolLookupByVolume()
        return "", None


def _mark(volume_id: str) -> str:
    return f"{_marks_of(volume_id)}{token_hex(8)}"


def _marks_of(volume_id: str) -> str:
    # the id may be as long as a file's name
    return f"{DELETING_PREFIX}{sha256(volume_id.encode()).hexdigest()[:32]}."


def _marks(volumes: Mapping[str, Remote], volume_id: str | None = None) -> dict[str, Remote]:
    prefix = DELETING_PREFIX if volume_id is None else _marks_of(volume_id)
    return {name: each for name, each in volumes.items() if name.startswith(prefix)}


def _pauses(until: Deadline) -> Iterator[float]:
    pause = 0.01
    while not until.passed:
        yield pause
        pause = min(0.5, 2 * pause)
