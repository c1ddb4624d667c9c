"""A network of forward mode hostdev, as far as no host is needed: what is refused, and what libvirt
shows of a function that a running machine has (https://libvirt.org/formatnetwork.html,
https://libvirt.org/formatdomain.html#pci-passthrough)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.libvirt.adopted import ADOPTED_NAMESPACE, Adoption
from hvdrivers.libvirt.devices import attached_vif, vifs_of
from hvdrivers.libvirt.encrypted_memory import refuse_nic
from hvdrivers.libvirt.hardware import with_model
from hvdrivers.libvirt.host_nics import stays
from hvdrivers.libvirt.metadata import put
from hvdrivers.libvirt.network_checks import Networks
from hvdrivers.libvirt.passthrough import devices_in
from hvdrivers.libvirt.rewiring import Rewiring, wire_of
from hvdrivers.libvirt.wiring import vif_element
from hvdrivers.libvirt.xml import Element, el, parse, text
from hvdrivers.models.hardware import Hardware
from hvdrivers.models.pci import PciAddress
from hvdrivers.models.vif import Bandwidth, NetworkVif, NicModel, UserVif, VifQos

MACHINE = UUID(int=7)
FAST = NetworkVif(id="n", network="net", sriov=True)
PLAIN = NetworkVif(id="p", network="net")
WISHES: list[dict[str, Any]] = [
    {"model": NicModel.E1000E},
    {"queues": 2},
    {"mtu": 1400},
    {"qos": VifQos(outbound=Bandwidth(average=80))},
    {"active": False},
]
RUNNING = """
<domain id="1"><devices><interface type="hostdev" managed="yes">
  <mac address="52:54:00:00:00:01"/><driver name="vfio"/>
  <source><address type="pci" domain="0x0000" bus="0x7e" slot="0x10" function="0x2"/></source>
  <alias name="{alias}"/>
  <address type="pci" domain="0x0000" bus="0x01" slot="0x00" function="0x0"/>
