"""adopt(): machines that others have made, in the shapes in which others make them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from uuid import UUID
from xml.etree import ElementTree as ET

import pytest

from hvdrivers.contract import errors
from hvdrivers.contract.driver import OPERATIONS, ComputeDriver
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.guard import guarded
from hvdrivers.libvirt.driver import LibvirtDriver
from hvdrivers.libvirt.not_adopted import _REASONS
from hvdrivers.models.console import ConsoleKind
from hvdrivers.models.events import LifecycleEvent, LifecycleKind, ResyncEvent
from hvdrivers.models.image import ImageFormat
from hvdrivers.models.instance import Firmware, Flavor
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import Bandwidth, UserVif, VifQos
from hvdrivers.models.volume import DiskQos, VolumeAttachment, VolumeSpec
from tests.integration.libvirt.children import killed_in
from tests.integration.libvirt.conftest import connect
from tests.integration.libvirt.faults import script
from tests.integration.libvirt.machines import Host, local, told
from tests.integration.libvirt.test_budgets import calls, look_at_users, numbers
from tests.integration.libvirt.theirs import Theirs, is_foreign, theirs, with_header
from tests.peers.guest import define_guest
from tests.peers.libvirtd import LibvirtPeer

pytestmark = pytest.mark.usefixtures("impatient")

_CDROM = (
    "<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='{iso}'/>"
    "<target dev='sda' bus='sata'/><readonly/></disk>"
)
_NIC = (
    "<interface type='user'><mac address='52:54:00:0a:0a:0{n}'/><model type='virtio'/></interface>"
)


# ---- a guest that runs ---------------------------------------------------------------------------


def test_a_running_guest_goes_on_and_takes_everything(
    own: Host, other: ComputeDriver, guest_image: Path
) -> None:
    """q35, an overlay over an image of others, a CD, two NICs: adopted while it runs."""
    iso = own.peer.path(own.peer.images) / "their.iso"
    iso.write_bytes(bytes(1 << 20))
    own.peer.virsh("pool-refresh", "default")
    devices = _CDROM.format(iso=f"{own.peer.images}/their.iso")
    devices += _NIC.format(n=1) + _NIC.format(n=2)
    before_image = guest_image.read_bytes()
    guest = define_guest(own.peer, guest_image, devices=devices)
    uuid = UUID(own.peer.virsh("domuuid", guest.name).strip())
    try:
        guest.start()
        guest.console.expect("ready", timeout=300)
        qemu = own.peer.qemu_pid(str(uuid))
        shape = ET.fromstring(own.peer.virsh("dumpxml", str(uuid)))
        info = own.driver.adopt(uuid, name="mine now", metadata={"a": "<b>"})
        assert (info.state, info.name, info.flavor.memory_mib) == (S.RUNNING, "mine now", 192)
        assert [nic.id for nic in info.vifs] == ["52:54:00:0a:0a:01", "52:54:00:0a:0a:02"]
        assert {nic.type for nic in info.vifs} == {"user"}
        assert not info.volumes
        assert own.peer.qemu_pid(str(uuid)) == qemu
        now = ET.fromstring(own.peer.virsh("dumpxml", str(uuid)))
        for each in (shape, now):
            for metadata in each.findall("metadata"):
                each.remove(metadata)
        assert ET.tostring(now).split() == ET.tostring(shape).split()
        assert not is_foreign(other, uuid)
        assert other.get_instance(uuid) == info
        _uses(own, other, uuid)
    finally:
        own.driver.destroy(uuid)
        disk = own.peer.path(own.peer.images) / f"{guest.name}.qcow2"
        gone = not disk.exists()
        for left in own.peer.path(own.peer.images).glob(f"{guest.name}*"):
            left.unlink()
        iso_stayed = iso.exists()
        iso.unlink()
        own.peer.virsh("pool-refresh", "default")
    assert gone, "the disk that it had goes with it"
    assert iso_stayed, "a CD is nobody's own"
    assert guest_image.read_bytes() == before_image


S = InstanceState


def _uses(own: Host, other: ComputeDriver, uuid: UUID) -> None:
    driver = own.driver
    with own.volume() as volume, closing(other.watch()) as stream:
        assert isinstance(stream.next(30), ResyncEvent)
        driver.attach_volume(uuid, VolumeAttachment(volume=volume))
        assert [each.volume_id for each in driver.get_instance(uuid).volumes] == [volume.volume_id]
        driver.detach_volume(uuid, volume.volume_id, timeout=120)
        driver.plug_vif(uuid, UserVif(id="new", address="52:54:00:0a:0a:03"))
        driver.unplug_vif(uuid, "new", timeout=120)
        driver.unplug_vif(uuid, "52:54:00:0a:0a:02", timeout=120)
        driver.unplug_vif(uuid, "52:54:00:0a:0a:02", timeout=120)
        assert [nic.id for nic in other.get_instance(uuid).vifs] == ["52:54:00:0a:0a:01"]
        driver.rename(uuid, "näme <2>")
        driver.set_metadata(uuid, {"k": "v"})
        info = other.get_instance(uuid)
        assert (info.name, dict(info.metadata)) == ("näme <2>", {"k": "v"})
        assert driver.get_console_log(uuid).data == b""  # its log is where others put it
        driver.pause(uuid)
        driver.unpause(uuid)
        driver.suspend(uuid)
        assert not is_foreign(other, uuid)
        driver.resume(uuid)
        driver.reboot(uuid)
        driver.power_off(uuid)
        driver.resize(uuid, Flavor(vcpus=2, memory_mib=256))
        driver.plug_vif(uuid, UserVif(id="cold", address="52:54:00:0a:0a:04"))
        driver.unplug_vif(uuid, "52:54:00:0a:0a:01")
        assert [nic.id for nic in other.get_instance(uuid).vifs] == ["cold"]
        driver.attach_volume(uuid, VolumeAttachment(volume=volume))
        driver.power_on(uuid)
        info = other.get_instance(uuid)
        assert (info.state, info.flavor.vcpus, info.flavor.memory_mib) == (S.RUNNING, 2, 256)
        driver.power_off(uuid)
        driver.detach_volume(uuid, volume.volume_id)
        target = own.peer.root / "copy.qcow2"
        driver.snapshot_to_image(uuid, target, format=ImageFormat.QCOW2)
        assert target.stat().st_size > 1 << 20
        target.unlink()
        driver.power_on(uuid)
        assert {S.PAUSED, S.SUSPENDED, S.STOPPED} <= set(told(stream, uuid, S.RUNNING))


def test_what_it_cannot_is_refused_with_a_reason(own: Host) -> None:
    with theirs(own) as machine:
        own.driver.adopt(machine.uuid)
        before = machine.bare("--inactive"), own.residue()
        calls: dict[str, Callable[[], object]] = {
            "prepare_move": lambda: own.driver.prepare_move(machine.uuid),
        }
        assert calls.keys() == _REASONS.keys()
        for name, call in calls.items():
            with pytest.raises(errors.NotSupported, match="adopted") as caught:
                call()
            assert caught.value.hint, name
        assert (machine.bare("--inactive"), own.residue()) == before
        assert not is_foreign(own.driver, machine.uuid)


def test_each_refusal_is_of_an_operation(own: Host) -> None:
    refused = set()
    with theirs(own, disks=[]) as machine:
        own.driver.adopt(machine.uuid)
        for _ in range(2):
            for name in _REASONS:
                with pytest.raises((errors.NotSupported, errors.InvalidState)) as caught:
                    own.raw.domains.checked(name, machine.uuid, Deadline(10))
                if type(caught.value) is errors.NotSupported:
                    refused.add(name)
            own.driver.power_on(machine.uuid)
    assert refused == _REASONS.keys() < OPERATIONS.keys()


def test_volumes_consoles_and_limits_of_an_older_machine(own: Host) -> None:
    """A machine of type pc, without screen, serial port and agent."""
    system = "<os><type arch='x86_64' machine='pc'>hvm</type></os>"
    with own.volume() as first, own.volume() as second, theirs(own, system=system) as machine:
        machine.start()
        driver, uuid = own.driver, machine.uuid
        driver.adopt(uuid)
        driver.attach_volume(uuid, VolumeAttachment(volume=first))
        driver.set_disk_qos(uuid, first.volume_id, DiskQos(total_iops_sec=100))
        driver.extend_volume(uuid, first.volume_id, 16 << 20)
        driver.attach_volume(uuid, VolumeAttachment(volume=first))
        driver.power_off(uuid)
        driver.detach_volume(uuid, first.volume_id)
        driver.attach_volume(uuid, VolumeAttachment(volume=second))
        driver.power_on(uuid)
        assert [each.volume_id for each in driver.get_instance(uuid).volumes] == [second.volume_id]
        for call in (
            lambda: driver.screenshot(uuid),
            lambda: driver.get_console(uuid, ConsoleKind.VNC),
            lambda: driver.get_console(uuid, ConsoleKind.SERIAL),
        ):
            with pytest.raises(errors.NotSupported):
                call()
        with pytest.raises(errors.GuestAgentUnavailable, match="no channel"):
            driver.guest_exec(uuid, ["true"])
        with pytest.raises(errors.GuestAgentUnavailable, match="no channel"):
            driver.freeze(uuid)
        assert driver.guest_addresses(uuid) == []
        (metrics,) = driver.get_metrics({uuid})
        assert {each.device for each in metrics.disks} >= {"vda"}
        driver.destroy(uuid)
        assert not machine.files[0].exists()


# ---- shapes --------------------------------------------------------------------------------------


def test_uefi_tpm_autostart_several_disks_and_a_pool_source(own: Host) -> None:
    """All of it goes with the machine."""
    with theirs(own, disks=[]) as machine:
        first, second = machine.volume(), machine.volume(format_="raw")
        name = Path(machine.volume()).name
        third = (
            "<disk type='volume' device='disk'><driver name='qemu' type='qcow2'/>"
            f"<source pool='default' volume='{name}'/><target dev='vdc' bus='virtio'/></disk>"
        )
        machine.define(
            disks=[machine.disk(first), machine.disk(second, "vdb", "raw"), third],
            system="<os firmware='efi'><type arch='x86_64' machine='q35'>hvm</type>"
            "<firmware><feature enabled='no' name='secure-boot'/></firmware></os>",
            devices="<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>",
        )
        machine.peer.virsh("autostart", str(machine.uuid))
        machine.start()
        info = own.driver.adopt(machine.uuid, name="uefi")
        assert (info.firmware, info.state) == (Firmware.UEFI, S.RUNNING)
        machine.peer.restart()
        assert not is_foreign(own.driver, machine.uuid)
        own.driver.destroy(machine.uuid)
        assert not any(each.exists() for each in machine.files)


def test_names_that_are_no_labels(own: Host, other: ComputeDriver) -> None:
    odd = 'it\'s a "na&amp;me" $(x) %41 ü.. '
    with theirs(own, name=odd) as machine:
        with own.unchanged(), pytest.raises(errors.InvalidRequest) as caught:
            own.driver.adopt(machine.uuid)
        assert caught.value.hint == "give name="
        assert is_foreign(other, machine.uuid)
        label = "a/b%zz <&>'\" \u202e"
        own.driver.adopt(machine.uuid, name=label, metadata={"x": "\U0001f600"})
        machine.peer.restart()
        assert other.get_instance(machine.uuid).name == label
        own.driver.rename(machine.uuid, "/adopted/1/running/x")
        assert {e.uuid: e.name for e in other.list_instances()}[machine.uuid] == (
            "/adopted/1/running/x"
        )
        assert not is_foreign(other, machine.uuid)


def _transient(machine: Theirs) -> None:
    machine.start()
    machine.peer.virsh("undefine", str(machine.uuid))


def _shareable(machine: Theirs) -> None:
    machine.define(
        disks=[machine.disk(machine.volume(format_="raw"), format_="raw", more="<shareable/>")]
    )


def _outside(machine: Theirs) -> None:
    folder = machine.peer.path(machine.peer.images) / "beside"
    folder.mkdir(exist_ok=True)
    path = folder / f"{machine.uuid}.raw"
    path.write_bytes(bytes(1 << 20))
    machine.files.append(path)
    machine.peer.virsh("pool-refresh", "default")  # which shows the folder
    machine.define(disks=[machine.disk(f"{machine.peer.images}/beside/{path.name}", format_="raw")])


def _block(machine: Theirs) -> None:
    machine.define(
        disks=[
            "<disk type='block' device='disk'><driver name='qemu' type='raw'/>"
            "<source dev='/dev/zero'/><target dev='vda' bus='virtio'/></disk>"
        ]
    )


def _iscsi(machine: Theirs) -> None:
    machine.define(
        disks=[
            "<disk type='network' device='disk'><driver name='qemu' type='raw'/>"
            "<source protocol='iscsi' name='iqn.2026-01.org.x:y/1'><host name='127.0.0.1'/>"
            "</source><target dev='vda' bus='virtio'/></disk>"
        ]
    )


def _our_volume(machine: Theirs) -> None:
    path = machine.peer.path(machine.peer.images) / f"hv-volume-{machine.uuid}.qcow2"
    path.write_bytes(bytes(1 << 20))
    machine.files.append(path)
    machine.peer.virsh("pool-refresh", "default")
    machine.define(disks=[machine.disk(f"{machine.peer.images}/{path.name}")])


def _snapshot(machine: Theirs) -> None:
    machine.peer.virsh("snapshot-create-as", str(machine.uuid), "internal")


def _external_snapshot(machine: Theirs) -> None:
    machine.peer.virsh("snapshot-create-as", str(machine.uuid), "out", "--disk-only")
    top = machine.xml("--inactive").find("devices/disk/source")
    assert top is not None
    machine.files.append(machine.peer.path(top.attrib["file"]))


def _other_disks(machine: Theirs) -> None:
    machine.start()
    machine.peer.virsh(
        "attach-disk", str(machine.uuid), machine.volume(), "vdb", "--live", "--subdriver", "qcow2"
    )


def _base_of_others(machine: Theirs) -> None:
    source = machine.xml("--inactive").find("devices/disk/source")
    assert source is not None
    machine.overlay(source.attrib["file"])


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        (_transient, "no definition"),
        (_shareable, "shared with other"),
        (_outside, "in a storage pool"),
        (_block, "in a storage pool"),
        (_iscsi, "in a storage pool"),
        (_our_volume, "a volume, an image"),
        (_snapshot, "snapshots"),
        (_external_snapshot, "snapshots"),
        (_other_disks, "other disks than its definition"),
        (_base_of_others, "is used by the volume"),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_what_cannot_be_carried_whole_is_refused(
    own: Host, shape: Callable[[Theirs], None], reason: str
) -> None:
    with theirs(own) as machine:
        shape(machine)
        before = machine.xml()
        with (
            own.unchanged(),
            pytest.raises((errors.InvalidRequest, errors.NotSupported), match=reason) as caught,
        ):
            own.driver.adopt(machine.uuid, name="x")
        assert caught.value.hint
        assert ET.tostring(machine.xml()) == ET.tostring(before)
        assert is_foreign(own.driver, machine.uuid)


def test_saved_memory_is_no_state_to_adopt_in(own: Host) -> None:
    with theirs(own) as machine:
        machine.start()
        machine.peer.virsh("managedsave", str(machine.uuid))
        with own.unchanged(), pytest.raises(errors.InvalidState):
            own.driver.adopt(machine.uuid)
        assert is_foreign(own.driver, machine.uuid)


def test_a_disk_or_firmware_variables_of_another_machine(own: Host) -> None:
    with theirs(own) as machine, theirs(own, disks=[]) as second:
        source = machine.xml("--inactive").find("devices/disk/source")
        assert source is not None
        second.define(disks=[machine.disk(source.attrib["file"])])
        for each in (machine, second):
            with own.unchanged(), pytest.raises(errors.InvalidRequest, match="is used by machine"):
                own.driver.adopt(each.uuid)
        system = (
            "<os firmware='efi'><type arch='x86_64' machine='q35'>hvm</type>"
            f"<nvram>{own.peer.images}/{machine.uuid}.vars</nvram></os>"
        )
        machine.define(disks=[], system=system)
        second.define(disks=[], system=system)
        with own.unchanged(), pytest.raises(errors.InvalidRequest, match="firmware variables"):
            own.driver.adopt(machine.uuid)


def test_a_copy_of_an_instance(own: Host, other: ComputeDriver) -> None:
    """It has the original's marks and aliases, and is another machine."""
    with own.made_empty(name="original", metadata={"secret": "of the original"}) as original:
        copy = Theirs(own, disks=[])
        try:
            document = own.peer.virsh("dumpxml", "--inactive", str(original.uuid))
            own.driver.set_metadata(original.uuid, {"set": "later"})
            document = own.peer.virsh("dumpxml", "--inactive", str(original.uuid))
            root = own.raw.pools.disk_path(f"{original.uuid}.root")
            assert root in document
            document = document.replace(root, copy.volume())
            document = document.replace(f"original.{original.uuid}", copy.name)
            document = document.replace(f"<uuid>{original.uuid}", f"<uuid>{copy.uuid}")
            copy.peer_define(document)
            assert is_foreign(other, copy.uuid)
            info = own.driver.adopt(copy.uuid)
            assert (info.name, dict(info.metadata)) == (copy.name, {})
            assert other.get_instance(copy.uuid) == info
            was = other.get_instance(original.uuid)
            assert dict(was.metadata) == {"set": "later"}
            own.driver.destroy(copy.uuid)
            assert not any(each.exists() for each in copy.files)
            assert other.get_instance(original.uuid) == was
            own.driver.power_on(original.uuid)
        finally:
            copy.remove()


