"""Files on the caller's machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from hvdrivers.contract import errors
from hvdrivers.driverkit import new_file


def test_is_there_when_it_was_written(tmp_path: Path) -> None:
    with new_file(tmp_path / "made") as file:
        file.write(b"content")
    assert (tmp_path / "made").read_bytes() == b"content"


def test_a_failure_leaves_none(tmp_path: Path) -> None:
    with pytest.raises(TypeError), new_file(tmp_path / "made") as file:
        file.write("no bytes")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_one_that_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "made").write_bytes(b"theirs")
    with pytest.raises(errors.InvalidRequest), new_file(tmp_path / "made"):
        pass
    assert (tmp_path / "made").read_bytes() == b"theirs"


@pytest.mark.parametrize("name", ["absent/made", "nul\0"])
def test_where_none_can_be_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(errors.InvalidRequest), new_file(tmp_path / name):
        pass
