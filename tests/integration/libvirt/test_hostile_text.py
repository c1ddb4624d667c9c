"""Every text that ends in libvirt's XML: it is refused, or comes back the same after the daemon has
started anew and read its own files. And what others have made unreadable stops nothing."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4
from xml.etree import ElementTree as ET

import pytest
from pydantic import BaseModel, ValidationError

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.guard import guarded
from hvdrivers.libvirt.remote_volumes import secret_name
from hvdrivers.models.guest import Share
from hvdrivers.models.instance import InstanceInfo, InstanceSpec
from hvdrivers.models.vif import (
    BridgeVif,
    HostdevVif,
    MacvtapVif,
    NetworkVif,
    OvsVif,
    TapVif,
    UserVif,
    VdpaVif,
    VhostUserVif,
    Vif,
)
from hvdrivers.models.volume import (
    IscsiVolume,
    LocalVolume,
    NfsVolume,
    PoolVolume,
    RbdVolume,
    Volume,
    VolumeAttachment,
    VolumeSpec,
)
from hvdrivers.models.volume.host import LocalData, PoolData
from hvdrivers.models.volume.iscsi import IscsiData
from hvdrivers.models.volume.network import NfsData, RbdData
from tests.integration.libvirt.machines import Host, Machine, local
from tests.peers.dhcp import run_ip
from tests.peers.fixtures import started
from tests.peers.libvirtd import LibvirtPeer

TEXTS = ("a&<>'\"b", "x' y='1'><", "]]>&lt;&#0;", "ü\u202e🦆&")
"""Short: a network interface has 15 bytes."""
NO_XML = ("a\uffff", "\ufffeb", "a\U0001ffff", "a\x08")

Read = Callable[[Host], object]
Define = Callable[[Host, str], Read]


@pytest.fixture(scope="module")
def own(guest_image: Path) -> Iterator[Host]:
    """A host of this module's own: its daemon is restarted, and machines are spoilt."""
    with started(LibvirtPeer) as peer:
        host = Host(peer, guest_image)
        # emulated machines are refused such a NIC; here none starts
        lacking = {**host.raw.narrowed()}
        lacking.pop(Capability.VIF_VHOSTUSER, None)
        host.raw.networks.refuse_emulated = lambda *_: None  # type: ignore[method-assign]
        host.raw.facts.narrowed = lambda: lacking  # type: ignore[method-assign]
        host.driver = guarded(host.raw)
        yield host
        host.close()


def _machine(host: Host, **changes: Any) -> Machine:
    return host.made(host.empty(start=False, **changes))


def _wired(host: Host, vif: Vif) -> Machine:
    """A machine that gets a NIC: libvirt checks a whole definition against its schema, and a single
    device against nothing."""
    machine = _machine(host)
    host.driver.plug_vif(machine.uuid, vif)
    return machine


def _attached(host: Host, volume: Volume) -> Machine:
    machine = _machine(host)
    host.driver.attach_volume(machine.uuid, VolumeAttachment(volume=volume))
    return machine


def _info(machine: Machine, what: Callable[[InstanceInfo], object]) -> Read:
    return lambda host: what(host.driver.get_instance(machine.uuid))


def _xml(machine: Machine, path: str, name: str) -> Read:
    def read(host: Host) -> object:
        found = machine.xml(inactive=True).find(path)
        return found.get(name) if found is not None else None

    return read


def _bridge(host: Host, name: str) -> None:
    """A bridge of the machine, for as long as the peer lives."""
    with suppress(UnicodeEncodeError, ValueError):
        run_ip("link", "add", name, "type", "bridge")
        host.peer.run_at_end("ip", "link", "delete", name)


def _name(host: Host, text: str) -> Read:
    return _info(_machine(host, name=text), lambda info: info.name)


def _renamed(host: Host, text: str) -> Read:
    machine = _machine(host)
    host.driver.rename(machine.uuid, text)
    return _info(machine, lambda info: info.name)


def _metadata(host: Host, text: str) -> Read:
    machine = _machine(host, metadata={"key": text})
    return _info(machine, lambda info: info.metadata["key"])


def _metadata_key(host: Host, text: str) -> Read:
    machine = _machine(host, metadata={text: "value"})
    return _info(machine, lambda info: next(iter(info.metadata)))


def _file(host: Host) -> str:
    path = f"{host.peer.images}/{uuid4().hex}.img"
    host.peer.path(path).write_bytes(bytes(1 << 20))
    return path


