"""Mutants that leave something behind in the caller's process."""

from __future__ import annotations

import os
import threading

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.fake.config import FakeConfig
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.host import FakeHost
from hvdrivers.models.instance import InstanceSpec


class _Threads(FakeDriver):
    """Its threads end with the connection, or after a while: a leak, and not for ever."""

    def __init__(self, host: FakeHost, config: FakeConfig | None = None) -> None:
        super().__init__(host, config)
        self._leak_over = threading.Event()

    def _leak(self) -> None:
        threading.Thread(target=self._leak_over.wait, args=(30.0,), daemon=True).start()

    def close(self, *, timeout: float | None = None) -> None:
        super().close(timeout=timeout)
        self._leak_over.set()


@mutant("CONC-006")
class ThreadPerPing(_Threads):
    """Each ping() starts a thread that never ends."""

    def ping(self, *, timeout: float | None = None) -> None:
        super().ping(timeout=timeout)
        self._leak()


@mutant("CONC-006")
class ThreadPerFailure(_Threads):
    """Each spawn() that fails leaves a thread."""

    def _check_spec(self, spec: InstanceSpec) -> None:
        try:
            super()._check_spec(spec)
        except errors.HypervisorError:
            self._leak()
            raise


@mutant("CONC-006")
class ThreadPerConnection(_Threads):
    """close() does not end the thread of the connection."""

    def __init__(self, host: FakeHost, config: FakeConfig | None = None) -> None:
        super().__init__(host, config)
        self._leak()

    def close(self, *, timeout: float | None = None) -> None:
        FakeDriver.close(self, timeout=timeout)


class _Descriptors(FakeDriver):
    def __init__(self, host: FakeHost, config: FakeConfig | None = None) -> None:
        super().__init__(host, config)
        self._leaked: list[int] = []

    def _leak(self) -> None:
        self._leaked.append(os.open(os.devnull, os.O_RDONLY))

    def close(self, *, timeout: float | None = None) -> None:
        super().close(timeout=timeout)
        while self._leaked:
            os.close(self._leaked.pop())


@mutant("CONC-007")
class DescriptorPerPing(_Descriptors):
    """Each ping() leaves a descriptor open."""

    def ping(self, *, timeout: float | None = None) -> None:
        super().ping(timeout=timeout)
        self._leak()


@mutant("CONC-007")
class DescriptorPerFailure(_Descriptors):
    """Each spawn() that fails leaves a descriptor open."""

    def _check_spec(self, spec: InstanceSpec) -> None:
        try:
            super()._check_spec(spec)
        except errors.HypervisorError:
            self._leak()
            raise


@mutant("CONC-007")
class DescriptorPerConnection(_Descriptors):
    """close() leaves a descriptor open."""

    _all: list[int] = []  # noqa: RUF012 - closed by the next but sixteen

    def close(self, *, timeout: float | None = None) -> None:
        super().close(timeout=timeout)
        self._all.append(os.open(os.devnull, os.O_RDONLY))
        if len(self._all) > 16:
            os.close(self._all.pop(0))
