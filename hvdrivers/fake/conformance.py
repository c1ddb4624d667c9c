"""The fake as a target of the conformance suite. Its inventory is the independent observer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar
from uuid import UUID

from pydantic import SecretStr

from hvdrivers.conformance import imagefiles
from hvdrivers.conformance.target import FaultSeam, Observer, Target
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.driver import ComputeDriver, Driver
from hvdrivers.fake.config import FakeConfig, FakePool, HostSize
from hvdrivers.fake.driver import FakeDriver, host_of
from hvdrivers.fake.faults import FaultKind, FaultRule
from hvdrivers.fake.host import FakeHost
from hvdrivers.fake.world import FakeWorld
from hvdrivers.guard import guarded
from hvdrivers.models.guest import GuestCredentials, Share
from hvdrivers.models.image import HostImage, ImageFormat, ImageRef
from hvdrivers.models.instance import Firmware
from hvdrivers.models.migration import BlockerKind, Destination
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import NetworkVif, Vif, VifQos


class FakeObserver(Observer):
    """Reads the host's records, not the driver."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host

    def states(self) -> dict[UUID, InstanceState]:
        return {each.uuid: each.state for each in self._host.ours()}

    def residue(self) -> frozenset[str]:
        # without times: one attempt is compared with the next
        return frozenset(
            re.sub(r"datetime\.datetime\([^()]*\)", "...", str(item))
            for item in self._host.inventory().without_cache().items
        )

    def devices(self, uuid: UUID) -> frozenset[str]:
        return frozenset(
            re.sub(rf" (by|of) {uuid}$", "", item.id)
            for item in self._host.inventory().of(uuid)
            if item.kind in {"lock", "port"}
        )

    def disk_limits(self, uuid: UUID) -> dict[str, dict[str, int]]:
        with self._host.world.lock:
            return {
                name: disk.qos.limits() if disk.qos is not None else {}
                for name, disk in self._host.machines[uuid].volumes.items()
            }

    def vif_limits(self, uuid: UUID) -> dict[str, VifQos | None]:
        with self._host.world.lock:
            ports = self._host.ports.values()
            return {port.vif.id: port.vif.qos for port in ports if port.owner == uuid}

    def shares(self, uuid: UUID) -> dict[str, Share]:
        with self._host.world.lock:
            return dict(self._host.machines[uuid].shares)

    def frozen(self, uuid: UUID) -> bool:
        with self._host.world.lock:
            return self._host.machines[uuid].frozen

    def fittings(self, uuid: UUID) -> frozenset[Capability]:
        host = self._host
        with host.world.lock:
            machine = host.machines[uuid]
            uefi = machine.firmware is Firmware.UEFI and uuid in host.nvram
            found = {
                Capability.UEFI: uefi,
                Capability.SECURE_BOOT: uefi and machine.secure_boot,
                Capability.VTPM: machine.vtpm and uuid in host.tpm,
                Capability.SEV: machine.sev,
            }
        return frozenset(each for each, there in found.items() if there)

    def own_disks(self, uuid: UUID) -> list[int]:
        with self._host.world.lock:
            disks = [disk for _, disk in self._host.disks_of(uuid)]
        return [disk.size_bytes for disk in disks if disk.role in {"root", "ephemeral", "swap"}]

    def seed(self, uuid: UUID) -> dict[str, bytes]:
        return self._host.seed_files(uuid)

    def read_only(self, uuid: UUID) -> frozenset[str]:
        with self._host.world.lock:
            volumes = self._host.machines[uuid].volumes
            return frozenset(name for name, disk in volumes.items() if disk.attachment.read_only)

    def foreign(self) -> dict[UUID, tuple[str, InstanceState]]:
        with self._host.world.lock:
            machines = self._host.machines.values()
            return {each.uuid: (each.name, each.state) for each in machines if not each.ours}

    def power_off(self, uuid: UUID) -> None:
        self._host.shut_down_guest(uuid)


