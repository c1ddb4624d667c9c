"""Judge a driver class before it is used: what is wrong with it, in sentences.

A class that passes may still misbehave: the conformance suite tells. But a class that fails here
cannot work, or has code that nobody would ever call.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from types import FunctionType

from hvdrivers.contract.capabilities import Capability, declared
from hvdrivers.contract.consoles import CONSOLE_CAPABILITIES, InteractiveConsole
from hvdrivers.contract.driver import CORE_OPERATIONS, OPERATIONS, ComputeDriver, Driver
from hvdrivers.contract.operation import operations_of
from hvdrivers.contract.snapshots import Snapshots
from hvdrivers.models.config import DriverConfig

_BY_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _homes() -> Mapping[Capability, type]:
    """The interface without which a capability is an empty promise."""
    homes: dict[Capability, type] = {
        capability: base
        for base in ComputeDriver.__mro__
        if (capability := getattr(base, "__hv_capability__", None)) is not None
    }
    homes |= dict.fromkeys(CONSOLE_CAPABILITIES.values(), InteractiveConsole)
    homes[Capability.SNAPSHOT_MEMORY] = Snapshots
    return homes


def faults_of(cls: object, name: str) -> list[str]:
    """Everything that keeps ``cls`` from being the driver ``name``; empty if nothing does."""
    if not isinstance(cls, type):
        return [f"{cls!r} is not a class"]
    if not issubclass(cls, Driver):
        return [f"{cls.__qualname__} is not a subclass of hvdrivers.Driver"]
    return [
        *_identity(cls, name),
        *_missing(cls),
        *_operations(cls),
        *_dead_code(cls),
        *_empty_promises(cls),
    ]


def _identity(cls: type[Driver], name: str) -> Iterator[str]:
    own_name = getattr(cls, "driver_name", None)
    if own_name != name:
        yield f"driver_name is {own_name!r} and not {name!r}"
    model = getattr(cls, "config_model", None)
    if not (isinstance(model, type) and issubclass(model, DriverConfig)):
        yield "config_model is not a subclass of DriverConfig"
    if not isinstance(inspect.getattr_static(cls, "connect"), classmethod):
        yield "connect() is not a class method"


def _missing(cls: type[Driver]) -> Iterator[str]:
    abstract = sorted(cls.__abstractmethods__)
    if abstract:
        yield f"{cls.__qualname__} does not implement {', '.join(abstract)}"


def _operations(cls: type[Driver]) -> Iterator[str]:
    for name in OPERATIONS:
        member = inspect.getattr_static(cls, name, None)
        if member is None or getattr(member, "__isabstractmethod__", False):
            continue
        if not inspect.isfunction(member):
            yield f"{name} is not a plain method"
        elif inspect.iscoroutinefunction(member) or inspect.isasyncgenfunction(member):
            yield f"{name}() is asynchronous; the contract is synchronous (hvdrivers.aio wraps it)"
        elif not _takes_the_same(member, inspect.getattr_static(ComputeDriver, name)):
            ours = inspect.signature(member)
            theirs = inspect.signature(inspect.getattr_static(ComputeDriver, name))
            for difference in _differences(ours, theirs, OPERATIONS[name].optional):
                yield f"{name}{ours.replace(return_annotation=ours.empty)}: {difference}"


def _takes_the_same(ours: FunctionType, theirs: FunctionType) -> bool:
    """Whether both have the same arguments, with the same defaults. Nearly all have, and each
    connect() asks; signatures take ten times as long. They decide about all else."""
    mine = _shape(ours)
    return mine is not None and mine == _shape(theirs)


def _shape(function: FunctionType) -> tuple[object, ...] | None:
    """The arguments of the function that a signature would be made of; None where that may be made
    of something else."""
    said = inspect.unwrap(function, stop=lambda each: hasattr(each, "__signature__"))
    if not inspect.isfunction(said) or hasattr(said, "__signature__"):
        return None
    code = said.__code__
    if code.co_posonlyargcount:
        return None
    packed = code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS)
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + packed.bit_count()]
    counts = (code.co_argcount, code.co_kwonlyargcount, packed)
    return counts, names, said.__defaults__, said.__kwdefaults__


def _differences(
    ours: inspect.Signature, theirs: inspect.Signature, optional: frozenset[str]
) -> Iterator[str]:
    """Why a call that the contract allows would fail, or mean something else."""
    anything = any(each.kind is each.VAR_KEYWORD for each in ours.parameters.values())
    for wanted in theirs.parameters.values():
        if wanted.name == "self":
            continue
        mine = ours.parameters.get(wanted.name)
        if mine is None:
            if not anything and wanted.name not in optional:
                yield f"the contract's argument {wanted.name!r} is missing"
        elif mine.kind not in _BY_KEYWORD:
            yield f"{wanted.name!r} cannot be given by name"
        elif wanted.kind is not wanted.KEYWORD_ONLY and mine.kind is mine.KEYWORD_ONLY:
            yield f"{wanted.name!r} cannot be given by position"
        elif wanted.default is not wanted.empty and mine.default is mine.empty:
            yield f"{wanted.name!r} has a default in the contract ({wanted.default!r})"
        elif wanted.default != mine.default:
            yield f"the default of {wanted.name!r} is {wanted.default!r} in the contract"
    order = [
        each.name
        for each in theirs.parameters.values()
        if each.kind is each.POSITIONAL_OR_KEYWORD and each.name != "self"
    ]
    mine_in_order = [name for name in ours.parameters if name in order]
    if not anything and mine_in_order != [name for name in order if name in mine_in_order]:
        yield f"the contract's order is {', '.join(order)}"
    for extra in ours.parameters.values():
        if (
            extra.name not in theirs.parameters
            and extra.default is extra.empty
            and extra.kind not in (extra.VAR_POSITIONAL, extra.VAR_KEYWORD)
        ):
            yield f"the contract has no argument {extra.name!r}, and it has no default"


def _dead_code(cls: type[Driver]) -> Iterator[str]:
    """What looks like an operation and would never be called."""
    inherited = operations_of(cls)
    contract = {*ComputeDriver.__mro__, *Driver.__mro__}
    for base in cls.__mro__:
        if base not in contract:
            for name in base.__dict__.get("__hv_operations__", ()):
                yield f"@operation marks {name}(): operations are declared by the contract alone"
    members = {
        name: member for base in reversed(cls.__mro__) for name, member in vars(base).items()
    }
    for name, member in sorted(members.items()):
        if name in OPERATIONS and name not in CORE_OPERATIONS and name not in inherited:
            home = next(base for base in ComputeDriver.__mro__ if name in base.__dict__)
            yield f"{name}() is defined without inheriting its interface, {home.__name__}"
        if getattr(member, "__override__", False) and not _overrides(cls, name):
            yield f"@override marks {name}(), which overrides nothing"


def _overrides(cls: type, name: str) -> bool:
    return sum(name in base.__dict__ for base in cls.__mro__) > 1


def _empty_promises(cls: type[Driver]) -> Iterator[str]:
    homes = _homes()
    for capability in sorted(declared(cls), key=str):
        if not isinstance(capability, Capability):
            yield f"@provides names {capability!r}, which is no Capability"
        elif capability in homes and not issubclass(cls, homes[capability]):
            home = homes[capability].__name__
            yield f"@provides names {capability}, which needs the interface {home}"