def test_destroy_deletes_what_it_had_and_nobody_uses(own: Host) -> None:
    with theirs(own, disks=[]) as machine, closing(Theirs(own, disks=[])) as second:
        mine, lent, taken = (machine.volume() for _ in range(3))
        machine.define(
            disks=[machine.disk(mine), machine.disk(lent, "vdb"), machine.disk(taken, "vdc")]
        )
        own.driver.adopt(machine.uuid)
        second.define(disks=[machine.disk(lent)])
        machine.peer.virsh("detach-disk", str(machine.uuid), "vdc", "--config")
        own.driver.destroy(machine.uuid)
        there = [machine.peer.path(path).exists() for path in (mine, lent, taken)]
        assert there == [False, True, True]


def test_a_machine_that_others_make_anew_is_theirs_but_for_the_mark(own: Host) -> None:
    """virsh undefine leaves the mark. destroy() of the UUID removes it."""
    with theirs(own) as machine:
        own.driver.adopt(machine.uuid)
        machine.peer.virsh("undefine", str(machine.uuid))
        assert machine.uuid not in {each.uuid for each in own.driver.list_instances()}
        own.driver.destroy(machine.uuid)
        machine.define()
        assert is_foreign(own.driver, machine.uuid)


@pytest.mark.parametrize("running", [False, True], ids=["off", "on"])
@pytest.mark.parametrize("shape", ["bare", "same file", "with the record", "snapshot"])
def test_a_machine_remade_under_an_old_mark_keeps_its_disks(
    own: Host, shape: str, running: bool
) -> None:
    """Others undefine it, and define another one with its UUID: destroy() ends that one and removes
    the mark, and deletes nothing that the record does not name for the machine that it was."""
    with theirs(own) as machine:
        driver, uuid, old = own.driver, machine.uuid, machine.files[0]
        driver.adopt(uuid)
        if shape == "snapshot":
            driver.create_snapshot(uuid, "of the old one")
        document = machine.peer.virsh("dumpxml", "--inactive", str(uuid))
        machine.peer.virsh("undefine", str(uuid), "--snapshots-metadata")
        if shape == "same file":
            old.unlink()
            name = old.name
            machine.peer.virsh("pool-refresh", "default")
            machine.peer.virsh("vol-create-as", "default", name, "8M", "--format", "qcow2")
            machine.define(disks=[machine.disk(f"{machine.peer.images}/{name}")])
            kept = [old]
        else:
            new = machine.volume()
            if shape == "with the record":
                mine = f"<source file='{machine.peer.images}/{old.name}'"
                assert mine in document
                machine.peer_define(document.replace(mine, f"<source file='{new}'"))
            else:
                machine.define(disks=[machine.disk(new)])
            kept = [old, machine.files[-1]]
        if running:
            machine.start()
        before = [each.read_bytes() for each in kept]
        driver.destroy(uuid)
        assert [each.read_bytes() for each in kept] == before
        assert not own.raw.identity.marks().get(uuid)
        assert str(uuid) not in machine.peer.virsh("list", "--all", "--uuid")


