"""Volumes that come and go, on a guest that runs and on machines that are off."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from hvdrivers.contract import errors
from hvdrivers.contract.driver import state_table
from hvdrivers.libvirt.event_hub import Device
from hvdrivers.libvirt.naming import alias
from hvdrivers.models.disk import DiskRole, OwnDisk
from hvdrivers.models.image import HostImage, ImageFormat
from hvdrivers.models.instance import Flavor
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import UserVif
from hvdrivers.models.volume import (
    CacheMode,
    DiskBus,
    DiskQos,
    LocalVolume,
    PoolData,
    PoolVolume,
    VolumeAttachment,
    VolumeSpec,
)
from tests.integration.libvirt.faults import after, before, cut, script
from tests.integration.libvirt.machines import Host, Machine, local
from tests.peers.observer import VirshError
from tests.peers.waiting import wait_until


@pytest.fixture(scope="module")
def off(host: Host) -> Iterator[Machine]:
    """A machine that is off."""
    with host.machine(name="off", start=False) as made:
        yield made


def test_hot_attach_and_detach(host: Host, machine: Machine) -> None:
    """The guest itself names the volume, by its id; both repetitions converge."""
    driver = host.driver
    with host.unchanged(), host.volume() as volume:
        attachment = VolumeAttachment(volume=volume)
        attached = driver.attach_volume(machine.uuid, attachment)
        assert attached.volume_id == volume.volume_id
        assert attached.bus is DiskBus.VIRTIO
        assert machine.has(volume.volume_id) == (True, True)
        machine.sees(volume.volume_id)
        assert driver.attach_volume(machine.uuid, attachment) == attached
        assert machine.info.volumes == (attached,)
        with pytest.raises(errors.DeviceBusy) as busy:
            driver.delete_volume(volume.volume_id)
        assert busy.value.hint
        driver.detach_volume(machine.uuid, volume.volume_id)
        assert machine.has(volume.volume_id) == (False, False)
        machine.sees_no(volume.volume_id)
        driver.detach_volume(machine.uuid, volume.volume_id)
        assert machine.info.volumes == ()


def test_a_file_of_the_host_with_every_option(host: Host, machine: Machine) -> None:
    """What was asked for is what virsh shows and the guest sees."""
    qos = DiskQos(total_bytes_sec=1 << 20, read_iops_sec=100, read_iops_sec_max=200)
    with host.unchanged(), host.file() as path:
        machine.attach(
            local(path, "local-1"),
            bus=DiskBus.SCSI,
            read_only=True,
            cache=CacheMode.WRITEBACK,
            discard=True,
            qos=qos,
        )
        (attached,) = machine.info.volumes
        assert attached.read_only
        assert attached.bus is DiskBus.SCSI
        for inactive in (False, True):
            disk = next(
                each
                for each in machine.xml(inactive=inactive).iterfind("devices/disk")
                if each.findtext("serial") == "local-1"
            )
            driver = disk.find("driver")
            target = disk.find("target")
            assert driver is not None
            assert target is not None
            assert (driver.get("type"), driver.get("cache"), driver.get("discard")) == (
                "raw",
                "writeback",
                "unmap",
            )
            assert target.get("bus") == "scsi"
            assert disk.find("readonly") is not None
            tuned = {each.tag: int(each.text or 0) for each in disk.iterfind("iotune/*")}
            assert tuned == qos.limits()
        disk_name = machine.sees("local-1")
        machine.run(f"[ $(cat /sys/block/{disk_name}/ro) = 1 ]")
        table = _blkdeviotune(host, machine, "sdb" if attached.device is None else attached.device)
        assert table["total_bytes_sec"] == 1 << 20

        other = DiskQos(write_iops_sec=50)
        host.driver.set_disk_qos(machine.uuid, "local-1", other)
        for option in ("--live", "--config"):
            table = _blkdeviotune(host, machine, str(attached.device), option)
            assert {name: value for name, value in table.items() if value} == {"write_iops_sec": 50}
        host.driver.set_disk_qos(machine.uuid, "local-1", None)
        for option in ("--live", "--config"):
            assert not any(_blkdeviotune(host, machine, str(attached.device), option).values())
        host.driver.detach_volume(machine.uuid, "local-1")
        machine.sees_no("local-1")
        with pytest.raises(errors.VolumeNotFound):
            host.driver.set_disk_qos(machine.uuid, "local-1", None)


def _blkdeviotune(host: Host, machine: Machine, device: str, *options: str) -> dict[str, int]:
    lines = host.peer.virsh("blkdeviotune", str(machine.uuid), device, *options).splitlines()
    pairs = (line.split(":") for line in lines if ":" in line)
    return {name.strip(): int(value) for name, value in pairs if value.strip().isdigit()}


def test_a_block_device_of_the_host(host: Host, machine: Machine) -> None:
    with host.file() as path:
        made = subprocess.run(
            ["losetup", "--find", "--show", str(host.peer.path(path))],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            pytest.skip(f"precondition missing: a loop device: {made.stderr.strip()}")
        device = made.stdout.strip()
        try:
            machine.attach(local(device, "block-1"))
            disk = machine.xml().find("devices/disk[serial='block-1']")
            assert disk is not None
            assert disk.get("type") == "block"
            machine.sees("block-1")
            host.driver.detach_volume(machine.uuid, "block-1")
        finally:
            subprocess.run(["losetup", "--detach", device], check=True)


def test_cold_attach_and_detach(host: Host, off: Machine) -> None:
    driver = host.driver
    with host.unchanged(), host.volume() as pool_volume, host.file() as path:
        for volume in (pool_volume, local(path, "cold-1")):
            attachment = VolumeAttachment(volume=volume)
            attached = driver.attach_volume(off.uuid, attachment)
            assert driver.attach_volume(off.uuid, attachment) == attached
            assert off.has(volume.volume_id) == (True, True)
        assert {each.volume_id for each in off.info.volumes} == {pool_volume.volume_id, "cold-1"}
        with pytest.raises(errors.DeviceBusy):
            driver.delete_volume(pool_volume.volume_id)
        for volume_id in (pool_volume.volume_id, "cold-1", "cold-1", "never there"):
            driver.detach_volume(off.uuid, volume_id)
        assert off.info.volumes == ()


def test_a_booting_guest_lets_go_in_the_end(host: Host) -> None:
    """It ignores the request while its BIOS runs: the request is repeated until it is heard. And
    a guest that is given no time keeps the volume, both ways."""
    driver = host.driver
    with host.unchanged(), host.volume() as volume, host.machine() as machine:
        attachment = VolumeAttachment(volume=volume)
        driver.attach_volume(machine.uuid, attachment)
        driver.pause(machine.uuid)
        with pytest.raises(errors.InvalidState):
            driver.detach_volume(machine.uuid, volume.volume_id)
        driver.unpause(machine.uuid)
        with pytest.raises(errors.DeviceBusy) as busy:
            driver.detach_volume(machine.uuid, volume.volume_id, timeout=1)
        assert busy.value.retryable
        assert machine.has(volume.volume_id) == (True, True)
        driver.detach_volume(machine.uuid, volume.volume_id, timeout=100)
        assert machine.has(volume.volume_id) == (False, False)
        assert machine.state is InstanceState.RUNNING


def test_a_guest_that_lets_go_after_all(host: Host) -> None:
    """After the caller has been told that it does not: then the definition follows, or the volume
    would come back with the next start, when it may be another machine's."""
    driver = host.driver
    with host.unchanged(), host.volume() as volume, host.machine() as machine:
        machine.attach(volume)
        with pytest.raises(errors.DeviceBusy):
            driver.detach_volume(machine.uuid, volume.volume_id, timeout=1)  # it is booting
        assert machine.has(volume.volume_id) == (True, True)
        machine.booted()
        # the guest ejects it by itself: QEMU says the same as for a late answer to the request
        wait_until(
            lambda: _asked_again(host, machine, volume.volume_id),
            timeout=60,
            what="the guest has let go",
        )
        wait_until(
            lambda: machine.has(volume.volume_id) == (False, False),
            timeout=30,
            what="the definition follows",
        )


