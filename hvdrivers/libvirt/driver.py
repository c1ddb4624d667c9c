"""The libvirt driver: the topic classes, joined over one connection."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, ClassVar, Self

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.driver import OPERATIONS, Driver
from hvdrivers.contract.fields import Fields
from hvdrivers.contract.limits import Limit
from hvdrivers.driverkit.events import Streams
from hvdrivers.driverkit.undo import truthful
from hvdrivers.libvirt.adopt import LibvirtAdopt
from hvdrivers.libvirt.adopting import Adopting
from hvdrivers.libvirt.backup import LibvirtBackup
from hvdrivers.libvirt.backup_job import BackupJobs
from hvdrivers.libvirt.chains import Chains
from hvdrivers.libvirt.claim import Claims
from hvdrivers.libvirt.config import LibvirtConfig
from hvdrivers.libvirt.connection import LibvirtConnection
from hvdrivers.libvirt.consoles import LibvirtConsoles, LibvirtScreen
from hvdrivers.libvirt.copying import LibvirtCopying
from hvdrivers.libvirt.dedicated import Dedicated
from hvdrivers.libvirt.deletions import Deletions
from hvdrivers.libvirt.destroy import Removal
from hvdrivers.libvirt.domains import Domains
from hvdrivers.libvirt.event_hub import EventHub
from hvdrivers.libvirt.event_streams import EventStreams
from hvdrivers.libvirt.events import LibvirtEvents
from hvdrivers.libvirt.extend import LibvirtExtend
from hvdrivers.libvirt.guest import LibvirtGuest
from hvdrivers.libvirt.host_facts import HostFacts
from hvdrivers.libvirt.host_volumes import LibvirtHostVolumes
from hvdrivers.libvirt.huge_pages import HugePageStock
from hvdrivers.libvirt.identity import Identity
from hvdrivers.libvirt.image_store import ImageStore
from hvdrivers.libvirt.images import LibvirtImages
from hvdrivers.libvirt.keeping import Keeping
from hvdrivers.libvirt.lacking import LACKING
from hvdrivers.libvirt.leaving_rescue import Rescues
from hvdrivers.libvirt.lifecycle import LibvirtLifecycle
from hvdrivers.libvirt.listing import Listing
from hvdrivers.libvirt.metrics import LibvirtMetrics
from hvdrivers.libvirt.migration import LibvirtMigration
from hvdrivers.libvirt.moves import LibvirtMoveInSteps
from hvdrivers.libvirt.network import LibvirtNetwork
from hvdrivers.libvirt.network_checks import Networks
from hvdrivers.libvirt.overlays import Overlays
from hvdrivers.libvirt.own_disks import OwnDisks
from hvdrivers.libvirt.passthrough import Passthrough
from hvdrivers.libvirt.pools import Pools
from hvdrivers.libvirt.power import LibvirtPower
from hvdrivers.libvirt.rebuild import LibvirtRebuild
from hvdrivers.libvirt.reconnecting import LibvirtReconnect
from hvdrivers.libvirt.relocation import LibvirtRelocation
from hvdrivers.libvirt.rescue import LibvirtRescue
from hvdrivers.libvirt.resize import LibvirtResize
from hvdrivers.libvirt.resources import LibvirtResources
from hvdrivers.libvirt.rewiring import Rewirings
from hvdrivers.libvirt.room import full_daemon
from hvdrivers.libvirt.secrets import Secrets
from hvdrivers.libvirt.serial_line import LibvirtSerial
from hvdrivers.libvirt.session import Connection
from hvdrivers.libvirt.shares import LibvirtShares
from hvdrivers.libvirt.snapshot_data import SnapshotData
from hvdrivers.libvirt.snapshots import LibvirtSnapshots
from hvdrivers.libvirt.storage import LibvirtStorage
from hvdrivers.libvirt.stored_volumes import StoredVolumes
from hvdrivers.libvirt.swapping import LibvirtSwap
from hvdrivers.libvirt.turns import Turns
from hvdrivers.libvirt.unplug import Plugging
from hvdrivers.libvirt.uploads import PartialUploads
from hvdrivers.libvirt.volumes import VolumeSources
from hvdrivers.models.config import DriverConfig
from hvdrivers.models.disk import OwnDisk
from hvdrivers.models.hardware import Hardware
from hvdrivers.models.image import HostImage
from hvdrivers.models.instance import InstanceSpec, Keep
from hvdrivers.models.migration import Destination
from hvdrivers.models.seed import SeedDisc
from hvdrivers.models.vif import (
    Bandwidth,
    BridgeVif,
    HostdevVif,
    MacvtapVif,
    NetworkVif,
    OvsVif,
    TapVif,
    VhostUserVif,
    VifQos,
)
from hvdrivers.models.vif.common import VifBase
from hvdrivers.models.volume import (
    DiskQos,
    NfsData,
    RbdData,
    VolumeAttachment,
    VolumeData,
    VolumeEncryption,
)


class LibvirtDriver(
    LibvirtConnection,
    LibvirtResources,
    LibvirtLifecycle,
    LibvirtAdopt,
    LibvirtResize,
    LibvirtRebuild,
    LibvirtRescue,
    LibvirtPower,
    LibvirtStorage,
    LibvirtHostVolumes,
    LibvirtExtend,
    LibvirtSwap,
    LibvirtRelocation,
    LibvirtNetwork,
    LibvirtReconnect,
    LibvirtImages,
    LibvirtCopying,
    LibvirtSnapshots,
    LibvirtBackup,
    LibvirtConsoles,
    LibvirtScreen,
    LibvirtSerial,
    LibvirtGuest,
    LibvirtMigration,
    LibvirtMoveInSteps,
    LibvirtShares,
    LibvirtEvents,
    LibvirtMetrics,
    Driver,
):
    """KVM or QEMU on one libvirt daemon."""

    driver_name: ClassVar[str] = "libvirt"
    config_model: ClassVar[type[DriverConfig]] = LibvirtConfig
    takes: ClassVar[Fields] = {
        InstanceSpec: frozenset({"disks", "numa"}),
        Hardware: frozenset(Hardware.model_fields),
        Destination: frozenset({"storage", "address", "user", "password"}),
        OwnDisk: frozenset({"size_mib", "bus", "kept"}),
        SeedDisc: frozenset({"bus", "device_type"}),
        Keep: frozenset({Keep.EPHEMERAL_DISKS.value, Keep.SWAP_DISK.value}),
        HostImage: frozenset({"cached"}),
        VolumeAttachment: frozenset({"bus", "cache", "device_type", "discard"}),
        VolumeData: frozenset({"logical_block_size", "physical_block_size", "enforce_multipath"}),
        RbdData: frozenset({"cluster_name"}),
        NfsData: frozenset({"options"}),
        # the header of a LUKS volume says both, and QEMU reads them there
        VolumeEncryption: frozenset({"cipher", "key_size"}),
        DiskQos: frozenset(DiskQos.model_fields),
        VifBase: frozenset({"active", "model", "mtu", "queues", "vlan"}),
        VifQos: frozenset(VifQos.model_fields),
        Bandwidth: frozenset({"peak", "burst"}),
        NetworkVif: frozenset({"portgroup", "sriov"}),
        BridgeVif: frozenset({"device"}),
        OvsVif: frozenset({"interface_id", "profile_id", "datapath_type", "hybrid_plug", "device"}),
        TapVif: frozenset({"device", "exists"}),
        MacvtapVif: frozenset({"mode"}),
        # where the device is cabled to is known by whoever has chosen it
        HostdevVif: frozenset({"physical_network"}),
        # what os-vif has made the port with
        VhostUserVif: frozenset({"bridge", "interface_id", "ovs_plug", "device"}),
    }

    limits: ClassVar[Mapping[Limit, str]] = {
        Limit.GROWTH_UNASKED: (
            "QEMU plugs CPUs and memory in and does not tell libvirt whether the guest uses them"
        )
    }
    lacking: ClassVar[Mapping[Capability, str]] = LACKING

    def __init__(self, config: LibvirtConfig) -> None:
        self.config = config
        self.connection = Connection(config)
        self.hub = EventHub(self.connection)
        self.pools = Pools(self.connection)
        self.facts = HostFacts(self.connection)
        self.networks = Networks(self.connection, self.facts)
        self.secrets = Secrets(self.connection)
        self.identity = Identity(self.connection)
        self.domains = Domains(self.connection, self.hub, self.identity)
        self.listing = Listing(self.connection, self.domains, self.identity)
        self.event_streams = EventStreams(self.connection, self.hub, self.listing)
        self.turns = Turns(self.connection, self.hub, self.domains, self.facts)
        self.huge_pages = HugePageStock(self.connection, self.facts)
        self.dedicated = Dedicated(self.connection, self.hub, self.turns, self.facts)
        self.passthrough = Passthrough(self.connection, self.turns)
        chains = Chains(self.connection, self.pools, self.identity)
        self.adopting = Adopting(self.connection, self.pools, chains)
        self.uploads = PartialUploads(self.pools, chains)
        self.overlays = Overlays(self.pools)
        self.images = ImageStore(self.connection, self.pools, chains, self.uploads, self.overlays)
        self.volumes = VolumeSources(self.connection, self.pools, chains, self.facts)
        self.stored = StoredVolumes(self.connection, self.pools, chains)
        self.deletions = Deletions(self.connection, self.pools)
        self.own_disks = OwnDisks(
            self.pools, self.overlays, self.images, self.stored, self.deletions
        )
        self.removal = Removal(
            self.connection,
            self.hub,
            self.pools,
            self.domains,
            chains=chains,
            keeping=Keeping(self.pools),
            secrets=self.secrets,
            adopting=self.adopting,
        )
        self.claims = Claims(self.hub, self.pools, self.domains, self.removal)
        self.plugging = Plugging(self.connection, self.hub, self.domains)
        self.snapshot_data = SnapshotData(self.connection, self.hub)
        self.rescues = Rescues(self.pools, self.domains, self.identity)
        self.backup_jobs = BackupJobs(self.hub, self.domains)
        self.rewirings = Rewirings(self.networks, self.volumes)
        self.streams = Streams()

    @classmethod
    def connect(cls, config: DriverConfig) -> Self:
        """Budget: 2 calls for what ``narrowed()`` asks, 3 where the default machine type is not
        q35, and 1 for what an interrupted spawn has left undone. The 8 calls for the events are
        made at the same time, over a connection of their own."""
        if not isinstance(config, LibvirtConfig):
            raise errors.InvalidRequest(
                "the libvirt driver needs a LibvirtConfig",
                hint='connect("libvirt", uri=...) makes one',
            )
        driver = cls(config)
        try:
            with driver.connection.operation(None):
                _ = driver.connection.remote  # the first connection
                driver.hub.prepare()
                driver.narrowed()
                driver.complete_spawns()
        except BaseException:
            driver.close()
            raise
        return driver

    @property
    def host_label(self) -> str:
        """The URI without user and parameters."""
        return self.config.host_label

    def close(self, *, timeout: float | None = None) -> None:
        self.streams.close()
        self.plugging.late.close()
        super().close(timeout=timeout)


def _bounded(operation: Callable[..., Any], *, changes: bool) -> Callable[..., Any]:
    """An operation whose calls end with its deadline, and whose errors promise what is true."""

    @functools.wraps(operation)
    def bounded(
        self: LibvirtDriver, *args: Any, timeout: float | None = None, **kwargs: Any
    ) -> Any:
        with self.connection.operation(timeout):
            try:
                with truthful() if changes else nullcontext():
                    return operation(self, *args, timeout=timeout, **kwargs)
            except errors.HypervisorFault as error:
                # whatever it was doing: libvirt writes something down of nearly everything
                full = full_daemon(self.connection.remote, error)
                if full is None:
                    raise
                raise full from error

    return bounded


for _name, _rules in OPERATIONS.items():
    if hasattr(LibvirtDriver, _name) and _name != "close":
        setattr(
            LibvirtDriver,
            _name,
            _bounded(getattr(LibvirtDriver, _name), changes=_rules.changes),
        )
