"""What a fake host is made of, and how to connect to one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Self
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field

from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.errors import InvalidRequest
from hvdrivers.contract.limits import Limit
from hvdrivers.fake.clock import Clock
from hvdrivers.fake.faults import FaultRule
from hvdrivers.models.base import Identifier, Model, PrintableText
from hvdrivers.models.config import DriverConfig
from hvdrivers.models.image import ImageFormat
from hvdrivers.models.pci import PciAddress
from hvdrivers.models.resources import MediatedType, PciDevice

if TYPE_CHECKING:
    from hvdrivers.fake.world import FakeWorld

Latency = float | Callable[[], float]
"""Seconds, or something that gives them at each call."""

_Size = Annotated[int, Field(ge=0)]


def seconds_of(latency: Latency) -> float:
    """What a latency is this time."""
    return latency if isinstance(latency, int | float) else latency()


class FakePool(Model):
    """A storage pool of a fake host."""

    name: Identifier
    total_gib: _Size = 1024
    """GiB."""
    shared: bool = False
    """Every host of the same world that has a shared pool of this name has the same one."""


class FakeImage(Model):
    """An image that the host already has: what ``HostImage`` names."""

    name: Identifier
    format: ImageFormat = ImageFormat.QCOW2
    virtual_size_bytes: _Size = 64 << 20


def _devices() -> tuple[PciDevice, ...]:
    port = PciAddress("0000:03:00.0")
    functions = tuple(PciAddress(f"0000:03:10.{number}") for number in range(4))
    return (
        PciDevice(
            address=PciAddress("0000:17:00.0"),
            vendor_id="10de",
            product_id="20b5",
            class_code="030200",
            label="Fake compute GPU",
            driver="vfio-pci",
            numa_cell=0,
            iommu_group=10,
        ),
        PciDevice(
            address=PciAddress("0000:65:00.0"),
            vendor_id="10de",
            product_id="1eb8",
            class_code="030200",
            label="Fake GPU that can be sliced",
            numa_cell=1,
            iommu_group=11,
            mediated_types=(
                MediatedType(name="fake-4q", available=4, total=4, label="GRID FAKE-4Q"),
            ),
        ),
        PciDevice(
            address=port,
            vendor_id="8086",
            product_id="1572",
            class_code="020000",
            label="Fake network adapter",
            numa_cell=0,
            iommu_group=20,
            virtual_functions=functions,
            max_virtual_functions=len(functions),
        ),
        *(
            PciDevice(
                address=function,
                vendor_id="8086",
                product_id="154c",
                class_code="020000",
                label="Fake virtual function",
                numa_cell=0,
                iommu_group=21 + number,
                physical_function=port,
            )
            for number, function in enumerate(functions)
        ),
    )


class HostSize(Model):
    """Everything a fake host has. The defaults are a middling server."""

    sockets: Annotated[int, Field(ge=1)] = 2
    """Also the number of NUMA cells."""
    cores_per_socket: Annotated[int, Field(ge=1)] = 8
    threads_per_core: Annotated[int, Field(ge=1)] = 2
    dedicated_cpus: _Size = 8
    """Hardware threads set aside for pinned virtual CPUs."""
    cpu_allocation_ratio: Annotated[float, Field(gt=0)] = 4.0
    """Shared virtual CPUs per hardware thread."""
    cpu_model: PrintableText = "Fake-Server-v2"
    cpu_features: frozenset[str] = frozenset({"aes", "avx", "avx2", "sse4_2", "vmx"})
    memory_mib: Annotated[int, Field(ge=1)] = 65536
    hugepages: Mapping[int, int] = Field(default_factory=lambda: {2048: 1024, 1048576: 4})
    """Pages by their size in KiB. Their memory is not there for ordinary machines."""
    sev_guests: _Size = 15
    """Guests with encrypted memory at the same time."""
    pools: tuple[FakePool, ...] = (FakePool(name="default"), FakePool(name="fast", total_gib=256))
    """The first is the default."""
    devices: tuple[PciDevice, ...] = Field(default_factory=_devices)
    disk_slots: _Size = 24
    """Volumes per instance."""
    nic_slots: _Size = 8
    """NICs per instance."""
    hosts: Annotated[int, Field(ge=1)] = 3
    """Hosts behind it, as behind a cluster: what the policy of a server group is about."""

    networks: frozenset[str] = frozenset({"default", "private"})
    bridges: frozenset[str] = frozenset({"br0", "br1"})
    ovs_bridges: frozenset[str] = frozenset({"br-int"})
    interfaces: frozenset[str] = frozenset({"eth0", "eth1"})
    """What a macvtap can be made on."""
    port_groups: frozenset[str] = frozenset({"VM Network"})
    """Names, keys, and NSX segments."""
    switches: frozenset[str] = frozenset({"External"})
    """Hyper-V switches."""
    functions: frozenset[str] = frozenset({"default", "VM Network", "External"})
    """Networks, port groups and switches of these that have virtual functions (SR-IOV) for NICs."""
    directories: frozenset[str] = frozenset({"/srv/share"})
    """What can be shared into a guest."""
    local_volumes: Mapping[str, int] = Field(default_factory=lambda: {"/dev/fake/lv0": 1 << 30})
    """Devices and files for ``local`` volumes: path and size in bytes."""
    images: tuple[FakeImage, ...] = (FakeImage(name="cirros"), FakeImage(name="debian"))

    limits: frozenset[Limit] = frozenset()
    """What of Core this host cannot do, as vSphere and Hyper-V cannot. Such a host shows no crash,
    takes devices without asking the guest, or merges events that nobody has read yet."""
    architecture: PrintableText = "x86_64"
    product_version: PrintableText = "1.0"
    """Compared, as text, before a migration: never to an older one."""

    @property
    def threads(self) -> int:
        """Hardware threads."""
        return self.sockets * self.cores_per_socket * self.threads_per_core

    @property
    def shared_capacity(self) -> int:
        """How many shared virtual CPUs may be powered on at the same time."""
        return math.floor((self.threads - self.dedicated_cpus) * self.cpu_allocation_ratio)

    @property
    def hugepages_mib(self) -> int:
        """Memory set aside for huge pages, MiB."""
        return sum(size * pages for size, pages in self.hugepages.items()) // 1024


class FakeConfig(DriverConfig):
    """What ``connect("fake", ...)`` takes.

    ``size``, ``clock``, ``accept_any_network`` and ``accept_any_volume`` make the host; for a
    named host that exists already they must be left out, or be the same. The rest is this
    connection's own.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    host: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")] | None = None
    """Every connection to this name shares one host. None: a new host for this connection
    alone."""
    size: HostSize = Field(default_factory=HostSize)
    clock: Clock | None = None
    """None: real time."""
    accept_any_network: bool = False
    """True: every network, bridge and switch exists."""
    accept_any_volume: bool = False
    """True: every pool volume and local path exists too. Volumes of storage servers (iSCSI, RBD,
    NFS, ...) always exist, unless ``FakeHost.lose_volume()`` takes one away."""

    without: Mapping[Capability, str] = Field(default_factory=dict)
    """Capabilities to leave out, each with the reason that ``why_not()`` gives."""
    faults: tuple[FaultRule, ...] = ()
    """Rules for this connection; ``FakeHost.faults`` has those for every connection."""
    latency: Mapping[str, Latency] = Field(default_factory=dict)
    """Seconds, by operation (``spawn``), call (``create-disk``), or ``*`` for every call. An
    operation spends its latency in the call that would take long in earnest."""
    event_buffer: Annotated[int, Field(ge=1)] = 1024
    """Events that a stream keeps for a slow consumer; then it resynchronises."""
    world: object | None = None
    """The :class:`FakeWorld` to find the host in. None: the one of this process."""

    @classmethod
    def from_url(cls, url: str, **options: object) -> Self:
        """``fake://`` or ``fake://NAME``.

        Raises:
            InvalidRequest: there is more in it than a name.
        """
        parts = urlsplit(url)
        if "@" in parts.netloc or ":" in parts.netloc or parts.path not in {"", "/"}:
            raise InvalidRequest(
                "a fake host's URL has a name, and no user, port or path",
                hint="name the host alone: fake://NAME",
            )
        if parts.query or parts.fragment:
            raise InvalidRequest(
                "a fake host's URL takes no options", hint="give them to connect() as arguments"
            )
        named: dict[str, object] = {"host": parts.netloc} if parts.netloc else {}
        return cls.model_validate(named | options)

    @property
    def in_world(self) -> FakeWorld | None:
        """``world``, typed."""
        from hvdrivers.fake.world import FakeWorld

        if self.world is not None and not isinstance(self.world, FakeWorld):
            raise InvalidRequest(
                "world must be a FakeWorld",
                hint="make one from hvdrivers.fake.FakeWorld, or leave world out",
            )
        return self.world
