"""PCI devices of the host for one machine each: which may be given, and who has them.

The host's administrator sets a device aside by giving it to the driver ``vfio-pci``. No other is
given to a machine: it may be what the host itself lives on. As a NIC a machine gets virtual
functions too, which exist to be given away, with whatever driver. Which machine has which device
stands in the definitions of all machines, ours and foreign, powered on or not.
https://libvirt.org/formatdomain.html#usb-pci-scsi-devices
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from uuid import UUID

import libvirt

from hvdrivers import hints
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, declared, provides
from hvdrivers.driverkit.deadline import current_deadline
from hvdrivers.driverkit.undo import Undo
from hvdrivers.libvirt.host_nics import hostdev
from hvdrivers.libvirt.node_devices import device_in, node_name
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.session import Connection
from hvdrivers.libvirt.turns import Turns
from hvdrivers.libvirt.vgpus import Vgpus
from hvdrivers.libvirt.xml import Element, parse, readable
from hvdrivers.models.instance import InstanceSpec
from hvdrivers.models.pci import PciAddress
from hvdrivers.models.resources import PciDevice
from hvdrivers.models.vif import HostdevVif, Vif

_GIVEN = ("devices/hostdev[@type='pci']/source/address", "devices/interface/source/address")


class Passthrough:
    """Give devices to machines."""

    def __init__(self, connection: Connection, turns: Turns) -> None:
        self.vgpus = Vgpus(connection)
        self._connection = connection
        self._turns = turns

    @provides(Capability.PCI_PASSTHROUGH, *declared(Vgpus))
    @contextmanager
    def new(self, spec: InstanceSpec, undo: Undo) -> Iterator[list[Element]]:
        """The ``<hostdev>`` elements of a new machine, whose devices are nobody else's until the
        block ends, in which it is defined; those of its NICs too. No call for none. Else 3 calls, 2
        for each device and one for each machine of the host, two if it is on; for slices of GPUs 2,
        and those that ``vgpus.py`` names for each.

        Raises:
            InsufficientResources: a device is not there, is not set aside, or another machine has
                it, or a part of it.
        """
        wanted = [each.address for each in spec.pci_devices]
        nics = _nics_in(spec.vifs)
        with self._turn(bool(wanted or nics or spec.vgpus)):
            self._require(wanted, nics)
            if spec.vgpus:
                undo.callback(self.vgpus.remove, spec.uuid)
            slices = [self.vgpus.make(spec.uuid, *each) for each in enumerate(spec.vgpus)]
            yield [*(hostdev(address) for address in wanted), *slices]

    @provides(Capability.VIF_HOSTDEV)
    @contextmanager
    def nics(self, vifs: Sequence[Vif], *, but: UUID | None = None) -> Iterator[None]:
        """The devices of these NICs are nobody else's until the block ends, in which a machine gets
        them. Calls as for ``new()``.

        Args:
            but: this machine may have them: its own NICs are replaced.

        Raises:
            InsufficientResources: a device is not there, is not fit, or another machine has it, or
                a part of it.
        """
        nics = _nics_in(vifs)
        with self._turn(bool(nics)):
            self._require([], nics, but=but)
            yield

    def _turn(self, needed: bool) -> AbstractContextManager[None]:
        return self._turns.take_devices(current_deadline()) if needed else nullcontext()

    def _require(
        self, whole: Sequence[PciAddress], nics: Sequence[HostdevVif], *, but: UUID | None = None
    ) -> None:
        wanted = [*whole, *(each.pci_address for each in nics)]
        if not wanted:
            return
        if len(set(wanted)) < len(wanted):
            raise errors.InsufficientResources("a device is named twice", hint="name it once")
        devices = [self.device_at(address) for address in wanted]
        for device in devices[: len(whole)]:
            refuse_unfit(device)
        for device, vif in zip(devices[len(whole) :], nics, strict=True):
            refuse_unfit_nic(device, vif)
        self._refuse_held(devices, but)

    def _refuse_held(self, devices: Sequence[PciDevice], but: UUID | None) -> None:
        holders = self._holders()
        for device in devices:
            # who has the whole of a device has its parts, and the other way round
            for each in {device.address, device.physical_function, *device.virtual_functions}:
                if each in holders and holders[each] != str(but):
                    raise errors.InsufficientResources(
                        f"machine {holders[each]} has the device {each}",
                        hint=hints.OTHER_DEVICE,
                    )

    def device_at(self, address: PciAddress) -> PciDevice:
        """The host's device. Two calls.

        Raises:
            InsufficientResources: there is none.
        """
        try:
            node = self._connection.remote.nodeDeviceLookupByName(node_name(address))
        except errors.HypervisorFault as error:
            if error.vendor_code != "VIR_ERR_NO_NODE_DEVICE":
                raise
            raise errors.InsufficientResources(
                f"the host has no device {address}",
                vendor_code=error.vendor_code,
                hint="get_available_resource().devices names those that it has",
            ) from error
        return device_in(parse(node.XMLDesc(0)))

    def _holders(self) -> dict[PciAddress, str]:
        """Devices that machines have, and the UUID of the machine. One call, and one for each; two
        for each that is on."""
        found: dict[PciAddress, str] = {}
        for domain in self._connection.remote.listAllDomains(0):
            for address in _given_by(domain):
                found[address] = domain.UUIDString()
        return found


def _given_by(domain: Remote) -> list[PciAddress]:
    """Of one that runs what it has, and what its definition has for the next start."""

    def read() -> list[PciAddress]:
        xml = parse(domain.XMLDesc(0))
        found = devices_in(xml)
        if xml.get("id") is not None:
            found += devices_in(parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)))
        return found

    with suppress(errors.InstanceNotFound):  # it has gone meanwhile
        return readable("a machine", read) or []
    return []


def devices_in(domain: Element) -> list[PciAddress]:
    """The PCI devices of the host that a machine has."""
    return [
        PciAddress.of(
            *(int(each.get(part, "0"), 16) for part in ("domain", "bus", "slot", "function"))
        )
        for path in _GIVEN
        for each in domain.iterfind(path)
        if each.get("type") in {None, "pci"} and each.get("slot") is not None
    ]


def refuse_unfit(device: PciDevice) -> None:
    """Raise InsufficientResources for a device that is not set aside for machines."""
    if not device.is_aside:
        raise errors.InsufficientResources(
            f"the device {device.address} is not set aside for machines: the host's driver of it is"
            f" {device.driver or 'none'}",
            hint=f"on the host: driverctl set-override {device.address} vfio-pci",
        )


def refuse_unfit_nic(device: PciDevice, vif: HostdevVif) -> None:
    """Raise InsufficientResources for a device that no machine gets as this kind of NIC."""
    if device.physical_function is not None:
        return
    if vif.type == "hw_veb":
        raise errors.InsufficientResources(
            f"the device {device.address} is no virtual function (SR-IOV), and the host sets MAC"
            " address and VLAN of such alone",
            hint="name a virtual function; or give the whole device: type hostdev_physical",
        )
    refuse_unfit(device)


def _nics_in(vifs: Iterable[Vif]) -> list[HostdevVif]:
    return [each for each in vifs if isinstance(each, HostdevVif)]