# ---- by hand, after it ---------------------------------------------------------------------------


def test_a_snapshot_that_others_make_of_it_goes_with_it(own: Host) -> None:
    with theirs(own) as machine:
        base = machine.files[0]
        own.driver.adopt(machine.uuid)
        _external_snapshot(machine)
        own.driver.destroy(machine.uuid)
        assert not base.exists()
        assert not machine.files[1].exists()


def test_a_disk_that_its_pool_has_not_seen(own: Host) -> None:
    with theirs(own, disks=[]) as machine:
        path = machine.peer.path(machine.peer.images) / f"unseen {machine.uuid.hex[:8]}.raw"
        path.write_bytes(bytes(1 << 20))
        machine.files.append(path)
        machine.define(disks=[machine.disk(f"{machine.peer.images}/{path.name}", format_="raw")])
        own.driver.adopt(machine.uuid)
        own.driver.destroy(machine.uuid)
        assert not path.exists()


def test_what_its_disk_stands_on_stays_whatever_is_merged(own: Host) -> None:
    """virsh blockcommit lets the machine run on the base: no file of that name was recorded."""
    with theirs(own, disks=[]) as machine:
        base = machine.volume()
        machine.define(disks=[machine.disk(machine.overlay(base))])
        machine.start()
        own.driver.adopt(machine.uuid)
        machine.peer.virsh("blockcommit", str(machine.uuid), "vda", "--wait", "--pivot")
        own.driver.destroy(machine.uuid)
        assert machine.peer.path(base).exists()


