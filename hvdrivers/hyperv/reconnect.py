"""Volumes and NICs that a stopped machine finds under another address from now on."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from hvdrivers.contract.storage import Reconnect
from hvdrivers.hyperv.base import Topic
from hvdrivers.hyperv.library import Json
from hvdrivers.models.vif import Vif
from hvdrivers.models.volume import VolumeAttachment


class HypervReconnect(Topic, Reconnect):
    """Reconnect."""

    def reconnect(
        self,
        uuid: UUID,
        *,
        volumes: Sequence[VolumeAttachment] = (),
        vifs: Sequence[Vif] = (),
        timeout: float | None = None,
    ) -> None:
        """Budget: 1 call."""
        arguments: dict[str, Json] = {
            # of two connections for one volume the later one counts
            "volumes": list({each.volume_id: self._other_disk(each) for each in volumes}.values()),
            "nics": self.wiring.rewired(vifs),
        }
        self.session.change("reconnect", "Reconnect", uuid, arguments, timeout)

    def _other_disk(self, attachment: VolumeAttachment) -> dict[str, Json]:
        return {
            **self.sources.attachment(attachment),
            "bus": attachment.bus.value.upper() if attachment.bus is not None else "",
            "indexed": attachment.boot_index is not None,
            "limits": attachment.qos is not None,
        }
