"""Room for a machine: units in it, a host that is large enough, a datastore. No call is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hvdrivers.contract import errors
from hvdrivers.models.instance import Flavor, InstanceSpec
from hvdrivers.vmware.config import VmwareConfig
from hvdrivers.vmware.devices import Slots
from hvdrivers.vmware.place import NO_HOST, Places, Surroundings

_GIB = 1 << 30
_MIB = 1 << 20


class Room:
    """Says what there is room for."""

    def __init__(self, config: VmwareConfig, places: Places) -> None:
        self._config = config
        self._places = places

    def slots(self, devices: Sequence[Any] = ()) -> Slots:
        """The units of a machine with these devices."""
        return Slots(devices, scsi_controllers=self._config.scsi_controllers)

    def host_for(self, flavor: Flavor, surroundings: Surroundings) -> Any:
        """The host to make a machine on; None where the cluster chooses. No call.

        Raises:
            InsufficientResources: no host is so large, or none takes machines now.
        """
        hosts = surroundings.usable_hosts
        if not hosts:
            raise errors.InsufficientResources(
                "no host takes machines now: each is in maintenance or not connected", hint=NO_HOST
            )
        fitting = [
            host
            for host in hosts
            if (host.get("summary.hardware.memorySize") or 0) >= flavor.memory_mib * _MIB
            and (host.get("summary.hardware.numCpuThreads") or 0) >= flavor.vcpus
        ]
        if not fitting:
            raise errors.InsufficientResources(
                f"no host has {flavor.vcpus} CPUs and {flavor.memory_mib} MiB of memory",
                hint="the largest machine of a cluster is as large as its largest host",
            )
        if surroundings.drs or len(surroundings.hosts) == 1:
            return None

        def free(host: Any) -> int:
            used = (host.get("summary.quickStats.overallMemoryUsage") or 0) * _MIB
            return int(host.get("summary.hardware.memorySize") or 0) - int(used)

        return max(fitting, key=free).obj

    def host_of(self, spec: InstanceSpec, surroundings: Surroundings) -> Any:
        """The host to make a machine on; None where the cluster chooses. A machine that shall not
        run needs none that is large enough."""
        try:
            return self.host_for(spec.flavor, surroundings)
        except errors.InsufficientResources:
            if spec.start:
                raise
            return None

    def require(self, flavor: Flavor, capacity: int, surroundings: Surroundings) -> None:
        """Refuse disks that the datastore could not hold if it were empty.

        Args:
            capacity: bytes of the disks beside those that the flavor names.
        """
        store = surroundings.datastore(self._places.get().datastore)
        room = int(store.get("summary.capacity") or 0)
        wanted = capacity + flavor.ephemeral_gib * _GIB + flavor.swap_mib * _MIB
        if wanted > room:
            raise errors.InsufficientResources(
                f"the disks need {wanted / _GIB:.0f} GiB, and the datastore has"
                f" {room / _GIB:.0f} GiB",
                hint="choose a flavor with smaller disks, or another datastore",
            )
