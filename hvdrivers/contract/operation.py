"""What an operation is: a method of an interface, with its rules beside it as data.

``@operation`` attaches the rules; ``Interface`` groups the operations of one optional ability.
``OPERATIONS`` (in ``contract/driver.py``) is the register of all of them; the guard, the asyncio
facade, the command, the documentation and the conformance suite are driven by it, so that none
of them can forget an operation.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, StrEnum
from types import MappingProxyType
from typing import ClassVar, TypeVar

from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.states import Row

_F = TypeVar("_F", bound=Callable[..., object])
_MARK = "__hv_operation__"


class Scope(Enum):
    """What an operation acts on. It decides which calls may run at the same time."""

    INSTANCE = "instance"
    """One instance: its first argument is a UUID. Changes of one instance never overlap, but for
    those that are not ``serialised``."""
    HOST = "host"
    """The host as a whole. May overlap with anything."""


class Repeat(StrEnum):
    """What calling it a second time with the same arguments does."""

    CONVERGES = "converges"
    """Succeeds and changes nothing more."""
    REFUSED = "refused"
    """Raises a defined error (the docstring names it) and changes nothing."""
    AGAIN = "again"
    """Does it again, as its name says: reboot() reboots twice."""


@dataclass(frozen=True)
class Operation:
    """The rules of one operation of the contract."""

    name: str
    topic: str
    scope: Scope
    changes: bool
    """False: a read, which may be repeated freely."""
    serialised: bool
    """True: calls for the same instance wait for each other. False: a read; a change that is to
    end one that is under way; or one that waits in the guest, for as long as that likes."""
    timeout: float
    """Seconds that bound the call when the caller gives no ``timeout=``."""
    repeat: Repeat
    states: Row | None
    """For INSTANCE operations: what happens in each state. None for HOST operations."""
    variants: Mapping[Enum, Row] = field(default_factory=dict)
    """Rows that replace ``states`` where an enum argument has this value (soft reboot)."""
    with_capability: Mapping[Capability, Row] = field(default_factory=dict)
    """Rows that replace ``states`` for a driver that has this capability (detach while PAUSED)."""
    optional: frozenset[str] = frozenset()
    """Arguments that a driver's method may lack: each needs a capability (``requirements``), and
    the guard leaves it out for a driver that does not have it."""
    capability: Capability | None = None
    """None: Core, every driver has it."""
    interrupts: bool = False
    """True: it ends what is under way for the same instance and tells its progress."""
    derived: bool = False
    """True: the guard computes it from another operation where the driver does not have it."""

    def row_for(
        self,
        arguments: Mapping[str, object],
        capabilities: Collection[Capability] = frozenset(),
    ) -> Row | None:
        """The row that applies to a call with these arguments, for a driver with these
        capabilities."""
        for value in arguments.values():
            if isinstance(value, Enum) and value in self.variants:
                return self.variants[value]
        for capability, states in self.with_capability.items():
            if capability in capabilities:
                return states
        return self.states


def operation(
    *,
    scope: Scope = Scope.INSTANCE,
    changes: bool = True,
    serialised: bool | None = None,
    timeout: float = 60.0,
    repeat: Repeat = Repeat.CONVERGES,
    states: Row | None = None,
    variants: Mapping[Enum, Row] | None = None,
    with_capability: Mapping[Capability, Row] | None = None,
    optional: Iterable[str] = (),
    derived: bool = False,
    interrupts: bool = False,
) -> Callable[[_F], _F]:
    """Declare an abstract method to be an operation of the contract."""
    if (scope is Scope.INSTANCE) != (states is not None):
        raise TypeError("an instance operation has a row of states, a host operation has none")

    def mark(function: _F) -> _F:
        rules = Operation(
            name=function.__name__,
            topic=function.__module__.rpartition(".")[2],
            scope=scope,
            changes=changes,
            # spawn() is a host operation and serialised by the UUID in its spec
            serialised=changes if serialised is None else serialised,
            timeout=timeout,
            repeat=repeat,
            states=states,
            variants=MappingProxyType(dict(variants or {})),
            with_capability=MappingProxyType(dict(with_capability or {})),
            optional=frozenset(optional),
            derived=derived,
            interrupts=interrupts,
        )
        setattr(function, _MARK, rules)
        return function

    return mark


class Interface(ABC):  # noqa: B024 - its subclasses bring the abstract methods
    """Operations that belong together: a driver has all of them or none.

    ``class Pause(Interface, capability=Capability.PAUSE)`` makes an optional interface; without
    ``capability`` it is part of Core. Without a ``capability`` a driver's own subclass inherits
    the marks of what it implements.
    """

    __hv_capability__: ClassVar[Capability | None] = None
    __hv_operations__: ClassVar[Mapping[str, Operation]] = MappingProxyType({})

    def __init_subclass__(cls, capability: Capability | None = None, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        own = {
            name: replace(rules, capability=capability)
            for name, member in vars(cls).items()
            if (rules := getattr(member, _MARK, None)) is not None
        }
        cls.__hv_capability__ = capability
        cls.__hv_operations__ = MappingProxyType(own)


def operations_of(cls: type) -> dict[str, Operation]:
    """All operations that the interfaces of ``cls`` declare, in the order of the contract."""
    found: dict[str, Operation] = {}
    for base in reversed(cls.__mro__):
        found |= base.__dict__.get("__hv_operations__", {})
    return found
