"""Errors that a caller can do something about say what.

The library's own errors are found in its source. Those that a hypervisor words have a hint by their
class, which the tests of each driver's table look at.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import hvdrivers
from hvdrivers.contract import errors

ROOT = Path(hvdrivers.__file__).parent
ACTED_ON = (
    errors.VolumeNotFound,
    errors.NetworkNotFound,
    errors.InvalidRequest,
    errors.NotSupported,
    errors.InvalidState,
    errors.DeviceBusy,
    errors.InsufficientResources,
    errors.PermissionDenied,
    errors.ImageRejected,
)
"""Errors that a caller ends by another call or another argument, and that have no hint by
themselves."""
APART = ("conformance",)
"""The suite: its faulty drivers are to be found out, and their callers are its own checks."""
FOUND = {"libvirt": 200, "vmware": 150, "hyperv": 50, "fake": 90, "images": 30, "driverkit": 10}
"""How many a folder has at least: a look that finds none would find nothing wrong either."""


def made(folder: Path) -> Iterator[tuple[str, bool]]:
    """Each such error that is made in a folder's source: where, and whether it has a hint."""
    names = {each.__name__ for each in ACTED_ON}
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            if name in names:
                hints = [each.value for each in node.keywords if each.arg == "hint"]
                given = bool(hints) and not (
                    isinstance(hints[0], ast.Constant) and not hints[0].value
                )
                yield f"{path.relative_to(folder)}:{node.lineno}: {name}", given


def test_each_of_the_librarys_own_has_a_hint() -> None:
    bare = [where for where, given in made(ROOT) if not given]
    assert [where for where in bare if not where.startswith(APART)] == []


@pytest.mark.parametrize("folder", sorted(FOUND))
def test_those_of_each_folder_are_found(folder: str) -> None:
    assert len(list(made(ROOT / folder))) > FOUND[folder]


def test_none_has_one_by_itself() -> None:
    """Or it need not stand above."""
    assert [each for each in ACTED_ON if each("words").hint is not None] == []


def test_one_without_a_hint_is_found(tmp_path: Path) -> None:
    source = "errors.InvalidRequest('a')\nVolumeNotFound('b', hint='')\nDeviceBusy('c', hint='d')\n"
    (tmp_path / "room.py").write_text(source)
    assert [given for _, given in made(tmp_path)] == [False, False, True]
