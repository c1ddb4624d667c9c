"""Cinder's connection_info, read as it comes."""

from __future__ import annotations

import copy
import json
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from hvdrivers.models.volume import (
    VOLUME_TYPES,
    FibreChannelVolume,
    IscsiVolume,
    LocalVolume,
    NfsVolume,
    NvmeofVolume,
    PoolVolume,
    RbdVolume,
    SmbfsVolume,
    VmdkVolume,
    Volume,
    parse_connection_info,
)
from hvdrivers.models.volume._text import join_portal, split_portal

from .shapes import cinder

SECRET = "hunter2"
EVERY_SHAPE = pytest.mark.parametrize("shape", cinder.ALL.values(), ids=cinder.ALL.keys())


def changed(shape, **data):
    result = copy.deepcopy(shape)
    result["data"].update(data)
    return result


@EVERY_SHAPE
def test_every_recorded_shape_is_read_both_ways(shape):
    before = copy.deepcopy(shape)
    volume = parse_connection_info(shape)
    assert volume == TypeAdapter(Volume).validate_python(shape)
    assert shape == before, "the caller's dictionary was changed"
    assert isinstance(volume, VOLUME_TYPES)
    assert volume.volume_id == cinder.UUID


@EVERY_SHAPE
def test_round_trips(shape):
    volume = parse_connection_info(shape)
    assert parse_connection_info(volume.to_connection_info()) == volume
    assert type(volume).model_validate(volume.model_dump()) == volume
    assert TypeAdapter(Volume).validate_python(volume) is volume


@EVERY_SHAPE
def test_a_field_nobody_knows_is_refused_and_can_be_ignored_by_name(shape):
    odd = changed(shape, target_protal="x")
    with pytest.raises(ValidationError, match="target_protal"):
        parse_connection_info(odd)
    assert parse_connection_info(odd, ignore={"target_protal"}) == parse_connection_info(shape)
    with pytest.raises(ValidationError, match="seriall"):
        parse_connection_info({**shape, "seriall": "x"})


@EVERY_SHAPE
def test_secrets_show_nowhere(shape):
    volume = parse_connection_info(shape)
    for text in (repr(volume), str(volume), volume.model_dump_json(), str(volume.model_dump())):
        assert SECRET not in text
    for broken in (
        {**shape, "driver_volume_type": "lightos"},
        {**shape, "driver_volume_type": 7},
        changed(shape, target_portal=["x"], volume_id=7, export=7, access_mode="yes"),
        changed(shape, auth_passwd=SECRET, Keyring=SECRET, password=SECRET),
    ):
        for parse in (
            parse_connection_info,
            TypeAdapter(Volume).validate_python,
            type(volume).model_validate,
        ):
            with pytest.raises(ValidationError) as caught:
                parse(broken)
            errors = caught.value.errors()
            shown = (
                "".join(traceback.format_exception(caught.value))
                + str(errors)
                + caught.value.json()
            )
            assert SECRET not in shown


def test_what_was_masked_is_not_taken_for_a_password():
    text = parse_connection_info(cinder.ISCSI).model_dump_json()
    with pytest.raises(ValidationError, match="is masked"):
        TypeAdapter(Volume).validate_json(text)


@EVERY_SHAPE
def test_json_with_its_secrets_is_read(shape):
    text = json.dumps(shape)
    assert TypeAdapter(Volume).validate_json(text) == parse_connection_info(shape)


def test_an_unknown_type_is_answered_with_the_known_ones():
    with pytest.raises(ValidationError, match=r"'iscsi'.*'pool'") as caught:
        parse_connection_info({"driver_volume_type": "lightos", "data": {}})
    assert str(caught.value).startswith("1 validation error for connection_info\n")


def test_the_attachments_api_is_flat():
    volume = parse_connection_info(cinder.ATTACHMENT_FLAT)
    assert isinstance(volume, IscsiVolume)
    assert volume.attachment_id == "3b4db356-253d-4fab-bfa0-e3626c0b8405"
    assert volume.data.enforce_multipath
    assert volume.targets == parse_connection_info(cinder.ISCSI).targets


def test_what_nova_makes_of_an_attachment():
    volume = parse_connection_info(cinder.NOVA_TRANSLATED)
    assert isinstance(volume, NfsVolume)
    assert volume.volume_id == cinder.UUID
    assert volume.multiattach
    assert volume.mount_point_base == "/var/lib/cinder/mnt"


