"""What GPUs can still be cut into."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from pyVmomi import vim

from hvdrivers.vmware.gpu_slices import gpus_of, profiles_in
from hvdrivers.vmware.reader import Row

MODEL = 0x1EB8_10DE
IDS = ("0000:3b:00.0", "0000:5e:00.0")


def host(mode: str | None = None, kind: str = "sharedDirect", *running: Sequence[str]) -> Row:
    users = [*running, (), ()][:2]
    cards = [
        vim.host.GraphicsInfo(
            deviceName="T4",
            vendorName="NVIDIA",
            pciId=each,
            graphicsType=kind,
            vgpuMode=mode,
            memorySizeInKB=15 << 20,
            vm=[vim.VirtualMachine(moid, None) for moid in users[number]],
        )
        for number, each in enumerate(IDS)
    ]
    devices = [
        vim.host.PciDevice(id=each, vendorId=0x10DE, deviceId=0x1EB8, classId=0x302) for each in IDS
    ]
    values = {"hardware.pciDevice": devices, "config.graphicsInfo": cards}
    return Row(vim.HostSystem("host-1", None), values)


def target(sharing: str = "timeSliced") -> Any:
    return vim.vm.ConfigTarget(
        vgpuDeviceInfo=[
            vim.vm.VgpuDeviceInfo(deviceName="T4", deviceVendorId=MODEL, maxFbSizeInGib=16)
        ],
        vgpuProfileInfo=[
            vim.vm.VgpuProfileInfo(
                profileName=f"t4-{size}q",
                deviceVendorId=MODEL,
                fbSizeInGib=size,
                profileSharing=sharing,
            )
            for size in (4, 8, 0, 32)
        ],
    )


def left(row: Row, *holders: tuple[str, Sequence[str]]) -> list[dict[str, int]]:
    gpus = gpus_of(row, profiles_in(target()), holders)
    return [{each.name: each.available for each in gpu.types()} for gpu in gpus]


def test_a_free_host() -> None:
    assert left(host()) == [{"t4-4q": 4, "t4-8q": 2}] * 2


def test_machines_that_run_say_where_they_are() -> None:
    row = host(None, "sharedDirect", (), ("vm-1", "vm-2"))
    found = left(row, ("vm-9", ["t4-8q"]), ("vm-1", ["t4-4q"]), ("vm-2", ["t4-4q"]))
    assert found == [{"t4-4q": 0, "t4-8q": 1}, {"t4-4q": 2, "t4-8q": 0}]


def test_mixed_sizes() -> None:
    row = host("mixedSize", "sharedDirect", ("vm-1", "vm-2"))
    found = left(row, ("vm-1", ["t4-4q"]), ("vm-2", ["t4-8q"]))
    assert found[0] == {"t4-4q": 1, "t4-8q": 0}


def test_more_machines_that_are_off_than_there_is_room_for() -> None:
    found = left(host(), *((f"vm-{number}", ["t4-8q"]) for number in range(9)))
    assert found == [{"t4-4q": 0, "t4-8q": 0}] * 2


@pytest.mark.parametrize(
    "row", [host("multiInstanceGpu"), host(None, "shared"), host(None, "basic")]
)
def test_gpus_that_are_not_sliced_by_time(row: Row) -> None:
    assert left(row) == []


def test_a_server_that_tells_nothing() -> None:
    for told in (None, vim.vm.ConfigTarget(), target("mig")):
        gpus = gpus_of(host(), profiles_in(told), [("vm-1", ["t4-4q"])])
        assert [gpu.types() for gpu in gpus] == [(), ()]
