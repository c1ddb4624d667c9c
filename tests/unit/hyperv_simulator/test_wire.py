"""CLIXML of the simulated host, and what it makes of requests. No PowerShell is needed."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvdrivers.hyperv.simulator import wire

SPACE = "{http://schemas.microsoft.com/powershell/2004/04}"


def values(text: str) -> list[tuple[str, str | None]]:
    return [(e.tag.removeprefix(SPACE), e.text) for e in ET.fromstring(text)]


def test_scalars_have_the_tags_of_their_dotnet_types() -> None:
    told = values(
        wire.clixml(
            [
                True,
                7,
                1 << 40,
                wire.UInt64(3),
                UUID(int=5),
                timedelta(days=1, seconds=2),
                datetime(2026, 1, 2, tzinfo=UTC),
                None,
                b"\0\1",
            ]
        )
    )
    assert told == [
        ("B", "true"),
        ("I32", "7"),
        ("I64", str(1 << 40)),
        ("U64", "3"),
        ("G", "00000000-0000-0000-0000-000000000005"),
        ("TS", "P1DT2.000000S"),
        ("DT", "2026-01-02T00:00:00Z"),
        ("Nil", None),
        ("BA", "AAE="),
    ]


@given(st.text())
def test_any_text_makes_one_line_of_xml_that_a_reader_takes(text: str) -> None:
    document = wire.clixml([text]).encode("utf-8")
    assert b"\n" not in document
    ((tag, told),) = values(document.decode())
    assert tag == "S"
    decoded = "" if told is None else _unescape(told)
    assert decoded == text


def _unescape(text: str) -> str:
    import re

    return re.sub("_x([0-9A-F]{4})_", lambda m: chr(int(m[1], 16)), text)


def test_properties_that_hold_objects_are_named() -> None:
    inner = wire.Thing(("A.Drive",), {"Path": "x"})
    outer = wire.Thing(("A.Controller",), {"Drives": [inner], "Name": "n"})
    bag = wire.Thing(("A.Machine",), {"Setting": wire.Thing((), {"a": 1})})
    assert wire.inner_names([outer]) == ["Drives"]
    assert wire.inner_names([bag]) == []


@pytest.mark.parametrize("line", [b"[]", b"{}", b'{"c": 1, "s": "", "b": {}}', b"no"])
def test_a_line_that_is_no_call_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        wire.read_request(line)
