"""A vSphere server as a target of the conformance suite.

::

    hvdrivers conformance run vmware --option host=vcenter.example --option username=... \\
        --option password=... --option network="VM Network"

Everything that the suite does beside the driver goes over a session of pyVmomi's own. Its guests
are played: what a guest would write to its disk the target writes into the disk's file.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar
from uuid import UUID, uuid4

from pyVmomi import vim

from hvdrivers.conformance.engine import image_files
from hvdrivers.conformance.engine.dead_ends import dead_port
from hvdrivers.conformance.engine.observer import FaultSeam, Observer, PreconditionMissing
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.driver import ComputeDriver, Driver
from hvdrivers.driverkit import staging_name
from hvdrivers.guard import guarded, unguarded
from hvdrivers.models.guest import GuestCredentials
from hvdrivers.models.image import ImageFormat, ImageRef
from hvdrivers.models.migration import BlockerKind, Destination
from hvdrivers.models.vif import DvsVif, NetworkVif, Vif
from hvdrivers.models.volume import Volume
from hvdrivers.vmware.config import VmwareConfig
from hvdrivers.vmware.conformance import served
from hvdrivers.vmware.conformance.foreign import copy_of, machine_of_others
from hvdrivers.vmware.conformance.guest import PlayedGuest
from hvdrivers.vmware.conformance.observer import VmwareObserver
from hvdrivers.vmware.conformance.raw_server import RawServer
from hvdrivers.vmware.conformance.seam import VmwareSeam, end_sessions
from hvdrivers.vmware.driver import VmwareDriver

_T = TypeVar("_T")
_LONG = 6 * 3600.0
"""Seconds after which no upload is alive any more."""
_MAKING = frozenset({"CopyVirtualDisk_Task", "CreateVM_Task", "PowerOnVM_Task", "ReconfigVM_Task"})
_WHOLE = "CloneVM_Task"
"""The call that makes all of a machine."""
_SLOWED = {"spawn": _MAKING | {_WHOLE}, "migrate_storage": frozenset({"RelocateVM_Task"})}
_SHARE = 0.25
"""Of the time by which a spawn is slowed: it makes at least so many of these calls."""


class _Slow:
    """Calls that make a part of a machine take their share of the time."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.names = frozenset[str]()

    def __call__(self, name: str, send: Callable[[], _T], /) -> _T:
        if self.seconds and name in self.names:
            threading.Event().wait(self.seconds * (2 if name == _WHOLE else 1))
        return send()


