"""No two modules import each other, however late: who reads one need not have read the other.

An import inside a function, or for a type checker alone, hides a circle and does not undo it. What
both need has a module of its own; who is only called through a few methods is a Protocol.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_FAKE = "hvdrivers.fake."
_STATE = "hvdrivers.hyperv.simulator.state."
MUTUAL = {(f"{_STATE}machine", f"{_STATE}host")}
"""A host has machines, and each of these knows its host: annotations alone."""


def imports(code: str, modules: Mapping[str, str]) -> Iterator[str]:
    """The modules that a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names if each.name in modules)
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            for each in node.names:
                inner = f"{node.module}.{each.name}"
                yield from (name for name in (inner, node.module) if name in modules)


def circle(modules: Mapping[str, str]) -> list[str]:
    """A circle of imports, from a module back to itself; empty if there is none."""
    graph = {
        name: {
            each
            for each in imports(code, modules)
            if each != name
            and not name.startswith(f"{each}.")  # a package's own table of names
            and not each.startswith(_FAKE) & name.startswith(_FAKE)
            and (name, each) not in MUTUAL
        }
        for name, code in modules.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_circle_of_imports() -> None:
    """But inside the fake, whose host and driver are one."""
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(
            ".__init__"
        ): path.read_text()
        for path in (ROOT / "hvdrivers").rglob("*.py")
    }
    assert circle(modules) == []


@pytest.mark.parametrize(
    "late",
    ["def f():\n    import a", "if TYPE_CHECKING:\n    from a import f", "from a import f"],
)
def test_a_circle_is_found(late: str) -> None:
    assert set(circle({"a": "from b import c", "b": late})) == {"a", "b"}
    assert circle({"a": "from b import c", "b": ""}) == []
