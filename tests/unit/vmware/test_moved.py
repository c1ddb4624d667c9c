"""Which disk is which, when somebody has moved disks to other units."""

from __future__ import annotations

import pytest

from hvdrivers.models.volume import DiskBus
from hvdrivers.vmware.devices import Slots
from hvdrivers.vmware.record import Devices, VolumeRecord, moved
from hvdrivers.vmware.specs import disk_at

UUID = "7b2b6ba2-4b6f-4a1e-9d8a-0123456789ab"
HOME = f"[ssd] hvdrivers/instances/{UUID}"
THEIRS = "[ssd] theirs/disk.vmdk"
VOLUME = "[ssd] hvdrivers/volumes/v.vmdk"
RECORD = Devices(
    own={"scsi0:0": "root", "scsi0:1": "swap"},
    volumes={"scsi0:2": VolumeRecord(id="ssd/v", bus=DiskBus.SCSI)},
)


def now(*files: str | None) -> dict[str, str]:
    """What the record says of a machine with these files at units 0, 1, 2…"""
    slots = Slots()
    controller, _, _ = slots.disk(DiskBus.SCSI)
    (added,) = [each.device for each in slots.added]
    disks = [disk_at(file, controller, n, 1 << 20) for n, file in enumerate(files) if file]
    found = moved(RECORD, [added, *disks], UUID)
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
    assert now(THEIRS, root, VOLUME) == {"scsi0:1": "root", "scsi0:2": "ssd/v"}
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
