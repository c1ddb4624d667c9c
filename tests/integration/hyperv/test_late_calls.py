"""A call of the host that ends after the client that was in it has died: what the next request
puts back stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import pytest

from hvdrivers.contract import errors
from hvdrivers.models.image import FileImage
from hvdrivers.models.instance import Flavor
from hvdrivers.models.vif import Bandwidth, HypervVif, VifQos
from hvdrivers.models.volume import DiskQos, VolumeAttachment, VolumeSpec
from tests.integration.hyperv.site import SWITCH, Site, held, spec
from tests.integration.hyperv.test_operations import machine_of
from tests.integration.hyperv.test_reconnect import OTHER, STEPS, Wiring, shape, switch
from tests.peers.waiting import wait_until


def late(site: Site, cmdlet: str, change: Callable[[], object], look: Callable[[], object]) -> None:
    """The client dies in a call of the host, which ends while ``look`` is under way, or after it if
    that does not wait for it."""
    counts = site.host.state.faults.counts
    with ExitStack() as stack:
        release = stack.enter_context(held(site, cmdlet))
        pool = stack.enter_context(ThreadPoolExecutor(2))
        doing: Future[object] = pool.submit(change)
        with release():
            site.service.kill_shells()
            assert isinstance(doing.exception(), errors.HypervisorError)
            asked = counts.get("Get-CimInstance", 0)
            looking = pool.submit(look)
            # who waits for the host looks again and again
            wait_until(
                lambda: looking.done() or counts.get("Get-CimInstance", 0) > asked + 4,
                timeout=120,
                what="the next request has come as far as it can",
            )
        wait_until(
            lambda: all(each.state == 7 for each in site.host.state.jobs),
            timeout=120,
            what="the host has ended the call",
        )
        looking.result()


@pytest.mark.parametrize("cmdlet", STEPS)
@pytest.mark.parametrize("change", [False, True], ids=["look", "change"])
def test_other_connections(site: Site, image: FileImage, cmdlet: str, change: bool) -> None:
    with switch(site, OTHER):
        wiring = Wiring(site, image)
        driver, uuid = wiring.driver, wiring.uuid

        def look() -> None:
            if change:
                driver.set_metadata(uuid, dict(wiring.info.metadata))
            else:
                driver.get_instance(uuid)

        late(site, cmdlet, wiring.change, look)
        assert shape(site, uuid) == wiring.before
        wiring.expect_old()
        wiring.change()
        wiring.expect_new()
        wiring.end()


REVERT = (
    "Restore-VMSnapshot",
    "Set-VM",
    "Add-VMNetworkAdapter",
    "Connect-VMNetworkAdapter",
    "Set-VMNetworkAdapterVlan",
    "Add-VMHardDiskDrive",
)


@pytest.mark.parametrize("cmdlet", REVERT)
def test_a_revert(site: Site, image: FileImage, cmdlet: str) -> None:
    driver = site.driver
    uuid: UUID = driver.spawn(spec(image, start=False)).uuid
    point = driver.create_snapshot(uuid, "a")
    driver.rename(uuid, "later [1] *")
    driver.plug_vif(uuid, HypervVif(id="later", switch=SWITCH, vlan=7))
    volume = driver.create_volume(VolumeSpec(size_bytes=4 << 20))
    driver.attach_volume(uuid, VolumeAttachment(volume=volume))
    before, had = driver.get_instance(uuid), names(site, uuid)
    late(
        site,
        cmdlet,
        lambda: driver.revert_snapshot(uuid, point.id),
        lambda: driver.get_instance(uuid),
    )
    assert driver.get_instance(uuid) == before
    assert names(site, uuid) == had
    driver.destroy(uuid)
    driver.delete_volume(volume.volume_id)
    assert site.left() == []


def names(site: Site, uuid: UUID) -> tuple[str, list[tuple[str, str | None, int]], int]:
    """What the host has: the machine's name, its NICs, and the number of its drives."""
    with site.host.world.lock:
        config = machine_of(site, uuid).config
        nics = [(each.name, str(each.switch), each.vlan.access) for each in config.adapters]
        return config.name, sorted(nics), len(config.drives)


@dataclass(frozen=True)
class Late:
    """A change whose client dies in a call of the host, the change that comes next, and the end."""

    cmdlet: str
    first: Callable[[Machine], object]
    then: Callable[[Machine], object]
    end: Callable[[Machine], object]
    left: object


