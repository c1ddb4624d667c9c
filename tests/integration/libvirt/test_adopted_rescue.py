"""rescue() and unrescue() of machines that others have made, and that adopt() has taken over."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import pytest
from pydantic import SecretBytes

from hvdrivers.contract import errors
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.guard import guarded
from hvdrivers.models.events import ResyncEvent
from hvdrivers.models.image import FileImage, ImageFormat
from hvdrivers.models.seed import SeedDisc
from hvdrivers.models.state import InstanceState
from tests.integration.libvirt.machines import Host, told
from tests.integration.libvirt.test_adopted_snapshots import value_in, write
from tests.integration.libvirt.test_budgets import calls, numbers
from tests.integration.libvirt.theirs import Theirs, at_each_cut, is_foreign, theirs

pytestmark = pytest.mark.usefixtures("impatient")

S = InstanceState


@pytest.fixture(scope="module")
def repair(own: Host) -> FileImage:
    """A rescue image."""
    path = own.peer.root / "repair-adopted.raw"
    path.write_bytes(b"r" * (1 << 20))
    return FileImage(path=path, format=ImageFormat.RAW)


def left(machine: Theirs) -> list[str]:
    """What a rescue has on the host: its disks, and its marks."""
    peer, uuid = machine.peer, str(machine.uuid)
    volumes = peer.virsh("vol-list", "hvdrivers").split()
    marks = peer.virsh("secret-list").splitlines()
    found = {each for each in volumes if each.startswith(f"{uuid}.rescue")}
    return sorted(found | {each for each in marks if f"{uuid} /rescued/" in each})


def buses(machine: Theirs) -> dict[str, str]:
    """The bus of each disk of the running machine, by the device's name."""
    targets = machine.xml().iterfind("devices/disk/target")
    return {each.attrib["dev"]: each.attrib["bus"] for each in targets}


@pytest.mark.parametrize("bus", ["virtio", "sata", "scsi", "ide"])
def test_it_is_the_same_afterwards(
    own: Host, other: ComputeDriver, repair: FileImage, bus: str
) -> None:
    """It keeps its name and its definition; each client, and each stream, sees what it is."""
    driver = own.driver
    with theirs(own, disks=[]) as machine, closing(other.watch()) as stream:
        path = machine.volume()
        target = {"virtio": "vda", "ide": "hda"}.get(bus, "sda")
        disk = machine.disk(path, target).replace("bus='virtio'", f"bus='{bus}'")
        kind = "pc" if bus == "ide" else "q35"
        boots = "<boot dev='network'/>"
        system = f"<os><type arch='x86_64' machine='{kind}'>hvm</type>{boots}</os>"
        machine.define(disks=[disk], system=system)
        write(machine.files[0], 7)
        machine.start()
        assert isinstance(stream.next(30), ResyncEvent)
        info, shape = driver.adopt(machine.uuid, name="mine"), machine.bare("--inactive")
        driver.rescue(machine.uuid, repair)
        for client in (driver, other):
            assert client.get_instance(machine.uuid) == info.model_copy(update={"state": S.RESCUED})
            assert not is_foreign(client, machine.uuid)
        with pytest.raises(errors.InvalidState):
            driver.rescue(machine.uuid, repair)
        assert len(left(machine)) == 2
        assert machine.xml().findtext("name") == machine.name
        assert machine.bare("--inactive") == shape
        expected = "sata" if bus == "ide" else bus
        assert sorted(buses(machine).values()) == sorted([bus, expected])
        orders = machine.xml().findall("devices/disk/boot")
        assert [each.get("order") for each in orders] == ["1"]
        assert machine.xml().find("os/boot") is None
        driver.rename(machine.uuid, "mine too")
        driver.reboot(machine.uuid)
        assert driver.get_instance(machine.uuid).state is S.RESCUED
        driver.unrescue(machine.uuid)
        assert (left(machine), machine.bare("--inactive")) == ([], shape)
        now = info.model_copy(update={"name": "mine too"})
        assert other.get_instance(machine.uuid) == now
        driver.unrescue(machine.uuid)
        # it goes off while it is rescued, and each start boots its own disk
        starts: dict[InstanceState, Callable[[], object]] = {
            S.RUNNING: lambda: driver.power_on(machine.uuid),
            S.PAUSED: lambda: driver.start_paused(machine.uuid),
            S.STOPPED: lambda: driver.unrescue(machine.uuid),
        }
        for end, start in starts.items():
            if end is S.PAUSED:
                driver.power_off(machine.uuid)
            driver.rescue(machine.uuid, repair)
            driver.power_off(machine.uuid)
            assert other.get_instance(machine.uuid).state is S.STOPPED
            assert len(left(machine)) == 2
            start()
            assert other.get_instance(machine.uuid).state is end
            assert left(machine) == []
            driver.power_off(machine.uuid)
        driver.rescue(machine.uuid, repair)
        driver.power_off(machine.uuid)
        driver.rescue(machine.uuid, repair)
        assert len(left(machine)) == 2
        seen = told(stream, machine.uuid, S.RESCUED)
        assert seen[:5] == [S.RUNNING, S.STOPPED, S.RESCUED, S.RESCUED, S.STOPPED]
        assert value_in_locked(machine) == 7
        driver.destroy(machine.uuid)
        assert left(machine) == []


def value_in_locked(machine: Theirs) -> int:
    """What its disk has, which the rescued machine holds."""
    machine.own.driver.power_off(machine.uuid)
    found = value_in(machine.files[0])
    machine.own.driver.power_on(machine.uuid)
    machine.own.driver.power_off(machine.uuid)
    return found


def test_a_seed_is_the_only_disc_and_a_kernel_of_the_host_waits(
    own: Host, repair: FileImage
) -> None:
    driver = own.driver
    with theirs(own) as machine:
        disc = machine.peer.path(machine.peer.images) / f"{machine.uuid}.iso"
        disc.write_bytes(bytes(1 << 20))
        machine.files.append(disc)
        cd = (
            "<disk type='file' device='cdrom'><driver name='qemu' type='raw'/>"
            f"<source file='{machine.peer.images}/{disc.name}'/>"
            "<target dev='sda' bus='sata'/><readonly/></disk>"
        )
        path = machine.disk(f"{machine.peer.images}/{machine.files[0].name}")
        system = (
            "<os><type arch='x86_64' machine='q35'>hvm</type>"
            "<kernel>/a/kernel</kernel><cmdline>quiet</cmdline></os>"
        )
        machine.define(disks=[path], devices=cd, system=system)
        driver.adopt(machine.uuid)
        shape = machine.bare("--inactive")
        driver.rescue(machine.uuid, repair, seed=SeedDisc(content=SecretBytes(bytes(1024))))
        running = machine.xml()
        assert running.find("os/kernel") is running.find("os/cmdline") is None
        discs = running.findall("devices/disk[@device='cdrom']")
        sources = [source for each in discs if (source := each.find("source")) is not None]
        assert (len(discs), len(sources)) == (2, 1)
        assert ".rescue-" in sources[0].attrib["file"]
        driver.power_off(machine.uuid)
        driver.unrescue(machine.uuid)
        assert (machine.bare("--inactive"), left(machine)) == (shape, [])
        with pytest.raises(errors.InvalidRequest, match="made from no image"):
            driver.rescue(machine.uuid)
        assert (machine.bare("--inactive"), left(machine)) == (shape, [])


@pytest.mark.parametrize("operation", ["rescue", "unrescue"])
def test_each_changing_call_is_lost(own: Host, repair: FileImage, operation: str) -> None:
    """The machine is what it was or what it was to be, the same call brings it there, and nothing
    is left."""
    driver = own.driver

    def begin(machine: Theirs) -> Callable[[], object]:
        machine.define(disks=[machine.disk(machine.volume())])
        write(machine.files[-1], 5)
        machine.start()
        driver.adopt(machine.uuid)
        if operation == "rescue":
            return lambda: guarded(own.raw).rescue(machine.uuid, repair)
        driver.rescue(machine.uuid, repair)
        return lambda: guarded(own.raw).unrescue(machine.uuid)

    def then(machine: Theirs, what: str) -> None:
        uuid = machine.uuid
        assert not is_foreign(driver, uuid), what
        state = driver.get_instance(uuid).state
        if operation == "rescue" and state is not S.RESCUED:
            driver.rescue(uuid, repair)
            assert driver.get_instance(uuid).state is S.RESCUED, what
        driver.unrescue(uuid)
        assert driver.get_instance(uuid).state is S.RUNNING, what
        assert left(machine) == [], what
        driver.power_off(uuid)
        assert value_in(machine.files[-1]) == 5, what

    at_each_cut(own, begin, then, least=10)


def test_the_calls_that_it_takes(own: Host, repair: FileImage) -> None:
    raw = own.raw
    with theirs(own) as machine:
        machine.start()
        raw.adopt(machine.uuid)
        raw.rescue(machine.uuid, repair)  # the image comes to the host
        assert calls(raw, lambda: raw.get_instance(machine.uuid)) == 3 + 1
        assert calls(raw, lambda: raw.unrescue(machine.uuid)) <= 18 + 4
        assert calls(raw, lambda: raw.rescue(machine.uuid, repair)) <= 18 + 6
        assert {18, 6} <= set(numbers("rescue"))
        assert {18, 4} <= set(numbers("unrescue"))
        raw.power_off(machine.uuid)
        # the marks, and a second call for the only one
        assert calls(raw, lambda: raw.power_on(machine.uuid)) <= 5 + 2 + 5 + 1
        raw.power_off(machine.uuid)
        assert calls(raw, lambda: raw.power_on(machine.uuid)) <= 5 + 2
        assert {5, 2} <= set(numbers("power_on"))
