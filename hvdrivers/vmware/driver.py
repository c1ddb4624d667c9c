"""The vSphere driver: the topic classes, joined over one session."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, Self

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.driver import Driver
from hvdrivers.contract.fields import Fields
from hvdrivers.contract.limits import Limit
from hvdrivers.driverkit.events import Streams
from hvdrivers.driverkit.feeds import Feed
from hvdrivers.driverkit.hub import Hub
from hvdrivers.models.config import DriverConfig
from hvdrivers.models.disk import OwnDisk
from hvdrivers.models.image import HostImage
from hvdrivers.models.instance import InstanceSpec, Keep
from hvdrivers.models.migration import Destination
from hvdrivers.models.vif import DvsVif, NetworkVif, VifQos
from hvdrivers.models.vif.common import VifBase
from hvdrivers.models.volume import DiskQos, VmdkData, VolumeAttachment, VolumeData
from hvdrivers.vmware.adopt import VmwareAdopt
from hvdrivers.vmware.cache import VmwareImages
from hvdrivers.vmware.changes import Changes
from hvdrivers.vmware.claim import Claims
from hvdrivers.vmware.cloning import Cloning
from hvdrivers.vmware.config import VmwareConfig
from hvdrivers.vmware.connection import VmwareConnection
from hvdrivers.vmware.consoles import VmwareConsoles
from hvdrivers.vmware.destroy import Removal
from hvdrivers.vmware.encrypted_memory import EncryptedMemory
from hvdrivers.vmware.event_feed import EventFeed, Raw
from hvdrivers.vmware.events import VmwareEvents
from hvdrivers.vmware.export import VmwareExport
from hvdrivers.vmware.files import Files
from hvdrivers.vmware.folders import Folders
from hvdrivers.vmware.functions import Functions
from hvdrivers.vmware.groups import Groups
from hvdrivers.vmware.guest import VmwareGuest
from hvdrivers.vmware.guest_inside import Insides
from hvdrivers.vmware.guest_programs import Programs
from hvdrivers.vmware.hostpower import VmwareHostPower
from hvdrivers.vmware.images import ImageStore
from hvdrivers.vmware.lacking import LACKING
from hvdrivers.vmware.leaving_rescue import Rescues
from hvdrivers.vmware.lifecycle import VmwareLifecycle
from hvdrivers.vmware.listing import Listing
from hvdrivers.vmware.luns import Luns
from hvdrivers.vmware.machines import Machines
from hvdrivers.vmware.maintenance import VmwareMaintenance
from hvdrivers.vmware.metrics import VmwareMetrics
from hvdrivers.vmware.migration import VmwareMigration
from hvdrivers.vmware.moves import Moves
from hvdrivers.vmware.network import VmwareNetwork
from hvdrivers.vmware.own_disks import KeptDisks
from hvdrivers.vmware.passthrough import Passthrough
from hvdrivers.vmware.place import Places
from hvdrivers.vmware.power import VmwarePower
from hvdrivers.vmware.power_switch import PowerSwitch
from hvdrivers.vmware.reader import Reader
from hvdrivers.vmware.reconnect import VmwareReconnect
from hvdrivers.vmware.relocation import VmwareRelocation
from hvdrivers.vmware.rescue import VmwareRescue
from hvdrivers.vmware.reshape import VmwareReshape
from hvdrivers.vmware.resources import VmwareResources
from hvdrivers.vmware.room import Room
from hvdrivers.vmware.seen_images import SeenImages
from hvdrivers.vmware.session import Session
from hvdrivers.vmware.snapshots import VmwareSnapshots
from hvdrivers.vmware.storage import VmwareStorage
from hvdrivers.vmware.tasks import Tasks
from hvdrivers.vmware.templates import Templates
from hvdrivers.vmware.told_targets import ToldTargets
from hvdrivers.vmware.uploads import PartialUploads
from hvdrivers.vmware.usage import Usage
from hvdrivers.vmware.volumes import VolumeSources


class VmwareDriver(
    VmwareResources,
    VmwareRescue,
    VmwarePower,
    VmwareLifecycle,
    VmwareReshape,
    VmwareAdopt,
    VmwareStorage,
    VmwareNetwork,
    VmwareReconnect,
    VmwareImages,
    VmwareConsoles,
    VmwareGuest,
    VmwareEvents,
    VmwareMetrics,
    VmwareMaintenance,
    VmwareHostPower,
    VmwareSnapshots,
    VmwareExport,
    VmwareRelocation,
    VmwareMigration,
    VmwareConnection,
    Driver,
):
    """An ESXi host, or a cluster or host of a vCenter."""

    driver_name: ClassVar[str] = "vmware"
    config_model: ClassVar[type[DriverConfig]] = VmwareConfig
    takes: ClassVar[Fields] = MappingProxyType(
        {
            InstanceSpec: frozenset({"disks"}),
            OwnDisk: frozenset({"size_mib", "bus", "kept"}),
            Keep: frozenset({Keep.EPHEMERAL_DISKS.value, Keep.SWAP_DISK.value}),
            HostImage: frozenset({"cached"}),
            Destination: frozenset({"storage"}),  # vCenter knows its hosts, and how they talk
            VolumeAttachment: frozenset({"bus"}),
            # of a LUN the guest sees the unit's own blocks: its mapping is physical
            VolumeData: frozenset(
                {"logical_block_size", "physical_block_size", "enforce_multipath"}
            ),
            VmdkData: frozenset({"profile_id"}),
            VifBase: frozenset({"model", "active"}),
            NetworkVif: frozenset({"sriov"}),
            DvsVif: frozenset({"port_key", "opaque_network_type", "sriov"}),
            DiskQos: frozenset({"total_iops_sec"}),
            VifQos: frozenset({"outbound"}),
        }
    )
    limits = MappingProxyType(
        {
            Limit.NEVER_CRASHED: "vSphere shows a machine that died as powered off",
            Limit.DETACH_UNASKED: "vSphere takes a device from a running guest without asking it",
            Limit.EVENTS_MERGED: "a property collector tells the newest value only",
        }
    )

    lacking: ClassVar[Mapping[Capability, str]] = LACKING

    def __init__(self, config: VmwareConfig) -> None:
        self.config = config
        self.session = Session(config)
        self.reader = Reader(self.session)
        self.tasks = Tasks(self.session, self.reader)
        self.places = Places(self.session, self.reader)
        self.files = Files(self.session, self.tasks, self.places)
        self.folders = Folders(config, self.session, self.places, self.files)
        self.machines = Machines(self.session, self.reader, self.places)
        self.changes = Changes(self.machines, self.tasks)
        self.moves = Moves(self.session, self.reader)
        self.power = PowerSwitch(self.reader, self.tasks, self.moves)
        self.room = Room(config, self.places)
        self.passthrough = Passthrough(config, self.reader, self.places, self.machines)
        self.functions = Functions(self.reader, self.places, self.machines)
        self.encrypted_memory = EncryptedMemory(self.reader, self.places)
        self.usage = Usage(self.machines)
        self.groups = Groups(self.reader, self.tasks, self.places, self.machines)
        self.listing = Listing(self.machines)
        told = ToldTargets(self.places, self.files, self.folders)
        self.luns = Luns(self.reader, self.places, self.machines, told)
        self.volumes = VolumeSources(
            self.session,
            self.reader,
            self.places,
            self.files,
            folders=self.folders,
            luns=self.luns,
        )
        self.seen = SeenImages()
        self.uploads = PartialUploads(self.session, self.places, self.files, self.folders)
        self.images = ImageStore(
            self.places, self.files, self.folders, uploads=self.uploads, seen=self.seen
        )
        self.templates = Templates(
            config,
            self.session,
            self.reader,
            self.tasks,
            self.places,
            files=self.files,
            room=self.room,
            seen=self.seen,
        )
        self.kept_disks = KeptDisks(self.files, self.folders, self.usage)
        self.cloning = Cloning(
            self.tasks,
            self.places,
            self.files,
            self.machines,
            seen=self.seen,
            templates=self.templates,
        )
        self.claims = Claims(
            self.reader,
            self.tasks,
            self.places,
            self.machines,
            files=self.files,
            folders=self.folders,
        )
        self.removal = Removal(
            self.tasks,
            self.places,
            self.machines,
            self.changes,
            power=self.power,
            usage=self.usage,
            files=self.files,
            folders=self.folders,
            luns=self.luns,
            groups=self.groups,
        )
        self.rescues = Rescues(self.machines, self.changes, self.power, self.files, self.folders)
        self.insides = Insides(self.session, self.reader, self.places)
        self.programs = Programs(self.insides)
        self.listener = Session(config, background=True)
        """The session of the event stream: it is opened when the first stream is."""
        self.hub: Hub[Raw] = Hub()
        self.questions = EventFeed(self.listener, self.places, self.hub)
        feed = Feed(
            self.hub,
            begin=self.questions.begin,
            ask=self.questions.ask,
            interrupt=self.questions.interrupt,
        )
        self.streams = Streams(feed)

    @classmethod
    def connect(cls, config: DriverConfig) -> Self:
        """Budget: 2 requests and 2 calls, 2 more where a datastore, folder or pool is named."""
        if not isinstance(config, VmwareConfig):
            raise errors.InvalidRequest(
                "the vSphere driver needs a VmwareConfig",
                hint='connect("vsphere", host=...) makes one',
            )
        driver = cls(config)
        try:
            with driver.session.link.use():  # a server that is silent is given up in time
                driver.places.get()
        except BaseException:
            driver.close()
            raise
        return driver

    @property
    def host_label(self) -> str:
        """The server and the cluster or host, without credentials."""
        return self.config.host_label

    def close(self, *, timeout: float | None = None) -> None:
        """End the streams, log out. Budget: 1 call, 3 more if there was a stream."""
        self.streams.close()
        self.listener.close()
        self.insides.close()
        super().close(timeout=timeout)
