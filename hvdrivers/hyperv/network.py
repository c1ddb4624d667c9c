"""Network on Hyper-V: adapters on virtual switches. The adapter's name is the VIF's id."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from hvdrivers.contract.capabilities import declared, provides
from hvdrivers.contract.network import Network, VifQosControl
from hvdrivers.hyperv.base import Topic
from hvdrivers.hyperv.instances import vifs_of
from hvdrivers.hyperv.naming import word
from hvdrivers.hyperv.record import parse
from hvdrivers.hyperv.wiring import Wiring, outbound
from hvdrivers.models.vif import AttachedVif, Vif, VifQos


class HypervNetwork(Topic, Network, VifQosControl):
    """Budget of each operation: 1 call."""

    @provides(*declared(Wiring))
    def plug_vif(self, uuid: UUID, vif: Vif, *, timeout: float | None = None) -> AttachedVif:
        """Budget: 1 call."""
        arguments = {"nic": self.wiring.nic(vif)}
        found: Any = self.session.change("plug_vif", "Plug", uuid, arguments, timeout)
        plugged = {each.id: each for each in vifs_of(found, parse(found["record"]))}
        return plugged[vif.id]

    def unplug_vif(self, uuid: UUID, vif_id: str, *, timeout: float | None = None) -> None:
        """Budget: 1 call. The guest is not asked: the adapter is gone at once."""
        arguments = {"name": vif_id, "word": word(vif_id)}
        self.session.change("unplug_vif", "Unplug", uuid, arguments, timeout)

    def set_vif_qos(
        self, uuid: UUID, vif_id: str, qos: VifQos | None, *, timeout: float | None = None
    ) -> None:
        """Budget: 1 call."""
        arguments = {"name": vif_id, "word": word(vif_id), "maximum": outbound(qos)}
        self.session.change("set_vif_qos", "VifQos", uuid, arguments, timeout)
