"""What a NIC is plugged into: is it there?"""

from __future__ import annotations

from collections.abc import Iterable

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, provides
from hvdrivers.libvirt.base import Topic
from hvdrivers.models.vif import BridgeVif, NetworkVif, OvsVif, Vif


class Wiring(Topic):
    """Look before plugging."""

    @provides(Capability.VIF_BRIDGE, Capability.VIF_OVS, Capability.VIF_NETWORK, Capability.VIF_TAP)
    def _require_networks(self, vifs: Iterable[Vif]) -> None:
        """Refuse what is not there: by the time that libvirt's own attempt fails, its error has no
        code that would tell. One call for each network or bridge."""
        seen = set()
        for vif in vifs:
            if isinstance(vif, NetworkVif) and vif.network not in seen:
                seen.add(vif.network)
                network = self.connection.remote.networkLookupByName(vif.network)
                if not network.isActive():
                    raise errors.NetworkNotFound(
                        f"network '{vif.network}' is not active",
                        hint=f"virsh net-start {vif.network}",
                    )
            elif isinstance(vif, BridgeVif | OvsVif) and vif.bridge not in seen:
                seen.add(vif.bridge)
                self._require_bridge(vif)

    def _require_bridge(self, vif: BridgeVif | OvsVif) -> None:
        bridge = vif.hybrid_bridge if isinstance(vif, OvsVif) and vif.hybrid_plug else vif.bridge
        try:
            self.connection.remote.interfaceLookupByName(bridge)
        except errors.NotSupported:
            return  # a daemon without the interface driver: the attempt itself must tell
        except errors.NetworkNotFound as error:
            raise errors.NetworkNotFound(
                f"there is no bridge '{bridge}' on the host",
                vendor_code=error.vendor_code,
                hint="make it first: drivers never make networks",
            ) from error
