"""An operation has one deadline, which its driver makes from the caller's ``timeout`` in one place.

A second one, made in the operation, begins later, and nothing but time lets it pass: the
conformance suite's fault seam ends the operation's own (``Deadline.pass_now()``), and would have to
sleep a second one out.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "hvdrivers"
PLACES = {"libvirt": ["session.py"], "vmware": []}
"""Where each driver makes it; vSphere's by the kit's ``operating()``. One whose calls take their
deadline as an argument is not here."""


def deadlines_of_timeouts(source: str) -> list[int]:
    """Lines in which a Deadline is made from a caller's ``timeout``."""
    return [
        call.lineno
        for call in ast.walk(ast.parse(source))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id == "Deadline"
        and any(
            isinstance(n, ast.Name) and n.id == "timeout" for a in call.args for n in ast.walk(a)
        )
    ]


@pytest.mark.parametrize("driver", sorted(PLACES))
def test_it_is_made_in_one_place(driver: str) -> None:
    found = {
        path.name: lines
        for path in sorted((ROOT / driver).rglob("*.py"))
        if (lines := deadlines_of_timeouts(path.read_text()))
    }
    assert list(found) == PLACES[driver], f"use current_deadline(): {found}"
    assert all(len(lines) == 1 for lines in found.values())


def test_what_is_found() -> None:
    assert deadlines_of_timeouts("x = Deadline(min(timeout, 3))\ny = Deadline(graceful)") == [1]
