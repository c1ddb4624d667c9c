"""Errors that a caller can do something about say what.

A driver's own errors are found in its source; those of libvirt have a hint by their class.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

libvirt = pytest.importorskip("libvirt")

import hvdrivers.libvirt  # noqa: E402
from hvdrivers.contract import errors  # noqa: E402
from hvdrivers.libvirt.errors import TABLE, translate  # noqa: E402

ROOT = Path(hvdrivers.libvirt.__file__).parent
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
BY_CLASS = (errors.VolumeNotFound, errors.NetworkNotFound, errors.InvalidRequest)


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


def test_each_of_the_drivers_own_has_a_hint() -> None:
    found = list(made(ROOT))
    assert len(found) > 200
    assert [where for where, given in found if not given] == []


def test_none_has_one_by_itself() -> None:
    """Or it need not stand above."""
    assert [each for each in ACTED_ON if each("words").hint is not None] == []


def test_one_without_a_hint_is_found(tmp_path: Path) -> None:
    source = "errors.InvalidRequest('a')\nVolumeNotFound('b', hint='')\nDeviceBusy('c', hint='d')\n"
    (tmp_path / "room.py").write_text(source)
    assert [given for _, given in made(tmp_path)] == [False, False, True]


@pytest.mark.parametrize("code", sorted(n for n, cls in TABLE.items() if cls in BY_CLASS))
def test_each_of_libvirts_has_one(code: str) -> None:
    error = libvirt.libvirtError("")
    number = getattr(libvirt, code, None)
    if number is None:
        pytest.skip(f"precondition missing: this libvirt has no {code}")
    error.err = (number, 0, "words", libvirt.VIR_ERR_ERROR, None, None, None, 0, -1)
    assert translate(error).hint