class TestIdentity:
    def test_serial_wins(self):
        # after swap_volume the Cinder driver's data names the new volume, Nova's serial the old
        assert parse_connection_info({**cinder.ISCSI, "serial": "kept"}).volume_id == "kept"

    @pytest.mark.parametrize(
        ("volume", "identity"),
        [
            (PoolVolume(data={"name": "data1"}), "data1"),
            (PoolVolume(data={"pool": "fast", "name": "data1"}), "fast/data1"),
            (PoolVolume(serial="v1", data={"pool": "fast", "name": "data1"}), "v1"),
            (RbdVolume(data={"name": "volumes/one"}), "volumes/one"),
            (NfsVolume(data={"export": "nas:/a", "name": "one"}), "nas:/a/one"),
        ],
    )
    def test_what_has_a_name_of_its_own_needs_no_serial(self, volume, identity):
        assert volume.volume_id == identity

    @pytest.mark.parametrize("name", ["local", "nvmeof-v1", "fc-pure"])
    def test_what_has_none_says_so(self, name):
        shape = {k: v for k, v in cinder.ALL[name].items() if k != "serial"}
        with pytest.raises(ValidationError, match="no identity: set serial"):
            parse_connection_info(shape)


class TestIscsi:
    def test_single(self):
        volume = parse_connection_info(cinder.ISCSI)
        assert isinstance(volume, IscsiVolume)
        (target,) = volume.targets
        assert (target.host, target.port, target.lun) == ("192.0.2.10", 3260, 1)
        assert target.portal == "192.0.2.10:3260"
        assert volume.chap is not None
        assert volume.chap.username == "stack"
        assert volume.chap.password.get_secret_value() == "hunter2-chap"
        assert volume.discovery_chap is None
        assert (volume.data.logical_block_size, volume.data.physical_block_size) == (512, 4096)

    def test_paths_are_merged_without_doubles(self):
        volume = parse_connection_info(cinder.ISCSI_MULTIPATH)
        assert [(t.portal, t.iqn[-3:], t.lun) for t in volume.targets] == [
            ("192.0.2.10:3260", "one", 1),
            ("[2001:db8::11]:3261", "two", 2),
        ]
        assert volume.chap is None

    def test_only_plurals(self):
        assert len(parse_connection_info(cinder.ISCSI_TOYOU).targets) == 1

    def test_one_lun_for_all(self):
        shape = copy.deepcopy(cinder.ISCSI_MULTIPATH)
        del shape["data"]["target_luns"]
        assert [t.lun for t in parse_connection_info(shape).targets] == [1, 1]

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            ({"target_portal": "fd00::1:3260"}, "needs brackets"),
            ({"target_portal": "10.0.0.1:99999"}, "port outside"),
            ({"target_portal": "10.0.0.256:3260"}, "not an IP address"),
            ({"target_portal": "a b:3260"}, "neither an IP address nor"),
            ({"target_iqn": "x"}, "pattern"),
            ({"target_iqn": "iqn.2010-10.org:a\n-o evil"}, "control character"),
            ({"target_iqn": "iqn.2010-10.org:a b"}, "white space"),
            ({"target_iqn": None}, "belong together"),
            ({"target_portal": None, "target_iqn": None}, "no target"),
            ({"target_lun": None}, "target_lun is missing"),
            ({"target_lun": -1}, "greater than or equal"),
            ({"auth_password": None}, "needs auth_username and auth_password"),
            ({"auth_method": "KRB5"}, "'CHAP' or 'NONE'"),
            ({"target_portals": ["h:1"], "target_iqns": ["iqn.a", "iqn.b"]}, "same length"),
        ],
    )
    def test_wrong_shapes(self, data, message):
        with pytest.raises(ValidationError, match=message):
            parse_connection_info(changed(cinder.ISCSI, **data))

    def test_portal_group_is_dropped_and_port_defaults(self):
        assert split_portal("10.0.0.1:3260,1", 3260) == ("10.0.0.1", 3260)
        assert split_portal("[fe80::1%eth0]", 3260) == ("fe80::1%eth0", 3260)

    @given(st.ip_addresses(), st.integers(1, 65535))
    def test_portals_survive(self, address, port):
        text = join_portal(str(address), port)
        assert split_portal(text, 1) == (str(address), port)

    @given(st.text(max_size=40))
    def test_no_text_breaks_the_reader(self, text):
        try:
            host, port = split_portal(text, 3260)
        except ValueError:
            return
        assert split_portal(join_portal(host, port), 1) == (host, port)


