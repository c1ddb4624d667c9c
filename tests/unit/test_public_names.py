"""What ``import hvdrivers`` gives: the names it says, lazily, and nothing by accident."""

from __future__ import annotations

import ast
import inspect
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import hvdrivers
from hvdrivers.contract import errors

ROOT = Path(__file__).parents[2]


def test_the_names_are_sorted_and_complete() -> None:
    assert hvdrivers.__all__ == sorted(hvdrivers.__all__)
    for name in hvdrivers.__all__:
        assert getattr(hvdrivers, name) is not None
    assert set(hvdrivers.__all__) <= set(dir(hvdrivers))


def test_a_type_checker_sees_the_same_names_at_the_same_places() -> None:
    (block,) = (
        node
        for node in ast.parse(inspect.getsource(hvdrivers)).body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name)
    )
    declared = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        declared |= {alias.name: node.module for alias in node.names}
    assert sorted(declared) == hvdrivers.__all__
    for name, module in declared.items():
        assert getattr(sys.modules[module], name) is getattr(hvdrivers, name)


def test_every_error_is_public() -> None:
    tree = {
        name
        for name, each in vars(errors).items()
        if isinstance(each, type) and issubclass(each, errors.HypervisorError)
    }
    assert tree <= set(hvdrivers.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'conect'"):
        _ = hvdrivers.conect


def imported_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


OPTIONAL = {"libvirt", "typer", "rich", "httpx", "oslo_utils", "pycdlib", "yaml", "stevedore"}


@pytest.mark.parametrize(
    "statement",
    [
        "import hvdrivers",
        "import hvdrivers; [getattr(hvdrivers, name) for name in hvdrivers.__all__]",
        "import hvdrivers.aio",
    ],
)
def test_importing_needs_no_extra(statement: str) -> None:
    assert not imported_by(statement) & OPTIONAL


def test_importing_the_package_alone_costs_nothing() -> None:
    assert "pydantic" not in imported_by("import hvdrivers")


def test_the_package_is_typed() -> None:
    assert (Path(inspect.getfile(hvdrivers)).parent / "py.typed").is_file()


def test_all_that_the_contract_names_is_public() -> None:
    """A program names what it passes in and gets out: volumes, NICs, events, attachments, …"""
    names = runpy.run_path(str(ROOT / "scripts" / "public_names.py"))["public_names"]()
    assert sorted(names) == hvdrivers.__all__, "python scripts/public_names.py"


@pytest.mark.parametrize("driver", ["libvirt", "vmware", "hyperv"])
def test_a_driver_imports_what_images_need_with_the_first_one(driver: str) -> None:
    """The time that ``hvdrivers list`` takes is that of its imports."""
    images = {"httpx", "oslo_utils", "pycdlib"}
    assert not imported_by(f"import hvdrivers.{driver}.driver") & images


def test_names_of_the_package_of_images() -> None:
    import hvdrivers.images

    assert all(getattr(hvdrivers.images, name) for name in hvdrivers.images.__all__)
    assert set(hvdrivers.images.__all__) <= set(dir(hvdrivers.images))
    with pytest.raises(AttributeError, match="no attribute 'open_imge'"):
        _ = hvdrivers.images.open_imge  # type: ignore[attr-defined]
