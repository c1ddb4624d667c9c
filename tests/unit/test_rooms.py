"""A driver is objects that name each other: what begins with an underscore stays in its class.

A topic class keeps the contract's operations. What topics share is an object that the driver holds,
with public names: ``self.volumes.element(...)`` leads a reader, and a tool, to its room.
``self._element(...)`` of another room's class leads nowhere.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "hvdrivers"

MOST = {"libvirt": 0, "fake": 0, "hyperv": 0, "vmware": 0}
"""How often a driver's classes may reach into another room. The numbers only shrink: who makes one
smaller writes it down here."""
APART = ("fake", "hyperv", "libvirt", "vmware")
"""Drivers of whose rooms none imports from a topic's."""
_BASES = {"Topic", "FakeBase"}
"""What a topic's class is made from, in each driver."""
LONGEST = 400
"""Lines of a room, docstrings included. One that outgrows it has two topics."""
GENERATED = {"__init__.py"}
"""The table of public names, which scripts/public_names.py writes."""
_PUBLIC = frozenset({"_replace", "_asdict", "_fields", "_make", "_create_unverified_context"})
"""Names of the standard library that are public all the same."""
_PYVMOMI = frozenset(
    {"_moId", "_stub", "_wsdlName", "_GetPropertyInfo", "_GetNamespaceFromPrefix", "_GetStub"}
)
"""Names of pyVmomi, which has no others for these."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in _PUBLIC | _PYVMOMI


def own_names(cls: ast.ClassDef) -> set[str]:
    """What a class itself defines: methods, annotations, class attributes, and what its
    ``__init__`` sets."""
    names = set()
    for each in cls.body:
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(each.name)
        for target in each.targets if isinstance(each, ast.Assign) else ():
            names |= {node.id for node in ast.walk(target) if isinstance(node, ast.Name)}
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
            names.add(each.target.id)
        if isinstance(each, ast.FunctionDef) and each.name in {"__init__", "__new__"}:
            names |= {
                node.attr
                for node in ast.walk(each)
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
            }
    return names


def reached(module: ast.Module) -> Iterator[str]:
    """Uses of a private name that another module's class defines."""
    classes = {each.name: each for each in ast.walk(module) if isinstance(each, ast.ClassDef)}

    def names_of(cls: ast.ClassDef) -> set[str]:
        bases = [base.value if isinstance(base, ast.Subscript) else base for base in cls.bases]
        here = [
            classes[base.id] for base in bases if isinstance(base, ast.Name) if base.id in classes
        ]
        return own_names(cls).union(*map(names_of, here))

    anywhere: set[str] = set().union(*map(own_names, classes.values()))
    anywhere |= {each.name for each in module.body if isinstance(each, ast.FunctionDef)}

    def visit(node: ast.AST, own: set[str]) -> Iterator[str]:
        if isinstance(node, ast.ClassDef):
            own = names_of(node)
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            of = node.value.func if isinstance(node.value, ast.Call) else node.value
            itself = isinstance(of, ast.Name) and of.id in {"self", "cls", "super"}
            if node.attr not in (own if itself else anywhere):
                yield f"{node.lineno}: {ast.unparse(node)}"
        for child in ast.iter_child_nodes(node):
            yield from visit(child, own)

    yield from visit(module, set())


def rooms(driver: str) -> Iterator[tuple[str, str]]:
    for path in sorted((ROOT / driver).rglob("*.py")):
        yield str(path.relative_to(ROOT)), path.read_text()


@pytest.mark.parametrize("driver", MOST)
def test_no_class_reaches_into_another_room(driver: str) -> None:
    found = [f"{room}:{each}" for room, code in rooms(driver) for each in reached(ast.parse(code))]
    assert len(found) <= MOST[driver], "\n".join(found)


def test_no_room_is_long() -> None:
    lengths = {str(each.relative_to(ROOT)): each.read_text() for each in ROOT.rglob("*.py")}
    assert {name for name, text in lengths.items() if text.count("\n") > LONGEST} == GENERATED


def topics_imported(driver: str, modules: dict[str, ast.Module]) -> list[str]:
    """Imports of a topic's module, but by the driver's own, which joins the topics."""
    topics = {
        f"hvdrivers.{driver}.{name}"
        for name, module in modules.items()
        for each in ast.walk(module)
        if isinstance(each, ast.ClassDef) and _BASES & set(map(ast.unparse, each.bases))
    }
    return [
        f"{name}: {each.module}"
        for name, module in modules.items()
        for each in ast.walk(module)
        if isinstance(each, ast.ImportFrom) and each.module in topics and name != "driver"
    ]


@pytest.mark.parametrize("driver", APART)
def test_no_room_knows_a_topic(driver: str) -> None:
    """What two topics need is in a room of its own."""
    code = {path.stem: path.read_text() for path in (ROOT / driver).glob("*.py")}
    assert topics_imported(driver, {name: ast.parse(each) for name, each in code.items()}) == []


def test_import_of_a_topic_is_found() -> None:
    code = {
        "power": "class Power(Topic, Contract): ...",
        "rescue": "from hvdrivers.x.power import Power",
        "driver": "from hvdrivers.x.power import Power",
        "listing": "from hvdrivers.x.machines import Machines",
    }
    found = topics_imported("x", {name: ast.parse(each) for name, each in code.items()})
    assert found == ["rescue: hvdrivers.x.power"]


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("class A:\n def f(self): self._x()", 1),
        ("class A:\n def f(self): self._x()\n def _x(self): ...", 0),
        ("class A(B):\n def f(self): self._x()\nclass B:\n def _x(self): ...", 0),
        ("class A(B):\n def f(self): self._x()\nclass C:\n def _x(self): ...", 1),
        ("class A(B[int]):\n def f(self): cls._x\nclass B:\n _x: int", 0),
        ("class A:\n def __init__(self): self._x = 1\n def f(self): self._x", 0),
        ("class A:\n def f(self): self._x = 1", 1),
        ("class A:\n def f(self): super()._x()", 1),
        ("class A:\n def f(self, other): other._x()", 1),
        ("class A:\n def f(self, other): other._x()\n def _x(self): ...", 0),
        ("def f(driver): driver._x()", 1),
        ("def f(size): size._replace(a=1)\ndef g(a): a.__dict__", 0),
    ],
)
def test_what_is_found(code: str, found: int) -> None:
    assert len(list(reached(ast.parse(code)))) == found
