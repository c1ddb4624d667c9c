"""What every topic class has: the host's connection, and the objects that topics share."""

from __future__ import annotations

from hvdrivers.libvirt.backup_job import BackupJobs
from hvdrivers.libvirt.chains import Chains
from hvdrivers.libvirt.claim import Claims
from hvdrivers.libvirt.config import LibvirtConfig
from hvdrivers.libvirt.deletions import Deletions
from hvdrivers.libvirt.destroy import Removal
from hvdrivers.libvirt.domains import Domains
from hvdrivers.libvirt.event_hub import EventHub
from hvdrivers.libvirt.host_facts import HostFacts
from hvdrivers.libvirt.image_store import ImageStore
from hvdrivers.libvirt.keeping import Keeping
from hvdrivers.libvirt.leaving_rescue import Rescues
from hvdrivers.libvirt.listing import Listing
from hvdrivers.libvirt.network_checks import Networks
from hvdrivers.libvirt.overlays import Overlays
from hvdrivers.libvirt.own_disks import OwnDisks
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
    pools: Pools
    hub: EventHub
    domains: Domains
    facts: HostFacts
    listing: Listing
    secrets: Secrets
    networks: Networks
    turns: Turns
    chains: Chains
    uploads: PartialUploads
    overlays: Overlays
    images: ImageStore
    volumes: VolumeSources
    stored: StoredVolumes
    deletions: Deletions
    own_disks: OwnDisks
    keeping: Keeping
    removal: Removal
    claims: Claims
    plugging: Plugging
    snapshot_data: SnapshotData
    rescues: Rescues
    backup_jobs: BackupJobs
    rewirings: Rewirings
