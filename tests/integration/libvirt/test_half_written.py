"""The folder in which libvirt keeps the definitions is full: what a running machine got then, and
its definition did not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4
from xml.etree import ElementTree as ET

import pytest

from hvdrivers.contract import errors
from hvdrivers.libvirt import adopt, snapshots, storage
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.snapshot_tree import note_deletion
from hvdrivers.models.instance import Flavor
from hvdrivers.models.vif import Bandwidth, BridgeVif, OvsVif, VifQos
from hvdrivers.models.volume import DiskQos, VolumeAttachment
from tests.integration.libvirt.machines import Host, Machine
from tests.integration.libvirt.test_budgets import calls, numbers
from tests.integration.libvirt.theirs import is_foreign, theirs
from tests.peers.bridge import LinuxBridge
from tests.peers.libvirtd import POOL, LibvirtPeer
from tests.peers.openvswitch import OvsBridge

FOLDER = "/etc/libvirt/qemu"
_ROOM = 60
"""Bytes that are left in the last page of a definition's file: fewer than a new flavor takes."""


@contextmanager
def with_little_room(guest_image: Path) -> Iterator[Host]:
    """A host whose daemon has that folder on a small file system."""
    with LibvirtPeer() as peer:
        peer.inside("mkdir", "-p", FOLDER)
        with peer.small(FOLDER, 128 << 10):
            made = Host(peer, guest_image, host_root=peer.host_root)
            yield made
            made.close()


@pytest.fixture(scope="module")
def host(guest_image: Path) -> Iterator[Host]:
    with with_little_room(guest_image) as made:
        yield made


@pytest.fixture(scope="module")
def booted(host: Host) -> Iterator[Machine]:
    """A guest that lets go of what it is asked for."""
    flavor = Flavor(vcpus=1, memory_mib=192, max_vcpus=2, max_memory_mib=512)
    with host.machine(flavor=flavor) as made:
        yield made.booted()


@pytest.fixture(scope="module")
def deaf(host: Host) -> Iterator[Machine]:
    """A machine that lets go of nothing."""
    flavor = Flavor(vcpus=1, memory_mib=64, max_vcpus=2, max_memory_mib=512)
    with host.empty_machine(flavor=flavor) as made:
        yield made


def fill(host: Host) -> None:
    """Let the file system be full."""
    host.peer.inside("sh", "-c", f"cat /dev/zero >{FOLDER}/fill", check=False)


@contextmanager
def room_afterwards(host: Host) -> Iterator[None]:
    """What :func:`fill` has filled is free after the block."""
    try:
        yield
    finally:
        host.peer.inside("rm", "-f", f"{FOLDER}/fill")


@contextmanager
def full(host: Host) -> Iterator[None]:
    with room_afterwards(host):
        fill(host)
        yield


@contextmanager
def filling_at(host: Host, module: ModuleType, name: str) -> Iterator[None]:
    """It fills up where a function of the driver is called in the block."""
    original, reached = getattr(module, name), []

    def filling(*arguments: object, **further: object) -> object:
        reached.append(name)
        fill(host)
        return original(*arguments, **further)

    with room_afterwards(host), pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, name, filling)
        yield
    assert reached


@contextmanager
def read_only(host: Host) -> Iterator[None]:
    host.peer.inside("mount", "-o", "remount,ro", FOLDER)
    try:
        yield
    finally:
        host.peer.inside("mount", "-o", "remount,rw", FOLDER)


def refused(
    host: Host, machine: Machine, call: Callable[[], object], match: str = "taken back"
) -> None:
    """The call cannot write, says so, and leaves the machine as it was, and its definition."""
    for spoilt, kind in (
        (full, errors.InsufficientResources),
        (read_only, errors.PermissionDenied),
    ):
        before = whole(machine)
        with spoilt(host), pytest.raises(kind, match=match) as caught:
            call()
        assert caught.value.hint
        assert whole(machine) == before


def half(host: Host, call: Callable[[], object]) -> None:
    """The machine keeps what it got; the call says so, also when it is repeated in vain."""
    with full(host):
        for _ in range(2):
            with pytest.raises(errors.OutcomeUnknown, match="until its power goes") as caught:
                call()
            assert FOLDER in (caught.value.hint or "")


def whole(machine: Machine) -> list[Any]:
    """What the machine has and its definition, and what the file says."""
    name = machine.xml().findtext("name")
    file = ET.parse(f"{machine.host.peer.host_root}{FOLDER}/{name}.xml").getroot()
    found: list[Any] = []
    for xml in (machine.xml(), machine.xml(inactive=True), file):
        tuned = (*xml.iter("iotune"), *xml.iter("bandwidth"))
        found.append(
            (
                {each.get("name") for each in xml.iter("alias") if "ua-" in each.get("name", "")},
                [(each.text, each.attrib) for each in xml.iterfind("vcpu")],
                [each.text for each in (*xml.iterfind("memory"), *xml.iterfind("currentMemory"))],
                [(each.tag, each.text, each.attrib) for tune in tuned for each in tune],
                [each.text for each in xml.iterfind("metadata/*")],
            )
        )
    return found


