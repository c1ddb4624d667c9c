"""The words for what is wrong with a value, and that they are written in one place."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

import hvdrivers
from hvdrivers import VolumeAttachment
from hvdrivers.invalid import in_words


class _Login(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    password: SecretStr
    port: int = 1


def test_fields_are_named_and_values_are_not() -> None:
    with pytest.raises(ValidationError) as wrong:
        _Login.model_validate({"password": 17171717, "port": "hunter2", "passwd": "hunter2"})
    text = in_words(wrong.value)
    assert "17171717" not in text
    assert "hunter2" not in text
    assert [line.partition(":")[0] for line in text.split("; ")] == [
        "name",
        "password",
        "port",
        "passwd",
    ]
    assert in_words(wrong.value, most=1).endswith("; and 3 more")


def test_no_other_module_joins_the_fields_of_an_error() -> None:
    package = Path(hvdrivers.__file__).parent
    joined = re.compile(r"""["']\.["']\.join\(.*\bloc\b""")
    found = [
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if joined.search(path.read_text()) and path.name != "invalid.py"
    ]
    assert found == []


def test_a_value_without_its_kind_is_told_in_words() -> None:
    with pytest.raises(ValidationError) as wrong:
        VolumeAttachment.model_validate({"volume": {"id": "golden"}})
    assert in_words(wrong.value) == (
        "volume: it lacks 'driver_volume_type', which says of what kind it is"
    )
    with pytest.raises(ValidationError) as wrong:
        VolumeAttachment.model_validate({"volume": {"driver_volume_type": "hunter2"}, "buss": 1})
    kind, field = in_words(wrong.value).split("; ")
    assert kind.startswith("volume: 'driver_volume_type' is none of ")
    assert "'iscsi'" in kind
    assert "hunter2" not in kind
    assert field == "buss: there is no such field"
