"""Migrations of machines that others have made, and that adopt() has taken over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from uuid import UUID
from xml.etree import ElementTree as ET

import pytest

from hvdrivers.contract import errors
from hvdrivers.guard import guarded
from hvdrivers.libvirt.config import LibvirtConfig
from hvdrivers.libvirt.driver import LibvirtDriver
from hvdrivers.models.events import LifecycleEvent, LifecycleKind, ResyncEvent
from hvdrivers.models.migration import BlockerKind
from hvdrivers.models.state import InstanceState
from tests.integration.libvirt.machines import Host
from tests.integration.libvirt.test_adopted_snapshots import value_in, write
from tests.integration.libvirt.test_budgets import look_at_users, numbers
from tests.integration.libvirt.theirs import Theirs, cuts, is_foreign, theirs
from tests.peers.fixtures import started
from tests.peers.guest import define_guest
from tests.peers.libvirtd import LibvirtPeer
from tests.peers.waiting import wait_until

pytestmark = pytest.mark.usefixtures("impatient")

S = InstanceState
_NIC = "<interface type='user'><mac address='52:54:00:0c:0c:01'/><model type='virtio'/></interface>"


@pytest.fixture(scope="module")
def other_peer() -> Iterator[LibvirtPeer]:
    with started(LibvirtPeer) as peer:
        yield peer


@pytest.fixture
def there(other_peer: LibvirtPeer, guest_image: Path) -> Iterator[Host]:
    made = Host(other_peer, guest_image)
    yield made
    made.close()


def marked(host: Host, uuid: UUID) -> bool:
    return uuid in host.raw.identity.marks()


def is_at(machine: Theirs, here: Host, there: Host, state: InstanceState) -> None:
    """One host has the machine, its mark and its files, and the other has nothing of it."""
    uuid = machine.uuid
    assert not is_foreign(here.driver, uuid)
    assert here.driver.get_instance(uuid).state is state
    with pytest.raises(errors.InstanceNotFound):
        there.driver.get_instance(uuid)
    assert marked(here, uuid)
    for secret in there.raw.connection.remote.listAllSecrets(0):
        assert str(uuid) not in str(secret.usageID())
    assert str(uuid) not in there.peer.virsh("list", "--all", "--uuid")
    assert not [line for line in there.residue() if str(uuid) in line]


def test_a_guest_goes_on_there_and_comes_back(own: Host, there: Host, guest_image: Path) -> None:
    """With an image of others below its disk, and a NIC: the copy stands alone."""
    guest = define_guest(own.peer, guest_image, devices=_NIC)
    uuid = UUID(own.peer.virsh("domuuid", guest.name).strip())
    disk = own.peer.path(own.peer.images) / f"{guest.name}.qcow2"
    before = guest_image.read_bytes()
    try:
        guest.start()
        guest.console.expect("ready", timeout=300)
        own.driver.adopt(uuid, name="mine")
        plan = own.driver.check_live_migration(uuid, there.destination())
        assert (plan.blockers, plan.copy_storage) == ((), True)
        own.driver.live_migrate(uuid, there.destination())
        info = there.driver.get_instance(uuid)
        assert (info.name, info.state) == ("mine", S.RUNNING)
        assert [each.id for each in info.vifs] == ["52:54:00:0c:0c:01"]
        assert there.peer.virsh("domname", str(uuid)).strip() == guest.name
        assert not disk.exists()
        assert not marked(own, uuid)
        there.driver.create_snapshot(uuid, "there", memory=True)
        there.driver.delete_snapshot(uuid, there.driver.list_snapshots(uuid)[0].id)
        there.peer.virsh("shutdown", str(uuid), "--mode", "acpi")
        wait_until(
            lambda: there.driver.get_instance(uuid).state is S.STOPPED,
            timeout=120,
            what="the guest heeds the power button",
        )
        there.driver.cold_migrate(uuid, own.destination())
        own.driver.power_on(uuid)
        assert guest_image.read_bytes() == before
        own.driver.destroy(uuid)
        for host in (own, there):
            assert not [line for line in host.residue() if str(uuid) in line]
    finally:
        for host in (own, there):
            with suppress(errors.InstanceNotFound):
                host.driver.destroy(uuid)
            for left in host.peer.path(host.peer.images).glob(f"{guest.name}*"):
                left.unlink()
            host.peer.virsh("pool-refresh", "default")


def _two_disks(own: Host, machine: Theirs) -> None:
    first, second = machine.volume(), machine.volume(format_="raw")
    name = Path(first).name
    machine.define(
        disks=[
            "<disk type='volume' device='disk'><driver name='qemu' type='qcow2'/>"
            f"<source pool='default' volume='{name}'/><target dev='vda' bus='virtio'/></disk>",
            machine.disk(second, "sda", "raw").replace("virtio", "sata"),
        ],
        devices=_NIC,
    )
    write(machine.files[-2], 3)
    write(machine.files[-1], 4, "raw")


def test_disks_of_two_kinds_(own: Host, there: Host) -> None:
    with there.unchanged(), theirs(own, disks=[]) as machine, closing(there.driver.watch()) as news:
        assert isinstance(news.next(30), ResyncEvent)
        _two_disks(own, machine)
        uuid = machine.uuid
        own.driver.adopt(uuid, name="mine", metadata={"a": "b"})
        own.driver.rename(uuid, "later")
        shown = own.driver.get_instance(uuid)
        shape = len(machine.xml("--inactive").findall("devices/*"))
        own.driver.cold_migrate(uuid, there.destination())
        is_at(machine, there, own, S.STOPPED)
        assert there.driver.get_instance(uuid) == shown
        now = ET.fromstring(there.peer.virsh("dumpxml", "--inactive", str(uuid)))
        assert len(now.findall("devices/*")) == shape
        assert not any(each.exists() for each in machine.files)
        pool = there.peer.path(there.raw.pools.disk_path(""))
        assert value_in(pool / f"{uuid}.root") == 3
        assert (pool / f"{uuid}.disk1").read_bytes()[:4] == bytes([4] * 4)
        event = news.next(60)
        assert isinstance(event, LifecycleEvent)
        assert (event.uuid, event.kind, event.state) == (uuid, LifecycleKind.CREATED, S.STOPPED)
        there.driver.power_on(uuid)
        there.driver.live_migrate(uuid, own.destination())
        is_at(machine, own, there, S.RUNNING)
        own.driver.power_off(uuid)
        pool = own.peer.path(own.raw.pools.disk_path(""))
        assert value_in(pool / f"{uuid}.root") == 3
        own.driver.destroy(uuid)
        assert not list(pool.glob(f"{uuid}*"))


def test_what_keeps_it_here_is_named(own: Host, there: Host) -> None:
    def kept(uuid: UUID) -> str:
        plan = own.driver.check_live_migration(uuid, there.destination())
        (blocker,) = plan.blockers
        assert blocker.hint
        with pytest.raises(errors.InvalidRequest):
            own.driver.live_migrate(uuid, there.destination())
        assert not marked(there, uuid)
        assert blocker.kind in {BlockerKind.STORAGE, BlockerKind.STATE}
        return blocker.reason

    iso = own.peer.path(own.peer.images) / "cd.iso"
    iso.write_bytes(bytes(1 << 20))
    own.peer.virsh("pool-refresh", "default")
    try:
        cd = (
            "<disk type='file' device='cdrom'><driver name='qemu' type='raw'/>"
            f"<source file='{own.peer.images}/cd.iso'/><target dev='sdb' bus='sata'/><readonly/>"
            "</disk>"
        )
        with there.unchanged(), theirs(own, devices=cd) as machine:
            machine.start()
            own.driver.adopt(machine.uuid)
            assert "the disk sdb is a file" in kept(machine.uuid)
            own.peer.virsh(
                "change-media", str(machine.uuid), "sdb", "--eject", "--live", "--config"
            )
            with theirs(there, name=machine.name) as same:
                assert f"by the name '{same.name}'" in kept(machine.uuid)
            made = own.driver.create_snapshot(machine.uuid, "x")
            assert "snapshots" in kept(machine.uuid)
            own.driver.delete_snapshot(machine.uuid, made.id)
            own.peer.virsh(
                "snapshot-create-as", str(machine.uuid), "out", "--disk-only", "--no-metadata"
            )
            top = machine.xml("--inactive").find("devices/disk/source")
            assert top is not None
            machine.files.append(own.peer.path(top.attrib["file"]))
            assert "over the disk vda" in kept(machine.uuid)
    finally:
        iso.unlink()
        own.peer.virsh("pool-refresh", "default")
    system = (
        "<os firmware='efi'><type arch='x86_64' machine='q35'>hvm</type>"
        "<firmware><feature enabled='no' name='secure-boot'/></firmware></os>"
    )
    with theirs(own, system=system) as machine:
        machine.start()
        own.driver.adopt(machine.uuid)
        assert "variables of its firmware" in kept(machine.uuid)


def test_files_that_both_hosts_have_stay(own: Host, there: Host, tmp_path: Path) -> None:
    """A pool of others on both hosts: nothing is copied, and only destroy() deletes."""
    for host in (own, there):
        host.peer.virsh("pool-create-as", "both", "dir", "--target", str(tmp_path))
    try:
        with theirs(own, disks=[]) as machine:
            path = machine.volume(pool="both")
            there.peer.virsh("pool-refresh", "both")
            cached = machine.disk(path).replace("type='qcow2'", "type='qcow2' cache='none'")
            machine.define(disks=[cached])
            machine.start()
            own.driver.adopt(machine.uuid)
            plan = own.driver.check_live_migration(machine.uuid, there.destination())
            assert (plan.blockers, plan.copy_storage) == ((), False)
            own.driver.live_migrate(machine.uuid, there.destination())
            is_at(machine, there, own, S.RUNNING)
            assert machine.files[-1].exists()
            there.driver.destroy(machine.uuid)
            assert not machine.files[-1].exists()
            own.peer.virsh("pool-refresh", "both")
    finally:
        for host in (own, there):
            host.peer.virsh("pool-destroy", "both")


@pytest.mark.parametrize("on", [True, False], ids=["live", "cold"])
def test_each_changing_call_is_lost(
    own: Host, there: Host, monkeypatch: pytest.MonkeyPatch, on: bool
) -> None:
    """At both hosts. One of them has the whole machine with its mark; destroy() at the other leaves
    nothing there."""
    connect = LibvirtDriver.connect.__func__  # type: ignore[attr-defined]

    def connected(cls: type[LibvirtDriver], config: LibvirtConfig) -> Any:
        made = connect(cls, config)
        made.connection.seam = own.raw.connection.seam
        return made

    monkeypatch.setattr(LibvirtDriver, "connect", classmethod(connected))
    machine: Theirs
    made: list[Theirs] = []

    def begin() -> Callable[[], object]:
        nonlocal machine
        machine = Theirs(own, disks=[])
        made.append(machine)
        _two_disks(own, machine)
        if on:
            machine.start()
        own.driver.adopt(machine.uuid, name="mine")
        checked = guarded(own.raw)
        move = checked.live_migrate if on else checked.cold_migrate
        return lambda: move(machine.uuid, there.destination())

    state, lost = (S.RUNNING if on else S.STOPPED), []
    try:
        for what in cuts(own.raw, begin):
            lost.append(what)
            uuid = machine.uuid
            is_here = str(uuid) in own.peer.virsh("list", "--all", "--uuid")
            assert is_here is not (str(uuid) in there.peer.virsh("list", "--all", "--uuid")), what
            home, other = (own, there) if is_here else (there, own)
            assert not is_foreign(home.driver, uuid), what
            other.driver.destroy(uuid)
            if not is_here and not on:
                with suppress(errors.InvalidState):
                    home.driver.power_off(uuid)
            is_at(machine, home, other, state)
            assert all(each.exists() for each in machine.files) is is_here, what
            if not is_here:
                if on:
                    home.driver.power_off(uuid)
                pool = there.peer.path(there.raw.pools.disk_path(""))
                assert value_in(pool / f"{uuid}.root") == 3, what
            home.driver.destroy(uuid)
            assert not any(each.exists() for each in machine.files), what
            for host in (own, there):
                assert not [line for line in host.residue() if str(uuid) in line], what
        assert len(lost) >= 16, lost
        assert any("migrate3" in each for each in lost)
        assert any("secretDefineXML" in each for each in lost)
    finally:
        for each in made:
            for host in (own, there):
                with suppress(errors.HypervisorError):
                    host.driver.destroy(each.uuid)
            each.remove()


def test_the_calls_that_it_takes(own: Host, there: Host) -> None:
    raw = own.raw
    with theirs(own) as machine:
        machine.start()
        own.driver.adopt(machine.uuid)
        with raw.connection.counting() as counter:
            raw.check_live_migration(machine.uuid, there.destination())
        assert sum(counter.values()) == 10
        with raw.connection.counting() as counter:
            raw.live_migrate(machine.uuid, there.destination())
        del counter["Domain.jobStats"]
        # before the disk goes, nothing may use it
        look = look_at_users(raw, volumes=1)
        assert sum(counter.values()) <= 10 + 7 + 2 + 4 + 4 + look
        assert {7, 2, 4} <= set(numbers("live_migrate"))
        there.driver.destroy(machine.uuid)
