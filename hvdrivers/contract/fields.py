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

A field counts only where the caller has given it, with another value than its default. What a
volume's storage server says (``connection_info``), images from files and URLs, and cloud-init have
rules of their own and are not looked into. A driver that takes a field may still refuse a value of
it, with NotSupported.
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
from hvdrivers.models.volume import DiskQos, VolumeAttachment, VolumeEncryption, VolumeSpec

_M = TypeVar("_M", bound=BaseModel)

Fields = Mapping[type[BaseModel] | type[Enum], frozenset[str]]
"""Names of fields by the model that has them; a kind of NIC has those of ``VifBase`` too. Of an
enum: the values that are optional."""

_SPEC = """uuid name flavor image volumes vifs cloud_init metadata start start_as seed hardware
    firmware secure_boot vtpm sev pci_devices vgpus server_group"""
_FLAVOR = """vcpus memory_mib disk_gib ephemeral_gib swap_mib max_vcpus max_memory_mib cpu_policy
    numa_nodes page_size_kib"""

FREE: Fields = MappingProxyType(
    {
        model: frozenset(names.split())
        for model, names in {
            InstanceSpec: _SPEC,
            Flavor: _FLAVOR,
            PciRequest: "address",
            VgpuRequest: "type parent",
            Hardware: "",
            OwnDisk: "role",
            HostImage: "source name format",
            CpuTopology: "sockets cores threads",
            Destination: "host storage address user password volumes vifs",
            SeedDisc: "content path label",
            Share: "tag path",
            Keep: "root-disk",
            VolumeAttachment: "volume device boot_index read_only qos encryption"
            " delete_on_termination",
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
        }.items()
    }
)
"""What need not be named, by model. A model that is not here is not looked into."""


def optional_fields() -> Fields:
    """Every field that a driver must name to get it."""
    found: dict[type[BaseModel] | type[Enum], frozenset[str]] = {}
    for model, free in FREE.items():
        if issubclass(model, Enum):
            names = frozenset(str(each.value) for each in model)
        else:
            names = frozenset(model.model_fields)
            if issubclass(model, VifBase) and model is not VifBase:
                names -= frozenset(VifBase.model_fields)
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


assert set(VIF_TYPES) <= set(FREE)  # noqa: S101 - a kind of NIC that is new must find its place
