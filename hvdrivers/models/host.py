"""The host itself."""

from __future__ import annotations

from enum import StrEnum

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
    accelerated: bool
    """True: guests run on the CPU's virtualisation extensions. False: they are emulated."""


class HostPowerAction(StrEnum):
    """What host_power() does."""

    REBOOT = "reboot"
    SHUTDOWN = "shutdown"
