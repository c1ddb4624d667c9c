"""VIFs as Neutron, Nova and os-vif describe them."""

from __future__ import annotations

import copy
import warnings

import pytest

from hvdrivers.contract.errors import InvalidRequest, NotSupported
from hvdrivers.models.vif import (
    BridgeVif,
    DvsVif,
    HostdevVif,
    HypervVif,
    MacvtapVif,
    OvsVif,
    TapVif,
    VdpaVif,
    VhostUserVif,
)
from hvdrivers.openstack.vif import parse_nova_vif, parse_os_vif, parse_port

from .shapes import neutron
from .shapes.neutron import PORT_ID, port

PCI = "0000:03:10.1"


class TestPort:
    def test_ovn(self):
        before = copy.deepcopy(neutron.PORT_OVN)
        vif = parse_port(neutron.PORT_OVN, neutron.NETWORK)
        assert before == neutron.PORT_OVN
        assert isinstance(vif, OvsVif)
        assert vif.id == vif.iface_id == PORT_ID
        assert (vif.bridge, vif.datapath_type, vif.hybrid_plug) == ("br-int", "netdev", False)
        assert (vif.mac, vif.mtu) == ("fa:16:3e:4c:2c:30", 1442)
        assert str(vif.addresses[0].address) == "192.168.233.3"
        assert vif.device_name == "tapb679325f-ca"
        assert vif.active, "a port is DOWN until it is plugged; that is no reason to cut the link"

    def test_link_state_is_the_administrators(self):
        assert not parse_port({**neutron.PORT_OVN, "admin_state_up": False}).active

    def test_hybrid_plug(self):
        vif = parse_port(port("ovs", {"ovs_hybrid_plug": True}))
        assert isinstance(vif, OvsVif)
        assert vif.hybrid_plug
        assert vif.bridge == "br-int"
        assert vif.hybrid_bridge == "qbrb679325f-ca"

    def test_sriov(self):
        vif = parse_port(neutron.PORT_SRIOV)
        assert isinstance(vif, HostdevVif)
        assert (vif.type, vif.pci_address, vif.vlan) == ("hw_veb", PCI, 1000)
        assert vif.trusted
        assert vif.physical_network == "physnet1"
        assert vif.offload is None

    @pytest.mark.parametrize("kind", ["hostdev_physical", "ib_hostdev"])
    def test_whole_devices(self, kind):
        vif = parse_port(port(kind, {"vlan": "0"}, profile={"pci_slot": PCI}))
        assert isinstance(vif, HostdevVif)
        assert (vif.type, vif.vlan) == (kind, None)

    def test_sriov_macvtap(self):
        vif = parse_port({**neutron.PORT_SRIOV, "binding:vnic_type": "macvtap"})
        assert isinstance(vif, MacvtapVif)
        assert (vif.pci_address, vif.mode, vif.vlan) == (PCI, "passthrough", 1000)

    def test_macvtap(self):
        vif = parse_port(neutron.PORT_MACVTAP)
        assert isinstance(vif, MacvtapVif)
        assert (vif.source, vif.mode, vif.physical_interface) == ("eth0.100", "bridge", "eth0")
        assert vif.vlan is None, "the source carries the tag already"

    def test_vhostuser(self):
        vif = parse_port(neutron.PORT_VHOSTUSER)
        assert isinstance(vif, VhostUserVif)
        assert (vif.socket, vif.mode) == ("/var/run/openvswitch/vhub679325f-ca", "server")
        assert (vif.bridge, vif.ovs_plug, vif.device_name) == ("br-int", True, "vhub679325f-ca")

    @pytest.mark.parametrize("vnic_type", ["direct", "vdpa", "remote-managed"])
    def test_offloaded(self, vnic_type):
        vif = parse_port(
            port("ovs", {"bridge_name": "br-int"}, vnic_type=vnic_type, profile={"pci_slot": PCI})
        )
        assert isinstance(vif, VdpaVif if vnic_type == "vdpa" else HostdevVif)
        assert vif.pci_address == PCI
        if vnic_type == "remote-managed":
            assert vif.offload is None
        else:
            assert vif.offload is not None
            assert (vif.offload.bridge, vif.offload.interface_id) == ("br-int", PORT_ID)

    def test_tap(self):
        vif = parse_port(port("tap"))
        assert isinstance(vif, TapVif)
        assert (vif.device_name, vif.exists) == ("tapb679325f-ca", True)

    def test_bridge(self):
        assert parse_port(port("bridge", {"bridge_name": "br-lab"})).bridge == "br-lab"
        assert parse_port(port("bridge")).bridge == "brqdc2dd0a1-5b"

    def test_dvs(self):
        # nova virt/vmwareapi/vif.py get_network_ref
        uuid = "50 3c 1d 8e"
        by_key = parse_port(
            port("dvs", {"dvs_id": uuid, "pg_id": "dvportgroup-3", "dvs_port_key": "9"})
        )
        assert isinstance(by_key, DvsVif)
        assert (by_key.switch_uuid, by_key.port_group_key, by_key.port_key) == (
            uuid,
            "dvportgroup-3",
            "9",
        )
        assert (
            parse_port(port("dvs", {"dvs_port_group_name": "VM Network"})).port_group
            == "VM Network"
        )
        assert parse_port(port("dvs")).port_group == neutron.NETWORK_ID
        assert (
            parse_port(port("ovs", {"nsx-logical-switch-id": "ls-1"})).opaque_network_id == "ls-1"
        )

    def test_dvs_with_a_function(self):
        """A port of vnic_type direct is not plugged into the switch in silence."""
        named = {"dvs_port_group_name": "VM Network"}
        assert parse_port(port("dvs", named, vnic_type="direct")).sriov
        assert not parse_port(port("dvs", named)).sriov

    def test_hyperv(self):
        network = {
            **neutron.NETWORK,
            "provider:network_type": "vlan",
            "provider:physical_network": "External",
            "provider:segmentation_id": 500,
        }
        vif = parse_port(port("hyperv"), network)
        assert isinstance(vif, HypervVif)
        assert (vif.switch, vif.vlan, vif.sriov) == ("External", 500, False)
        # Nova's Hyper-V gives such a port a virtual function of Hyper-V's choice
        direct = parse_port(port("hyperv", vnic_type="direct"), network)
        assert isinstance(direct, HypervVif)
        assert direct.sriov

    @pytest.mark.parametrize(
        ("bad", "error", "message", "hint"),
        [
            (port("unbound"), InvalidRequest, "unbound", "host_id"),
            (port("binding_failed"), InvalidRequest, "binding_failed", "neutron-server log"),
            (port(None), InvalidRequest, "says nothing", "administrator"),
            (port("midonet"), NotSupported, "midonet", "supported are bridge"),
            (port("ovs", vnic_type="baremetal"), NotSupported, "baremetal", None),
            (port("ovs", vnic_type="virtio-forwarder"), NotSupported, "virtio-forwarder", None),
            (port("hw_veb", vnic_type="direct"), InvalidRequest, "pci_slot", "claimed by Nova"),
            (port("macvtap"), InvalidRequest, "macvtap_source", None),
            (port("vhostuser"), InvalidRequest, "vhostuser_socket", None),
            (port("vhostuser", {"vhostuser_fp_plug": True}), NotSupported, "fp_plug", None),
            (port("hyperv"), InvalidRequest, "virtual switch", "provider:physical_network"),
            (port("ovs", mac_address="01:00:5e:00:00:01"), InvalidRequest, "multicast", None),
            (
                port("hw_veb", {"vlan": 9999}, profile={"pci_slot": PCI}),
                InvalidRequest,
                "vlan",
                None,
            ),
            (port("ovs", fixed_ips="x"), InvalidRequest, "fixed_ips", None),
            (port("ovs", **{"binding:profile": "x"}), InvalidRequest, "not a mapping", None),
            ({}, InvalidRequest, "says nothing", None),
        ],
    )
    def test_refused(self, bad, error, message, hint):
        with pytest.raises(error, match=message) as caught:
            parse_port(bad)
        if hint:
            assert hint in (caught.value.hint or "")


