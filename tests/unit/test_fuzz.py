"""What reads text from outside: a value or a typed error, whatever the text is, and soon."""

from __future__ import annotations

import base64
import contextlib
import json
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from hvdrivers.cli import parse
from hvdrivers.cli.report import BadUsageError
from hvdrivers.cloudinit import build_seed, seed_files
from hvdrivers.contract.errors import HypervisorError, InvalidRequest
from hvdrivers.fake import FakeHost
from hvdrivers.hyperv.config import HypervConfig
from hvdrivers.libvirt.config import LibvirtConfig
from hvdrivers.libvirt.naming import from_alias, label_of
from hvdrivers.libvirt.xml import parse as parse_xml
from hvdrivers.models.base import Name
from hvdrivers.models.cloudinit import CloudInit
from hvdrivers.models.config import DriverConfig
from hvdrivers.models.image import HttpImage, shown_url
from hvdrivers.models.vif import Vif
from hvdrivers.models.volume import RbdVolume, VolumeAttachment, parse_connection_info
from hvdrivers.openstack.vif import parse_nova_vif, parse_os_vif, parse_port
from hvdrivers.plugins import connecting, hosts
from hvdrivers.plugins.connecting import connect
from hvdrivers.vmware.config import VmwareConfig

bounded = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
# Surrogates too: Python makes them of a file name or an argument that is not UTF-8.
TEXT = st.text(st.characters(codec=None), max_size=60) | st.sampled_from(
    [
        *("", " ", "\0", "\uffff", "\ud800", "a" * 5000, "9" * 5000, "1e999", "nan", "inf", "-1"),
        *("../..", "~nouser/x", "[", "[::1", "::", "a..b", "xn--", "...", "%", "%ff", "@", "0"),
    ]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.just(10**400)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def _deep(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"a": value}
    return value


# ------------------------------------------------------------------------------- URLs and hosts


@bounded
@given(TEXT, TEXT, st.sampled_from(["http", "https", "qemu", "qemu+ssh", "fake", "x"]))
def test_urls(host: str, path: str, scheme: str) -> None:
    url = f"{scheme}://{host}/{path}"
    assert isinstance(shown_url(url), str)
    with contextlib.suppress(ValidationError):
        checksum = "sha256:" + "ab" * 32
        image = HttpImage(url=url, format="raw", checksum=checksum)  # type: ignore[arg-type]
        assert image.display_url
    with contextlib.suppress(ValidationError):
        assert LibvirtConfig(uri=url).host_label
    with contextlib.suppress(InvalidRequest):
        LibvirtConfig.from_url(url)


@bounded
@given(TEXT, TEXT, TEXT, st.sampled_from([VmwareConfig, HypervConfig]))
def test_urls_of_servers(host: str, path: str, user: str, model: type[DriverConfig]) -> None:
    for scheme in ("vmware", "hyperv", "esx", "vpx", "x"):
        for url in (f"{scheme}://{host}/{path}", f"{scheme}://{user}:{user}@{host}:{path}/"):
            with contextlib.suppress(InvalidRequest), connecting._no_bare_errors(model, "x"):
                model.from_url(url)
    for given_host in (host, f"{host}:{path}", f"[{host}]"):
        with contextlib.suppress(ValidationError):
            assert model(host=given_host, username=user, password=path).host_label


@bounded
@given(TEXT)
def test_targets_of_connect(text: str) -> None:
    """No host is asked: what is no driver, scheme or host is refused."""
    for target in (text, f"x-none://{text}", f"fake://{text}"):
        with contextlib.suppress(HypervisorError):
            connect(target, config_file=None).close()


@bounded
@given(st.binary(max_size=300) | TEXT.map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_hosts_files_of_bytes(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "hosts.toml"
    for content in (data, b"[hosts.a]\n" + data, b"[hosts.a]\ndriver = 'fake'\nx = " + data):
        file.write_bytes(content)
        with contextlib.suppress(HypervisorError):
            hosts.read_hosts(file)


@bounded
@given(SCALARS, st.sampled_from(["driver", "uri", "password_file", "connect_timeout", "host"]))
def test_values_of_hosts_files(tmp_path: Path, value: object, key: str) -> None:
    file = tmp_path / "hosts.toml"
    try:
        shown = json.dumps(value)
    except ValueError:  # 10**400 has more digits than Python writes
        shown = "9" * 5000
    content = f'[hosts.a]\ndriver = "libvirt"\nuri = "x-none:///"\n{key} = {shown}\n'
    file.write_text(content, "utf-8", errors="surrogatepass")
    with contextlib.suppress(HypervisorError):
        connect("a", config_file=file)


@pytest.mark.parametrize("number", [float("inf"), float("nan"), -1, 0, 1e300])
@pytest.mark.parametrize("model", [LibvirtConfig, VmwareConfig, HypervConfig])
def test_time_spans_that_are_none(model: type[DriverConfig], number: float) -> None:
    """In each field that is one: seconds, or a factor of them."""
    fields = {
        name
        for name, field in model.model_fields.items()
        if float in (field.annotation, *typing.get_args(field.annotation))
    }
    assert {"connect_timeout", "operation_timeout_scale"} <= fields
    for field in fields:
        with pytest.raises(ValidationError) as refused:
            model.model_validate({"host": "a", "username": "b", "password": "c", field: number})
        assert (field,) in {line["loc"] for line in refused.value.errors()}


# ------------------------------------------------------------------------------------ the command


@bounded
@given(TEXT)
def test_values_of_the_command(text: str) -> None:
    with FakeHost("fuzz").connect() as driver:
        readers: list[Callable[[], object]] = [
            lambda: parse.mib("--memory", text),
            lambda: parse.gib("--disk", text),
            lambda: parse.pairs("--metadata", [text, f"{text}=1"]),
            lambda: parse.read_file("--user-data", Path(text)),
            lambda: parse.image(text),
            lambda: parse.image(f"{text}.raw"),
            lambda: parse.image(f"https://{text}/a.raw", checksum=text),
            lambda: parse.image(f"host:{text}", image_format=text),
            lambda: parse.nic(text),
            lambda: parse.nic(f"bridge:{text}"),
            lambda: parse.nic(f"@{text}"),
            lambda: parse.volumes(driver, [text]),
            lambda: parse.volumes(driver, [f"@{text}"]),
        ]
        for read in readers:
            with contextlib.suppress(BadUsageError, HypervisorError):
                read()


@pytest.mark.parametrize("text", ["9" * 400, "9" * 21, "1." + "1" * 400, "٣", "1e9", "-1", "0x1"])
def test_sizes_that_are_none(text: str) -> None:
    for read in (parse.mib, parse.gib):
        with pytest.raises(BadUsageError):
            read("--memory", text)


@bounded
@given(JSON)
def test_json_of_the_command(tmp_path: Path, value: object) -> None:
    file = tmp_path / "value.json"
    try:
        file.write_text(json.dumps(value))
    except ValueError:
        file.write_text("9" * 5000)
    with FakeHost("fuzz").connect() as driver:
        for read in (lambda: parse.nic(f"@{file}"), lambda: parse.volumes(driver, [f"@{file}"])):
            with contextlib.suppress(BadUsageError, HypervisorError):
                read()


@pytest.mark.parametrize("levels", [100, 900, 100_000])
def test_deep_json(tmp_path: Path, levels: int) -> None:
    file = tmp_path / "value.json"
    with FakeHost("fuzz").connect() as driver:
        for text in ("[" * levels + "]" * levels, '{"data":' * levels + "1" + "}" * levels):
            file.write_text(text)
            with pytest.raises(BadUsageError):
                parse.nic(f"@{file}")
            with pytest.raises(BadUsageError):
                parse.volumes(driver, [f"@{file}"])


def test_a_file_without_an_end() -> None:
    with pytest.raises(BadUsageError, match="longer"):
        parse.read_file("--user-data", Path("/dev/zero"))


# -------------------------------------------------------------------------- Cinder, Ceph, Neutron

KINDS = ["iscsi", "rbd", "nfs", "smbfs", "fibre_channel", "nvmeof", "local", "pool", "vmdk", "x"]
KEYS = st.sampled_from(
    [
        *("name", "hosts", "ports", "keyring", "auth_username", "auth_enabled", "target_portal"),
        *("target_iqn", "target_lun", "target_portals", "target_iqns", "qos_specs", "access_mode"),
        *("device_path", "portals", "nqn", "target_wwn", "initiator_target_map", "options"),
        *("config", "export"),
    ]
)
PORTALS = TEXT | st.sampled_from(["10.0.0.1:3260", "[fd00::1]:3260", "fd00::1", "a:b:c", "h:99999"])


@bounded
@given(st.sampled_from(KINDS), st.dictionaries(KEYS, JSON | PORTALS, max_size=6), JSON)
def test_connection_info(kind: str, data: dict[str, object], serial: object) -> None:
    for info in (
        {"driver_volume_type": kind, "serial": serial, "data": data},
        {"driver_volume_type": kind, "serial": "a", "data": data},
        {"driver_volume_type": kind, "volume_id": "a", **data},
    ):
        try:
            volume = parse_connection_info(info)
            VolumeAttachment(volume=volume)
        except ValidationError:
            continue
        assert volume.volume_id
        volume.to_connection_info()
        for name in ("targets", "portals", "monitors", "pool", "image", "key", "unc_path", "qos"):
            getattr(volume, name, None)


@bounded
@given(TEXT, TEXT, st.lists(PORTALS, max_size=3))
def test_ceph(name: str, keyring: str, monitors: list[str]) -> None:
    data = {"name": f"{name}/{name}", "keyring": keyring, "hosts": monitors}
    with contextlib.suppress(ValidationError):
        volume = parse_connection_info({"driver_volume_type": "rbd", "data": data})
        assert isinstance(volume, RbdVolume)
        assert volume.key is None or isinstance(volume.key.get_secret_value(), str)
        assert volume.monitors is not None


PORT_KEYS = st.sampled_from(
    [
        *("id", "binding:vif_type", "binding:vif_details", "binding:profile", "binding:vnic_type"),
        *("network_id", "mac_address", "fixed_ips", "admin_state_up", "type", "details", "network"),
        *("versioned_object.name", "versioned_object.data", "subnets", "port_profile", "address"),
    ]
)
VIF_TYPES = st.sampled_from(["ovs", "bridge", "tap", "hw_veb", "vhostuser", "dvs", "macvtap"])


@bounded
@given(st.dictionaries(PORT_KEYS, JSON, max_size=6), VIF_TYPES, JSON)
def test_ports(port: dict[str, object], kind: str, network: object) -> None:
    readers: list[Callable[[], object]] = [
        lambda: parse_port({"id": "a", **port, "binding:vif_type": kind}),
        lambda: parse_port(port, port),
        lambda: parse_nova_vif({"id": "a", "network": {}, **port, "type": kind}),
        lambda: parse_os_vif(port),
        lambda: parse_os_vif(
            {"versioned_object.name": "VIFOpenVSwitch", "versioned_object.data": port}
        ),
        lambda: parse_os_vif(network),
    ]
    for read in readers:
        with contextlib.suppress(HypervisorError):
            read()
    with contextlib.suppress(ValidationError):
        TypeAdapter(Vif).validate_python({**port, "type": kind})


@pytest.mark.parametrize("levels", [100, 5000])
def test_deep_structures(levels: int) -> None:
    deep = _deep(levels)
    readers: list[Callable[[], object]] = [
        lambda: parse_os_vif({"versioned_object.name": "VIFGeneric", "a": deep}),
        lambda: parse_port({"id": "a", "binding:vif_type": "ovs", "binding:vif_details": deep}),
        lambda: parse_connection_info({"driver_volume_type": "rbd", "data": deep}),
        lambda: CloudInit(network_config={"version": 2, "a": deep}),
        lambda: CloudInit(network_data=deep, datasource="configdrive"),
    ]
    for read in readers:
        with contextlib.suppress(HypervisorError, ValidationError):
            read()


# -------------------------------------------------------------------------------------- cloud-init

UUID_ = UUID("12345678-1234-5678-1234-567812345678")


@bounded
@given(st.dictionaries(TEXT, JSON, max_size=4), st.sampled_from(["nocloud", "configdrive"]), TEXT)
def test_network_configurations(config: dict[str, Any], datasource: Any, name: str) -> None:
    for ethernet in (config, {"match": {"macaddress": "52:54:00:00:00:01"}, **config}):
        whole = {"version": 2, "ethernets": {"eth0": ethernet}}
        try:
            init = CloudInit(network_config=whole, datasource=datasource, meta={"k": name})
        except ValidationError:
            continue
        with contextlib.suppress(InvalidRequest):
            assert seed_files(init, uuid=UUID_, name="x")


@pytest.mark.parametrize("field", ["meta", "network_config", "network_data"])
def test_seed_configurations_have_an_end(field: str) -> None:
    """200 MB of it were written to a CD."""
    huge: list[dict[str, Any]] = [
        {"version": 2, "a": "x" * 300_000},
        {"version": 2, **{f"k{number}": "v" * 100 for number in range(4000)}},
        {"version": 2, "a": [0] * 200_000},
        {"version": 2, "a": "x" * (200 << 20)},
    ]
    if field != "meta":
        huge += [{"version": 2, "a": _deep(40)}, {"version": 2, "a": 10**400}]
    for value in huge:
        with pytest.raises(ValidationError) as refused:
            CloudInit(**{field: value, "datasource": "configdrive"})
        assert "x" * 100 not in str(refused.value.errors())
    kept = {"version": 2, "a": "x" * 200_000} if field != "meta" else {"a": "x" * 60_000}
    init = CloudInit(**{field: kept, "datasource": "configdrive"})
    if field != "network_config":  # a config drive cannot have that one
        assert build_seed(init, uuid=UUID_, name="x")


# ---------------------------------------------------------------------------------------- libvirt


@bounded
@given(TEXT)
def test_names_of_the_host(text: str) -> None:
    label = label_of(f"{text}.{UUID_}", UUID_)
    assert label is not None
    TypeAdapter(Name).validate_python(label)
    with contextlib.suppress(UnicodeEncodeError):
        from_alias("volume", f"ua-volume-{text}")


@bounded
@given(TEXT | st.binary(max_size=60).map(lambda raw: base64.b64encode(raw).decode()))
def test_xml_of_the_host(text: str) -> None:
    for document in (text, f"<a>{text}</a>", f"<a b='{text}'/>"):
        with contextlib.suppress(HypervisorError):
            parse_xml(document)