def test_rbd():
    volume = parse_connection_info(cinder.RBD)
    assert isinstance(volume, RbdVolume)
    assert [m.portal for m in volume.monitors] == ["172.16.128.101:6789", "[2001:db8::21]:6790"]
    assert (volume.pool, volume.namespace) == ("volumes", None)
    assert volume.image == f"volume-{cinder.UUID}"
    assert volume.key is not None
    assert volume.key.get_secret_value() == "AQBhunter2keyring=="


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": "volume-1"}, "pool/image"),
        ({"name": "pool//image"}, "pool/image"),
        ({"ports": ["6789"]}, "same length"),
        ({"auth_username": None}, "needs auth_username"),
    ],
)
def test_rbd_wrong_shapes(data, message):
    with pytest.raises(ValidationError, match=message):
        parse_connection_info(changed(cinder.RBD, **data))


def test_nfs():
    volume = parse_connection_info(cinder.NFS)
    assert isinstance(volume, NfsVolume)
    assert (volume.host, volume.path) == ("nas.example.org", "/srv/cinder")
    assert volume.data.format == "qcow2"
    six = parse_connection_info(changed(cinder.NFS, export="[2001:DB8::5]:/a:/b", format=None))
    assert (six.host, six.path) == ("2001:db8::5", "/a:/b")
    assert six.data.format == "raw", "never left open to guessing"


def test_smbfs():
    volume = parse_connection_info(cinder.SMBFS)
    assert isinstance(volume, SmbfsVolume)
    assert volume.unc_path == rf"\\192.0.2.30\share\volume-{cinder.UUID}.vhdx"
    assert volume.username == "LAB\\cinder"
    assert volume.password is not None
    assert volume.password.get_secret_value() == "hunter2-smb"
    assert parse_connection_info(changed(cinder.SMBFS, export=r"\\192.0.2.30\share")) == volume


def test_fibre_channel():
    volume = parse_connection_info(cinder.FC_PURE)
    assert isinstance(volume, FibreChannelVolume)
    assert volume.wwns == ("5001500150015081", "5001500150015082")
    assert [t.lun for t in volume.targets] == [1, 1]
    assert volume.data.initiator_target_map == {
        "50014380186b3f65": ("5001500150015081", "5001500150015082")
    }
    (huawei,) = parse_connection_info(cinder.FC_HUAWEI).targets
    assert (huawei.wwn, huawei.lun) == ("2000643e8c4c5f66", 7)


def test_fibre_channel_known_only_to_zoning():
    # cinder volume/drivers/ibm/ibm_storage/xiv_proxy.py
    shape = changed(cinder.FC_PURE, target_wwn=[], target_wwns=None, target_luns=None)
    assert len(parse_connection_info(shape).targets) == 2
    with pytest.raises(ValidationError, match="no target"):
        parse_connection_info(changed(shape, initiator_target_map={}))
    with pytest.raises(ValidationError, match="not a WWN"):
        parse_connection_info(changed(shape, target_wwn="50015001500150"))
    with pytest.raises(ValidationError, match="as many as there are"):
        parse_connection_info(changed(cinder.FC_PURE, target_luns=[1, 2, 3]))


def test_nvmeof_formats_become_one():
    one = parse_connection_info(cinder.NVMEOF_V1)
    two = parse_connection_info(cinder.NVMEOF_V2)
    assert isinstance(one, NvmeofVolume)
    assert [(p.portal, p.transport) for p in one.portals] == [("192.0.2.20:4420", "rdma")]
    assert [(p.portal, p.transport) for p in two.portals] == [
        ("192.0.2.20:4420", "rdma"),
        ("[2001:db8::20]:4420", "tcp"),
    ]
    assert one.targets[0].ns_id == two.targets[0].ns_id == 10
    assert not one.replicated
    copies = parse_connection_info(cinder.NVMEOF_REPLICATED)
    assert copies.replicated
    assert [t.nqn[-1] for t in copies.targets] == ["a", "b"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"nqn": None}, "one format"),
        ({"target_nqn": "nqn.b", "portals": [("h", 1, "tcp")]}, "one format"),
        ({"transport_type": "fc"}, "'tcp' or 'rdma'"),
        ({"nqn": "x"}, "pattern"),
    ],
)
def test_nvmeof_wrong_shapes(data, message):
    with pytest.raises(ValidationError, match=message):
        parse_connection_info(changed(cinder.NVMEOF_V1, **data))


def test_nvmeof_portal_must_be_a_triple():
    with pytest.raises(ValidationError, match=r"\(address, port, transport\)"):
        parse_connection_info(changed(cinder.NVMEOF_V2, portals=[("192.0.2.1", 4420)]))


