"""The connection to one host: a PowerShell that is opened when it is needed, and what is sent.

Every remote call of the driver is one :meth:`Session.call`: one request, one reply. It passes the
seam under the name of the operation (``hyperv.Spawn``), where tests count and cut it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.contract.driver import OPERATIONS, check_state
from hvdrivers.contract.power import RebootKind
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.driverkit.seam import Seam
from hvdrivers.driverkit.session import Reconnecting, exchange
from hvdrivers.hyperv.config import HypervConfig
from hvdrivers.hyperv.errors import ScriptError, translate
from hvdrivers.hyperv.library import Json
from hvdrivers.hyperv.naming import meeting
from hvdrivers.hyperv.powershell import PowerShell
from hvdrivers.models.base import Model
from hvdrivers.models.state import InstanceState

READS: Final = frozenset(
    {"Ping", "Get", "List", "Host", "Metrics", "ListVolumes", "Images", "Snapshots", "Events",
     "Console", "Addresses", "Connector", "Screen", "ExportRead", "EventsBegin",
     "InMaintenance", "MoveLook", "MoveFits", "MoveCompare", "MoveState",
     "Examine"}
)  # fmt: skip
"""Requests that change nothing on the host."""


@contextmanager
def naming_states(operation: str, uuid: UUID, variant: RebootKind | None = None) -> Iterator[None]:
    """Turn a script's word for the state that it has found into the contract's error for it."""
    try:
        yield
    except errors.InvalidState as error:
        if error.vendor_code == "Hv.InvalidState":
            check_state(operation, InstanceState(error.message), uuid, variant=variant)
        raise


class HostFacts(Model):
    """What the host says of itself when the driver connects."""

    root: str
    """The driver's folder."""
    computer: str
    caption: str
    """``Microsoft Windows Server 2022 Datacenter``"""
    version: str
    """``10.0.20348``"""
    engine: str
    """PowerShell's version."""
    processors: int
    """Logical processors."""
    initiator: bool
    """It has an iSCSI initiator that the account may use."""
    fibre: bool
    """It has a Fibre Channel port that the account may use."""
    assigns: bool
    """Its module assigns devices."""
    gpus: bool
    """It has a GPU that can be cut into partitions."""


class Session:
    """One host. Thread-safe."""

    def __init__(self, config: HypervConfig) -> None:
        self.config = config
        self.seam = Seam()
        self._proven = False
        """Whether the host has ever taken the credentials."""
        self._left: set[str] = set()
        """Shells that were given up while the host was away."""
        self.link: Reconnecting[PowerShell] = Reconnecting(
            self._open,
            close=lambda shell: shell.close(),
            alive=self._usable,
            interrupt=lambda shell: shell.interrupt(),
            limit=config.connect_timeout,
        )

    def _usable(self, shell: PowerShell) -> bool:
        return shell.alive and shell.requests < self.config.requests_per_process

    def _open(self, limit: float) -> PowerShell:
        deadline = Deadline(limit)
        try:
            shell = PowerShell.open(self.config, limit, self._left)
        except errors.AuthenticationFailed:
            # a service that restarts refuses credentials that it has taken before and takes again
            if not self._proven:
                raise
            shell = PowerShell.open(self.config, limit, self._left)
        self._proven = True
        try:
            pools = [{"name": name, "path": path} for name, path in self.config.pools.items()]
            arguments = {
                "folder": self.config.folder or "",
                "pools": pools,
                "disks": self.config.disk_slots,
                "nics": self.config.nic_slots,
                "mmio": self.config.gpu_mmio_mib << 20,
            }
            facts = HostFacts.model_validate(shell.request("Open", arguments, deadline))
            why = meeting(self.config.pools, facts.root)
            if why is not None:
                hint = "give each pool a folder of its own, beside the driver's"
                raise errors.InvalidRequest(why, hint=hint)
            shell.facts = facts
        except ScriptError as error:
            shell.close()
            raise self._cannot_open(error) from error
        except BaseException:
            shell.close()
            raise
        return shell

    @staticmethod
    def _cannot_open(error: ScriptError) -> errors.HypervisorError:
        translated = translate(error)
        if isinstance(translated, errors.NotSupported):
            return errors.ConnectionFailed(
                "the host has no Hyper-V, or no PowerShell module for it",
                vendor_code=translated.vendor_code,
                hint="Install-WindowsFeature Hyper-V, Hyper-V-PowerShell",
                retryable=False,
            )
        if isinstance(translated, errors.PermissionDenied):
            return translated
        return errors.ConnectionFailed(
            f"the host is not ready: {translated.message}", vendor_code=translated.vendor_code
        )

    def facts(self, deadline: Deadline | None = None) -> HostFacts:
        """What the host said when it was connected. No call."""
        with self.link.use(deadline) as shell:
            assert isinstance(shell.facts, HostFacts)  # noqa: S101 - _open() has set it
            return shell.facts

    def call(
        self,
        operation: str,
        arguments: Mapping[str, Json],
        deadline: Deadline,
        *,
        data: bytes | None = None,
        counted: bool = True,
    ) -> Any:
        """Run a script's function on the host. One round trip.

        Args:
            operation: ``Spawn`` runs ``Invoke-HvSpawn``.
            data: bytes that go along.
            counted: False for the pieces of one transfer and for polls.

        Raises:
            HypervisorError: as the table in ``errors`` says; ConnectionFailed, OutcomeUnknown,
                OperationTimeout.
        """

        def send(shell: PowerShell) -> Any:
            return shell.request(operation, arguments, deadline, data=data)

        try:
            return exchange(
                self.link,
                self.seam if counted else Seam(),
                f"hyperv.{operation}",
                send,
                changes=operation not in READS,
                deadline=deadline,
            )
        except ScriptError as error:
            raise translate(error) from error

    def clean(
        self, operation: str, arguments: Mapping[str, Json], limit: float, *, counted: bool = True
    ) -> None:
        """Remove what was made for an operation: once more if the first reply was lost, as nobody
        else would. A further one finds nothing."""
        deadline = Deadline(limit)
        try:
            self.call(operation, arguments, deadline, counted=counted)
        except errors.OutcomeUnknown:
            self.call(operation, arguments, deadline, counted=False)

    def change(
        self,
        operation: str,
        script: str,
        uuid: UUID,
        arguments: Mapping[str, Json],
        timeout: float | None,
        *,
        variant: RebootKind | None = None,
        data: bytes | None = None,
    ) -> Any:
        """Run a script that changes an instance, if the contract allows that in its state. The
        script reads the state itself, under the instance's lock. One call."""
        rules = OPERATIONS[operation]
        row = rules.row_for({"variant": variant})
        assert row is not None  # noqa: S101 - an operation about an instance has one
        legal = [state.value for state in InstanceState if row[state].legal]
        sent = {"uuid": str(uuid), "legal": legal, **arguments}
        with naming_states(operation, uuid, variant):
            return self.call(script, sent, Deadline(timeout), data=data)

    def close(self) -> None:
        """End it for good."""
        self.link.close()
