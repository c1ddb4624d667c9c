"""Text that no other program takes goes to no driver: it is refused before, whatever it is for."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, get_args, get_origin, get_type_hints
from uuid import uuid4

import pytest
from pydantic import SecretStr, ValidationError

from hvdrivers.contract import errors
from hvdrivers.contract.driver import OPERATIONS, ComputeDriver
from hvdrivers.fake import FakeConfig, FakeDriver
from hvdrivers.guard import guarded
from hvdrivers.models.base import is_text
from hvdrivers.models.guest import GuestCredentials
from hvdrivers.models.migration import Destination
from hvdrivers.models.volume import IscsiData

NO_TEXT = ("\0", "a\0b", "\ud800", "a\udfffb")
CHAP = {"target_portal": "h:1", "target_iqn": "iqn.2020-01.x:a", "auth_username": "u"}
CHAP |= {"auth_method": "CHAP"}
TEXT = ("", "a", "ü", "\U0001f986", "\ud7ff", "\ue000", "a\nb", "\ufffe")


def _plain(hint: Any) -> bool:
    return hint is str or (str in get_args(hint) and get_origin(hint) is not Mapping)


PARAMETERS = [
    (name, parameter)
    for name in OPERATIONS
    for parameter, hint in get_type_hints(getattr(ComputeDriver, name)).items()
    if parameter != "return" and _plain(hint)
]


def test_what_is_text() -> None:
    assert all(map(is_text, TEXT))
    assert not any(map(is_text, NO_TEXT))


@pytest.mark.parametrize(("name", "parameter"), PARAMETERS)
def test_no_operation_hands_it_on(name: str, parameter: str) -> None:
    """Each plain text of each operation, the items of a command line among them."""
    hints = get_type_hints(getattr(ComputeDriver, name))
    with guarded(FakeDriver.connect(FakeConfig())) as driver:
        operation = getattr(driver, name)
        given: dict[str, Any] = {}
        for each in inspect.signature(getattr(ComputeDriver, name)).parameters.values():
            if each.name == "self" or each.default is not inspect.Parameter.empty:
                continue
            samples = {"uuid": uuid4(), "size_bytes": 1 << 20, "qos": None, "replacement": None}
            samples |= {"password": SecretStr("x"), "key": "x"}
            given[each.name] = samples.get(each.name, "x")
        for text in NO_TEXT:
            several = hints[parameter] is not str and str(hints[parameter]).find("Sequence") >= 0
            given[parameter] = [text] if several else text
            with pytest.raises(errors.InvalidRequest, match=f"^{parameter}: ") as refused:
                operation(**given)
            assert text not in str(refused.value)


def test_the_parameters_are_found() -> None:
    assert {("migrate_storage", "pool"), ("evict_image", "key"), ("guest_exec", "command")} <= set(
        PARAMETERS
    )
    assert len(PARAMETERS) > 15


@pytest.mark.parametrize("text", NO_TEXT)
def test_no_password_is_such(text: str) -> None:
    makers: list[Any] = [
        lambda: GuestCredentials(user="u", password=text),
        lambda: GuestCredentials(user=text, password="x"),
        lambda: Destination(host="h", password=text),
        lambda: IscsiData.model_validate(CHAP | {"auth_password": text}),
    ]
    for make in makers:
        with pytest.raises(ValidationError) as refused:
            make()
        assert text not in str(refused.value)
    with guarded(FakeDriver.connect(FakeConfig())) as driver, pytest.raises(errors.InvalidRequest):
        driver.set_guest_password(uuid4(), "root", SecretStr(text))