</interface></devices></domain>"""


def networks(
    mode: str = "hostdev",
    functions: int = 1,
    taken: int = 0,
    asked: list[str] | None = None,
    lacking: dict[Capability, str] | None = None,
) -> Networks:
    """What looks at networks, on a host that has one active network, "net"."""
    calls = asked if asked is not None else []
    addresses = "<address type='pci' domain='0' bus='0x7e' slot='0x10' function='0'/>" * functions
    connections = f" connections='{taken}'" if taken else ""
    document = (
        f"<network{connections}><name>net</name>"
        f"<forward mode='{mode}'>{addresses}</forward></network>"
    )

    def call(name: str, result: Any) -> Any:
        def made(*_: object) -> Any:
            calls.append(name)
            return result

        return made

    network = SimpleNamespace(name=lambda: "net", XMLDesc=call("XMLDesc", document))
    remote = SimpleNamespace(listAllNetworks=call("listAllNetworks", [network]))
    facts = SimpleNamespace(narrowed=lambda: lacking or {})
    return Networks(cast(Any, SimpleNamespace(remote=remote)), cast(Any, facts))


def running(alias: str = "ua-vif-function-n") -> Element:
    return parse(RUNNING.format(alias=alias))


@pytest.mark.parametrize("wish", WISHES, ids=[next(iter(each)) for each in WISHES])
def test_what_libvirt_passes_over_there_is_refused(wish: dict[str, Any]) -> None:
    with pytest.raises(errors.NotSupported) as refused:
        vif_element(FAST.model_copy(update=wish), MACHINE)
    assert refused.value.hint
    vif_element(PLAIN.model_copy(update=wish), MACHINE)


def test_the_definition_names_the_network_alone() -> None:
    """libvirt writes the function into the definition of the machine that runs."""
    vif = FAST.model_copy(update={"vlan": 7, "portgroup": "g"})
    assert text(vif_element(vif, MACHINE)) == (
        f'<interface type="network"><mac address="{vif.mac}" />'
        '<source network="net" portgroup="g" /><vlan><tag id="7" /></vlan>'
        '<alias name="ua-vif-function-n" /></interface>'
    )


def test_a_nic_is_of_its_networks_kind() -> None:
    for vif, mode in ((FAST, "nat"), (PLAIN, "hostdev")):
        with pytest.raises(errors.NotSupported, match="net") as refused:
            networks(mode).require([vif])
        assert "sriov" in (refused.value.hint or "")
    networks("nat").require([PLAIN])
    networks("hostdev").require([FAST])


def test_functions_that_are_left() -> None:
    """A machine that starts needs one for each NIC; one that stays off needs none yet."""
    second = FAST.model_copy(update={"id": "m"})
    for functions, taken, vifs in ((1, 1, [FAST]), (3, 2, [FAST, second])):
        few = networks(functions=functions, taken=taken)
        with pytest.raises(errors.InsufficientResources, match="net") as short:
            few.require(vifs, starts=True)
        assert short.value.hint
        few.require(vifs)
    networks(functions=3, taken=1).require([FAST, second], starts=True)


def test_a_network_without_functions() -> None:
    for starts in (True, False):
        with pytest.raises(errors.NotSupported, match="has no virtual functions") as refused:
            networks(functions=0).require([FAST], starts=starts)
        assert "sriov_numvfs" in (refused.value.hint or "")


def test_a_host_without_vfio() -> None:
    host = networks(lacking={Capability.VIF_HOSTDEV: "the host has no VFIO"})
    with pytest.raises(errors.NotSupported, match="VFIO") as refused:
        host.require([FAST])
    assert refused.value.hint
    with pytest.raises(errors.NotSupported, match="alone"):
        host.require([PLAIN])


@pytest.mark.parametrize("mode", ["nat", "hostdev"])
def test_what_a_look_costs(mode: str) -> None:
    """One call for all networks, and one for each."""
    asked: list[str] = []
    vif = PLAIN if mode == "nat" else FAST
    networks(mode, asked=asked).require([vif, vif.model_copy(update={"id": "m"})])
    assert asked == ["listAllNetworks", "XMLDesc"]


@pytest.mark.parametrize("alias", ["ua-vif-function-n", "ua-vif-network-n"])
def test_a_machine_that_runs_shows_the_function(alias: str) -> None:
    """Also of one that others have plugged into such a network."""
    ((vif_id, (kind, interface)),) = vifs_of(running(alias)).items()
    shown = attached_vif(vif_id, kind, interface)
    assert (shown.id, shown.type, shown.sriov, shown.model) == ("n", "network", True, None)
    assert shown.host_pci_address == PciAddress("0000:7e:10.2")
    assert shown.pci_address == PciAddress("0000:01:00.0")
    assert devices_in(running(alias)) == [shown.host_pci_address]  # nobody else gets it
    assert stays(kind, interface)


def test_an_adopted_machine_that_runs_shows_the_function_of_others() -> None:
    """Written by hand, or taken from a network: libvirt shows both alike, and which network it was
    not at all. Only the definition tells."""
    machine = running("hostdev0")
    assert vifs_of(machine) == {}  # of spawn()'s, whose NICs have aliases
    machine.append(el("uuid", str(MACHINE)))
    put(machine, ADOPTED_NAMESPACE, Adoption(uuid=str(MACHINE)).text())
    ((vif_id, (kind, interface)),) = vifs_of(machine).items()
    shown = attached_vif(vif_id, kind, interface)
    assert (shown.id, shown.type, shown.sriov) == ("52:54:00:00:00:01", "hw_veb", False)
    assert shown.host_pci_address == PciAddress("0000:7e:10.2")
    assert stays(kind, interface)


@pytest.mark.parametrize("last", [True, False])
def test_the_function_of_a_team_hides_no_nic(last: bool) -> None:
    """libvirt unplugs it for a live migration, and the other one of its address stays."""
    machine = running("hostdev0")
    machine.append(el("uuid", str(MACHINE)))
    put(machine, ADOPTED_NAMESPACE, Adoption(uuid=str(MACHINE)).text())
    devices = next(machine.iter("devices"))
    devices[0].append(el("teaming", type="transient", persistent="ua-backup"))
    backup = el("interface", el("mac", address="52:54:00:00:00:01"), type="bridge")
    devices.insert(0 if last else 1, backup)
    assert [(key, kind) for key, (kind, _) in vifs_of(machine).items()] == [
        ("52:54:00:00:00:01", "bridge")
    ]


def test_a_stopped_machine_shows_that_it_gets_one() -> None:
    for vif, wanted in ((FAST, True), (PLAIN, False)):
        shown = attached_vif(vif.id, "network", vif_element(vif, MACHINE))
        assert (shown.sriov, shown.host_pci_address) == (wanted, None)
        assert (shown.model is None) == wanted
        assert stays("network", vif_element(vif, MACHINE)) == wanted


def test_it_is_no_model_of_the_machines() -> None:
    hardware = Hardware(nic_model=NicModel.E1000E)
    assert with_model(FAST, hardware) == FAST
    assert with_model(PLAIN, hardware).model is NicModel.E1000E


def test_encrypted_memory_has_none() -> None:
    with pytest.raises(errors.NotSupported):
        refuse_nic(FAST)
    refuse_nic(PLAIN)


def test_no_second_blocker_speaks_of_its_model() -> None:
    """That the NIC stays with its host is what there is to say."""
    xml = running()
    (interface,) = xml.iterfind("devices/interface")
    for new in (UserVif(id="n"), FAST):
        rewiring = Rewiring({wire_of(interface): vif_element(new, MACHINE)})
        assert list(rewiring.seen_by_guest(xml)) == []