def test_a_guest_that_lets_go_behind_a_lost_reply(host: Host) -> None:
    """The connection breaks when the request has gone out, and the guest lets go at its reset."""
    driver = host.driver
    with host.unchanged(), host.volume() as volume, host.empty_machine() as machine:
        machine.attach(volume)
        lost = after(host.raw, host.peer)
        with (
            script(host.raw, "Domain.detachDeviceAlias", lost) as seam,
            pytest.raises(errors.OutcomeUnknown),
        ):
            driver.detach_volume(machine.uuid, volume.volume_id)
        assert seam.reached
        assert machine.has(volume.volume_id) == (True, True)
        driver.reboot(machine.uuid)
        _follows(machine, volume.volume_id)


def test_a_guest_that_lets_go_while_nobody_listens(host: Host) -> None:
    """Between the end of a connection and the next one that hears events."""
    with host.unchanged(), host.volume() as volume, host.empty_machine() as machine:
        _asked_in_vain(host, machine, volume)
        with host.raw.hub._opening:
            cut(host.raw, host.peer)
            host.peer.virsh("reset", str(machine.uuid))
            wait_until(
                lambda: machine.has(volume.volume_id) == (False, True),
                timeout=30,
                what="the guest has let go",
            )
        _follows(machine, volume.volume_id)


