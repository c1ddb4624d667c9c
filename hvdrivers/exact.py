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
    if annotation is None:
        annotation = NoneType
    if annotation is AwareDatetime:
        return _is_aware
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        converts = any(isinstance(each, _CONVERTING) for each in args[1:])
        return None if converts else acceptor(args[0])
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
    if annotation in _SIMPLE or issubclass(annotation, Enum):
        return lambda value: type(value) is annotation
    return _model(annotation) if issubclass(annotation, BaseModel) else None


def _is_aware(value: Any) -> bool:
    return type(value) is datetime and value.utcoffset() is not None


def _one_of(choices: tuple[Any, ...]) -> Test | None:
    if not all(type(each) is str for each in choices):
        return None
    return lambda value: type(value) is str and value in choices


def _any(choices: tuple[Any, ...]) -> Test | None:
    tests = [acceptor(each) for each in choices]
    known = [each for each in tests if each is not None]
    if len(known) < len(tests):
        return None
    if len(known) == 2:
        one, other = known
        return lambda value: one(value) or other(value)
    return lambda value: any(test(value) for test in known)


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
    tests: dict[str, Test] = {}
    for name, field in model.model_fields.items():
        if any(isinstance(each, _CONVERTING) for each in field.metadata) or field.alias:
            return None
        test = acceptor(field.annotation)
        if test is None:
            return None
        tests[name] = test
    size = len(tests)
    pairs = tuple(tests.items())

    def is_one(value: Any) -> bool:
        if type(value) is not model:
            return False
        fields = value.__dict__
        if len(fields) != size:
            return False
        try:
            for name, test in pairs:  # all() with a generator takes twice as long
                if not test(fields[name]):
                    return False
        except KeyError:
            return False
        return True

    return is_one
