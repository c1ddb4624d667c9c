"""Snapshots, rescue, rebuild, resize and adoption on the simulated host: one request each, and what
somebody else does to the same machine meanwhile."""

from __future__ import annotations

import struct
import subprocess
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from hvdrivers.contract import errors
from hvdrivers.hyperv.simulator.cmdlets.checkpoints import restore, take
from hvdrivers.hyperv.simulator.state.machine import Machine
from hvdrivers.hyperv.simulator.wsman_faults import FaultRule, Strike
from hvdrivers.models.console import ConsoleKind
from hvdrivers.models.image import FileImage, ImageFormat
from hvdrivers.models.instance import Flavor, InstanceSpec
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import Bandwidth, HypervVif, VifQos
from hvdrivers.models.volume import DiskQos, VolumeAttachment, VolumeSpec
from tests.integration.hyperv.site import SWITCH, Site, spec
from tests.peers.waiting import wait_until


def machine_of(site: Site, uuid: UUID) -> Machine:
    return next(each for each in site.host.state.machines.values() if str(uuid) in each.path)


def test_each_operation_is_one_request(site: Site, image: FileImage) -> None:
    driver = site.driver
    flavor = Flavor(vcpus=1, memory_mib=64, max_memory_mib=256)
    uuid = driver.spawn(spec(image, flavor=flavor)).uuid
    volume = driver.create_volume(VolumeSpec(size_bytes=4 << 20))
    attachment = VolumeAttachment(volume=volume)
    nic = driver.get_instance(uuid).vifs[0].id
    snapshots: list[str] = []
    steps: dict[str, Callable[[], object]] = {
        "Snapshot": lambda: snapshots.append(driver.create_snapshot(uuid, "a").id),
        "Snapshots": lambda: driver.list_snapshots(uuid),
        "DeleteSnapshot": lambda: driver.delete_snapshot(uuid, snapshots[0]),
        "HotMemory": lambda: driver.hot_resize_memory(uuid, 128),
        "Console": lambda: driver.get_console(uuid, ConsoleKind.RDP),
        "Screen": lambda: driver.screenshot(uuid),
        "Addresses": lambda: driver.guest_addresses(uuid),
        "VifQos": lambda: driver.set_vif_qos(uuid, nic, VifQos(outbound=Bandwidth(average=800))),
        "Rescue": lambda: driver.rescue(uuid),
        "Unrescue": lambda: driver.unrescue(uuid),
        "Rebuild": lambda: driver.rebuild(uuid, image),
        "InMaintenance": driver.in_maintenance,
    }
    for name, step in steps.items():
        with site.inner.session.seam.counting() as calls:
            step()
        assert calls == [f"hyperv.{name}"]
    driver.attach_volume(uuid, attachment)
    with site.inner.session.seam.counting() as calls:
        driver.set_disk_qos(uuid, attachment.volume_id, DiskQos(total_iops_sec=80))
    assert calls == ["hyperv.DiskQos"]
    driver.power_off(uuid)
    with site.inner.session.seam.counting() as calls:
        driver.resize(uuid, Flavor(vcpus=2, memory_mib=96, disk_gib=1))
    assert calls == ["hyperv.Resize"]
    driver.destroy(uuid)
    driver.delete_volume(attachment.volume_id)
    assert site.left() == []


def test_a_checkpoint_that_is_made_and_applied_by_hand(site: Site, image: FileImage) -> None:
    driver = site.driver
    info = driver.spawn(spec(image, start=False, metadata={"a": "b"}))
    machine = machine_of(site, info.uuid)
    with site.host.world.lock:
        point = take(machine, "by hand")
    listed = driver.list_snapshots(info.uuid)
    assert [(each.name, each.with_memory, each.current) for each in listed] == [
        ("by hand", False, True)
    ]
    driver.rename(info.uuid, "later")
    driver.plug_vif(info.uuid, HypervVif(id="later", switch=SWITCH))
    with site.host.world.lock:
        restore(machine, point)
    shown = driver.get_instance(info.uuid)
    assert (shown.uuid, shown.name, shown.metadata) == (info.uuid, "web-1", {"a": "b"})
    assert shown.vifs == info.vifs
    driver.plug_vif(info.uuid, HypervVif(id="later", switch=SWITCH))
    driver.delete_snapshot(info.uuid, str(point.id))
    assert driver.list_snapshots(info.uuid) == []
    driver.destroy(info.uuid)
    assert site.left() == []


