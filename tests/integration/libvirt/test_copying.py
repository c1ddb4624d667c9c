"""Images out of instances, that run and that do not."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

import libvirt
import pytest

from hvdrivers.contract import errors
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.guard import guarded
from hvdrivers.libvirt.driver import LibvirtDriver
from hvdrivers.libvirt.pools import volume_xml
from hvdrivers.models.image import FileImage, ImageFormat
from hvdrivers.models.progress import Progress
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import VolumeAttachment
from tests.peers.starting import meanwhile
from tests.peers.waiting import wait_until

from .conftest import connect
from .faults import Send, answered, before, script, vendor_error
from .machines import Host, Machine, host

__all__ = ["host"]

MARK = b"a mark that nobody else writes"


def _but_streams(calls: Counter[str]) -> int:
    parts = {"Stream.recvFlags", "Stream.recvHole"}
    return sum(count for name, count in calls.items() if name not in parts)


def test_of_a_running_and_of_a_stopped_machine(host: Host, tmp_path: Path) -> None:
    driver = host.driver
    with host.unchanged(), host.volume() as volume, host.machine() as machine:
        machine.booted()
        machine.attach(volume)  # is left out
        machine.run(f"echo '{MARK.decode()}' >/disk/mark; sync")
        seen: list[Progress] = []
        live = tmp_path / "live.raw"
        with host.raw.connection.counting() as calls:
            info = driver.snapshot_to_image(
                machine.uuid, live, ImageFormat.RAW, progress=seen.append
            )
        assert machine.state is InstanceState.RUNNING
        assert info.virtual_size_bytes == live.stat().st_size
        assert MARK in live.read_bytes()
        assert live.stat().st_blocks * 512 < 200 << 20  # with its holes
        assert seen
        looks = calls["Domain.jobStats"] + calls["Domain.backupGetXMLDesc"]
        assert _but_streams(calls) - looks == 13, calls
        # one that is stopped half-way leaves nothing, and the machine can be copied again
        with pytest.raises(errors.OperationTimeout):
            driver.snapshot_to_image(machine.uuid, tmp_path / "late", timeout=0.001)
        driver.power_off(machine.uuid)
        copies = {}
        for format_ in (ImageFormat.RAW, ImageFormat.QCOW2):
            copies[format_] = tmp_path / f"cold.{format_}"
            with host.raw.connection.counting() as calls:
                driver.snapshot_to_image(machine.uuid, copies[format_], format_)
            assert _but_streams(calls) == 12, calls
        command = ["qemu-img", "compare", *map(str, copies.values())]
        subprocess.run(command, check=True, capture_output=True)
        driver.detach_volume(machine.uuid, volume.volume_id)
        with pytest.raises(errors.NotSupported):
            driver.snapshot_to_image(machine.uuid, tmp_path / "x", ImageFormat.VMDK)
        assert not (tmp_path / "x").exists()
    # and it boots
    image = FileImage(path=copies[ImageFormat.QCOW2], format=ImageFormat.QCOW2)
    with host.machine(image=image) as again:
        again.booted()
        again.run("cat /disk/mark")
        assert MARK.decode() in again.console.text()


def test_a_target_that_another_process_replaces(host: Host, tmp_path: Path) -> None:
    """While it is written: what stands there then is theirs, and stays."""
    target = tmp_path / "out"

    def replace(_: Progress) -> None:
        target.unlink(missing_ok=True)
        target.write_bytes(b"theirs")

    with host.made_empty() as machine:
        for format_ in (ImageFormat.RAW, ImageFormat.QCOW2):
            with host.unchanged(), pytest.raises(errors.InvalidRequest, match="replaced") as caught:
                host.driver.snapshot_to_image(machine.uuid, target, format_, progress=replace)
            assert caught.value.hint
            assert target.read_bytes() == b"theirs"
            target.unlink()


def test_of_a_machine_that_was_never_defined(host: Host, tmp_path: Path) -> None:
    """An interrupted spawn() has left it so: whoever works on it defines it."""
    with host.unchanged(), host.empty_machine() as machine:
        host.peer.virsh("undefine", str(machine.uuid))
        assert machine.uuid not in {each.uuid for each in _defined(host)}
        host.driver.snapshot_to_image(machine.uuid, tmp_path / "image")
        assert machine.uuid in {each.uuid for each in _defined(host)}
        host.driver.power_off(machine.uuid)
        assert machine.state is InstanceState.STOPPED


def _defined(host: Host) -> list[Machine]:
    names = host.peer.virsh("list", "--all", "--persistent", "--uuid").split()
    return [Machine(host, UUID(each)) for each in names]


def test_without_a_root_disk(host: Host, tmp_path: Path) -> None:
    with host.unchanged(), host.volume() as volume:
        boots = VolumeAttachment(volume=volume, boot_index=0)
        with host.machine(image=None, volumes=(boots,), start=False) as machine:
            with pytest.raises(errors.InvalidRequest):
                host.driver.snapshot_to_image(machine.uuid, tmp_path / "x")
            assert not (tmp_path / "x").exists()


_CONTENT = os.urandom(48 << 20)
"""A disk that takes QEMU a while to copy: what happens "meanwhile" would else come too late."""


@pytest.fixture(scope="module")
def raw_other(host: Host) -> Iterator[LibvirtDriver]:
    with closing(connect(host.peer)) as made:
        yield made


@pytest.fixture(scope="module")
def other(raw_other: LibvirtDriver) -> ComputeDriver:
    """Another client."""
    return guarded(raw_other)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> FileImage:
    path = tmp_path_factory.mktemp("images") / "content.raw"
    path.write_bytes(_CONTENT)
    return FileImage(path=path, format=ImageFormat.RAW)


def _then(act: Callable[[], object]) -> Callable[[str, Send], Any]:
    """After a call, this."""

    def fault(_name: str, send: Send) -> Any:
        result = send()
        act()
        return result

    return fault


def _first(act: Callable[[], object]) -> Callable[[str, Send], Any]:
    """Before a call, this."""

    def fault(_name: str, send: Send) -> Any:
        act()
        return send()

    return fault


def _copy(driver: ComputeDriver, machine: Machine, target: Path) -> bool:
    """Copy; whether what came is what the disk has."""
    driver.snapshot_to_image(machine.uuid, target, ImageFormat.RAW, timeout=120)
    return target.read_bytes() == _CONTENT


def _copies(host: Host) -> list[str]:
    return [line for line in host.residue() if ".copy-" in line]


def test_two_copies_at_once_are_both_right(
    host: Host,
    other: ComputeDriver,
    raw_other: LibvirtDriver,
    image: FileImage,
    tmp_path: Path,
) -> None:
    busy = vendor_error(libvirt.VIR_ERR_OPERATION_TIMEOUT, "cannot acquire state change lock")
    with host.unchanged(), host.empty_machine(image=image) as machine:

        def refused() -> None:
            with (
                script(raw_other, "Domain.backupBegin", answered(busy)),
                pytest.raises(errors.DeviceBusy),
            ):
                _copy(other, machine, tmp_path / "refused")

        # the refused one stops no job: it has none
        with script(host.raw, "Domain.backupBegin", _then(refused)) as seam:
            assert _copy(host.driver, machine, tmp_path / "a")
        assert seam.reached
        # the second waits in the daemon until the first has ended
        begun = []
        second = _then(
            lambda: begun.append(meanwhile(lambda: _copy(other, machine, tmp_path / "b")))
        )
        with script(host.raw, "Domain.backupBegin", second):
            assert _copy(host.driver, machine, tmp_path / "c")
        assert begun[0].result(120)


@pytest.mark.parametrize("running", [True, False])
def test_a_machine_that_another_client_changes_is_copied_all_the_same(
    host: Host, other: ComputeDriver, image: FileImage, tmp_path: Path, running: bool
) -> None:
    with host.unchanged(), host.empty_machine(image=image, start=running) as machine:
        uuid = machine.uuid
        change = other.power_off if running else other.power_on
        at = "Domain.backupBegin" if running else "StoragePool.createXMLFrom"
        with script(host.raw, at, _first(lambda: change(uuid))) as seam:
            assert _copy(host.driver, machine, tmp_path / "a")
        assert seam.reached
        if running:
            other.power_on(uuid)
            with script(host.raw, at, _then(lambda: change(uuid))) as seam:
                assert _copy(host.driver, machine, tmp_path / "b")
            assert seam.reached
        with (
            script(host.raw, "StorageVol.download", _first(lambda: other.destroy(uuid))),
            pytest.raises(errors.InstanceNotFound),
        ):
            _copy(host.driver, machine, tmp_path / "c")
        assert not (tmp_path / "c").exists()


def test_a_cut_at_the_very_end_leaves_nothing(host: Host, image: FileImage, tmp_path: Path) -> None:
    with host.unchanged(), host.made_empty(image=image) as machine:
        with (
            script(host.raw, "StorageVol.delete", before(host.raw, host.peer)) as seam,
            pytest.raises((errors.ConnectionFailed, errors.OutcomeUnknown)),
        ):
            _copy(host.driver, machine, tmp_path / "a")
        assert seam.reached
        assert not (tmp_path / "a").exists()
        assert _copies(host) == []


def test_what_a_dead_client_left_goes_with_the_next_copy(
    host: Host, image: FileImage, tmp_path: Path
) -> None:
    with host.unchanged(), host.made_empty(image=image) as machine:
        dead = volume_xml(f"{machine.uuid}.copy-0123456789abcdef", 1 << 20, "raw")
        host.raw.pools.disks().createXML(dead, 0)
        assert _copies(host)
        assert _copy(host.driver, machine, tmp_path / "a")
        assert _copies(host) == []


def test_another_client_that_removes_a_copy_is_borne(
    host: Host,
    raw_other: LibvirtDriver,
    other: ComputeDriver,
    image: FileImage,
    tmp_path: Path,
) -> None:
    """A second client takes a copy that is made, and not yet read, for that of a dead process."""
    with host.unchanged(), host.made_empty(image=image) as machine:

        def removed() -> None:
            assert _copies(host)
            assert _copy(other, machine, tmp_path / "b")

        with script(host.raw, "StorageVol.download", _first(removed)) as seam:
            assert _copy(host.driver, machine, tmp_path / "a")
        assert seam.reached


def test_a_full_pool(host: Host, image: FileImage, tmp_path: Path) -> None:
    """It lacks room. And the success of another client's job, which wrote elsewhere after this one
    had failed and before this client looked, is not taken for one's own."""
    folder, file = "/var/lib/libvirt/small", f"{host.peer.images}/copied by others"
    target = tmp_path / "a"
    with host.unchanged():
        host.peer.inside("mkdir", "-p", folder)
        with host.peer.small(folder, 80 << 20):
            small = Host(host.peer, host.image, pool="small", pool_path=folder)
            with closing(small), small.empty_machine(image=image) as machine:
                name = str(machine.uuid)

                def lacks_room(format_: ImageFormat) -> None:
                    with pytest.raises(errors.InsufficientResources):
                        small.driver.snapshot_to_image(machine.uuid, target, format_)
                    assert not target.exists()

                def no_job() -> bool:
                    return "None" in host.peer.virsh("domjobinfo", name)

                def copied_by_others() -> None:
                    wait_until(no_job, timeout=60, what="this client's job has failed")
                    host.peer.virsh("backup-begin", name, str(job))
                    wait_until(no_job, timeout=60, what="the other job has ended")

                job = tmp_path / "job.xml"
                job.write_text(
                    f"<domainbackup><disks><disk name='vda' type='file'><target file='{file}'/>"
                    "<driver type='raw'/></disk></disks></domainbackup>"
                )
                with (
                    script(small.raw, "Domain.backupBegin", _then(copied_by_others)) as seam,
                    pytest.raises(errors.DeviceBusy) as busy,
                ):
                    _copy(small.driver, machine, target)
                assert seam.reached
                assert busy.value.retryable
                assert not target.exists()
                assert host.peer.path(file).read_bytes() == _CONTENT
                host.peer.path(file).unlink()
                lacks_room(ImageFormat.RAW)
                lacks_room(ImageFormat.QCOW2)
                small.driver.power_off(machine.uuid)
                lacks_room(ImageFormat.RAW)
                lacks_room(ImageFormat.QCOW2)
            host.peer.virsh("pool-destroy", "small")
            host.peer.virsh("pool-undefine", "small")
        host.peer.inside("rmdir", folder)
