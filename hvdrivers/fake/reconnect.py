"""Other connections for volumes and NICs: of a stopped machine, and of one that moves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING
from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.contract.storage import Reconnect
from hvdrivers.fake.machines import Machines
from hvdrivers.fake.port_steps import PortSteps
from hvdrivers.fake.records import AttachedDisk, Lock, Machine, Secret
from hvdrivers.fake.volume_steps import VolumeSteps
from hvdrivers.models.vif import Vif
from hvdrivers.models.volume import VolumeAttachment

if TYPE_CHECKING:
    from hvdrivers.fake.host import FakeHost


def volumes_at(host: FakeHost) -> VolumeSteps:
    """What finds volumes as this host sees them."""
    steps = VolumeSteps()
    steps.fake_host = host
    steps.machines = Machines(host, frozenset(), {})
    return steps


def _replace_volume(host: FakeHost, machine: Machine, attachment: VolumeAttachment) -> None:
    token = machine.token
    steps, volume_id = volumes_at(host), attachment.volume_id
    record = steps._check_free(machine.uuid, attachment)
    old = machine.volumes[volume_id]
    steps._disconnect(machine.uuid, volume_id)
    lock = Lock(token, attachment.volume.multiattach, volume_id)
    record.locks[host.name, machine.uuid] = lock
    for name, value in steps._secrets_of(attachment).items():
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


class FakeReconnect(PortSteps, VolumeSteps, Reconnect):
    """Stopped machines."""

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
            self._check_free(uuid, attachment)
        for vif in vifs:
            port = self.fake_host.ports.get((uuid, vif.id))
            if port is None or not port.plugged:
                raise errors.NetworkNotFound(f"the instance has no NIC {vif.id!r}", instance=uuid)
            self._check_wiring(vif)
        replace_connections(self.fake_host, machine, volumes, vifs)