def test_a_guest_that_lets_go_before_it_is_switched_off(host: Host) -> None:
    """The driver has not got to the definition yet: power_off() does, or nobody could tell later
    what the guest had let go of. Nor does it matter that somebody else switches the machine off,
    or that its memory is saved in the meantime."""
    driver = host.driver
    for end in ("power_off", "destroy", "managedsave"):
        with host.unchanged(), host.volume() as volume, host.empty_machine() as machine:
            _asked_in_vain(host, machine, volume)
            with _let_go_unseen(host, machine, volume):
                if end == "power_off":
                    driver.power_off(machine.uuid)
                    assert machine.has(volume.volume_id) == (False, False)
                else:
                    host.peer.virsh(end, str(machine.uuid))
                    wait_until(
                        lambda: machine.info.state is not InstanceState.RUNNING,
                        timeout=30,
                        what="it is off",
                    )
            _follows(machine, volume.volume_id)


def test_a_guest_that_lets_go_and_is_started_anew(host: Host) -> None:
    """Before the driver has got to the definition: then it has the volume again, for good."""
    driver = host.driver
    with host.unchanged(), host.volume() as volume, host.empty_machine() as machine:
        _asked_in_vain(host, machine, volume)
        with _background_stands_still(host) as works:
            host.peer.virsh("reset", str(machine.uuid))
            wait_until(lambda: bool(works), timeout=30, what="the guest has let go")
            host.peer.virsh("destroy", str(machine.uuid))
            host.peer.virsh("start", str(machine.uuid))
        late = host.raw.plugging.late
        wait_until(lambda: not late.of(machine.uuid), timeout=30, what="nothing is expected")
        assert machine.has(volume.volume_id) == (True, True)
        driver.power_off(machine.uuid)
        assert machine.info.volumes


def test_a_volume_that_is_wanted_again(host: Host) -> None:
    """attach_volume() after a detach_volume() that failed: the request cannot be taken back, but
    when the guest lets go of the volume, the next start has it, for good."""
    driver = host.driver
    with host.unchanged(), host.volume() as volume, host.empty_machine() as machine:
        _asked_in_vain(host, machine, volume)
        machine.attach(volume)
        assert host.raw.plugging.late.of(machine.uuid) == ()
        host.peer.virsh("reset", str(machine.uuid))
        wait_until(
            lambda: machine.has(volume.volume_id) == (False, True),
            timeout=60,
            what="the guest has let go",
        )
        driver.power_off(machine.uuid)
        driver.power_on(machine.uuid)
        assert machine.has(volume.volume_id) == (True, True)


def test_a_nic_that_is_wanted_again(host: Host) -> None:
    """As a volume."""
    driver, nic = host.driver, UserVif(id="again")
    with host.unchanged(), host.empty_machine() as machine:
        driver.plug_vif(machine.uuid, nic)
        with pytest.raises(errors.DeviceBusy):
            driver.unplug_vif(machine.uuid, nic.id, timeout=1)
        assert host.raw.plugging.late.of(machine.uuid)
        driver.plug_vif(machine.uuid, nic)
        assert host.raw.plugging.late.of(machine.uuid) == ()


def test_a_guest_that_lets_go_before_it_is_rescued(host: Host) -> None:
    """The volume has left the definition, so the rescued machine has none either: another machine
    may have it by then."""
    driver = host.driver
    with host.unchanged(), host.volume() as volume, host.empty_machine() as machine:
        _asked_in_vain(host, machine, volume)
        with _let_go_unseen(host, machine, volume):
            driver.rescue(machine.uuid)
            assert machine.info.volumes == ()
        driver.unrescue(machine.uuid)
        assert machine.has(volume.volume_id) == (False, False)


def _asked_in_vain(host: Host, machine: Machine, volume: LocalVolume) -> None:
    """Attach a volume, and try to detach it from a guest that does not let go."""
    machine.attach(volume)
    with pytest.raises(errors.DeviceBusy):
        host.driver.detach_volume(machine.uuid, volume.volume_id, timeout=1)


