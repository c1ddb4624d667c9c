"""A hypervisor in memory: the reference model of the contract, and a place to test orchestrators.

::

    from hvdrivers.fake import FakeHost, FaultRule

    host = FakeHost()
    with host.connect() as driver:
        driver.spawn(spec)
        host.crash(spec.uuid)                       # what a guest does
        with host.faults.add(FaultRule(operation="power_on", when="after")):
            ...                                     # what a network does
        assert not host.inventory().of(other_uuid)  # what is really there

``connect("fake")`` gives a host of its own (``host_of(driver)`` finds it), ``connect("fake",
host="alpha")`` one that all connections of this process share.
"""

from hvdrivers.fake.behaviour import GuestBehaviour, Program
from hvdrivers.fake.clock import Clock, ManualClock, RealClock, Wake
from hvdrivers.fake.config import FakeConfig, FakeImage, FakePool, HostSize, Latency
from hvdrivers.fake.driver import FakeDriver, host_of
from hvdrivers.fake.faults import FaultKind, FaultRule, Faults, InstalledFault
from hvdrivers.fake.host import FakeHost
from hvdrivers.fake.inventory import Inventory, Item
from hvdrivers.fake.steps import Call
from hvdrivers.fake.world import FakeWorld, default_world

__all__ = [
    "Call",
    "Clock",
    "FakeConfig",
    "FakeDriver",
    "FakeHost",
    "FakeImage",
    "FakePool",
    "FakeWorld",
    "FaultKind",
    "FaultRule",
    "Faults",
    "GuestBehaviour",
    "HostSize",
    "InstalledFault",
    "Inventory",
    "Item",
    "Latency",
    "ManualClock",
    "Program",
    "RealClock",
    "Wake",
    "default_world",
    "host_of",
]
