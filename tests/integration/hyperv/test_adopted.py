"""Machines that others have made, and that adopt() has taken over: their disks, their boot order
and their type of checkpoints are others' choice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hvdrivers.contract import errors
from hvdrivers.hyperv.simulator.state.devices import Config, HardDrive, Memory, Slot
from hvdrivers.hyperv.simulator.state.machine import Machine
from hvdrivers.models.image import FileImage
from hvdrivers.models.instance import Keep
from hvdrivers.models.state import InstanceState
from tests.integration.hyperv.site import Site

S = InstanceState
ROOT = frozenset({Keep.ROOT_DISK})
DISK = "C:\\theirs\\disk.vhdx"


@contextmanager
def adopted(site: Site, *, slot: Slot | None = None, generation: int = 2) -> Iterator[Machine]:
    """One that is off, with a disk of 4 MiB."""
    state = site.host.state
    file = state.files.file(DISK)
    with site.host.world.lock:
        file.parent.mkdir(parents=True, exist_ok=True)
        state.disks.create(DISK, 4 << 20, "Dynamic")
        config = Config(
            name="theirs", generation=generation, memory=Memory(startup=64 << 20), scsi=1
        )
        drive = HardDrive(slot or Slot("SCSI", 0, 3), DISK)
        config.drives.append(drive)
        machine = Machine(host=state, config=config, path="C:\\elsewhere")
        state.machines[machine.id] = machine
    site.driver.adopt(machine.id)
    yield machine
    site.driver.destroy(machine.id)
    for each in file.parent.iterdir():
        each.unlink()
    assert site.left() == []


def over(site: Site, parent: str) -> Machine:
    """Another machine of others, with a disk that is based on this one."""
    state = site.host.state
    path = "C:\\theirs\\child.vhdx"
    with site.host.world.lock:
        state.disks.differencing(path, parent)
        config = Config(name="child", generation=2, memory=Memory(startup=64 << 20), scsi=1)
        config.drives.append(HardDrive(Slot("SCSI", 0, 0), path))
        machine = Machine(host=state, config=config, path="C:\\elsewhere")
        state.machines[machine.id] = machine
    return machine


def test_what_others_are_based_on_is_neither_moved_nor_grown(site: Site) -> None:
    """Their disks would be broken. destroy() leaves the file."""
    driver, state = site.driver, site.host.state
    with adopted(site) as machine:
        child = over(site, DISK)
        info = driver.get_instance(machine.id)
        larger = info.flavor.model_copy(update={"disk_gib": 1})
        for refused in (
            lambda: driver.resize(machine.id, larger),
            lambda: driver.destroy(machine.id, keep=ROOT),
        ):
            with pytest.raises(errors.DeviceBusy) as caught:
                refused()
            assert caught.value.hint
            assert driver.get_instance(machine.id) == info
            assert state.disks.look(DISK).size == 4 << 20
        driver.resize(machine.id, info.flavor)
        driver.destroy(machine.id)
        assert state.files.file(DISK).exists()
        with site.host.world.lock:
            del state.machines[child.id]


def test_a_kept_disk_with_snapshots_is_merged_into_the_volume(site: Site) -> None:
    """Its own checkpoints are no machines of others."""
    driver = site.driver
    with adopted(site) as machine:
        driver.create_snapshot(machine.id, "one")
        driver.destroy(machine.id, keep=ROOT)
        (kept,) = driver.list_volumes()
        assert str(machine.id) in kept.name
        assert kept.capacity_bytes == 4 << 20
        driver.delete_volume(kept.volume_id)


@pytest.mark.parametrize(
    ("kind", "memory"), [("Standard", True), ("Production", False), ("Disabled", None)]
)
def test_its_type_of_checkpoints_stays(
    site: Site, tmp_path: Path, kind: str, memory: bool | None
) -> None:
    """What a type does not give is refused."""
    driver = site.driver
    with adopted(site) as machine:
        machine.config.checkpoint_type = kind
        driver.power_on(machine.id)
        if memory:
            assert driver.create_snapshot(machine.id, "memory", memory=True).with_memory
        else:
            with pytest.raises(errors.NotSupported, match=r"memory|off") as caught:
                driver.create_snapshot(machine.id, "memory", memory=True)
            assert "Set-VM" in str(caught.value.hint)
        if memory is None:
            with pytest.raises(errors.NotSupported, match="off"):
                driver.create_snapshot(machine.id, "disks")
            with pytest.raises(errors.NotSupported, match="off"):
                driver.snapshot_to_image(machine.id, tmp_path / "image")
            driver.power_off(machine.id)
        else:
            driver.create_snapshot(machine.id, "disks")
        driver.snapshot_to_image(machine.id, tmp_path / "image")
        assert machine.config.checkpoint_type == kind
        names = {"memory"} if memory else set[str]()
        names |= set() if memory is None else {"disks"}
        assert {each.name for each in driver.list_snapshots(machine.id)} == names


@pytest.mark.parametrize("generation", [1, 2])
def test_a_rescue_leaves_its_boot_order(site: Site, image: FileImage, generation: int) -> None:
    driver = site.driver
    slot = Slot("IDE", 0, 0) if generation == 1 else None
    with adopted(site, slot=slot, generation=generation) as machine:
        with pytest.raises(errors.InvalidRequest, match="not based on") as caught:
            driver.rescue(machine.id)
        assert caught.value.hint
        before = [(each.slot, each.path) for each in machine.config.drives]
        order = list(machine.config.firmware.order)
        driver.rescue(machine.id, image)
        assert driver.get_instance(machine.id).state is S.RESCUED
        assert len(machine.config.drives) == 2
        driver.unrescue(machine.id)
        assert driver.get_instance(machine.id).state is S.RUNNING
        assert [(each.slot, each.path) for each in machine.config.drives] == before
        assert machine.config.firmware.order == order


def test_its_disk_is_not_replaced(site: Site, image: FileImage) -> None:
    driver = site.driver
    with adopted(site) as machine:
        info = driver.get_instance(machine.id)
        with pytest.raises(errors.NotSupported) as caught:
            driver.rebuild(machine.id, image)
        assert "destroy(keep=)" in str(caught.value.hint)
        assert driver.get_instance(machine.id) == info
        assert [each.path for each in machine.config.drives] == [DISK]