def test_a_revert_whose_shell_dies_is_finished_by_the_next_request(
    site: Site, image: FileImage
) -> None:
    driver = site.driver
    info = driver.spawn(spec(image, start=False))
    point = driver.create_snapshot(info.uuid, "a")
    driver.rename(info.uuid, "later [1] \u2019")
    driver.plug_vif(info.uuid, HypervVif(id="later", switch=SWITCH, vlan=7))
    volume = driver.create_volume(VolumeSpec(size_bytes=4 << 20))
    driver.attach_volume(info.uuid, VolumeAttachment(volume=volume))
    before = driver.get_instance(info.uuid)
    timing = site.host.state.timing
    usual = timing.restore
    timing.restore = 0.5
    rule = FaultRule(Strike.SHELL_LOST_AFTER, action="Send", contains=b" Revert ")
    try:
        with site.service.faults.add(rule), pytest.raises(errors.OutcomeUnknown):
            driver.revert_snapshot(info.uuid, point.id)
    finally:
        timing.restore = usual
    assert rule.hits == 1
    machine = machine_of(site, info.uuid)
    with site.host.world.lock:
        site.host.state.wait_for(lambda: machine.busy is None, 30)
    shown = {each.uuid: each.name for each in driver.list_instances()}
    assert shown == {info.uuid: before.name}
    assert driver.get_instance(info.uuid) == before
    assert not list((site.host.drive / "hv" / "index").glob("*.revert"))
    driver.revert_snapshot(info.uuid, point.id)
    assert driver.get_instance(info.uuid) == before
    vlans = {each.name: each.vlan.access for each in machine_of(site, info.uuid).config.adapters}
    assert vlans["later"] == 7
    driver.destroy(info.uuid)
    driver.delete_volume(before.volumes[0].volume_id)
    assert site.left() == []


def test_machines_of_one_name_are_told_apart(site: Site, image: FileImage) -> None:
    driver = site.driver
    ours, twin = driver.spawn(spec(image)), driver.spawn(spec(image))
    machine = machine_of(site, ours.uuid)
    with site.host.world.lock:
        config = replace(machine.config, drives=[], adapters=[], dvds=[])
        stranger = Machine(host=site.host.state, config=config, path="C:\\elsewhere")
        site.host.state.machines[stranger.id] = stranger
    assert {each.uuid for each in driver.list_instances()} == {ours.uuid, twin.uuid}
    assert [each.uuid for each in driver.list_foreign()] == [stranger.id]
    driver.power_off(ours.uuid)
    assert driver.get_instance(twin.uuid).state is InstanceState.RUNNING
    assert stranger.name == ours.name
    driver.destroy(ours.uuid)
    driver.destroy(twin.uuid)
    assert stranger.id in site.host.state.machines
    adopted = driver.adopt(stranger.id, metadata={"from": "somebody"})
    assert (adopted.uuid, adopted.name) == (stranger.id, ours.name)
    assert driver.list_foreign() == []
    driver.destroy(stranger.id)
    assert site.left() == []


