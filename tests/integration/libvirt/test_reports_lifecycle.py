"""What others have reported of machines over libvirt that are made, stopped, moved and destroyed,
tried with this driver. Each test names the report; the trackers are on github.com."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from hvdrivers.contract import errors
from hvdrivers.contract.power import RebootKind
from hvdrivers.models.instance import CloudInit, Firmware
from hvdrivers.models.migration import Destination
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import TapVif
from hvdrivers.models.volume import VolumeAttachment
from tests.integration.libvirt.faults import script
from tests.integration.libvirt.machines import Host, Machine
from tests.integration.libvirt.test_remote_volumes import iscsi, secrets
from tests.integration.libvirt.theirs import theirs
from tests.peers.fixtures import started
from tests.peers.libvirtd import LibvirtPeer
from tests.peers.tgt import IscsiServer
from tests.peers.waiting import wait_until

S = InstanceState
UEFI = (
    "<os firmware='efi'><type arch='x86_64' machine='q35'>hvm</type>"
    "<firmware><feature enabled='no' name='secure-boot'/></firmware></os>"
)
TPM = "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>"


def root_of(machine: Machine, *, inactive: bool = False) -> str:
    source = machine.xml(inactive=inactive).find("devices/disk/source")
    assert source is not None
    return source.attrib["file"]


# ---- made, and gone ------------------------------------------------------------------------------


def test_a_machine_that_others_have_undefined(host: Host) -> None:
    """vagrant-libvirt/vagrant-libvirt#155, #559 and #561: its disks stayed. It could not be made
    again, as they were there, and not be destroyed, as it was not."""
    spec = host.empty(cloud_init=CloudInit(hostname="again"), start=False)
    with host.unchanged():
        machine = host.made(spec)
        host.peer.virsh("undefine", str(spec.uuid))
        with pytest.raises(errors.DeviceBusy) as refused:
            host.driver.spawn(spec)
        assert "destroy()" in (refused.value.hint or "")
        host.driver.destroy(spec.uuid)
        host.driver.spawn(spec)
        host.driver.power_on(spec.uuid)
        assert machine.state is S.RUNNING
        host.driver.destroy(spec.uuid)


@pytest.mark.parametrize("suspended", [False, True])
def test_firmware_variables_go_with_the_machine(own: Host, suspended: bool) -> None:
    """vagrant-libvirt/vagrant-libvirt#1371 and ansible-collections/community.libvirt#40: "cannot
    undefine domain with nvram", of one's own machine and of one that was made by others."""
    with theirs(own, system=UEFI, devices=TPM) as adopted:
        adopted.start()
        own.driver.adopt(adopted.uuid)
        made = own.made(own.empty(firmware=Firmware.UEFI, vtpm=True))
        for uuid in (adopted.uuid, made.uuid):
            variables = adopted.peer.virsh("dumpxml", "--xpath", "//nvram/text()", str(uuid))
            file = own.peer.path(variables.strip())
            assert file.exists()
            if suspended:
                own.driver.suspend(uuid)
            own.driver.destroy(uuid)
            assert not file.exists()


def test_a_spawn_that_failed_is_repeated(host: Host) -> None:
    """dmacvicar/terraform-provider-libvirt#921: the machine could not start. When that had been
    mended on the host, it could not be made, as it was there already."""
    device = f"hv{uuid4().hex[:10]}"
    nic = TapVif(id="nic", device=device)  # which is to be there
    spec = host.empty(vifs=(nic,))
    with host.unchanged():
        with pytest.raises(errors.NetworkNotFound):
            host.driver.spawn(spec)
        with pytest.raises(errors.InstanceNotFound):
            host.driver.get_instance(spec.uuid)
        mended = spec.model_copy(
            update={"vifs": (nic.model_copy(update={"exists": False}),)},
        )
        host.driver.spawn(mended)
        host.driver.destroy(spec.uuid)


# ---- off -----------------------------------------------------------------------------------------


def test_a_guest_that_ends_as_it_is_forced_to(own: Host) -> None:
    """dmacvicar/terraform-provider-libvirt#1348: "domain is not running". The guest had not heeded
    the power button in time, and went down by itself the moment before it was cut off."""

    def ends(_name: str, send: Any) -> Any:
        os.kill(own.peer.qemu_pid(str(machine.uuid)), signal.SIGTERM)
        wait_until(
            lambda: own.peer.virsh("domstate", str(machine.uuid)).strip() == "shut off",
            timeout=60,
            what="it is off",
        )
        return send()

    with own.unchanged(), own.empty_machine() as machine:
        with script(own.raw, "Domain.destroyFlags", ends) as seam:
            own.driver.power_off(machine.uuid, graceful=1)
        assert seam.reached
        assert machine.state is S.STOPPED
        own.driver.power_on(machine.uuid)


# ---- volumes -------------------------------------------------------------------------------------


