"""What the source of a move in steps remembers: its mark.

The domain's name says that the source is kept as it is (``naming.is_moving()``), so each operation
sees it without a call. What the move is stands in the domain's metadata. The password of the
destination, if it has one, is in a secret of libvirt's: any client may read a definition.

A mark without that name is one of three things: the mark of a move within the host that is
finished; the end of one, of which files may be left; or the beginning of one whose client died.
"""

from __future__ import annotations

import json
from enum import StrEnum
from uuid import UUID

from pydantic import Field, ValidationError

from hvdrivers.contract import errors
from hvdrivers.libvirt.metadata import NAMESPACE, kept
from hvdrivers.libvirt.naming import NVRAM, ROOT, disk_name, is_moving
from hvdrivers.libvirt.secrets import Secrets
from hvdrivers.libvirt.xml import Element
from hvdrivers.models.base import Model
from hvdrivers.models.flavor import Flavor
from hvdrivers.models.migration import Destination, Move, MovePhase

MOVE_NAMESPACE = f"{NAMESPACE}/move"
ARRIVED_NAMESPACE = f"{NAMESPACE}/arrived"
"""Of the token of the move by which an instance came to this host."""


class Step(StrEnum):
    """How far the source has come."""

    PREPARING = "preparing"
    """The copy is not whole: prepare_move() makes it anew."""
    PREPARED = "prepared"
    FINISHED = "finished"
    """Within one host: the instance has the new flavor and the copies of its disks."""
    ENDED = "ended"
    """It is over, and files may be left."""


class Mark(Model):
    """What the source remembers of its move."""

    token: str
    """Eight hexadecimal digits, of which names of files are made."""
    source: str
    where: Destination | None = None
    """How the destination is reached, without its password."""
    asked: str | None = None
    """The whole destination as it was asked for, with its secrets hidden."""
    has_password: bool = False
    flavor: Flavor
    """Of the move."""
    before: Flavor
    """Which revert_move() gives back."""
    step: Step
    disks: dict[str, str] = Field(default_factory=dict)
    """Within one host: paths of the instance's own disks, by role, as they were."""
    roots: dict[str, str] = Field(default_factory=dict)
    """Within one host: what rebuild() had noted of root disks, by role."""

    @property
    def text(self) -> str:
        """As the domain's metadata holds it."""
        return json.dumps(self.model_dump(mode="json"), ensure_ascii=True)

    def at(self, step: Step) -> Mark:
        """The mark at another step."""
        return self.model_copy(update={"step": step})

    def is_under_way(self, *, moving: bool) -> bool:
        """Whether the move has begun and not ended.

        Args:
            moving: the domain's name says so.
        """
        return self.step is Step.FINISHED or (moving and self.step is not Step.ENDED)

    def asks_for(self, destination: Destination | None, flavor: Flavor) -> bool:
        """Whether this is the move that a caller asks for."""
        return (self.asked, self.flavor) == (asked(destination), flavor)

    def move(self, uuid: UUID, destination: Destination | None) -> Move:
        """As prepare_move() returns it.

        Args:
            destination: as the caller has given it; its secrets are in no mark.
        """
        return Move(
            uuid=uuid,
            source=self.source,
            destination=destination,
            flavor=self.flavor,
            token=self.token,
        )

    def destination(self, uuid: UUID, secrets: Secrets) -> Destination | None:
        """How the destination is reached. No call; two where it has a password."""
        if self.where is None or not self.has_password:
            return self.where
        values = self.where.model_dump() | {"password": secrets.note(uuid)}
        return Destination.model_validate(values)


def asked(destination: Destination | None) -> str | None:
    """A destination as a mark has it, by which a repeated call is known."""
    if destination is None:
        return None
    return json.dumps(destination.model_dump(mode="json"), sort_keys=True)


def mark_in(domain: Element) -> Mark | None:
    """The mark in a domain's XML, if it has one."""
    content = kept(domain, MOVE_NAMESPACE)
    if content is None:
        return None
    try:
        return Mark.model_validate_json(content)
    except ValidationError as error:
        raise errors.HypervisorFault(
            "the domain's hvdrivers metadata of its move is damaged",
            hint="somebody has edited the domain; destroy() still removes it",
        ) from error


def phase_of(name: str, uuid: UUID, domain: Element) -> MovePhase | None:
    """How far a move of the instance has come, as its source shows it."""
    if is_moving(name, uuid):
        return MovePhase.PREPARED
    mark = mark_in(domain)
    return MovePhase.FINISHED if mark is not None and mark.step is Step.FINISHED else None


def copy_name(uuid: UUID, role: str, token: str) -> str:
    """Name of the copy of an own disk, in a move within one host."""
    return disk_name(uuid, f"{role}-{token}")


def nvram_name(uuid: UUID, token: str) -> str:
    """Name of the copy of UEFI's variables, in a move within one host."""
    return copy_name(uuid, NVRAM, token)


def document_name(uuid: UUID, token: str) -> str:
    """Name of the file at the destination which says that what is there of the instance is that
    move's, and which holds the definition when all else is there."""
    return disk_name(uuid, f"move-{token}")


def root_role(token: str) -> str:
    """Role of the copy of a root disk, in a move within one host."""
    return f"{ROOT}-{token}"
