"""Check what goes into an operation and what comes out against the contract's annotations."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, SecretBytes, SecretStr, TypeAdapter, ValidationError

from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.exact import Test, acceptor
from hvdrivers.invalid import field_of, in_words, plain
from hvdrivers.models._once import named_twice
from hvdrivers.models.base import is_text
from hvdrivers.models.vif.common import VifBase
from hvdrivers.models.volume import VolumeAttachment

_CONFIG = ConfigDict(
    strict=True,
    arbitrary_types_allowed=True,
    hide_input_in_errors=True,  # what is wrong may be a secret in the wrong place
)

_ABOUT_TYPE = frozenset({"missing", "extra_forbidden", "enum", "literal_error", "timezone_aware"})


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
    exactly: Test | None
    """Accepts nearly every result, in a tenth of the time."""
    defaults: Mapping[str, Any]
    """By parameter, in their order, ``self`` left out; ``inspect.Parameter.empty``: must be
    given."""
    positional: tuple[str, ...]
    """Parameters that need not be named in a call."""

    def bind(self, guard: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Arguments by name, the contract's defaults among them, so that a driver's own defaults
        mean nothing. TypeError for a call that Python itself would refuse."""
        given = dict(zip(self.positional, args, strict=False)) | kwargs
        bound = dict(self.defaults) | given
        wrong = len(given) < len(args) + len(kwargs) or len(bound) > len(self.defaults)
        if wrong or any(each is inspect.Parameter.empty for each in bound.values()):
            try:
                self.parameters.bind(guard, *args, **kwargs)
            except TypeError as error:  # inspect has the words, and takes five times as long
                raise TypeError(f"{self.name}() {error}") from None
        return bound

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
            if not _is_text(checked):
                return f"{name}: contains a NUL, or half of a surrogate pair"
            if _converted(value, checked):
                return f"{name}: {type(value).__name__} is not what the contract says"
            # a driver gets no list that its caller may change meanwhile
            arguments[name] = tuple(checked) if isinstance(checked, list) else checked
        several = [
            each for value in arguments.values() if isinstance(value, tuple) for each in value
        ]
        return named_twice(
            [each for each in several if isinstance(each, VolumeAttachment)],
            [each for each in several if isinstance(each, VifBase)],
        )

    def violation(self, result: Any) -> str | None:
        """Why this is not what the operation returns, without its value."""
        if self.exactly is not None and self.exactly(result):
            return None
        try:
            checked = self.returns.validate_python(result, strict=True)
        except ValidationError as error:
            return f"{type(result).__name__}: {in_words(error, most=5)}"
        if _converted(result, checked):
            return f"{type(result).__name__} in place of a model"
        return unkept(result)


def _is_text(value: Any) -> bool:
    """Whether a text, or each of several, is one that other programs take."""
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, str):
        return is_text(value)
    return not isinstance(value, list | tuple) or all(map(_is_text, value))


@functools.cache
def signature_of(operation: str) -> Signature:
    """The contract's signature of an operation."""
    function = getattr(ComputeDriver, operation)
    hints = get_type_hints(function, include_extras=True)
    returned = hints.pop("return")
    signature = inspect.signature(function)
    parameters = [each for each in signature.parameters.values() if each.name != "self"]
    return Signature(
        operation,
        signature,
        accepts={parameter: _adapter(hint) for parameter, hint in hints.items()},
        returns=_adapter(returned),
        exactly=acceptor(returned),
        defaults={each.name: each.default for each in parameters},
        positional=tuple(each.name for each in parameters if each.kind is not each.KEYWORD_ONLY),
    )


@functools.cache
def lacking_arguments(method: Callable[..., object], optional: frozenset[str]) -> frozenset[str]:
    """Which of these arguments a driver's method does not have."""
    parameters = inspect.signature(method).parameters.values()
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        return frozenset()
    return optional - {each.name for each in parameters}


def unkept(value: Any) -> str | None:
    """What a model that a driver made has in a field that is not of its type, without the value.

    pydantic takes a model for valid because it is one; but ``model_copy(update=...)`` and
    ``model_construct()`` check nothing. A value that is out of its field's bounds is no fault: a
    host shows what others have made of a machine.
    """
    if isinstance(value, BaseModel):
        model = type(value)
        try:
            model.model_validate(vars(value), strict=True)
        except ValidationError as error:
            wrong = [each for each in error.errors() if _is_about_type(each["type"])]
            if wrong:
                return "; ".join(
                    f"{model.__name__}.{field_of(each['loc'])}: {plain(each['msg'])}"
                    for each in wrong[:5]
                )
        value = vars(value).values()
    elif isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, list | tuple | frozenset):
        return None
    return next(filter(None, map(unkept, value)), None)


def _is_about_type(kind: str) -> bool:
    return kind.endswith(("_type", "_instance_of", "_attributes")) or kind in _ABOUT_TYPE


def _converted(before: Any, after: Any) -> bool:
    """Whether pydantic made a model or a secret of something that was none: it does so even in
    strict mode, but then nobody had typed what went over the seam."""
    if isinstance(after, BaseModel | SecretStr | SecretBytes):
        return type(before) is not type(after)
    if isinstance(after, list | tuple):
        return any(_converted(old, new) for old, new in zip(before, after, strict=False))
    return False