def _volume_serial(host: Host, text: str) -> Read:
    machine = _attached(host, local(_file(host), text))
    return _info(machine, lambda info: info.volumes[0].volume_id)


def _volume_path(host: Host, text: str) -> Read:
    path = f"{host.peer.images}/{text.replace('/', '-')}"
    volume = local(path, "v")
    host.peer.path(path).write_bytes(bytes(1 << 20))
    machine = _attached(host, volume)
    read = _xml(machine, "devices/disk[serial='v']/source", "file")
    return lambda host: text if read(host) == path else read(host)


def _volume_name(host: Host, text: str) -> Read:
    volume = host.driver.create_volume(VolumeSpec(name=text, size_bytes=1 << 20))
    machine = _attached(host, volume)
    return _info(machine, lambda info: info.volumes[0].volume_id)


def _pool_name(host: Host, text: str) -> Read:
    spec = VolumeSpec(pool=text, size_bytes=1 << 20)
    folder = f"{host.peer.images}/{uuid4().hex}"
    host.peer.path(folder).mkdir()
    root = ET.Element("pool", type="dir")
    ET.SubElement(root, "name").text = text
    ET.SubElement(ET.SubElement(root, "target"), "path").text = folder
    path = host.peer.root / "pool.xml"  # virsh pool-define-as does not escape the name
    path.write_bytes(ET.tostring(root))
    host.peer.virsh("pool-define", str(path))
    host.peer.virsh("pool-start", text)
    host.peer.virsh("pool-autostart", text)
    made = host.driver.create_volume(spec)
    assert isinstance(made, PoolVolume)
    return lambda host: next(
        each.pool for each in host.driver.list_volumes() if each.volume_id == made.volume_id
    )


def _vif_id(host: Host, text: str) -> Read:
    machine = _wired(host, TapVif(id=text))
    return _info(machine, lambda info: info.vifs[0].id)


def _make_network(host: Host, name: str) -> None:
    path = host.peer.root / "network.xml"
    root = ET.Element("network")
    ET.SubElement(root, "name").text = name
    ET.SubElement(root, "forward", mode="bridge")
    ET.SubElement(root, "bridge", name="none0")
    path.write_bytes(ET.tostring(root))
    host.peer.virsh("net-define", str(path))
    host.peer.virsh("net-start", name)
    host.peer.virsh("net-autostart", name)


def _network(host: Host, text: str) -> Read:
    vif = NetworkVif(id="n", network=text)
    _make_network(host, text)
    return _xml(_wired(host, vif), "devices/interface/source", "network")


def _portgroup(host: Host, text: str) -> Read:
    vif = NetworkVif(id="n", network=f"n{uuid4().hex[:8]}", portgroup=text)
    _make_network(host, vif.network)
    return _xml(_wired(host, vif), "devices/interface/source", "portgroup")


def _bridge_name(host: Host, text: str) -> Read:
    vif = BridgeVif(id="n", bridge=text)
    _bridge(host, text)
    return _xml(_wired(host, vif), "devices/interface/source", "bridge")


def _device(host: Host, text: str) -> Read:
    machine = _wired(host, TapVif(id="n", device=text))
    return _xml(machine, "devices/interface/target", "dev")


def _profile(host: Host, text: str) -> Read:
    _bridge(host, "hvtext0")
    machine = _wired(host, OvsVif(id="n", bridge="hvtext0", profile_id=text))
    return _xml(machine, "devices/interface/virtualport/parameters", "profileid")


def _interface_id(host: Host, text: str) -> Read:
    _bridge(host, "hvtext0")
    machine = _wired(host, OvsVif(id="n", bridge="hvtext0", interface_id=text))
    return _xml(machine, "devices/interface/virtualport/parameters", "interfaceid")


def _socket(host: Host, text: str) -> Read:
    folder = "/var/lib/libvirt/qemu"
    name = text.replace("/", "-")
    machine = _wired(host, VhostUserVif(id="n", socket=f"{folder}/{name}", mode="server"))
    read = _xml(machine, "devices/interface/source", "path")
    return lambda host: text if read(host) == f"{folder}/{name}" else read(host)


def _share(host: Host, text: str) -> Read:
    folder = f"{host.peer.images}/{uuid4().hex}"
    share = Share(tag=text, path=folder)
    host.peer.path(folder).mkdir()
    machine = _machine(host)
    host.driver.attach_share(machine.uuid, share)
    return _xml(machine, "devices/filesystem/target", "dir")