def test_a_volume_survives_each_restart(own: Host) -> None:
    """kubevirt/kubevirt#8699 and #13620: a machine with a hot-plugged volume does not start again,
    or starts without it."""
    with own.unchanged(), own.volume() as one, own.volume() as two, own.empty_machine() as machine:
        for each in (one, two):
            machine.attach(each)
        own.driver.reboot(machine.uuid, RebootKind.HARD)
        own.driver.power_off(machine.uuid)
        own.peer.restart()
        own.driver.power_on(machine.uuid)
        own.driver.suspend(machine.uuid)
        own.driver.resume(machine.uuid)
        for each in (one, two):
            assert machine.has(each.volume_id) == (True, True)
        own.driver.power_off(machine.uuid)
        for each in (one, two):
            own.driver.detach_volume(machine.uuid, each.volume_id)


def test_a_volume_that_left_before_the_guest_had_booted(own: Host) -> None:
    """apache/cloudstack#3290: detached from a guest that did not heed it yet, moved, and attached
    again: "target 'vdb' duplicated"."""
    driver = own.driver
    with (
        own.unchanged(),
        own.volume() as volume,
        own.volume() as other,
        own.empty_machine(volumes=(VolumeAttachment(volume=volume),)) as machine,
    ):
        with pytest.raises(errors.DeviceBusy):
            driver.detach_volume(machine.uuid, volume.volume_id, timeout=3)
        machine.attach(other)
        machine.attach(volume)
        assert machine.has(volume.volume_id) == (True, True)
        driver.power_off(machine.uuid)
        driver.detach_volume(machine.uuid, volume.volume_id)
        machine.attach(volume)
        targets = [each.get("dev") for each in machine.xml().iterfind("devices/disk/target")]
        assert len(set(targets)) == len(targets) == 3
        driver.power_on(machine.uuid)
        assert machine.state is S.RUNNING
        driver.power_off(machine.uuid)
        for each in (volume, other):
            driver.detach_volume(machine.uuid, each.volume_id)


# ---- snapshots -----------------------------------------------------------------------------------


def test_a_snapshot_leaves_the_disk_where_it_is(own: Host) -> None:
    """cockpit-project/cockpit-machines#2493: after a snapshot of a running machine its definition
    names another file, and it does not start."""
    with own.unchanged(), own.empty_machine() as machine:
        before = root_of(machine)
        for memory in (False, True):
            own.driver.create_snapshot(machine.uuid, f"memory {memory}", memory=memory)
            assert {root_of(machine), root_of(machine, inactive=True)} == {before}
        own.driver.power_off(machine.uuid)
        own.peer.restart()
        own.driver.power_on(machine.uuid)
        assert machine.state is S.RUNNING


def test_others_put_a_file_over_a_disk_with_snapshots(own: Host) -> None:
    """cockpit-project/cockpit-machines#2642: destroying a machine with external snapshots leaves
    files. virt-manager/virt-manager#811: to go back to an internal one, and to delete the external
    one then, deleted the machine's disk."""
    with own.unchanged(), own.empty_machine() as machine:
        driver, uuid = own.driver, machine.uuid
        root = root_of(machine)
        inside = driver.create_snapshot(uuid, "inside")
        own.peer.virsh("snapshot-create-as", str(uuid), "outside", "--disk-only")
        over = root_of(machine)
        assert over != root
        with suppress(errors.HypervisorError):
            driver.revert_snapshot(uuid, inside.id)
        with suppress(errors.HypervisorError):
            driver.delete_snapshot(uuid, inside.id, children=True)
        assert own.peer.path(root).exists()
        with suppress(errors.InvalidState):
            driver.power_off(uuid)
        driver.power_on(uuid)
        assert machine.state is S.RUNNING


# ---- migration -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[IscsiServer]:
    with started(IscsiServer) as made:
        yield made


@pytest.fixture(scope="module")
def there(guest_image: Path) -> Iterator[Host]:
    with started(LibvirtPeer) as peer, closing(Host(peer, guest_image)) as made:
        yield made


def test_a_migration_that_fails_leaves_nothing_of_a_volume(
    own: Host, there: Host, server: IscsiServer
) -> None:
    """kubevirt/kubevirt#17882: what was made at the destination for a hot-plugged volume stayed
    there after a migration that was given up, and after the machine and the volume had gone."""
    volume = iscsi(server)
    with own.unchanged(), there.unchanged(), own.empty_machine() as machine:
        own.driver.attach_volume(machine.uuid, volume)
        # nobody listens where the other QEMU would be
        lost = Destination(host=there.peer.uri, address="192.0.2.1", volumes=(volume,))
        before = there.residue()
        with pytest.raises(errors.HypervisorError):
            own.driver.live_migrate(machine.uuid, lost, timeout=15)
        assert there.residue() == before
        assert secrets(there) == set()
        assert len(secrets(own)) == 1
        assert machine.has("san-1") == (True, True)
        assert machine.state is S.RUNNING
        own.driver.power_off(machine.uuid)
        own.driver.power_on(machine.uuid)
        own.driver.power_off(machine.uuid)
        own.driver.detach_volume(machine.uuid, "san-1")
        assert secrets(own) == set()
