"""Events: what changed on a host, as ``watch()`` delivers it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AwareDatetime, Field

from hvdrivers.models.base import Model
from hvdrivers.models.state import InstanceState


class EventBase(Model):
    """What every event has."""

    sequence: int
    """Counts up by one within a stream, from 1: a consumer can prove that it missed none."""
    at: AwareDatetime
    """When the driver learnt it."""


class LifecycleKind(StrEnum):
    """What happened to an instance."""

    CREATED = "created"
    STARTED = "started"
    STOPPED = "stopped"
    PAUSED = "paused"
    RESUMED = "resumed"
    """Unpaused, or resumed from disk."""
    SUSPENDED = "suspended"
    REBOOTED = "rebooted"
    CRASHED = "crashed"
    DESTROYED = "destroyed"
    SWITCHING = "switching"
    """A live migration: the guest stops here and goes on at the destination, so that its ports may
    be bound there. Told by the source before MIGRATED, where the hypervisor tells it; RESUMED
    follows if the guest comes back after all."""
    MIGRATED = "migrated"


class LifecycleEvent(EventBase):
    """An instance changed its state, also if no call of this driver caused the change."""

    type: Literal["lifecycle"] = "lifecycle"
    uuid: UUID
    kind: LifecycleKind
    state: InstanceState | None
    """The state it has now; None once it is gone."""


class DeviceKind(StrEnum):
    """What happened to a device."""

    ADDED = "added"
    REMOVED = "removed"
    REMOVAL_FAILED = "removal-failed"
    """The guest refused to let go."""


class DeviceEvent(EventBase):
    """A disk or NIC of a running instance came or went."""

    type: Literal["device"] = "device"
    uuid: UUID
    kind: DeviceKind
    device: str
    """The volume id or VIF id; the hypervisor's device name for a device that is neither."""


class ResyncEvent(EventBase):
    """The stream lost its connection and has it again. Changes in between were not seen one by
    one; ``states`` is the whole truth now, so nothing is missed silently."""

    type: Literal["resync"] = "resync"
    states: dict[UUID, InstanceState]
    """Every instance of ours and its state at this moment."""


Event = Annotated[LifecycleEvent | DeviceEvent | ResyncEvent, Field(discriminator="type")]
