"""Which machines are instances of ours, and what they are called.

A machine that spawn() has made says so in its name (see ``naming.py``). Libvirt renames no running
machine, so one that adopt() has taken over keeps the name that its owner gave it. Its mark is a
secret of libvirt's without a value. The secret's usage says which machine it marks, and its label:

    hvdrivers <uuid> /adopted/<number>/<state at the adoption>/<label>

Libvirt makes a secret whole, keeps it over a restart, lists all of them in one call, and sends an
event for each, so one call tells who is ours. A volume in a pool would be such a mark too, but a
pool may be inactive or hold thousands of volumes, and sends no event. The secret's UUID is made of
the machine's UUID and the number: of two clients that give a machine different labels, libvirt
takes one. rename() makes the mark with the next number, and then removes the older one.

A rescue of such a machine is another secret, made before the machine is started from the rescue
disk, and named by that disk. Who takes away what a rescue has left removes the marks that it has
seen: one of a later rescue has another name.

    hvdrivers <uuid> /rescued/<role of the rescue disk>
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID, uuid5

import libvirt

from hvdrivers.contract import errors
from hvdrivers.libvirt.naming import is_helper, label_of
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.remote_volumes import secret_name
from hvdrivers.libvirt.session import Connection
from hvdrivers.libvirt.xml import el, text
from hvdrivers.models.state import InstanceState

_SOME = UUID(int=0)
_USAGE = re.compile(
    secret_name(_SOME, "").replace(str(_SOME), "(?P<uuid>[0-9a-f-]{36})")
    + r"/adopted/(?P<number>\d+)/(?P<state>[a-z]+)/(?P<label>.+)",
    re.DOTALL,
)

_RESCUE = "/rescued/"
_RESCUED = re.compile(
    secret_name(_SOME, "").replace(str(_SOME), "(?P<uuid>[0-9a-f-]{36})")
    + rf"{_RESCUE}(?P<role>rescue-[0-9a-f]+)"
)


@dataclass(frozen=True)
class Known:
    """What is known of an instance without a look at its definition."""

    label: str
    rescues: frozenset[str] = frozenset()
    """Roles of the disks of the rescues that mark it, of an adopted machine. One that spawn() has
    made says it in its name."""


@functools.lru_cache(16384)
def named(name: str, uuid: UUID) -> Known | None:
    """What the name of a machine says; None if spawn() has not made it. No call."""
    label = label_of(name, uuid)
    return None if label is None else Known(label)


@dataclass(frozen=True)
class Mark:
    """What a mark says."""

    uuid: UUID
    label: str
    state: InstanceState
    """That the machine was in when it was adopted."""
    number: int = 1

    @property
    def secret(self) -> UUID:
        """UUID of the secret that is the mark."""
        return uuid5(self.uuid, f"adopted {self.number}")

    def document(self) -> str:
        """The secret's XML."""
        usage = f"/adopted/{self.number}/{self.state.value}/{self.label}"
        return _secret(self.secret, self.uuid, usage)


def mark_in(usage: str) -> Mark | None:
    """The mark that a secret of this usage is; None for any other secret."""
    found = _USAGE.fullmatch(usage)
    if found is None:
        return None
    try:
        state = InstanceState(found["state"])
        return Mark(UUID(found["uuid"]), found["label"], state, int(found["number"]))
    except ValueError:
        return None


def rescue_in(usage: str) -> tuple[UUID, str] | None:
    """The machine, and the role of the rescue disk, that a secret of this usage marks as rescued;
    None for any other secret."""
    found = _RESCUED.fullmatch(usage)
    if found is None:
        return None
    try:
        return UUID(found["uuid"]), found["role"]
    except ValueError:
        return None


def _secret(uuid: UUID, marked: UUID, usage: str) -> str:
    """The XML of a secret without a value."""
    return text(
        el(
            "secret",
            el("uuid", str(uuid)),
            el("usage", el("name", secret_name(marked, usage)), type="tls"),
            ephemeral="no",
            private="yes",
        )
    )


def _rescue_secret(uuid: UUID, role: str) -> UUID:
    return uuid5(uuid, f"rescued {role}")


