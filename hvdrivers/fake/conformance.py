"""The fake as a target of the conformance suite. Its inventory is the independent observer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from pydantic import SecretStr

from hvdrivers.conformance.engine import image_files as imagefiles
from hvdrivers.conformance.engine.observer import FaultSeam, Observer
from hvdrivers.conformance.engine.target import FOREIGN_TEXT, Target
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.driver import ComputeDriver, Driver
from hvdrivers.driverkit.images import staging_name
from hvdrivers.fake.config import FakeConfig, FakePool, HostSize
from hvdrivers.fake.driver import FakeDriver, host_of
from hvdrivers.fake.observer import FakeObserver, FakeSeam
from hvdrivers.fake.records import ImageRecord
from hvdrivers.fake.served import served
from hvdrivers.fake.world import FakeWorld
from hvdrivers.guard import guarded
from hvdrivers.models.guest import GuestCredentials
from hvdrivers.models.image import HostImage, ImageFormat, ImageRef
from hvdrivers.models.migration import BlockerKind, Destination
from hvdrivers.models.vif import NetworkVif, Vif
from hvdrivers.models.volume import Volume

if TYPE_CHECKING:
    from hvdrivers.conformance.mutants.registry import Mutant


class FakeTarget(Target):
    """A fake host of its own for each run.

    Args:
        driver: the class to test: FakeDriver, or a mutant of it.
    """

    name = "fake"
    simulated = True
    makes_host = True

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
        self.host.reads_image = lambda descriptor: tuple(imagefiles.texts(descriptor))
        self._observer = FakeObserver(self.host)
        self._passphrases: dict[str, bytes] = {}
        self._folder: TemporaryDirectory[str] | None = None
        self._file: ImageRef | None = None

    def driver_class(self) -> type[Driver]:
        return self._driver

    def connect(self) -> ComputeDriver:
        return guarded(self._driver.connect(self._config))

    def connect_nowhere(self, seconds: float, *, silent: bool) -> ComputeDriver:
        """A fake host that is unreachable. The fake has no wire: refused and silent are one."""
        self._world.host("nowhere").stop_answering()
        there = self._config.model_copy(update={"host": "nowhere", "size": HostSize()})
        return guarded(self._driver.connect(there))

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

    def sriov_vif(self, vif_id: str) -> Vif:
        return NetworkVif(id=vif_id, network="default", sriov=True)

    @contextmanager
    def without_functions(self) -> Iterator[None]:
        host = self._world.host("elsewhere")
        usual = host.size
        host.size = usual.model_copy(update={"functions": frozenset()})
        try:
            yield
        finally:
            host.size = usual

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
    def keeping_guest(self, driver: ComputeDriver, uuid: UUID) -> Iterator[None]:
        guest = self.host.guest(uuid)
        before = guest.detach_seconds, guest.accepts_hotplug
        guest.detach_seconds, guest.accepts_hotplug = 86400.0, False
        try:
            yield
        finally:
            guest.detach_seconds, guest.accepts_hotplug = before
            self.host.let_go(uuid)

    @contextmanager
    def deaf_guest(self, driver: ComputeDriver, uuid: UUID) -> Iterator[None]:
        guest = self.host.guest(uuid)
        guest.acpi = False
        try:
            yield
        finally:
            guest.acpi = True

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
        guest.endless.add("/bin/true")
        try:
            yield ["/bin/true"]
        finally:
            guest.endless.clear()
            self.host.end_programs(uuid)

    def program_runs(self, driver: ComputeDriver, uuid: UUID) -> bool:
        return self.host.runs_programs(uuid)

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

    @contextmanager
    def served_volume(self, driver: ComputeDriver, kind: Capability) -> Iterator[Volume]:
        volume = served(kind, f"hvct-{uuid4().hex[:8]}")
        try:
            yield volume
        finally:
            with self._world.lock:
                self._world.volumes.pop(volume.volume_id, None)

    @contextmanager
    def locked_volume(self, driver: ComputeDriver, passphrase: bytes) -> Iterator[Volume]:
        with self.served_volume(driver, Capability.VOLUME_NFS) as volume:
            self._passphrases[volume.volume_id] = passphrase
            yield volume

    def opened(self, driver: ComputeDriver, uuid: UUID, volume_id: str) -> bool:
        """The host plays what QEMU does: it compares the secret that the driver has stored."""
        with self._world.lock:
            stored = self.host.secrets.get(f"{uuid}/{volume_id}/luks")
        wanted = self._passphrases[volume_id].hex()
        return stored is not None and stored.value.get_secret_value() == wanted

    def lose_volume(self, driver: ComputeDriver, volume_id: str) -> None:
        self.host.lose_volume(volume_id)

    def shared_directories(self) -> tuple[str, str]:
        return "/srv/share", "/srv/other"

    def hostile_images(self) -> Sequence[tuple[str, ImageRef]]:
        if self._folder is None:
            self._folder = TemporaryDirectory(prefix="hvct-")
        return imagefiles.hostile(Path(self._folder.name))

    @contextmanager
    def dead_upload(self, driver: ComputeDriver, key: str, *, quiet: bool) -> Iterator[str]:
        name = staging_name(key)
        age = timedelta(hours=6 if quiet else 0)
        record = ImageRecord(key, ImageFormat.RAW, 0, 4096, (), None, self.host.clock.wall() - age)
        uploads = self.host.default_pool.uploads
        with self._world.lock:
            uploads[name] = record
        try:
            yield name
        finally:
            with self._world.lock:
                uploads.pop(name, None)

    def close(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    @contextmanager
    def foreign_machine(self, name: str | None = None) -> Iterator[UUID]:
        uuid = self.host.add_foreign(name=name or "somebody else's")
        self.host.write_disk(uuid, FOREIGN_TEXT)
        try:
            yield uuid
        finally:
            if uuid in self.host.machines and not self.host.machines[uuid].ours:
                self.host.remove_foreign(uuid)

    @contextmanager
    def copied_machine(self, driver: ComputeDriver, uuid: UUID) -> Iterator[UUID]:
        copy = self.host.copy_machine(uuid)
        try:
            yield copy
        finally:
            self.host.remove_foreign(copy)

    def boots(self, driver: ComputeDriver, uuid: UUID) -> int:
        with self._world.lock:
            return host_of(driver).machines[uuid].boots

    def on_disk(self, driver: ComputeDriver, uuid: UUID, text: str) -> bool:
        content = host_of(driver).disk_content(uuid)
        return text in content or f"write:{text}" in content

    @contextmanager
    def slowed(self, operation: str, seconds: float) -> Iterator[None]:
        self.host.latency[operation] = seconds
        try:
            yield
        finally:
            self.host.latency.pop(operation, None)


def mutant_target(mutant: Mutant) -> FakeTarget:
    """The target for a driver that is broken on purpose (``conformance/mutants/``)."""
    return FakeTarget(mutant.driver)
