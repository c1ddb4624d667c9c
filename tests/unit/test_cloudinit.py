"""Seed CDs, read back by three readers that share no code with the writer: isoinfo, blkid, and (for
the YAML) PyYAML, which is what cloud-init uses."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hvdrivers.cloudinit import _yaml, build_seed, default_hostname, seed_files
from hvdrivers.contract.errors import InvalidRequest
from hvdrivers.models.cloudinit import USER_DATA_LIMIT, CloudInit
from tests.peers.precondition import tool

ID = UUID("6b1c9a3e-0000-4000-8000-000000000001")
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA== me@example"
MAC = "52:54:00:12:34:56"


class Seed:
    """A seed CD in a file, as a guest sees it."""

    def __init__(self, folder: Path, **fields: Any) -> None:
        self.path = folder / "seed.iso"
        self.path.write_bytes(build_seed(CloudInit(**fields), uuid=ID, name="My VM"))

    @property
    def label(self) -> str:
        return (
            tool("/usr/sbin/blkid", "-p", "-o", "value", "-s", "LABEL", self.path).decode().strip()
        )

    def names(self, flavour: str) -> set[str]:
        lines = tool("isoinfo", flavour, "-f", "-i", self.path).decode().splitlines()
        return {line for line in lines if line not in ("/openstack", "/openstack/latest")}

    def read(self, path: str, flavour: str = "-R") -> bytes:
        return tool("isoinfo", flavour, "-x", path, "-i", self.path)


def test_nocloud(tmp_path: Path) -> None:
    network = {"network": {"version": 2, "ethernets": {"eth0": {"dhcp4": True}}}}
    seed = Seed(
        tmp_path,
        hostname="web.example.org",
        user_data="#!/bin/sh\necho grüße\n",
        ssh_keys=[KEY],
        meta={"role": "web"},
        network_config=network,
        admin_password="pass: # word",
    )
    assert seed.label == "cidata"
    names = {"/meta-data", "/user-data", "/network-config", "/vendor-data"}
    assert seed.names("-R") == seed.names("-J") == names
    assert yaml.safe_load(seed.read("/meta-data")) == {
        "instance-id": str(ID),
        "local-hostname": "web.example.org",
        "public-keys": [KEY],
        "meta": {"role": "web"},
    }
    assert seed.read("/user-data", "-J") == "#!/bin/sh\necho grüße\n".encode()
    assert yaml.safe_load(seed.read("/network-config")) == network["network"]
    vendor = seed.read("/vendor-data")
    assert vendor.startswith(b"#cloud-config\n")
    assert yaml.safe_load(vendor) == {"password": "pass: # word", "chpasswd": {"expire": False}}


def test_nothing_but_a_name(tmp_path: Path) -> None:
    seed = Seed(tmp_path)
    assert seed.names("-R") == {"/meta-data", "/user-data"}  # both are needed to be recognised
    assert yaml.safe_load(seed.read("/meta-data"))["local-hostname"] == "my-vm"


def test_configdrive(tmp_path: Path) -> None:
    binary = bytes(range(256)) * (USER_DATA_LIMIT // 256)
    data = {"links": [], "networks": [], "services": []}
    seed = Seed(
        tmp_path,
        datasource="configdrive",
        user_data=binary,
        ssh_keys=[KEY],
        meta={"ключ": "значение"},
        network_data=data,
        admin_password="hunter2",
    )
    assert seed.label == "config-2"
    base = "/openstack/latest/"
    names = {"meta_data.json", "user_data", "network_data.json", "vendor_data.json"}
    assert seed.names("-R") == seed.names("-J") == {base + name for name in names}
    assert json.loads(seed.read(base + "meta_data.json", "-J")) == {
        "uuid": str(ID),
        "name": "My VM",
        "hostname": "my-vm",
        "launch_index": 0,
        "meta": {"ключ": "значение"},
        "public_keys": {"key-0": KEY},
        "admin_pass": "hunter2",
    }
    assert seed.read(base + "user_data") == binary
    assert json.loads(seed.read(base + "network_data.json")) == data
    vendor = json.loads(seed.read(base + "vendor_data.json"))["cloud-init"]
    assert yaml.safe_load(vendor)["password"] == "hunter2"


@pytest.mark.parametrize("datasource", ["nocloud", "configdrive"])
def test_same_input_same_bytes(datasource: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = CloudInit(datasource=datasource, user_data="x", meta={"b": "1", "a": "2"})
    first = build_seed(config, uuid=ID, name="vm")
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 40_000_123)
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    time.tzset()
    try:
        swapped = config.model_copy(update={"meta": {"a": "2", "b": "1"}})
        assert build_seed(swapped, uuid=ID, name="vm") == first
    finally:
        monkeypatch.undo()
        time.tzset()
    assert build_seed(config, uuid=UUID(int=1), name="vm") != first


def test_only_root_reads_it_in_the_guest(tmp_path: Path) -> None:
    listing = tool("isoinfo", "-R", "-l", "-i", Seed(tmp_path, user_data="secret").path).decode()
    files = [line for line in listing.splitlines() if line.startswith("-")]
    assert len(files) == 2
    assert all(line.startswith("-r--------") for line in files)


def test_no_secret_in_a_repr() -> None:
    config = CloudInit(
        user_data="hunter2",
        admin_password="hunter2",
        network_config={"version": 2, "wifis": {"w": {"password": "hunter2"}}},
    )
    assert "hunter2" not in f"{config} {config!r}"
    assert b"hunter2" in seed_files(config, uuid=ID, name="vm")["user-data"]


# ------------------------------------------------------------------------------- host names


@pytest.mark.parametrize(
    "hostname",
    [
        *(
            "",
            "-a",
            "a-",
            "a_b",
            "a b",
            "a..b",
            ".a",
            "a.",
            "ä",
            "a" * 64,
            "a\n",
            "a;b",
            "$(reboot)",
        ),
        *("1.2.3.4", "17", "a.17", ".".join(["a" * 60] * 5)),
    ],
)
def test_bad_hostnames(hostname: str) -> None:
    with pytest.raises(ValidationError):
        CloudInit(hostname=hostname)


@pytest.mark.parametrize("hostname", ["a", "3com", "A-1.b-2.example", "x" * 63])
def test_good_hostnames(hostname: str) -> None:
    assert CloudInit(hostname=hostname).hostname == hostname


@pytest.mark.parametrize(
    ("name", "hostname"),
    [
        ("web_01.example", "web-01-example"),
        ("Größe", "groe"),
        ("日本", "vm-6b1c9a3e"),
        ("--", "vm-6b1c9a3e"),
        ("42", "vm-42"),
        ("a" * 62 + "--b", "a" * 62),
        ("$(reboot)", "reboot"),
    ],
)
def test_default_hostname(name: str, hostname: str) -> None:
    assert default_hostname(name, ID) == hostname


@given(st.text(max_size=128))
def test_default_hostname_is_always_one(name: str) -> None:
    hostname = default_hostname(name, ID)
    assert CloudInit(hostname=hostname).hostname == hostname
    assert "." not in hostname


# ----------------------------------------------------------------------------------- limits


@pytest.mark.parametrize(
    "fields",
    [
        {"user_data": b"x" * (USER_DATA_LIMIT + 1)},
        {"ssh_keys": ["ssh-ed25519"]},
        {"ssh_keys": [KEY + "\nssh-rsa AAAA"]},
        {"ssh_keys": ['command="x" ' + KEY]},
        {"meta": {"": "x"}},
        {"meta": {"a": "b\0"}},
        {"admin_password": "hunter2\nuser: root"},
        {"admin_password": ""},
        {"network_config": {"version": 1, "config": []}},
        {"network_config": {"ethernets": {}}},
        {"network_data": {}},
        {"network_data": {}, "network_config": {"version": 2}, "datasource": "configdrive"},
        {"datasource": "ec2"},
        {"userdata": "x"},
    ],
)
def test_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        CloudInit(**fields)
    assert "hunter2" not in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=100), inner),
    max_leaves=20,
)


@given(st.dictionaries(st.text(max_size=100), JSON))
def test_yaml_reads_what_was_written(value: dict[str, Any]) -> None:
    """PyYAML is not a reader of JSON: line separators, DEL and characters beyond the BMP differ."""
    assert yaml.safe_load(_yaml(value)) == value


# -------------------------------------------------------------------- network_data.json


def translated(ethernet: dict[str, Any], **more: Any) -> dict[str, Any]:
    config = CloudInit(
        datasource="configdrive",
        network_config={"version": 2, "ethernets": {"nic": ethernet}, **more},
    )
    files = seed_files(config, uuid=ID, name="vm")
    result: dict[str, Any] = json.loads(files["openstack/latest/network_data.json"])
    return result


def test_translated_dhcp() -> None:
    assert translated(
        {"match": {"macaddress": MAC}, "dhcp4": True, "dhcp6": True, "mtu": 9000}
    ) == {
        "links": [{"id": "nic", "type": "phy", "ethernet_mac_address": MAC, "mtu": 9000}],
        "networks": [
            {"id": "network0", "link": "nic", "type": "ipv4_dhcp"},
            {"id": "network1", "link": "nic", "type": "ipv6_dhcp"},
        ],
        "services": [],
    }


def test_translated_static() -> None:
    result = translated(
        {
            "match": {"macaddress": MAC},
            "addresses": ["192.0.2.5/24", "2001:db8::5/64"],
            "gateway4": "192.0.2.1",
            "routes": [
                {"to": "default", "via": "2001:db8::1"},
                {"to": "198.51.100.0/24", "via": "192.0.2.9"},
            ],
            "nameservers": {"addresses": ["192.0.2.53"]},
        }
    )
    four, six = result["networks"]
    assert (four["type"], four["ip_address"], four["netmask"]) == (
        "ipv4",
        "192.0.2.5",
        "255.255.255.0",
    )
    assert four["routes"] == [
        {"network": "198.51.100.0", "netmask": "255.255.255.0", "gateway": "192.0.2.9"},
        {"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "192.0.2.1"},
    ]
    assert six["routes"] == [{"network": "::", "netmask": "::", "gateway": "2001:db8::1"}]
    assert result["services"] == [{"type": "dns", "address": "192.0.2.53"}]


@pytest.mark.parametrize(
    "ethernet",
    [
        {"dhcp4": True},  # which one is it?
        {"match": {"name": "en*"}},
        {"match": {"macaddress": MAC}, "wakeonlan": True},
        {"match": {"macaddress": MAC}, "addresses": ["nonsense"]},
        {"match": {"macaddress": MAC}, "addresses": "192.0.2.5/24"},
        {"match": {"macaddress": MAC}, "gateway4": "192.0.2.1"},
        {"match": {"macaddress": MAC}, "nameservers": {"search": ["x"]}},
        {"match": {"macaddress": MAC}, "routes": [{"to": "default", "via": "x"}]},
        {"match": {"macaddress": MAC}, "routes": [{"to": "::/0", "via": "192.0.2.1"}]},
        "nonsense",
    ],
)
def test_not_translatable(ethernet: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        translated(ethernet)
    assert "network_data=" in (caught.value.hint or "")
    with pytest.raises(InvalidRequest):
        translated({"match": {"macaddress": MAC}}, bonds={"bond0": {}})


def test_a_key_may_end_as_its_file_does() -> None:
    line = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJx1 me"
    assert CloudInit(ssh_keys=[f"{line}\n"]).ssh_keys == (line,)
    with pytest.raises(ValidationError):
        CloudInit(ssh_keys=[f"{line}\n{line}"])