class Machine:
    """An instance with a NIC and a volume of its own, and a NIC and a volume that it may get."""

    def __init__(self, site: Site, image: FileImage) -> None:
        self.site, self.driver = site, site.driver
        self.had = HypervVif(id="had", switch=SWITCH)
        self.new = HypervVif(id="new", switch=SWITCH)
        self.volumes = [self.driver.create_volume(VolumeSpec(size_bytes=4 << 20)) for _ in range(2)]
        flavor = Flavor(vcpus=1, memory_mib=64, max_memory_mib=256)
        attached = (VolumeAttachment(volume=self.volumes[0]),)
        wanted = spec(image, start=False, vifs=(self.had,), volumes=attached, flavor=flavor)
        self.uuid: UUID = self.driver.spawn(wanted).uuid

    def resize(self, vcpus: int, memory_mib: int) -> None:
        self.driver.resize(self.uuid, Flavor(vcpus=vcpus, memory_mib=memory_mib))

    def grow_root(self, disk_gib: int) -> None:
        self.driver.resize(self.uuid, Flavor(vcpus=1, memory_mib=64, disk_gib=disk_gib))

    def extend(self, mib: int) -> None:
        self.driver.extend_volume(self.uuid, self.volumes[0].volume_id, mib << 20)

    def limit_nic(self, average: int) -> None:
        qos = VifQos(outbound=Bandwidth(average=average))
        self.driver.set_vif_qos(self.uuid, self.had.id, qos)

    def limit_disk(self, iops: int) -> None:
        volume = self.volumes[0].volume_id
        self.driver.set_disk_qos(self.uuid, volume, DiskQos(total_iops_sec=iops))

    def attach(self, number: int) -> None:
        self.driver.attach_volume(self.uuid, VolumeAttachment(volume=self.volumes[number]))

    def detach(self, number: int) -> None:
        self.driver.detach_volume(self.uuid, self.volumes[number].volume_id)

    def nics(self) -> list[str]:
        """As the host has them."""
        with self.site.host.world.lock:
            return sorted(each.name for each in machine_of(self.site, self.uuid).config.adapters)

    def drives(self) -> int:
        """How many of the volumes the host has at the machine."""
        with self.site.host.world.lock:
            drives = machine_of(self.site, self.uuid).config.drives
            return sum("\\volumes\\" in each.path for each in drives)

    def limits(self) -> tuple[list[int], list[int]]:
        """Of the NIC that it had, and of its volume."""
        with self.site.host.world.lock:
            config = machine_of(self.site, self.uuid).config
            nics = [each.maximum_bandwidth // 1000 for each in config.adapters]
            return nics, [each.maximum_iops for each in config.drives if "\\volumes\\" in each.path]

    def disks(self) -> list[int]:
        """Sizes of the root disk and of the volume in MiB."""
        with self.site.host.world.lock:
            drives = machine_of(self.site, self.uuid).config.drives
            return [self.site.host.state.disks.look(each.path).size >> 20 for each in drives]

    def size(self) -> tuple[int, int]:
        with self.site.host.world.lock:
            config = machine_of(self.site, self.uuid).config
            return config.processor.count, config.memory.startup >> 20


LATE: Final[Mapping[str, Late]] = {
    "plug_vif": Late(
        "Add-VMNetworkAdapter",
        lambda m: m.driver.plug_vif(m.uuid, m.new),
        lambda m: m.driver.unplug_vif(m.uuid, m.new.id),
        Machine.nics,
        ["had"],
    ),
    "unplug_vif": Late(
        "Remove-VMNetworkAdapter",
        lambda m: m.driver.unplug_vif(m.uuid, m.had.id),
        lambda m: m.driver.plug_vif(m.uuid, m.had),
        Machine.nics,
        ["had"],
    ),
    "attach_volume": Late(
        "Add-VMHardDiskDrive",
        lambda m: m.attach(1),
        lambda m: m.detach(1),
        Machine.drives,
        1,
    ),
    "detach_volume": Late(
        "Remove-VMHardDiskDrive",
        lambda m: m.detach(0),
        lambda m: m.attach(0),
        Machine.drives,
        1,
    ),
    "set_vif_qos": Late(
        "Set-VMNetworkAdapter",
        lambda m: m.limit_nic(2000),
        lambda m: m.limit_nic(1000),
        Machine.limits,
        ([1000], [0]),
    ),
    "set_disk_qos": Late(
        "Set-VMHardDiskDrive",
        lambda m: m.limit_disk(200),
        lambda m: m.limit_disk(100),
        Machine.limits,
        ([0], [100]),
    ),
    "resize": Late(
        "Set-VMProcessor",
        lambda m: m.resize(2, 64),
        lambda m: m.resize(1, 128),
        Machine.size,
        (1, 128),
    ),
    "resize of the root disk": Late(
        "Resize-VHD",
        lambda m: m.grow_root(1),
        lambda m: m.grow_root(2),
        Machine.disks,
        [2048, 4],
    ),
    "extend_volume": Late(
        "Resize-VHD",
        lambda m: m.extend(8),
        lambda m: m.extend(12),
        Machine.disks,
        [3, 12],
    ),
    "rename": Late(
        "Set-VM",
        lambda m: m.driver.rename(m.uuid, "first"),
        lambda m: m.driver.rename(m.uuid, "second"),
        lambda m: m.driver.get_instance(m.uuid).name,
        "second",
    ),
}
"""By the operation whose client dies."""


@pytest.mark.parametrize("operation", LATE)
def test_the_next_change_has_the_last_word(site: Site, image: FileImage, operation: str) -> None:
    case, machine = LATE[operation], Machine(site, image)
    late(site, case.cmdlet, lambda: case.first(machine), lambda: case.then(machine))
    assert case.end(machine) == case.left
    site.driver.destroy(machine.uuid)
    for volume in machine.volumes:
        site.driver.delete_volume(volume.volume_id)
    assert site.left() == []
