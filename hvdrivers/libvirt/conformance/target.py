"""A libvirt host as a target of the conformance suite: real QEMU guests, real cuts.

::

    hvdrivers conformance run libvirt --option uri=qemu:///system --option ovs_bridge=br-int

Everything that the suite does beside the driver goes over a libvirt connection of its own, so the
host may be another machine; only what cuts connections needs them to be sockets of this process.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID, uuid4

import libvirt

from hvdrivers.conformance.engine import image_files as imagefiles
from hvdrivers.conformance.engine.observer import FaultSeam, Observer, PreconditionMissing
from hvdrivers.contract.driver import ComputeDriver, Driver
from hvdrivers.contract.errors import ConnectionFailed
from hvdrivers.driverkit.images import staging_name
from hvdrivers.guard import guarded, unguarded
from hvdrivers.libvirt.config import LibvirtConfig
from hvdrivers.libvirt.conformance.foreign import copy_of, machine_of_others
from hvdrivers.libvirt.conformance.observer import LibvirtObserver
from hvdrivers.libvirt.conformance.raw_host import RawHost
from hvdrivers.libvirt.conformance.seam import LibvirtSeam, Send
from hvdrivers.libvirt.conformance.sockets import nowhere, servers, to_daemon
from hvdrivers.libvirt.conformance.storage import StorageGuest
from hvdrivers.libvirt.driver import LibvirtDriver
from hvdrivers.libvirt.naming import IMAGE_PREFIX
from hvdrivers.libvirt.pools import volume_xml
from hvdrivers.libvirt.session import Connection
from hvdrivers.libvirt.xml import el, parse, text
from hvdrivers.models.image import FileImage, ImageFormat, ImageRef
from hvdrivers.models.migration import BlockerKind, Destination
from hvdrivers.models.vif import BridgeVif, NetworkVif, OvsVif, Vif
from hvdrivers.models.volume import Volume
from hvdrivers.testing.guestimage import GuestImageUnavailable, build_guest_image
from hvdrivers.testing.serialguest import in_time

_MAKING = frozenset({"StoragePool.createXML", "Connect.createXML", "Connect.defineXMLFlags"})
_LEAST_MADE = 4
"""Calls of these that a spawn makes at least: for its console log, its disk, the machine twice."""
_COPYING = frozenset({"StoragePool.createXMLFrom"})
_SLOW = 4
"""MiB per second: the guest's disk of 64 MiB has gone over before force_migration() gives up, and
its memory takes longer than any check waits."""
_USUAL_SPEED = 8796093022207
"""MiB per second that a migration may take; libvirt's own default, and its most."""
_LONG = 6 * 3600.0
"""Seconds after which no upload is alive any more."""
_SLOTS = 6
"""More than the suite plugs at once. An emulated guest starts half a second faster than with the
driver's usual number of PCI Express ports."""
_OPTIONS: dict[str, Any] = {"hotplug_slots": _SLOTS, "graphics": "both"}


