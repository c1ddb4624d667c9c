"""Addresses as text: IPv6 in labels and URLs, and what a host's name stands for."""

import pytest
from pydantic import ValidationError

from hvdrivers.addresses import address_of, bracketed
from hvdrivers.hyperv.config import HypervConfig
from hvdrivers.libvirt.config import LibvirtConfig
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
