"""The conformance suite: what decides whether a driver works, and what one can rely on.

Three doors lead to one engine, with the same ids, statuses and report::

    hvdrivers conformance run acme --option address=lab1
    pytest --hv-driver acme --hv-option address=lab1 --pyargs hvdrivers.conformance
    class TestAcme(ConformanceSuite): target = AcmeTarget      # in a test module of your own

The names below are what an author of a driver needs. Each is imported when it is first used:
pytest loads this package in every project that has hvdrivers installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hvdrivers.conformance.engine.observer import (
        Cut,
        FaultSeam,
        NotShown,
        Observer,
        PreconditionMissing,
    )
    from hvdrivers.conformance.engine.seam_faults import SeamFaults
    from hvdrivers.conformance.engine.suite import ConformanceSuite
    from hvdrivers.conformance.engine.target import DriverTarget, Target

__all__ = [
    "ConformanceSuite",
    "Cut",
    "DriverTarget",
    "FaultSeam",
    "NotShown",
    "Observer",
    "PreconditionMissing",
    "SeamFaults",
    "Target",
]
_HOMES = {
    "ConformanceSuite": "suite",
    "Cut": "observer",
    "FaultSeam": "observer",
    "NotShown": "observer",
    "Observer": "observer",
    "PreconditionMissing": "observer",
    "SeamFaults": "seam_faults",
}

if not TYPE_CHECKING:  # a type checker would take any misspelt name for granted

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        home = _HOMES.get(name, "target")
        value = getattr(import_module(f"{__name__}.engine.{home}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