class LibvirtTarget(StorageGuest):
    """One libvirt daemon.

    Args:
        driver: the class to test.
        image: None: a tiny Linux, made from packages of this machine.
        bridge: a Linux bridge of the host for NICs, or
        ovs_bridge: a bridge of Open vSwitch, or
        network: a network of libvirt's.
        functions: a network of libvirt's from which machines get virtual functions (forward mode
            hostdev).
        destination: URI of another host, as this process reaches it; without one nothing is moved.
        address: of that host, as this host's QEMU reaches it.
        shared_bridge: a Linux bridge that both have; None: the network above is there too.
        unfit: URI of a third host, which has neither that network
        unfit_pool: nor room for a disk in this storage pool.
        fill: the suite may fill the file systems of the driver's pools: nobody else needs them.
        served: volumes of storage servers, see :class:`StorageGuest`.
        options: fields of LibvirtConfig; ``hotplug_slots`` is 6 if it is not among them, and
            ``graphics`` is ``both``.
    """

    name = "libvirt"
    time_scale = 2.0
    """Emulated guests share few cores."""

    def __init__(
        self,
        driver: type[LibvirtDriver] = LibvirtDriver,
        *,
        image: ImageRef | None = None,
        bridge: str | None = None,
        ovs_bridge: str | None = None,
        network: str | None = None,
        functions: str | None = None,
        destination: str | None = None,
        address: str | None = None,
        shared_bridge: str | None = None,
        unfit: str | None = None,
        unfit_pool: str | None = None,
        served: Sequence[Volume] | str | Path = (),
        fill: bool | str = False,
        **options: Any,
    ) -> None:
        self._shared_bridge = shared_bridge
        self._destination, self._unfit = (
            Destination(host=uri, storage=pool, address=address) if uri else None
            for uri, pool in ((destination, None), (unfit, unfit_pool))
        )
        self._driver = driver
        self._config = LibvirtConfig(**_OPTIONS | options)
        self._image = image
        self._bridge, self._ovs_bridge, self._network = bridge, ovs_bridge, network
        self._functions = functions
        self._slowness, self._slowed = 0.0, _MAKING
        self._emulates = False
        super().__init__(
            RawHost(self._config.uri),
            RawHost(destination) if destination else None,
            pool=self._config.pool,
            served=served,
            fill=fill in {True, "yes"},
        )
        self._observer = LibvirtObserver(self.raw, aside=self._config.aside)
        self._folder: TemporaryDirectory[str] | None = None

    def driver_class(self) -> type[Driver]:
        return self._driver

    def connect(self) -> ComputeDriver:
        driver = self._driver.connect(self._config)
        driver.connection.seam = self._slow
        if not self._emulates:
            self._emulates = self._has_emulator()
        return guarded(driver)

    def _has_emulator(self) -> bool:
        """
        Raises:
            ConnectionFailed: the daemon has found no QEMU: no machine can be there.
        """
        if parse(self.raw.connect.getCapabilities()).find("guest") is None:
            raise ConnectionFailed(
                "libvirt has found no QEMU on the host",
                hint="install it there (Debian, Ubuntu: apt-get install qemu-system-x86), and"
                " restart the daemon: systemctl restart libvirtd",
                retryable=False,
            )
        return True

    def connect_nowhere(self, seconds: float, *, silent: bool) -> ComputeDriver:
        with nowhere(self._config.uri, silent=silent) as uri:
            changed = {"uri": uri, "connect_timeout": seconds}
            return guarded(self._driver.connect(self._config.model_copy(update=changed)))

    def _slow(self, name: str, send: Send) -> Any:
        result = send()
        if self._slowness and name in self._slowed:
            time.sleep(self._slowness)
        return result

    def image(self) -> ImageRef:
        if self._image is None:
            try:
                path = build_guest_image(with_agent=True, name="with-agent")
            except GuestImageUnavailable as error:
                raise PreconditionMissing(f"no image to boot: {error}") from error
            self._image = FileImage(path=path, format=ImageFormat.QCOW2)
        return self._image

    def vif(self, vif_id: str) -> Vif:
        if self._bridge is not None:
            return BridgeVif(id=vif_id, bridge=self._bridge)
        if self._ovs_bridge is not None:
            return OvsVif(id=vif_id, bridge=self._ovs_bridge)
        if self._network is not None:
            return NetworkVif(id=vif_id, network=self._network)
        raise PreconditionMissing("no network was named (bridge=, ovs_bridge=, network=)")

    def sriov_vif(self, vif_id: str) -> Vif:
        if self._functions is None:
            raise PreconditionMissing("no network of virtual functions was named (functions=)")
        return NetworkVif(id=vif_id, network=self._functions, sriov=True)

    @contextmanager
    def without_functions(self) -> Iterator[None]:
        """It does not matter: such a machine stays where it is."""
        yield

    def vif_to_nowhere(self, vif_id: str) -> Vif:
        if self._ovs_bridge is not None:
            return OvsVif(id=vif_id, bridge="hvct-nowhere")
        return BridgeVif(id=vif_id, bridge="hvct-nowhere")

    @contextmanager
    def passing_network(self, vif_id: str) -> Iterator[Vif]:
        """A network of libvirt's own, on a bridge that nothing is ever plugged into."""
        name = f"hvct-{uuid4().hex[:8]}"
        parts = [el("name", name), el("forward", mode="bridge"), el("bridge", name="hvct-nowhere")]
        try:
            network = self.raw.connect.networkCreateXML(text(el("network", *parts)))
        except libvirt.libvirtError as error:
            raise PreconditionMissing(f"the daemon makes no network: {error}") from error
        try:
            yield NetworkVif(id=vif_id, network=name)
        finally:
            network.destroy()

    def observer(self) -> Observer:
        return self._observer

    @cached_property
    def machine_type(self) -> str:  # type: ignore[override]  # the host says
        """The newest of the usual ones, as the host names it in full."""
        machines = parse(self.raw.connect.getCapabilities()).iterfind("guest/arch/machine")
        found = (each.get("canonical") for each in machines if each.text in {"q35", "virt"})
        return next((name for name in found if name), "hvct-type")

    def faults(self, driver: ComputeDriver) -> FaultSeam:
        to_daemon(self._config.uri)  # what cannot be cut is known before anything is tried
        return LibvirtSeam(unguarded(driver, LibvirtDriver).connection, self._cut)

    @contextmanager
    def slowed(self, operation: str, seconds: float) -> Iterator[None]:
        """Each call that makes a part of the machine takes its share of the time, after the host
        has done its work: a busy host answers the first one before a short deadline, and there is
        something to undo. None takes so long that the driver, which cannot take a call back,
        would have no time left for that."""
        shares = {"spawn": (_MAKING, _LEAST_MADE), "migrate_storage": (_COPYING, 1)}
        if operation not in shares:
            raise PreconditionMissing(f"the target does not slow {operation}() down")
        self._slowed, least = shares[operation]
        self._slowness = min(seconds / least, 0.6 * self.time_scale)
        try:
            yield
        finally:
            self._slowness = 0.0

    @contextmanager
    def dead_upload(self, driver: ComputeDriver, key: str, *, quiet: bool) -> Iterator[str]:
        """A volume as an upload makes it; an old one only in a pool on this machine."""
        driver.list_cached_images()  # makes the pool where it is missing
        name = staging_name(key)
        pool = self.raw.connect.storagePoolLookupByName(self._config.pool)
        volume = pool.createXML(volume_xml(IMAGE_PREFIX + name, 1 << 20, "raw"), 0)
        try:
            if quiet:
                file = self._seen_by_the_daemon(volume.path())
                try:
                    long_ago = file.stat().st_mtime - _LONG
                    os.utime(file, (long_ago, long_ago))
                except OSError as error:
                    raise PreconditionMissing(f"no file of the pool ages here: {error}") from error
            yield name
        finally:
            with suppress(libvirt.libvirtError):  # the driver has removed it
                pool.refresh()
                pool.storageVolLookupByName(IMAGE_PREFIX + name).delete(0)

    def hostile_images(self) -> Sequence[tuple[str, ImageRef]]:
        if self._folder is None:
            self._folder = TemporaryDirectory(prefix="hvct-")
        return imagefiles.hostile(Path(self._folder.name))

    def close(self) -> None:
        super().close()
        self.raw.drop()
        if self.raw_there is not None:
            self.raw_there.drop()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    # ---- guests ---------------------------------------------------------------------------------

    def crash(self, driver: ComputeDriver, uuid: UUID) -> None:
        """QEMU dies: it may start no program, and is killed when it tries; or it starts this one,
        which kills it."""
        import libvirt_qemu

        domain = self.raw.domain(uuid)
        arguments = {"uri": "exec:kill -9 $PPID"}
        command = json.dumps({"execute": "migrate", "arguments": arguments})
        with suppress(libvirt.libvirtError):  # the one that would answer has died
            libvirt_qemu.qemuMonitorCommand(domain, command, 0)
        if not in_time(lambda: not self.raw.domain(uuid).isActive(), 15):
            raise PreconditionMissing("QEMU survives what should kill it")

    def lose_volume(self, driver: ComputeDriver, volume_id: str) -> None:
        path = next(each.path for each in driver.list_volumes() if each.volume_id == volume_id)
        self.raw.connect.storageVolLookupByPath(path).delete(0)

    def grow_volume(self, driver: ComputeDriver, volume_id: str, size_bytes: int) -> None:
        """Only QEMU makes a qcow2 volume larger that it has: extend_volume() lets it do so."""
        volumes = (each for each in driver.list_volumes() if each.volume_id == volume_id)
        found = next(volumes, None)
        if found is None:
            raise PreconditionMissing("the target has no way to its storage server (grow_volume)")
        if found.format is ImageFormat.RAW:
            self.raw.connect.storageVolLookupByPath(found.path).resize(size_bytes, 0)

    # ---- other hosts ----------------------------------------------------------------------------

    def other_host(self) -> tuple[Destination, ComputeDriver]:
        if self._destination is None:
            raise PreconditionMissing("no second host was named (destination=)")
        config = self._config.model_copy(update={"uri": self._destination.host})
        return self._destination, guarded(self._driver.connect(config))

    def movable_vif(self, vif_id: str) -> Vif:
        if self._shared_bridge is None:
            return self.vif(vif_id)
        return BridgeVif(id=vif_id, bridge=self._shared_bridge)

    def other_observer(self) -> Observer | None:
        return LibvirtObserver(self.raw_there) if self.raw_there is not None else None

    def unfit_host(self) -> tuple[Destination, frozenset[BlockerKind]]:
        if self._unfit is None:
            raise PreconditionMissing("no unfit host was named (unfit=, unfit_pool=)")
        return self._unfit, frozenset({BlockerKind.NETWORK, BlockerKind.STORAGE})

    @contextmanager
    def restless_guest(self, driver: ComputeDriver, uuid: UUID) -> Iterator[None]:
        """The wire is so slow that any guest is faster."""
        self.raw.domain(uuid).migrateSetMaxSpeed(_SLOW)
        try:
            yield
        finally:
            with suppress(libvirt.libvirtError):  # it has gone
                self.raw.domain(uuid).migrateSetMaxSpeed(_USUAL_SPEED)

    # ---- machines of others, and the connection -------------------------------------------------

    @contextmanager
    def foreign_machine(self, name: str | None = None) -> Iterator[UUID]:
        with machine_of_others(self.raw, self._config.pool, name) as uuid:
            yield uuid

    @contextmanager
    def copied_machine(self, driver: ComputeDriver, uuid: UUID) -> Iterator[UUID]:
        with copy_of(self.raw, uuid) as copy:
            yield copy

    @contextmanager
    def broken_connection(self, driver: ComputeDriver) -> Iterator[None]:
        self._cut(unguarded(driver, LibvirtDriver).connection)
        yield

    def _cut(self, connection: Connection) -> None:
        """Shut every socket from this process to the daemon, and wait until the driver knows."""
        links = connection.links.links
        found = to_daemon(self._config.uri)
        for descriptor in found:
            with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as each:
                each.shutdown(socket.SHUT_RDWR)
        if not in_time(lambda: not any(each.alive for each in links), 10):
            raise PreconditionMissing("the connection survives the end of its socket")

    def _seen_by_the_daemon(self, path: str) -> Path:
        """A file as a daemon on this machine sees it, which may have mounts of its own."""
        pid = next((each for each in servers(self._config.uri)[0] if isinstance(each, int)), None)
        if pid is None:
            raise PreconditionMissing("the daemon is on another machine")
        return Path(f"/proc/{pid}/root") / path.lstrip("/")
