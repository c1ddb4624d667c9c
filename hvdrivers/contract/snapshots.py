"""Snapshots: points to come back to, images made of an instance, and backups."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.operation import Interface, Repeat, operation
from hvdrivers.contract.states import ANY_STATE, End, P, R, S, U, row
from hvdrivers.models.base import Name
from hvdrivers.models.image import ImageFormat, ImageInfo
from hvdrivers.models.progress import ProgressCallback
from hvdrivers.models.snapshot import Backup, Snapshot


class Snapshots(Interface, capability=Capability.SNAPSHOTS):
    """A tree of snapshots, inside the hypervisor."""

    @operation(states=row(same=(R, P, S)), timeout=300, repeat=Repeat.REFUSED)
    @abstractmethod
    def create_snapshot(
        self, uuid: UUID, name: Name, *, memory: bool = False, timeout: float | None = None
    ) -> Snapshot:
        """Remember all disks made by spawn as they are now. Attached volumes are never part of it.

        Args:
            name: a label, unique within the instance.
            memory: also the memory of a powered-on machine; needs SNAPSHOT_MEMORY.

        Raises:
            InvalidRequest: the name is taken, memory was asked of a stopped machine, or volumes
                are attached and this hypervisor cannot leave them out.
            InsufficientResources: no room.
        """

    @operation(changes=False, states=ANY_STATE, timeout=30)
    @abstractmethod
    def list_snapshots(self, uuid: UUID, *, timeout: float | None = None) -> Sequence[Snapshot]:
        """The tree, parents before children."""

    @operation(
        states=row({R: End.DEPENDS, P: End.DEPENDS, S: End.DEPENDS}),
        timeout=300,
        repeat=Repeat.CONVERGES,
    )
    @abstractmethod
    def revert_snapshot(
        self, uuid: UUID, snapshot_id: str, *, timeout: float | None = None
    ) -> None:
        """Bring the disks back, and the memory if the snapshot has it: then the machine continues
        in the state it had; otherwise it is STOPPED. What the disks have got since is lost. Name,
        metadata, flavor, NICs, volumes and other snapshots stay as they are now.

        Raises:
            VolumeNotFound: no such snapshot.
            InvalidRequest: with memory, and flavor or devices differ from those of the snapshot.
        """

    @operation(states=row(same=(R, P, S)), timeout=600)
    @abstractmethod
    def delete_snapshot(
        self,
        uuid: UUID,
        snapshot_id: str,
        *,
        children: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Forget a snapshot; the instance does not change. One that is not there is a success.

        Args:
            children: also all that descend from it; otherwise they move to its parent.
        """


class SnapshotToImage(Interface, capability=Capability.SNAPSHOT_TO_IMAGE):
    """An image out of an instance."""

    @operation(states=row(same=(R, P, U, S)), timeout=3600, repeat=Repeat.REFUSED)
    @abstractmethod
    def snapshot_to_image(
        self,
        uuid: UUID,
        target: Path,
        format: ImageFormat = ImageFormat.QCOW2,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> ImageInfo:
        """Copy the root disk, as it is at one moment, into a file on *this* machine; it stands
        alone, without backing file. A running machine runs on, and a SUSPENDED one keeps its saved
        memory.

        Args:
            target: the file to write; it must not exist. After a failure it does not.

        Raises:
            InvalidRequest: the target exists or cannot be written; another process has removed or
                replaced it meanwhile; or the instance boots from a volume, and has no root disk of
                its own.
            InsufficientResources: no room for the copy on the host, or for the target here.
            NotSupported: not this format here.
        """


class IncrementalBackup(Interface, capability=Capability.INCREMENTAL_BACKUP):
    """Only what changed."""

    @operation(states=row(same=(R,)), timeout=300, repeat=Repeat.REFUSED)
    @abstractmethod
    def begin_backup(
        self, uuid: UUID, *, since: str | None = None, timeout: float | None = None
    ) -> Backup:
        """Open a consistent point in time for reading, while the guest runs on.

        Args:
            since: the id of an earlier backup: only what changed since then. None: all.

        Raises:
            VolumeNotFound: the hypervisor has no such point any more; make a full backup.
            DeviceBusy: a backup is open already.
        """

    @operation(states=row(same=(R, P, S)), timeout=300)
    @abstractmethod
    def end_backup(
        self, uuid: UUID, backup_id: str | None = None, *, timeout: float | None = None
    ) -> None:
        """Close it. Its id stays valid for ``since=``. Closing what is closed is a success.

        Args:
            backup_id: None closes whatever is open: the way on when the reply of begin_backup()
                was lost.
        """
