"""Specs, volumes and NICs for the tests of the fake, and instances in every state."""

from __future__ import annotations

from uuid import UUID

from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.contract.errors import ConnectionFailed
from hvdrivers.fake import FakeHost, FaultRule
from hvdrivers.models.image import HostImage
from hvdrivers.models.instance import Flavor, InstanceSpec
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import BridgeVif, NetworkVif
from hvdrivers.models.volume import (
    IscsiVolume,
    LocalVolume,
    PoolVolume,
    RbdVolume,
    VolumeAttachment,
)

CIRROS = HostImage(name="cirros")
DEBIAN = HostImage(name="debian")
SMALL = Flavor(vcpus=1, memory_mib=512, disk_gib=1)


def spec(**fields) -> InstanceSpec:
    """A small instance."""
    defaults = {"name": "vm", "flavor": SMALL}
    if all(volume.boot_index != 0 for volume in fields.get("volumes", ())):
        defaults["image"] = CIRROS
    return InstanceSpec(**defaults | fields)


def rbd(name="vol-1", **fields) -> VolumeAttachment:
    multiattach = fields.pop("multiattach", False)
    volume = RbdVolume(serial=name, data={"name": f"pool/{name}"}, multiattach=multiattach)
    return VolumeAttachment(volume=volume, **fields)


def chap(name="vol-chap", password="s3cret-word") -> VolumeAttachment:
    data = {
        "target_portal": "192.0.2.9:3260",
        "target_iqn": "iqn.2026-01.org.example:storage",
        "target_lun": 1,
        "auth_method": "CHAP",
        "auth_username": "user",
        "auth_password": password,
    }
    return VolumeAttachment(volume=IscsiVolume(serial=name, data=data))


def pooled(name, pool="default", **fields) -> VolumeAttachment:
    volume = PoolVolume(data={"pool": pool, "name": name})
    return VolumeAttachment(volume=volume, **fields)


def local(path="/dev/fake/lv0", serial="lv0") -> VolumeAttachment:
    return VolumeAttachment(volume=LocalVolume(serial=serial, data={"device_path": path}))


def nic(name="nic-1", **fields) -> NetworkVif:
    return NetworkVif(id=name, network="default", **fields)


def bridge_nic(name="nic-2", bridge="br0") -> BridgeVif:
    return BridgeVif(id=name, bridge=bridge)


def build(host: FakeHost, driver: ComputeDriver, state: InstanceState, **fields) -> UUID:
    """Make an instance in this state."""
    snapshot = fields.pop("snapshot", False)
    start = state is not InstanceState.STOPPED
    wanted = spec(start=start, **fields)
    uuid = wanted.uuid
    if state is InstanceState.BUILDING:
        # its maker dies just before the end
        rule = FaultRule(operation="start-machine", when="crash", instance=uuid)
        with host.faults.add(rule):
            try:
                driver.spawn(wanted)
            except ConnectionFailed:
                return uuid
    driver.spawn(wanted)
    if snapshot:
        driver.create_snapshot(uuid, "before")
    match state:
        case InstanceState.PAUSED:
            driver.pause(uuid)
        case InstanceState.SUSPENDED:
            driver.suspend(uuid)
        case InstanceState.RESCUED:
            driver.rescue(uuid)
        case InstanceState.CRASHED:
            host.crash(uuid)
    assert driver.get_instance(uuid).state is state
    return uuid


def state_of(driver: ComputeDriver, uuid: UUID) -> InstanceState:
    return driver.get_instance(uuid).state