class TestNovaVif:
    def test_ovs(self):
        vif = parse_nova_vif(neutron.NOVA_VIF)
        assert isinstance(vif, OvsVif)
        assert (vif.bridge, vif.mtu, vif.device) == ("br-int", 1442, "tapb679325f-ca")
        assert vif.active, "Nova's 'active' is the port's status before it is plugged"
        (address,) = vif.addresses
        assert (str(address.address), address.prefix_length) == ("192.168.233.3", 24)
        assert str(address.gateway) == "192.168.233.1"
        assert [str(server) for server in address.dns] == ["192.0.2.53"]
        assert [str(route.destination) for route in address.routes] == ["10.0.0.0/8"]
        assert address.dhcp

    def test_it_says_the_same_as_the_port(self):
        nova = parse_nova_vif(neutron.NOVA_VIF)
        own = parse_port(neutron.PORT_OVN, neutron.NETWORK)
        assert (nova.id, nova.mac, nova.mtu, nova.device_name) == (
            own.id,
            own.mac,
            own.mtu,
            own.device_name,
        )

    @pytest.mark.parametrize("kind", ["unbound", "binding_failed"])
    def test_refused(self, kind):
        with pytest.raises(InvalidRequest, match=kind):
            parse_nova_vif({**neutron.NOVA_VIF, "type": kind})

    def test_without_a_network(self):
        vif = {**neutron.NOVA_VIF, "type": "tap", "network": None, "details": None, "profile": None}
        assert isinstance(parse_nova_vif(vif), TapVif)


