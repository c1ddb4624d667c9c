"""The volumes that create_volume() makes: found in all file pools of the host, by their id."""

from __future__ import annotations

from contextlib import suppress
from hashlib import sha256

from hvdrivers.contract import errors
from hvdrivers.driverkit.undo import Undo
from hvdrivers.libvirt.chains import Chains, same_file
from hvdrivers.libvirt.naming import AWAY_PREFIX
from hvdrivers.libvirt.pools import Pools, delete, refresh, volume_xml
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.session import Connection
from hvdrivers.libvirt.volumes import VOLUME_NAME

Stored = tuple[Remote, Remote, str, str]
"""Pool, volume, id and format."""


def _mark_of(volume_id: str, pool: str) -> str:
    # the id may be as long as a file's name
    return f"{AWAY_PREFIX}{sha256(volume_id.encode()).hexdigest()[:32]}.{pool}"


def no_such_volume(volume_id: str) -> errors.VolumeNotFound:
    """What to say of a volume that no pool has."""
    return errors.VolumeNotFound(
        f"the host has no volume {volume_id!r}", hint="list_volumes() shows those that it has"
    )


class StoredVolumes:
    """Find them, and say who uses one."""

    def __init__(self, connection: Connection, pools: Pools, chains: Chains) -> None:
        self._connection = connection
        self._pools = pools
        self._chains = chains

    def find(self, only: str | None = None) -> list[Stored]:
        """Pool, volume, id and format of the volumes of ours, in all file pools.

        Args:
            only: the volume that is looked for.

        Raises:
            DeviceBusy: it is in none of them, but was made in a pool that is not active.
        """
        found, active, marked = [], set(), set()
        mark = _mark_of(only, "") if only is not None else None
        for pool in self._pools.files():
            active.add(pool.name())
            for name, volume in self._pools.volumes(pool).items():
                named = VOLUME_NAME.fullmatch(name)
                if named and only in {None, named["id"]}:
                    found.append((pool, volume, named["id"], named["format"]))
                if mark is not None and name.startswith(mark):
                    marked.add(name.removeprefix(mark))
        away = sorted(marked - active)
        if only is not None and not found and away:
            raise self._is_away(only, away[0])
        return self._once(found)

    def _is_away(self, volume_id: str, pool: str) -> errors.DeviceBusy:
        """What to say of a volume in a pool that is not there. One call."""
        try:
            self._connection.remote.storagePoolLookupByName(pool)
            start = f"start it on the host (virsh pool-start {pool})"
        except errors.VolumeNotFound:
            start = "nothing defines it any more: make it again on the host (virsh pool-create)"
        own = self._connection.config.pool
        return errors.DeviceBusy(
            f"storage pool '{pool}' is not active, and has the volume",
            hint=f"{start}; if it has gone for good: virsh vol-delete --pool {own}"
            f" {_mark_of(volume_id, pool)}",
            retryable=False,
        )

    def _once(self, found: list[Stored]) -> list[Stored]:
        """Each file once: two pools may be on one folder, by a symlink. No call; three for each
        volume whose name is in two pools."""
        disks = self._pools.disks().name()
        by_name: dict[str, list[Stored]] = {}
        for each in sorted(found, key=lambda each: each[0].name() != disks):
            others = by_name.setdefault(each[1].name(), [])
            if not any(same_file(other[1], each[1]) for other in others):
                others.append(each)
        return [each for others in by_name.values() for each in others]

    def is_there(self, volume_id: str) -> bool:
        """Whether there is such a volume; the pools are refreshed before the answer "yes", as
        someone may have removed the file past libvirt."""
        found = self.find(volume_id)
        for pool, _, _, _ in found:
            with suppress(errors.DeviceBusy):
                refresh(pool)
        return bool(found) and bool(self.find(volume_id))

    def note(self, pool: Remote, volume_id: str, undo: Undo) -> None:
        """Note in the driver's own pool that another one has the volume: while that one is not
        active, nobody can see it. No call for the driver's own pool, else one."""
        disks = self._pools.disks()
        if pool.name() == disks.name():
            return
        name = _mark_of(volume_id, pool.name())
        undo.callback(self.forget, pool, volume_id)
        try:
            disks.createXML(volume_xml(name, 0, "raw"), 0)
        except errors.DeviceBusy:
            undo.forget()  # it has an older one of this name

    def forget(self, pool: Remote, volume_id: str) -> None:
        """Remove the note. No call for the driver's own pool, else two."""
        disks = self._pools.disks()
        if pool.name() == disks.name():
            return
        with suppress(errors.VolumeNotFound):
            delete(disks.storageVolLookupByName(_mark_of(volume_id, pool.name())))

    def refuse_used(self, volume: Remote) -> None:
        """Raise DeviceBusy if another volume stands on it, or a machine has it. Calls as for
        delete_volume()."""
        with self._chains.looking(volume) as look:
            overlays, machine = look.overlays(), self._chains.machine_with(look)
        if overlays:
            raise errors.DeviceBusy(
                f"another volume stands on it: {overlays[0]}",
                hint="a snapshot has made that one; remove it, or its machine, first",
                retryable=False,
            )
        if machine is not None:
            raise errors.DeviceBusy(
                f"the volume is attached to machine {machine.UUIDString()}",
                hint="detach_volume() it first; if a snapshot stands on it, remove that",
                retryable=False,
            )
