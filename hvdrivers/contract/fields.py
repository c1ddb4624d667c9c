"""Fields: what of a spec, a volume or a NIC a driver honours.

A caller who asks for ``cache="none"`` and gets a machine without it has been lied to. So a driver
names the optional fields that it honours, and the guard refuses every other with NotSupported
before the driver is called::

    class AcmeDriver(Driver):
        takes = {
            VolumeAttachment: frozenset({"bus", "cache"}),
            VifBase: frozenset({"mtu"}),
        }

``FREE`` has the fields that need no naming: each driver takes them (``Flavor.vcpus``), a capability
says who does (``InstanceSpec.vtpm``), they are a hint or a note for the caller
(``VolumeAttachment.device``), or the hypervisor has nothing to do with them
(``VifBase.addresses``). Every field that is not there must be named, so a field that is new in the
contract is refused by each driver that does not know it yet.

What a volume's storage server says (``connection_info``) is looked into too. Most of it is free:
who the volume is and how to reach it, which a capability says who can (``volume-iscsi``); what the
attachment takes over (``discard``); and what Nova, os-brick or Cinder write there for somebody
else: ``NOT_FOR_DRIVERS`` says for whom.

A field counts only where the caller has given it, with another value than its default. Images from
files and URLs, and cloud-init, have rules of their own and are not looked into. A driver that takes
a field may still refuse a value of it, with NotSupported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from types import MappingProxyType
from typing import TypeVar

from pydantic import BaseModel

from hvdrivers.models.disk import OwnDisk
from hvdrivers.models.guest import Share
from hvdrivers.models.hardware import CpuTopology, Hardware
from hvdrivers.models.image import HostImage
from hvdrivers.models.instance import Flavor, InstanceSpec, Keep, PciRequest, VgpuRequest
from hvdrivers.models.migration import Destination
from hvdrivers.models.seed import SeedDisc
from hvdrivers.models.vif import VIF_TYPES, Bandwidth, VifQos
from hvdrivers.models.vif.common import OvsOffload, VifBase
from hvdrivers.models.vif.kinds import (
    BridgeVif,
    DvsVif,
    HostdevVif,
    HypervVif,
    MacvtapVif,
    NetworkVif,
    OvsVif,
    TapVif,
    UserVif,
    VdpaVif,
    VhostUserVif,
)
from hvdrivers.models.volume import (
    VOLUME_TYPES,
    DiskQos,
    FcData,
    FcdData,
    FcdVolume,
    FibreChannelVolume,
    IscsiData,
    IscsiVolume,
    LocalData,
    LocalVolume,
    NfsData,
    NfsVolume,
    NvmeofData,
    NvmeofVolume,
    PoolData,
    PoolVolume,
    RbdData,
    RbdVolume,
    SmbfsData,
    SmbfsVolume,
    VmdkData,
    VmdkVolume,
    VolumeAttachment,
    VolumeBase,
    VolumeData,
    VolumeEncryption,
    VolumeSpec,
)

_M = TypeVar("_M", bound=BaseModel)

Fields = Mapping[type[BaseModel] | type[Enum], frozenset[str]]
"""Names of fields by the model that has them; a kind of NIC has those of ``VifBase`` too. Of an
enum: the values that are optional."""

_SPEC = """uuid name flavor image volumes vifs cloud_init metadata start start_as seed hardware
    firmware secure_boot vtpm sev pci_devices vgpus server_group"""
_FLAVOR = """vcpus memory_mib disk_gib ephemeral_gib swap_mib max_vcpus max_memory_mib cpu_policy
    numa_nodes page_size_kib"""

NOT_FOR_DRIVERS: Mapping[type[BaseModel] | type[Enum], Mapping[str, str]] = {
    VolumeBase: {
        "attachment_id": "Cinder's id, for the caller's own calls of Cinder",
    },
    NfsVolume: {"mount_point_base": "where Nova mounts exports; a driver has a place of its own"},
    SmbfsVolume: {"mount_point_base": "as of an NFS volume"},
    VolumeData: {
        "cacheable": "a leave for os-brick's volume cache, not a wish",
        "device_path": "what os-brick writes on the host on which it has connected the volume."
        " Drivers reach the volume themselves, and from where that host cannot be told",
        "multipath_id": "as device_path",
    },
    IscsiData: {
        "wwn": "tells the disks of a host apart that has logged in",
        **dict.fromkeys(
            (
                "discovery_auth_method",
                "discovery_auth_username",
                "discovery_auth_password",
            ),
            "for a driver that asks the portal for its targets; where the target is named, nobody"
            " need ask",
        ),
    },
    FcData: {
        "wwn": "as of an iSCSI volume",
        "addressing_mode": "how Linux writes the unit's number into a path of its own",
    },
    NvmeofData: {"replica_count": "the number of volume_replicas, once more"},
    VmdkData: {
        **dict.fromkeys(
            ("vmdk_size", "vmdk_path", "datastore", "datacenter"), "vCenter knows it of the machine"
        ),
        "config": "how to reach vCenter, for those who have no connection to it",
    },
    FcdData: {
        "adapter_type": "a controller that Cinder supposes; VolumeAttachment.bus asks for one"
    },
}
"""Keys of a connection that say nothing to a driver, and why."""

_MULTIPATH = "enforce_multipath"
"""Free where there are no paths to count."""
_VOLUME = "driver_volume_type data serial multiattach"

_FREE: Mapping[type[BaseModel] | type[Enum], str] = {
    InstanceSpec: _SPEC,
    Flavor: _FLAVOR,
    PciRequest: "address",
    VgpuRequest: "type parent",
    Hardware: "",
    OwnDisk: "role",
    HostImage: "source name format",
    CpuTopology: "sockets cores threads",
    Destination: "host volumes vifs",
    SeedDisc: "content path label",
    Share: "tag path",
    Keep: "root-disk",
    VolumeAttachment: "volume device boot_index read_only qos encryption delete_on_termination",
    VolumeBase: _VOLUME,
    IscsiVolume: "",
    FibreChannelVolume: "",
    NvmeofVolume: "",
    RbdVolume: "",
    NfsVolume: "",
    SmbfsVolume: "",
    LocalVolume: "",
    PoolVolume: "",
    VmdkVolume: "",
    FcdVolume: "",
    VolumeData: "volume_id access_mode qos_specs encrypted discard",
    IscsiData: "target_portal target_iqn target_lun target_portals target_iqns target_luns"
    " auth_method auth_username auth_password",
    FcData: "target_wwn target_wwns target_lun target_luns initiator_target_map"
    " initiator_target_lun_map",
    NvmeofData: "target_portal target_port nqn transport_type target_nqn vol_uuid portals"
    " volume_nguid ns_id host_nqn volume_replicas alias",
    RbdData: "name hosts ports auth_enabled auth_username secret_type secret_uuid keyring"
    f" {_MULTIPATH}",
    NfsData: f"export name format {_MULTIPATH}",
    SmbfsData: f"export name format options {_MULTIPATH}",
    LocalData: f"format {_MULTIPATH}",
    PoolData: f"pool name format {_MULTIPATH}",
    VmdkData: f"volume name {_MULTIPATH}",
    FcdData: f"id ds_ref_val {_MULTIPATH}",
    VolumeEncryption: "provider control_location encryption_key_id secret",
    VolumeSpec: "name size_gib size_bytes pool format",
    DiskQos: "",
    VifBase: "type id address qos addresses",
    VifQos: "",
    Bandwidth: "average",
    OvsOffload: "interface_id",
    NetworkVif: "network",
    BridgeVif: "bridge",
    OvsVif: "bridge",
    TapVif: "",
    MacvtapVif: "source pci_address",
    HostdevVif: "pci_address",
    VhostUserVif: "socket mode",
    VdpaVif: "device pci_address",
    DvsVif: "port_group port_group_key switch_uuid opaque_network_id",
    HypervVif: "switch",
    UserVif: "",
}

FREE: Fields = MappingProxyType(
    {
        model: frozenset((*names.split(), *NOT_FOR_DRIVERS.get(model, ())))
        for model, names in _FREE.items()
    }
)
"""What need not be named, by model. A model that is not here is not looked into."""


_COMMON = (VifBase, VolumeBase, VolumeData)
"""What several models have in common, and is named once."""


def optional_fields() -> Fields:
    """Every field that a driver must name to get it."""
    found: dict[type[BaseModel] | type[Enum], frozenset[str]] = {}
    for model, free in FREE.items():
        if issubclass(model, Enum):
            names = frozenset(str(each.value) for each in model)
        else:
            names = frozenset(model.model_fields)
            for base in _COMMON:
                if issubclass(model, base) and model is not base:
                    names -= frozenset(base.model_fields)
        if names - free:
            found[model] = names - free
    return MappingProxyType(found)


def untaken(value: object, takes: Fields) -> Iterator[str]:
    """The fields that ``value`` sets and the driver does not honour: ``VolumeAttachment.cache``.

    Args:
        value: an argument of an operation: a model, an enum, a collection of them, anything else.
        takes: what the driver names.
    """
    if isinstance(value, tuple | list | frozenset):
        for each in value:
            yield from untaken(each, takes)
    elif isinstance(value, Enum) and type(value) in FREE:
        if value.value not in FREE[type(value)] | takes.get(type(value), frozenset()):
            yield f"{type(value).__name__}.{value.value}"
    elif isinstance(value, BaseModel) and type(value) in FREE:
        yield from _of_model(value, takes)


def _of_model(model: BaseModel, takes: Fields) -> Iterator[str]:
    for name in type(model).model_fields:
        if name not in model.model_fields_set:
            continue
        home = _home_of_untaken(model, name, takes)
        if home is None:
            yield from untaken(getattr(model, name), takes)
        else:
            yield f"{home.__name__}.{name}"


def _home_of_untaken(model: BaseModel, name: str, takes: Fields) -> type[BaseModel] | None:
    """The model that declares a field, if ``model`` sets it and the driver does not honour it."""
    homes = [each for each in type(model).__mro__ if issubclass(each, BaseModel) and each in FREE]
    if any(name in FREE[each] | takes.get(each, frozenset()) for each in homes):
        return None
    field = type(model).model_fields[name]
    if getattr(model, name) == field.get_default(call_default_factory=True):
        return None
    if isinstance(model, VolumeAttachment) and name == "discard" and model.volume.data.discard:
        return None  # taken over from what the storage server says
    if isinstance(model, VolumeEncryption) and not model.by_hypervisor:
        return None  # the storage's own matter
    return next(each for each in reversed(homes) if name in each.model_fields)


def only_taken(model: _M, takes: Fields) -> _M:
    """A copy of the model in which every field that the driver does not honour has its default.

    For a caller who prefers to go without these fields to a refusal. Only a caller may decide that:
    a driver never calls this function."""
    changes: dict[str, object] = {}
    for name in model.model_fields_set:
        found = getattr(model, name)
        if _home_of_untaken(model, name, takes) is not None:
            field = type(model).model_fields[name]
            changes[name] = field.get_default(call_default_factory=True)
        elif isinstance(found, BaseModel) and type(found) in FREE:
            changes[name] = only_taken(found, takes)
        elif isinstance(found, tuple):
            changes[name] = tuple(
                only_taken(each, takes) if type(each) in FREE else each for each in found
            )
    return model.model_copy(update=changes) if changes else model


def names_of(fields: Fields) -> frozenset[str]:
    """``VolumeAttachment.cache``, ... of a mapping."""
    return frozenset(
        f"{model.__name__}.{name}" for model, names in fields.items() for name in names
    )


# a kind of NIC or of volume that is new must find its place
assert {*VIF_TYPES, *VOLUME_TYPES} <= set(FREE)  # noqa: S101
