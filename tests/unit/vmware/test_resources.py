"""What the server tells of a host, as resources."""

from __future__ import annotations

from pyVmomi import vim

from hvdrivers.vmware.host_devices import devices_of
from hvdrivers.vmware.reader import Row


def _device(address: str, vendor: str = "Intel") -> vim.host.PciDevice:
    return vim.host.PciDevice(
        id=address, vendorId=-32634, deviceId=5409, classId=512, vendorName=vendor, deviceName="X"
    )


def test_a_device_that_cannot_be_read_is_left_out() -> None:
    devices = [_device("0000:3b:00.0"), _device("somewhere"), _device(""), _device("0000:3b:00.1")]
    row = Row(obj=vim.HostSystem("host-1", None), values={"hardware.pciDevice": devices})
    assert [str(each.address) for each in devices_of(row)] == ["0000:3b:00.0", "0000:3b:00.1"]
