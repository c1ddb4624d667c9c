"""hvdrivers: one typed Python interface over hypervisors.

::

    import hvdrivers

    with hvdrivers.connect("qemu:///system") as driver:
        for instance in driver.list_instances():
            print(instance.uuid, instance.name, instance.state)

``hvdrivers.contract`` says what every operation means, ``hvdrivers.models`` what goes in and comes
out. The names below are the public ones; each is imported when it is first used, so that
``import hvdrivers`` costs nothing and needs no hypervisor's library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hvdrivers.contract.capabilities import Capability, provides
    from hvdrivers.contract.driver import ComputeDriver, Driver, check_state
    from hvdrivers.contract.errors import (
        AuthenticationFailed,
        ConnectionFailed,
        ContractViolation,
        DeviceBusy,
        GuestAgentUnavailable,
        HypervisorError,
        HypervisorFault,
        ImageRejected,
        InstanceExists,
        InstanceNotFound,
        InsufficientResources,
        InvalidRequest,
        InvalidState,
        NetworkNotFound,
        NotSupported,
        OperationTimeout,
        OutcomeUnknown,
        PermissionDenied,
        PluginError,
        VolumeNotFound,
    )
    from hvdrivers.contract.events import EventStream
    from hvdrivers.contract.power import RebootKind
    from hvdrivers.guard import guarded
    from hvdrivers.models.config import DriverConfig
    from hvdrivers.models.image import FileImage, HostImage, HttpImage, ImageFormat
    from hvdrivers.models.instance import (
        Firmware,
        Flavor,
        InstanceInfo,
        InstanceSpec,
        InstanceSummary,
        Keep,
    )
    from hvdrivers.models.state import InstanceState
    from hvdrivers.plugins.connecting import connect
    from hvdrivers.plugins.discovery import PluginInfo, list_plugins

__all__ = [
    "AuthenticationFailed",
    "Capability",
    "ComputeDriver",
    "ConnectionFailed",
    "ContractViolation",
    "DeviceBusy",
    "Driver",
    "DriverConfig",
    "EventStream",
    "FileImage",
    "Firmware",
    "Flavor",
    "GuestAgentUnavailable",
    "HostImage",
    "HttpImage",
    "HypervisorError",
    "HypervisorFault",
    "ImageFormat",
    "ImageRejected",
    "InstanceExists",
    "InstanceInfo",
    "InstanceNotFound",
    "InstanceSpec",
    "InstanceState",
    "InstanceSummary",
    "InsufficientResources",
    "InvalidRequest",
    "InvalidState",
    "Keep",
    "NetworkNotFound",
    "NotSupported",
    "OperationTimeout",
    "OutcomeUnknown",
    "PermissionDenied",
    "PluginError",
    "PluginInfo",
    "RebootKind",
    "VolumeNotFound",
    "check_state",
    "connect",
    "guarded",
    "list_plugins",
    "provides",
]

_HOMES = {
    "hvdrivers.contract.capabilities": ("Capability", "provides"),
    "hvdrivers.contract.driver": ("ComputeDriver", "Driver", "check_state"),
    "hvdrivers.contract.events": ("EventStream",),
    "hvdrivers.contract.power": ("RebootKind",),
    "hvdrivers.guard": ("guarded",),
    "hvdrivers.models.config": ("DriverConfig",),
    "hvdrivers.models.image": ("FileImage", "HostImage", "HttpImage", "ImageFormat"),
    "hvdrivers.models.instance": (
        "Firmware",
        "Flavor",
        "InstanceInfo",
        "InstanceSpec",
        "InstanceSummary",
        "Keep",
    ),
    "hvdrivers.models.state": ("InstanceState",),
    "hvdrivers.plugins.connecting": ("connect",),
    "hvdrivers.plugins.discovery": ("PluginInfo", "list_plugins"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


if not TYPE_CHECKING:  # a type checker would take any misspelt name for granted

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        # what has no other home is an error class
        value = getattr(import_module(_HOME.get(name, "hvdrivers.contract.errors")), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
