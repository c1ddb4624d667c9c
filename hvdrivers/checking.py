"""Check what goes into an operation and what comes out against the contract's annotations."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, SecretBytes, SecretStr, TypeAdapter, ValidationError

from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.invalid import in_words
from hvdrivers.models._once import named_twice
from hvdrivers.models.vif.common import VifBase
from hvdrivers.models.volume import VolumeAttachment

_CONFIG = ConfigDict(
    strict=True,
    arbitrary_types_allowed=True,
    hide_input_in_errors=True,  # what is wrong may be a secret in the wrong place
)


def _adapter(annotation: Any) -> TypeAdapter[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return TypeAdapter(annotation)  # a model brings its own configuration
    return TypeAdapter(annotation, config=_CONFIG)


@dataclass(frozen=True)
class Signature:
    """The contract's signature of one operation."""

    name: str
    parameters: inspect.Signature
    accepts: dict[str, TypeAdapter[Any]]
    returns: TypeAdapter[Any]

    def bind(self, guard: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Arguments by name, the contract's defaults among them, so that a driver's own defaults
        mean nothing. TypeError for a call that Python itself would refuse."""
        try:
            bound = self.parameters.bind(guard, *args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.name}() {error}") from None
        bound.apply_defaults()
        del bound.arguments["self"]
        return bound.arguments

    def refusal(self, arguments: dict[str, Any]) -> str | None:
        """Why the contract does not take these arguments, without their values."""
        for name, value in arguments.items():
            if name == "timeout":
                continue
            try:
                given = frozenset(value) if isinstance(value, set) else value
                checked = self.accepts[name].validate_python(given, strict=True)
            except ValidationError as error:
                return f"{name}: {in_words(error, most=5)}"
            if _converted(value, checked):
                return f"{name}: {type(value).__name__} is not what the contract says"
            arguments[name] = checked
        several = [
            each for value in arguments.values() if isinstance(value, tuple) for each in value
        ]
        return named_twice(
            [each for each in several if isinstance(each, VolumeAttachment)],
            [each for each in several if isinstance(each, VifBase)],
        )

    def violation(self, result: Any) -> str | None:
        """Why this is not what the operation returns, without its value."""
        try:
            checked = self.returns.validate_python(result, strict=True)
        except ValidationError as error:
            return f"{type(result).__name__}: {in_words(error, most=5)}"
        if _converted(result, checked):
            return f"{type(result).__name__} in place of a model"
        return None


@functools.cache
def signature_of(operation: str) -> Signature:
    """The contract's signature of an operation."""
    function = getattr(ComputeDriver, operation)
    hints = get_type_hints(function, include_extras=True)
    returns = _adapter(hints.pop("return"))
    accepts = {parameter: _adapter(hint) for parameter, hint in hints.items()}
    return Signature(operation, inspect.signature(function), accepts, returns)


@functools.cache
def lacking_arguments(method: Callable[..., object], optional: frozenset[str]) -> frozenset[str]:
    """Which of these arguments a driver's method does not have."""
    parameters = inspect.signature(method).parameters.values()
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        return frozenset()
    return optional - {each.name for each in parameters}


def _converted(before: Any, after: Any) -> bool:
    """Whether pydantic made a model or a secret of something that was none: it does so even in
    strict mode, but then nobody had typed what went over the seam."""
    if isinstance(after, BaseModel | SecretStr | SecretBytes):
        return type(before) is not type(after)
    if isinstance(after, list | tuple):
        return any(_converted(old, new) for old, new in zip(before, after, strict=False))
    return False
