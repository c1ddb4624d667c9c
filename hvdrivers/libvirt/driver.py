"""The libvirt driver: the topic classes, joined over one connection."""

from __future__ import annotations

import threading
from typing import ClassVar, Self

from hvdrivers.contract import errors
from hvdrivers.contract.driver import Driver
from hvdrivers.libvirt.config import LibvirtConfig
from hvdrivers.libvirt.connection import Connection
from hvdrivers.libvirt.consoles import LibvirtConsoles
from hvdrivers.libvirt.events import LibvirtEvents
from hvdrivers.libvirt.host import LibvirtConnection
from hvdrivers.libvirt.hub import EventHub
from hvdrivers.libvirt.images import LibvirtImages
from hvdrivers.libvirt.lifecycle import LibvirtLifecycle
from hvdrivers.libvirt.metrics import LibvirtMetrics
from hvdrivers.libvirt.network import LibvirtNetwork
from hvdrivers.libvirt.pools import Pools
from hvdrivers.libvirt.power import LibvirtPower
from hvdrivers.libvirt.resources import LibvirtResources
from hvdrivers.libvirt.storage import LibvirtStorage
from hvdrivers.models.config import DriverConfig


class LibvirtDriver(
    LibvirtConnection,
    LibvirtResources,
    LibvirtLifecycle,
    LibvirtPower,
    LibvirtStorage,
    LibvirtNetwork,
    LibvirtImages,
    LibvirtConsoles,
    LibvirtEvents,
    LibvirtMetrics,
    Driver,
):
    """KVM or QEMU on one libvirt daemon."""

    driver_name: ClassVar[str] = "libvirt"
    config_model: ClassVar[type[DriverConfig]] = LibvirtConfig

    def __init__(self, config: LibvirtConfig) -> None:
        self.config = config
        self.connection = Connection(config)
        self.hub = EventHub(self.connection)
        self.pools = Pools(self.connection)
        self._known_files = {}
        self._known_lock = threading.Lock()
        self._streams = []
        self._streams_lock = threading.Lock()

    @classmethod
    def connect(cls, config: DriverConfig) -> Self:
        """Budget: 6 calls for the events, 1 for the version, 1 for what an interrupted spawn has
        left undone (and what ``narrowed()`` asks)."""
        if not isinstance(config, LibvirtConfig):
            raise errors.InvalidRequest("the libvirt driver needs a LibvirtConfig")
        driver = cls(config)
        try:
            driver.ping()
            driver.narrowed()
            driver.complete_spawns()
        except BaseException:
            driver.close()
            raise
        return driver

    @property
    def host_label(self) -> str:
        """The URI without user and parameters."""
        return self.config.host_label

    def close(self, *, timeout: float | None = None) -> None:
        self._close_streams()
        super().close(timeout=timeout)