def test_its_disks_are_nobody_elses_volume(own: Host) -> None:
    with theirs(own) as machine, own.made_empty() as second:
        own.driver.adopt(machine.uuid)
        volume = local(f"{machine.peer.images}/{machine.files[0].name}", "stolen", format="qcow2")
        with pytest.raises(errors.HypervisorError) as caught:
            second.attach(volume)
        assert isinstance(caught.value, errors.InvalidRequest | errors.DeviceBusy)
        assert not second.info.volumes


def test_a_copy_of_an_adopted_machine_is_foreign(own: Host) -> None:
    with theirs(own) as machine, closing(Theirs(own, disks=[])) as copy:
        own.driver.adopt(machine.uuid, metadata={"of": "the original"})
        document = own.peer.virsh("dumpxml", "--inactive", str(machine.uuid))
        disk = str(machine.peer.images) + "/" + machine.files[0].name
        document = document.replace(disk, copy.volume())
        document = document.replace(f"<name>{machine.name}", f"<name>{copy.name}")
        copy.peer_define(document.replace(f"<uuid>{machine.uuid}", f"<uuid>{copy.uuid}"))
        assert is_foreign(own.driver, copy.uuid)
        assert dict(own.driver.adopt(copy.uuid).metadata) == {}
        own.driver.destroy(copy.uuid)
        assert not copy.files[0].exists()
        assert machine.files[0].exists()
        assert dict(own.driver.get_instance(machine.uuid).metadata) == {"of": "the original"}


