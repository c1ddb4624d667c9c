"""The host itself."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from hvdrivers.models.base import Model


class HostInfo(Model):
    """Product, version, architecture: what a report or a bug needs to name."""

    driver: str
    """Name of the driver: ``libvirt``."""
    product: str
    """``QEMU``, ``VMware ESXi``, ``Microsoft Hyper-V``."""
    product_version: str
    api_version: str
    """Version of the management interface: libvirt's, vSphere API's, WinRM's."""
    architecture: str
    """``x86_64``, ``aarch64`` (the names of ``uname -m``)."""
    hostname: str
    accelerated: bool | None
    """True: guests run on the CPU's virtualisation extensions. False: they are emulated. None: no
    guest runs on a processor at all, as on a simulated host."""


class HostCheck(Model):
    """One thing that an administrator should know of a host: a line of ``hvdrivers doctor``."""

    name: str
    """``rights``, ``virtual switches``."""
    status: Literal["ok", "skip", "warn", "fail"]
    """``skip``: the host does not tell."""
    detail: str
    hint: str | None = None
    """What to do about it."""


class HostPowerAction(StrEnum):
    """What host_power() does."""

    REBOOT = "reboot"
    SHUTDOWN = "shutdown"
