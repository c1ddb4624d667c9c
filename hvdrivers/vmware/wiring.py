"""Networks: which port group a VIF means, and how a NIC names it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pyVmomi import vim

from hvdrivers.contract import errors
from hvdrivers.models.vif import DvsVif, NetworkVif, Vif
from hvdrivers.vmware.names import escaped
from hvdrivers.vmware.place import Surroundings
from hvdrivers.vmware.reader import Row
from hvdrivers.vmware.specs import check_function, check_mac, model_of

_card = vim.vm.device.VirtualEthernetCard
_PORT_GROUP = vim.dvs.DistributedVirtualPortgroup


def backings_of(vifs: Iterable[Vif], surroundings: Surroundings) -> dict[str, Any]:
    """The backing of each NIC by its VIF's id. No call.

    Raises:
        NetworkNotFound: there is no such network.
        NotSupported: another type of VIF, or a model that vSphere does not have, also beside a
            virtual function.
        InvalidRequest: a MAC address that vSphere keeps for itself.
    """
    found = {}
    for vif in vifs:
        model_of(vif)  # refuses a model that vSphere has not
        check_mac(vif.mac)
        check_function(vif)
        found[vif.id] = _backing(vif, surroundings)
    return found


def _backing(vif: Vif, surroundings: Surroundings) -> Any:
    if isinstance(vif, NetworkVif):
        return _of(_named(vif.network, surroundings), None, surroundings)
    if isinstance(vif, DvsVif):
        return _of(_wanted(vif, surroundings), vif.port_key, surroundings)
    raise errors.NotSupported(
        f"vSphere has no VIFs of type {vif.type}", hint="it has network and dvs"
    )


def _wanted(vif: DvsVif, surroundings: Surroundings) -> Row:
    if vif.opaque_network_id is not None:
        for row in surroundings.networks:
            summary = row.get("summary")
            if (
                isinstance(row.obj, vim.OpaqueNetwork)
                and summary.opaqueNetworkId == vif.opaque_network_id
                and summary.opaqueNetworkType == vif.opaque_network_type
            ):
                return row
        raise _absent(f"NSX segment {vif.opaque_network_id}")
    if vif.port_group_key is not None:
        for row in surroundings.networks:
            if (
                isinstance(row.obj, _PORT_GROUP)
                and row.get("key") == vif.port_group_key
                and _switch(row, surroundings).lower() == (vif.switch_uuid or "").lower()
            ):
                return row
        raise _absent(f"port group {vif.port_group_key} of the switch {vif.switch_uuid}")
    return _named(vif.port_group or "", surroundings)


def _named(name: str, surroundings: Surroundings) -> Row:
    rows = [row for row in surroundings.networks if row.get("name") in (name, escaped(name))]
    if not rows:
        raise _absent(f"network {name!r}")
    if len(rows) > 1:
        raise errors.InvalidRequest(
            f"{len(rows)} networks have the name {name!r}",
            hint="name a distributed port group by switch_uuid and port_group_key",
        )
    return rows[0]


def _absent(what: str) -> errors.NetworkNotFound:
    return errors.NetworkNotFound(
        f"there is no {what} on this cluster or host",
        hint="make it on the hosts first: drivers make no networks",
    )


def _switch(row: Row, surroundings: Surroundings) -> str:
    switch = row.get("config.distributedVirtualSwitch")
    return surroundings.switches.get(switch._moId if switch is not None else "", "")


def _of(row: Row, port_key: str | None, surroundings: Surroundings) -> Any:
    if isinstance(row.obj, _PORT_GROUP):
        port = vim.dvs.PortConnection(
            switchUuid=_switch(row, surroundings), portgroupKey=row["key"], portKey=port_key
        )
        return _card.DistributedVirtualPortBackingInfo(port=port)
    if port_key is not None:
        raise errors.NotSupported(
            "only a distributed port group has ports to choose from",
            hint="leave port_key out, or name a distributed port group",
        )
    if isinstance(row.obj, vim.OpaqueNetwork):
        summary = row["summary"]
        return _card.OpaqueNetworkBackingInfo(
            opaqueNetworkId=summary.opaqueNetworkId, opaqueNetworkType=summary.opaqueNetworkType
        )
    return _card.NetworkBackingInfo(deviceName=row["name"], network=row.obj)