def test_a_spawn_after_one_that_died_in_the_middle(site: Site, image: FileImage) -> None:
    """Found by the soak: the UUID was taken, and no instance was there."""
    driver = site.driver
    driver.destroy(driver.spawn(spec(image)).uuid)  # the image is on the host now
    wanted = spec(image)
    timing = site.host.state.timing
    usual, timing.start = timing.start, 2.0
    rule = FaultRule(Strike.SHELL_LOST, action="Send", contains=b" Ping ")
    try:
        with site.service.faults.add(rule):
            thread = threading.Thread(target=_fails, args=(driver.spawn, wanted))
            thread.start()
            with site.host.world.lock:
                machines = site.host.state.machines
                begun = lambda: any(each.busy == "Starting" for each in machines.values())  # noqa: E731
                assert site.host.state.wait_for(begun, 30)
            with suppress(errors.HypervisorError):
                site.inner.ping()
            thread.join()
    finally:
        timing.start = usual
    with pytest.raises(errors.InstanceNotFound):
        driver.get_instance(wanted.uuid)
    assert driver.spawn(wanted).state is InstanceState.RUNNING
    with pytest.raises(errors.InstanceExists):
        driver.spawn(wanted)
    with site.host.world.lock:
        machine = machine_of(site, wanted.uuid)
        assert machine.guest is not None
        machine.guest.power_off()
        del site.host.state.machines[machine.id]
    with pytest.raises(errors.DeviceBusy) as caught:
        driver.spawn(wanted)
    assert caught.value.hint
    driver.destroy(wanted.uuid)
    assert site.left() == []


def _fails(spawn: Callable[[InstanceSpec], object], wanted: InstanceSpec) -> None:
    with suppress(errors.OutcomeUnknown):
        spawn(wanted)


def test_a_picture_is_a_png_of_the_screen(site: Site, image: FileImage) -> None:
    uuid = site.driver.spawn(spec(image)).uuid
    data = site.driver.screenshot(uuid).data
    site.driver.destroy(uuid)
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", data[16:24]) == (1024, 768)
    length = int.from_bytes(data[33:37], "big")
    lines = zlib.decompress(data[41 : 41 + length])
    assert len(lines) == 768 * (1 + 3 * 1024)
    assert len(set(lines)) > 16


def test_a_qcow2_image_is_sent_as_its_data(site: Site, tmp_path: Path) -> None:
    raw, path = tmp_path / "disk.raw", tmp_path / "disk.qcow2"
    with raw.open("wb") as file:
        file.write(b"data" * 4096)
        file.truncate(2 << 30)
    command = ["qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", str(raw), str(path)]
    subprocess.run(command, check=True)
    before = site.service.faults.counts()["Send"]
    found = site.driver.cache_image(FileImage(path=path, format=ImageFormat.QCOW2))
    assert found.virtual_size_bytes == 2 << 30
    assert site.service.faults.counts()["Send"] - before < 12
    site.driver.evict_image(found.key)


@pytest.mark.parametrize("cmdlet", ["Remove-VMHardDiskDrive", "Start-VM"])
def test_a_rebuild_whose_shell_dies_leaves_one_whole_root_disk(
    site: Site, image: FileImage, tmp_path: Path, cmdlet: str
) -> None:
    path = tmp_path / "other.raw"
    path.write_bytes(b"other" + bytes((1 << 20) - 5))
    other = FileImage(path=path, format=ImageFormat.RAW)
    driver, faults = site.driver, site.host.state.faults
    uuid = driver.spawn(spec(image)).uuid
    keys = {driver.cache_image(each).key for each in (image, other)}
    before = driver.get_instance(uuid).image
    rule = faults.slow(cmdlet, after=600.0, calls=1)
    with ThreadPoolExecutor(1) as pool:
        rebuilding = pool.submit(driver.rebuild, uuid, other)
        try:
            wait_until(lambda: rule.seen > 0, timeout=120, what="the drive is replaced")
            # both disks are of use as long as nobody knows which one it will be
            for key in keys:
                with pytest.raises(errors.DeviceBusy):
                    driver.evict_image(key)
            site.service.kill_shells()
            with pytest.raises(errors.OutcomeUnknown):
                rebuilding.result()
        finally:
            faults.clear()
            rule.over = True
            site.host.world.notify()
    driver.power_on(uuid)
    config = machine_of(site, uuid).config
    (drive,) = config.drives
    parent = site.host.state.disks.look(drive.path).parent
    image_now = driver.get_instance(uuid).image
    assert image_now is not None
    assert (image_now == before) == (cmdlet != "Start-VM")
    assert image_now in str(parent)
    assert not [each for each in site.left() if "root.old" in each or "root.new" in each]
    driver.destroy(uuid)
    assert site.left() == []
