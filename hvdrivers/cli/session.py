"""One run of the command: its settings, its connection, its way to write results."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from hvdrivers.cli.output import Output, emit
from hvdrivers.cli.parsing import HOST_VARIABLE
from hvdrivers.cli.report import BadUsageError, secrets_of_url

if TYPE_CHECKING:
    from rich.table import Table

    from hvdrivers.contract.driver import ComputeDriver
    from hvdrivers.models.instance import InstanceSummary

_PREFIX = re.compile(r"[0-9a-f]{4,}", re.IGNORECASE)


@dataclass
class Session:
    """What the options before and after the command's name say."""

    output: Output = Output.TABLE
    config: Path | None = None
    timeout: float | None = None
    verbose: bool = False
    debug: bool = False
    target: str = ""
    """The host, for a command of a group."""
    secrets: set[str] = field(default_factory=set)
    """What must appear in nothing that is written."""

    def emit(self, value: Any, view: Callable[[], Table | str]) -> None:
        """Write a result in the form that was asked for."""
        emit(value, self.output, view)

    @contextmanager
    def host(self, host: str | None = None) -> Iterator[ComputeDriver]:
        """Connect to the host that the command line names, for as long as it takes."""
        host = host_named(self.target if host is None else host)
        self.secrets |= secrets_of_url(host)
        with connect(host, self.config) as driver:
            yield driver

    def find(self, driver: ComputeDriver, text: str) -> UUID:
        """The instance that the command line names: a UUID, a name, or the beginning of a UUID.

        A whole UUID costs no round trip, and need not exist.
        """
        found = uuid_of(text)
        if found is not None:
            return found
        return choose(driver.list_instances(timeout=self.timeout), text).uuid


def connect(host: str, config: Path | None) -> ComputeDriver:
    """connect() as the command line means it: ``--config`` replaces the default file of hosts,
    and says nothing about URLs and drivers."""
    from importlib.metadata import entry_points  # slow: not for --help

    from hvdrivers.plugins import connect as library_connect

    if config is None or "://" in host or host in entry_points(group="hvdrivers.drivers").names:
        return library_connect(host)
    return library_connect(host, config_file=config)


def host_named(host: str) -> str:
    """``-`` stands for ``$HVDRIVERS_HOST``."""
    if host != "-":
        return host
    default = os.environ.get(HOST_VARIABLE, "")
    if not default:
        raise BadUsageError(
            f"HOST is '-', and {HOST_VARIABLE} is not set", hint=f"export {HOST_VARIABLE}=..."
        )
    return default


def uuid_of(text: str) -> UUID | None:
    """The UUID, if this is a whole one."""
    try:
        return UUID(text)
    except ValueError:
        return None


def choose(instances: Sequence[InstanceSummary], text: str) -> InstanceSummary:
    """The one instance with this name or beginning of its UUID.

    Both count alike: tenants choose names, and a machine named ``7e1f`` must not stand in for
    another whose UUID begins so.
    """
    from hvdrivers.contract.errors import InstanceNotFound

    prefix = text.replace("-", "").lower() if _PREFIX.fullmatch(text.replace("-", "")) else None
    candidates = [
        each
        for each in instances
        if each.name == text or (prefix is not None and each.uuid.hex.startswith(prefix))
    ]
    if not candidates:
        raise InstanceNotFound(
            f"no instance has the name {text!r}, or a UUID that begins with it",
            hint="hvdrivers list HOST shows what exists (at least 4 digits of a UUID are needed)",
        )
    if len(candidates) > 1:
        listed = ", ".join(f"{each.uuid} ({each.name})" for each in candidates[:10])
        more = f" and {len(candidates) - 10} more" if len(candidates) > 10 else ""
        raise BadUsageError(
            f"{text!r} can be any of {len(candidates)} instances: {listed}{more}",
            hint="give the UUID",
        )
    return candidates[0]
