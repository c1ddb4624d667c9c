"""The error tree: its drawing, what an error carries, and that it survives a pickle."""

from __future__ import annotations

import copy
import pickle
import re
from uuid import uuid4

import pytest

from hvdrivers.contract import errors

CLASSES = [
    each
    for each in vars(errors).values()
    if isinstance(each, type) and issubclass(each, errors.HypervisorError)
]
EVERY = pytest.mark.parametrize("cls", CLASSES, ids=lambda each: each.__name__)


def test_the_drawing_is_the_tree() -> None:
    drawn = {"HypervisorError": "Exception"}
    above = ["HypervisorError"]
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"    ([│ ]*)[├└]── (\w+) ", line)
        if found:
            depth = len(found[1]) // 4 + 1
            above[depth:] = [found[2]]
            drawn[found[2]] = above[depth - 1]
    assert drawn == {cls.__name__: cls.__base__.__name__ for cls in CLASSES if cls.__base__}


@EVERY
def test_an_error_says_what_it_means(cls: type[errors.HypervisorError]) -> None:
    assert cls.__doc__
    assert "__init__" not in vars(cls) or cls is errors.HypervisorError


@EVERY
@pytest.mark.parametrize(
    "duplicate", [lambda each: pickle.loads(pickle.dumps(each)), copy.copy], ids=["pickle", "copy"]
)
def test_an_error_survives_with_all_it_carries(cls, duplicate) -> None:
    error = cls(
        "what went wrong",
        operation="spawn",
        host="lab1",
        instance=uuid4(),
        vendor_code="VIR_ERR_42",
        hint="do this",
        retryable=True,
    )
    error.add_note("a note")
    again = duplicate(error)
    assert type(again) is cls
    assert vars(again) == vars(error)
    assert str(again) == str(error)
    assert again.args == error.args


def test_an_error_is_one_line_with_its_place() -> None:
    uuid = uuid4()
    error = errors.DeviceBusy("in use", vendor_code="E7")
    error.locate(operation="detach_volume", host="lab1", instance=uuid)
    error.locate(operation="other", host="other")
    assert str(error) == f"in use [E7] (operation detach_volume, instance {uuid}, host lab1)"


def test_a_class_brings_its_hint_and_whether_to_retry() -> None:
    assert errors.DeviceBusy("x").retryable
    assert not errors.DeviceBusy("x", retryable=False).retryable
    assert not errors.AuthenticationFailed("x").retryable
    assert errors.GuestAgentUnavailable("x").hint
    assert errors.GuestAgentUnavailable("x", hint="y").hint == "y"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\0b\x1b[31m", r"a\x00b\x1b[31m"),
        ("half \ud800, of a file's name \udcff", r"half \ud800, of a file's name \udcff"),
        ("gnp\u202eexe", r"gnp\u202eexe"),
        ("two\r\nlines\u2028or three", "two  lines or three"),
        ("ü 👩\u200d🚀 \u05d0", "ü 👩\u200d🚀 \u05d0"),
        ("a" * 2000, "a" * 2000),
        (f"begin{'x' * 10000}end", f"begin{'x' * 995} ... {'x' * 997}end"),
    ],
)
def test_any_log_takes_an_error(text: str, shown: str) -> None:
    """What it quotes comes from others: a path that is no UTF-8, a name that is 10,000 long."""
    error = errors.VolumeNotFound(text, hint=text)
    assert (error.message, str(error), error.hint, error.args) == (shown, shown, shown, (shown,))
    assert str(error).encode()
    assert str(pickle.loads(pickle.dumps(error))) == shown
