"""The Hyper-V driver: the topic classes, joined over one session."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, Self

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.driver import Driver
from hvdrivers.contract.fields import Fields
from hvdrivers.contract.limits import Limit
from hvdrivers.hyperv.adopt import HypervAdopt, HypervHostPower, HypervMaintenance
from hvdrivers.hyperv.config import HypervConfig
from hvdrivers.hyperv.connection import HypervConnection
from hvdrivers.hyperv.consoles import HypervConsoles
from hvdrivers.hyperv.event_feed import EventFeed
from hvdrivers.hyperv.events import HypervEvents
from hvdrivers.hyperv.examine import HypervExamine
from hvdrivers.hyperv.export import HypervExport
from hvdrivers.hyperv.guest import HypervGuest
from hvdrivers.hyperv.image_store import ImageStore
from hvdrivers.hyperv.images import HypervImages
from hvdrivers.hyperv.lacking import LACKING
from hvdrivers.hyperv.lifecycle import HypervLifecycle
from hvdrivers.hyperv.metrics import HypervMetrics
from hvdrivers.hyperv.migration import HypervMigration
from hvdrivers.hyperv.network import HypervNetwork
from hvdrivers.hyperv.power import HypervPower
from hvdrivers.hyperv.reconnect import HypervReconnect
from hvdrivers.hyperv.relocation import HypervRelocation
from hvdrivers.hyperv.reshape import HypervReshape
from hvdrivers.hyperv.resources import HypervResources
from hvdrivers.hyperv.session import Session
from hvdrivers.hyperv.snapshots import HypervSnapshots
from hvdrivers.hyperv.storage import HypervStorage
from hvdrivers.hyperv.volume_sources import VolumeSources
from hvdrivers.hyperv.wiring import Wiring
from hvdrivers.models.config import DriverConfig
from hvdrivers.models.image import HostImage
from hvdrivers.models.migration import Destination
from hvdrivers.models.vif import HypervVif, VifQos
from hvdrivers.models.vif.common import VifBase
from hvdrivers.models.volume import DiskQos, VolumeAttachment, VolumeData


class HypervDriver(
    HypervConnection,
    HypervExamine,
    HypervResources,
    HypervLifecycle,
    HypervPower,
    HypervStorage,
    HypervNetwork,
    HypervReconnect,
    HypervImages,
    HypervReshape,
    HypervSnapshots,
    HypervExport,
    HypervMigration,
    HypervRelocation,
    HypervAdopt,
    HypervMaintenance,
    HypervHostPower,
    HypervConsoles,
    HypervGuest,
    HypervEvents,
    HypervMetrics,
    Driver,
):
    """Microsoft Hyper-V on one host, by WinRM. Not verified on a Hyper-V host."""

    driver_name: ClassVar[str] = "hyperv"
    config_model: ClassVar[type[DriverConfig]] = HypervConfig
    takes: ClassVar[Fields] = MappingProxyType(
        {
            HostImage: frozenset({"cached"}),
            # of storage and address each value is refused, with a hint of its own
            Destination: frozenset({"storage", "address", "user", "password"}),
            VolumeAttachment: frozenset({"bus"}),
            # of a disk that is passed through the guest sees the unit's own blocks
            VolumeData: frozenset(
                {"logical_block_size", "physical_block_size", "enforce_multipath"}
            ),
            DiskQos: frozenset({"total_iops_sec"}),
            VifBase: frozenset({"active", "model", "vlan"}),
            HypervVif: frozenset({"sriov"}),
            VifQos: frozenset({"outbound"}),
        }
    )
    limits: ClassVar[Mapping[Limit, str]] = MappingProxyType(
        {
            Limit.NEVER_CRASHED: "Hyper-V resets a machine whose guest died, or shows it as off",
            Limit.DETACH_UNASKED: "Hyper-V takes disks and NICs away without asking the guest",
            Limit.EVENTS_MERGED: "an instance that is made and destroyed between two reads of the"
            " host's folder is not told, nor are devices that come or go just before destroy()",
        }
    )

    lacking: ClassVar[Mapping[Capability, str]] = LACKING

    def __init__(self, config: HypervConfig) -> None:
        self.config = config
        self.session = Session(config)
        self.store = ImageStore(self.session)
        self.sources = VolumeSources(self.session)
        self.wiring = Wiring()
        self.feed = EventFeed(self.session)

    @classmethod
    def connect(cls, config: DriverConfig) -> Self:
        """Budget: 1 call, and the start of PowerShell on the host."""
        if not isinstance(config, HypervConfig):
            raise errors.InvalidRequest(
                "the hyperv driver needs a HypervConfig",
                hint='connect("hyperv", host=...) makes one',
            )
        config.check_files()
        driver = cls(config)
        try:
            driver.session.facts()
        except BaseException:
            driver.close()
            raise
        return driver

    @property
    def host_label(self) -> str:
        """The host and its port."""
        return self.config.host_label

    def close(self, *, timeout: float | None = None) -> None:
        self.feed.close()
        super().close(timeout=timeout)
