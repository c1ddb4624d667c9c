"""Other connections for volumes and NICs: of a stopped machine, and of one that moves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING
from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import declared, provides
from hvdrivers.contract.storage import Reconnect
from hvdrivers.fake.base import FakeBase
from hvdrivers.fake.machines import Machines
from hvdrivers.fake.ports import Ports
from hvdrivers.fake.records import AttachedDisk, Lock, Machine, Secret
from hvdrivers.fake.volumes import Volumes
from hvdrivers.models.vif import Vif
from hvdrivers.models.volume import VolumeAttachment

if TYPE_CHECKING:
    from hvdrivers.fake.host import FakeHost


def volumes_at(host: FakeHost) -> Volumes:
    """Volumes as this host sees them, whichever driver asks."""
    return Volumes(host, Machines(host, frozenset(), {}))


def _replace_volume(host: FakeHost, machine: Machine, attachment: VolumeAttachment) -> None:
    token = machine.token
    there, volume_id = volumes_at(host), attachment.volume_id
    record = there.check_free(machine.uuid, attachment)
    old = machine.volumes[volume_id]
    there.disconnect(machine.uuid, volume_id)
    lock = Lock(token, attachment.volume.multiattach, volume_id)
    record.locks[host.name, machine.uuid] = lock
    for name, value in there.secrets_of(attachment).items():
        host.secrets[f"{machine.uuid}/{volume_id}/{name}"] = Secret(machine.uuid, token, value)
    if attachment.boot_index is None:
        boots = {"boot_index": old.attachment.boot_index}
        attachment = attachment.model_copy(update=boots)
    machine.volumes[volume_id] = AttachedDisk(
        attachment=attachment,
        record=record,
        device=old.device,
        seen_bytes=record.size_bytes,
        qos=attachment.qos,
    )


def replace_connections(
    host: FakeHost,
    machine: Machine,
    volumes: Iterable[VolumeAttachment],
    vifs: Iterable[Vif],
) -> None:
    """Give a machine other connections for volumes and NICs that it has."""
    for attachment in volumes:
        _replace_volume(host, machine, attachment)
    for vif in vifs:
        port = host.ports[machine.uuid, vif.id]
        kept = {} if vif.address else {"address": port.vif.mac}
        port.vif = vif.model_copy(update=kept)


class FakeReconnect(FakeBase, Reconnect):
    """Stopped machines."""

    @provides(*declared(Volumes), *declared(Ports))
    def reconnect(
        self,
        uuid: UUID,
        *,
        volumes: tuple[VolumeAttachment, ...] = (),
        vifs: tuple[Vif, ...] = (),
        timeout: float | None = None,
    ) -> None:
        """1 call."""
        with self.link.task("reconnect", uuid, timeout) as task:
            task.call("reconnect-machine", lambda: self._reconnect(uuid, volumes, vifs))

    def _reconnect(
        self, uuid: UUID, volumes: tuple[VolumeAttachment, ...], vifs: tuple[Vif, ...]
    ) -> None:
        machine = self.machines.checked("reconnect", uuid)
        for attachment in volumes:
            if attachment.volume_id not in machine.volumes:
                raise errors.VolumeNotFound(
                    f"the instance has no volume {attachment.volume_id!r}", instance=uuid
                )
            self.volumes.check_free(uuid, attachment)
        for vif in vifs:
            port = self.fake_host.ports.get((uuid, vif.id))
            if port is None or not port.plugged:
                raise errors.NetworkNotFound(f"the instance has no NIC {vif.id!r}", instance=uuid)
            self.ports.check_wiring(vif)
        replace_connections(self.fake_host, machine, volumes, vifs)
