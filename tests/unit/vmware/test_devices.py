"""Controllers and unit numbers, against a second small implementation of the documented rules."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyVmomi import vim

from hvdrivers.contract import errors
from hvdrivers.models.volume import DiskBus, VmdkVolume, VolumeAttachment
from hvdrivers.vmware.devices import NIC_LIMIT, Slots, bus_of, by_address
from hvdrivers.vmware.specs import Plan, Source, volume_disk

UNITS = {
    DiskBus.SCSI: [u for u in range(16) if u != 7],
    DiskBus.SATA: list(range(30)),
    DiskBus.NVME: list(range(15)),
    DiskBus.IDE: [0, 1],
}
MOST = {DiskBus.SCSI: 60, DiskBus.SATA: 120, DiskBus.NVME: 60, DiskBus.IDE: 4}


@pytest.mark.parametrize("bus", list(UNITS))
def test_each_place_is_given_once_until_there_is_none(bus: DiskBus) -> None:
    slots = Slots()
    given_out = [slots.disk(bus) for _ in range(MOST[bus])]
    assert len({address for _, _, address in given_out}) == MOST[bus]
    assert all(unit in UNITS[bus] for _, unit, _ in given_out)
    with pytest.raises(errors.InsufficientResources):
        slots.disk(bus)


@given(st.lists(st.sampled_from(list(UNITS)), max_size=80))
def test_a_machine_never_has_two_disks_at_one_place(wanted: list[DiskBus]) -> None:
    slots = Slots()
    seen: set[tuple[int, int]] = set()
    for bus in wanted:
        try:
            controller, unit, _ = slots.disk(bus)
        except errors.InsufficientResources:
            assert wanted.count(bus) > MOST[bus]
            continue
        assert (controller, unit) not in seen
        seen.add((controller, unit))
    numbers = [(type(c.device), c.device.busNumber) for c in slots.added]
    assert len(set(numbers)) == len(numbers)
    keys = [c.device.key for c in slots.added]
    assert len(set(keys)) == len(keys)
    assert all(key < 0 for key in keys)


def hardware() -> list[Any]:
    device = vim.vm.device
    backing = device.VirtualDisk.FlatVer2BackingInfo(fileName="[ds] a.vmdk", diskMode="persistent")
    return [
        device.VirtualIDEController(key=200, busNumber=0),
        device.VirtualLsiLogicController(key=1000, busNumber=0, sharedBus="noSharing"),
        device.VirtualDisk(key=2000, controllerKey=1000, unitNumber=0, backing=backing),
        device.VirtualDisk(key=2006, controllerKey=1000, unitNumber=6, backing=backing),
    ]


def test_what_is_there_is_left_alone() -> None:
    slots = Slots(hardware())
    found = [slots.disk(DiskBus.SCSI)[1] for _ in range(13)]
    assert found == [1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15]
    assert not slots.added
    assert slots.disk(DiskBus.SCSI)[2] == "scsi1:0"
    assert len(slots.added) == 1


def test_addresses_name_the_bus_the_controller_and_the_unit() -> None:
    assert set(by_address(hardware())) == {"scsi0:0", "scsi0:6"}


def test_ide_takes_nothing_while_the_machine_runs() -> None:
    with pytest.raises(errors.NotSupported):
        Slots(hardware()).disk(DiskBus.IDE, hot=True)


def test_nics_end_at_ten() -> None:
    slots = Slots()
    for _ in range(NIC_LIMIT):
        slots.nic()
    with pytest.raises(errors.InsufficientResources):
        slots.nic()


@pytest.mark.parametrize("bus", [DiskBus.VIRTIO, DiskBus.USB])
def test_a_bus_that_vsphere_has_not_is_refused(bus: DiskBus) -> None:
    with pytest.raises(errors.NotSupported):
        bus_of(bus)


def test_without_a_wish_it_is_scsi() -> None:
    assert bus_of(None) is DiskBus.SCSI


@pytest.mark.parametrize("policy", ["policy-1", None])
def test_the_storage_policy_of_a_volume_comes_along(policy: str | None) -> None:
    data = {"volume": "vm-1", "profile_id": policy}
    volume = VmdkVolume.model_validate({"serial": "v", "data": data})
    plan = Plan(Slots())
    volume_disk(plan, VolumeAttachment(volume=volume), Source("[a] b.vmdk", 1 << 30))
    (change,) = plan.changes
    assert [each.profileId for each in change.profile or ()] == ([policy] if policy else [])