def test_its_marks_are_removed_or_damaged(own: Host) -> None:
    with theirs(own) as machine:
        own.driver.adopt(machine.uuid, name="first")
        mark = own.raw.identity.marks()[machine.uuid]
        machine.peer.virsh("secret-undefine", str(mark.secret))
        assert is_foreign(own.driver, machine.uuid)
        assert own.driver.adopt(machine.uuid, name="second").name == "second"
        machine.define()  # as it was: without metadata, and with another disk
        with pytest.raises(errors.HypervisorFault):
            own.driver.get_instance(machine.uuid)
        own.driver.destroy(machine.uuid)
        assert all(each.exists() for each in machine.files)


def test_others_undefine_it_while_it_runs(own: Host) -> None:
    with theirs(own) as machine:
        machine.start()
        own.driver.adopt(machine.uuid)
        machine.peer.virsh("undefine", str(machine.uuid))
        own.driver.power_off(machine.uuid)
        assert own.driver.get_instance(machine.uuid).state is S.STOPPED
        own.driver.destroy(machine.uuid)
        assert not machine.files[0].exists()


def test_sizes_a_paused_machine_and_devices_of_the_host(own: Host) -> None:
    nic = (
        "<interface type='hostdev' managed='yes'><mac address='52:54:00:0b:0b:01'/><source>"
        "<address type='pci' domain='0' bus='0x7f' slot='0x1f' function='0x6'/></source>"
        "<model type='virtio'/></interface>"
    )
    hostdev = (
        "<hostdev mode='subsystem' type='pci' managed='yes'><source>"
        "<address domain='0' bus='0x7f' slot='0x1f' function='0x7'/></source></hostdev>"
    )
    with theirs(own) as machine:
        machine.start()
        machine.peer.virsh("suspend", str(machine.uuid))
        info = own.driver.adopt(machine.uuid)
        assert (info.state, info.flavor.vcpus, info.flavor.max_vcpus) == (S.PAUSED, 1, 2)
        own.driver.unpause(machine.uuid)
        own.driver.hot_resize_cpu(machine.uuid, 2)
        own.driver.power_off(machine.uuid)
        own.driver.resize(machine.uuid, Flavor(vcpus=1, memory_mib=96, disk_gib=1))
        xml = machine.peer.virsh("vol-info", "--pool", "default", machine.files[0].name)
        assert "1.00 GiB" in xml
        assert own.driver.get_instance(machine.uuid).flavor.disk_gib == 1
    with theirs(own) as machine:
        machine.define(devices=nic + hostdev)
        (shown,) = own.driver.adopt(machine.uuid).vifs
        assert not is_foreign(own.driver, machine.uuid)
        assert (shown.id, shown.address) == ("52:54:00:0b:0b:01", "52:54:00:0b:0b:01")
        assert (shown.type, shown.model) == ("hw_veb", None)  # the model has no effect
        assert str(shown.host_pci_address) == "0000:7f:1f.6"
        own.driver.set_vif_qos(machine.uuid, shown.id, None)
        with pytest.raises(errors.NotSupported):
            own.driver.set_vif_qos(machine.uuid, shown.id, VifQos(outbound=Bandwidth(average=80)))
        own.driver.unplug_vif(machine.uuid, shown.id)
        assert machine.xml("--inactive").findall("devices/interface") == []
        assert len(machine.xml("--inactive").findall("devices/hostdev")) == 1


