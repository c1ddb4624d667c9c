"""Moving an instance between hosts."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Self
from uuid import UUID

from pydantic import AfterValidator, Field, SecretStr, model_validator

from hvdrivers.addresses import check_host
from hvdrivers.models._once import named_twice
from hvdrivers.models.base import Identifier, Model, PrintableText, TextSecret
from hvdrivers.models.flavor import Flavor
from hvdrivers.models.vif import Vif
from hvdrivers.models.volume import VolumeAttachment


class Destination(Model):
    """The host to go to, in the words of the hypervisor."""

    host: PrintableText
    """Libvirt: connection URI of the destination as the *source host* sees it (or the caller, see
    the driver). vSphere: host or cluster name. Hyper-V: computer name."""
    storage: Identifier | None = None
    """Pool, datastore or path to put the disks in. None: shared storage, or the same name."""
    address: (
        Annotated[PrintableText, Field(min_length=1, max_length=270), AfterValidator(check_host)]
        | None
    ) = None
    """IP address or DNS name of the destination on the migration network, where it differs from
    ``host``."""
    user: PrintableText | None = None
    password: TextSecret | None = None
    """Where the destination needs its own credentials."""
    volumes: tuple[VolumeAttachment, ...] = ()
    """Connections that volumes of the instance have at the destination, where their servers give
    other ones there. Each replaces that of its ``volume_id``, as reconnect() does."""
    vifs: tuple[Vif, ...] = ()
    """The same for NICs, by ``id``."""

    if TYPE_CHECKING:  # what may be passed, which is wider than what is kept

        def __init__(
            self,
            *,
            host: str,
            storage: str | None = None,
            address: str | None = None,
            user: str | None = None,
            password: SecretStr | str | None = None,
            volumes: Sequence[VolumeAttachment] = (),
            vifs: Sequence[Vif] = (),
        ) -> None: ...

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        twice = named_twice(self.volumes, self.vifs)
        if twice is not None:
            raise ValueError(twice)
        return self


class MovePhase(StrEnum):
    """How far a move in steps has come, as its source shows it."""

    PREPARED = "prepared"
    """The instance here is the copy that revert_move() gives back. It cannot be started."""
    FINISHED = "finished"
    """Only in a move within one host: the instance has its new flavor, and what it was is kept for
    revert_move()."""


class Move(Model):
    """A move in steps that has begun: what finish_move() takes.

    It may be stored as JSON. Only its destination can have secrets, in place of which JSON has a
    mask, and a mask is refused when it is read. So a caller whose destination has a password, or
    volumes with secrets, stores the move without it::

        text = move.model_dump_json(exclude={"destination"})
        move = Move.model_validate({**json.loads(text), "destination": destination})
    """

    uuid: UUID
    source: PrintableText
    """The host that it comes from, for people."""
    destination: Destination | None
    """None: it stays on its host, with another flavor."""
    flavor: Flavor
    """The flavor that the instance has afterwards."""
    token: Identifier
    """The driver's own name for the copy that it has prepared."""


class BlockerKind(StrEnum):
    """Why an instance cannot move."""

    CPU = "cpu"
    """Another architecture, or a feature that the guest uses is missing."""
    DEVICE = "device"
    """It has a device or a directory of this host."""
    STORAGE = "storage"
    """No pool or no room for its disks, or a volume that only this host reaches."""
    NETWORK = "network"
    """No such network, or a machine that is powered on there has the port."""
    VERSION = "version"
    """The destination's hypervisor is too old."""
    STATE = "state"
    """It is there already, or another machine with its UUID; or a backup of it is open. Or its
    server group has members with another policy there."""
    RESOURCES = "resources"
    """Not enough memory or CPUs, or the destination is in maintenance. Or the policy of its server
    group leaves no host for it there."""
    CONNECTION = "connection"
    """The destination does not answer."""


class Blocker(Model):
    """One reason. An empty list means that the migration can be tried."""

    kind: BlockerKind
    reason: str
    hint: str | None = None
    device: str | None = None


class MigrationPlan(Model):
    """The result of the pre-check. Frozen evidence: it is checked again when the migration runs."""

    destination: Destination
    copy_storage: bool
    """True: the disks are copied, as the hosts do not share them."""
    blockers: tuple[Blocker, ...] = ()

    @property
    def possible(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.blockers


class MigrationPhase(StrEnum):
    """Where a migration stands."""

    NONE = "none"
    COPYING = "copying"
    SWITCHING = "switching"
    COMPLETED = "completed"
    FAILED = "failed"
    ABORTED = "aborted"


class MigrationProgress(Model):
    """A running migration."""

    phase: MigrationPhase
    percent: int | None = None
    """What vSphere and Hyper-V tell; None where bytes are known."""
    total_bytes: int | None = None
    remaining_bytes: int | None = None
    downtime_ms: int | None = None
    """Expected or measured time that the guest stands still, milliseconds."""
