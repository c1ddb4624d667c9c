"""What ``hvdrivers.driverkit`` gives: the names it says, lazily, and all that its modules offer."""

from __future__ import annotations

import ast
import inspect
import pkgutil
import subprocess
import sys
from importlib import import_module

import pytest

from hvdrivers import driverkit

MODULES = [each.name for each in pkgutil.iter_modules(driverkit.__path__, "hvdrivers.driverkit.")]
OPTIONAL = {"libvirt", "typer", "rich", "httpx", "oslo_utils", "pycdlib", "yaml", "stevedore"}


def test_the_names_are_sorted_and_those_of_the_modules() -> None:
    assert driverkit.__all__ == sorted(driverkit.__all__)
    offered = [name for module in MODULES for name in import_module(module).__all__]
    assert sorted(offered) == driverkit.__all__
    assert set(driverkit.__all__) <= set(dir(driverkit))


def test_a_type_checker_sees_the_same_names_at_the_same_places() -> None:
    (block,) = (
        node
        for node in ast.parse(inspect.getsource(driverkit)).body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name)
    )
    declared = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        declared |= {alias.name: node.module for alias in node.names}
    assert sorted(declared) == driverkit.__all__
    for name, module in declared.items():
        assert getattr(import_module(str(module)), name) is getattr(driverkit, name)


@pytest.mark.parametrize("module", MODULES)
def test_the_page_says_what_each_module_is_for(module: str) -> None:
    assert f"\n``{module.rpartition('.')[2]}``\n" in inspect.getdoc(driverkit)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Deadlin'"):
        _ = driverkit.Deadlin


def test_a_module_that_is_imported_by_itself_needs_no_extra() -> None:
    code = "\n".join(
        [f"import {module}" for module in MODULES] + ["import sys; print(*sys.modules)"]
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {name.partition(".")[0] for name in done.stdout.split()} & OPTIONAL
