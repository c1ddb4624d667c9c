"""A Hyper-V host as a target of the conformance suite: the simulator, with played guests or with
real ones.

::

    hvdrivers conformance run hyperv
    hvdrivers conformance run hyperv --option guests=real --option authentication=basic

The driver, pywinrm, the WinRM service and PowerShell are real; the Hyper-V module and what is
behind it are simulated.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID, uuid4

from hvdrivers.conformance.engine import image_files as imagefiles
from hvdrivers.conformance.engine.dead_ends import dead_port
from hvdrivers.conformance.engine.observer import FaultSeam, Observer, PreconditionMissing
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.driver import ComputeDriver, Driver
from hvdrivers.driverkit.images import staging_name
from hvdrivers.guard import guarded, unguarded
from hvdrivers.hyperv.config import HypervConfig
from hvdrivers.hyperv.conformance import marks
from hvdrivers.hyperv.conformance.devices import lend_devices
from hvdrivers.hyperv.conformance.foreign import copy_of, machine_of_others
from hvdrivers.hyperv.conformance.guest import PlayedGuest
from hvdrivers.hyperv.conformance.observer import ROOT, HypervObserver
from hvdrivers.hyperv.conformance.others import FAST, SWITCH, OtherHost, lent, with_functions
from hvdrivers.hyperv.conformance.seam import HypervSeam
from hvdrivers.hyperv.conformance.served import Server, enlarge
from hvdrivers.hyperv.driver import HypervDriver
from hvdrivers.hyperv.simulator.guests.played import Behaviour
from hvdrivers.hyperv.simulator.host import SimulatedHost
from hvdrivers.hyperv.simulator.state.eventlog import WORKER
from hvdrivers.hyperv.simulator.state.host import Switch
from hvdrivers.hyperv.simulator.state.machine import Machine
from hvdrivers.hyperv.simulator.wsman import WsmanServer
from hvdrivers.models.image import ImageFormat, ImageRef
from hvdrivers.models.migration import BlockerKind, Destination
from hvdrivers.models.vif import HypervVif, Vif
from hvdrivers.models.volume import Volume

_LONG: Final = 6 * 3600.0
"""Seconds after which no upload is alive any more."""
_DOWN: Final = 10.0
"""Seconds that a reboot takes beyond the time in which the driver tries to connect."""
_SLOTS_OF_A_MACHINE: Final = 10
"""More than the suite plugs at once; what is full is full sooner."""
_STARTS: Final = frozenset({18500, 18512, 18514})
"""Events after which a guest starts from its disks: started, and reset."""


class HypervTarget(PlayedGuest):
    """A simulated host of its own for each run.

    Args:
        driver: the class to test.
        options: fields of HypervConfig.
    """

    name = "hyperv"
    simulated = True
    makes_host = True
    immediate = False
    """PowerShell is a real one: to start, or to load a module, takes it a second or longer."""
    not_shown: Mapping[str, str] = MappingProxyType({})

    def __init__(self, driver: type[HypervDriver] = HypervDriver, **options: Any) -> None:
        self._driver = driver
        self.host = SimulatedHost("HVCT")
        self.host.start()
        with self.host.world.lock:
            for switch in (Switch(SWITCH), with_functions()):
                self.host.state.switches[switch.id] = switch
            lend_devices(self.host)
        self.service = WsmanServer(
            self.host, users={"operator": "hvct-secret"}, machine="HVCT", warm=True
        )
        fields: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": self.service.port,
            "tls": False,
            "username": "operator",
            "password": "hvct-secret",
            "folder": ROOT,
            "disk_slots": _SLOTS_OF_A_MACHINE,
            "nic_slots": _SLOTS_OF_A_MACHINE,
            "pools": {"second": "C:\\hvct-second"},
        }
        self.config = HypervConfig.model_validate(fields | options)
        self._observer = HypervObserver(self.host)
        self._others: dict[str, OtherHost] = {}
        self._there: HypervDriver | None = None
        """The connection that other_host() lends: each new one costs a process on the host."""
        self._folder = TemporaryDirectory(prefix="hvct-")
        self._server = Server(self.host, Path(self._folder.name))
        self._image: ImageRef | None = None
        self._lock = threading.Lock()

    def driver_class(self) -> type[Driver]:
        return self._driver

    def connect(self) -> ComputeDriver:
        return guarded(self._driver.connect(self.config))

    def connect_nowhere(self, seconds: float, *, silent: bool) -> ComputeDriver:
        with dead_port(silent=silent) as port:
            there = {"host": "127.0.0.1", "port": port, "connect_timeout": seconds}
            return guarded(self._driver.connect(self.config.model_copy(update=there)))

    def image(self) -> ImageRef:
        with self._lock:
            if self._image is None:
                folder = Path(self._folder.name)
                self._image = imagefiles.fresh(folder, ImageFormat.RAW, checksum=True)
            return self._image

    def vif(self, vif_id: str) -> Vif:
        return HypervVif(id=vif_id, switch=SWITCH)

    def sriov_vif(self, vif_id: str) -> Vif:
        return HypervVif(id=vif_id, switch=FAST, sriov=True)

    @contextmanager
    def without_functions(self) -> Iterator[None]:
        other = self._other("HVCT2", fit=True)
        with other.without_functions():
            yield

    def vif_to_nowhere(self, vif_id: str) -> Vif:
        return HypervVif(id=vif_id, switch="hvct nowhere")

    @contextmanager
    def passing_network(self, vif_id: str) -> Iterator[Vif]:
        switch = Switch(f"hvct passing {uuid4().hex[:6]}")
        with self.host.world.lock:
            self.host.state.switches[switch.id] = switch
        try:
            yield HypervVif(id=vif_id, switch=switch.name)
        finally:
            with self.host.world.lock:
                del self.host.state.switches[switch.id]
                for machine in self.host.state.machines.values():
                    for nic in machine.config.adapters:
                        if nic.switch == switch.id:
                            nic.switch = None

    def _other(self, name: str, *, fit: bool) -> OtherHost:
        with self._lock:
            if name not in self._others:
                self._others[name] = OtherHost(self.host, name, fit=fit)
            return self._others[name]

    def other_host(self) -> tuple[Destination, ComputeDriver]:
        port = self._other("HVCT2", fit=True).service.port
        with self._lock:
            if self._there is None:
                config = self.config.model_copy(update={"port": port})
                self._there = self._driver.connect(config)
            return Destination(host=f"127.0.0.1:{port}"), guarded(lent(self._there))

    def other_observer(self) -> Observer | None:
        return self._other("HVCT2", fit=True).observer

    def unfit_host(self) -> tuple[Destination, frozenset[BlockerKind]]:
        port = self._other("HVCT3", fit=False).service.port
        kinds = frozenset({BlockerKind.RESOURCES, BlockerKind.NETWORK})
        return Destination(host=f"127.0.0.1:{port}"), kinds

    @contextmanager
    def restless_guest(self, driver: ComputeDriver, uuid: UUID) -> Iterator[None]:
        """A guest whose migration comes to no end before somebody ends it."""
        with self.behaving(uuid, Behaviour(restless=True)):
            yield

    def _observers(self) -> list[HypervObserver]:
        return [self._observer, *(each.observer for each in self._others.values())]

    def _looking(self, uuid: UUID) -> HypervObserver:
        """Looks at the host that an instance is on."""
        for observer in self._observers():
            with suppress(KeyError):
                observer.machine(uuid)
                return observer
        raise PreconditionMissing("no simulated host has this machine")

    def guest_of(self, uuid: UUID) -> Machine:
        return self._looking(uuid).machine(uuid)

    def observer(self) -> Observer:
        return self._observer

    def faults(self, driver: ComputeDriver) -> FaultSeam:
        return HypervSeam(unguarded(driver, HypervDriver).session.seam, self.service.faults)

    @contextmanager
    def broken_connection(self, driver: ComputeDriver) -> Iterator[None]:
        self.service.restart()
        yield

    @contextmanager
    def slowed(self, operation: str, seconds: float) -> Iterator[None]:
        if operation == "migrate_storage":
            with self._slow_migration(seconds):
                yield
            return
        if operation != "spawn":
            raise PreconditionMissing(f"the target does not slow {operation}() down")
        # longer than the suite's deadline, by its time scale. Beyond that no longer than the script
        # has to undo: Hyper-V takes no start back that is under way
        timing = self.host.state.timing
        usual, timing.start = timing.start, min(seconds, max(1.5, 0.75 * self.time_scale))
        try:
            yield
        finally:
            timing.start = usual

    @contextmanager
    def _slow_migration(self, seconds: float) -> Iterator[None]:
        timing = self.host.state.timing
        usual, timing.migration = timing.migration, seconds
        try:
            yield
        finally:
            timing.migration = usual

    @contextmanager
    def keeping_guest(self, driver: ComputeDriver, uuid: UUID) -> Iterator[None]:
        """Hyper-V asks no guest: one that would keep its devices loses them all the same."""
        yield

    def crash(self, driver: ComputeDriver, uuid: UUID) -> None:
        """The worker process of the machine dies: Hyper-V shows it as off."""
        self._observer.power_off(uuid)

    def wait_booted(self, driver: ComputeDriver, uuid: UUID) -> None:
        machine = self._looking(uuid).machine(uuid)

        def booted() -> bool:
            return machine.guest is not None and machine.guest.heartbeat()

        with self.host.world.lock:
            if not self.host.state.wait_for(booted, 30):
                raise PreconditionMissing("the played guest does not boot")

    def boots(self, driver: ComputeDriver, uuid: UUID) -> int:
        with self.host.world.lock:
            machine = str(self._looking(uuid).machine(uuid).id).upper()
            hosts = [self.host, *(each.host for each in self._others.values())]
            records = [each for host in hosts for each in host.state.log.records.get(WORKER, [])]
            return sum(each.vm == machine and each.event in _STARTS for each in records)

    @contextmanager
    def foreign_machine(self, name: str | None = None) -> Iterator[UUID]:
        with machine_of_others(self.host, name) as uuid:
            yield uuid

    @contextmanager
    def copied_machine(self, driver: ComputeDriver, uuid: UUID) -> Iterator[UUID]:
        with copy_of(self.host, self._observer.machine(uuid)) as copy:
            yield copy

    # ---- disks ----------------------------------------------------------------------------------

    def disk_path(self, uuid: UUID, disk: str) -> str:
        """The host's path of a disk or volume of an instance."""
        if disk in {"root", "ephemeral", "swap"}:
            found = f"{ROOT}\\instances\\{uuid}\\{disk}"
            drives = self._looking(uuid).machine(uuid).config.drives
            for drive in drives:
                if f"\\{uuid}\\{disk}" in drive.path.lower():  # in whichever pool
                    return drive.path
            if disk == "root" and drives:
                return drives[0].path  # it boots from a volume
            return f"{found}.vhdx"
        return str(self._looking(uuid).volumes(uuid)[disk].path)

    def disk_file(self, uuid: UUID, disk: str) -> Path:
        """The same as a file of this machine."""
        return self.guest_of(uuid).host.files.file(self.disk_path(uuid, disk))

    def write_disk(self, driver: ComputeDriver, uuid: UUID, text: str, disk: str = "root") -> None:
        with self.host.world.lock:
            file = self.disk_file(uuid, disk)
        marks.write(file, text)

    def written(self, driver: ComputeDriver, uuid: UUID, disk: str = "root") -> Sequence[str]:
        with self.host.world.lock:
            return marks.read(self.disk_file(uuid, disk))

    def on_disk(self, driver: ComputeDriver, uuid: UUID, text: str) -> bool:
        return text in self.written(driver, uuid)

    @contextmanager
    def expendable_host(self) -> Iterator[None]:
        timing = self.host.state.timing
        usual = timing.coming_up
        # as long as a host takes: what reads is repeated while the driver tries to connect
        timing.coming_up = self.config.connect_timeout + _DOWN
        try:
            yield
        finally:
            timing.coming_up = usual
            self.host.power_up()

    @contextmanager
    def served_volume(self, driver: ComputeDriver, kind: Capability) -> Iterator[Volume]:
        with self._server.volume(kind) as volume:
            yield volume

    def grow_volume(self, driver: ComputeDriver, volume_id: str, size_bytes: int) -> None:
        if self._server.grow(volume_id, size_bytes):
            return
        name = volume_id.partition("/")[2]
        file = self._observer.volume_files()[name]
        enlarge(self.host, self.host.state.files.windows(file), size_bytes)

    def lose_volume(self, driver: ComputeDriver, volume_id: str) -> None:
        self._observer.volume_files()[volume_id.partition("/")[2]].unlink()

    @contextmanager
    def dead_upload(self, driver: ComputeDriver, key: str, *, quiet: bool) -> Iterator[str]:
        name = staging_name(key)
        with self.host.world.lock:
            file = self.host.state.files.file(f"{ROOT}\\images\\{name}.part")
        file.write_bytes(b"half of it")
        if quiet:
            long_ago = file.stat().st_mtime - _LONG
            os.utime(file, (long_ago, long_ago))
        try:
            yield name
        finally:
            file.unlink(missing_ok=True)

    def hostile_images(self) -> Sequence[tuple[str, ImageRef]]:
        return imagefiles.hostile(Path(self._folder.name))

    def close(self) -> None:
        if self._there is not None:
            self._there.close()
        for other in self._others.values():
            other.close()
        self.service.close()
        self.host.close()
        self._folder.cleanup()
