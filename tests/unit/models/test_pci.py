"""PCI addresses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from hvdrivers.models.pci import PciAddress


@pytest.mark.parametrize("text", ["0000:03:10.1", "03:10.1", "3:10.1", "0:03:10.1"])
def test_one_form(text):
    assert PciAddress(text) == "0000:03:10.1"
    assert TypeAdapter(PciAddress).validate_python(text) == PciAddress("0000:03:10.1")


@given(st.integers(0, 0xFFFFF), st.integers(0, 255), st.integers(0, 31), st.integers(0, 7))
def test_parts_survive(domain, bus, slot, function):
    address = PciAddress.of(domain, bus, slot, function)
    assert (address.domain, address.bus, address.slot, address.function) == (
        domain,
        bus,
        slot,
        function,
    )
    assert PciAddress(address) is address
    assert TypeAdapter(PciAddress).validate_json(f'"{address}"') == address


@pytest.mark.parametrize("text", ["", "03", "0000:03:20.1", "0000:03:10.8", "a:b:c.d\n", "٣:10.1"])
def test_wrong(text):
    with pytest.raises(ValueError, match="PCI address"):
        PciAddress(text)
    with pytest.raises(ValidationError):
        TypeAdapter(PciAddress).validate_python(text)