@contextmanager
def _let_go_unseen(host: Host, machine: Machine, volume: LocalVolume) -> Iterator[None]:
    """The guest has let go at its reset, and the driver has not got to the definition."""
    with _background_stands_still(host) as works:
        host.peer.virsh("reset", str(machine.uuid))
        wait_until(
            lambda: machine.has(volume.volume_id) == (False, True) and bool(works),
            timeout=60,
            what="the guest has let go",
        )
        yield


@contextmanager
def _background_stands_still(host: Host) -> Iterator[list[Callable[[], None]]]:
    """What the driver would do with the definitions of its machines waits for the end."""
    late = host.raw.plugging.late
    works: list[Callable[[], None]] = []
    begin, late._start = late._start, works.append  # type: ignore[method-assign]
    try:
        yield works
    finally:
        late._start = begin  # type: ignore[method-assign]
        for work in works:
            begin(work)


def test_a_change_that_is_cut_when_the_guest_has_let_go(host: Host) -> None:
    """The definition alone has the volume then, and the driver takes it out by itself."""
    with host.unchanged(), host.volume() as volume, host.machine() as machine:
        machine.booted().attach(volume)
        machine.sees(volume.volume_id)
        with (
            script(host.raw, "Domain.detachDeviceFlags", before(host.raw, host.peer)) as seam,
            pytest.raises(errors.OutcomeUnknown),
        ):
            host.driver.detach_volume(machine.uuid, volume.volume_id)
        assert seam.reached
        _follows(machine, volume.volume_id)


def _follows(machine: Machine, volume_id: str) -> None:
    wait_until(
        lambda: machine.has(volume_id) == (False, False),
        timeout=60,
        what="the definition follows",
    )


def _asked_again(host: Host, machine: Machine, volume_id: str) -> bool:
    """Repeat the request past the driver; whether the running machine is without the volume."""
    with suppress(VirshError):
        host.peer.virsh("detach-device-alias", str(machine.uuid), alias("volume", volume_id))
    return not machine.has(volume_id)[0]


def test_a_guest_that_never_lets_go(host: Host) -> None:
    """Nobody answers. The request is repeated, QEMU says "already in the process of unplug", and
    the volume stays, both ways; power_off() then needs no guest."""
    driver = host.driver
    with host.unchanged(), host.volume() as volume, host.empty_machine() as machine:
        machine.attach(volume)
        began = time.monotonic()
        with host.raw.connection.counting() as calls, pytest.raises(errors.DeviceBusy) as busy:
            driver.detach_volume(machine.uuid, volume.volume_id, timeout=7)
        assert calls["Domain.detachDeviceAlias"] == 2
        assert 6.5 < time.monotonic() - began < 60
        assert busy.value.hint
        assert busy.value.retryable
        assert machine.has(volume.volume_id) == (True, True)
        driver.power_off(machine.uuid)
        driver.detach_volume(machine.uuid, volume.volume_id)
        assert machine.info.volumes == ()


def test_a_guest_that_refuses(host: Host) -> None:
    """As libvirt tells it (VIR_DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED); no guest of ours does it."""
    driver, raw = host.driver, host.raw
    with host.unchanged(), host.volume() as volume, host.empty_machine() as machine:
        machine.attach(volume)

        def refuse(name: str, send: Callable[[], Any]) -> Any:
            if name != "Domain.detachDeviceAlias":
                return send()
            domain = f"test.{machine.uuid}"
            for identifier in ("another", volume.volume_id):
                device = alias("volume", identifier)
                raw.hub.put(Device(domain, machine.uuid, "removal-failed", device))
            return 0

        raw.connection.seam = refuse
        try:
            with pytest.raises(errors.DeviceBusy, match="refused"):
                driver.detach_volume(machine.uuid, volume.volume_id)
        finally:
            raw.connection.seam = None
        assert machine.has(volume.volume_id) == (True, True)
        driver.power_off(machine.uuid)
        driver.detach_volume(machine.uuid, volume.volume_id)