class FakeSeam(FaultSeam):
    """The fault rules of the host. Calls of every connection count, in the order of arrival."""

    deadline = 30.0  # a rule strikes at once

    _KINDS: ClassVar = {
        "before": FaultKind.BEFORE,
        "after": FaultKind.AFTER,
        "timeout": FaultKind.TIMEOUT,
        "expired": FaultKind.AUTH_EXPIRED,
    }

    def __init__(self, host: FakeHost) -> None:
        self._host = host

    @contextmanager
    def counting(self) -> Iterator[list[str]]:
        names: list[str] = []
        before = self._host.round_trips
        yield names
        calls = self._host.transcript()[-(self._host.round_trips - before) or None :]
        if self._host.round_trips > before:
            names += [call.name for call in calls if not call.undoing]

    @contextmanager
    def cut(self, call: int, kind: str) -> Iterator[None]:
        rule = FaultRule(operation="*", when=self._KINDS[kind], nth=call + 1)
        with self._host.faults.add(rule):
            yield


class FakeTarget(Target):
    """A fake host of its own for each run.

    Args:
        driver: the class to test: FakeDriver, or a mutant of it.
    """

    name = "fake"
    simulated = True

    def __init__(self, driver: type[Driver] = FakeDriver, **options: object) -> None:
        self._driver = driver
        self._world = FakeWorld()
        self._config = FakeConfig.model_validate(
            {
                "host": "conformance",
                "world": self._world,
                "size": HostSize(directories=frozenset({"/srv/share", "/srv/other"})),
                **options,
            }
        )
        self.host = self._world.host("conformance", self._config)
        self._observer = FakeObserver(self.host)
        self._folder: TemporaryDirectory[str] | None = None
        self._file: ImageRef | None = None

    def driver_class(self) -> type[Driver]:
        return self._driver

    def connect(self) -> ComputeDriver:
        return guarded(self._driver.connect(self._config))

    def image(self) -> ImageRef:
        if Capability.IMAGE_HOST not in self._config.without:
            return HostImage(name="cirros")
        if self._file is None:
            if self._folder is None:
                self._folder = TemporaryDirectory(prefix="hvct-")
            self._file = imagefiles.fresh(Path(self._folder.name), ImageFormat.QCOW2, checksum=True)
        return self._file

    def vif(self, vif_id: str) -> Vif:
        return NetworkVif(id=vif_id, network="private")

    def vif_to_nowhere(self, vif_id: str) -> Vif:
        return NetworkVif(id=vif_id, network="hvct-nowhere")

    @contextmanager
    def passing_network(self, vif_id: str) -> Iterator[Vif]:
        self.host.add_network("network", "passing")
        try:
            yield NetworkVif(id=vif_id, network="passing")
        finally:
            self.host.remove_network("network", "passing")

    def observer(self) -> Observer:
        return self._observer

    def crash(self, driver: ComputeDriver, uuid: UUID) -> None:
        self.host.crash(uuid)

    @contextmanager
    def stubborn_guest(self, driver: ComputeDriver, uuid: UUID) -> Iterator[None]:
        guest = self.host.guest(uuid)
        before = guest.detach_seconds, guest.acpi, guest.accepts_hotplug
        guest.detach_seconds, guest.acpi, guest.accepts_hotplug = 86400.0, False, False
        try:
            yield
        finally:
            guest.detach_seconds, guest.acpi, guest.accepts_hotplug = before

    @contextmanager
    def refusing_guest(self, driver: ComputeDriver, uuid: UUID) -> Iterator[None]:
        guest = self.host.guest(uuid)
        guest.refuses_unplug = True
        try:
            yield
        finally:
            guest.refuses_unplug = False

    def faults(self, driver: ComputeDriver) -> FaultSeam:
        return FakeSeam(self.host)

    @contextmanager
    def broken_connection(self, driver: ComputeDriver) -> Iterator[None]:
        with self.host.unreachable():
            yield

    def write_disk(self, driver: ComputeDriver, uuid: UUID, text: str, disk: str = "root") -> None:
        host_of(driver).write_disk(uuid, text, disk)

    def written(self, driver: ComputeDriver, uuid: UUID, disk: str = "root") -> Sequence[str]:
        content = host_of(driver).disk_content(uuid, disk)
        return [each.removeprefix("write:") for each in content if each.startswith("write:")]

    def accepts_password(self, driver: ComputeDriver, uuid: UUID, user: str, password: str) -> bool:
        return self.host.password(uuid, user) == password

    @contextmanager
    def account_needed(self, driver: ComputeDriver, uuid: UUID) -> Iterator[GuestCredentials]:
        guest = self.host.guest(uuid)
        guest.accounts = {"operator": "hvct-secret"}
        try:
            yield GuestCredentials(user="operator", password=SecretStr("hvct-secret"))
        finally:
            guest.accounts = None

    @contextmanager
    def silent_agent(self, driver: ComputeDriver, uuid: UUID) -> Iterator[None]:
        guest = self.host.guest(uuid)
        guest.agent = False
        try:
            yield
        finally:
            guest.agent = True

    @contextmanager
    def endless_program(self, driver: ComputeDriver, uuid: UUID) -> Iterator[Sequence[str]]:
        guest = self.host.guest(uuid)
        guest.exec_seconds = 86400.0
        try:
            yield ["/bin/true"]
        finally:
            guest.exec_seconds = 0.0

    def other_host(self) -> tuple[Destination, ComputeDriver]:
        config = self._config_of("elsewhere", self._config.size)
        return Destination(host="elsewhere"), guarded(self._driver.connect(config))

    def unfit_host(self) -> tuple[Destination, frozenset[BlockerKind]]:
        size = HostSize(
            memory_mib=64,
            hugepages={},
            pools=(FakePool(name="other"),),
            networks=frozenset(),
            product_version="0.9",
            architecture="riscv64",
        )
        self._driver.connect(self._config_of("unfit", size)).close()
        kinds = set(BlockerKind) - {BlockerKind.DEVICE, BlockerKind.STATE, BlockerKind.CONNECTION}
        return Destination(host="unfit"), frozenset(kinds)

    def _config_of(self, host: str, size: HostSize) -> FakeConfig:
        return self._config.model_copy(update={"host": host, "size": size})

    @contextmanager
    def restless_guest(self, driver: ComputeDriver, uuid: UUID) -> Iterator[None]:
        guest = self.host.guest(uuid)
        guest.converges = False
        try:
            yield
        finally:
            guest.converges = True

    @contextmanager
    def dead_host(self, destination: Destination) -> Iterator[None]:
        with self._world.host(destination.host).unreachable():
            yield

    @contextmanager
    def expendable_host(self) -> Iterator[None]:
        try:
            yield
        finally:
            self.host.answer_again()

    def grow_volume(self, driver: ComputeDriver, volume_id: str, size_bytes: int) -> None:
        self.host.resize_volume(volume_id, size_bytes)

    def lose_volume(self, driver: ComputeDriver, volume_id: str) -> None:
        self.host.lose_volume(volume_id)

    def shared_directories(self) -> tuple[str, str]:
        return "/srv/share", "/srv/other"

    def hostile_images(self) -> Sequence[tuple[str, ImageRef]]:
        if self._folder is None:
            self._folder = TemporaryDirectory(prefix="hvct-")
        return imagefiles.hostile(Path(self._folder.name))

    def close(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    @contextmanager
    def foreign_machine(self, name: str | None = None) -> Iterator[UUID]:
        uuid = self.host.add_foreign(name=name or "somebody else's")
        try:
            yield uuid
        finally:
            if uuid in self.host.machines and not self.host.machines[uuid].ours:
                self.host.remove_foreign(uuid)

    def boots(self, driver: ComputeDriver, uuid: UUID) -> int:
        with self._world.lock:
            return host_of(driver).machines[uuid].boots

    def on_disk(self, driver: ComputeDriver, uuid: UUID, text: str) -> bool:
        return f"write:{text}" in host_of(driver).disk_content(uuid)

    @contextmanager
    def slowed(self, operation: str, seconds: float) -> Iterator[None]:
        self.host.latency[operation] = seconds
        try:
            yield
        finally:
            self.host.latency.pop(operation, None)