def budget(host: Host, name: str, expected: int, call: Callable[[], object]) -> None:
    assert calls(host.raw, call) == expected
    assert expected in numbers(name)


def test_a_volume(host: Host, booted: Machine, deaf: Machine) -> None:
    driver = host.driver
    with host.volume() as volume:
        attachment, volume_id = VolumeAttachment(volume=volume), volume.volume_id
        refused(host, booted, lambda: driver.attach_volume(booted.uuid, attachment))
        booted.attach(volume)
        host.peer.restart()
        assert booted.has(volume_id) == (True, True)
        driver.detach_volume(booted.uuid, volume_id)

        half(host, lambda: driver.attach_volume(deaf.uuid, attachment))
        assert deaf.has(volume_id) == (True, False)
        for expected in (7, 5):
            budget(
                host,
                "attach_volume",
                expected,
                lambda: host.raw.attach_volume(deaf.uuid, attachment),
            )
        host.peer.restart()
        driver.power_off(deaf.uuid)
        driver.power_on(deaf.uuid)
        assert deaf.has(volume_id) == (True, True)
        driver.power_off(deaf.uuid)
        driver.detach_volume(deaf.uuid, volume_id)
        driver.power_on(deaf.uuid)


def test_a_vif(host: Host, booted: Machine, deaf: Machine, linux_bridge: LinuxBridge) -> None:
    driver = host.driver
    vif = BridgeVif(id=str(uuid4()), address="52:54:00:00:05:01", bridge=linux_bridge.name)
    refused(host, booted, lambda: driver.plug_vif(booted.uuid, vif))
    driver.plug_vif(booted.uuid, vif)
    host.peer.restart()
    assert has_nic(booted) == (True, True)
    driver.unplug_vif(booted.uuid, vif.id)

    half(host, lambda: driver.plug_vif(deaf.uuid, vif))
    assert has_nic(deaf) == (True, False)
    for expected in (6, 4):
        budget(host, "plug_vif", expected, lambda: host.raw.plug_vif(deaf.uuid, vif))
    host.peer.restart()
    driver.power_off(deaf.uuid)
    driver.power_on(deaf.uuid)
    assert has_nic(deaf) == (True, True)
    driver.power_off(deaf.uuid)
    driver.unplug_vif(deaf.uuid, vif.id)
    driver.power_on(deaf.uuid)


def has_nic(machine: Machine) -> tuple[bool, bool]:
    """Whether virsh shows a NIC in the running machine, and in the definition."""
    live, stored = (machine.xml(inactive=each) for each in (False, True))
    return live.find("devices/interface") is not None, stored.find("devices/interface") is not None


