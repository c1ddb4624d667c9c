"""Whether a value is exactly of a type, found out without pydantic where that is possible.

The guard checks the fields of every model that a driver returns. pydantic would build each model
again for that: 8 microseconds for one line of a list. Nearly always each value is just of the class
that its annotation names, and to see that takes less than one.

A test made here may only say yes or no answer: whatever it does not accept, pydantic decides about.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin
from uuid import UUID

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    PlainValidator,
    SecretBytes,
    SecretStr,
    WrapValidator,
)

from hvdrivers.models.pci import PciAddress

Test = Callable[[Any], bool]

_SIMPLE = frozenset(
    {str, int, bool, float, bytes, UUID, SecretStr, SecretBytes, NoneType, PciAddress}
)
_CONVERTING = (BeforeValidator, PlainValidator, WrapValidator)


def acceptor(annotation: Any) -> Test | None:  # noqa: PLR0911 - one answer for each kind
    """What accepts values that are of this type, with all that they hold; None where only pydantic
    can tell."""
    if annotation is AwareDatetime:
        return _is_aware
    kind = _kind(annotation)
    if kind is not None:
        return lambda value: type(value) is kind
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return None if _converts(args) else acceptor(args[0])
    if origin is Literal:
        return _one_of(args)
    if origin in {Union, UnionType}:
        return _any(args)
    if origin is tuple:
        return _items({tuple}, args[0]) if args[1:] == (...,) else None
    if origin is Sequence:
        return _items({tuple, list}, args[0])
    if origin is Mapping:
        return _entries(*args)
    if not isinstance(annotation, type) or origin is not None:
        return None
    return _model(annotation) if issubclass(annotation, BaseModel) else None


def _kind(annotation: Any) -> type | None:
    """The class that tells whether a value is of this type; None where there is more to look at."""
    if annotation is None:
        return NoneType
    args = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return None if _converts(args) else _kind(args[0])
    if args or not isinstance(annotation, type):
        return None
    return annotation if annotation in _SIMPLE or issubclass(annotation, Enum) else None


def _converts(annotated: tuple[Any, ...]) -> bool:
    return any(isinstance(each, _CONVERTING) for each in annotated[1:])


def _is_aware(value: Any) -> bool:
    return type(value) is datetime and value.utcoffset() is not None


def _one_of(choices: tuple[Any, ...]) -> Test | None:
    if not all(type(each) is str for each in choices):
        return None
    return lambda value: type(value) is str and value in choices


def _any(choices: tuple[Any, ...]) -> Test | None:
    kinds = frozenset(filter(None, map(_kind, choices)))
    tests = [acceptor(each) for each in choices if _kind(each) is None]
    known = [each for each in tests if each is not None]
    if len(known) < len(tests):
        return None
    if not known:
        return lambda value: type(value) in kinds
    if len(known) == 1:
        one = known[0]
        return lambda value: type(value) in kinds or one(value)
    return lambda value: type(value) in kinds or any(test(value) for test in known)


def _items(kinds: set[type], item: Any) -> Test | None:
    test = acceptor(item)
    if test is None:
        return None
    return lambda value: type(value) in kinds and all(map(test, value))


def _entries(key: Any, item: Any) -> Test | None:
    names, values = acceptor(key), acceptor(item)
    if names is None or values is None:
        return None
    return lambda found: (
        type(found) is dict and all(map(names, found)) and all(map(values, found.values()))
    )


class _Making(threading.local):
    def __init__(self) -> None:
        self.models: set[type] = set()


_making = _Making()


@functools.cache
def _model(model: type[BaseModel]) -> Test | None:
    if model in _making.models:
        return None  # it holds itself
    _making.models.add(model)
    try:
        return _of_fields(model)
    finally:
        _making.models.discard(model)


def _of_fields(model: type[BaseModel]) -> Test | None:
    made_by = model.__pydantic_decorators__
    # what runs before the fields' own validators makes a model of something else: not of a model
    early = [each.info.mode for each in made_by.field_validators.values()]
    around = [each.info.mode for each in made_by.model_validators.values()]
    if made_by.validators or set(early) - {"after"} or "wrap" in around:
        return None
    kinds: list[tuple[str, type]] = []
    tests: list[tuple[str, Test]] = []
    for name, field in model.model_fields.items():
        if any(isinstance(each, _CONVERTING) for each in field.metadata) or field.alias:
            return None
        kind, test = _kind(field.annotation), acceptor(field.annotation)
        if test is None:
            return None
        if kind is not None:
            kinds.append((name, kind))
        else:
            tests.append((name, test))
    size = len(kinds) + len(tests)

    def is_one(value: Any) -> bool:
        if type(value) is not model:
            return False
        fields = value.__dict__
        if len(fields) != size:
            return False
        try:
            # all() with a generator takes twice as long, and so does a call for each class
            for name, kind in kinds:
                if type(fields[name]) is not kind:
                    return False
            for name, test in tests:
                if not test(fields[name]):
                    return False
        except KeyError:
            return False
        return True

    return is_one
