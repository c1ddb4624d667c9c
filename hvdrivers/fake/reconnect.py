"""Other connections for volumes and NICs: of a stopped machine, and of one that moves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import declared, provides
from hvdrivers.contract.storage import Reconnect
from hvdrivers.fake.base import FakeBase
from hvdrivers.fake.ports import Ports
from hvdrivers.fake.volumes import Volumes
from hvdrivers.hints import ATTACHED
from hvdrivers.models.vif import Vif
from hvdrivers.models.volume import VolumeAttachment

if TYPE_CHECKING:
    pass
from hvdrivers.fake.connections import replace_connections


class FakeReconnect(FakeBase, Reconnect):
    """Stopped machines."""

    @provides(*declared(Volumes), *declared(Ports))
    def reconnect(
        self,
        uuid: UUID,
        *,
        volumes: Sequence[VolumeAttachment] = (),
        vifs: Sequence[Vif] = (),
        timeout: float | None = None,
    ) -> None:
        """1 call."""
        with self.link.task("reconnect", uuid, timeout) as task:
            task.call("reconnect-machine", lambda: self._reconnect(uuid, volumes, vifs))

    def _reconnect(
        self, uuid: UUID, volumes: Sequence[VolumeAttachment], vifs: Sequence[Vif]
    ) -> None:
        machine = self.machines.checked("reconnect", uuid)
        for attachment in volumes:
            if attachment.volume_id not in machine.volumes:
                raise errors.VolumeNotFound(
                    f"the instance has no volume {attachment.volume_id!r}",
                    instance=uuid,
                    hint=ATTACHED,
                )
            self.volumes.check_free(uuid, attachment)
        for vif in vifs:
            port = self.fake_host.ports.get((uuid, vif.id))
            if port is None or not port.plugged:
                raise errors.NetworkNotFound(
                    f"the instance has no NIC {vif.id!r}", instance=uuid, hint=ATTACHED
                )
            self.ports.check_wiring(vif)
        replace_connections(self.fake_host, machine, volumes, vifs)
