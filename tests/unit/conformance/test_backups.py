"""How the checks of backups compare what two of them cover."""

from __future__ import annotations

import pytest

from hvdrivers.conformance.checks.export_backup import _outside
from hvdrivers.models.snapshot import Backup, ChangedExtent

Range = tuple[str, int, int]


def _backup(*ranges: Range, zero: Range | None = None) -> Backup:
    extents = [ChangedExtent(disk=d, offset=o, length=n) for d, o, n in ranges]
    if zero is not None:
        extents.append(ChangedExtent(disk=zero[0], offset=zero[1], length=zero[2], zero=True))
    return Backup(id="b", since=None, disks=("root",), extents=tuple(extents))


@pytest.mark.parametrize(
    ("first", "second", "outside"),
    [
        ([("root", 0, 64), ("root", 64, 64)], [("root", 0, 128)], 0),  # merged by the host
        ([("root", 0, 128)], [("root", 64, 64), ("root", 0, 64)], 0),
        ([("root", 0, 128)], [("root", 0, 64)], 64),
        ([("root", 0, 128)], [("root", 32, 32)], 96),
        ([("root", 0, 128)], [("other", 0, 128)], 128),
        ([("root", 0, 64)], [("root", 64, 64)], 64),
        ([], [("root", 0, 64)], 0),
    ],
)
def test_ranges_are_compared_by_their_bytes(
    first: list[Range], second: list[Range], outside: int
) -> None:
    assert _outside(_backup(*first), _backup(*second)) == outside


def test_what_is_zero_needs_no_copy() -> None:
    assert _outside(_backup(zero=("root", 0, 64)), _backup()) == 0
    assert _outside(_backup(("root", 0, 64)), _backup(zero=("root", 0, 64))) == 64
