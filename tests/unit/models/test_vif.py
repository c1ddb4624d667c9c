"""VIFs in our own shape."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from hvdrivers.models.vif import (
    VIF_TYPES,
    AttachedVif,
    Bandwidth,
    BridgeVif,
    DvsVif,
    FixedIp,
    FixedIpRoute,
    HostdevVif,
    HypervVif,
    MacAddress,
    MacvtapVif,
    NetworkVif,
    OvsVif,
    TapVif,
    UserVif,
    VdpaVif,
    VhostUserVif,
    Vif,
    VifQos,
    default_mac,
    hybrid_bridge_name,
    tap_name,
    vhostuser_name,
)
from hvdrivers.models.vif._text import check_mac

from .shapes.neutron import PORT_ID

PCI = "0000:03:10.1"
OWN = {
    "network": NetworkVif(id="n", network="default", portgroup="lab"),
    "bridge": BridgeVif(id="n", bridge="br0", vlan=7),
    "ovs": OvsVif(id="n", bridge="br-int", address="52:54:00:00:00:01"),
    "tap": TapVif(id="n", device="tap0", exists=False),
    "macvtap": MacvtapVif(id="n", source="eth0", mode="vepa"),
    "hw_veb": HostdevVif(id="n", pci_address=PCI, vlan=5),
    "hostdev_physical": HostdevVif(id="n", type="hostdev_physical", pci_address=PCI),
    "ib_hostdev": HostdevVif(id="n", type="ib_hostdev", pci_address=PCI),
    "vhostuser": VhostUserVif(id="n", socket="/run/vhu0", mode="server"),
    "vdpa": VdpaVif(id="n", device="/dev/vhost-vdpa-0"),
    "dvs": DvsVif(id="n", port_group="VM Network"),
    "hyperv": HypervVif(id="n", switch="External", vlan=12),
    "user": UserVif(id="n"),
}
EVERY_TYPE = pytest.mark.parametrize("vif", OWN.values(), ids=OWN.keys())


class TestOwnShape:
    @EVERY_TYPE
    def test_round_trips(self, vif):
        adapter = TypeAdapter(Vif)
        assert adapter.validate_python(vif.model_dump()) == vif
        assert adapter.validate_json(vif.model_dump_json()) == vif
        assert isinstance(vif, VIF_TYPES)
        assert AttachedVif(id=vif.id, address=vif.mac, type=vif.type).address == vif.mac

    @EVERY_TYPE
    def test_closed(self, vif):
        with pytest.raises(ValidationError, match="Extra inputs"):
            TypeAdapter(Vif).validate_python({**vif.model_dump(), "brigde": "br0"})
        for wrong in ({"vlan": 0}, {"vlan": 4095}, {"mtu": 67}, {"queues": 0}, {"id": ""}):
            with pytest.raises(ValidationError):
                TypeAdapter(Vif).validate_python({**vif.model_dump(), **wrong})

    @pytest.mark.parametrize("kind", ["unbound", "binding_failed"])
    def test_what_is_no_wiring(self, kind):
        with pytest.raises(ValidationError, match=f"{kind}: .*host"):
            TypeAdapter(Vif).validate_python({"type": kind, "id": "n"})

    @pytest.mark.parametrize(
        ("kind", "fields", "message"),
        [
            (MacvtapVif, {}, "one of them"),
            (MacvtapVif, {"source": "eth0", "pci_address": PCI}, "one of them"),
            (HostdevVif, {"pci_address": "eth0"}, "PCI address"),
            (
                HostdevVif,
                {"type": "ib_hostdev", "pci_address": PCI, "vlan": 5},
                "cannot have a vlan",
            ),
            (VhostUserVif, {"socket": "/run/../x", "mode": "server"}, "absolute path"),
            (VhostUserVif, {"socket": "/" + "x" * 107, "mode": "server"}, "107 bytes"),
            (VhostUserVif, {"socket": "/", "mode": "server"}, "folder"),
            (VhostUserVif, {"socket": "/run/.", "mode": "client"}, "folder"),
            (VdpaVif, {"device": "/dev/"}, "folder"),
            (VdpaVif, {}, "device or pci_address"),
            (DvsVif, {}, "give port_group"),
            (DvsVif, {"port_group_key": "dvportgroup-1"}, "belong together"),
            (DvsVif, {"port_group": "a", "opaque_network_id": "b"}, "exclude"),
            (OvsVif, {"bridge": "br0", "datapath_type": "dpdk"}, "'system' or 'netdev'"),
        ],
    )
    def test_wrong_wiring(self, kind, fields, message):
        with pytest.raises(ValidationError, match=message):
            kind(id="n", **fields)

    def test_qos(self):
        qos = VifQos(inbound=Bandwidth(average=1000, peak=2000, burst=64))
        assert OvsVif(id="n", bridge="b", qos=qos).qos == qos
        with pytest.raises(ValidationError, match="no limit"):
            VifQos()
        with pytest.raises(ValidationError, match="peak is below"):
            Bandwidth(average=2, peak=1)


class TestNames:
    @pytest.mark.parametrize(
        "name", ["", "a" * 16, "ä" * 8, "br/0", "br 0", "eth0:1", ".", "..", "br\n0", "br\t"]
    )
    def test_no_interface_names(self, name):
        with pytest.raises(ValidationError):
            BridgeVif(id="n", bridge=name)

    @pytest.mark.parametrize("name", ["br-int", "tbr-12345678-90", "br'0", "b;reboot", "<x>&"])
    def test_interface_names(self, name):
        # Linux allows quotes and markup; they stay data
        assert BridgeVif(id="n", bridge=name).bridge == name

    @pytest.mark.parametrize("name", ["VM Network", "<net/>&\"'", "$(calc) `; |", "Сеть 1"])
    def test_labels_stay_data(self, name):
        assert NetworkVif(id="n", network=name).network == name
        assert HypervVif(id="n", switch=name).switch == name
        assert DvsVif(id="n", port_group=name).port_group == name

    @pytest.mark.parametrize("name", ["", "a\nb", "a\x00", " a", "\u2028", "x" * 256])
    def test_no_labels(self, name):
        with pytest.raises(ValidationError):
            HypervVif(id="n", switch=name)

    def test_derived_from_a_port(self):
        # nova network/os_vif_util.py: cut to NIC_NAME_LEN
        assert tap_name(PORT_ID) == "tapb679325f-ca"
        assert hybrid_bridge_name(PORT_ID) == "qbrb679325f-ca"
        assert vhostuser_name(PORT_ID) == "vhub679325f-ca"

    def test_own_ids_do_not_collide(self):
        names = {tap_name(f"orchestrator-lab-{number}") for number in range(100)}
        assert len(names) == 100

    @given(st.text(min_size=1, max_size=64).filter(lambda t: t.isprintable()))
    def test_every_id_gives_good_names(self, vif_id):
        vif = OvsVif(id=vif_id, bridge="br-int")
        for name in (vif.device_name, vif.hybrid_bridge):
            assert BridgeVif(id="n", bridge=name).bridge == name


class TestMac:
    @pytest.mark.parametrize(
        "text",
        ["52:54:00:AB:cd:ef", "52-54-00-ab-cd-ef", "525400ABCDEF", "5254.00ab.cdef"],
    )
    def test_one_form(self, text):
        assert TypeAdapter(MacAddress).validate_python(text) == "52:54:00:ab:cd:ef"

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "52:54:00:ab:cd",
            "01:00:5e:00:00:01",
            "ff:ff:ff:ff:ff:ff",
            "00:00:00:00:00:00",
            "52:54-00:ab:cd:ef",
            "52:54:00:ab:cd:eg",
            "52:54:00:ab:cd:ef\n",
            "\uff15\uff12:54:00:ab:cd:ef",
        ],
    )
    def test_wrong(self, text):
        with pytest.raises(ValidationError):
            TypeAdapter(MacAddress).validate_python(text)

    @given(st.text())
    def test_default_is_unicast_local_and_stable(self, vif_id):
        mac = default_mac(vif_id)
        assert check_mac(mac) == mac == default_mac(vif_id)
        assert int(mac[:2], 16) & 3 == 2
        assert not mac.startswith("fe")

    def test_it_is_used_when_there_is_none(self):
        assert TapVif(id="n").mac == default_mac("n")
        one, two = UUID(int=1), UUID(int=2)
        names = [TapVif(id="eth0").within(uuid) for uuid in (one, two)]
        assert len({each.mac for each in names}) == len({each.device_name for each in names}) == 2
        assert names[0].mac == default_mac("eth0", one)
        assert TapVif(id=PORT_ID).within(one) == TapVif(id=PORT_ID)
        assert TapVif(id=PORT_ID).mac == default_mac(PORT_ID, two)
        assert TapVif(id="n", address="525400000001").mac == "52:54:00:00:00:01"


@pytest.mark.parametrize("text", ["a&b", "a'b", "a b", "<x/>", "", "x" * 40, "ä", 'a"b'])
def test_port_profiles_are_plain(text: str) -> None:
    """Libvirt writes it into XML without escaping, and takes 39 characters."""
    with pytest.raises(ValidationError):
        OvsVif(id="a", bridge="br-int", profile_id=text)
    assert OvsVif(id="a", bridge="br-int", profile_id="Az09_.:-" + "x" * 31).profile_id


@pytest.mark.parametrize("text", ["a\uffff", "\ufffe", "\ufdd0", "\U0010ffff", "x" * 65537])
def test_texts_that_are_none(text: str) -> None:
    with pytest.raises(ValidationError):
        NetworkVif(id="a", network=text)
    with pytest.raises(ValidationError):
        NetworkVif(id=text, network="a")


@pytest.mark.parametrize("value", [(), ("10.0.0.0",), b"\x0a\x00\x00\x00", True, 167772160, 1.5])
def test_an_address_is_text(value: object) -> None:
    """The standard library reads numbers, bytes and tuples as networks, and an empty one raises
    IndexError."""
    for model in (FixedIpRoute, FixedIp):
        field = "destination" if model is FixedIpRoute else "address"
        with pytest.raises(ValidationError):
            model.model_validate({field: value, "gateway": "10.0.0.1"})
