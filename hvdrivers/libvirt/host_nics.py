"""NICs over network devices of the host: macvtap, vDPA, and a device that a machine has to itself,
which its caller names or libvirt takes from a network.

Only functions of their arguments, no remote call. Which devices the host has, and who has them,
say ``network_checks.py`` and ``passthrough.py``.
"""

from __future__ import annotations

from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.libvirt.naming import FUNCTION, alias, from_alias
from hvdrivers.libvirt.xml import Element, attribute, el
from hvdrivers.models.pci import PciAddress
from hvdrivers.models.vif import HostdevVif, MacvtapVif, NetworkVif, NicModel, VdpaVif, Vif

_OF_PORT, _OF_MACHINE = 11, 4
"""Characters in the name of a macvtap device, which has 15 at most."""
HOST_NICS = frozenset({"hw_veb", "hostdev_physical", "ib_hostdev", "vdpa"})
"""Types of NICs in whose place on the host libvirt has no network device, and which stay with
their host."""


def wants_function(vif: Vif) -> bool:
    """Whether libvirt takes a function from the NIC's network at each start."""
    return isinstance(vif, NetworkVif) and vif.sriov


def nic_alias(vif: Vif) -> str:
    """The alias of a NIC. It says which NIC wants a function of its network: in a definition
    nothing else does."""
    return alias(f"vif-{FUNCTION if wants_function(vif) else vif.type}", vif.id)


def is_function(interface: Element) -> bool:
    """Whether a NIC is a function that libvirt takes from a network, or was plugged in by others on
    such a network and runs: libvirt shows the function in the place of the network then."""
    name = attribute(interface, "alias", "name") or ""
    if from_alias(f"vif-{FUNCTION}", name) is not None:
        return True
    return interface.get("type") == "hostdev" and from_alias("vif-network", name) is not None


def stays(kind: str, device: Element) -> bool:
    """Whether a NIC stays with its host.

    Args:
        kind: its type.
    """
    return kind in HOST_NICS or is_function(device)


def function_of(vif: NetworkVif) -> Element:
    """The ``<interface>`` of a NIC that gets a function of its network. The host sets its MAC
    address and its VLAN. https://libvirt.org/formatnetwork.html#connectivity (``hostdev``)"""
    _refuse_set(vif, "a virtual function", "the function")
    return el(
        "interface",
        el("mac", address=vif.mac),
        el("source", network=vif.network, portgroup=vif.portgroup),
        el("vlan", el("tag", id=vif.vlan)) if vif.vlan else None,
        el("alias", name=nic_alias(vif)),
        type="network",
    )


def pci_source(address: PciAddress, *, kind: str | None = None) -> Element:
    """``<source>``: a PCI device of the host.

    Args:
        kind: ``pci`` in an ``<interface>``, which must say so.
    """
    return el(
        "source",
        el(
            "address",
            type=kind,
            domain=f"0x{address.domain:04x}",
            bus=f"0x{address.bus:02x}",
            slot=f"0x{address.slot:02x}",
            function=f"0x{address.function:x}",
        ),
    )


def hostdev(address: PciAddress, name: str | None = None) -> Element:
    """The ``<hostdev>`` of a device. Managed: libvirt takes it from its driver when the machine
    starts, and gives it back.

    Args:
        name: its alias; None: libvirt makes one.
    """
    return el(
        "hostdev",
        pci_source(address),
        el("alias", name=name) if name is not None else None,
        mode="subsystem",
        type="pci",
        managed="yes",
    )


def whole_device(vif: HostdevVif) -> Element:
    """The element of a NIC that is a device of the host. Of a virtual function (``hw_veb``) the
    host sets the MAC address and the VLAN; libvirt refuses to start it with any other device. A
    device on which the host sets nothing is no ``<interface>``."""
    _refuse_set(vif, "a NIC that is a device of the host", "the device")
    name = nic_alias(vif)
    if vif.type != "hw_veb":
        return hostdev(vif.pci_address, name)
    return el(
        "interface",
        el("mac", address=vif.mac),
        pci_source(vif.pci_address, kind="pci"),
        el("vlan", el("tag", id=vif.vlan)) if vif.vlan else None,
        el("alias", name=name),
        type="hostdev",
        managed="yes",
    )


def macvtap_name(vif: Vif, instance: UUID) -> str:
    """Name of the macvtap device of a machine's NIC: the beginning says which port it is, and the
    end which machine's. A start that fails removes the devices that its definition names, whosever
    they are (seen with libvirt 9.0)."""
    return vif.tap[:_OF_PORT] + instance.hex[-_OF_MACHINE:]


def of_one_port(name: str, other: str) -> bool:
    """Whether two network devices are of one port: they have one name, or one of them is a macvtap
    device, and the other one has the port's name too (``Vif.tap``, or a macvtap device)."""
    if name == other:
        return True
    lengths = {len(name), len(other)}
    return (
        name.startswith("tap")
        and name[:_OF_PORT] == other[:_OF_PORT]
        and lengths <= {_OF_PORT + 3, _OF_PORT + _OF_MACHINE}
        and _OF_PORT + _OF_MACHINE in lengths
    )


def host_nic(vif: MacvtapVif | VdpaVif, instance: UUID) -> tuple[str, list[Element]]:
    """Kind and wiring of a virtio NIC over a device of the host."""
    if isinstance(vif, VdpaVif):
        _refuse(
            vif,
            ("qos", "mtu", "vlan"),
            "a vDPA device",
            "set them at the device, on the host (vdpa, devlink)",
        )
        if vif.model not in {None, NicModel.VIRTIO}:
            raise errors.NotSupported(
                "a vDPA device is a virtio NIC", hint="leave the model out, or say virtio"
            )
        return "vdpa", [el("source", dev=vif.device)]
    _refuse(
        vif, ("mtu",), "a macvtap device", "set it at the interface below: macvtap has the same"
    )
    wiring = [el("source", dev=vif.source, mode=vif.mode)]
    if vif.vlan:
        if vif.mode != "passthrough":
            raise errors.NotSupported(
                f"libvirt sets no VLAN tag on a macvtap device in mode {vif.mode}",
                hint="use the VLAN's own interface as source; or a virtual function, with"
                ' mode="passthrough"',
            )
        wiring.append(el("vlan", el("tag", id=vif.vlan)))
    return "direct", [*wiring, el("target", dev=macvtap_name(vif, instance))]


def _refuse_set(vif: Vif, what: str, whole: str) -> None:
    """Refuse what the host cannot set of a NIC that the guest has itself."""
    _refuse(
        vif,
        ("qos", "mtu", "queues", "model"),
        what,
        f"the guest has {whole} itself: set them in the guest, or at the physical function",
    )
    if not vif.active:
        raise errors.NotSupported(
            "libvirt starts no device of the host with its link down",
            hint="plug_vif() it when it shall be up",
        )


def _refuse(vif: Vif, names: tuple[str, ...], what: str, hint: str) -> None:
    asked = [name for name in names if getattr(vif, name) is not None]
    if asked:
        raise errors.NotSupported(f"libvirt sets no {' and no '.join(asked)} of {what}", hint=hint)
