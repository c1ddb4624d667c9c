"""Which characters libvirt's XML takes."""

from __future__ import annotations

import pytest

from hvdrivers.contract import errors
from hvdrivers.libvirt.xml import el, parse, text

CHARACTERS = [(0x09, 0x0A), (0x0D, 0x0D), (0x20, 0xD7FF), (0xE000, 0xFFFD), (0x10000, 0x10FFFF)]
"""First and last of each range of XML 1.0, section 2.2, production Char."""
NONE = [(0x00, 0x08), (0x0B, 0x0C), (0x0E, 0x1F), (0xD800, 0xDFFF), (0xFFFE, 0xFFFF)]
"""Of what is between them."""


def test_together_they_are_all_there_are() -> None:
    at = 0
    for first, last in sorted(CHARACTERS + NONE):
        assert first == at
        at = last + 1
    assert at == 0x110000


@pytest.mark.parametrize("code", sorted({each for pair in CHARACTERS for each in pair}))
def test_a_character_of_xml_is_taken(code: int) -> None:
    assert parse(text(el("a", f"x{chr(code)}x"))).text in {f"x{chr(code)}x", "x\nx"}


@pytest.mark.parametrize("code", sorted({each for pair in NONE for each in pair}))
def test_any_other_is_refused_and_read_as_a_mark(code: int) -> None:
    with pytest.raises(errors.InvalidRequest, match=rf"U\+{code:04X}"):
        text(el("a", chr(code)))
    assert parse(f"<a>x{chr(code)}</a>").text == "x\ufffd"