# ---- clients, faults, calls ----------------------------------------------------------------------


def test_many_clients_adopt_at_once(own: Host, other: ComputeDriver) -> None:
    with theirs(own) as machine:
        found: list[Any] = []

        def adopt(driver: ComputeDriver, number: int) -> None:
            try:
                found.append(
                    driver.adopt(machine.uuid, name=f"n{number}", metadata={"n": str(number)})
                )
            except errors.HypervisorError as error:
                found.append(error)

        threads = [
            threading.Thread(target=adopt, args=((own.driver, other)[number % 2], number))
            for number in range(6)
        ]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        now = other.get_instance(machine.uuid)
        assert found == [now] * 6
        assert now.metadata["n"] == now.name.removeprefix("n")


def test_two_clients_rename_it_at_once(own: Host, other: ComputeDriver) -> None:
    with theirs(own) as machine:
        own.driver.adopt(machine.uuid)
        names = [f"n{number}" for number in range(8)]
        threads = [
            threading.Thread(
                target=(own.driver, other)[number % 2].rename, args=(machine.uuid, name)
            )
            for number, name in enumerate(names)
        ]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert other.get_instance(machine.uuid).name in names
        assert not is_foreign(own.driver, machine.uuid)
        marks = own.raw.identity.marks()
        assert marks[machine.uuid].label == other.get_instance(machine.uuid).name


