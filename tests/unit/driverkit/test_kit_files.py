"""Files on the caller's machine."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
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


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _file(path: Path) -> None:
    path.unlink()
    path.write_bytes(b"theirs")


def _link(path: Path) -> None:
    """To the very file that is written."""
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


@pytest.mark.parametrize("replace", [os.unlink, _folder, _file, _link])
@pytest.mark.parametrize("fails", [False, True])
def test_what_another_process_puts_in_its_place_stays(
    tmp_path: Path, replace: Callable[[Path], None], fails: bool
) -> None:
    target = tmp_path / "made"
    there: dict[Path, int] = {}

    def write() -> None:
        with new_file(target) as file:
            file.write(b"ours")
            replace(target)
            there.update((each, each.lstat().st_ino) for each in tmp_path.iterdir())
            if fails:
                raise KeyError

    with pytest.raises(KeyError if fails else errors.InvalidRequest) as refused:
        write()
    assert {each: each.lstat().st_ino for each in tmp_path.iterdir()} == there
    assert fails or refused.value.hint


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOSPC, errors.InsufficientResources), (errno.EIO, errors.InvalidRequest)],
)
def test_a_write_that_fails_is_told(
    tmp_path: Path, number: int, kind: type[errors.HypervisorError]
) -> None:
    with pytest.raises(kind, match="made") as refused, new_file(tmp_path / "made"):
        raise OSError(number, os.strerror(number))
    assert refused.value.hint
    assert list(tmp_path.iterdir()) == []


def test_failures_of_others_stay_what_they_are(tmp_path: Path) -> None:
    """A socket's, and the lack of descriptors, which the guard explains."""
    for error in (TimeoutError(), ConnectionResetError(), OSError(errno.EMFILE, "none left")):
        with pytest.raises(type(error)) as raised, new_file(tmp_path / "made"):
            raise error
        assert raised.value is error
