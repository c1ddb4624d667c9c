"""New connections of a stopped machine: for reconnect(), and for machines that arrive."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from hvdrivers.fake.machines import Machines
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
