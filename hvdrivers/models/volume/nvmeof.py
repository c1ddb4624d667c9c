"""Volumes behind NVMe over Fabrics, in both formats of Cinder's connection properties."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self
from uuid import UUID

from pydantic import BeforeValidator, Field, model_validator

from hvdrivers.models.base import Model, PrintableText
from hvdrivers.models.volume._base import VolumeBase, VolumeData
from hvdrivers.models.volume._text import Host, Nqn, Port, join_portal


def _transport(value: object) -> object:
    # os-brick: RoCEv2 and rdma are RDMA, everything else is TCP. We stop short of calling Fibre
    # Channel TCP.
    if not isinstance(value, str):
        return value
    low = value.lower()
    if low in {"rocev2", "roce", "rdma", "nvme-roce"}:
        return "rdma"
    return "tcp" if "tcp" in low else value


Transport = Annotated[Literal["tcp", "rdma"], BeforeValidator(_transport)]


class NvmePortal(Model):
    """One address of a target."""

    host: Host
    """Address or name, IPv6 without brackets."""
    port: Port = 4420
    transport: Transport = "tcp"

    @property
    def portal(self) -> str:
        """``10.0.0.1:4420``, ``[fd00::1]:4420``."""
        return join_portal(self.host, self.port)

    @model_validator(mode="before")
    @classmethod
    def _triple(cls, value: object) -> object:
        if isinstance(value, list | tuple):  # (address, port, transport), as Cinder writes it
            if len(value) != 3:
                raise ValueError("a portal is (address, port, transport)")
            return dict(zip(("host", "port", "transport"), value, strict=True))
        return value


class NvmeTarget(Model):
    """One subsystem that holds the volume, or one copy of it."""

    nqn: Nqn
    portals: Annotated[tuple[NvmePortal, ...], Field(min_length=1)]
    """Every path to it."""
    uuid: UUID | None = None
    """Namespace UUID. May differ from the volume's id."""
    nguid: UUID | None = None
    """Namespace GUID, written as a UUID."""
    ns_id: int | None = None
    host_nqn: Nqn | None = None
    """The NQN the host must present."""


class NvmeReplica(Model):
    """One copy in ``volume_replicas`` (cinder ``kioxia/kumoscale.py``)."""

    target_nqn: Nqn
    vol_uuid: UUID | None = None
    portals: Annotated[tuple[NvmePortal, ...], Field(min_length=1)]


class NvmeofData(VolumeData):
    """``data`` of an NVMe-oF volume (os-brick ``connectors/nvmeof.py`` ``NVMeOFConnProps``).

    Format 1: ``target_portal``, ``target_port``, ``nqn``, ``transport_type``.
    Format 2: ``target_nqn``, ``portals``. Replicated: ``volume_replicas``, ``vol_uuid``, ``alias``.
    """

    vendor_keys: ClassVar[Mapping[str, str]] = {
        "volume_uuid": "cinder: vastdata/driver.py; the array's own id",
        "writable": "cinder: kioxia/kumoscale.py; access_mode says it",
    }

    target_portal: Host | None = None
    target_port: Port = 4420
    nqn: Nqn | None = None
    transport_type: Transport = "tcp"
    target_nqn: Nqn | None = None
    vol_uuid: UUID | None = None
    """Namespace UUID; with ``volume_replicas`` the volume's id in Cinder."""
    portals: tuple[NvmePortal, ...] = ()
    volume_nguid: UUID | None = None
    ns_id: Annotated[int, Field(ge=1, lt=1 << 32)] | None = None
    host_nqn: Nqn | None = None
    volume_replicas: tuple[NvmeReplica, ...] = ()
    replica_count: Annotated[int, Field(ge=1)] | None = None
    alias: PrintableText | None = None
    """Name of the RAID device over the copies."""

    @model_validator(mode="after")
    def _one_format(self) -> Self:
        first = self.target_portal is not None and self.nqn is not None
        second = self.target_nqn is not None and bool(self.portals)
        if [first, second, bool(self.volume_replicas)].count(True) != 1:
            raise ValueError(
                "one format is needed: target_portal and nqn, or target_nqn and portals, or "
                "volume_replicas"
            )
        if len(self.volume_replicas) > 1 and not self.alias:
            raise ValueError("volume_replicas needs alias, the name of the RAID device")
        return self


class NvmeofVolume(VolumeBase):
    """A volume behind NVMe over TCP or RDMA."""

    driver_volume_type: Literal["nvmeof"] = "nvmeof"
    data: NvmeofData

    @property
    def targets(self) -> tuple[NvmeTarget, ...]:
        """The subsystems: one, or one for each copy of a replicated volume."""
        data = self.data
        if data.volume_replicas:
            return tuple(
                NvmeTarget(nqn=copy.target_nqn, portals=copy.portals, uuid=copy.vol_uuid)
                for copy in data.volume_replicas
            )
        portals = data.portals
        if data.target_portal is not None:
            portals = (
                NvmePortal(
                    host=data.target_portal, port=data.target_port, transport=data.transport_type
                ),
            )
        return (
            NvmeTarget(
                nqn=data.target_nqn or data.nqn or "",
                portals=portals,
                uuid=data.vol_uuid,
                nguid=data.volume_nguid,
                ns_id=data.ns_id,
                host_nqn=data.host_nqn,
            ),
        )

    @property
    def portals(self) -> tuple[NvmePortal, ...]:
        """The addresses of all targets, without doubles, whichever format they came in."""
        return tuple(dict.fromkeys(portal for target in self.targets for portal in target.portals))

    @property
    def replicated(self) -> bool:
        """Whether the host must build a RAID 1 over several copies."""
        return len(self.data.volume_replicas) > 1

    def _own_id(self) -> str | None:
        return str(self.data.vol_uuid) if self.data.volume_replicas else None