def _directory(host: Host, text: str) -> Read:
    name = text.replace("/", "-")
    folder = f"{host.peer.images}/{uuid4().hex}"
    share = Share(tag="t", path=f"{folder}/{name}")
    host.peer.path(share.path).mkdir(parents=True)
    machine = _machine(host)
    host.driver.attach_share(machine.uuid, share)
    read = _xml(machine, "devices/filesystem/source", "dir")
    return lambda host: text if read(host) == share.path else read(host)


def _snapshot(host: Host, text: str) -> Read:
    machine = _machine(host)
    host.driver.create_snapshot(machine.uuid, text)
    return lambda host: host.driver.list_snapshots(machine.uuid)[0].name


def _ceph(host: Host, **data: object) -> Machine:
    made = {"name": "p/i", "hosts": ["192.0.2.1"], "ports": ["6789"], **data}
    return _attached(host, RbdVolume.model_validate({"serial": "v", "data": made}))


def _ceph_image(host: Host, text: str) -> Read:
    read = _xml(_ceph(host, name=f"p/{text}"), _SOURCE, "name")
    return lambda host: str(read(host)).removeprefix("p/")


def _ceph_user(host: Host, text: str) -> Read:
    """With a secret, whose name has the volume's id in it."""
    key = "AQBSdFhcGgUIGhAA3bQkVMkkVtCxTkiQDBF4nQ=="
    machine = _ceph(host, auth_enabled=True, auth_username=text, keyring=key)
    return _xml(machine, f"{_SOURCE}/auth", "username")


def _ceph_monitor(host: Host, text: str) -> Read:
    return _xml(_ceph(host, hosts=[text]), f"{_SOURCE}/host", "name")


def _ceph_secret(host: Host, text: str) -> Read:
    machine = _ceph(host, auth_enabled=True, auth_username="u", secret_uuid=text)
    return _xml(machine, f"{_SOURCE}/auth/secret", "uuid")


def _secret(host: Host, text: str) -> Read:
    key = "AQBSdFhcGgUIGhAA3bQkVMkkVtCxTkiQDBF4nQ=="
    data = {"name": "p/i", "hosts": ["192.0.2.1"], "ports": ["6789"], "auth_enabled": True}
    volume = {"serial": text, "data": {**data, "auth_username": "u", "keyring": key}}
    machine = _attached(host, RbdVolume.model_validate(volume))
    name = secret_name(machine.uuid, text)

    def read(host: Host) -> object:
        found = (each.usageID() for each in host.raw.connection.remote.listAllSecrets(0))
        return text if name in found else None

    return read


def _nfs(host: Host, **data: object) -> Read:
    made = {"export": "192.0.2.9:/x", "name": "v", **data}
    volume = NfsVolume.model_validate({"serial": "v", "data": made})
    return _xml(_attached(host, volume), _SOURCE, "name")


def _nfs_export(host: Host, text: str) -> Read:
    read = _nfs(host, export=f"192.0.2.9:/{text.replace('/', '-')}")
    return lambda host: text if read(host) == f"/{text.replace('/', '-')}/v" else read(host)


def _nfs_name(host: Host, text: str) -> Read:
    read = _nfs(host, name=text)
    return lambda host: str(read(host)).removeprefix("/x/")


def _iscsi(host: Host, path: str, name: str, **data: object) -> Read:
    target = {"target_portal": "192.0.2.1:3260", "target_iqn": "iqn.2020-01.org.x:a"}
    made = {"serial": "v", "data": {**target, "target_lun": 1, **data}}
    return _xml(_attached(host, IscsiVolume.model_validate(made)), f"{_SOURCE}{path}", name)


def _portal(host: Host, text: str) -> Read:
    return _iscsi(host, "/host", "name", target_portal=f"{text}:3260")


def _target(host: Host, text: str) -> Read:
    read = _iscsi(host, "", "name", target_iqn=text)
    return lambda host: str(read(host)).removesuffix("/1")


def _chap_user(host: Host, text: str) -> Read:
    chap = {"auth_method": "CHAP", "auth_username": text, "auth_password": "password-1"}
    return _iscsi(host, "/auth", "username", **chap)


