"""What a guest tells of itself: it says what it likes."""

from __future__ import annotations

from typing import Any

import pytest

from hvdrivers.models.guest import AddressSource, GuestAddress


def address(**changes: Any) -> GuestAddress:
    values = {"mac": "52:54:00:00:00:01", "address": "10.0.0.1", "source": AddressSource.AGENT}
    return GuestAddress.model_validate(values | changes)


@pytest.mark.parametrize(
    ("ip", "told", "known"),
    [
        ("10.0.0.1", 24, 24),
        ("10.0.0.1", 0, 0),
        ("10.0.0.1", 33, None),
        ("10.0.0.1", -1, None),
        ("10.0.0.1", 4_000_000_000, None),
        ("fd00::1", 128, 128),
        ("fd00::1", 129, None),
        ("fd00::1", None, None),
    ],
)
def test_a_prefix_fits_its_address(ip: str, told: int | None, known: int | None) -> None:
    assert address(address=ip, prefix_length=told).prefix_length == known


@pytest.mark.parametrize("name", ["eth0\n", "\x1b[31m", "a\x00", "\ufffe"])
def test_a_name_is_printable(name: str) -> None:
    assert address(interface=name).interface is None
    assert address(interface="Ethernet ü").interface == "Ethernet ü"
