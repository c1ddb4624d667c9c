"""Storage: volumes come and go, on running machines too.

*Volume*: a disk with a life of its own, made by Cinder, by create_volume() or by hand; spawn and
destroy never make or delete one. A volume is named by its id (``Volume.volume_id``), the same in
attach, in detach and in InstanceInfo.volumes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from uuid import UUID

from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.operation import Interface, Repeat, Scope, operation
from hvdrivers.contract.states import P, R, S, row
from hvdrivers.models.base import PositiveBytes
from hvdrivers.models.progress import ProgressCallback
from hvdrivers.models.vif import Vif
from hvdrivers.models.volume import (
    AttachedVolume,
    DiskQos,
    HostVolume,
    Volume,
    VolumeAttachment,
    VolumeConnector,
    VolumeSpec,
)


class Storage(Interface):
    """Core: attach and detach."""

    @operation(states=row(same=(R, P, S)), timeout=120)
    @abstractmethod
    def attach_volume(
        self, uuid: UUID, attachment: VolumeAttachment, *, timeout: float | None = None
    ) -> AttachedVolume:
        """Give the machine a volume: at once if it runs, and for every later start.

        Attaching a volume that this instance already has returns what is there. Returns when the
        hypervisor has plugged it; the guest sees it a moment later.

        Raises:
            VolumeNotFound: the host cannot find or open it.
            DeviceBusy: a powered-on machine has it and it is not ``multiattach``, or another client
                is about to delete it.
            InvalidRequest: the hypervisor is to decrypt it, and ``encryption.secret``, its
                passphrase, is None (what the storage decrypts, ``back-end``, needs none); or
                it is a file of a size that the hypervisor cannot attach.
            NotSupported: this driver does not do this type of volume, bus or option.
            InsufficientResources: no free slot for another disk.
        """

    @operation(
        states=row(same=(R, S)),
        with_capability={Capability.DETACH_PAUSED: row(same=(R, P, S))},
        timeout=60,
    )
    @abstractmethod
    def detach_volume(self, uuid: UUID, volume_id: str, *, timeout: float | None = None) -> None:
        """Take a volume away. Returns when the guest has let go, so that the volume can be used
        elsewhere; a volume that is not attached is a success. A driver with the limit
        ``detach-unasked`` takes it from the guest at once.

        While PAUSED it needs DETACH_PAUSED: a frozen guest cannot let go, so without it the call
        raises InvalidState.

        Raises:
            DeviceBusy: the guest did not let go within the deadline, or refused. It is still
                attached, now and for later starts; calling again is right.
            InvalidRequest: it is the disk that the instance boots from.
        """

    @operation(scope=Scope.HOST, changes=False, timeout=30)
    @abstractmethod
    def get_volume_connector(
        self, uuid: UUID | None = None, *, timeout: float | None = None
    ) -> VolumeConnector:
        """How the host names itself to storage servers (initiator IQN, WWPNs, NQN, address): what
        Cinder wants before it exports a volume to the host.

        Args:
            uuid: the instance that shall get the volume, where it decides which host of a cluster
                is meant (vSphere).
        """


class ExtendVolume(Interface, capability=Capability.EXTEND_VOLUME):
    """A volume has grown at its server."""

    @operation(states=row(same=(R, P, S)))
    @abstractmethod
    def extend_volume(
        self, uuid: UUID, volume_id: str, size_bytes: PositiveBytes, *, timeout: float | None = None
    ) -> None:
        """Let the machine see the new size of an attached volume.

        Args:
            size_bytes: the size it has now.

        Raises:
            VolumeNotFound: not attached to this instance.
            InvalidRequest: smaller than what the machine sees now.
        """


class SwapVolume(Interface, capability=Capability.SWAP_VOLUME):
    """Change a volume under a running guest."""

    @operation(states=row(same=(R, P)), timeout=3600, repeat=Repeat.REFUSED)
    @abstractmethod
    def swap_volume(
        self,
        uuid: UUID,
        volume_id: str,
        replacement: VolumeAttachment,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> AttachedVolume:
        """Copy an attached volume to another and continue on that, without the guest noticing.

        After a failure the guest still uses the old one.

        Raises:
            VolumeNotFound: ``volume_id`` is not attached (a repeated swap raises this).
            InvalidRequest: the replacement is smaller, or attached to this instance already.
            DeviceBusy: another powered-on machine has it and it is not ``multiattach``.
        """


class DiskQosControl(Interface, capability=Capability.DISK_QOS):
    """Limits of a disk."""

    @operation(states=row(same=(R, P, S)))
    @abstractmethod
    def set_disk_qos(
        self, uuid: UUID, volume_id: str, qos: DiskQos | None, *, timeout: float | None = None
    ) -> None:
        """Change the limits of an attached volume, at once and for later starts.

        Args:
            qos: None removes all limits.

        Raises:
            VolumeNotFound: not attached to this instance.
        """


class Reconnect(Interface, capability=Capability.RECONNECT):
    """Volumes and ports that their servers offer under another address now."""

    @operation(states=row(same=(S,)), timeout=120)
    @abstractmethod
    def reconnect(
        self,
        uuid: UUID,
        *,
        volumes: Sequence[VolumeAttachment] = (),
        vifs: Sequence[Vif] = (),
        timeout: float | None = None,
    ) -> None:
        """Replace the connection of volumes and NICs of a stopped instance: all of them or none.

        Each keeps its id. Unless the new data says otherwise, a volume keeps its boot index and
        device, and a NIC keeps all that the guest sees of it. The new connection is used at the
        next start. Volumes and NICs that are not named stay as they are.

        Args:
            volumes: the new connections, by ``volume_id``. The volume that the instance boots from
                may be among them.
            vifs: the new connections of NICs, by ``id``.

        Raises:
            VolumeNotFound, NetworkNotFound: the instance has no such volume or NIC, or the host
                does not find the new volume or network. Nothing has changed.
            DeviceBusy: a powered-on machine has the volume and it is not ``multiattach``.
            InvalidRequest: a volume or a NIC is named twice.
        """


class HostVolumes(Interface, capability=Capability.HOST_VOLUMES):
    """Volumes in the hypervisor's own storage, for those who run no Cinder."""

    @operation(scope=Scope.HOST, timeout=120, repeat=Repeat.REFUSED)
    @abstractmethod
    def create_volume(self, spec: VolumeSpec, *, timeout: float | None = None) -> Volume:
        """Make an empty volume. The result goes into a VolumeAttachment as it is.

        Raises:
            VolumeExists: the name is taken. After a create_volume() whose reply was lost, the
                earlier attempt had worked: get_volume() shows what it made. A cut request for a
                name that is taken leaves the volume that has it.
            VolumeNotFound: no such pool or datastore.
            InsufficientResources: no room.
        """

    @operation(scope=Scope.HOST, changes=False, timeout=60)
    @abstractmethod
    def list_volumes(self, *, timeout: float | None = None) -> Sequence[HostVolume]:
        """Volumes made by create_volume() or kept by destroy(keep=...)."""

    @operation(scope=Scope.HOST, changes=False, timeout=60)
    @abstractmethod
    def get_volume(self, volume_id: str, *, timeout: float | None = None) -> HostVolume:
        """One volume of list_volumes(), as that shows it.

        Raises:
            VolumeNotFound: list_volumes() shows no such volume.
        """

    @operation(scope=Scope.HOST, timeout=120)
    @abstractmethod
    def delete_volume(self, volume_id: str, *, timeout: float | None = None) -> None:
        """Delete such a volume and its data. One that is not there is a success.

        Raises:
            DeviceBusy: it is attached to a machine, powered on or off.
        """


class StorageMigration(Interface, capability=Capability.STORAGE_MIGRATION):
    """The disks move, the machine stays."""

    @operation(states=row(same=(R, S)), timeout=3600)
    @abstractmethod
    def migrate_storage(
        self,
        uuid: UUID,
        pool: str,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Move the instance's own disks to another pool or datastore, where they stay: a root disk
        that grows later, or is made anew, does so there. After a failure they are where they were.

        Raises:
            VolumeNotFound: no such pool or datastore.
            InsufficientResources: no room there.
        """