def test_a_machine_that_is_cut_while_it_is_asked(host: Host) -> None:
    """Switched off by somebody else meanwhile: then nobody holds the volume."""
    with host.unchanged(), host.volume() as volume, host.empty_machine() as machine:
        machine.attach(volume)
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(
                host.driver.detach_volume, machine.uuid, volume.volume_id, timeout=60
            )
            with host.raw.hub.listening() as events:
                assert events.wait(lambda _: True, 0.5) is None  # it is being asked
            host.peer.virsh("destroy", str(machine.uuid))
            asked.result(20)
        assert machine.has(volume.volume_id) == (False, False)


def test_attach_while_paused(host: Host, machine: Machine) -> None:
    driver = host.driver
    with host.unchanged(), host.volume() as volume:
        driver.pause(machine.uuid)
        machine.attach(volume)
        assert machine.state is InstanceState.PAUSED
        assert machine.has(volume.volume_id) == (True, True)
        driver.unpause(machine.uuid)
        machine.sees(volume.volume_id)
        driver.detach_volume(machine.uuid, volume.volume_id)


def test_one_volume_for_two_machines(host: Host, machine: Machine, off: Machine) -> None:
    """Refused while a powered-on machine has it, at attach and at power-on; allowed for one that
    says that it may be shared."""
    driver = host.driver
    with host.unchanged(), host.volume(format=ImageFormat.RAW) as volume:
        driver.attach_volume(off.uuid, VolumeAttachment(volume=volume))
        machine.attach(volume)
        driver.detach_volume(off.uuid, volume.volume_id)
        with pytest.raises(errors.DeviceBusy):
            driver.attach_volume(off.uuid, VolumeAttachment(volume=volume))
        assert off.info.volumes == ()
        # somebody shares what the other has for itself
        greedy = volume.model_copy(update={"multiattach": True})
        driver.attach_volume(off.uuid, VolumeAttachment(volume=greedy))
        with pytest.raises(errors.DeviceBusy) as busy:
            driver.power_on(off.uuid)
        assert str(machine.uuid) in str(busy.value)
        assert off.state is InstanceState.STOPPED
        driver.detach_volume(off.uuid, volume.volume_id)
        driver.detach_volume(machine.uuid, volume.volume_id)

        shared = VolumeAttachment(volume=greedy)
        driver.attach_volume(machine.uuid, shared)
        driver.attach_volume(off.uuid, shared)
        driver.power_on(off.uuid)
        assert off.state is InstanceState.RUNNING
        machine.sees(volume.volume_id)
        driver.power_off(off.uuid)
        driver.detach_volume(off.uuid, volume.volume_id)
        driver.detach_volume(machine.uuid, volume.volume_id)


def test_states_in_which_volumes_do_not_come_or_go(host: Host) -> None:
    """The rows of the contract's table, for the states that a machine without a guest can have."""
    driver = host.driver
    table = state_table()
    with host.unchanged(), host.volume() as volume, host.empty_machine() as machine:
        attachment = VolumeAttachment(volume=volume)
        driver.suspend(machine.uuid)
        assert machine.state is InstanceState.SUSPENDED
        for name, call in (
            ("attach_volume", lambda: driver.attach_volume(machine.uuid, attachment)),
            ("detach_volume", lambda: driver.detach_volume(machine.uuid, volume.volume_id)),
            ("set_disk_qos", lambda: driver.set_disk_qos(machine.uuid, volume.volume_id, None)),
        ):
            assert not table[name][InstanceState.SUSPENDED].legal
            with pytest.raises(errors.InvalidState):
                call()
        assert machine.state is InstanceState.SUSPENDED
        assert machine.info.volumes == ()


def test_a_volume_that_is_not_there(host: Host, machine: Machine, off: Machine) -> None:
    missing: tuple[PoolVolume | LocalVolume, ...] = (
        PoolVolume(data=PoolData(name="there is none")),
        PoolVolume(data=PoolData(pool="there-is-none", name="x")),
        local("/var/lib/libvirt/images/there-is-none", "none"),
        local("/dev/there-is-none", "none"),
    )
    with host.unchanged():
        for volume in missing:
            for each in (machine, off):
                with pytest.raises(errors.VolumeNotFound):
                    each.attach(volume)
                assert each.info.volumes == ()
                assert each.has(volume.volume_id) == (False, False)
            with pytest.raises(errors.VolumeNotFound):
                host.spawn(volumes=(VolumeAttachment(volume=volume),))


