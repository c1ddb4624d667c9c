"""The server as it describes itself: product, versions, what it cannot do."""

from __future__ import annotations

from hvdrivers.contract.capabilities import Capability, declared
from hvdrivers.contract.connection import Connection
from hvdrivers.models.host import HostInfo
from hvdrivers.vmware.base import Topic
from hvdrivers.vmware.deadline import timed
from hvdrivers.vmware.host_facts import host_info
from hvdrivers.vmware.place import Place

_NEEDS_VCENTER: dict[Capability, str] = {
    Capability.VIF_DVS: "ESXi without vCenter has no distributed switches",
    Capability.VOLUME_FCD: "vCenter keeps the catalog of first class disks that a volume is from",
    Capability.STORAGE_MIGRATION: "ESXi without vCenter moves no disks",
    Capability.LIVE_MIGRATION: "ESXi without vCenter moves no machines",
    Capability.LIVE_MIGRATION_ABORT: "ESXi without vCenter moves no machines",
    Capability.COLD_MIGRATION: "ESXi without vCenter moves no machines",
}


def _no_rules(place: Place) -> str:
    if not place.is_cluster:
        return "it is a single host: the caller chooses the host of each machine"
    return (
        "DRS of the cluster is off or manual, so nothing places machines by rules: let it place"
        " them (partially or fully automated), and connect again"
    )


class VmwareConnection(Topic, Connection):
    """Connection topic of the contract."""

    @timed
    def ping(self, *, timeout: float | None = None) -> None:
        """Budget: 1 call."""
        del timeout
        self.session.ask_time()

    @timed
    def host(self, *, timeout: float | None = None) -> HostInfo:
        """Budget: 1 call, which shows that the server answers. What it is was read at connect()."""
        del timeout
        self.session.ask_time()
        return host_info(self.session, self.places)

    def narrowed(self) -> dict[Capability, str]:
        """What an ESXi host has not without vCenter, and a vCenter not. Budget: none beyond
        connect()."""
        place = self.places.get()
        lacking: dict[Capability, str] = {}
        if place.only_host is None:
            lacking |= dict.fromkeys(
                (Capability.PCI_PASSTHROUGH, Capability.VGPU),
                "an address names a device of one host, and this cluster has several: connect to a"
                " single host",
            )
        if not place.drs:
            lacking[Capability.SERVER_GROUP] = _no_rules(place)
        if place.is_vcenter:
            lacking[Capability.HOST_POWER] = "a vCenter is no host: connect to the ESXi host itself"
        else:
            lacking |= {
                each: why for each, why in _NEEDS_VCENTER.items() if each in declared(type(self))
            }
        return lacking

    def close(self, *, timeout: float | None = None) -> None:
        """Budget: 1 call, which logs out."""
        del timeout
        self.session.close()
