"""What a guest sees when its machine changes: CPUs, memory, a volume that grows, another disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from hvdrivers.contract import errors
from hvdrivers.models.image import FileImage, ImageFormat
from hvdrivers.models.instance import Flavor
from hvdrivers.models.state import InstanceState

from .machines import BOOT, Host, host

__all__ = ["host"]

MIB = 1 << 20


def test_a_guest_that_grows(host: Host, agent_image: Path) -> None:
    driver = host.driver
    flavor = Flavor(vcpus=1, memory_mib=192, max_vcpus=2, max_memory_mib=448, disk_gib=1)
    with (
        host.unchanged(),
        host.volume(name="grows", size_bytes=8 * MIB) as volume,
        host.volume(name="raw", size_bytes=8 * MIB, format=ImageFormat.RAW) as raw,
        host.machine(flavor=flavor) as machine,
    ):
        uuid = machine.uuid
        machine.booted()
        for each in (volume, raw):
            machine.attach(each)
            machine.sees(each.volume_id)
        for budget, call, says in (
            (4, lambda: driver.hot_resize_cpu(uuid, 2), "vcpus 2"),
            (5, lambda: driver.hot_resize_memory(uuid, 320), "memory_mib "),
            (5, lambda: driver.extend_volume(uuid, "grows", 16 * MIB), "disk .* 16 MiB resized"),
            (5, lambda: driver.extend_volume(uuid, "raw", 24 * MIB), "disk .* 24 MiB resized"),
        ):
            said = machine.said()
            with host.raw.connection.counting() as calls:
                call()
            assert sum(calls.values()) == budget, calls
            machine.console.expect(says, timeout=60, after=said)
        # what cannot be says so, and changes nothing
        for wrong in (
            lambda: driver.hot_resize_memory(uuid, 321),
            lambda: driver.hot_resize_memory(uuid, 192),
            lambda: driver.hot_resize_cpu(uuid, 3),
            lambda: driver.extend_volume(uuid, "raw", 8 * MIB),
        ):
            with pytest.raises(errors.InvalidRequest):
                wrong()
        found = machine.info.flavor
        assert (found.vcpus, found.memory_mib) == (2, 320)
        # a new disk, of another image, in the machine as it is now
        said = machine.said()
        image = FileImage(path=agent_image, format=ImageFormat.QCOW2)
        driver.cache_image(image)
        with host.raw.connection.counting() as calls:
            driver.rebuild(uuid, image)
        assert sum(calls.values()) == 30, calls
        machine.console.expect("booted .* vcpus=2 .*image=with-agent", timeout=BOOT, after=said)
        assert machine.state is InstanceState.RUNNING
        # and cold: the memory that was plugged in is in the whole
        driver.power_off(uuid)
        driver.resize(uuid, flavor.model_copy(update={"disk_gib": 2, "memory_mib": 256}))
        assert machine.xml(inactive=True).find("devices/memory") is None
        assert machine.info.flavor.memory_mib == 256
        driver.extend_volume(uuid, "grows", 32 * MIB)
        with host.raw.connection.counting() as calls:
            driver.rebuild(uuid, image)
        assert sum(calls.values()) == 29, calls
        for each in (volume, raw):
            driver.detach_volume(uuid, each.volume_id)
