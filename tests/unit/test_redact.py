"""No spelling of a secret gets through, and nothing else is touched."""

from __future__ import annotations

import base64
import json
from enum import StrEnum
from ipaddress import ip_network
from urllib.parse import quote

import pytest
from pydantic import BaseModel, SecretBytes, SecretStr, TypeAdapter, ValidationError

from hvdrivers.contract import errors
from hvdrivers.redact import Redacted, blot, blot_error, secrets_in

SECRET = "pass & 'word' 100%"


class Inner(BaseModel):
    token: SecretStr
    others: dict[str, SecretBytes] = {}


class Outer(BaseModel):
    model_config = {"arbitrary_types_allowed": True}
    inner: list[Inner]
    network: object = None


def test_secrets_are_found_however_deep_and_nothing_is_used_up() -> None:
    once = iter("abc")
    value = {
        "a": [Outer(inner=[Inner(token="one", others={"x": b"two"})], network=ip_network("::/0"))],
        "b": (SecretStr("three"), once, "plain", b"plain"),
    }
    assert list(secrets_in(value)) == ["one", "two", "three"]
    assert list(once) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "spelling",
    [
        SECRET,
        repr(SECRET),
        quote(SECRET),
        quote(SECRET, safe=""),
        base64.b64encode(SECRET.encode()).decode(),
        SECRET.replace("&", "&amp;"),
        json.dumps(SECRET),
    ],
)
def test_every_usual_spelling_is_blotted(spelling: str) -> None:
    text = blot(f"<{spelling}>", [SECRET])
    assert "**********" in text
    assert "word" not in text


def test_a_secret_within_another_leaves_no_rest() -> None:
    assert blot("abcdefgh", ["abcd", "abcdefgh"]) == "**********"


def test_a_script_is_blotted_line_by_line_and_short_texts_stay() -> None:
    script = "#cloud-config\nid: 7\npassword: hunter22"
    assert blot("line 3: password: hunter22", [script]) == "line 3: **********"
    assert blot("id: 7 of abc", [script, "abc"]) == "id: 7 of abc"


class Colour(StrEnum):
    RED = "crimson red"


def test_attributes_notes_causes_and_groups_are_cleaned_and_the_rest_keeps_its_type() -> None:
    deep = UnicodeDecodeError("utf-8", SECRET.encode(), 0, 1, SECRET)
    middle = OSError(2, SECRET, SECRET)
    middle.__cause__ = deep
    error = ExceptionGroup(SECRET, [ImportError(SECRET, path=SECRET)])
    error.__context__ = middle
    error.add_note(SECRET)
    error.colour, error.nested = Colour.RED, {"a": [(SECRET, 1)]}
    blot_error(error, [SECRET])
    assert error.colour is Colour.RED
    shown = [error.__notes__, error.nested, error.exceptions[0].msg, error.exceptions[0].path]
    shown += [middle.strerror, middle.filename, str(middle), deep.object, str(deep)]
    assert SECRET not in repr(shown)
    assert "word" not in repr(shown)


def test_a_cause_that_cannot_be_cleaned_is_replaced() -> None:
    error = RuntimeError("outer")
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(int).validate_python(SECRET)
    error.__cause__ = caught.value
    assert SECRET in str(error.__cause__)
    blot_error(error, [SECRET])
    assert isinstance(error.__cause__, Redacted)
    assert str(error.__cause__).startswith("ValidationError: ")
    assert SECRET not in str(error.__cause__)
    assert error.__cause__.__traceback__ is caught.value.__traceback__


def test_circles_end() -> None:
    first, second = RuntimeError(SECRET), RuntimeError(SECRET)
    first.__context__, second.__context__ = second, first
    blot_error(first, [SECRET])
    assert SECRET not in str(first) + str(second)


class Refusing(Exception):
    """As pyVmomi's faults: they take no attribute but their own, ``args`` neither."""

    def __init__(self, text: str) -> None:
        super().__init__(text)

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("__"):
            raise AttributeError(name)
        super().__setattr__(name, value)


def test_an_exception_that_cannot_be_changed() -> None:
    """Another one stands in its place where it is a cause, and blotting raises nothing."""
    error = RuntimeError("failed")
    error.__cause__ = Refusing("no sesame-4711 here")
    blot_error(error, ["sesame-4711"])
    assert isinstance(error.__cause__, Redacted)
    assert "sesame" not in f"{error.__cause__!s}{error.__cause__!r}"
    blot_error(Refusing("sesame-4711"), ["sesame-4711"])


def test_a_fault_of_pyvmomi_is_replaced() -> None:
    """Such an exception takes no attribute, not even ``args``."""
    vim = pytest.importorskip("pyVmomi").vim
    error = errors.HypervisorFault("failed")
    error.__cause__ = vim.fault.NoPermission(msg="the password hunter2-hunter2 is wrong")
    blot_error(error, ["hunter2-hunter2"])
    assert "hunter2-hunter2" not in f"{error.__cause__!s} {error.__cause__!r}"
