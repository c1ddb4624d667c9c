"""Which disks a snapshot is of."""

from __future__ import annotations

from uuid import UUID
from xml.etree import ElementTree as ET

import pytest

from hvdrivers.contract import errors
from hvdrivers.libvirt.snapshot_tree import bare, own_files

UUID_ = UUID("00000000-0000-0000-0000-000000000001")


def disk(alias: str, name: str, format_: str = "qcow2", more: str = "") -> str:
    return (
        f"<disk type='file' device='disk'><driver type='{format_}'/><source file='/p/{name}'"
        f" index='1'><seclabel/></source><target dev='vda'/>{more}<alias name='{alias}'/></disk>"
    )


def machine(*disks: str) -> ET.Element:
    return ET.fromstring(
        f"<domain type='qemu'><name>n</name><uuid>{UUID_}</uuid><os><type>hvm</type></os>"
        f"<devices>{''.join(disks)}<interface/></devices></domain>"
    )


def test_the_own_disks_alone() -> None:
    """No volume, and no seed disc, also where that is a disk and no CD."""
    xml = machine(
        disk("ua-own-root", f"{UUID_}.root-0123abcd"),
        disk("ua-own-swap", f"{UUID_}.swap"),
        disk("ua-own-seed", f"{UUID_}.seed", "raw", "<readonly/>"),
        disk("ua-volume-v", "hv-volume-v.raw", "raw"),
    )
    assert set(own_files(UUID_, xml)) == {"ua-own-root", "ua-own-swap"}
    small = bare(xml, "other", "u")
    assert [each.get("name") for each in small.iterfind("devices/*/alias")] == [
        "ua-own-root",
        "ua-own-swap",
    ]
    sources = list(small.iterfind("devices/disk/source"))
    assert all(set(each.attrib) == {"file"} and not list(each) for each in sources)
    assert small.find("devices/interface") is None


@pytest.mark.parametrize(
    ("disks", "error"),
    [
        ((), errors.InvalidRequest),
        ((disk("ua-volume-v", "hv-volume-v.raw", "raw"),), errors.InvalidRequest),
        ((disk("ua-own-root", f"{UUID_}.root", "raw"),), errors.InvalidRequest),
        ((disk("ua-own-root", f"{UUID_}.over"),), errors.DeviceBusy),
        ((disk("ua-own-root", f"{UUID_}.root-mine"),), errors.DeviceBusy),
    ],
)
def test_refused(disks: tuple[str, ...], error: type[errors.HypervisorError]) -> None:
    with pytest.raises(error):
        own_files(UUID_, machine(*disks))