_SOURCE = "devices/disk[serial='v']/source"
FIELDS: dict[str, Define] = {
    "InstanceSpec.name": _name,
    "InstanceSpec.name, by rename()": _renamed,
    "InstanceSpec.metadata": _metadata,
    "InstanceSpec.metadata, a key": _metadata_key,
    "VolumeBase.serial": _volume_serial,
    "LocalData.device_path": _volume_path,
    "VolumeSpec.name": _volume_name,
    "VolumeSpec.pool": _pool_name,
    "VifBase.id": _vif_id,
    "NetworkVif.network": _network,
    "NetworkVif.portgroup": _portgroup,
    "BridgeVif.bridge": _bridge_name,
    "TapVif.device": _device,
    "OvsVif.profile_id": _profile,
    "OvsVif.interface_id": _interface_id,
    "VhostUserVif.socket": _socket,
    "Share.tag": _share,
    "Share.path": _directory,
    "Snapshot.name": _snapshot,
    "RbdData.name": _ceph_image,
    "RbdData.auth_username": _ceph_user,
    "RbdData.hosts": _ceph_monitor,
    "RbdData.secret_uuid": _ceph_secret,
    "VolumeBase.serial, of a secret": _secret,
    "NfsData.export": _nfs_export,
    "NfsData.name": _nfs_name,
    "IscsiData.target_portal": _portal,
    "IscsiData.target_iqn": _target,
    "IscsiData.auth_username": _chap_user,
}
MAY_REFUSE = {"OvsVif.profile_id", "OvsVif.interface_id", "IscsiData.target_iqn"}
MAY_REFUSE |= {"IscsiData.target_portal", "RbdData.hosts", "RbdData.secret_uuid"}
"""Libvirt itself, or the standard, takes only some characters there."""
KINDS = ("Network", "Bridge", "Ovs", "Tap", "User", "VhostUser", "Vdpa", "Macvtap", "Hostdev")
REMOTE = ("Rbd", "Nfs", "Iscsi")
ELSEWHERE = {
    "PoolData.name": "VolumeSpec.name",
    "PoolData.pool": "VolumeSpec.pool",
    "OvsVif.bridge": "BridgeVif.bridge",
    "OvsVif.device": "TapVif.device",
    "BridgeVif.device": "TapVif.device",
    "IscsiData.target_iqns": "IscsiData.target_iqn",
    "IscsiData.target_portals": "IscsiData.target_portal",
    **{f"{kind}Vif.id": "VifBase.id" for kind in KINDS},
    **{f"{kind}Volume.serial": "VolumeBase.serial" for kind in ("Local", "Pool", *REMOTE)},
}
"""Fields that are written in the same place as another one, which is tried."""
NOT_WRITTEN = {
    "VolumeAttachment.device",  # a hint that this driver does not follow
    "VolumeAttachment.tag",
    *(f"{kind}Vif.{name}" for kind in KINDS for name in ("type", "tag")),
    *(
        f"{kind}Volume.{name}"
        for kind in ("Local", "Pool", *REMOTE)
        for name in ("driver_volume_type", "attachment_id")
    ),
    # Cinder's, for os-brick
    *(
        f"{kind}Data.{name}"
        for kind in ("Local", "Pool", *REMOTE)
        for name in ("volume_id", "qos_specs", "multipath_id", "device_path")
        if (kind, name) != ("Local", "device_path")
    ),
    "IscsiData.discovery_auth_username",
    "IscsiData.wwn",
    "NfsData.options",
    "NfsVolume.mount_point_base",
    "RbdData.cluster_name",  # part of a file name, and held to letters and digits
    *(f"{kind}Vif.address" for kind in ("User", "VhostUser", "Vdpa", "Macvtap", "Hostdev")),
    "VhostUserVif.bridge",  # for os-vif
    "VhostUserVif.interface_id",
    "VhostUserVif.device",
    "VdpaVif.device",  # one that the host has, by its exact name
    "MacvtapVif.source",  # an interface that the host has
    "MacvtapVif.physical_interface",
    "HostdevVif.physical_network",  # for whoever chooses the device
    "NetworkVif.address",  # a MAC address, in one spelling
    "BridgeVif.address",
    "OvsVif.address",
    "TapVif.address",
}
MODELS: tuple[type[BaseModel], ...] = (
    InstanceSpec,
    VolumeAttachment,
    VolumeSpec,
    LocalVolume,
    PoolVolume,
)
MODELS += (LocalData, PoolData, NetworkVif, BridgeVif, OvsVif, TapVif, UserVif)
MODELS += (VhostUserVif, VdpaVif, MacvtapVif, HostdevVif, Share)
MODELS += (RbdVolume, RbdData, NfsVolume, NfsData, IscsiVolume, IscsiData)


