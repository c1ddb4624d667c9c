"""Small drivers for the tests of what stands around a driver: the least one, with one twist each.

The tests of the guard, the plug-ins and the asyncio facade must not depend on any real driver,
the fake among them.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

OUTOFTREE = Path(__file__).parent / "outoftree"
if str(OUTOFTREE) not in sys.path:
    sys.path.insert(0, str(OUTOFTREE))

from hv_least import LeastConfig, LeastDriver  # noqa: E402

from hvdrivers.contract.capabilities import Capability, provides  # noqa: E402
from hvdrivers.contract.driver import ComputeDriver, Driver  # noqa: E402
from hvdrivers.guard import guarded  # noqa: E402
from hvdrivers.models.image import HostImage  # noqa: E402
from hvdrivers.models.instance import Flavor, InstanceInfo, InstanceSpec  # noqa: E402

__all__ = ["LeastConfig", "LeastDriver", "a_spec", "guard_threads", "make", "spawned"]

PATIENCE = 20.0
"""Seconds after which a test that waits for a thread gives up; never reached when all is well."""


def make(*, like: type[Driver] = LeastDriver, guard: dict[str, Any] | None = None, **twists: Any):
    """A guarded driver whose methods are replaced by ``twists``; and the driver itself."""
    # a twisted spawn() would lose the mark of the one that it replaces
    own = {"driver_name": "twisted", "images": provides(Capability.IMAGE_HOST)(lambda self: None)}
    cls = type("Twisted", (like,), own | twists)
    driver = cls(f"host-{uuid4()}")
    return guarded(driver, **(guard or {})), driver


def a_spec(**fields: Any) -> InstanceSpec:
    """Something to spawn."""
    fields = {
        "name": "a machine",
        "flavor": Flavor(vcpus=1, memory_mib=64),
        "image": HostImage(name="template"),
    } | fields
    return InstanceSpec(**fields)


def spawned(driver: ComputeDriver) -> UUID:
    """The UUID of a new machine."""
    info: InstanceInfo = driver.spawn(a_spec())
    return info.uuid


def guard_threads() -> list[threading.Thread]:
    """Threads of guards and facades that are alive."""
    return [each for each in threading.enumerate() if each.name.startswith("hvdrivers-")]


def in_thread(call: Callable[[], object]) -> threading.Thread:
    """Run it beside the test."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread
