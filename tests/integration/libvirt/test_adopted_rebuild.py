"""rebuild() of machines that others have made, and that adopt() has taken over."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from hvdrivers.contract import errors
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.guard import guarded
from hvdrivers.models.image import FileImage, ImageFormat
from hvdrivers.models.state import InstanceState
from tests.integration.libvirt.machines import Host
from tests.integration.libvirt.test_budgets import calls, look_at_users, numbers
from tests.integration.libvirt.theirs import Theirs, at_each_cut, is_foreign, theirs

pytestmark = pytest.mark.usefixtures("impatient")

S = InstanceState


@pytest.fixture(scope="module")
def fresh(own: Host) -> FileImage:
    """An image whose bytes are 3."""
    path = own.peer.root / "fresh-adopted.raw"
    path.write_bytes(b"\3" * (1 << 20))
    return FileImage(path=path, format=ImageFormat.RAW)


def value_in(machine: Theirs) -> int:
    """What its root disk has in its first MiB."""
    target = machine.peer.root / "the content"
    target.unlink(missing_ok=True)
    machine.own.driver.snapshot_to_image(machine.uuid, target, format=ImageFormat.RAW)
    (value,) = set(target.read_bytes()[: 1 << 20])
    target.unlink()
    return value


def root_now(machine: Theirs) -> Path:
    sources = machine.xml("--inactive").findall("devices/disk/source")
    return machine.peer.path(sources[0].attrib["file"])


@pytest.mark.parametrize("on", [False, True], ids=["off", "on"])
@pytest.mark.parametrize("kind", ["sata raw", "by pool"])
def test_a_new_disk_in_its_place(
    own: Host, other: ComputeDriver, fresh: FileImage, on: bool, kind: str
) -> None:
    """On its bus, as large as before; another disk stays; and again, and rescued from it."""
    driver = own.driver
    with theirs(own, disks=[]) as machine:
        format_ = "raw" if kind == "sata raw" else "qcow2"
        root, second = machine.volume(format_=format_), machine.volume()
        if kind == "sata raw":
            disk = machine.disk(root, "sda", "raw").replace("bus='virtio'", "bus='sata'")
        else:
            source = f"<source pool='default' volume='{Path(root).name}'/>"
            disk = machine.disk(root).replace(f"<source file='{root}'/>", source)
            disk = disk.replace("type='file'", "type='volume'")
        machine.define(disks=[disk, machine.disk(second, "vdb")])
        if on:
            machine.start()
        info = driver.adopt(machine.uuid)
        target = machine.xml("--inactive").find("devices/disk/target")
        assert target is not None
        old = machine.files[0]
        for _ in range(2):
            driver.rebuild(machine.uuid, fresh)
            now = other.get_instance(machine.uuid)
            assert now.image is not None
            assert now.model_copy(update={"image": info.image}) == info
            assert not old.exists()
            old = root_now(machine)
            assert old.name.startswith(f"{machine.uuid}.root-")
            assert machine.files[1].exists()
            found = machine.xml("--inactive").find("devices/disk/target")
            assert found is not None
            assert found.attrib == target.attrib
            size = machine.peer.virsh("vol-info", "--pool", "hvdrivers", old.name)
            assert "8.00 MiB" in size
        driver.rescue(machine.uuid)
        driver.unrescue(machine.uuid)
        driver.power_off(machine.uuid)
        made = driver.create_snapshot(machine.uuid, "one")
        with pytest.raises(errors.DeviceBusy):
            driver.rebuild(machine.uuid, fresh)
        driver.delete_snapshot(machine.uuid, made.id)
        assert value_in(machine) == 3
        driver.destroy(machine.uuid)
        assert not old.exists()
        assert not machine.files[1].exists()


def test_what_it_cannot_and_what_others_use(own: Host, fresh: FileImage) -> None:
    driver = own.driver
    with theirs(own, disks=[]) as machine:
        driver.adopt(machine.uuid)
        with pytest.raises(errors.InvalidRequest, match="no root disk"):
            driver.rebuild(machine.uuid, fresh)
    with theirs(own) as machine:
        driver.adopt(machine.uuid)
        base = machine.files[0]
        machine.overlay(f"{machine.peer.images}/{base.name}")
        driver.rebuild(machine.uuid, fresh)
        assert base.exists(), "an overlay of others stands on it"
        assert root_now(machine) != base
        driver.destroy(machine.uuid)
        assert base.exists()


@pytest.mark.parametrize("on", [False, True], ids=["off", "on"])
def test_each_changing_call_is_lost(own: Host, fresh: FileImage, on: bool) -> None:
    """The machine has a whole disk, the same call comes to the end, and nothing is left."""
    driver, number = own.driver, count(1)
    state = S.RUNNING if on else S.STOPPED

    def begin(machine: Theirs) -> Callable[[], object]:
        machine.define(disks=[machine.disk(machine.volume())])
        if on:
            machine.start()
        driver.adopt(machine.uuid)
        return lambda: guarded(own.raw).rebuild(machine.uuid, fresh)

    def then(machine: Theirs, what: str) -> None:
        uuid = machine.uuid
        assert not is_foreign(driver, uuid), what
        assert root_now(machine).exists(), what
        if next(number) % 4:
            driver.rebuild(uuid, fresh)
            assert driver.get_instance(uuid).state is state, what
            assert not machine.files[-1].exists(), what
            driver.power_off(uuid)
            assert value_in(machine) == 3, what

    at_each_cut(own, begin, then, least=12)


def test_the_calls_that_it_takes(own: Host, fresh: FileImage) -> None:
    raw = own.raw
    with theirs(own) as machine:
        machine.start()
        raw.adopt(machine.uuid)
        own.driver.rescue(machine.uuid, fresh)  # the image comes to the host
        own.driver.unrescue(machine.uuid)
        look = look_at_users(raw, volumes=1, machines=1)
        assert calls(raw, lambda: raw.rebuild(machine.uuid, fresh)) <= 30 + 15 + look
        assert {26, 15} <= set(numbers("rebuild"))