def test_every_text_field_is_tried() -> None:
    """A new field must be tried here too, or be named as one that libvirt does not get."""
    known = {each.partition(",")[0] for each in FIELDS} | ELSEWHERE.keys() | NOT_WRITTEN
    fields = {
        f"{model.__name__}.{name}"
        for model in MODELS
        for name, field in model.model_fields.items()
        if str in _parts(field.annotation)
    }
    assert fields <= known


def _parts(annotation: object) -> Iterator[object]:
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Annotated:
        yield from _parts(arguments[0])
    elif arguments and typing.get_origin(annotation) is not typing.Literal:
        for each in arguments:
            yield from _parts(each)
    else:
        yield annotation


def test_values_survive_a_restart(own: Host) -> None:
    """Where a value is refused, nothing was defined."""
    reads: dict[tuple[str, str], Read] = {}
    refused = set()
    for field, define in FIELDS.items():
        for text in (*TEXTS, *NO_XML):
            before = {each.uuid for each in own.driver.list_instances()}
            try:
                reads[field, text] = define(own, text)
            except (ValidationError, errors.InvalidRequest):
                refused.add((field, text))
                for each in own.driver.list_instances():
                    if each.uuid not in before:
                        left = own.driver.get_instance(each.uuid)
                        assert (left.name, left.volumes, left.vifs) == ("test", (), ()), field
    machines = {each.uuid for each in own.driver.list_instances()}
    own.peer.restart()
    assert {each.uuid for each in own.driver.list_instances()} == machines
    for (field, text), read in reads.items():
        assert read(own) == text, field
    # what the contract promises to take: not everything was refused
    for field in FIELDS.keys() - MAY_REFUSE:
        if not field.endswith("a key"):
            assert (field, TEXTS[0]) in reads, field
    for field in FIELDS.keys() - {"InstanceSpec.metadata"}:
        assert {(field, text) for text in NO_XML} <= refused, field


def test_what_cannot_be_read_stops_nothing(own: Host) -> None:
    """A machine, volumes and images that others have given names which are no text."""
    driver, pool = own.driver, own.raw.pools.disks()
    spoilt, beside = _machine(own), _machine(own)
    remote = own.raw.connection.remote
    # past our own checks: libvirt takes that name, and writes XML that nobody can read
    remote.lookupByUUIDString(str(spoilt.uuid)).rename(f"a\uffff.{spoilt.uuid}", 0)
    with pytest.raises(ET.ParseError):
        spoilt.xml()
    volume = driver.create_volume(VolumeSpec(name="whole", size_bytes=1 << 20))
    folder = own.peer.path(own.raw.pools.path(pool))
    odd = [
        "hv-volume-a\uffffb.raw",
        "hv-volume-\x1b[31m.qcow2",
        "hv-image-UPPER",
        "hv-image-raw-sha256-0",
        "hv-image-\uffff",
    ]
    for name in odd:
        (folder / name).write_bytes(bytes(512))
    pool.refresh(0)
    try:
        listed = {each.uuid: each.name for each in driver.list_instances()}
        assert listed[spoilt.uuid] == "a\ufffd"  # named as near as it can be
        assert driver.get_instance(spoilt.uuid).name == "a\ufffd"
        assert beside.uuid in listed
        assert "whole" in {each.volume_id for each in driver.list_volumes()}
        assert len({each.key for each in driver.list_cached_images()}) >= 1
        assert driver.get_available_resource().instances >= 2
        assert spoilt.uuid not in {each.uuid for each in driver.list_foreign()}
        assert beside.uuid in {each.uuid for each in driver.get_metrics()}
        driver.attach_volume(beside.uuid, VolumeAttachment(volume=volume))
        with pytest.raises(errors.DeviceBusy):
            driver.delete_volume("whole")
        driver.detach_volume(beside.uuid, "whole")
        driver.delete_volume("whole")
        driver.rename(spoilt.uuid, "mended")
        assert driver.get_instance(spoilt.uuid).name == "mended"
    finally:
        for name in odd:
            (folder / name).unlink()
        pool.refresh(0)
        driver.destroy(spoilt.uuid)
        driver.destroy(beside.uuid)