def test_os_vif_is_installed_for_the_tests_below():
    assert _os_vif() is not None, "precondition missing: pip install os-vif"


def _os_vif():
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # eventlet's farewell, from oslo.service
            from os_vif import objects

            objects.register_all()
    except ImportError:
        return None
    return objects


@pytest.fixture(scope="module")
def objects():
    found = _os_vif()
    if found is None:
        pytest.fail("precondition missing: pip install os-vif")
    return found


class TestOsVif:
    """Real objects, and their primitive form."""

    @pytest.fixture
    def make(self, objects):
        network = objects.network.Network(
            id=neutron.NETWORK_ID,
            bridge="br-int",
            mtu=1442,
            subnets=objects.subnet.SubnetList(
                objects=[
                    objects.subnet.Subnet(
                        cidr="192.168.233.0/24",
                        gateway="192.168.233.1",
                        dns=["192.0.2.53"],
                        ips=objects.fixed_ip.FixedIPList(
                            objects=[objects.fixed_ip.FixedIP(address="192.168.233.3")]
                        ),
                        routes=objects.route.RouteList(
                            objects=[
                                objects.route.Route(cidr="10.0.0.0/8", gateway="192.168.233.254")
                            ]
                        ),
                    )
                ]
            ),
        )

        def build(name, **fields):
            vif = getattr(objects.vif, name)(
                id=PORT_ID, address="fa:16:3e:4c:2c:30", network=network, plugin="ovs", **fields
            )
            result = parse_os_vif(vif)
            assert parse_os_vif(vif.obj_to_primitive()) == result
            assert (result.id, result.mac, result.mtu) == (PORT_ID, "fa:16:3e:4c:2c:30", 1442)
            (address,) = result.addresses
            assert (str(address.address), address.prefix_length) == ("192.168.233.3", 24)
            assert (str(address.dns[0]), len(address.routes)) == ("192.0.2.53", 1)
            return result

        return build

    def test_open_vswitch(self, make, objects):
        profile = objects.vif.VIFPortProfileOpenVSwitch(
            interface_id=PORT_ID, datapath_type="netdev", profile_id="p"
        )
        vif = make("VIFOpenVSwitch", vif_name="tap1", bridge_name="br-int", port_profile=profile)
        assert isinstance(vif, OvsVif)
        assert (vif.bridge, vif.device_name, vif.iface_id) == ("br-int", "tap1", PORT_ID)
        assert (vif.datapath_type, vif.profile_id) == ("netdev", "p")

    @pytest.mark.parametrize(
        ("made_by_os_vif", "exists"), [("create_port", False), ("create_tap", True)]
    )
    def test_ports_that_os_vif_makes_are_not_made_twice(
        self, make, objects, made_by_os_vif, exists
    ):
        profile = objects.vif.VIFPortProfileOpenVSwitch(
            interface_id=PORT_ID, **{made_by_os_vif: True}
        )
        vif = make("VIFOpenVSwitch", vif_name="tap1", bridge_name="br-int", port_profile=profile)
        assert isinstance(vif, TapVif)
        assert (vif.device_name, vif.exists) == ("tap1", exists)

    def test_bridge(self, make):
        vif = make("VIFBridge", vif_name="tap1", bridge_name="qbrb679325f-ca")
        assert isinstance(vif, BridgeVif)
        assert (vif.bridge, vif.device_name) == ("qbrb679325f-ca", "tap1")

    def test_generic(self, make):
        vif = make("VIFGeneric", vif_name="tap1")
        assert isinstance(vif, TapVif)
        assert not vif.exists

    def test_direct(self, make):
        vif = make("VIFDirect", vif_name="x", dev_address=PCI, mode="passthrough", vlan_name="v5")
        assert isinstance(vif, MacvtapVif)
        assert (vif.pci_address, vif.mode, vif.physical_interface) == (PCI, "passthrough", "v5")

    def test_vhostuser(self, make):
        vif = make("VIFVHostUser", vif_name="vhu1", path="/run/vhu1", mode="client")
        assert isinstance(vif, VhostUserVif)
        assert (vif.socket, vif.mode, vif.device_name) == ("/run/vhu1", "client", "vhu1")

    @pytest.mark.parametrize(
        ("dev_type", "kind"), [("ethernet", "hw_veb"), ("generic", "hostdev_physical")]
    )
    def test_host_device(self, make, dev_type, kind):
        vif = make("VIFHostDevice", dev_type=dev_type, dev_address=PCI)
        assert isinstance(vif, HostdevVif)
        assert (vif.type, vif.pci_address) == (kind, PCI)

    def test_nested_dpdk_is_refused(self, objects):
        with pytest.raises(NotSupported, match="VIFNestedDPDK"):
            parse_os_vif(objects.vif.VIFNestedDPDK(id=PORT_ID, pci_address=PCI))

    def test_what_is_missing_is_named(self, objects):
        with pytest.raises(InvalidRequest, match="bridge: Field required"):
            parse_os_vif(objects.vif.VIFBridge(id=PORT_ID))

    @pytest.mark.parametrize("junk", [None, 7, {}, []])
    def test_no_object(self, junk):
        with pytest.raises(InvalidRequest, match="not an os-vif object"):
            parse_os_vif(junk)


