"""Volumes on their way into a machine: found, locked, with their secrets."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING
from uuid import UUID

from pydantic import SecretStr

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, provides
from hvdrivers.contract.requirements import SERVED_VOLUMES
from hvdrivers.driverkit.checks import Holder, free_name, require_volume_free
from hvdrivers.fake.records import AttachedDisk, Lock, Machine, Secret, VolumeRecord
from hvdrivers.fake.steps import Task
from hvdrivers.hints import DETACH_ONE, VOLUMES
from hvdrivers.models.volume import (
    AttachedVolume,
    DeviceType,
    DiskBus,
    FcdVolume,
    FibreChannelVolume,
    IscsiVolume,
    LocalVolume,
    NfsVolume,
    NvmeofVolume,
    PoolVolume,
    RbdVolume,
    SmbfsVolume,
    VmdkVolume,
    VolumeAttachment,
)

if TYPE_CHECKING:
    from hvdrivers.fake.host import FakeHost
    from hvdrivers.fake.machines import Machines

Served = (
    IscsiVolume
    | RbdVolume
    | NfsVolume
    | SmbfsVolume
    | FibreChannelVolume
    | NvmeofVolume
    | VmdkVolume
    | FcdVolume
)
_GIB = 1 << 30
_LETTERS = {DiskBus.VIRTIO: "vd", DiskBus.IDE: "hd"}


class Volumes:
    """What spawn, attach, swap and start have in common."""

    def __init__(self, host: FakeHost, machines: Machines) -> None:
        self.host = host
        self.machines = machines

    def find(self, attachment: VolumeAttachment) -> VolumeRecord:
        """The volume itself.

        Raises:
            VolumeNotFound: the host cannot find it.
        """
        volume = attachment.volume
        if volume.volume_id in self.host.lost_volumes:
            raise errors.VolumeNotFound(
                f"the host cannot open volume {volume.volume_id!r}",
                hint="look at it where it is kept; reconnect() it if it is elsewhere now",
            )
        if isinstance(volume, PoolVolume):
            return self.pool_volume(volume)
        if isinstance(volume, LocalVolume):
            return self.local_volume(volume)
        return self.served_volume(volume)

    @provides(Capability.VOLUME_POOL)
    def pool_volume(self, volume: PoolVolume) -> VolumeRecord:
        self.machines.refuse_reserved(volume.data.name)
        if self.host.accept_any_volume and volume.data.pool not in {
            None,
            *self.host.pools,
        }:
            return self.anything(volume.volume_id)
        found = self.host.pool(volume.data.pool).volumes.get(volume.data.name)
        if found is not None:
            return found
        if self.host.accept_any_volume:
            return self.anything(volume.volume_id)
        raise errors.VolumeNotFound(f"the pool has no volume {volume.data.name!r}", hint=VOLUMES)

    @provides(Capability.VOLUME_LOCAL)
    def local_volume(self, volume: LocalVolume) -> VolumeRecord:
        found = self.host.local_volumes.get(volume.path)
        if found is not None:
            return found
        if self.host.accept_any_volume:
            return self.anything(volume.volume_id)
        raise errors.VolumeNotFound(
            f"the host has no {volume.path!r}",
            hint="HostSize.local_volumes names those that it has",
        )

    @provides(*SERVED_VOLUMES)
    def served_volume(self, volume: Served) -> VolumeRecord:
        return self.anything(volume.volume_id)

    def anything(self, volume_id: str) -> VolumeRecord:
        # a storage server of which nothing is known but the volume's name
        fresh = VolumeRecord(volume_id, _GIB, (f"volume:{volume_id}",))
        return self.host.world.volumes.setdefault(volume_id, fresh)

    @provides(Capability.MULTI_ATTACH)
    def check_free(self, uuid: UUID, attachment: VolumeAttachment) -> VolumeRecord:
        """The volume, if this machine may have it.

        Raises:
            VolumeNotFound: see above.
            DeviceBusy: another machine that is powered on has it.
        """
        record = self.find(attachment)
        others = [
            Holder(machine, lock.multiattach)
            for (host, machine), lock in record.locks.items()
            if (host, machine) != (self.host.name, uuid) and self.host.world.has_open(host, machine)
        ]
        require_volume_free(attachment.volume_id, others, shares=attachment.volume.multiattach)
        return record

    def connect(self, task: Task, uuid: UUID, attachment: VolumeAttachment) -> None:
        """Lock a volume for a machine, and store its secrets: 1 call, 2 with secrets."""
        volume_id = attachment.volume_id
        secrets = self.secrets_of(attachment)
        if secrets:
            prefix = f"{uuid}/{volume_id}/"
            task.call(
                "create-secrets",
                lambda: self.store_secrets(
                    uuid, task.token, {prefix + k: v for k, v in secrets.items()}
                ),
                undo=(
                    "delete-secrets",
                    lambda: self.host.remove_secrets(uuid, token=task.token),
                ),
            )
        task.call(
            "connect-volume",
            lambda: self._lock(uuid, attachment, task.token),
            undo=(
                "disconnect-volume",
                lambda: self.host.unlock(uuid, volume_id=volume_id, token=task.token),
            ),
        )

    def secrets_of(self, attachment: VolumeAttachment) -> dict[str, SecretStr]:
        volume = attachment.volume
        found: dict[str, SecretStr | None] = {"luks": self.passphrase(attachment)}
        if isinstance(volume, IscsiVolume) and volume.chap is not None:
            found["chap"] = volume.chap.password
        elif isinstance(volume, RbdVolume):
            found["ceph"] = volume.key
        elif isinstance(volume, SmbfsVolume):
            found["smb"] = volume.password
        return {name: value for name, value in found.items() if value is not None}

    @provides(Capability.ENCRYPTED_VOLUME)
    def passphrase(self, attachment: VolumeAttachment) -> SecretStr | None:
        encryption = attachment.encryption
        if encryption is None or not encryption.by_hypervisor:
            return None
        if encryption.secret is None:
            raise errors.InvalidRequest(
                "the volume is encrypted and its passphrase is not there",
                hint="resolve encryption_key_id and give encryption.secret",
            )
        return SecretStr(encryption.secret.get_secret_value().hex())

    def store_secrets(self, uuid: UUID, token: int, secrets: dict[str, SecretStr]) -> None:
        self.machines.find(uuid)
        for name, value in secrets.items():
            self.host.secrets[name] = Secret(uuid, token, value)

    def _lock(self, uuid: UUID, attachment: VolumeAttachment, token: int) -> None:
        self.machines.find(uuid)
        record = self.check_free(uuid, attachment)
        lock = Lock(token, attachment.volume.multiattach, attachment.volume_id)
        record.locks[self.host.name, uuid] = lock

    def add(self, machine: Machine, attachment: VolumeAttachment) -> AttachedVolume:
        """Put a locked volume into the machine's definition."""
        record = self.find(attachment)
        self.check_slot(machine)
        disk = AttachedDisk(
            attachment=attachment,
            record=record,
            device=_device_name(machine, attachment, has_root=machine.image_key is not None),
            seen_bytes=record.size_bytes,
            qos=attachment.qos,
        )
        machine.volumes[attachment.volume_id] = disk
        return shown(disk)

    def check_slot(self, machine: Machine) -> None:
        if len(machine.volumes) >= self.host.size.disk_slots:
            raise errors.InsufficientResources(
                f"the machine has {self.host.size.disk_slots} disks, and no slot for another",
                hint=DETACH_ONE,
            )

    def disconnect(self, uuid: UUID, volume_id: str) -> None:
        """Unlock a volume and forget its secrets."""
        self.host.forget_attachment(uuid, volume_id)


def bus_of(attachment: VolumeAttachment) -> DiskBus:
    """The bus asked for, or what the fake prefers."""
    if attachment.bus is not None:
        return attachment.bus
    preferred = {DeviceType.CDROM: DiskBus.SATA, DeviceType.LUN: DiskBus.SCSI}
    return preferred.get(attachment.device_type, DiskBus.VIRTIO)


def shown(disk: AttachedDisk) -> AttachedVolume:
    """A disk as get_instance() shows it."""
    return AttachedVolume(
        volume_id=disk.attachment.volume_id,
        device=disk.device,
        bus=bus_of(disk.attachment),
        read_only=disk.attachment.read_only,
        size_bytes=disk.seen_bytes,
        boot_index=disk.attachment.boot_index,
    )


def _device_name(machine: Machine, attachment: VolumeAttachment, *, has_root: bool) -> str:
    taken = {disk.device for disk in machine.volumes.values()}
    if has_root:
        taken.add("vda")
    if attachment.device is not None and attachment.device not in taken:
        return attachment.device
    if bus_of(attachment) is DiskBus.NVME:
        return next(name for n in count() if (name := f"nvme{n}n1") not in taken)
    return free_name(_LETTERS.get(bus_of(attachment), "sd"), taken)