class Identity:
    """Who is ours."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def label(self, name: str, uuid: UUID) -> str | None:
        """The label of a machine of this name; None if it is not ours. No call for one that spawn()
        has made, one for any other."""
        return self.labels([(uuid, name)]).get(uuid)

    def labels(self, machines: Iterable[tuple[UUID, str]]) -> dict[UUID, str]:
        """The labels of those of these machines that are ours, by UUID. One call if spawn() has not
        made them all, no call otherwise.

        Args:
            machines: UUID and name of each.
        """
        return {uuid: known.label for uuid, known in self.known(machines).items()}

    def known(self, machines: Iterable[tuple[UUID, str]]) -> dict[UUID, Known]:
        """What is known of those of these machines that are ours, by UUID. Calls as for
        labels()."""
        found: dict[UUID, Known] = {}
        others: list[UUID] = []
        for uuid, name in machines:
            known = named(name, uuid)
            if known is not None:
                found[uuid] = known
            elif not is_helper(name):
                others.append(uuid)
        if not others:
            return found
        usages = self._usages()
        marks, rescues = _newest(usages), _rescues(usages)
        return found | {
            uuid: Known(marks[uuid].label, frozenset(rescues.get(uuid, ())))
            for uuid in others
            if uuid in marks
        }

    def marks(self) -> dict[UUID, Mark]:
        """The marks of all adopted machines. One call."""
        return _newest(self._usages())

    def _usages(self) -> list[str]:
        try:
            secrets = self._connection.remote.listAllSecrets(0)
        except errors.NotSupported:
            return []  # the daemon keeps no secrets: adopt() has marked nothing
        return [
            str(each.usageID() or "")
            for each in secrets
            if each.usageType() == libvirt.VIR_SECRET_USAGE_TYPE_TLS
        ]

    def rescues(self, uuid: UUID) -> frozenset[str]:
        """Roles of the disks of the rescues that mark an adopted machine. One call."""
        return frozenset(_rescues(self._usages()).get(uuid, ()))

    def put_rescue(self, uuid: UUID, role: str) -> None:
        """Mark an adopted machine as rescued by a disk of this role. One call."""
        document = _secret(_rescue_secret(uuid, role), uuid, f"{_RESCUE}{role}")
        self._connection.remote.secretDefineXML(document, 0)

    def remove_rescues(self, uuid: UUID, roles: Collection[str]) -> None:
        """Remove these marks, where they are. Two calls for each."""
        for role in roles:
            self._remove(_rescue_secret(uuid, role))

    def put(self, mark: Mark) -> None:
        """Make a mark. One call.

        Raises:
            HypervisorFault: another client has made one with this number and another label.
        """
        self._connection.remote.secretDefineXML(mark.document(), 0)

    def rename(self, uuid: UUID, label: str) -> None:
        """Give an adopted machine another label. Three calls, one if it has that label; three more
        each time that another client renames it at the same moment.

        Raises:
            InstanceNotFound: it has been destroyed.
        """
        while True:
            all_ = [mark for mark in _marks(self._usages()) if mark.uuid == uuid]
            if not all_:
                raise errors.InstanceNotFound("the instance was destroyed meanwhile", instance=uuid)
            now = max(all_, key=lambda mark: mark.number)
            if now.label == label:
                return
            try:
                self.put(Mark(uuid, label, now.state, now.number + 1))
            except errors.HypervisorFault:
                if self.marks().get(uuid) == now:
                    raise
                continue
            for mark in all_:
                self.remove(mark)
            return

    def remove(self, mark: Mark) -> None:
        """Remove a mark, if it is there. Two calls."""
        self._remove(mark.secret)

    def _remove(self, secret_uuid: UUID) -> None:
        with suppress(errors.HypervisorFault):  # libvirt's class for "no such secret"
            secret: Remote = self._connection.remote.secretLookupByUUIDString(str(secret_uuid))
            secret.undefine()


def _marks(usages: Iterable[str]) -> list[Mark]:
    return [mark for mark in map(mark_in, usages) if mark is not None]


def _newest(usages: Iterable[str]) -> dict[UUID, Mark]:
    found: dict[UUID, Mark] = {}
    for mark in _marks(usages):
        if mark.uuid not in found or found[mark.uuid].number < mark.number:
            found[mark.uuid] = mark
    return found


def _rescues(usages: Iterable[str]) -> dict[UUID, set[str]]:
    found: dict[UUID, set[str]] = {}
    for uuid, role in filter(None, map(rescue_in, usages)):
        found.setdefault(uuid, set()).add(role)
    return found