def test_a_file_of_odd_size(host: Host, machine: Machine, off: Machine) -> None:
    """The caller learns why: hot, cold, at spawn and at power-on; and what helps, helps."""
    with host.unchanged(), host.file(size=1_000_001) as path, host.file(size=8704) as uneven:
        odd = VolumeAttachment(volume=local(path, "odd"))
        for attach in (
            lambda: host.driver.attach_volume(machine.uuid, odd),
            lambda: host.driver.attach_volume(off.uuid, odd),
            lambda: host.spawn(volumes=(odd,)),
        ):
            with pytest.raises(errors.InvalidRequest, match="has 1000001 bytes") as refused:
                attach()
            assert "truncate" in (refused.value.hint or "")
        assert (machine.info.volumes, off.info.volumes) == ((), ())
        assert (machine.has("odd"), off.has("odd")) == ((False, False), (False, False))
        for change in ({"cache": CacheMode.WRITEBACK}, {"read_only": True}):
            for each in (machine, off):
                host.driver.attach_volume(each.uuid, odd.model_copy(update=change))
                host.driver.detach_volume(each.uuid, "odd")
        # a multiple of 512, and of 4096 none: only the host knows its sectors
        off.attach(local(uneven, "uneven"))
        told = None
        try:
            host.driver.power_on(off.uuid)
        except errors.InvalidRequest as error:
            told = error.message
        else:
            host.driver.power_off(off.uuid)
        assert told is None or "has 8704 bytes" in told
        host.driver.detach_volume(off.uuid, "uneven")


def _no_disks(folder: Path) -> Iterator[str]:
    """Names of what is neither a file nor a block device."""
    (folder / "folder").mkdir()
    yield "folder"
    os.mkfifo(folder / "pipe")
    yield "pipe"
    (folder / "to the pipe").symlink_to("pipe")
    yield "to the pipe"
    with socket.socket(socket.AF_UNIX) as listens:
        listens.bind(str(folder / "socket"))
    yield "socket"


def test_what_is_no_disk(host: Host, machine: Machine, off: Machine) -> None:
    """libvirt opens what a disk is named after: for the other end of a named pipe it waited for
    ever, and no client got a list of machines any more."""
    base = f"{host.peer.images}/{uuid4().hex[:8]}"
    outside = host.peer.path(base)
    outside.mkdir()
    try:
        paths = [f"{base}/{name}" for name in _no_disks(outside)]
        with host.unchanged():
            paths += ["/proc/self/mem", "//proc/self/mem", "/sys/power/state"]
            paths += [f"/dev/{each}" for each in ("null", "full", "ptmx", "tty1", "fuse", "log")]
            for path in paths:
                volume = local(path, "none")
                for attach in (
                    lambda volume=volume: machine.attach(volume),
                    lambda volume=volume: off.attach(volume),
                    lambda volume=volume: host.spawn(volumes=(VolumeAttachment(volume=volume),)),
                ):
                    with pytest.raises((errors.InvalidRequest, errors.VolumeNotFound)) as refused:
                        attach()
                    assert "/dev" in (refused.value.hint or ""), path
            assert (machine.info.volumes, off.info.volumes) == ((), ())
            assert (machine.has("none"), off.has("none")) == ((False, False), (False, False))
            assert {machine.uuid, off.uuid} <= {each.uuid for each in host.driver.list_instances()}
    finally:
        shutil.rmtree(outside)


def test_files_in_memory(host: Host, machine: Machine, off: Machine) -> None:
    """Below /dev/shm are files, and no devices: they are looked at as any other."""
    folder = Path("/dev/shm") / uuid4().hex
    folder.mkdir()
    try:
        (folder / "disk").write_bytes(bytes(1 << 20))
        os.mkfifo(folder / "pipe")
        with host.unchanged():
            for each in (machine, off):
                with pytest.raises(errors.VolumeNotFound) as refused:
                    each.attach(local(str(folder / "pipe"), "none"))
                assert refused.value.hint
                each.attach(local(str(folder / "disk"), "disk"))
                host.driver.detach_volume(each.uuid, "disk")
    finally:
        shutil.rmtree(folder)


