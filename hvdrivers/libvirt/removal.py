"""What destroy() does: everything of an instance goes, in an order that survives interruption.

The console log is the claim (see ``lifecycle.py``) and goes last, so that nobody spawns the same
UUID over the remains of an interrupted destroy().
"""

from __future__ import annotations

from uuid import UUID

import libvirt

from hvdrivers.contract import errors
from hvdrivers.libvirt.base import changed, undoing
from hvdrivers.libvirt.connection import Remote
from hvdrivers.libvirt.hub import Lifecycle, RawEvent
from hvdrivers.libvirt.images import ImageStore
from hvdrivers.libvirt.naming import NVRAM, ROOT, VOLUME_PREFIX, console_name, disk_name
from hvdrivers.libvirt.pools import delete, refresh, volume_xml
from hvdrivers.models.instance import Keep

_SETTLING = 1.0
"""Seconds that a machine which is under way in the daemon has to appear."""


class Removal(ImageStore):
    """Remove an instance, or what there is of it."""

    def destroy(
        self,
        uuid: UUID,
        *,
        keep: frozenset[Keep] = frozenset(),
        timeout: float | None = None,
    ) -> None:
        """Budget: 3 calls for the domain, 1 for each of its disks and logs, 3 for the pools; 2
        more if it did not run, 5 more to keep the root disk."""
        del timeout
        again = self._destroyed(uuid, keep)
        with changed():
            for _ in range(2):
                if not again or not self._anything_of(uuid):
                    return
                again = self._destroyed(uuid, keep)

    def _destroyed(self, uuid: UUID, keep: frozenset[Keep]) -> bool:
        """Remove what is there; whether there was something that did not run.

        A spawn whose process, or connection, has died may have left a call under way in the
        daemon: what that makes comes after we have looked, so the caller looks again.
        """
        with self.hub.listening() as events:
            domain = self._domain_if_there(uuid)
            disks = {volume.name(): volume for volume in self._disks_of(uuid)}
            if Keep.ROOT_DISK in keep:
                self._refuse_taken(uuid, disks)
            ran = domain is not None and _switched_off(domain)
            with changed():
                self._remove(uuid, domain, disks, keep)
                logs = self._delete_console(uuid)
            found = domain is not None or bool(disks) or logs
            if found and domain is None:
                events.wait(lambda event: _is_about(event, uuid), _SETTLING)
                # a start that was under way, and fails as its disks have gone, has made a log
                self._delete_console(uuid)
            return found and not ran

    def _remove(
        self, uuid: UUID, domain: Remote | None, disks: dict[str, Remote], keep: frozenset[Keep]
    ) -> None:
        if Keep.ROOT_DISK in keep:
            # before the definition goes: if there is no room, the instance is still there
            self._keep_root(uuid, disks)
        gone = domain is None or not self._undefine(domain)
        if gone and disks:
            # a spawn was interrupted before the definition, with which libvirt removes this too
            self._delete_nvram(uuid)
        # the root disk before the marks that say whether it has been kept
        for name in sorted(disks, key=lambda name: name != disk_name(uuid, ROOT)):
            delete(disks[name])

    def _disks_of(self, uuid: UUID) -> list[Remote]:
        volumes = self.pools.disks().listAllVolumes(0)
        return [each for each in volumes if each.name().startswith(f"{uuid}.")]

    def _anything_of(self, uuid: UUID) -> bool:
        return self._domain_if_there(uuid) is not None or bool(self._disks_of(uuid))

    def _keep_root(self, uuid: UUID, own: dict[str, Remote]) -> None:
        # Libvirt cannot rename a volume; a copy also stands alone, without the cached image. Two
        # marks tell the next destroy(), if this one is interrupted, how far it has come: only a
        # copy that is complete may cost the original, and only a half one of ours may be replaced.
        pool = self.pools.disks()
        begun, done = disk_name(uuid, "keeping"), disk_name(uuid, "kept")
        root = own.get(disk_name(uuid, ROOT))
        if root is None or done in own:
            return
        name = _kept_name(uuid)
        if begun in own:
            self._delete_disk(name)
        with undoing() as undo:
            undo.callback(self._delete_disk, begun)
            if begun not in own:
                own[begun] = pool.createXML(volume_xml(begun, 0, "raw"), 0)
            undo.callback(self._delete_disk, name)
            capacity = int(root.info()[1])
            pool.createXMLFrom(volume_xml(name, capacity, "qcow2"), root, 0)
        own[done] = pool.createXML(volume_xml(done, 0, "raw"), 0)

    def _refuse_taken(self, uuid: UUID, own: dict[str, Remote]) -> None:
        """Before anything is done. With one of the marks what is there is of this instance."""
        marks = {disk_name(uuid, "keeping"), disk_name(uuid, "kept")}
        if disk_name(uuid, ROOT) not in own or marks & own.keys():
            return
        try:
            self.pools.disks().storageVolLookupByName(_kept_name(uuid))
        except errors.VolumeNotFound:
            return
        raise errors.InvalidRequest(
            "a root disk of an earlier instance with this UUID has been kept",
            hint="delete_volume() that one first, or destroy() without keep=",
        )

    def _remove_domain(self, uuid: UUID, *, is_coming: bool = False) -> None:
        """Undo a definition.

        Args:
            is_coming: the reply to it was lost: the daemon may still be at it.
        """
        with self.hub.listening() as events:
            domain = self._domain_if_there(uuid)
            if domain is None and is_coming:
                events.wait(lambda event: _is_about(event, uuid), _SETTLING)
                domain = self._domain_if_there(uuid)
        if domain is None:
            return
        _switched_off(domain)
        self._undefine(domain)

    def _domain_if_there(self, uuid: UUID) -> Remote | None:
        try:
            return self._domain(uuid)
        except errors.InstanceNotFound as error:
            if error.vendor_code is None:
                raise  # a foreign machine
            return None

    def _delete_nvram(self, uuid: UUID) -> None:
        refresh(self.pools.disks())  # QEMU's driver has made the file, the pool has not seen it
        self._delete_disk(disk_name(uuid, NVRAM))

    @staticmethod
    def _undefine(domain: Remote) -> bool:
        """Remove the definition; False if there was none."""
        flags = (
            libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
            | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
            | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
            | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
            | libvirt.VIR_DOMAIN_UNDEFINE_TPM
        )
        try:
            domain.undefineFlags(flags)
        except errors.InstanceNotFound:
            return False
        return True

    def _delete_console(self, uuid: UUID) -> bool:
        pool = self.pools.consoles()
        # the daemon's log rotation makes files (".0", ".1") that the pool has not seen
        refresh(pool)
        logs = [
            each for each in pool.listAllVolumes(0) if each.name().startswith(console_name(uuid))
        ]
        for volume in logs:
            delete(volume)
        return bool(logs)


def _kept_name(uuid: UUID) -> str:
    return f"{VOLUME_PREFIX}{uuid}-root.qcow2"


def _is_about(event: RawEvent, uuid: UUID) -> bool:
    return isinstance(event, Lifecycle) and event.uuid == uuid


def _switched_off(domain: Remote) -> bool:
    """Power off at once; False if it was off, or has gone."""
    try:
        domain.destroyFlags(0)
    except (errors.InvalidState, errors.InstanceNotFound):
        return False
    return True
