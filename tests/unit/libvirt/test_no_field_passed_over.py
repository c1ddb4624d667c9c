"""Each field of a volume or a NIC changes what libvirt is told, or is refused, or says nothing to
this driver for a reason that stands here.

A field that is new in a model fails until it has a value to try; one that has no effect fails until
it has a reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest
from pydantic import BaseModel, ValidationError

from hvdrivers.contract import errors
from hvdrivers.contract.fields import FREE, NOT_FOR_DRIVERS, untaken
from hvdrivers.libvirt.driver import LibvirtDriver
from hvdrivers.libvirt.remote_volumes import secrets_of
from hvdrivers.libvirt.volumes import VolumeSources
from hvdrivers.libvirt.wiring import vif_element
from hvdrivers.libvirt.xml import text
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
)
from hvdrivers.models.volume import (
    IscsiVolume,
    LocalVolume,
    NfsVolume,
    PoolVolume,
    RbdVolume,
    VolumeAttachment,
)

INSTANCE, PORT = UUID(int=7), str(UUID(int=9))
KEY = "AQBSdFhcGgUIGhAA3bQkVMkkVtCxTkiQDBF4nQ=="
OTHER_KEY = "AQBSdFhcGgUIGhAA3bQkVMkkVtCxTkiQDBF4nA=="
ADDRESS = "0000:65:00.1"

VIFS = (
    NetworkVif(id="n", network="net"),
    BridgeVif(id="n", bridge="br"),
    OvsVif(id=PORT, bridge="br-int"),
    TapVif(id="n"),
    MacvtapVif(id="n", source="eth0"),
    HostdevVif(id="n", pci_address="0000:65:00.0"),
    VhostUserVif(id="n", socket="/run/a", mode="client"),
    VdpaVif(id="n", device="/dev/vhost-vdpa-0"),
    UserVif(id="n"),
)
OF_A_VIF: dict[str, Any] = {
    "type": None,
    "id": "other",
    "address": "52:54:00:00:00:01",
    "mtu": 1400,
    "model": "e1000e",
    "vlan": 7,
    "qos": {"outbound": {"average": 80}},
    "addresses": ({"address": "192.0.2.1"},),
    "queues": 2,
    "active": False,
    "tag": "tag",
    "network": "other",
    "portgroup": "other",
    "sriov": True,
    "bridge": "other",
    "device": "other",
    "interface_id": str(UUID(int=8)),
    "profile_id": "other",
    "datapath_type": "netdev",
    "hybrid_plug": True,
    "exists": False,
    "source": "other",
    "pci_address": ADDRESS,
    "mode": "passthrough",
    "physical_interface": "other",
    "physical_network": "other",
    "trusted": True,
    "offload": {"interface_id": "other"},
    "socket": "/run/b",
    "ovs_plug": True,
}
VOLUMES: dict[type[BaseModel], tuple[dict[str, Any], ...]] = {
    LocalVolume: ({"device_path": "/dev/a"},),
    PoolVolume: ({"pool": "a", "name": "a.img"},),
    IscsiVolume: (
        {
            "target_portal": "192.0.2.1:3260",
            "target_iqn": "iqn.2020-01.org.x:a",
            "target_lun": 1,
            "auth_method": "CHAP",
            "auth_username": "u",
            "auth_password": "password-1",
        },
    ),
    RbdVolume: (
        {"name": "p/a", "auth_username": "u", "keyring": KEY},
        {
            "name": "p/a",
            "hosts": ["192.0.2.1"],
            "ports": ["6789"],
            "auth_username": "u",
            "secret_uuid": PORT,
        },
    ),
    NfsVolume: ({"export": "192.0.2.1:/x", "name": "a"},),
}
OF_DATA: dict[str, Any] = {
    "volume_id": "other",
    "access_mode": "ro",
    "qos_specs": {"total_iops_sec": "80"},
    "encrypted": True,
    "discard": True,
    "cacheable": True,
    "logical_block_size": 4096,
    "physical_block_size": 4096,
    "device_path": "/dev/other",
    "multipath_id": "other",
    "enforce_multipath": True,
    "format": "qcow2",
    "pool": "other",
    "name": "p/other",
    "target_portal": "192.0.2.2:3260",
    "target_iqn": "iqn.2020-01.org.x:b",
    "target_lun": 2,
    "target_portals": ("192.0.2.2:3260",),
    "target_iqns": ("iqn.2020-01.org.x:b",),
    "target_luns": (2,),
    "auth_method": "NONE",
    "auth_username": "other",
    "auth_password": "password-2",
    "discovery_auth_method": "NONE",
    "discovery_auth_username": "other",
    "discovery_auth_password": "password-2",
    "wwn": "3624a9370",
    "hosts": ["192.0.2.2"],
    "ports": ["6790"],
    "cluster_name": "other",
    "auth_enabled": False,
    "secret_type": "ceph",
    "secret_uuid": str(UUID(int=8)),
    "keyring": OTHER_KEY,
    "export": "192.0.2.1:/y",
    "options": "soft",
}
OF_AN_ATTACHMENT: dict[str, Any] = {
    "bus": "scsi",
    "device": "vdz",
    "boot_index": 3,
    "read_only": True,
    "device_type": "lun",
    "cache": "writeback",
    "discard": True,
    "qos": {"total_iops_sec": 80},
    "encryption": {"provider": "luks", "secret": "other"},
    "tag": "tag",
    "delete_on_termination": True,
}
OF_AN_ENCRYPTION: dict[str, Any] = {
    "provider": "luks2",
    "control_location": "back-end",
    "cipher": "aes-xts-plain64",
    "key_size": 512,
    "encryption_key_id": "other",
    "secret": "other",
}
NOTHING = {
    "VifBase.addresses": "for the seed disc: the driver configures no address",
    "HostdevVif.physical_network": "whoever chose the device knows where it is cabled to",
    "VhostUserVif.bridge": "os-vif has made the port, and the driver hands over its socket alone",
    "VhostUserVif.interface_id": "as bridge",
    "VhostUserVif.ovs_plug": "as bridge",
    "VhostUserVif.device": "as bridge",
    "VdpaVif.pci_address": "device is named, and is what the address would lead to",
    "VolumeData.volume_id": "serial is given, and is what the caller knows the volume by",
    "VolumeData.enforce_multipath": "only iSCSI has paths to count here, and refuses it",
    "IscsiData.target_portals": "a further path: QEMU takes the first",
    "IscsiData.target_luns": "as target_portals",
    "RbdData.secret_type": "it has one value",
    "VolumeAttachment.device": "a hint that this driver does not follow",
    "VolumeAttachment.delete_on_termination": "a note for the caller",
    "VolumeEncryption.cipher": "the header of the volume says it",
    "VolumeEncryption.key_size": "as cipher",
    "VolumeEncryption.encryption_key_id": "secret is given, and is what the key's manager has",
}
"""What has no effect, and why."""


def home(model: type[BaseModel], name: str) -> str:
    """``VifBase.mtu``: the field by the model that has it first."""
    found = [each for each in model.__mro__ if each in FREE and name in each.model_fields]  # type: ignore[attr-defined]
    return f"{found[-1].__name__}.{name}"


def is_for_others(model: type[BaseModel], name: str) -> bool:
    return any(name in NOT_FOR_DRIVERS.get(each, ()) for each in model.__mro__)


def sources() -> VolumeSources:
    """On a host with no machine, whose pools have whatever is asked for."""
    nothing = SimpleNamespace(
        getAllDomainStats=lambda *_: [],
        listAllDomains=lambda *_: [],
        storageVolLookupByPath=lambda _: None,
    )
    config = SimpleNamespace(disk_cache="none")

    def named(pool: str | None) -> object:
        def volume(name: str) -> object:
            path = f"/{pool}/{name}"
            target = f"<target><path>{path}</path><format type='raw'/></target>"
            xml = f"<volume type='file'>{target}</volume>"
            return SimpleNamespace(path=lambda: path, XMLDesc=lambda _: xml)

        return SimpleNamespace(storageVolLookupByName=volume)

    made: Any = VolumeSources(
        cast(Any, SimpleNamespace(remote=nothing, config=config)),
        cast(Any, SimpleNamespace(named=named)),
        cast(Any, SimpleNamespace(refuse_not_free=lambda *_: None)),
        cast(Any, SimpleNamespace(host_uuid=lambda: PORT)),
    )
    return cast(VolumeSources, made)


def told(attachment: VolumeAttachment) -> str:
    """What libvirt is told of a volume, its secrets too."""
    disk = text(sources().element(INSTANCE, attachment, "vdb"))
    return disk + str([(each.usage, each.value) for each in secrets_of(INSTANCE, attachment)])


def refused_or(make: Any) -> str | None:
    """What libvirt is told; None where the model, the guard or the driver refuses it."""
    try:
        value = make()
        if list(untaken(value, LibvirtDriver.takes)):
            return None
        return (
            told(value)
            if isinstance(value, VolumeAttachment)
            else text(vif_element(value, INSTANCE))
        )
    except (ValidationError, errors.NotSupported, errors.InvalidRequest):
        return None


def attached(kind: type[BaseModel], data: dict[str, Any], **options: Any) -> VolumeAttachment:
    return VolumeAttachment(volume=cast(Any, kind)(serial="v", data=data), **options)


def without_effect() -> Iterator[tuple[str, bool]]:
    """Each field that was tried, and whether it has no effect; a field of several kinds often."""
    for vif in VIFS:
        before = text(vif_element(vif, INSTANCE))
        for name in type(vif).model_fields:
            value = OF_A_VIF[name]
            if value is not None:
                fields = {**vif.model_dump(exclude_unset=True), name: value}
                found = refused_or(lambda v=vif, f=fields: type(v)(**f))
                yield home(type(vif), name), found == before
    for kind, all_data in VOLUMES.items():
        model = cast(Any, kind.model_fields["data"].annotation)
        for name in model.model_fields:
            effects = []
            for data in all_data:
                value = (
                    OF_DATA[name].removeprefix("p/")
                    if (name == "name" and kind is not RbdVolume)
                    else OF_DATA[name]
                )
                changed = {**data, name: value}
                before = told(attached(kind, data))
                effects.append(refused_or(lambda k=kind, c=changed: attached(k, c)) == before)
            own = name == "device_path" and name in all_data[0]  # that of a local volume
            if is_for_others(model, name) and not own:
                assert all(effects), f"{model.__name__}.{name} has an effect"
            else:
                yield home(model, name), all(effects)
    data = VOLUMES[LocalVolume][0]
    before = told(attached(LocalVolume, data))
    for name in VolumeAttachment.model_fields:
        if name != "volume":
            found = refused_or(
                lambda n=name: attached(LocalVolume, data, **{n: OF_AN_ATTACHMENT[n]})
            )
            yield f"VolumeAttachment.{name}", found == before
    locked = {"provider": "luks", "secret": "one"}
    before = told(attached(LocalVolume, data, encryption=locked))
    for name, value in OF_AN_ENCRYPTION.items():
        found = refused_or(
            lambda n=name, v=value: attached(LocalVolume, data, encryption={**locked, n: v})
        )
        yield f"VolumeEncryption.{name}", found == before


@pytest.fixture(scope="module")
def tried() -> dict[str, bool]:
    """Whether a field has no effect for one kind at least."""
    found: dict[str, bool] = {}
    for name, nothing in without_effect():
        found[name] = found.get(name, False) or nothing
    return found


def test_what_has_no_effect_says_why(tried: dict[str, bool]) -> None:
    assert len(tried) > 70
    nothing = {name for name, has_none in tried.items() if has_none}
    assert nothing == set(NOTHING)


def test_the_values_are_for_fields_that_there_are(tried: dict[str, bool]) -> None:
    names = {each.partition(".")[2] for each in tried}
    for values in (OF_A_VIF, OF_AN_ATTACHMENT, OF_AN_ENCRYPTION):
        assert {name for name, value in values.items() if value is not None} <= names
