"""Addresses as text: IPv6 in labels and URLs, and what a host's name stands for."""

import pytest
from pydantic import ValidationError

from hvdrivers.addresses import address_of, bracketed
from hvdrivers.hyperv.config import HypervConfig
from hvdrivers.libvirt.config import LibvirtConfig
from hvdrivers.models.migration import Destination
from hvdrivers.models.vif import FixedIp, FixedIpRoute
from hvdrivers.models.volume import VolumeConnector


def test_ipv6_has_brackets_in_labels() -> None:
    assert bracketed("fd00::1") == "[fd00::1]"
    assert bracketed("kvm1") == "kvm1"
    uri = "qemu+tcp://[fd00::1]:16509/system"
    assert LibvirtConfig(uri=uri).host_label == uri
    config = HypervConfig(host="fd00::1", port=5986, username="u", password="p")
    assert config.host_label == "[fd00::1]:5986"
    pytest.importorskip("pyVmomi")
    from hvdrivers.vmware.config import VmwareConfig

    vmware = VmwareConfig(host="fd00::1", port=8989, username="u", password="p")
    assert vmware.host_label == "vsphere://[fd00::1]:8989"


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("FD00::1", "fd00::1"),
        ("localhost", None),
        ("", None),
        (None, None),
        ("no-such-host.invalid", None),
        ("a..b", None),
    ],
)
def test_address_of_a_name(name: str | None, address: str | None) -> None:
    assert address_of(name) == address


@pytest.mark.parametrize("ip", ["None", "storage-host", "", "10.0.0"])
def test_a_connector_has_an_address_or_none(ip: str) -> None:
    with pytest.raises(ValidationError, match="ip"):
        VolumeConnector(host="h", ip=ip)


ZONES = ("a b", "a\nb", "a\0", "\ud800", "\uffff", "<x/>", "a,b=c", "x" * 16, "../x", "\x1b[31m")


@pytest.mark.parametrize("zone", ZONES)
def test_a_zone_is_the_name_of_an_interface(zone: str) -> None:
    """Python's own addresses take any text there, and it would go on into XML and command lines."""
    address = f"fe80::1%{zone}"
    connector = {"host": "h", "ip": address}
    for model, fields in (
        (FixedIp, {"address": address}),
        (FixedIp, {"address": "fe80::2", "gateway": address}),
        (FixedIp, {"address": "fe80::2", "dns": (address,)}),
        (FixedIpRoute, {"destination": f"fe80::%{zone}/64", "gateway": "fe80::1"}),
        (LibvirtConfig, {"graphics_listen": address}),
        (LibvirtConfig, {"storage_address": address}),
        (VolumeConnector, connector),
    ):
        with pytest.raises(ValidationError):
            model.model_validate(fields)  # type: ignore[attr-defined]


@pytest.mark.parametrize("zone", ["eth0", "br-ex.7", "2"])
def test_zones_that_there_are(zone: str) -> None:
    address = f"fe80::1%{zone}"
    assert str(FixedIp(address=address).address) == address
    assert LibvirtConfig(storage_address=address).storage_address == address
    with pytest.raises(ValidationError, match="zone"):  # libvirt's schema has none
        LibvirtConfig(graphics_listen=address)
    assert VolumeConnector(host="h", ip=address).ip == address


@pytest.mark.parametrize("text", ["a\0", "\ud800"])
def test_credentials_are_text(text: str) -> None:
    """Client libraries would end in the middle of it, or fail in their own words."""
    secret = f"hunter2{text}"
    for fields in (
        {"username": text},
        {"username": "u", "password": secret},
        {"pool_path": f"/{text}"},
        {"pool_path": f"/a{text}/b"},
        {"pool_path": "/a/../b"},
        {"host_root": "/a\0b"},
        {"machine": ""},
    ):
        with pytest.raises(ValidationError) as caught:
            LibvirtConfig.model_validate(fields)
        assert "hunter2" not in f"{caught.value}{caught.value.errors()}{caught.value.json()}"
    with pytest.raises(ValidationError):
        HypervConfig(host="h", username="u", password=secret)


ADDRESSES = ("", "a b", "127.0.0.1:1/x", "127.0.0.1?x=1", "-x", "x'<>", "[", "\u202e", "%2f", "a,b")


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_destinations_address_is_a_hosts(address: str) -> None:
    """Drivers put it into a URL."""
    with pytest.raises(ValidationError):
        Destination(host="h", address=address)
    for good in ("192.0.2.1", "fd00::1", "kvm1.example.org"):
        assert Destination(host="h", address=good).address == good