@pytest.mark.parametrize("running", [False, True], ids=["off", "on"])
def test_killed_at_each_change(own: Host, peer: LibvirtPeer, running: bool) -> None:
    """Another client sees a machine of others or a whole instance, and takes over."""
    number, names = 0, []
    while True:
        with theirs(own) as machine:
            if running:
                machine.start()
            shape = machine.bare("--inactive")
            at = killed_in(
                *(peer.uri, "adopt", (machine.uuid,), number, "after"),
                reads=False,
                keywords={"name": "first", "metadata": {"by": "first"}},
            )
            if at is None:
                assert not is_foreign(own.driver, machine.uuid)
                break
            names.append(at)
            was_ours = not is_foreign(own.driver, machine.uuid)
            info = own.driver.adopt(machine.uuid, name="second", metadata={"by": "second"})
            expected = "first" if was_ours else "second"
            assert (info.name, info.metadata["by"]) == (expected, expected), at
            assert machine.bare("--inactive") == shape
        number += 1
    assert len(names) >= 5, names
    assert "Connect.secretDefineXML" in names


def test_each_call_fails(own: Host, peer: LibvirtPeer) -> None:
    """A connection that breaks, before or after a call: as it was, or a whole instance."""
    with closing(connect(peer)) as raw, closing(guarded(raw)) as driver:
        raw.connection.links.spare = lambda: None  # type: ignore[method-assign]
        with theirs(own) as machine:
            with script(raw) as seam:
                driver.adopt(machine.uuid)
            fewest = len(seam.calls) - 3  # a turn that lasts is counted on, in a call more
        number = 0
        while all(_fails(own, raw, driver, number, after=each) for each in (False, True)):
            number += 1
        assert number > fewest


def _fails(
    own: Host, raw: LibvirtDriver, driver: ComputeDriver, number: int, *, after: bool
) -> bool:
    """Whether adopt() makes a call of this number."""

    def fault(name: str, send: Callable[[], Any]) -> Any:
        if after:
            send()
            raise errors.OutcomeUnknown("the reply is lost")
        raise errors.ConnectionFailed("the connection is lost")

    with theirs(own) as machine:
        before = own.residue()
        shape = machine.bare()
        with script(raw, number, fault) as seam, suppress(errors.HypervisorError):
            driver.adopt(machine.uuid, name="x")
        if not seam.reached:
            assert not is_foreign(own.driver, machine.uuid)
            return False
        if is_foreign(own.driver, machine.uuid):
            own.compare(before)
            assert machine.bare() == shape, seam.calls[number]
            # libvirt leaves an empty <metadata> behind
            assert not machine.xml().findall("metadata/*"), seam.calls[number]
        assert driver.adopt(machine.uuid, name="x").name == "x"
        return True


def test_a_stream_tells_of_it_and_of_what_follows(own: Host, other: ComputeDriver) -> None:
    with theirs(own) as machine, closing(other.watch()) as stream:
        first = stream.next(30)
        assert isinstance(first, ResyncEvent)
        assert machine.uuid not in first.states
        machine.start()
        own.driver.adopt(machine.uuid)
        own.driver.rename(machine.uuid, "later")
        machine.peer.virsh("destroy", str(machine.uuid))
        own.driver.destroy(machine.uuid)
        found = []
        while len(found) < 3:
            event = stream.next(30)
            assert event is not None
            if isinstance(event, LifecycleEvent) and event.uuid == machine.uuid:
                found.append((event.kind, event.state))
        kinds = LifecycleKind
        assert found == [
            (kinds.CREATED, S.RUNNING),
            (kinds.STOPPED, S.STOPPED),
            (kinds.DESTROYED, None),
        ]


