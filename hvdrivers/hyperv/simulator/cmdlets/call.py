"""One bound call of a cmdlet: its parameters, and what it answers."""

import fnmatch
import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from uuid import UUID

from hvdrivers.hyperv.simulator.errors import CmdletError, missing, not_found
from hvdrivers.hyperv.simulator.state.host import HostState, Switch
from hvdrivers.hyperv.simulator.state.machine import Checkpoint, Machine
from hvdrivers.hyperv.simulator.wire import Request, Value

Answer = Value | CmdletError | str


class Question(Exception):
    """The client that was asked is gone."""


class Call:
    """A call that a handler serves.

    ``answers`` collects objects and errors in order. ``ask`` sends a question at once and waits.
    """

    def __init__(self, host: HostState, request: Request, ask: Callable[[str, str], bool]) -> None:
        self.host = host
        self.cmdlet = request.cmdlet
        self.set = request.parameter_set
        self.bound = request.bound
        self.answers: list[Value | CmdletError] = []
        self.warnings: list[str] = []
        self._ask = ask

    # Parameters.

    def has(self, name: str) -> bool:
        """Whether the parameter was given."""
        return name in self.bound

    def text(self, name: str, default: str = "") -> str:
        """A string, an enumeration's name or a Guid as text."""
        value = self.bound.get(name)
        return default if value is None else str(value)

    def texts(self, name: str) -> list[str]:
        """Strings of a parameter that takes one or several."""
        return [str(item) for item in self.items(name)]

    def items(self, name: str) -> list[object]:
        """Values of a parameter that takes one or several."""
        value = self.bound.get(name)
        if value is None:
            return []
        return list(value) if isinstance(value, list) else [value]

    def things(self, name: str) -> list[dict[str, str]]:
        """Objects of a parameter: type name and identifying properties."""
        return [
            {str(key): str(inner) for key, inner in item.items()}
            for item in self.items(name)
            if isinstance(item, dict)
        ]

    def integer(self, name: str, default: int = 0) -> int:
        """A number."""
        value = self.bound.get(name)
        if value is None:
            return default
        if isinstance(value, bool | int | float | str):
            return int(value)
        raise TypeError(name)

    def flag(self, name: str, default: bool = False) -> bool:
        """A switch or a Boolean."""
        value = self.bound.get(name)
        return default if value is None else bool(value)

    def on_off(self, name: str, default: bool) -> bool:
        """An OnOffState."""
        return self.text(name).lower() == "on" if self.has(name) else default

    def duration(self, name: str, default: timedelta) -> timedelta:
        """A TimeSpan."""
        value = self.bound.get(name)
        match value:
            case {"seconds": int() | float() as seconds}:
                return timedelta(seconds=seconds)
        return default

    def moment(self, name: str) -> datetime | None:
        """A DateTime."""
        match self.bound.get(name):
            case {"utc": str(text)}:
                return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text))
        return None

    # Answers.

    def write(self, *values: Value) -> None:
        """Write objects to the pipeline."""
        self.answers.extend(values)

    def error(self, error: CmdletError) -> None:
        """Write a non-terminating error and go on."""
        self.answers.append(error)

    def warn(self, text: str) -> None:
        """Write a warning."""
        self.warnings.append(text)

    def confirm(self, query: str, caption: str) -> bool:
        """Ask as ShouldContinue does, unless ``-Force``. The host's lock is free meanwhile."""
        if self.flag("Force"):
            return True
        self.host.world.lock.release()
        try:
            return self._ask(query, caption)
        finally:
            self.host.world.lock.acquire()

    # Things that parameters name.

    def machines(self, *names: str) -> Iterator[Machine]:
        """The machines that the call means; each that is missing is an error of its own.

        ``names`` are the parameters that hold machine names; machines come by ``VM``, ``Id`` and
        ``VMId`` too. Without any of them every machine is meant.
        """
        given = False
        for name in names:
            if self.has(name):
                given = True
                for pattern in self.texts(name):
                    yield from self._named(pattern)
        for thing in self.things("VM"):
            given = True
            yield from self.with_id(
                thing.get("VMId") if "Snapshot" in thing["type"] else thing.get("Id")
            )
        for name in ("Id", "VMId"):
            if self.has(name) and name not in names:
                given = True
                for text in self.texts(name):
                    yield from self.with_id(text)
        if not given:
            yield from list(self.host.machines.values())

    def machine(self, *names: str) -> Machine | None:
        """The one machine that the call means, or an error."""
        return next(iter(self.machines(*names)), None)

    def _named(self, pattern: str) -> Iterator[Machine]:
        found = [m for m in self.host.machines.values() if like(m.name, pattern)]
        if not found and not has_wildcard(pattern):
            self.error(not_found(pattern, cmdlet=self.cmdlet))
        yield from found

    def with_id(self, text: str | None) -> Iterator[Machine]:
        machine = self.host.machines.get(UUID(text)) if text else None
        if machine is None:
            self.error(not_found(text or "", by_id=True, cmdlet=self.cmdlet))
        else:
            yield machine

    def snapshot(self, name: str = "VMSnapshot") -> tuple[Machine, Checkpoint] | None:
        """The checkpoint that a parameter holds."""
        for thing in self.things(name):
            return self.checkpoint(thing)
        return None

    def checkpoint(self, thing: dict[str, str]) -> tuple[Machine, Checkpoint]:
        """The checkpoint of an object. Raises ObjectNotFound."""
        identity = UUID(thing["Id"])
        for machine in self.host.machines.values():
            if identity in machine.checkpoints:
                return machine, machine.checkpoints[identity]
        raise missing(thing.get("Name", identity))

    def switch(self, name: str = "SwitchName") -> Switch | None:
        """The switch that a parameter names; None where it is not given. Raises ObjectNotFound."""
        if not self.has(name):
            return None
        for text in self.texts(name):
            for switch in self.host.switches.values():
                if like(switch.name, text):
                    return switch
            raise missing(text)
        return None


def has_wildcard(pattern: str) -> bool:
    """Whether PowerShell reads the text as a pattern."""
    return bool(re.search(r"[*?\[]", pattern))


def like(text: str, pattern: str) -> bool:
    """PowerShell's wildcards: ``*``, ``?``, ``[a-z]``; case does not matter; a backtick escapes."""
    if not has_wildcard(pattern):
        return text.lower() == pattern.lower()
    translated = re.sub(r"`(.)", lambda m: "[" + m[1] + "]", pattern)
    return fnmatch.fnmatchcase(text.lower(), translated.lower())
