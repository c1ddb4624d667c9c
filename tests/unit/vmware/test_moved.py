"""Which disk is which, when somebody has moved disks to other units."""

from __future__ import annotations

from typing import Any

import pytest

from hvdrivers.models.volume import DiskBus
from hvdrivers.vmware.devices import Slots
from hvdrivers.vmware.moved import Devices, VolumeRecord, moved
from hvdrivers.vmware.specs import disk_at

UUID = "7b2b6ba2-4b6f-4a1e-9d8a-0123456789ab"
HOME = f"[ssd] hvdrivers/instances/{UUID}"
THEIRS = "[ssd] theirs/disk.vmdk"
VOLUME = "[ssd] hvdrivers/volumes/v.vmdk"
RECORD = Devices(
    own={"scsi0:0": "root", "scsi0:1": "swap"},
    volumes={"scsi0:2": VolumeRecord(id="ssd/v", bus=DiskBus.SCSI)},
)


def hardware(*files: str | None, ids: dict[int, str] | None = None) -> list[Any]:
    """A machine with these files at units 0, 1, 2…, with the UUIDs in their VMDKs."""
    slots = Slots()
    controller, _, _ = slots.disk(DiskBus.SCSI)
    (added,) = [each.device for each in slots.added]
    disks = [disk_at(file, controller, n, 1 << 20) for n, file in enumerate(files) if file]
    for disk in disks:
        disk.backing.uuid = (ids or {}).get(disk.unitNumber)
    return [added, *disks]


def now(*files: str | None) -> dict[str, str]:
    """What the record says of a machine with these files at units 0, 1, 2…"""
    return told(moved(RECORD, hardware(*files), UUID))


def told(found: Devices) -> dict[str, str]:
    return {**found.own, **{address: each.id for address, each in found.volumes.items()}}


@pytest.mark.parametrize(
    "root",
    [
        f"{HOME}/root.vmdk",
        f"{HOME}/root-000003.vmdk",
        f"{HOME}/root-0123456789ab.vmdk",
        f"{HOME}/root-0123456789ab-000001.vmdk",
        f"[ssd] label.{UUID}/label.{UUID}.vmdk",
        f"[other] label.{UUID}_1/label.{UUID}_1-000001.vmdk",
        f"[other] label.{UUID}_1/label.{UUID}.vmdk",
        f"[ssd] [ssd] label.{UUID}/[ssd] label.{UUID}.vmdk",
    ],
)
def test_root_disk_is_known_by_its_file(root: str) -> None:
    swap = f"{HOME}/swap.vmdk"
    as_recorded = {"scsi0:0": "root", "scsi0:1": "swap", "scsi0:2": "ssd/v"}
    assert now(root, swap, VOLUME) == as_recorded
    assert now(root, swap, VOLUME, THEIRS) == as_recorded
    assert now(THEIRS, swap, VOLUME, root) == {
        "scsi0:3": "root",
        "scsi0:1": "swap",
        "scsi0:2": "ssd/v",
    }
    assert now(swap, VOLUME, root) == {"scsi0:0": "swap", "scsi0:1": "ssd/v", "scsi0:2": "root"}
    assert now(THEIRS, root, VOLUME) == {
        "scsi0:1": "root",
        "lost swap": "swap",
        "scsi0:2": "ssd/v",
    }
    assert now(None, swap, VOLUME, root) == {
        "scsi0:3": "root",
        "scsi0:1": "swap",
        "scsi0:2": "ssd/v",
    }


def test_the_address_decides_where_no_name_says_more() -> None:
    """An administrator's Storage vMotion gives a folder, and adopt() takes disks, of any name."""
    as_recorded = {"scsi0:0": "root", "scsi0:1": "swap", "scsi0:2": "ssd/v"}
    assert now("[x] web/web.vmdk", "[x] web/web_1.vmdk", "[x] v/v.vmdk") == as_recorded
    two = (f"[ssd] a.{UUID}/root.vmdk", f"[ssd] b.{UUID}/root.vmdk")
    assert now(THEIRS, f"{HOME}/swap.vmdk", VOLUME, *two) == as_recorded
    other = f"[ssd] hvdrivers/instances/{UUID[:-1]}c/root.vmdk"
    assert now(THEIRS, f"{HOME}/swap.vmdk", VOLUME, other) == as_recorded


def test_own_disk_that_is_attached_nowhere() -> None:
    """Another one has its place. Attached again it is known, also with what was written since."""
    home = (f"{HOME}/root.vmdk", f"{HOME}/swap.vmdk")
    here = moved(RECORD, hardware(*home, VOLUME, ids={0: "r", 1: "s", 2: "v"}), UUID)
    assert not here.doubtful
    foreign = moved(here, hardware(THEIRS, home[1], THEIRS, ids={0: "t", 1: "s", 2: "u"}), UUID)
    assert told(foreign) == {"lost root": "root", "scsi0:1": "swap", "lost ssd/v": "ssd/v"}
    assert not foreign.doubtful
    again = moved(foreign, hardware(THEIRS, home[1], None, home[0], VOLUME), UUID)
    assert told(again) == {"scsi0:3": "root", "scsi0:1": "swap", "scsi0:4": "ssd/v"}


def test_new_disk_in_the_folder_of_the_machine_is_not_the_root_disk() -> None:
    """vSphere's client names it after the machine."""
    for name in (UUID, f"label.{UUID}"):
        found = told(moved(RECORD, hardware(f"{HOME}/{name}.vmdk", f"{HOME}/swap.vmdk"), UUID))
        assert found["lost root"] == "root"


def test_storage_vmotion_gives_any_name_and_the_uuid_stays() -> None:
    here = moved(
        RECORD, hardware(f"{HOME}/root.vmdk", f"{HOME}/swap.vmdk", VOLUME, ids={1: "s"}), UUID
    )
    files = (f"[b] web.{UUID}/web.{UUID}.vmdk", f"[b] web.{UUID}/web.{UUID}_1.vmdk", VOLUME)
    after = moved(here, hardware(*files, ids={1: "s"}), UUID)
    assert told(after) == {"scsi0:0": "root", "scsi0:1": "swap", "scsi0:2": "ssd/v"}
    assert not after.doubtful
    unknown = moved(RECORD, hardware(*files), UUID)
    assert unknown.doubtful == {"scsi0:1"}
    assert set(unknown.sure) == {"scsi0:0"}


def test_copies_with_one_uuid_are_told_apart_by_their_place() -> None:
    here = moved(RECORD, hardware("[x] a.vmdk", "[x] b.vmdk", VOLUME), "another")
    assert here.doubtful == {"scsi0:0", "scsi0:1"}
    adopted = Devices(own={"scsi0:0": "root", "scsi0:1": "disk1"}, ids={"root": "1", "disk1": "1"})
    now = moved(adopted, hardware("[x] a.vmdk", "[x] b.vmdk", ids={0: "1", 1: "1"}), UUID)
    assert told(now) == dict(adopted.own)
    assert not now.doubtful
