"""Mutants of the connection, and of what a driver says about itself."""

from __future__ import annotations

import itertools
import time
from typing import ClassVar, Self

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.fake.config import FakeConfig
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.host import FakeHost
from hvdrivers.fake.world import FakeWorld
from hvdrivers.models.config import DriverConfig
from hvdrivers.models.events import LifecycleKind
from hvdrivers.models.host import HostInfo
from hvdrivers.models.state import InstanceState

_NUMBERS = itertools.count()


def _to_nowhere(config: DriverConfig) -> bool:
    return isinstance(config, FakeConfig) and config.host == "nowhere"


@mutant("CONN-001")
class SecondPingFails(FakeDriver):
    """ping() works once."""

    _pinged = False

    def ping(self, *, timeout: float | None = None) -> None:
        if self._pinged:
            raise errors.OperationTimeout("no answer")
        self._pinged = True
        super().ping(timeout=timeout)


@mutant("CONN-002")
class HostNamesAmd64(FakeDriver):
    """The architecture is what Debian calls it."""

    def host(self, *, timeout: float | None = None) -> HostInfo:
        return super().host(timeout=timeout).model_copy(update={"architecture": "amd64"})


@mutant("CONN-002")
class HostHasNoVersion(FakeDriver):
    """The version is 'unknown'."""

    def host(self, *, timeout: float | None = None) -> HostInfo:
        return super().host(timeout=timeout).model_copy(update={"product_version": "unknown"})


@mutant("CONN-003")
class CloseCutsAll(FakeDriver):
    """close() closes every connection to the host."""

    _all: ClassVar[dict[str, list[FakeDriver]]] = {}

    def __init__(self, host: FakeHost, config: FakeConfig | None = None) -> None:
        super().__init__(host, config)
        self._all.setdefault(str(id(host)), []).append(self)

    def close(self, *, timeout: float | None = None) -> None:
        for each in self._all.pop(str(id(self.fake_host)), []):
            each.link.close()


@mutant("CONN-003")
class CloseStopsMachines(FakeDriver):
    """close() stops what runs."""

    def close(self, *, timeout: float | None = None) -> None:
        super().close(timeout=timeout)
        with self.fake_host.world.lock:
            for machine in self.fake_host.ours():
                if machine.state is InstanceState.RUNNING:
                    self.fake_host.set_state(machine, InstanceState.STOPPED, LifecycleKind.STOPPED)


@mutant("CONN-005")
class ReasonIsEmpty(FakeDriver):
    """A capability is taken away without a reason."""

    def narrowed(self) -> dict[Capability, str]:
        return {**super().narrowed(), Capability.SCREENSHOT: ""}


@mutant("CONN-006")
class EveryOtherConnectionIsPoorer(FakeDriver):
    """Every second connection lacks a capability."""

    def narrowed(self) -> dict[Capability, str]:
        found = super().narrowed()
        if next(_NUMBERS) % 2:
            found[Capability.SCREENSHOT] = "no display could be opened"
        return found


@mutant("CONN-007")
class DoesNotComeBack(FakeDriver):
    """Once the connection was lost the driver is of no use any more."""

    _lost = False

    def ping(self, *, timeout: float | None = None) -> None:
        try:
            if self._lost:
                raise errors.ConnectionFailed("the connection was lost")
            super().ping(timeout=timeout)
        except errors.ConnectionFailed:
            self._lost = True
            raise


@mutant("CONN-007")
class UnreachableIsAFault(FakeDriver):
    """A host that does not answer is a HypervisorFault."""

    def ping(self, *, timeout: float | None = None) -> None:
        try:
            super().ping(timeout=timeout)
        except errors.ConnectionFailed as error:
            raise errors.HypervisorFault("internal error") from error


@mutant("CONN-008")
class LabelHasThePassword(FakeDriver):
    """The host's label is the whole URL."""

    @property
    def host_label(self) -> str:
        return f"fake://root:calvin@{self.fake_host.name}"


@mutant("CONN-009")
class ConnectsWhenItIsAsked(FakeDriver):
    """connect() asks no host: only the first operation finds that there is none."""

    @classmethod
    def connect(cls, config: DriverConfig) -> Self:
        if isinstance(config, FakeConfig) and config.host is not None:
            return cls((config.in_world or FakeWorld()).host(config.host, config), config)
        return super().connect(config)


@mutant("CONN-009")
class NowhereIsABareError(FakeDriver):
    """connect() to an address without a host is a HypervisorFault."""

    @classmethod
    def connect(cls, config: DriverConfig) -> Self:
        try:
            return super().connect(config)
        except errors.ConnectionFailed as error:
            raise errors.HypervisorFault("internal error") from error


@mutant("CONN-009")
class WaitsForNobody(FakeDriver):
    """connect() to an address without a host waits far longer than its limit."""

    @classmethod
    def connect(cls, config: DriverConfig) -> Self:
        if _to_nowhere(config):
            time.sleep(7.0)
        return super().connect(config)


@mutant("CONN-009")
class NowhereForEver(FakeDriver):
    """connect() to an address without a host says that a retry is of no use."""

    @classmethod
    def connect(cls, config: DriverConfig) -> Self:
        try:
            return super().connect(config)
        except errors.ConnectionFailed as error:
            raise errors.ConnectionFailed(error.message, retryable=False) from error
