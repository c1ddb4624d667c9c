"""What every topic class has: the host's connection, and the objects that topics share."""

from __future__ import annotations

from hvdrivers.libvirt.config import LibvirtConfig
from hvdrivers.libvirt.domains import Domains
from hvdrivers.libvirt.event_hub import EventHub
from hvdrivers.libvirt.host_facts import HostFacts
from hvdrivers.libvirt.listing import Listing
from hvdrivers.libvirt.network_checks import Networks
from hvdrivers.libvirt.pools import Pools
from hvdrivers.libvirt.secrets import Secrets
from hvdrivers.libvirt.session import Connection
from hvdrivers.libvirt.turns import Turns


class Topic:
    """Base of the topic classes. ``LibvirtDriver`` makes these objects."""

    config: LibvirtConfig
    connection: Connection
    pools: Pools
    hub: EventHub
    domains: Domains
    facts: HostFacts
    listing: Listing
    secrets: Secrets
    networks: Networks
    turns: Turns
