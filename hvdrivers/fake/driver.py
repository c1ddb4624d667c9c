"""The fake driver: every operation of the contract, in memory.

It is written as a driver for a real hypervisor would be, in calls to a host that can fail between
any two of them, and it is the reference for what the contract means.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import declared
from hvdrivers.contract.driver import Driver
from hvdrivers.contract.fields import Fields, optional_fields
from hvdrivers.contract.limits import Limit
from hvdrivers.fake.config import FakeConfig
from hvdrivers.fake.connection import FakeConnection
from hvdrivers.fake.consoles import FakeConsoles, FakeInteractiveConsole, FakeScreenCapture
from hvdrivers.fake.events import FakeEvents
from hvdrivers.fake.groups import Groups
from hvdrivers.fake.guest import (
    FakeGuestAddresses,
    FakeGuestExec,
    FakeGuestFreeze,
    FakeGuestPassword,
)
from hvdrivers.fake.host import FakeHost
from hvdrivers.fake.image_store import Images
from hvdrivers.fake.images import FakeImageCache
from hvdrivers.fake.lifecycle import FakeAdopt, FakeLifecycle
from hvdrivers.fake.link import Link
from hvdrivers.fake.machines import Machines
from hvdrivers.fake.maintenance import FakeHostPower, FakeMaintenance
from hvdrivers.fake.metrics import FakeMetrics
from hvdrivers.fake.migration import (
    FakeColdMigration,
    FakeLiveMigration,
    FakeLiveMigrationAbort,
    FakeLiveMigrationForce,
)
from hvdrivers.fake.moves import FakeMoveInSteps
from hvdrivers.fake.moving import Moving
from hvdrivers.fake.network import FakeNetwork, FakeVifQos
from hvdrivers.fake.own_disks import OwnDisks
from hvdrivers.fake.ports import Ports
from hvdrivers.fake.power import FakeCrashDump, FakePause, FakePower, FakeStartPaused, FakeSuspend
from hvdrivers.fake.reconnect import FakeReconnect
from hvdrivers.fake.reshape import (
    FakeHotResizeCpu,
    FakeHotResizeMemory,
    FakeRebuild,
    FakeRescue,
    FakeResize,
)
from hvdrivers.fake.resources import FakeResources
from hvdrivers.fake.shares import FakeShares
from hvdrivers.fake.showing import Showing
from hvdrivers.fake.snapshots import FakeIncrementalBackup, FakeSnapshots, FakeSnapshotToImage
from hvdrivers.fake.starting import Starting
from hvdrivers.fake.storage import (
    FakeDiskQos,
    FakeExtendVolume,
    FakeHostVolumes,
    FakeStorage,
    FakeStorageMigration,
    FakeSwapVolume,
)
from hvdrivers.fake.volumes import Volumes
from hvdrivers.fake.world import default_world
from hvdrivers.guard import unguarded
from hvdrivers.models.config import DriverConfig


class FakeDriver(
    FakeConnection,
    FakeResources,
    FakeLifecycle,
    FakeRescue,
    FakeResize,
    FakeHotResizeCpu,
    FakeHotResizeMemory,
    FakeRebuild,
    FakeAdopt,
    FakePower,
    FakePause,
    FakeStartPaused,
    FakeSuspend,
    FakeCrashDump,
    FakeStorage,
    FakeExtendVolume,
    FakeSwapVolume,
    FakeDiskQos,
    FakeReconnect,
    FakeHostVolumes,
    FakeStorageMigration,
    FakeNetwork,
    FakeVifQos,
    FakeConsoles,
    FakeInteractiveConsole,
    FakeScreenCapture,
    FakeSnapshots,
    FakeSnapshotToImage,
    FakeIncrementalBackup,
    FakeImageCache,
    FakeGuestPassword,
    FakeGuestFreeze,
    FakeGuestExec,
    FakeGuestAddresses,
    FakeLiveMigration,
    FakeLiveMigrationAbort,
    FakeLiveMigrationForce,
    FakeColdMigration,
    FakeMoveInSteps,
    FakeEvents,
    FakeMetrics,
    FakeMaintenance,
    FakeHostPower,
    FakeShares,
    Driver,
):
    """A driver for a :class:`FakeHost`."""

    driver_name: ClassVar[str] = "fake"
    config_model: ClassVar[type[DriverConfig]] = FakeConfig
    takes: ClassVar[Fields] = optional_fields()

    # What the rooms of a driver are made from. A mutant of the conformance suite has a class of its
    # own in place of one of them: `class volumes_type(Volumes): ...`
    machines_type: ClassVar[type[Machines]] = Machines
    ports_type: ClassVar[type[Ports]] = Ports
    volumes_type: ClassVar[type[Volumes]] = Volumes
    images_type: ClassVar[type[Images]] = Images
    own_disks_type: ClassVar[type[OwnDisks]] = OwnDisks
    starting_type: ClassVar[type[Starting]] = Starting
    moving_type: ClassVar[type[Moving]] = Moving
    showing_type: ClassVar[type[Showing]] = Showing
    groups_type: ClassVar[type[Groups]] = Groups

    def __init__(self, host: FakeHost, config: FakeConfig | None = None) -> None:
        config = config or FakeConfig()
        self.fake_host = host
        self.link = Link(host, config)
        self.without = config.without
        self.machines = self.machines_type(host, declared(type(self)), config.without)
        self.ports = self.ports_type(host, self.machines)
        self.volumes = self.volumes_type(host, self.machines)
        self.images = self.images_type(host, self.machines)
        self.own_disks = self.own_disks_type(host, self.machines)
        self.starting = self.starting_type(host, self.volumes, self.ports)
        self.groups = self.groups_type(host)
        self.moving = self.moving_type(host, self.machines, self.ports)
        self.showing = self.showing_type(self.ports)

    @classmethod
    def connect(cls, config: DriverConfig) -> Self:
        """Connect to the host that ``config`` names, or to a new one.

        Raises:
            ConnectionFailed: the named host is not reachable (``FakeHost.unreachable()``).
        """
        if not isinstance(config, FakeConfig):
            raise errors.InvalidRequest(
                "the fake driver takes a FakeConfig", hint='connect("fake", host=...) makes one'
            )
        if config.host is not None:
            host = (config.in_world or default_world()).host(config.host, config)
            host.check_reachable()
            return cls(host, config)
        host = FakeHost(
            size=config.size,
            world=config.in_world,
            clock=config.clock,
            accept_any_network=config.accept_any_network,
            accept_any_volume=config.accept_any_volume,
        )
        return cls(host, config)

    @property
    def limits(self) -> Mapping[Limit, str]:
        """What ``HostSize.limits`` says."""
        return dict.fromkeys(self.fake_host.size.limits, "this fake host was made without it")

    @property
    def host_label(self) -> str:
        """``fake://NAME``."""
        return self.fake_host.label

    def __repr__(self) -> str:
        return f"<FakeDriver {self.fake_host.label}>"


def host_of(driver: object) -> FakeHost:
    """The fake host behind a driver, guarded or not: ``host_of(connect("fake")).crash(uuid)``.

    Raises:
        TypeError: it is not a fake driver.
    """
    return unguarded(driver, FakeDriver).fake_host
