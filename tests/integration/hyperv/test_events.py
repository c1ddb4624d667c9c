"""What ``watch()`` tells of devices: the driver's scripts write it down on the host."""

from __future__ import annotations

from uuid import UUID, uuid4

from hvdrivers.contract.events import EventStream
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.guard import guarded
from hvdrivers.hyperv.driver import HypervDriver
from hvdrivers.models.events import (
    DeviceEvent,
    DeviceKind,
    LifecycleEvent,
    LifecycleKind,
    ResyncEvent,
)
from hvdrivers.models.image import FileImage
from hvdrivers.models.vif import HypervVif
from hvdrivers.models.volume import VolumeAttachment, VolumeSpec
from tests.integration.hyperv.site import SWITCH, Site, held, spec

ADDED, REMOVED = DeviceKind.ADDED, DeviceKind.REMOVED


def devices(stream: EventStream, uuid: UUID, end: LifecycleKind) -> list[tuple[DeviceKind, str]]:
    """Device events of an instance, until its state has changed so."""
    found: list[tuple[DeviceKind, str]] = []
    deadline = Deadline(120)
    while not deadline.passed:
        event = stream.next(timeout=1)
        if isinstance(event, DeviceEvent) and event.uuid == uuid:
            found.append((event.kind, event.device))
        if isinstance(event, LifecycleEvent) and (event.uuid, event.kind) == (uuid, end):
            return found
    raise AssertionError(f"no {end} event, only {found}")


def test_devices_are_told_one_by_one_whoever_moves_them(site: Site, image: FileImage) -> None:
    """More of them than the host's script looks at the folder; none is merged with another."""
    other = guarded(HypervDriver.connect(site.config))
    volume = site.driver.create_volume(VolumeSpec(name="\u00e4 [1]*", size_bytes=4 << 20))
    nic = HypervVif(id="nic \u2019 $()", switch=SWITCH)
    with other, other.watch() as stream:
        for _ in range(2):  # the second time it is a new instance of the same UUID
            uuid = site.driver.spawn(spec(image, uuid=UUID(int=77), start=False)).uuid
            site.driver.plug_vif(uuid, nic)  # off: not told
            site.driver.power_on(uuid)
            site.driver.unplug_vif(uuid, nic.id)
            site.driver.unplug_vif(uuid, nic.id)  # gone already: not told again
            for _ in range(30):
                other.attach_volume(uuid, VolumeAttachment(volume=volume))
                site.driver.detach_volume(uuid, volume.volume_id)
            site.driver.power_off(uuid)
            site.driver.plug_vif(uuid, nic)
            told = devices(stream, uuid, LifecycleKind.STOPPED)
            both = [(ADDED, volume.volume_id), (REMOVED, volume.volume_id)]
            assert told == [(REMOVED, nic.id), *both * 30]
            site.driver.destroy(uuid)
            assert devices(stream, uuid, LifecycleKind.DESTROYED) == []
    site.driver.delete_volume(volume.volume_id)
    assert site.left() == []


def test_what_came_before_the_stream_is_not_told(site: Site, image: FileImage) -> None:
    uuid = site.driver.spawn(spec(image, uuid=uuid4())).uuid
    nic = HypervVif(id="nic-early", switch=SWITCH)
    site.driver.plug_vif(uuid, nic)
    with site.driver.watch() as stream:
        assert isinstance(stream.next(timeout=120), ResyncEvent)  # from here on all is told
        with held(site, "Get-WinEvent") as release, release():
            # between the look at the devices and the one at the logs
            site.driver.unplug_vif(uuid, nic.id)
            site.driver.power_off(uuid)
        assert devices(stream, uuid, LifecycleKind.STOPPED) == [(REMOVED, nic.id)]
    # what the host has written down of devices goes with the instance, read or not
    site.driver.destroy(uuid)
