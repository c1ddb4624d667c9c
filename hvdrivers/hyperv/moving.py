"""One machine on its way to another host: the steps at both, in their order."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Final, cast
from uuid import UUID

from pydantic import ValidationError

from hvdrivers.contract import errors
from hvdrivers.contract.driver import OPERATIONS, Driver
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.driverkit.undo import changed, undoing
from hvdrivers.hints import MEND_MOVE
from hvdrivers.hyperv.base import Topic
from hvdrivers.hyperv.config import HypervConfig
from hvdrivers.hyperv.library import Json
from hvdrivers.hyperv.session import Session, naming_states
from hvdrivers.hyperv.watching import watched
from hvdrivers.models.migration import Blocker, BlockerKind, Destination
from hvdrivers.models.progress import Phase, Progress, ProgressCallback
from hvdrivers.models.state import InstanceState

_END_LIMIT: Final = 5.0
"""Seconds for one attempt to end a migration."""
_SETTLE: Final = 30.0
"""Seconds for finding out where a machine is, after the reply of the source was lost."""
_LAST: Final = 3.0
"""Seconds for the last step, after the deadline: the guard waits five."""
_SWITCH_MISSING: Final = 33012
"""Message of Compare-VM: "Could not find Ethernet switch"."""
_PARTS: Final[Mapping[str, BlockerKind]] = {
    "VMProcessor": BlockerKind.CPU,
    "VMMemory": BlockerKind.RESOURCES,
    "VMNetworkAdapter": BlockerKind.NETWORK,
    "VMSwitch": BlockerKind.NETWORK,
    "HardDiskDrive": BlockerKind.STORAGE,
    "DvdDrive": BlockerKind.STORAGE,
    "Drive": BlockerKind.STORAGE,
    "VirtualMachine": BlockerKind.STATE,
}
"""The part of a machine that Compare-VM finds incompatible. Any other is a device."""
_NEEDS: Final = ("id", "root", "cpus", "startup", "memory", "bytes", "base", "nics")
"""What the destination is asked about. ``memory`` is what it needs now: 0 if the machine is off."""
_DOUBLE_HOP: Final = (
    "the source host has no credentials for the destination (the 'double hop'): use"
    " authentication='credssp', or Set-VMHost -VirtualMachineMigrationAuthenticationType Kerberos"
    " with constrained delegation"
)
_ADDRESS: Final = re.compile(r"[0-9.]+|.*:.*")


class Move:
    """One machine on its way to one host."""

    def __init__(
        self,
        source: Topic,
        operation: str,
        uuid: UUID,
        destination: Destination,
        deadline: Deadline,
    ) -> None:
        if destination.volumes:
            raise errors.NotSupported(
                "a machine moves with its volumes as they are",
                hint="reconnect() them when it is there",
            )
        if destination.vifs and operation != "cold_migrate":
            raise errors.NotSupported(
                "a machine that runs moves with its NICs on switches of the same names",
                hint="stop it, and cold_migrate() it",
            )
        if destination.storage is not None:
            raise errors.NotSupported(
                "the disks go below the driver's folder at the destination",
                hint="leave storage= out",
            )
        if destination.address is not None:
            raise errors.NotSupported(
                "Hyper-V chooses the network of a migration itself",
                hint="leave address= out; Set-VMMigrationNetwork on the destination",
            )
        self._source = source
        self._operation = operation
        self._uuid = uuid
        self._destination = destination
        self._deadline = deadline
        self._there: Topic | None = None
        self._plan: dict[str, Json] = {}
        self._look: dict[str, Any] = {}

    def __enter__(self) -> Move:
        return self

    def __exit__(self, *_: object) -> None:
        if self._there is not None:
            cast(Driver, self._there).close()

    # ---- before ---------------------------------------------------------------------------------

    def blockers(self, *, seed: bool = False) -> list[Blocker]:
        """Everything that speaks against it."""
        vifs = self._source.wiring.rewired(self._destination.vifs)
        arguments: dict[str, Json] = {"seed": seed, "nics": vifs}
        self._look = self._source.session.change(
            self._operation, "MoveLook", self._uuid, arguments, self._left()
        )
        failure = self._connect()
        if failure is not None:
            return [failure]
        assert self._there is not None  # noqa: S101 - no failure
        look = self._look
        wanted: dict[str, Json] = {
            "uuid": str(self._uuid),
            **{name: look[name] for name in _NEEDS},
        }
        fits = self._there.session.call("MoveFits", wanted, self._deadline)
        found = [_blocker(each) for each in fits["blockers"]]
        if fits["here"]:
            return found
        found = [*(_blocker(each) for each in look["blockers"]), *found]
        self._plan = {
            "uuid": str(self._uuid),
            "host": _computer(self._destination.host, fits["computer"]),
            "root": self._there.session.facts(self._deadline).root,
            "base": fits["base"],
            "wired": [each["name"] for each in vifs],
        }
        kinds = {each.kind for each in found}
        if BlockerKind.CONNECTION not in kinds:
            found += [each for each in self._compared() if each.kind not in kinds]
        return found

    def _left(self) -> float | None:
        return self._deadline.left if self._deadline.bounded else None

    def _compared(self) -> Iterator[Blocker]:
        """What the host's own check finds."""
        try:
            reasons = self._source.session.call("MoveCompare", self._plan, self._deadline)
        except (errors.PermissionDenied, errors.HypervisorFault, errors.DeviceBusy) as error:
            yield Blocker(
                kind=BlockerKind.CONNECTION,
                reason=f"the source host does not reach the destination: {error.message}",
                hint=_DOUBLE_HOP,
            )
            return
        for text, number, part in reasons:
            kind = _PARTS.get(part, BlockerKind.DEVICE)
            if number == _SWITCH_MISSING:
                kind = BlockerKind.NETWORK
            yield Blocker(kind=kind, reason=" ".join(str(text).split()) or "Compare-VM refuses it")

    def _connect(self) -> Blocker | None:
        """Reach the destination's WinRM service; or why it cannot be reached."""
        source, wanted = self._source, self._destination
        name, port = _split(wanted.host)
        options: dict[str, Any] = {"host": name}
        if port is not None:
            options["port"] = port
        if wanted.user is not None:
            options |= {"username": wanted.user, "password": wanted.password}
        if self._deadline.bounded:
            limit = source.config.connect_timeout
            options["connect_timeout"] = max(0.1, self._deadline.within(limit))
        try:
            config = HypervConfig(**(source.config.model_dump() | options))
            driver = cast(type[Driver], type(source)).connect(config)
        except (ValidationError, errors.HypervisorError) as error:
            # the caller gave it no more time: that says nothing about the destination
            self._deadline.check("the destination was asked")
            reason = error.message if isinstance(error, errors.HypervisorError) else "no such host"
            return Blocker(
                kind=BlockerKind.CONNECTION,
                reason=f"the destination does not answer: {reason}",
                hint="host= is the computer's name; this process reaches its WinRM service by it",
            )
        self._there = cast(Topic, driver)
        return None

    # ---- the move -------------------------------------------------------------------------------

    def run(self, progress: ProgressCallback | None) -> None:
        """Move it.

        Raises:
            InvalidRequest: a blocker.
        """
        blockers = self.blockers(seed=True)
        if blockers or self._there is None:
            raise errors.InvalidRequest(
                "the instance cannot move: " + "; ".join(each.reason for each in blockers),
                hint=next((each.hint for each in blockers if each.hint), MEND_MOVE),
            )
        there, look = self._there, self._look
        if progress is not None:
            progress(Progress(phase=Phase.MIGRATE, done=0, total=100, unit="percent"))
        names: dict[str, Json] = {"uuid": str(self._uuid), "id": look["id"]}
        prepared: dict[str, Json] = {
            **names,
            "record": look["arrives"],
            "wired": look["wired"],
            "arrived": False,
            "on": look["memory"] > 0,
            # the image that the destination has: nobody may evict it before the disk is there
            "base": look["base"] if self._plan["base"] else "",
        }
        disc = base64.b64decode(look["seed"]) if look["seed"] else None
        with undoing() as undo:
            undo.callback(self._take_back, names)
            there.session.call("MovePrepare", prepared, self._deadline, data=disc)
            try:
                self._send(progress)
            except errors.OutcomeUnknown:
                gone = self._has_gone(names)
                if gone is not False:
                    undo.forget_all()
                if not gone:
                    raise
        # it is there: whoever asks for it next would do the rest
        limit = Deadline(max(_LAST, min(self._deadline.left, _SETTLE)))
        with changed():
            settled = there.session.call("MoveSettle", {**names, "remove": False}, limit)
            if settled["here"] and not settled["known"]:
                # a destroy() at the destination has removed what was prepared, before it came
                again = {**prepared, "arrived": True}
                there.session.call("MovePrepare", again, limit, data=disc)

    def _take_back(self, names: dict[str, Json]) -> None:
        """Remove what was prepared, unless the machine has come."""
        assert self._there is not None  # noqa: S101 - something was prepared there
        arguments = {**names, "remove": True}
        limit = max(_LAST, min(self._deadline.left, _SETTLE))
        self._there.session.clean("MoveSettle", arguments, limit, counted=False)

    def _has_gone(self, names: dict[str, Json]) -> bool | None:
        """After a lost reply: wait until the host is done. Whether the machine has left; None if
        the source does not say."""
        limit = Deadline(max(_LAST, min(self._deadline.left, _SETTLE)))
        with suppress(errors.HypervisorError):
            found = self._source.session.call("MoveLeave", names, limit, counted=False)
            return not found["here"]
        return None

    def _send(self, progress: ProgressCallback | None) -> None:
        rules = OPERATIONS[self._operation].row_for({})
        assert rules is not None  # noqa: S101 - an operation about an instance has one
        legal = [state.value for state in InstanceState if rules[state].legal]
        arguments = {**self._plan, "legal": legal, "record": self._look["record"]}

        def move() -> None:
            with naming_states(self._operation, self._uuid):
                self._source.session.call("Move", arguments, self._deadline)

        if progress is None:
            move()
            return
        source, uuid = self._source, self._uuid
        watched(
            move,
            progress,
            Phase.MIGRATE,
            percent=lambda: percent_of(source.session, uuid, self._deadline),
            end=lambda: end(source.session, uuid, _END_LIMIT),
        )


def _blocker(found: list[str]) -> Blocker:
    kind, reason, device, hint = found
    return Blocker(kind=BlockerKind(kind), reason=reason, device=device or None, hint=hint or None)


def _split(host: str) -> tuple[str, int | None]:
    """A computer's name, and the port of its WinRM service behind a colon."""
    match = re.fullmatch(r"(\[[^\]]+\]|[^:]+):([0-9]{1,5})", host)
    return (match[1], int(match[2])) if match else (host, None)


def _computer(host: str, own: str) -> str:
    """The name by which the source reaches the destination: Kerberos takes no addresses."""
    name, _ = _split(host)
    return own if _ADDRESS.fullmatch(name) else name


def percent_of(session: Session, uuid: UUID, deadline: Deadline) -> int | None:
    """How much of a migration is done; None if there is none. One call."""
    found = session.call("MoveState", {"uuid": str(uuid)}, deadline, counted=False)
    return None if found["percent"] < 0 else int(found["percent"])


def end(session: Session, uuid: UUID, timeout: float | None) -> None:
    """End a migration. One call."""
    session.change("abort_migration", "MoveAbort", uuid, {}, timeout)
