"""What every topic class has: the objects that topics share.

A topic class keeps the contract's operations. What two topics need is a method of one of these
objects, or a function; none of them knows a topic. So a call says where it leads:
``self.volumes.element(...)`` is in the room that ``volumes`` is annotated with here.
"""

from __future__ import annotations

from hvdrivers.libvirt.adopting import Adopting
from hvdrivers.libvirt.backup_job import BackupJobs
from hvdrivers.libvirt.claim import Claims
from hvdrivers.libvirt.config import LibvirtConfig
from hvdrivers.libvirt.dedicated import Dedicated
from hvdrivers.libvirt.deletions import Deletions
from hvdrivers.libvirt.destroy import Removal
from hvdrivers.libvirt.domains import Domains
from hvdrivers.libvirt.event_hub import EventHub
from hvdrivers.libvirt.event_streams import EventStreams
from hvdrivers.libvirt.host_facts import HostFacts
from hvdrivers.libvirt.huge_pages import HugePageStock
from hvdrivers.libvirt.identity import Identity
from hvdrivers.libvirt.image_store import ImageStore
from hvdrivers.libvirt.leaving_rescue import Rescues
from hvdrivers.libvirt.listing import Listing
from hvdrivers.libvirt.network_checks import Networks
from hvdrivers.libvirt.overlays import Overlays
from hvdrivers.libvirt.own_disks import OwnDisks
from hvdrivers.libvirt.passthrough import Passthrough
from hvdrivers.libvirt.pools import Pools
from hvdrivers.libvirt.rewiring import Rewirings
from hvdrivers.libvirt.secrets import Secrets
from hvdrivers.libvirt.session import Connection
from hvdrivers.libvirt.snapshot_data import SnapshotData
from hvdrivers.libvirt.stored_volumes import StoredVolumes
from hvdrivers.libvirt.turns import Turns
from hvdrivers.libvirt.unplug import Plugging
from hvdrivers.libvirt.uploads import PartialUploads
from hvdrivers.libvirt.volumes import VolumeSources


class Topic:
    """Base of the topic classes. ``LibvirtDriver`` makes these objects."""

    config: LibvirtConfig
    connection: Connection
    hub: EventHub
    """The host's events."""
    pools: Pools
    facts: HostFacts
    """What does not change while the host is connected."""

    identity: Identity
    """Which machines are ours."""
    adopting: Adopting
    """What a machine of others must be to become one."""
    domains: Domains
    """Machines: find one, and change it in a state that allows it."""
    listing: Listing
    """All machines at once."""
    event_streams: EventStreams
    turns: Turns
    """One client at a time at an instance's snapshots."""
    huge_pages: HugePageStock
    dedicated: Dedicated
    """CPUs of the host that one machine has to itself."""
    passthrough: Passthrough
    """PCI devices of the host that one machine has to itself."""
    claims: Claims
    """One spawn at a time of a UUID."""
    removal: Removal
    """The end of an instance, or of what there is of it."""
    rescues: Rescues
    """What a rescue leaves until the next start."""

    images: ImageStore
    """Images on the host, or brought there."""
    uploads: PartialUploads
    overlays: Overlays
    """Disks over images."""
    own_disks: OwnDisks
    """Disks that spawn() makes."""
    snapshot_data: SnapshotData
    backup_jobs: BackupJobs

    volumes: VolumeSources
    """Attachments as ``<disk>`` elements."""
    stored: StoredVolumes
    """Volumes that create_volume() made."""
    deletions: Deletions
    """A deletion of a volume beside a client that gives it to a machine."""
    secrets: Secrets
    networks: Networks
    plugging: Plugging
    """Taking devices out of running machines."""
    rewirings: Rewirings
    """Other connections for volumes and NICs."""
