"""What the topic classes of the fake driver share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.operation import Interface

if TYPE_CHECKING:
    from hvdrivers.fake.groups import Groups
    from hvdrivers.fake.host import FakeHost
    from hvdrivers.fake.image_store import Images
    from hvdrivers.fake.link import Link
    from hvdrivers.fake.machines import Machines
    from hvdrivers.fake.moving import Moving
    from hvdrivers.fake.own_disks import OwnDisks
    from hvdrivers.fake.ports import Ports
    from hvdrivers.fake.showing import Showing
    from hvdrivers.fake.starting import Starting
    from hvdrivers.fake.volumes import Volumes


class FakeBase(Interface):
    """Base of the topic classes. ``FakeDriver`` makes these objects."""

    fake_host: FakeHost
    """The host behind it."""
    link: Link
    """The connection to it: each operation is a ``link.task()``."""
    machines: Machines
    """Its machines: find one, in a state that allows the operation."""
    ports: Ports
    """NICs on their way into a machine."""
    volumes: Volumes
    """Volumes on their way into a machine."""
    images: Images
    """Images on their way to the host."""
    own_disks: OwnDisks
    """Disks that come and go with a machine."""
    starting: Starting
    """What must hold before a machine is powered on."""
    moving: Moving
    """A machine on its way to another host."""
    groups: Groups
    """Machines that are kept together, or apart."""
    showing: Showing
    """A machine as the caller sees it."""
    without: Mapping[Capability, str]
    """Capabilities that the connection was made without, and why."""
