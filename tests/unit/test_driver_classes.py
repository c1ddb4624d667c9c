"""A driver is one class made of many: none of them may take another's helper by its name."""

from __future__ import annotations

import inspect
from itertools import combinations

import pytest

from hvdrivers.contract.driver import Driver
from hvdrivers.plugins.discovery import load_driver

DRIVERS = {"fake": "pydantic", "libvirt": "libvirt", "vmware": "pyVmomi", "hyperv": "winrm"}
_HELPERS = (property, staticmethod, classmethod)


def collisions(cls: type[Driver]) -> list[tuple[str, str, str]]:
    """Private helpers that two classes define of which neither is derived from the other."""
    owners: dict[str, list[type]] = {}
    for each in cls.__mro__:
        for name, value in vars(each).items():
            helper = inspect.isfunction(value) or isinstance(value, _HELPERS)
            if helper and name.startswith("_") and not name.startswith("__"):
                owners.setdefault(name, []).append(each)
    return [
        (name, one.__name__, other.__name__)
        for name, found in owners.items()
        for one, other in combinations(found, 2)
        if not issubclass(one, other)
    ]


@pytest.mark.parametrize("name", DRIVERS)
def test_no_two_rooms_have_a_helper_of_one_name(name: str) -> None:
    """create_volume() asked a helper of rescue(): it gave a name that another pool had."""
    pytest.importorskip(DRIVERS[name])
    assert collisions(load_driver(name)) == []
