"""The least driver: Core and nothing more, over machines that are entries of a dictionary.

The guard in front of it has checked arguments and capabilities, serialises the changes of one
instance and bounds every call, so that a driver has only its hypervisor to deal with.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from typing import ClassVar, Self
from uuid import UUID

from pydantic import SecretStr

from hvdrivers import Capability, Driver, DriverConfig, InstanceState, check_state, provides
from hvdrivers.contract.errors import InstanceExists, InstanceNotFound, NotSupported
from hvdrivers.contract.events import EventStream
from hvdrivers.contract.power import RebootKind
from hvdrivers.models.events import Event, LifecycleEvent, LifecycleKind, ResyncEvent
from hvdrivers.models.host import HostInfo
from hvdrivers.models.instance import (
    Firmware,
    ForeignInstance,
    InstanceInfo,
    InstanceSpec,
    InstanceSummary,
    Keep,
    Metadata,
)
from hvdrivers.models.metrics import InstanceMetrics
from hvdrivers.models.progress import ProgressCallback
from hvdrivers.models.resources import (
    CpuResources,
    HostResources,
    MemoryResources,
)
from hvdrivers.models.vif import AttachedVif, Vif
from hvdrivers.models.volume import AttachedVolume, VolumeAttachment, VolumeConnector

_KINDS = {
    InstanceState.RUNNING: LifecycleKind.STARTED,
    InstanceState.STOPPED: LifecycleKind.STOPPED,
}


class LeastConfig(DriverConfig):
    """What ``connect("least", ...)`` takes."""

    host: str = "here"
    token: SecretStr | None = None

    @classmethod
    def from_url(cls, url: str, **options: object) -> Self:
        """``least://HOST``"""
        return cls.model_validate({"host": url.partition("://")[2] or "here"} | options)


class LeastStream(EventStream):
    """A subscription: a queue, in which None means the end."""

    def __init__(self, states: dict[UUID, InstanceState]) -> None:
        self._queue: SimpleQueue[Event | None] = SimpleQueue()
        self._sequence = 1
        self._closed = False
        self._queue.put(ResyncEvent(sequence=1, at=datetime.now(UTC), states=states))

    def put(self, uuid: UUID, kind: LifecycleKind, state: InstanceState | None) -> None:
        """Tell the consumer."""
        self._sequence += 1
        now = datetime.now(UTC)
        self._queue.put(
            LifecycleEvent(sequence=self._sequence, at=now, uuid=uuid, kind=kind, state=state)
        )

    def next(self, timeout: float | None = None) -> Event | None:
        try:
            return self._queue.get(timeout=timeout)
        except Empty:
            return None

    def close(self) -> None:
        self._closed = True
        self._queue.put(None)

    @property
    def closed(self) -> bool:
        return self._closed