def test_a_port_profile_that_xml_could_misread_is_refused() -> None:
    """What os-vif's port profile names is written into libvirt's XML as it is."""
    primitive = {
        "versioned_object.name": "VIFOpenVSwitch",
        "versioned_object.data": {
            "id": "a",
            "bridge_name": "br-int",
            "vif_name": "tap0",
            "port_profile": {"profile_id": "a'/><disk", "interface_id": "b"},
        },
    }
    with pytest.raises(InvalidRequest, match="profile_id"):
        parse_os_vif(primitive)


@pytest.mark.parametrize("unset", [0, "0", "", None])
def test_an_mtu_that_is_not_set(unset: object) -> None:
    wired = port("ovs", {"bridge_name": "br-int"})
    assert parse_port(wired, {**neutron.NETWORK, "mtu": unset}).mtu is None
    nova = copy.deepcopy(neutron.NOVA_VIF)
    nova["network"]["meta"]["mtu"] = unset
    assert parse_nova_vif(nova).mtu is None


def test_empty_text_is_no_value() -> None:
    """A column that was never filled comes as empty text: datapath_type, device, pci_slot."""
    wired = port("ovs", {"bridge_name": "br-int", "datapath_type": ""})
    vif = parse_port(wired)
    assert isinstance(vif, OvsVif)
    assert vif.datapath_type is None
    direct = port(
        "ovs",
        {"bridge_name": "br-int", "datapath_type": ""},
        vnic_type="direct",
        profile={"pci_slot": PCI},
    )
    assert parse_port(direct).offload.datapath_type is None
    with pytest.raises(InvalidRequest, match="pci_slot"):
        parse_port(port("hw_veb", {}, profile={"pci_slot": ""}))