class VmwareTarget(PlayedGuest):
    """One vCenter cluster or ESXi host.

    Args:
        driver: the class to test.
        image: None: a small disk made here.
        network: a network of the host for NICs.
        other: name of another cluster or host of the vCenter, that machines can move to.
        unfit: name of one that is in maintenance and reaches no datastore and no network.
        guest_user: an account of the image that may do everything in it, as root.
        guest_password: its password.
        wake: what starts an ESXi host again that was shut down. None: it must stay up.
        thorough: False: of each change a few calls are cut, by the seed, instead of all.
        array: a storage array that the hosts reach. None: volumes of an array are not tried.
        options: fields of VmwareConfig.
    """

    name = "vmware"
    simulated = True

    def __init__(
        self,
        driver: type[VmwareDriver] = VmwareDriver,
        *,
        image: ImageRef | None = None,
        network: str = "VM Network",
        thorough: bool = True,
        other: str | None = None,
        unfit: str | None = None,
        guest_user: str | None = None,
        guest_password: str = "",
        wake: Callable[[], object] | None = None,
        array: served.Array | None = None,
        **options: Any,
    ) -> None:
        self._driver = driver
        self.config = VmwareConfig(**{"scsi_controllers": 1} | options)
        self._slow = _Slow()
        self._layers = ExitStack()
        self._image = image
        self._network = network
        self._thorough = thorough
        self._other, self._unfit = other, unfit
        self._wake = wake
        self._array = array
        account = None
        if guest_user is not None:
            account = GuestCredentials(user=guest_user, password=guest_password)
        super().__init__(RawServer(self.config), self.config, account)
        self._observer = VmwareObserver(self.server, self.config.directory, self.config.compute)
        self._folder: TemporaryDirectory[str] | None = None

    @property
    def thorough(self) -> bool:
        return self._thorough

    def driver_class(self) -> type[Driver]:
        return self._driver

    def connect(self) -> ComputeDriver:
        driver = self._driver.connect(self.config)
        # for as long as the driver lives: slowed() counts for whoever calls
        self._layers.enter_context(driver.session.seam.through(self._slow))
        return guarded(driver)

    def connect_nowhere(self, seconds: float, *, silent: bool) -> ComputeDriver:
        with dead_port(silent=silent) as port:
            there = {"host": "127.0.0.1", "port": port, "connect_timeout": seconds}
            return guarded(self._driver.connect(self.config.model_copy(update=there)))

    @contextmanager
    def slowed(self, operation: str, seconds: float) -> Iterator[None]:
        """Each call that makes a part of the machine takes its share of the time."""
        if operation not in _SLOWED:
            raise PreconditionMissing(f"the target slows {', '.join(_SLOWED)}, not {operation}()")
        self._slow.names = _SLOWED[operation]
        self._slow.seconds = min(seconds * _SHARE, 0.3)
        try:
            yield
        finally:
            self._slow.seconds = 0.0

    def _temporary(self) -> Path:
        if self._folder is None:
            self._folder = TemporaryDirectory(prefix="hvct-")
        return Path(self._folder.name)

    def image(self) -> ImageRef:
        if self._image is None:
            self._image = image_files.fresh(self._temporary(), ImageFormat.QCOW2, checksum=True)
        return self._image

    def vif(self, vif_id: str) -> Vif:
        return NetworkVif(id=vif_id, network=self._network)

    def sriov_vif(self, vif_id: str) -> Vif:
        if len(self.server.read(vim.HostSystem, "name")) > 1:
            raise PreconditionMissing("a cluster of several hosts gives no virtual functions")
        return NetworkVif(id=vif_id, network=self._network, sriov=True)

    def vif_to_nowhere(self, vif_id: str) -> Vif:
        return NetworkVif(id=vif_id, network="hvct-nowhere")

    @contextmanager
    def passing_network(self, vif_id: str) -> Iterator[Vif]:
        """A distributed port group on vCenter, a standard one on ESXi."""
        name = f"hvct-{uuid4().hex[:8]}"
        switches = self.server.read(vim.DistributedVirtualSwitch, "name")
        if switches:
            spec = vim.dvs.DistributedVirtualPortgroup.ConfigSpec(
                name=name, numPorts=8, type="earlyBinding"
            )
            self.server.wait(switches[0][0].AddDVPortgroup_Task([spec]))
            groups = self.server.read(vim.dvs.DistributedVirtualPortgroup, "name")
            group = next(obj for obj, values in groups if values["name"] == name)
            try:
                yield DvsVif(id=vif_id, port_group=name)
            finally:
                self.server.wait(group.Destroy_Task())
            return
        host, _ = self.server.read(vim.HostSystem, "name")[0]
        system = self.server.of(host, "configManager.networkSystem")
        network_system = system["configManager.networkSystem"]
        network_system.AddPortGroup(
            vim.host.PortGroup.Specification(
                name=name, vlanId=0, vswitchName="vSwitch0", policy=vim.host.NetworkPolicy()
            )
        )
        try:
            yield NetworkVif(id=vif_id, network=name)
        finally:
            network_system.RemovePortGroup(name)

    def observer(self) -> Observer:
        return self._observer

    def faults(self, driver: ComputeDriver) -> FaultSeam:
        return VmwareSeam(unguarded(driver, VmwareDriver), self.server)

    @contextmanager
    def broken_connection(self, driver: ComputeDriver) -> Iterator[None]:
        """The sessions end, as with a server that was started anew, and the connections break."""
        inner = unguarded(driver, VmwareDriver)
        end_sessions(self.server)
        inner.session.transport.cut()
        inner.listener.transport.cut()
        yield

    @contextmanager
    def dead_upload(self, driver: ComputeDriver, key: str, *, quiet: bool) -> Iterator[str]:
        """A folder as an upload makes it. Only a datastore in a folder of this machine, as the
        simulator has it, has an old one."""
        name = staging_name(key)
        content, where = self.server.content, self.server.datacenter[0]
        folder = unguarded(driver, VmwareDriver).folders.path("images", name)
        content.fileManager.MakeDirectory(folder, where, True)
        try:
            self.server.file(f"{folder}/disk-4096-flat.vmdk", b"half of it")
            if quiet:
                self._age(folder)
            yield name
        finally:
            with suppress(vim.fault.FileNotFound):  # the driver has removed it
                self.server.wait(content.fileManager.DeleteDatastoreFile_Task(folder, where))

    def _age(self, folder: str) -> None:
        root = self.local_path(folder)
        if root is None or not root.is_dir():
            raise PreconditionMissing("the datastore is not a folder of this machine")
        for file in (*root.iterdir(), root):
            long_ago = file.stat().st_mtime - _LONG
            os.utime(file, (long_ago, long_ago))

    def hostile_images(self) -> Sequence[tuple[str, ImageRef]]:
        return image_files.hostile(self._temporary())

    @contextmanager
    def foreign_machine(self, name: str | None = None) -> Iterator[UUID]:
        with machine_of_others(self.server, self.config, self._pool(), name) as uuid:
            yield uuid

    @contextmanager
    def copied_machine(self, driver: ComputeDriver, uuid: UUID) -> Iterator[UUID]:
        with copy_of(self.server, self.config, self._pool(), uuid) as copy:
            yield copy

    def _pool(self) -> Any:
        computes = self.server.read(vim.ComputeResource, "name", "resourcePool")
        wanted = self.config.compute
        return next(v["resourcePool"] for _, v in computes if wanted in (None, v["name"]))

    def crash(self, driver: ComputeDriver, uuid: UUID) -> None:
        """The machine's process ends: vSphere shows that as powered off."""
        self._observer.power_off(uuid)

    # ---- other hosts ----------------------------------------------------------------------------

    def other_host(self) -> tuple[Destination, ComputeDriver]:
        if self._other is None:
            raise PreconditionMissing("the target names no other host (other=)")
        config = self.config.model_copy(update={"compute": self._other})
        return Destination(host=self._other), guarded(self._driver.connect(config))

    def unfit_host(self) -> tuple[Destination, frozenset[BlockerKind]]:
        if self._unfit is None:
            raise PreconditionMissing("the target names no unfit host (unfit=)")
        return Destination(host=self._unfit), frozenset(
            {BlockerKind.RESOURCES, BlockerKind.STORAGE, BlockerKind.NETWORK}
        )

    @contextmanager
    def expendable_host(self) -> Iterator[None]:
        if self._wake is None:
            raise PreconditionMissing("the target cannot start its host again (wake=)")
        try:
            yield
        finally:
            self._wake()

    @contextmanager
    def restless_guest(self, driver: ComputeDriver, uuid: UUID) -> Iterator[None]:
        """A guest whose migration comes to no end."""
        self.set_extra(uuid, "hvct.restless", "yes")
        try:
            yield
        finally:
            with suppress(PreconditionMissing):
                self.set_extra(uuid, "hvct.restless", "")

    @contextmanager
    def served_volume(self, driver: ComputeDriver, kind: Capability) -> Iterator[Volume]:
        datastore = self.config.datastore
        if datastore is not None and kind is Capability.VOLUME_VMDK:
            with served.in_a_shadow(self.server, datastore, self._pool()) as shadow:
                yield shadow
        elif datastore is not None and kind is Capability.VOLUME_FCD:
            with served.in_the_catalog(self.server, datastore) as first_class:
                yield first_class
        elif self._array is not None and kind in {Capability.VOLUME_ISCSI, Capability.VOLUME_FC}:
            with self._array.export(kind) as lun:
                yield lun
        else:
            raise PreconditionMissing(f"the target has no server for {kind} (served_volume)")

    def lose_volume(self, driver: ComputeDriver, volume_id: str) -> None:
        path = next(each.path for each in driver.list_volumes() if each.volume_id == volume_id)
        datacenter, _ = self.server.datacenter
        manager = self.server.content.virtualDiskManager
        self.server.wait(manager.DeleteVirtualDisk_Task(path, datacenter))

    def grow_volume(self, driver: ComputeDriver, volume_id: str, size_bytes: int) -> None:
        if self._array is not None and self._array.grow(volume_id, size_bytes):
            return
        paths = (each.path for each in driver.list_volumes() if each.volume_id == volume_id)
        path = next(paths, None) or served.path_of(self.server, volume_id)
        if path is None and served.grow(self.server, volume_id, size_bytes):
            return
        datacenter, _ = self.server.datacenter
        manager = self.server.content.virtualDiskManager
        self.server.wait(
            manager.ExtendVirtualDisk_Task(path, datacenter, size_bytes // 1024, False)
        )

    def close(self) -> None:
        self._layers.close()
        self.server.drop()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