class LeastDriver(Driver):
    """Machines in a dictionary."""

    driver_name = "least"
    config_model = LeastConfig
    HOSTS: ClassVar[dict[str, dict[UUID, InstanceInfo]]] = {}
    """The "hypervisor": what it has outlives the driver."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._machines = self.HOSTS.setdefault(host, {})
        self._streams: list[LeastStream] = []

    # connection --------------------------------------------------------------------------------

    @classmethod
    def connect(cls, config: DriverConfig) -> Self:
        return cls(LeastConfig.model_validate(config).host)

    @property
    def host_label(self) -> str:
        return self._host

    def narrowed(self) -> dict[Capability, str]:
        return {}

    def ping(self, *, timeout: float | None = None) -> None:
        pass

    def host(self, *, timeout: float | None = None) -> HostInfo:
        return HostInfo(
            driver=self.driver_name,
            product="dictionary",
            product_version="1",
            api_version="1",
            architecture="x86_64",
            hostname=self._host,
            accelerated=False,
        )

    def close(self, *, timeout: float | None = None) -> None:
        for stream in self._streams:
            stream.close()

    # lifecycle ---------------------------------------------------------------------------------

    @provides(Capability.IMAGE_HOST)
    def spawn(
        self,
        spec: InstanceSpec,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> InstanceInfo:
        info = InstanceInfo(
            uuid=spec.uuid,
            name=spec.name,
            state=InstanceState.RUNNING if spec.start else InstanceState.STOPPED,
            flavor=spec.flavor,
            firmware=spec.firmware or Firmware.BIOS,
            metadata=spec.metadata,
            image=spec.image.cache_key() if spec.image else None,
        )
        if self._machines.setdefault(spec.uuid, info) is not info:
            raise InstanceExists("the UUID is taken")
        self._tell(spec.uuid, LifecycleKind.CREATED)
        return info

    def destroy(
        self, uuid: UUID, *, keep: AbstractSet[Keep] = frozenset(), timeout: float | None = None
    ) -> None:
        if self._machines.pop(uuid, None):
            self._tell(uuid, LifecycleKind.DESTROYED)

    def get_instance(self, uuid: UUID, *, timeout: float | None = None) -> InstanceInfo:
        try:
            return self._machines[uuid]
        except KeyError:
            raise InstanceNotFound("no such instance") from None

    def list_instances(self, *, timeout: float | None = None) -> Sequence[InstanceSummary]:
        return [machine.summary() for machine in list(self._machines.values())]

    def list_foreign(self, *, timeout: float | None = None) -> Sequence[ForeignInstance]:
        return []

    @provides(Capability.HOT_RENAME)
    def rename(self, uuid: UUID, name: str, *, timeout: float | None = None) -> None:
        self._change("rename", uuid, name=name)

    def set_metadata(self, uuid: UUID, metadata: Metadata, *, timeout: float | None = None) -> None:
        self._change("set_metadata", uuid, metadata=metadata)

    # power -------------------------------------------------------------------------------------

    def power_on(self, uuid: UUID, *, timeout: float | None = None) -> None:
        self._change("power_on", uuid)

    def power_off(self, uuid: UUID, *, graceful: float = 0, timeout: float | None = None) -> None:
        self._change("power_off", uuid)

    def reboot(
        self, uuid: UUID, kind: RebootKind = RebootKind.HARD, *, timeout: float | None = None
    ) -> None:
        self._change("reboot", uuid, variant=kind)
        self._tell(uuid, LifecycleKind.REBOOTED)

    # devices: no type of volume or NIC is declared, so that the guard lets none through ---------

    def attach_volume(
        self, uuid: UUID, attachment: VolumeAttachment, *, timeout: float | None = None
    ) -> AttachedVolume:
        raise NotSupported("a dictionary has no volumes")

    def detach_volume(self, uuid: UUID, volume_id: str, *, timeout: float | None = None) -> None:
        self._change("detach_volume", uuid)

    def get_volume_connector(
        self, uuid: UUID | None = None, *, timeout: float | None = None
    ) -> VolumeConnector:
        return VolumeConnector(host=self._host)

    def plug_vif(self, uuid: UUID, vif: Vif, *, timeout: float | None = None) -> AttachedVif:
        raise NotSupported("a dictionary has no network")

    def unplug_vif(self, uuid: UUID, vif_id: str, *, timeout: float | None = None) -> None:
        self._change("unplug_vif", uuid)

    # what the host has, and what happens there -------------------------------------------------

    def get_available_resource(self, *, timeout: float | None = None) -> HostResources:
        machines = list(self._machines.values())
        running = [each.flavor for each in machines if each.state is InstanceState.RUNNING]
        return HostResources(
            host=self.host(),
            cpu=CpuResources(
                total=64,
                used=sum(flavor.vcpus for flavor in running),
                sockets=1,
                cores_per_socket=64,
                threads_per_core=1,
                model="imaginary",
            ),
            memory=MemoryResources(
                total_mib=65536, used_mib=sum(flavor.memory_mib for flavor in running)
            ),
            storage=(),
            instances=len(machines),
        )

    def get_metrics(
        self, uuids: AbstractSet[UUID] | None = None, *, timeout: float | None = None
    ) -> Sequence[InstanceMetrics]:
        return [
            InstanceMetrics(
                uuid=machine.uuid,
                at=datetime.now(UTC),
                state=machine.state,
                vcpus=machine.flavor.vcpus,
                memory_mib=machine.flavor.memory_mib,
            )
            for machine in list(self._machines.values())
            if uuids is None or machine.uuid in uuids
        ]

    def watch(self, *, timeout: float | None = None) -> EventStream:
        stream = LeastStream({uuid: each.state for uuid, each in list(self._machines.items())})
        self._streams.append(stream)
        return stream

    # -------------------------------------------------------------------------------------------

    def _change(
        self, operation: str, uuid: UUID, *, variant: RebootKind | None = None, **fields: object
    ) -> None:
        """Do what the contract's table of states says."""
        machine = self.get_instance(uuid)
        after = check_state(operation, machine.state, uuid, variant=variant).after(machine.state)
        self._machines[uuid] = machine.model_copy(update=fields | {"state": after})
        if isinstance(after, InstanceState) and after is not machine.state:
            self._tell(uuid, _KINDS[after])

    def _tell(self, uuid: UUID, kind: LifecycleKind) -> None:
        machine = self._machines.get(uuid)
        for stream in self._streams:
            stream.put(uuid, kind, machine.state if machine else None)
