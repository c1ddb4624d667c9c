"""NICs with a virtual function of the host's adapter (SR-IOV).

The machine names the adapter, and vSphere chooses one of its functions at each start. It does so on
the host that the machine is on, so this is for a single host: ESXi, or a vCenter's host that is in
no cluster, or alone in one ("Single Root I/O Virtualization", vSphere Networking: not with vMotion,
snapshots, suspension, devices, memory and CPUs that are added while it runs, Network I/O Control,
or in a cluster; with all of the memory reserved).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from pyVmomi import vim

from hvdrivers.contract import errors
from hvdrivers.models.instance import Flavor, InstanceSpec
from hvdrivers.models.vif import Vif
from hvdrivers.vmware.host_devices import PASSTHROUGH, cards_with_functions
from hvdrivers.vmware.machines import Machines, uuid_in
from hvdrivers.vmware.passthrough import host_and_target
from hvdrivers.vmware.place import Places
from hvdrivers.vmware.reader import Reader, Row
from hvdrivers.vmware.specs import wants_function

_HARDWARE, _POWER = "config.hardware.device", "runtime.powerState"
_HINT = (
    "let the host's administrator enable SR-IOV for an adapter, and start the host anew; or leave"
    " sriov out"
)


class Functions:
    """Finds adapters with virtual functions for NICs."""

    def __init__(self, reader: Reader, places: Places, machines: Machines) -> None:
        self._reader = reader
        self._places = places
        self._machines = machines

    def of_spec(
        self, spec: InstanceSpec, backings: Mapping[str, Any]
    ) -> dict[str, tuple[Any, Any]]:
        """As ``of()``, for a new machine: what each NIC is plugged into, and the adapter whose
        function it gets, None for most.

        Raises:
            NotSupported: it is to have what vSphere does not give beside such a NIC.
        """
        if any(map(wants_function, spec.vifs)):
            refuse_growth(spec.flavor, "leave max_vcpus and max_memory_mib out")
        found = self.of(spec.uuid, spec.vifs, backings, starts=spec.start)
        return {name: (backing, found.get(name)) for name, backing in backings.items()}

    def of(
        self, uuid: UUID, vifs: Sequence[Vif], backings: Mapping[str, Any], *, starts: bool
    ) -> dict[str, Any]:
        """What each NIC that wants a function says of the adapter, by the VIF's id. 3 calls; none
        where no NIC wants one.

        Args:
            backings: what the NICs are plugged into.
            starts: the machine shall run, so the functions must be free.

        Raises:
            NotSupported: the host has no adapter with functions, or it is one of several.
            InsufficientResources: machines that run have all functions.
        """
        wanted = [each for each in vifs if wants_function(each)]
        if not wanted:
            return {}
        place = self._places.get()
        if place.only_host is None:
            raise errors.NotSupported(
                "vSphere gives no virtual functions to a machine in a cluster of several hosts",
                hint="connect to a single host; or leave sriov out",
            )
        host, target = host_and_target(self._reader, place.only_host, place.compute, (PASSTHROUGH,))
        adapters = _adapters(host, (target.sriov if target is not None else None) or ())
        if not adapters:
            raise errors.NotSupported("no adapter of the host has virtual functions", hint=_HINT)
        left = Counter({each.pciDevice.id: count for each, count in adapters})
        left.subtract(self._taken(uuid))
        found = {}
        for vif in wanted:
            able = _reaching(adapters, backings[vif.id])
            best = max(able, key=lambda each: left[each.pciDevice.id])
            if starts and left[best.pciDevice.id] <= 0:
                raise errors.InsufficientResources(
                    "machines that run have all virtual functions of the host's adapters",
                    hint="stop one, let the administrator enable more, or leave sriov out",
                )
            left[best.pciDevice.id] -= 1
            found[vif.id] = _backing(best)
        return found

    def _taken(self, uuid: UUID) -> Iterable[str]:
        """The adapters of which other machines that run have a function, once for each. 1 call."""
        for row in self._machines.rows("config.instanceUuid", _POWER, _HARDWARE):
            if row.get(_POWER) == "poweredOn" and uuid_in(row) != uuid:
                for card in cards_with_functions(row.get(_HARDWARE) or ()):
                    physical = card.sriovBacking and card.sriovBacking.physicalFunctionBacking
                    if physical is not None:
                        yield physical.id


def refuse_growth(flavor: Flavor, hint: str) -> None:
    """Raise NotSupported for a flavor to which CPUs or memory may be added, of a machine that has,
    or gets, such a NIC."""
    if flavor.max_vcpus is not None or flavor.max_memory_mib is not None:
        raise errors.NotSupported(
            "vSphere adds nothing to a running machine that has a NIC with a virtual function, and"
            " the flavor says that CPUs or memory may be added",
            hint=hint,
        )


def _adapters(host: Row, infos: Sequence[Any]) -> list[tuple[Any, int]]:
    """Adapters whose functions can be had, with their number."""
    numbers = {
        each.id: int(each.numVirtualFunction or 0)
        for each in host.get(PASSTHROUGH) or ()
        if isinstance(each, vim.host.SriovInfo) and each.sriovActive
    }
    return [
        (each, numbers[each.pciDevice.id])
        for each in infos
        if not each.virtualFunction and numbers.get(each.pciDevice.id, 0) > 0
    ]


def _reaching(adapters: Sequence[tuple[Any, int]], network: Any) -> list[Any]:
    """Those that are adapters of the network's distributed switch; where the server names none for
    it, all."""
    switch = getattr(getattr(network, "port", None), "switchUuid", None)
    all_ = [each for each, _ in adapters]
    mine = [
        each
        for each in all_
        if switch is not None and getattr(each.devicePool, "switchUuid", None) == switch
    ]
    return mine or all_


def _backing(info: Any) -> Any:
    device = info.pciDevice
    return vim.vm.device.VirtualPCIPassthrough.DeviceBackingInfo(
        deviceName=device.deviceName or "",
        id=device.id,
        deviceId=str(device.deviceId),
        systemId=info.systemId,
        vendorId=device.vendorId,
    )
