"""The snippets of the driver kit's page call what there is."""

from __future__ import annotations

import ast
import builtins
import functools

import hvdrivers.conformance
import hvdrivers.driverkit
import hvdrivers.guard
from tests.unit.docs.blocks import blocks_of
from tests.unit.docs.page import DOCS

_HOMES = (hvdrivers.driverkit, hvdrivers.conformance, hvdrivers.guard, functools, builtins)


def test_snippets_call_what_there_is() -> None:
    called = {
        node.func.id
        for block in blocks_of(DOCS / "driverkit.md")
        if block.language == "py"
        for node in ast.walk(ast.parse(block.code))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert {"Deadline", "exchange", "unguarded"} <= called
    assert {name for name in called if not any(hasattr(home, name) for home in _HOMES)} == set()
