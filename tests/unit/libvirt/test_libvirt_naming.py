"""Names and aliases: whatever goes in comes out, in characters that libvirt takes."""

from __future__ import annotations

import re
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from hvdrivers.libvirt.devices import serial_of, vif_in_alias
from hvdrivers.libvirt.naming import alias, domain_name, from_alias, is_rescued, label_of
from hvdrivers.models.base import Identifier, Name

UUIDS = st.uuids()


def _valid(annotation: object) -> st.SearchStrategy[str]:
    adapter = TypeAdapter(annotation)

    def accepted(text: str) -> bool:
        try:
            adapter.validate_python(text)
        except ValidationError:
            return False
        return True

    characters = st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"))
    return st.text(st.one_of(st.sampled_from("%/_<&'\".- 0aA"), characters), max_size=63).filter(
        accepted
    )


@given(_valid(Name), UUIDS)
def test_labels_round_trip(label: str, uuid: UUID) -> None:
    name = domain_name(label, uuid)
    assert label_of(name, uuid) == label
    assert "/" not in name
    assert "\n" not in name
    # libvirt's files beside the definition: NAME.xml.new, NAME_VARS.fd
    assert len(name.encode()) <= 255 - len("_VARS.fd.xx")


@given(_valid(Name), UUIDS)
def test_the_mark_of_a_rescue_is_no_part_of_a_label(label: str, uuid: UUID) -> None:
    for each in (label, "a%rescued", f"{label[:40]}%rescued"):
        for rescued in (False, True):
            name = domain_name(each, uuid, rescued=rescued)
            assert (label_of(name, uuid), is_rescued(name, uuid)) == (each.strip(), rescued)
            assert not is_rescued(name, uuid4())
    assert len(domain_name(label, uuid, rescued=True).encode()) <= 255 - len("_VARS.fd.xx")


@given(_valid(Name), UUIDS)
def test_a_copy_of_a_machine_is_not_ours(label: str, uuid: UUID) -> None:
    """Its name repeats another machine's id."""
    assert label_of(domain_name(label, uuid), uuid4()) is None
    assert label_of(label, uuid) is None


@given(_valid(Identifier))
def test_aliases_round_trip(identifier: str) -> None:
    made = alias("volume", identifier)
    assert from_alias("volume", made) == identifier
    assert re.fullmatch(r"ua-[A-Za-z0-9_-]+", made)
    assert from_alias("vif-bridge", made) is None
    assert vif_in_alias(alias("vif-ovs", identifier)) == ("ovs", identifier)


@given(_valid(Identifier), _valid(Identifier))
def test_aliases_are_distinct(one: str, other: str) -> None:
    assert (alias("volume", one) == alias("volume", other)) == (one == other)


@pytest.mark.parametrize(
    "text", ["", "virtio-disk0", "ua-", "ua-volume", "ua-vif-volume", "ua-own-root", "volume-x"]
)
def test_what_is_no_alias_of_ours(text: str) -> None:
    assert from_alias("volume", text) is None
    assert vif_in_alias(text) is None


@given(_valid(Identifier))
def test_serial_numbers(identifier: str) -> None:
    serial = serial_of(identifier)
    assert re.fullmatch(r"[A-Za-z0-9_.+-]{1,36}", serial)
    if re.fullmatch(r"[A-Za-z0-9_.+-]{1,36}", identifier):
        assert serial == identifier
