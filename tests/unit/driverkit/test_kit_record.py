"""Records: written by one version of the library, read by another, edited by people."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvdrivers.contract import errors
from hvdrivers.driverkit import Record, line_in, with_line
from hvdrivers.models.image import HostImage
from hvdrivers.models.instance import Firmware, Flavor, InstanceSpec

FLAVOR = Flavor(vcpus=2, memory_mib=512, disk_gib=3)


def record(**fields: Any) -> Record:
    return Record(name="web", flavor=FLAVOR, **fields)


def test_it_comes_back_as_it_was() -> None:
    spec = InstanceSpec(
        uuid=uuid4(),
        name="wéb",
        flavor=FLAVOR,
        image=HostImage(name="cirros"),
        metadata={"a": "<&\n\u2028'"},
    )
    made = Record.of(spec, image="sha256-1", default_firmware=Firmware.UEFI, uuid=spec.uuid)
    assert Record.decoded(made.encoded()) == made
    assert (made.name, made.firmware, made.image) == ("wéb", Firmware.UEFI, "sha256-1")


@given(st.dictionaries(st.from_regex(r"[a-z]{1,9}", fullmatch=True), st.text(max_size=50)))
def test_the_text_is_one_line_of_ascii(metadata: dict[str, str]) -> None:
    text = record(metadata=metadata).encoded()
    assert text.isascii()
    assert text.isprintable()
    assert Record.decoded(text).metadata == metadata


def test_fields_of_a_later_version_are_kept_and_written_back() -> None:
    data = json.loads(record().encoded())
    data["colour"] = {"r": 1}
    data["flavor"]["gpus"] = 2
    read = Record.decoded(json.dumps(data))
    assert read.flavor == FLAVOR
    changed = read.model_copy(update={"metadata": {"a": "b"}})
    assert json.loads(changed.encoded()) == data | {"metadata": {"a": "b"}}


def test_a_record_that_must_not_be_touched_is_refused() -> None:
    data = json.loads(record().encoded()) | {"version": 2}
    with pytest.raises(errors.HypervisorFault, match="missing or damaged"):
        Record.decoded(json.dumps(data))


@pytest.mark.parametrize(
    "text", [None, "", "{", "[]", "null", "{}", '{"flavor": 1}', "[" * 100_000, "9" * 5000]
)
def test_a_damaged_record_is_a_fault(text: str | None) -> None:
    with pytest.raises(errors.HypervisorFault, match="missing or damaged"):
        Record.decoded(text)


def test_what_the_hypervisor_cannot_keep_is_refused() -> None:
    text = record().encoded()
    made = Record.decoded(text)
    assert made.encoded(limit=len(text)) == text
    with pytest.raises(errors.InvalidRequest, match=f"keeps {len(text) - 1}"):
        made.encoded(limit=len(text) - 1)


def test_the_record_of_a_copy_is_its_original_s() -> None:
    uuid = uuid4()
    made = Record.decoded(record(uuid=uuid).encoded())
    assert made.belongs_to(uuid)
    assert not made.belongs_to(uuid4())
    assert record().belongs_to(uuid)


def test_a_driver_may_keep_more() -> None:
    class Mine(Record):
        template: str = ""

    made = Mine(name="web", flavor=FLAVOR, template="t1")
    assert Mine.decoded(made.encoded()).template == "t1"
    # and a version without that field does not lose it
    assert Mine.decoded(Record.decoded(made.encoded()).encoded()).template == "t1"


# ---- notes ---------------------------------------------------------------------------------------


def test_notes_keep_what_people_wrote() -> None:
    notes = "Owner: Ann\r\nhvdrivers of old\n\ncall her first"
    first = with_line(notes, "hvdrivers", '{"a":1}')
    assert line_in(first, "hvdrivers") == '{"a":1}'
    second = with_line(first, "hvdrivers", '{"a":2}')
    assert line_in(second, "hvdrivers") == '{"a":2}'
    assert second.count("hvdrivers:") == 1
    assert with_line(second, "hvdrivers", None).splitlines() == notes.splitlines()


def test_notes_without_a_line() -> None:
    assert line_in("", "hvdrivers") is None
    assert line_in("  hvdrivers: x", "hvdrivers") is None
    assert with_line("", "hvdrivers", "x") == "hvdrivers: x"


def test_a_value_is_one_line() -> None:
    with pytest.raises(ValueError, match="more than one line"):
        with_line("", "hvdrivers", "a\nb")
