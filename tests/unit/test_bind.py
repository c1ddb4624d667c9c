"""The guard completes arguments as Python would, and refuses what Python would refuse."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from hvdrivers.checking import signature_of
from hvdrivers.contract.driver import OPERATIONS, ComputeDriver

GUARD = object()


def _expected(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | str:
    try:
        bound = inspect.signature(getattr(ComputeDriver, name)).bind(GUARD, *args, **kwargs)
    except TypeError as error:
        return f"{name}() {error}"
    bound.apply_defaults()
    del bound.arguments["self"]
    return bound.arguments


def _found(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | str:
    try:
        return signature_of(name).bind(GUARD, args, kwargs)
    except TypeError as error:
        return str(error)


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_arguments_are_bound_as_python_binds_them(name: str) -> None:
    parameters = list(inspect.signature(getattr(ComputeDriver, name)).parameters.values())[1:]
    must = [each.name for each in parameters if each.default is each.empty]
    in_order = [each.name for each in parameters if each.kind is not each.KEYWORD_ONLY]
    every = {each.name: object() for each in parameters}
    for given in range(len(in_order) + 2):  # one too many, too
        args = tuple(object() for _ in range(given))
        for kwargs in (
            {},
            {key: every[key] for key in must if key not in in_order[:given]},
            {key: value for key, value in every.items() if key not in in_order[:given]},
            every,
            {"timeout": 1.0},
            {"timeout": 1.0, "unknown": 1},
            {"self": 1},
        ):
            expected, found = _expected(name, args, kwargs), _found(name, args, kwargs)
            assert found == expected, (args, kwargs)
            assert list(found) == list(expected)
