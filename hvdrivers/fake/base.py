"""What the topic classes of the fake driver share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.operation import Interface

if TYPE_CHECKING:
    from hvdrivers.fake.host import FakeHost
    from hvdrivers.fake.link import Link
    from hvdrivers.fake.machines import Machines


class FakeBase(Interface):
    """Base of the topic classes. ``FakeDriver`` makes these objects."""

    fake_host: FakeHost
    """The host behind it."""
    link: Link
    """The connection to it: each operation is a ``link.task()``."""
    machines: Machines
    """Its machines: find one, in a state that allows the operation."""
    without: Mapping[Capability, str]
    """Capabilities that the connection was made without, and why."""
