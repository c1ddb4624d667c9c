"""A NIC on Hyper-V: an adapter on a virtual switch, as the scripts want it."""

from __future__ import annotations

from collections.abc import Iterable

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, provides
from hvdrivers.hints import VIF_KINDS
from hvdrivers.hyperv.library import Json
from hvdrivers.hyperv.naming import plain_mac, word
from hvdrivers.hyperv.record import NicRecord, packed
from hvdrivers.models.vif import HypervVif, NetworkVif, NicModel, Vif, VifQos


class Wiring:
    """A VIF as the scripts want it."""

    @provides(Capability.VIF_HYPERV, Capability.VIF_NETWORK)
    def nic(self, vif: Vif) -> dict[str, Json]:
        """A NIC that the scripts make, or say that it cannot be."""
        if isinstance(vif, HypervVif):
            switch = vif.switch
        elif isinstance(vif, NetworkVif):
            if vif.portgroup is not None:
                raise errors.NotSupported(
                    "Hyper-V's switches have no port groups",
                    hint="leave portgroup out; vlan sets the VLAN of the NIC",
                )
            switch = vif.network
        else:
            raise errors.NotSupported(f"this driver has no VIFs of type {vif.type}", hint=VIF_KINDS)
        return {
            "name": vif.id,
            "word": word(vif.id),
            "switch": switch,
            "mac": plain_mac(vif.mac),
            "vlan": vif.vlan or 0,
            "maximum": outbound(vif.qos),
            "active": vif.active,
            "sriov": isinstance(vif, HypervVif) and vif.sriov,
            "refused": _refusal(vif),
            "json": packed(
                NicRecord(type=vif.type, model=vif.model, qos=vif.qos, active=vif.active)
            ),
        }

    def rewired(self, vifs: Iterable[Vif]) -> list[dict[str, Json]]:
        """Other connections for NICs that are there. Of two for one NIC the later one counts."""
        return [
            {
                **self.nic(vif),
                "address": vif.address is not None,
                "limits": vif.qos is not None,
            }
            for vif in {each.id: each for each in vifs}.values()
        ]


def _refusal(vif: Vif) -> str:
    """Why a NIC that is not plugged yet cannot be made so; empty if it can."""
    if vif.model not in (None, NicModel.NETVSC):
        return f"Hyper-V has no NIC of model {vif.model}"
    if vif.queues not in (None, 1):
        return "Hyper-V chooses the queues of a NIC itself"
    if vif.mtu is not None:
        return "Hyper-V takes the MTU from the guest's own settings"
    return ""


def outbound(qos: VifQos | None) -> int:
    """The limit in bits per second. Hyper-V limits what a guest sends, and nothing else."""
    if qos is None:
        return 0
    if qos.inbound is not None:
        raise errors.NotSupported(
            "Hyper-V limits only what a guest sends",
            hint="leave inbound out, or limit at the physical switch",
        )
    limit = qos.outbound
    if limit is None:
        return 0
    if limit.peak is not None or limit.burst is not None:
        raise errors.NotSupported(
            "Hyper-V's limit knows no peak and no burst", hint="give average alone"
        )
    return limit.average * 1000