def test_a_size_of_which_the_last_part_finds_no_room(host: Host) -> None:
    """A cold resize writes the definition several times, and the last one is the longest: its
    flavor is new there. What was written before is taken back, in the file too."""
    root = Path(f"/proc/{host.peer.daemon_pid}/root{FOLDER}")
    page = os.statvfs(root).f_bsize
    flavor = Flavor(vcpus=1, memory_mib=64)
    with host.made_empty(flavor=flavor) as machine:
        file = root / f"{host.peer.virsh('domname', str(machine.uuid)).strip()}.xml"
        host.driver.set_metadata(machine.uuid, {"pad": ""})
        room = (-file.stat().st_size - 1) % page
        host.driver.set_metadata(machine.uuid, {"pad": "x" * room})
        assert 0 < -file.stat().st_size % page <= _ROOM
        before, shown = file.read_text(), machine.info
        pages = -(-file.stat().st_size // page)
        free = os.statvfs(root).f_bavail - pages
        (root / "fill").write_bytes(bytes(free * page))
        try:
            with pytest.raises(errors.InsufficientResources) as refused:
                host.driver.resize(machine.uuid, Flavor(vcpus=2, memory_mib=96))
            assert file.read_text() == before
            assert FOLDER in refused.value.message
        finally:
            (root / "fill").unlink()
        assert machine.info == shown


def test_cpus(host: Host, deaf: Machine) -> None:
    """No guest is asked for a CPU."""
    half(host, lambda: host.driver.hot_resize_cpu(deaf.uuid, 2))
    assert vcpus(deaf) == ["2", "1"]
    for expected in (5, 4):
        budget(host, "hot_resize_cpu", expected, lambda: host.raw.hot_resize_cpu(deaf.uuid, 2))
    assert vcpus(deaf) == ["2", "2"]
    host.peer.restart()
    assert vcpus(deaf) == ["2", "2"]


def vcpus(machine: Machine) -> list[str | None]:
    """How many CPUs virsh shows in the running machine, and in the definition."""
    shown = [machine.xml(inactive=each).find("vcpu") for each in (False, True)]
    return [each.get("current") or each.text for each in shown if each is not None]


def test_memory(host: Host, deaf: Machine) -> None:
    half(host, lambda: host.driver.hot_resize_memory(deaf.uuid, 64 + 128))
    for expected in (6, 4):
        budget(
            host,
            "hot_resize_memory",
            expected,
            lambda: host.raw.hot_resize_memory(deaf.uuid, 64 + 128),
        )
    host.peer.restart()
    for inactive in (False, True):
        assert deaf.xml(inactive=inactive).findtext("memory") == str((64 + 128) << 10)


@pytest.mark.parametrize("start", [True, False], ids=["running", "stopped"])
def test_limits(host: Host, ovs_bridge: OvsBridge, start: bool) -> None:
    driver = host.driver
    nic = OvsVif(id=str(uuid4()), address="52:54:00:00:05:02", bridge=ovs_bridge.name)
    few, many = DiskQos(total_iops_sec=100), DiskQos(total_bytes_sec=1 << 20)
    with host.volume() as volume, host.empty_machine(start=start, vifs=(nic,)) as machine:
        machine.attach(volume, qos=few)
        uuid, volume_id = machine.uuid, volume.volume_id
        refused(host, machine, lambda: driver.set_disk_qos(uuid, volume_id, many))
        refused(host, machine, lambda: driver.set_disk_qos(uuid, volume_id, None))
        driver.set_disk_qos(uuid, volume_id, many)
        host.peer.restart()
        for inactive in (False, True):
            assert machine.xml(inactive=inactive).findtext(".//iotune/total_bytes_sec")
        less = VifQos(inbound=Bandwidth(average=1000))
        refused(host, machine, lambda: driver.set_vif_qos(uuid, nic.id, less))
        driver.set_vif_qos(uuid, nic.id, less)
        refused(host, machine, lambda: driver.set_vif_qos(uuid, nic.id, None))


def test_what_is_taken_out(host: Host, booted: Machine, linux_bridge: LinuxBridge) -> None:
    """The guest has let go: it does not get it again."""
    driver, uuid = host.driver, booted.uuid
    vif = BridgeVif(id=str(uuid4()), address="52:54:00:00:05:03", bridge=linux_bridge.name)
    with host.volume() as volume:
        booted.attach(volume)
        half(host, lambda: driver.detach_volume(uuid, volume.volume_id))
        assert booted.has(volume.volume_id) == (False, True)
        driver.detach_volume(uuid, volume.volume_id)
        assert booted.has(volume.volume_id) == (False, False)
        booted.attach(volume)
        driver.detach_volume(uuid, volume.volume_id)
    driver.plug_vif(uuid, vif)
    half(host, lambda: driver.unplug_vif(uuid, vif.id))
    assert has_nic(booted) == (False, True)
    driver.unplug_vif(uuid, vif.id)
    assert has_nic(booted) == (False, False)


def test_power_off_after_it(host: Host) -> None:
    """The machine goes off all the same, and the same call takes it out of the definition."""
    driver = host.driver
    with host.volume() as volume, host.machine() as machine:
        machine.booted().attach(volume)
        with full(host):
            with pytest.raises(errors.OutcomeUnknown):
                driver.detach_volume(machine.uuid, volume.volume_id)
            driver.power_off(machine.uuid)
            with pytest.raises(errors.InsufficientResources) as caught:
                driver.detach_volume(machine.uuid, volume.volume_id)
            assert FOLDER in (caught.value.hint or "")
        driver.detach_volume(machine.uuid, volume.volume_id)
        assert machine.has(volume.volume_id) == (False, False)


def test_a_stopped_machine_keeps_its_size(host: Host) -> None:
    with host.made_empty() as machine:
        for vcpus, mib in ((2, 64), (1, 128), (2, 32)):
            resize = partial(host.driver.resize, machine.uuid, Flavor(vcpus=vcpus, memory_mib=mib))
            refused(host, machine, resize, FOLDER)
        resize()


@pytest.mark.parametrize("start", [True, False], ids=["running", "stopped"])
def test_a_snapshot_whose_deletion_was_refused(
    host: Host, start: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays, whatever comes next."""
    driver = host.driver
    with host.empty_machine(start=start) as machine:
        first = driver.create_snapshot(machine.uuid, "first")
        before = whole(machine)

        def noted(domain: Remote, names: Iterable[str], flags: int) -> None:
            if names:  # what comes before it has found room
                fill(host)
            note_deletion(domain, names, flags)

        with room_afterwards(host), monkeypatch.context() as patched:
            patched.setattr(snapshots, "note_deletion", noted)
            with pytest.raises(errors.InsufficientResources, match="taken back"):
                driver.delete_snapshot(machine.uuid, first.id)
        assert whole(machine) == before
        second = driver.create_snapshot(machine.uuid, "second")
        names = [each.id for each in driver.list_snapshots(machine.uuid)]
        assert names == [first.id, second.id]
        driver.delete_snapshot(machine.uuid, first.id)


def test_a_swap_that_cannot_be_written_at_its_end(host: Host) -> None:
    """The folder fills up while QEMU copies. The same call writes the rest."""
    driver = host.driver
    few = DiskQos(total_iops_sec=1000)
    with host.volume() as old, host.volume() as new, host.empty_machine() as machine:
        machine.attach(old)

        def filling(name: str, send: Callable[[], Any]) -> Any:
            if name == "Domain.blockJobAbort":
                fill(host)
            return send()

        def swap() -> object:
            attachment = VolumeAttachment(volume=new, qos=few)
            return driver.swap_volume(machine.uuid, old.volume_id, attachment)

        host.raw.connection.seam = filling
        try:
            with room_afterwards(host):
                for _ in range(2):
                    with pytest.raises(errors.OutcomeUnknown) as caught:
                        swap()
                    assert FOLDER in (caught.value.hint or "")
        finally:
            host.raw.connection.seam = None
        with pytest.raises(errors.VolumeNotFound):
            swap()
        host.peer.restart()
        driver.power_off(machine.uuid)
        assert machine.has(new.volume_id) == (True, True)
        stored = machine.xml(inactive=True)
        assert stored.findtext(".//iotune/total_iops_sec") == "1000"
        assert new.volume_id[:20] in [each.text for each in stored.iter("serial")]
        with filling_at(host, storage, "write_slot"):  # a note of a disk that has gone
            driver.detach_volume(machine.uuid, new.volume_id)
        assert machine.has(new.volume_id) == (False, False)


@pytest.mark.parametrize("start", [True, False], ids=["running", "stopped"])
def test_a_machine_of_others_stays_theirs(host: Host, start: bool) -> None:
    with theirs(host) as machine:
        if start:
            machine.start()
        before = machine.bare("--inactive")
        with (
            filling_at(host, adopt, "record_text"),
            pytest.raises(errors.InsufficientResources) as caught,
        ):
            host.driver.adopt(machine.uuid)
        assert "could not be removed" not in "".join(getattr(caught.value, "__notes__", ()))
        assert is_foreign(host.driver, machine.uuid)
        assert machine.bare("--inactive") == before
        for options in ((), ("--inactive",)):
            assert machine.xml(*options).find("metadata/*") is None
        assert host.driver.adopt(machine.uuid).uuid == machine.uuid


def test_a_backup_ends(host: Host) -> None:
    """Whichever is open, without room; one by its id needs a turn, which needs some."""
    with host.empty_machine() as machine:
        backup = host.driver.begin_backup(machine.uuid)
        with full(host):
            with pytest.raises(errors.InsufficientResources):
                host.driver.end_backup(machine.uuid, backup.id)
            host.driver.end_backup(machine.uuid)
        with full(host), pytest.raises(errors.InsufficientResources):
            host.driver.begin_backup(machine.uuid)
        host.driver.begin_backup(machine.uuid)
        host.driver.end_backup(machine.uuid)


def test_disks_that_are_in_another_pool(host: Host) -> None:
    """The folder fills up while QEMU copies: the old file stays until the definition names the new
    one."""
    driver = host.driver
    with host.empty_machine() as machine:
        before = disks(machine)

        def filling(name: str, send: Callable[[], Any]) -> Any:
            if name == "Domain.blockJobAbort":
                fill(host)
            return send()

        host.raw.connection.seam = filling
        try:
            with room_afterwards(host), pytest.raises(errors.OutcomeUnknown) as caught:
                driver.migrate_storage(machine.uuid, POOL)
        finally:
            host.raw.connection.seam = None
        assert FOLDER in (caught.value.hint or "")
        assert all(host.peer.path(each).exists() for each in before)
        assert disks(machine) == disks(machine, inactive=True) != before
        driver.migrate_storage(machine.uuid, POOL)
        host.peer.restart()
        assert disks(machine) == disks(machine, inactive=True) != before
        assert not any(host.peer.path(each).exists() for each in before)


def disks(machine: Machine, *, inactive: bool = False) -> list[str]:
    found = machine.xml(inactive=inactive).iterfind("devices/disk/source")
    return [file for each in found if (file := each.get("file"))]
