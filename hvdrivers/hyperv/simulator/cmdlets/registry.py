"""Which function serves which cmdlet."""

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module

from hvdrivers.hyperv.simulator.cmdlets.call import Call

Handler = Callable[[Call], None]

_ROOMS = (
    "access",
    "adapters",
    "checkpoints",
    "cim",
    "controllers",
    "devices",
    "direct",
    "drives",
    "events",
    "exports",
    "firmware",
    "hostinfo",
    "iscsi",
    "machines",
    "metering",
    "migration",
    "power",
    "removal",
    "security",
    "services",
    "settings",
    "shares",
    "storage",
    "switches",
    "vhd",
)

_handlers: dict[str, Handler] = {}


def cmdlet(*names: str) -> Callable[[Handler], Handler]:
    """Register the function that follows for these cmdlets."""

    def register(handler: Handler) -> Handler:
        for name in names:
            if name in _handlers:
                raise ValueError(f"{name} has two handlers")
            _handlers[name] = handler
        return handler

    return register


@cache
def handlers() -> Mapping[str, Handler]:
    """Every cmdlet that the simulator plays."""
    for room in _ROOMS:
        import_module(f"hvdrivers.hyperv.simulator.cmdlets.{room}")
    return dict(_handlers)