def test_vmdk():
    volume = parse_connection_info(cinder.VMDK)
    assert isinstance(volume, VmdkVolume)
    assert volume.shadow_vm == "vm-42"
    assert volume.data.config is not None
    assert volume.to_connection_info()["data"]["config"]["vmware_host_password"] == "hunter2-vc"


HOSTILE = [
    "<disk/>&amp;\"'",
    "$(Remove-Item C:) `;| & '",
    "a$b`c;d|e",
    "--force",
    "ünï©ode-名前",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_metacharacters_stay_data(name):
    plain = name.replace("/", "")
    assert PoolVolume(data={"pool": plain, "name": plain}).data.name == plain
    assert RbdVolume(data={"name": f"{plain}/{plain}"}).image == plain
    assert NfsVolume(serial="s", data={"export": f"nas:/{name}", "name": plain}).path == f"/{name}"


@pytest.mark.parametrize("name", ["../etc/shadow", "a\\b", "..", ".", "", "a\nb", "a\x00b", " a"])
def test_names_that_are_no_names(name):
    with pytest.raises(ValidationError):
        PoolVolume(data={"name": name})


@pytest.mark.parametrize("path", ["dev/sdb", "/dev/../etc/shadow", "/dev/sd\x1bb", "/"])
def test_paths_that_are_no_paths(path):
    with pytest.raises(ValidationError):
        LocalVolume(serial="s", data={"device_path": path})


def test_wrong_qos_specs_fail_at_once():
    specs = {"total_iops_sec": "5", "read_iops_sec": 5}
    with pytest.raises(ValidationError, match="total_iops_sec excludes"):
        parse_connection_info(changed(cinder.ISCSI, qos_specs=specs))


@given(
    st.dictionaries(
        st.sampled_from(
            ["driver_volume_type", "data", "serial", "volume_id", "id", "x", "connector"]
        ),
        st.one_of(st.none(), st.text(), st.integers(), st.dictionaries(st.text(), st.text())),
    )
)
def test_rubbish_is_refused_in_order(shape):
    with pytest.raises(ValidationError):
        parse_connection_info(shape)


def test_empty_text_is_no_value() -> None:
    """Cinder drivers fill what they do not use with empty text."""
    volume = parse_connection_info(
        {
            "driver_volume_type": "iscsi",
            "serial": "a",
            "attachment_id": "",
            "data": {
                "target_portal": "10.0.0.1:3260",
                "target_iqn": "iqn.2010-10.org.openstack:a",
                "target_lun": 1,
                "auth_method": "",
                "auth_username": "",
                "auth_password": "",
                "access_mode": "",
                "qos_specs": {"read_iops_sec": "", "write_iops_sec": "0"},
            },
        }
    )
    assert isinstance(volume, IscsiVolume)
    assert volume.data.auth_method is None
    assert volume.chap is None
    assert volume.qos is None
    assert volume.attachment_id is None
    with pytest.raises(ValidationError, match="Field required"):
        parse_connection_info({"driver_volume_type": "rbd", "serial": "", "data": {"name": ""}})


@pytest.mark.parametrize(
    "keyring",
    [
        "[client.a]\n\tkey = AQBk==\n\tcaps mon = x",
        "key=AQBk==",
        "  AQBk==\n",
        "\n" * 30_000 + "key = AQBk==" + " " * 30_000,
    ],
)
def test_ceph_keys(keyring: str) -> None:
    data = {"name": "p/i", "keyring": keyring}
    volume = parse_connection_info({"driver_volume_type": "rbd", "data": data})
    assert isinstance(volume, RbdVolume)
    assert volume.key is not None
    assert volume.key.get_secret_value() == "AQBk=="
    with pytest.raises(ValidationError, match="longer"):
        parse_connection_info(
            {"driver_volume_type": "rbd", "data": {"name": "p/i", "keyring": "k" * 65537}}
        )


@pytest.mark.parametrize("name", ["iqn.2020-01.org.x/a", "iqn.2020-01.org.x:a,1", "iqn.a b"])
def test_what_no_iscsi_name_has(name: str) -> None:
    """libvirt and iscsiadm take what is behind a slash or a comma for something else."""
    data = {"target_portal": "192.0.2.1:3260", "target_iqn": name, "target_lun": 1}
    with pytest.raises(ValidationError, match="contains"):
        IscsiVolume.model_validate({"serial": "v", "data": data})


def test_a_connection_info_that_is_nested_too_deeply() -> None:
    deep: dict[str, object] = {}
    for _ in range(5000):
        deep = {"a": deep}
    with pytest.raises(ValidationError):
        parse_connection_info({"driver_volume_type": "iscsi", "data": deep})
