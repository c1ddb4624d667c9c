"""Snapshots and backups of machines that others have made, and that adopt() has taken over."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from hvdrivers.contract import errors
from hvdrivers.guard import guarded
from hvdrivers.libvirt.snapshot_tree import being_deleted, tree_of
from hvdrivers.models.image import ImageFormat
from hvdrivers.models.snapshot import Snapshot
from hvdrivers.models.state import InstanceState
from tests.integration.libvirt.machines import Host
from tests.integration.libvirt.test_budgets import calls, look_at_users, numbers
from tests.integration.libvirt.theirs import Theirs, cuts, theirs

pytestmark = pytest.mark.usefixtures("impatient")

S = InstanceState
_CD = (
    "<disk type='file' device='cdrom'><driver name='qemu' type='raw'/>"
    "<target dev='sde' bus='{bus}'/><readonly/></disk>"
)


def write(file: Path, value: int, format_: str = "qcow2") -> None:
    """To the disk of a machine that is off."""
    command = ["qemu-io", "-f", format_, "-c", f"write -P {value} 0 1M", str(file)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def value_in(file: Path, snapshot: str | None = None) -> int:
    """What has been written there."""
    target = file.with_suffix(".content")
    within = ["-l", f"snapshot.name={snapshot}"] if snapshot is not None else []
    command = ["qemu-img", "convert", *within, "-O", "raw", str(file), str(target)]
    subprocess.run(command, check=True)
    found = target.read_bytes()[: 1 << 20]
    target.unlink()
    (value,) = set(found)
    return value


def tags(file: Path) -> int:
    """How many snapshots are in a file."""
    found = subprocess.run(
        ["qemu-img", "snapshot", "-l", "-U", str(file)], check=True, capture_output=True, text=True
    )
    return max(0, len(found.stdout.splitlines()) - 2)


SHAPES = {
    "virtio": ("q35", "virtio", "vda", "sata"),
    "sata": ("q35", "sata", "sda", "sata"),
    "scsi": ("q35", "scsi", "sda", "sata"),
    "ide": ("pc", "ide", "hda", "ide"),
    "usb": ("q35", "usb", "sdb", "sata"),
}


def shaped(machine: Theirs, shape: str) -> list[Path]:
    """Two disks, one of them named by its pool, each with what others set there, and a CD drive."""
    kind, bus, device, cd = SHAPES[shape]
    first, second = machine.volume(), machine.volume()
    iothread = " iothread='1'" if bus == "virtio" else ""
    machine.define(
        disks=[
            "<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='writeback'"
            f" discard='unmap'{iothread}/><source file='{first}' startupPolicy='mandatory'/>"
            f"<target dev='{device}' bus='{bus}'/><boot order='1'/></disk>",
            "<disk type='volume' device='disk'><driver name='qemu' type='qcow2'/>"
            f"<source pool='default' volume='{Path(second).name}'/>"
            f"<target dev='vdx' bus='virtio'/><serial>data</serial></disk>",
        ],
        devices="<controller type='scsi' index='0' model='virtio-scsi'/>"
        + _CD.format(bus=cd).replace("sde", "hdc" if cd == "ide" else "sde"),
        system=f"<os><type arch='x86_64' machine='{kind}'>hvm</type></os>",
        more="<iothreads>1</iothreads><features><acpi/></features>",
    )
    return machine.files[-2:]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_tree(own: Host, shape: str) -> None:
    """Made and gone back to while it is off and on; nothing else of the machine changes."""
    driver = own.driver
    with theirs(own, disks=[]) as machine:
        files = shaped(machine, shape)
        uuid = machine.uuid
        driver.adopt(uuid, name="mine")
        mark, before = own.raw.identity.marks()[uuid], machine.bare("--inactive")
        for each in files:
            write(each, 1)
        off = driver.create_snapshot(uuid, "off")
        for each in files:
            write(each, 2)
        driver.power_on(uuid)
        on = driver.create_snapshot(uuid, "on")
        memory = driver.create_snapshot(uuid, "memory", memory=True)
        assert [each.parent for each in (off, on, memory)] == [None, off.id, on.id]
        assert driver.list_snapshots(uuid)[-1].with_memory
        driver.revert_snapshot(uuid, memory.id)
        assert driver.get_instance(uuid).state is S.RUNNING
        driver.revert_snapshot(uuid, off.id)
        assert driver.get_instance(uuid).state is S.STOPPED
        assert [value_in(each) for each in files] == [1, 1]
        driver.revert_snapshot(uuid, memory.id)
        assert driver.get_instance(uuid).state is S.RUNNING
        driver.revert_snapshot(uuid, memory.id)  # by the names of the run that was started for it
        again = driver.create_snapshot(uuid, "again", memory=True)
        driver.revert_snapshot(uuid, again.id)
        driver.delete_snapshot(uuid, off.id)
        driver.power_off(uuid)
        assert [value_in(each) for each in files] == [2, 2]
        assert [value_in(each, on.id) for each in files] == [2, 2]
        driver.delete_snapshot(uuid, on.id, children=True)
        assert not driver.list_snapshots(uuid)
        assert [tags(each) for each in files] == [0, 0]
        assert machine.bare("--inactive") == before
        assert own.raw.identity.marks()[uuid] == mark
        driver.create_snapshot(uuid, "goes with it")
        driver.destroy(uuid)
        assert not any(each.exists() for each in files)


def _made(own: Host, machine: Theirs, *, on: bool) -> tuple[Path, Snapshot]:
    """An adopted machine with one snapshot, ``1`` in it and ``2`` on its disk."""
    file = machine.files[0]
    write(file, 1)
    snapshot = own.driver.create_snapshot(machine.uuid, "one")
    write(file, 2)
    if on:
        own.driver.power_on(machine.uuid)
    return file, snapshot


@pytest.mark.parametrize("on", [False, True], ids=["off", "on"])
@pytest.mark.parametrize("operation", ["create", "revert", "delete"])
def test_each_changing_call_is_lost(own: Host, operation: str, on: bool) -> None:
    """It has happened or not, the next one says which, and nothing else is left."""
    raw, driver, lost = own.raw, own.driver, 0
    with theirs(own) as machine:
        uuid = machine.uuid
        driver.adopt(uuid)
        mark = raw.identity.marks()[uuid]
        one: Snapshot
        file: Path

        def begin() -> Callable[[], object]:
            nonlocal one, file
            with suppress(errors.InvalidState):
                driver.power_off(uuid)
            for each in driver.list_snapshots(uuid):
                driver.delete_snapshot(uuid, each.id)
            file, one = _made(own, machine, on=on)
            checked = guarded(raw)
            return {
                "create": lambda: checked.create_snapshot(uuid, "two"),
                "revert": lambda: checked.revert_snapshot(uuid, one.id),
                "delete": lambda: checked.delete_snapshot(uuid, one.id),
            }[operation]

        for what in cuts(raw, begin):
            lost += 1
            names = {each.name for each in driver.list_snapshots(uuid)}
            assert names in ({"one"}, {"one", "two"} if operation == "create" else set()), what
            if operation == "create":
                if "two" not in names:
                    driver.create_snapshot(uuid, "two")
            elif operation == "revert":
                driver.revert_snapshot(uuid, one.id)
            else:
                driver.delete_snapshot(uuid, one.id)
            found = driver.list_snapshots(uuid)
            with suppress(errors.InvalidState):
                driver.power_off(uuid)
            expected = {"create": ["one", "two"], "revert": ["one"], "delete": []}[operation]
            assert [each.name for each in found] == expected, what
            assert tags(file) == len(expected), what
            assert value_in(file) == (1 if operation == "revert" else 2), what
            domain = raw.domains.find(uuid)
            assert not tree_of(domain).halves, what
            assert not being_deleted(machine.xml("--inactive")), what
            assert raw.identity.marks()[uuid] == mark
            assert "hv-snapshot" not in own.peer.virsh("list", "--all", "--name")
        assert lost >= 8
        driver.destroy(uuid)
        assert not file.exists()


def test_disks_that_cannot_are_named(own: Host) -> None:
    """A raw disk, one that others put a file over, and one that others stand on: each refuses what
    cannot be, changes nothing, and leaves the rest to work."""
    driver = own.driver
    with theirs(own, disks=[]) as machine:
        first, second = machine.volume(), machine.volume(format_="raw")
        machine.define(disks=[machine.disk(first), machine.disk(second, "vdb", "raw")])
        driver.adopt(machine.uuid)
        with pytest.raises(errors.InvalidRequest, match="the disk vdb of the"):
            driver.create_snapshot(machine.uuid, "x")
        assert not driver.list_snapshots(machine.uuid)
        machine.peer.virsh("detach-disk", str(machine.uuid), "vdb", "--config")
        driver.create_snapshot(machine.uuid, "x")
    with theirs(own) as machine:
        driver.adopt(machine.uuid)
        made = driver.create_snapshot(machine.uuid, "x")
        base = machine.files[0]
        over = machine.peer.path(machine.overlay(f"{machine.peer.images}/{base.name}"))
        before = base.read_bytes()
        with pytest.raises(errors.DeviceBusy, match=f"vda is used by the volume {over.name}"):
            driver.revert_snapshot(machine.uuid, made.id)
        assert base.read_bytes() == before
        over.unlink()
        driver.revert_snapshot(machine.uuid, made.id)
        driver.delete_snapshot(machine.uuid, made.id)
        machine.peer.virsh("snapshot-create-as", str(machine.uuid), "out", "--disk-only")
        top = machine.xml("--inactive").find("devices/disk/source")
        assert top is not None
        machine.files.append(machine.peer.path(top.attrib["file"]))
        with pytest.raises(errors.DeviceBusy, match="over the disk vda"):
            driver.create_snapshot(machine.uuid, "y")


def test_the_calls_that_it_takes(own: Host) -> None:
    raw = own.raw

    def beside(name: str, act: Callable[[], object], *, more: int) -> int:
        """What it takes beside what only an adopted machine takes."""
        assert more in numbers(name) or not more, name
        return calls(raw, act) - more

    with theirs(own) as machine:
        uuid = machine.uuid
        raw.adopt(uuid)
        made: list[Snapshot] = []
        for on, expected in ((False, (14, 19)), (True, (14, 17))):
            if on:
                raw.power_on(uuid)
            created = beside(
                "create_snapshot", lambda: made.append(raw.create_snapshot(uuid, "x")), more=1
            )
            listed = beside("list_snapshots", lambda: raw.list_snapshots(uuid), more=1)
            assert listed == 4 + 1 + (not on)
            look = look_at_users(raw)
            id_ = made.pop().id
            back = beside("revert_snapshot", lambda id_=id_: raw.revert_snapshot(uuid, id_), more=1)
            assert back <= 19 + 1 + 1 + look
            if on:
                raw.power_on(uuid)
            gone = beside("delete_snapshot", lambda id_=id_: raw.delete_snapshot(uuid, id_), more=1)
            assert (created, gone) == expected, on


def test_what_it_stands_on_stays_as_it_is(own: Host) -> None:
    """An overlay over an image of others: snapshots are in the overlay alone."""
    driver = own.driver
    with theirs(own, disks=[]) as machine:
        base = machine.volume()
        write(machine.files[0], 7)
        before = machine.files[0].read_bytes()
        top = machine.overlay(base)
        machine.define(disks=[machine.disk(top)])
        driver.adopt(machine.uuid)
        for on in (False, True):
            made = driver.create_snapshot(machine.uuid, f"x{on}")
            driver.revert_snapshot(machine.uuid, made.id)
            driver.power_on(machine.uuid)
        driver.destroy(machine.uuid)
        assert not machine.peer.path(top).exists()
        assert machine.files[0].read_bytes() == before


@pytest.mark.parametrize("shape", ["raw", "qcow2", "pool"])
def test_an_image_of_it(own: Host, tmp_path: Path, shape: str) -> None:
    """Of its root disk, off and on, whatever the disk is; the disk is as it was."""
    driver = own.driver
    with theirs(own, disks=[]) as machine:
        path = machine.volume(format_="raw" if shape == "raw" else "qcow2")
        disk = machine.disk(path, format_="raw" if shape == "raw" else "qcow2")
        if shape == "pool":
            disk = disk.replace("type='file'", "type='volume'").replace(
                f"file='{path}'", f"pool='default' volume='{Path(path).name}'"
            )
        machine.define(disks=[disk])
        write(machine.files[0], 5, "raw" if shape == "raw" else "qcow2")
        driver.adopt(machine.uuid)
        for on in (False, True):
            if on:
                driver.power_on(machine.uuid)
            target = tmp_path / f"image-{on}"
            driver.snapshot_to_image(machine.uuid, target, format=ImageFormat.QCOW2)
            assert value_in(target) == 5
        before = own.residue()
        for what in cuts(
            own.raw,
            lambda: lambda: guarded(own.raw).snapshot_to_image(machine.uuid, tmp_path / "cut"),
        ):
            (tmp_path / "cut").unlink(missing_ok=True)
            driver.snapshot_to_image(machine.uuid, tmp_path / "again")
            (tmp_path / "again").unlink()
            assert own.residue() == before, what
