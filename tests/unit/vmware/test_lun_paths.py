"""What a host sees of storage arrays, read from its storage devices."""

from __future__ import annotations

from typing import Any

import pytest
from pyVmomi import vim

from hvdrivers.contract import errors
from hvdrivers.models.volume import FibreChannelVolume, IscsiVolume
from hvdrivers.vmware.lun_paths import Fibre, Iscsi, adapters_of, initiator_of, meant, wwn_of
from hvdrivers.vmware.reader import Row

PORT = "d0060160bb60194b"
"""As a signed number it is below zero."""
_Topology = vim.host.ScsiTopology


def fibre(key: str, **changes: Any) -> Any:
    return Fibre(key=key, device=key, bus=0, status="online", model="m", **changes)


def disk(key: str = "disk-1", **changes: Any) -> Any:
    made = vim.host.ScsiDisk(
        key=key,
        uuid=f"uuid-{key}",
        canonicalName=f"naa.{key}",
        deviceName=f"/vmfs/devices/disks/naa.{key}",
        lunType="disk",
        operationalState=["ok"],
        capacity=vim.host.DiskDimensions.Lba(blockSize=512, block=2048),
    )
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def host(*luns: Any, number: int = 3, adapter: str = "hba", name: str = "h1", **more: Any) -> Row:
    signed = int(PORT, 16) - (1 << 64)
    target = _Topology.Target(
        key="t",
        target=0,
        transport=vim.host.FibreChannelTargetTransport(portWorldWideName=signed),
        lun=[_Topology.Lun(key=each.key, lun=number, scsiLun=each.key) for each in luns],
    )
    face = _Topology.Interface(key="f", adapter=adapter, target=[target])
    return Row(
        vim.HostSystem("host-1"),
        {
            "name": name,
            "config.storageDevice.scsiLun": list(luns),
            "config.storageDevice.scsiTopology": _Topology(adapter=[face]),
            "config.storageDevice.hostBusAdapter": [fibre("hba")],
            **more,
        },
    )


def volume(**data: Any) -> FibreChannelVolume:
    values = {"target_wwn": [PORT], "target_lun": 3} | data
    return FibreChannelVolume.model_validate({"serial": "v", "data": values})


def test_a_port_beyond_the_signed_numbers() -> None:
    assert wwn_of(int(PORT, 16) - (1 << 64)) == wwn_of(int(PORT, 16)) == PORT
    found = meant([host(disk()), host(disk(), name="h2")], volume())
    assert (found.uuid, found.device, found.size) == (
        "uuid-disk-1",
        "/vmfs/devices/disks/naa.disk-1",
        1 << 20,
    )


@pytest.mark.parametrize(
    ("rows", "data", "error"),
    [
        ([host(disk()), host(name="h2")], {}, errors.VolumeNotFound),
        ([host(disk(), number=4)], {}, errors.VolumeNotFound),
        ([host(disk(), adapter="another")], {}, errors.VolumeNotFound),
        ([host(disk()), host(disk("disk-2"), name="h2")], {}, errors.InvalidRequest),
        ([host(disk(), disk("disk-2"))], {}, errors.InvalidRequest),
        ([host(disk())], {"wwn": "disk-2"}, errors.VolumeNotFound),
        ([host(disk())], {"wwn": "']]><x/>"}, errors.VolumeNotFound),
        ([host(disk())], {"enforce_multipath": True}, errors.InsufficientResources),
        ([host(disk(operationalState=["off"]))], {}, errors.InsufficientResources),
        (
            [host(vim.host.ScsiLun(key="tape", uuid="u", canonicalName="naa.t", lunType="tape"))],
            {},
            errors.InvalidRequest,
        ),
    ],
)
def test_luns_that_are_refused(
    rows: list[Row], data: dict[str, Any], error: type[errors.HypervisorError]
) -> None:
    with pytest.raises(error):
        meant(rows, volume(**data))


@pytest.mark.parametrize("wwn", ["naa.disk-1", "disk-1", "3disk-1", "NAA.DISK-1"])
def test_names_of_a_lun(wwn: str) -> None:
    assert meant([host(disk())], volume(wwn=wwn)).uuid == "uuid-disk-1"


def test_the_lun_of_a_datastore() -> None:
    extent = vim.host.ScsiDisk.Partition(diskName="naa.disk-1", partition=1)
    store = vim.host.VmfsVolume(name="datastore1", extent=[extent])
    mounts = [vim.host.FileSystemMountInfo(volume=store)]
    with pytest.raises(errors.InvalidRequest, match="datastore1"):
        meant([host(disk(), **{"config.fileSystemVolume.mountInfo": mounts})], volume())


def test_adapters() -> None:
    scsi, nvme = fibre("one", storageProtocol="scsi"), fibre("two", storageProtocol="nvme")
    row = Row(
        vim.HostSystem("host-1"),
        {"name": "h1", "config.storageDevice.hostBusAdapter": [nvme, scsi]},
    )
    assert adapters_of(row, Fibre) == [scsi]
    assert adapters_of(row, Iscsi) == []
    with pytest.raises(errors.InsufficientResources, match="h1 has no iSCSI adapter") as caught:
        initiator_of(row)
    assert "software iSCSI adapter" in (caught.value.hint or "")


def test_a_lun_behind_another_transport() -> None:
    data = {"target_portal": "192.0.2.7:3260", "target_iqn": "iqn.2010-10.org:a", "target_lun": 3}
    found = IscsiVolume.model_validate({"serial": "v", "data": data})
    with pytest.raises(errors.VolumeNotFound):
        meant([host(disk())], found)  # it is behind Fibre Channel, and not behind that target