def test_the_calls_that_it_takes(own: Host) -> None:
    raw = own.raw

    raw.list_foreign()
    with theirs(own, disks=[]) as machine:
        assert calls(raw, lambda: raw.adopt(machine.uuid)) == 19
        assert calls(raw, lambda: raw.adopt(machine.uuid)) == 6 + 3
        for name, operation, expected in (
            ("list_instances", raw.list_instances, 2 + 1),
            ("list_foreign", raw.list_foreign, 2 + 1),
            ("get_metrics", raw.get_metrics, 2 + 1),
            ("get_instance", lambda: raw.get_instance(machine.uuid), 4 + 1),
            ("rename", lambda: raw.rename(machine.uuid, "x"), 4 + 4),
        ):
            assert calls(raw, operation) == expected, name
            assert {expected, expected - 1, expected - 4} & set(numbers(name)), name
        raw.power_on(machine.uuid)
        assert calls(raw, lambda: raw.get_instance(machine.uuid)) == 3 + 1
        assert calls(raw, lambda: raw.destroy(machine.uuid)) == 5 + 1 + 3 + 2
    with theirs(own, disks=[]) as machine:
        machine.start()
        assert calls(raw, lambda: raw.adopt(machine.uuid)) == 18
        assert {18, 19} <= set(numbers("adopt"))
    with theirs(own) as machine:
        look = look_at_users(raw)
        assert calls(raw, lambda: raw.adopt(machine.uuid)) <= 19 + 2 + look
        assert calls(raw, lambda: raw.destroy(machine.uuid)) <= 14 + 2 + 1 + look


# ---- a raw disk is the guest's, header and all ---------------------------------------------------


def test_a_raw_disk_with_the_header_of_another_format(own: Host, tmp_path: Path) -> None:
    """libvirt's storage calls would take it for qcow2: a copy of it would be of a file of the
    host, and it would grow inside the guest's data."""
    secret = own.peer.folder("etc") / "a secret of the host"
    secret.write_bytes(b"of the host" * 1000)
    try:
        with theirs(own, disks=[]) as machine:
            path = machine.volume(format_="raw")
            with_header(machine.files[0], f"/etc/libvirt/{secret.name}")
            own.peer.virsh("pool-refresh", "default")
            machine.define(disks=[machine.disk(path, format_="raw")])
            before = machine.files[0].read_bytes()
            own.driver.adopt(machine.uuid)
            target = tmp_path / "copy"
            with pytest.raises(errors.InvalidRequest, match="looks like qcow2") as refused:
                own.driver.snapshot_to_image(machine.uuid, target, format=ImageFormat.RAW)
            assert refused.value.hint
            assert not target.exists()
            larger = Flavor(vcpus=1, memory_mib=64, disk_gib=1)
            with pytest.raises(errors.InvalidRequest, match="looks like qcow2"):
                own.driver.resize(machine.uuid, larger)
            assert machine.files[0].read_bytes() == before
            # as the hint says: QEMU knows the format
            own.driver.start_paused(machine.uuid)
            own.driver.snapshot_to_image(machine.uuid, target, format=ImageFormat.RAW)
            assert target.read_bytes() == before
            own.driver.power_off(machine.uuid)
    finally:
        secret.unlink()


def test_a_raw_volume_that_claims_to_stand_on_another(own: Host) -> None:
    """Whoever writes that to his volume keeps nobody from deleting theirs."""
    with own.volume(format="raw") as liar:
        victim = own.driver.create_volume(VolumeSpec(name="victim", size_bytes=8 << 20))
        paths = {
            name: own.raw.pools.disk_path(name)
            for name in own.raw.pools.volumes(own.raw.pools.disks())
        }
        (base,) = (path for name, path in paths.items() if victim.volume_id in name)
        (file,) = (own.peer.path(path) for name, path in paths.items() if liar.volume_id in name)
        with_header(file, base)
        own.driver.delete_volume(victim.volume_id)
        assert not own.peer.path(base).exists()


def test_no_room_for_the_mark_or_the_record(own: Host) -> None:
    """Nothing has changed then: neither who has the machine nor what it is called."""
    with theirs(own) as machine, closing(Theirs(own)) as second:
        own.driver.adopt(second.uuid, name="first")
        before = machine.bare()
        for folder in ("/etc/libvirt/secrets", "/etc/libvirt/qemu"):
            with own.peer.small(folder, 4096):
                own.peer.inside("sh", "-c", f"cat /dev/zero >{folder}/fill", check=False)
                with pytest.raises(errors.InsufficientResources) as refused:
                    own.driver.adopt(machine.uuid)
                assert refused.value.hint
                assert not machine.xml().findall("metadata/*"), ET.tostring(machine.xml())[:900]
                assert machine.bare() == before
                assert is_foreign(own.driver, machine.uuid)
                if folder.endswith("secrets"):
                    with pytest.raises(errors.InsufficientResources):
                        own.driver.rename(second.uuid, "second")
                    assert own.driver.get_instance(second.uuid).name == "first"
                else:  # libvirt shows what it could not write
                    with pytest.raises(errors.OutcomeUnknown, match="space"):
                        own.driver.set_metadata(second.uuid, {"k": "v"})
        own.driver.set_metadata(second.uuid, {"k": "v"})
        own.peer.restart()
        assert dict(own.driver.get_instance(second.uuid).metadata) == {"k": "v"}
        assert own.driver.adopt(machine.uuid).name == machine.name
        own.driver.destroy(second.uuid)
