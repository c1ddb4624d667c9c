"""The two joined interfaces, and the register of all operations.

``Driver``
    what an author writes: Core, plus any of the optional interfaces as further base classes.
``ComputeDriver``
    what a user gets from connect(): every operation, guarded. One that the driver has not
    raises NotSupported, and ``why_not()`` tells why beforehand.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping
from enum import Enum
from types import MappingProxyType, TracebackType
from typing import ClassVar, Self
from uuid import UUID

from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.connection import Connection
from hvdrivers.contract.consoles import Consoles, InteractiveConsole, ScreenCapture
from hvdrivers.contract.errors import InvalidState
from hvdrivers.contract.events import Events
from hvdrivers.contract.fields import Fields
from hvdrivers.contract.guest import GuestAddresses, GuestExec, GuestFreeze, GuestPassword
from hvdrivers.contract.images import ImageCache
from hvdrivers.contract.lifecycle import (
    Adopt,
    HotResizeCpu,
    HotResizeMemory,
    Lifecycle,
    Rebuild,
    Rescue,
    Resize,
)
from hvdrivers.contract.limits import Limit
from hvdrivers.contract.maintenance import HostPower, Maintenance
from hvdrivers.contract.metrics import Metrics
from hvdrivers.contract.migration import (
    ColdMigration,
    LiveMigration,
    LiveMigrationAbort,
    LiveMigrationForce,
    MoveInSteps,
)
from hvdrivers.contract.network import Network, VifQosControl
from hvdrivers.contract.operation import Operation, operations_of
from hvdrivers.contract.power import CrashDump, Pause, Power, StartPaused, Suspend
from hvdrivers.contract.resources import Placement, Resources
from hvdrivers.contract.shares import Shares
from hvdrivers.contract.snapshots import IncrementalBackup, Snapshots, SnapshotToImage
from hvdrivers.contract.states import InstanceState, Outcome, Row
from hvdrivers.contract.storage import (
    DiskQosControl,
    ExtendVolume,
    HostVolumes,
    Reconnect,
    Storage,
    StorageMigration,
    SwapVolume,
)
from hvdrivers.models.config import DriverConfig


class Core(Connection, Resources, Lifecycle, Power, Storage, Network, Events, Metrics):
    """The operations that every driver has."""


class Driver(Core):
    """Base of every driver. See "write a driver" in the documentation for the least one.

    A driver raises only errors of ``contract.errors``; the guard in front of it adds operation,
    host and instance to them, checks arguments, results and capabilities, serialises changes of
    one instance, and bounds each call. The driver itself needs none of that, but it must honour
    ``timeout``, which the guard always gives it: the seconds that are left.
    """

    driver_name: ClassVar[str]
    """The name under which it is registered: ``libvirt``."""
    config_model: ClassVar[type[DriverConfig]]
    """What connect() takes for this driver."""

    takes: ClassVar[Fields] = MappingProxyType({})
    """The optional fields of specs, volumes and NICs that the driver honours (``contract.fields``).
    The guard refuses every other before the driver is called."""

    @property
    def limits(self) -> Mapping[Limit, str]:
        """What of Core this hypervisor cannot do, each with the reason in one sentence. A driver
        may set it as a class attribute."""
        return {}

    @property
    def lacking(self) -> Mapping[Capability, str]:
        """Why this hypervisor has no such capability, in one sentence each: for ``why_not()``,
        where the driver does not implement it. What is not named gets what to do instead
        (``contract.instead``). A driver may set it as a class attribute."""
        return {}

    @classmethod
    @abstractmethod
    def connect(cls, config: DriverConfig) -> Self:
        """Connect to the host that ``config`` names.

        Raises:
            ConnectionFailed, AuthenticationFailed, PermissionDenied.
        """

    @property
    @abstractmethod
    def host_label(self) -> str:
        """The host as errors and logs name it: never with credentials."""


class ComputeDriver(
    Core,
    Placement,
    Rescue,
    Resize,
    HotResizeCpu,
    HotResizeMemory,
    Rebuild,
    Adopt,
    Pause,
    StartPaused,
    Suspend,
    CrashDump,
    ExtendVolume,
    SwapVolume,
    DiskQosControl,
    Reconnect,
    HostVolumes,
    StorageMigration,
    VifQosControl,
    Consoles,
    InteractiveConsole,
    ScreenCapture,
    Snapshots,
    SnapshotToImage,
    IncrementalBackup,
    ImageCache,
    GuestPassword,
    GuestFreeze,
    GuestExec,
    GuestAddresses,
    LiveMigration,
    LiveMigrationAbort,
    LiveMigrationForce,
    ColdMigration,
    MoveInSteps,
    Maintenance,
    HostPower,
    Shares,
):
    """Every operation of the contract: what connect() returns."""

    @property
    @abstractmethod
    def driver_name(self) -> str:
        """Name of the driver behind it."""

    @property
    @abstractmethod
    def host_label(self) -> str:
        """The host as errors and logs name it: never with credentials."""

    @property
    @abstractmethod
    def capabilities(self) -> frozenset[Capability]:
        """What this driver can do on this host beyond Core."""

    @property
    @abstractmethod
    def takes(self) -> Fields:
        """The optional fields of specs, volumes and NICs that the driver honours. A call with any
        other raises NotSupported."""

    @property
    @abstractmethod
    def limits(self) -> Mapping[Limit, str]:
        """What of Core this hypervisor cannot do, each with the reason in one sentence."""

    @abstractmethod
    def why_not(self, capability: Capability) -> str | None:
        """Why ``capability`` is not there, in one sentence; None if it is."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


OPERATIONS: Mapping[str, Operation] = MappingProxyType(operations_of(ComputeDriver))
"""Every operation by name."""

CORE_OPERATIONS: frozenset[str] = frozenset(operations_of(Core))
"""Names of the operations that every driver has."""


def check_state(
    operation: str,
    state: InstanceState,
    uuid: UUID,
    *,
    variant: Enum | None = None,
    capabilities: Collection[Capability] = frozenset(),
) -> Outcome:
    """Raise InvalidState if the table does not allow ``operation`` in ``state``.

    Drivers call it with the state that they have just read; it is the only place where an
    InvalidState for a wrong state is made. ``capabilities`` are the driver's own, where they allow
    more states than the contract asks of every driver.
    """
    rules = OPERATIONS[operation]
    outcomes = rules.row_for({"variant": variant}, capabilities)
    if outcomes is None:
        raise TypeError(f"{operation} is not about an instance")
    if not outcomes[state].legal:
        legal = ", ".join(each for each in InstanceState if outcomes[each].legal)
        raise InvalidState(
            f"{operation} is not possible while the instance is {state}",
            instance=uuid,
            hint=f"possible while it is: {legal}",
        )
    return outcomes[state]


def state_table(capabilities: Collection[Capability] = frozenset()) -> dict[str, Row]:
    """The whole (operation, state) table: a row per instance operation, and one per variant
    (``reboot[soft]``). Without ``capabilities``: the states that hold for every driver that has the
    operation."""
    rows: dict[str, Row] = {}
    for name, rules in OPERATIONS.items():
        if rules.states is not None:
            rows[name] = rules.row_for({}, capabilities) or rules.states
            rows |= {f"{name}[{value.value}]": row for value, row in rules.variants.items()}
    return rows
