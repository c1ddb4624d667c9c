"""Checks before a change."""

from __future__ import annotations

from itertools import islice
from uuid import uuid4

import pytest

from hvdrivers.contract import errors
from hvdrivers.driverkit import (
    Holder,
    Stock,
    device_names,
    free_name,
    free_slot,
    require_growth,
    require_port_free,
    require_room,
    require_stock,
    require_volume_free,
    root_disk_bytes,
)

GIB = 1 << 30


@pytest.mark.parametrize(
    ("image", "flavor", "expected"),
    [(GIB, 0, GIB), (GIB, 1, GIB), (GIB, 2, 2 * GIB), (1, 1, GIB), (3, 0, 3)],
)
def test_the_size_of_a_root_disk(image: int, flavor: int, expected: int) -> None:
    assert root_disk_bytes(image, flavor) == expected


def test_an_image_that_does_not_fit() -> None:
    with pytest.raises(errors.ImageRejected, match=r"1073741825 bytes \(1\.00 GiB\).* has 1 GiB"):
        root_disk_bytes(GIB + 1, 1)


def test_a_disk_does_not_shrink() -> None:
    require_growth("the root disk", 5, 5)
    require_growth("the root disk", 5, 6)
    with pytest.raises(errors.InvalidRequest, match="the root disk would shrink from 5 to 4"):
        require_growth("the root disk", 5, 4)


def test_room() -> None:
    require_room("pool default", 10, 10)
    with pytest.raises(errors.InsufficientResources, match=r"pool default has 0\.0 MiB"):
        require_room("pool default", -5, 1 << 20)


def test_stocks() -> None:
    require_stock([Stock("CPUs", 4, 4), Stock("MiB of memory", 0, 0)])
    with pytest.raises(errors.InsufficientResources, match="has 3 CPUs, and 4 would be needed"):
        require_stock([Stock("MiB of memory", 1, 2), Stock("CPUs", 4, 3)])


def test_names_of_devices_go_on_after_z() -> None:
    names = list(islice(device_names("vd"), 26 * 27 + 1))
    assert names[:2] == ["vda", "vdb"]
    assert names[25:28] == ["vdz", "vdaa", "vdab"]
    assert names[-2:] == ["vdzz", "vdaaa"]
    assert len(set(names)) == len(names)


def test_the_first_name_that_is_free() -> None:
    assert free_name("sd", {"sda", "sdc", "vdb"}) == "sdb"


def test_slots_of_the_controllers_that_are_there_come_first() -> None:
    units = [unit for unit in range(16) if unit != 7]
    place = {"controllers": 4, "units": units}
    assert free_slot({}, **place) == (0, 0)
    assert free_slot({1: {0, 1}}, **place) == (1, 2)
    assert free_slot({0: set(range(7))}, **place) == (0, 8)
    assert free_slot({0: set(units)}, **place) == (1, 0)
    assert free_slot({0: set(units), 2: {0}}, **place) == (2, 1)
    with pytest.raises(errors.InsufficientResources, match="60 disks"):
        free_slot(dict.fromkeys(range(4), units), **place)


def test_a_volume_that_another_machine_has() -> None:
    other = uuid4()
    require_volume_free("v", [], shares=False)
    require_volume_free("v", [Holder(other, shares=True)], shares=True)
    for holder, shares in (
        (Holder(other), False),
        (Holder(other), True),
        (Holder(other, shares=True), False),
    ):
        with pytest.raises(errors.DeviceBusy, match=str(other)) as caught:
            require_volume_free("v", [holder], shares=shares)
        assert caught.value.retryable


def test_a_port_that_another_machine_has() -> None:
    require_port_free("p", [])
    with pytest.raises(errors.DeviceBusy, match="'p'"):
        require_port_free("p", [Holder(uuid4())])
