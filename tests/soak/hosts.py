"""What a driver brings to the soak: a host, its faults, and who looks at it beside the driver."""

from __future__ import annotations

import hashlib
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.models.image import FileImage, HostImage, ImageFormat, ImageRef
from hvdrivers.models.instance import Flavor
from hvdrivers.models.migration import Destination
from hvdrivers.models.vif import Vif
from hvdrivers.models.volume import PoolVolume

PATTERN = 1 << 20
"""Bytes of a volume that carry its pattern."""


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong on a host, and is put right again."""

    name: str
    strike: Callable[[random.Random, Callable[[object], None]], None]
    """Let it happen. Its second argument takes the UUID of each machine that is about to die."""
    heal: Callable[[], None]
    longest: float = 5.0
    """Seconds that it lasts at most."""


class SoakHost(ABC):
    """One host. A context manager: leaving it ends everything."""

    driver: str
    flavor: Flavor = Flavor(vcpus=1, memory_mib=64)
    volume_format: ImageFormat = ImageFormat.RAW
    """Of the volumes that are attached."""
    forgets_crashes = False
    """A crashed machine may be STOPPED without anybody's doing: the host has forgotten why it is
    off."""
    runs_to_the_end = False
    """A machine that is being switched off is RUNNING until its process has gone, also one that was
    PAUSED."""
    parallel_clients = True
    """False: the host lives in one process, and so do all clients."""

    def __enter__(self) -> SoakHost:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @abstractmethod
    def options(self) -> Mapping[str, Any]:
        """What a client process connects with, through what the faults strike. JSON values."""

    @abstractmethod
    def direct(self) -> ComputeDriver:
        """A connection that no fault strikes."""

    @abstractmethod
    def image(self) -> ImageRef:
        """What the machines are made from."""

    @abstractmethod
    def faults(self) -> Sequence[Fault]:
        """What can go wrong here."""

    @abstractmethod
    def residue(self) -> set[str]:
        """Everything on the host that a driver could leave, by an independent observer."""

    def destination(self) -> Destination | None:
        """Where the instances of another host go that move here, as clients and faults have it;
        None: nothing moves here."""
        return None

    def conflicts(self) -> list[str]:
        """What two machines have that only one may have, at this moment; nothing where the host
        does not answer."""
        return []

    def vif(self, vif_id: str) -> Vif | None:
        """A NIC that can be plugged; None if there is no network."""
        return None

    @abstractmethod
    def write(self, volume: PoolVolume, data: bytes) -> None:
        """Write to the beginning of a volume, past the driver."""

    @abstractmethod
    def read(self, volume: PoolVolume, length: int) -> bytes:
        """Read the beginning of a volume, past the driver."""

    def healthy(self, driver: ComputeDriver) -> None:  # noqa: B027
        """Wait until nothing is under way on the host any more."""

    @abstractmethod
    def close(self) -> None:
        """End it."""


def pattern(volume_id: str) -> bytes:
    """What a volume must contain from the beginning of the soak to its end."""
    return hashlib.shake_128(volume_id.encode()).digest(PATTERN)


@contextmanager
def hosts(name: str, number: int) -> Iterator[list[SoakHost]]:
    """So many hosts of a driver."""
    made: list[SoakHost] = []
    try:
        for index in range(number):
            made.append(_make(name, index))
        yield made
    finally:
        for each in made:
            each.close()


def _make(name: str, index: int) -> SoakHost:
    if name == "fake":
        from tests.soak.fake_host import FakeSoakHost

        return FakeSoakHost(index)
    if name == "libvirt":
        from tests.soak.libvirt_host import LibvirtSoakHost

        return LibvirtSoakHost(index)
    if name == "hyperv":
        from tests.soak.hyperv_host import HypervSoakHost

        return HypervSoakHost(index)
    if name == "vmware":
        from tests.soak.vmware_host import VmwareSoakHost

        return VmwareSoakHost(index)
    raise SystemExit(f"no soak host for {name!r}")


_IMAGES: Mapping[str, type[FileImage | HostImage]] = {"file": FileImage, "host": HostImage}


def image_of(host: Mapping[str, Any]) -> ImageRef:
    """What a host's machines are made from, as its client's configuration tells it."""
    fields = dict(host["image"])
    return _IMAGES[fields["source"]].model_validate(fields)


def uuid_of(seed: int, *parts: object) -> UUID:
    """The same UUID for the same seed and parts: a client that takes over knows its instances."""
    digest = hashlib.sha256(":".join(map(str, (seed, *parts))).encode()).digest()
    return UUID(bytes=digest[:16], version=4)
