"""Texts of others, as errors and lists show them."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hvdrivers.messages import shortened, shown_label
from hvdrivers.models.instance import InstanceSummary
from hvdrivers.models.state import InstanceState


@given(st.text(st.characters(codec=None), max_size=300))
@example("a\uffff")
@example("\ufdd0")
@example("\U0010ffff" * 100)
@example("\ud800")
@example("a\u2028b\x00")
@example("🦆" * 63)
@example("")
def test_whatever_a_machine_is_called_is_a_label(name: str) -> None:
    InstanceSummary(
        uuid="00000000-0000-0000-0000-000000000001",
        name=shown_label(name),
        state=InstanceState.STOPPED,
        vcpus=1,
        memory_mib=64,
    )


@pytest.mark.parametrize("name", ["web-1", "ü 🦆", "x" * 63, "%2f"])
def test_a_name_stays(name: str) -> None:
    assert shown_label(name) == name


@pytest.mark.parametrize(
    ("name", "label"), [("a\uffffb", "a\ufffdb"), (" a ", "a"), ("x" * 80, "x" * 63)]
)
def test_as_near_as_can_be(name: str, label: str) -> None:
    assert shown_label(name) == label


def test_both_ends_of_a_long_message() -> None:
    assert shortened("a" * 500) == "a" * 500
    assert shortened("begin" + "-" * 999 + "end")[:5] == "begin"
    assert shortened("begin" + "-" * 999 + "end")[-3:] == "end"
    assert len(shortened("x" * 9999)) == 500


def test_a_message_is_safe_to_print() -> None:
    """A guest's agent may have written it."""
    assert shortened("no:\r\n \x1b[31mred\x07 \ud800") == "no: \ufffd[31mred\ufffd \ufffd"