def test_budget_of_a_look_at_a_file(
    host: Host, off: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One call for a file by its path, three more for one in no pool."""
    looks = {"Connect.storageVolLookupByPath": 1}
    beside = {"Connect.storagePoolCreateXML", "StoragePool.storageVolLookupByName"}
    monkeypatch.setattr(host.raw.connection.links, "spare", lambda: None)  # one connection
    with host.unchanged(), host.file() as path:
        host.peer.virsh("pool-refresh", "default")
        elsewhere = f"{host.peer.images}/{uuid4().hex[:8]}"
        host.peer.path(elsewhere).mkdir()
        shutil.copy(host.peer.path(path), host.peer.path(f"{elsewhere}/file"))
        for each, more in ((path, set()), (f"{elsewhere}/file", beside | {"StoragePool.destroy"})):
            with host.raw.connection.counting() as calls:
                host.raw.attach_volume(off.uuid, VolumeAttachment(volume=local(each, "one")))
            found = {name: calls[name] for name in calls if "Pool" in name or name in looks}
            found.pop("StoragePool.listAllVolumes", None)
            assert found == looks | dict.fromkeys(more, 1)
            host.driver.detach_volume(off.uuid, "one")
        shutil.rmtree(host.peer.path(elsewhere))


def test_what_a_guest_writes_is_never_a_format(host: Host, machine: Machine) -> None:
    """The class of CVE-2024-32498: a tenant writes a qcow2 header with a backing file to its raw
    volume. It stays raw, also after the daemon has looked at it (refresh)."""
    driver = host.driver
    pool = host.raw.config.pool
    evil = host.peer.root / "evil"
    command = ["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", "/etc/shadow", "-F", "raw"]
    subprocess.run([*command, str(evil), "32M"], check=True)
    with host.unchanged(), host.volume(format=ImageFormat.RAW, size_bytes=4 << 20) as volume:
        assert isinstance(volume, PoolVolume)
        host.peer.virsh("vol-upload", volume.data.name, str(evil), "--pool", pool)
        host.peer.virsh("pool-refresh", pool)
        assert "/etc/shadow" in host.peer.virsh("vol-dumpxml", volume.data.name, "--pool", pool)
        unnamed = volume.model_copy(
            update={"data": volume.data.model_copy(update={"format": None})}
        )
        for each in (volume, unnamed):
            machine.attach(each)
            disk = machine.xml().find(f"devices/disk[serial='{volume.volume_id}']")
            assert disk is not None
            driver_element = disk.find("driver")
            assert driver_element is not None
            assert driver_element.get("type") == "raw"
            assert "/etc/shadow" not in host.peer.virsh("dumpxml", str(machine.uuid))
            name = machine.sees(volume.volume_id)
            machine.run(f"[ $(cat /sys/block/{name}/size) = 8192 ]")
            machine.run(f"dd if=/dev/{name} bs=4 count=1 2>/dev/null | grep -q QFI")
            driver.detach_volume(machine.uuid, volume.volume_id)
            machine.sees_no(volume.volume_id)
        listed = {each.volume_id: each for each in driver.list_volumes()}[volume.volume_id]
        assert listed.format is ImageFormat.RAW
        assert listed.capacity_bytes == 4 << 20
        # nor as an image to spawn from
        with host.made_empty(image=HostImage(name=volume.data.name)) as spawned:
            backing = spawned.xml(inactive=True).find("devices/disk/source")
            assert backing is not None
            root = host.peer.path(backing.attrib["file"])
            command = ["qemu-img", "info", "--output=json", str(root)]
            shown = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
            assert shown["backing-filename-format"] == "raw"
            assert shown["virtual-size"] == 4 << 20
        lying = volume.model_copy(
            update={"data": volume.data.model_copy(update={"format": ImageFormat.QCOW2})}
        )
        with pytest.raises(errors.InvalidRequest):
            machine.attach(lying)
    evil.unlink()


def test_no_free_slot(host: Host) -> None:
    """The last one is refused as such, and a stopped machine takes it."""
    small = Host(host.peer, host.image, hotplug_slots=1)
    driver = small.driver
    try:
        with host.unchanged(), small.empty_machine() as machine:
            plugged: list[str] = []
            volumes = []
            try:
                full: errors.InsufficientResources | None = None
                while full is None and len(plugged) < 8:
                    spec = VolumeSpec(name=f"slot-{len(plugged)}", size_bytes=1 << 20)
                    volumes.append(driver.create_volume(spec))
                    try:
                        machine.attach(volumes[-1])
                    except errors.InsufficientResources as error:
                        full = error
                    else:
                        plugged.append(volumes[-1].volume_id)
                assert full is not None
                assert full.hint
                assert plugged
                assert [each.volume_id for each in machine.info.volumes] == plugged
                driver.power_off(machine.uuid)
                machine.attach(volumes[-1])
                driver.power_on(machine.uuid)
                assert len(machine.info.volumes) == len(plugged) + 1
            finally:
                driver.destroy(machine.uuid)
                for volume in volumes:
                    driver.delete_volume(volume.volume_id)
    finally:
        small.close()


def test_volumes_of_the_host(host: Host) -> None:
    """Made, listed and deleted by their id, in whatever pool they are."""
    driver = host.driver
    with host.unchanged():
        name = f"n-{uuid4().hex[:6]}"
        own = driver.create_volume(VolumeSpec(name=name, size_gib=1))
        for format_ in (ImageFormat.QCOW2, ImageFormat.RAW):
            for pool in (None, "default"):
                with pytest.raises(errors.VolumeExists):
                    driver.create_volume(
                        VolumeSpec(name=name, size_gib=1, format=format_, pool=pool)
                    )
        other = driver.create_volume(
            VolumeSpec(size_bytes=1 << 20, pool="default", format=ImageFormat.RAW)
        )
        listed = {each.volume_id: each for each in driver.list_volumes()}
        assert listed[name].capacity_bytes == 1 << 30
        assert listed[other.volume_id].pool == "default"
        assert listed[other.volume_id].capacity_bytes == 1 << 20
        assert listed[name].to_volume() == own
        for volume_id in (name, other.volume_id):
            assert driver.get_volume(volume_id) == listed[volume_id]
        with pytest.raises(errors.VolumeNotFound):
            driver.get_volume(name[:-1])
        for volume in (own, other, other):
            driver.delete_volume(volume.volume_id)
        assert {name, other.volume_id}.isdisjoint(v.volume_id for v in driver.list_volumes())
        with pytest.raises(errors.VolumeNotFound):
            driver.create_volume(VolumeSpec(size_gib=1, pool="there-is-none"))
        with pytest.raises(errors.NotSupported):
            driver.create_volume(VolumeSpec(size_gib=1, format=ImageFormat.VMDK))


def test_a_cached_image_is_no_volume(host: Host, off: Machine) -> None:
    image = host.driver.list_cached_images()[0]
    volume = PoolVolume(data=PoolData(name=f"hv-image-{image.key}"))
    with pytest.raises(errors.InvalidRequest):
        off.attach(volume)


def test_an_outsider_attached_something(host: Host, machine: Machine) -> None:
    """A disk that virsh plugged is no volume of ours, and is left alone."""
    with host.file() as path:
        host.peer.virsh("attach-disk", str(machine.uuid), path, "vdz", "--live")
        assert machine.info.volumes == ()
        with host.volume() as volume:
            machine.attach(volume)
            host.driver.detach_volume(machine.uuid, volume.volume_id)
        assert "vdz" in host.peer.virsh("domblklist", str(machine.uuid))
        host.peer.virsh("detach-disk", str(machine.uuid), "vdz", "--live")
        with pytest.raises(VirshError):
            host.peer.virsh("domblkinfo", str(machine.uuid), "vdz")


def test_more_devices_than_a_machine_has_slots_for(host: Host) -> None:
    """Refused before anything is made, at spawn() and at each device that comes later."""

    def nics(number: int) -> tuple[UserVif, ...]:
        return tuple(UserVif(id=f"n{each}") for each in range(number))

    def volumes(number: int, bus: DiskBus | None = None) -> tuple[VolumeAttachment, ...]:
        return tuple(
            VolumeAttachment(volume=local(f"/nowhere/{each}", f"v{each}"), bus=bus)
            for each in range(number)
        )

    flavor = Flavor(vcpus=1, memory_mib=64, ephemeral_gib=1)
    ephemeral = OwnDisk(role=DiskRole.EPHEMERAL, size_mib=4)
    with host.unchanged():
        for changes, bound in (
            ({"vifs": nics(300)}, 220),
            ({"volumes": volumes(300)}, 220),
            ({"volumes": volumes(800, DiskBus.SCSI)}, 220),
            ({"volumes": volumes(120, DiskBus.USB)}, 100),
            ({"disks": (ephemeral,) * 256, "flavor": flavor}, 220),
        ):
            with pytest.raises(errors.InsufficientResources, match=f", {bound} "):
                host.driver.spawn(host.empty(**changes))
    with host.made_empty(vifs=nics(219)) as machine, host.volume() as volume:
        with pytest.raises(errors.InsufficientResources):
            host.driver.plug_vif(machine.uuid, UserVif(id="more"))
        with pytest.raises(errors.InsufficientResources):
            machine.attach(volume)
        host.driver.unplug_vif(machine.uuid, "n0")
        machine.attach(volume)
        host.driver.detach_volume(machine.uuid, volume.volume_id)
