"""What others have reported of snapshots, migrations, backups, agents, CPUs and imported machines
over libvirt, tried with this driver. Each test names the report; the trackers are on github.com."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from hvdrivers.contract import errors
from hvdrivers.models.guest import AddressSource
from hvdrivers.models.hardware import CpuTopology, Hardware
from hvdrivers.models.instance import CloudInit, Flavor
from hvdrivers.models.migration import BlockerKind, Destination
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import BridgeVif
from hvdrivers.models.volume import VolumeAttachment
from tests.integration.libvirt.agents import END_AGENT, MAC, answers
from tests.integration.libvirt.machines import BOOT, Host, Machine
from tests.integration.libvirt.test_remote_volumes import luks, make_luks
from tests.integration.libvirt.theirs import Theirs, theirs
from tests.peers.bridge import LinuxBridge
from tests.peers.fixtures import started
from tests.peers.libvirtd import LibvirtPeer
from tests.peers.waiting import wait_until

S = InstanceState


# ---- imported machines ---------------------------------------------------------------------------


def _internal(machine: Theirs) -> None:
    machine.peer.virsh("snapshot-create-as", str(machine.uuid), "before an update")


def _checkpoint(machine: Theirs) -> None:
    machine.start()
    machine.peer.virsh("checkpoint-create-as", str(machine.uuid), "point")
    machine.peer.virsh("destroy", str(machine.uuid))


@pytest.mark.parametrize("make", [_internal, _checkpoint])
def test_a_machine_with_snapshots_is_destroyed(own: Host, make: Callable[[Theirs], None]) -> None:
    """vagrant-libvirt/vagrant-libvirt#78 and #936: "cannot delete inactive domain with 1
    snapshots", of a machine that has got one by virt-manager."""
    with theirs(own, disks=[]) as machine:
        path = own.peer.path(own.peer.images) / f"v3 {machine.uuid.hex[:8]}"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "8M"], check=True)
        machine.files.append(path)
        machine.define(disks=[machine.disk(f"{own.peer.images}/{path.name}")])
        own.driver.adopt(machine.uuid)
        make(machine)
        own.driver.destroy(machine.uuid)
        assert not path.exists()
        assert str(machine.uuid) not in own.peer.virsh("list", "--all", "--uuid")


@pytest.mark.parametrize("spelled", ["//{}", "../images/{}", "a link to it"])
def test_a_clone_on_the_originals_disk(own: Host, spelled: str) -> None:
    """kimchi-project/kimchi#1276: deleting a clone deleted the disk of the machine that it was
    cloned from, which ran on until the next start."""
    with theirs(own) as original, closing(Theirs(own, disks=[])) as clone:
        file = original.files[0]
        name = spelled.format(file.name)
        if "{}" not in spelled:
            link = own.peer.path(own.peer.images) / name
            link.symlink_to(file.name)
            clone.files.append(link)
            own.peer.virsh("pool-refresh", "default")
        clone.define(disks=[clone.disk(f"{own.peer.images}/{name}")])
        original.start()
        for each in (clone, original):
            with pytest.raises(errors.InvalidRequest, match="is used by machine"):
                own.driver.adopt(each.uuid)
        assert file.exists()


# ---- snapshots, and the guest's agent ------------------------------------------------------------

SILENT = rf"""#!/bin/sh
# an agent that answers all but the request to freeze, which it takes and never ends
{END_AGENT}
port=/dev/virtio-ports/org.qemu.guest_agent.0
again() {{ exec 4>&-; sleep 1; exec 4<>$port; sleep 1; }}
exec 4<>$port
sleep 1
while :; do
  read -t 10 -r line <&4 || {{ again; continue; }}
  case $line in
    *guest-sync*) id=${{line##*:}}; echo "{{\"return\": ${{id%%\}}*}}}}" >&4 ;;
    *guest-ping*) echo '{{"return": {{}}}}' >&4 ;;
    *fsfreeze-status*) echo '{{"return": "thawed"}}' >&4 ;;
    *guest-network*)
      mac='"hardware-address":"{MAC}"'
      first='"ip-addresses":[{{"ip-address":"10.9.8.7","ip-address-type":"ipv4","prefix":24}}]'
      second='"ip-addresses":[{{"ip-address":"10.9.8.8","ip-address-type":"ipv4","prefix":24}}]'
      bridge='{{"name":"br0",'$mac'}}'
      eth='{{"name":"eth0",'$mac','$first'}}'
      alias='{{"name":"eth0:1",'$mac','$second'}}'
      echo '{{"return":['"$bridge,$eth,$alias"']}}' >&4
      ;;
    *) : ;;
  esac
done
"""


def test_a_snapshot_of_a_paused_machine_with_an_agent(agent_machine: Machine) -> None:
    """kubevirt/kubevirt#10759: a snapshot of a paused machine fails as the agent, which cannot
    answer, is to freeze the file systems."""
    driver, uuid = agent_machine.host.driver, agent_machine.uuid
    driver.pause(uuid)
    with pytest.raises((errors.InvalidState, errors.GuestAgentUnavailable)):
        driver.freeze(uuid)
    snapshot = driver.create_snapshot(uuid, "while it was paused")
    assert agent_machine.state is S.PAUSED
    driver.delete_snapshot(uuid, snapshot.id)
    driver.unpause(uuid)
    wait_until(lambda: answers(agent_machine), timeout=BOOT, what="the agent answers again")


def test_an_agent_that_never_ends_to_freeze(agent_machine: Machine) -> None:
    """oVirt/vdsm#160: a snapshot waited eight hours for the agent to freeze the guest, past its
    timeout, and only the end of the machine ended it. And kubevirt/kubevirt#9600 and #18807: of
    several interfaces of the guest with one MAC address the last one, or one without addresses,
    took the place of the others. Runs last of those on this guest."""
    driver, uuid = agent_machine.host.driver, agent_machine.uuid
    begin = "cat >/bin/silent; chmod 755 /bin/silent; (sleep 1; setsid silent) >/dev/null 2>&1 &"
    driver.guest_exec(uuid, ["/bin/sh", "-c", begin], stdin=SILENT.encode())

    def told() -> list[str]:
        with suppress(errors.OperationTimeout):
            found = driver.guest_addresses(uuid, timeout=10)
            return [str(each.address) for each in found if each.source is AddressSource.AGENT]
        return []

    wait_until(lambda: "10.9.8.7" in told(), timeout=120, what="the silent one answers")
    assert told() == ["10.9.8.7", "10.9.8.8"]
    began = time.monotonic()
    with pytest.raises(errors.OutcomeUnknown):
        driver.freeze(uuid, timeout=5)
    assert time.monotonic() - began < 120  # it took eight hours
    # the machine is the orchestrator's all the same
    assert agent_machine.state is S.RUNNING
    snapshot = driver.create_snapshot(uuid, "all the same", timeout=60)
    driver.delete_snapshot(uuid, snapshot.id, timeout=60)
    driver.power_off(uuid, timeout=60)
    driver.power_on(uuid)
    assert agent_machine.state is S.RUNNING


def test_addresses_without_an_agent(host: Host, linux_bridge: LinuxBridge) -> None:
    """dmacvicar/terraform-provider-libvirt#1091: "QEMU guest agent is not connected" in place of
    what the host's own tables have; #1047: a NIC without an address yet is an empty list, and no
    wait for one."""
    nic = BridgeVif(id="nic-silent", bridge=linux_bridge.name)
    with host.empty_machine(vifs=(nic,)) as machine:
        began = time.monotonic()
        assert host.driver.guest_addresses(machine.uuid) == []
        assert time.monotonic() - began < 120
        with pytest.raises(errors.GuestAgentUnavailable):
            host.driver.thaw(machine.uuid)


# ---- CPUs ----------------------------------------------------------------------------------------


def test_cpus_are_plugged_into_a_topology(host: Host) -> None:
    """OpenNebula/one#5293: "CPU topology doesn't match maximum vcpu count" of a machine with a
    topology for the CPUs that it has and room for more; and #5297: after a restart it had other
    limits than before."""
    flavor = Flavor(vcpus=2, memory_mib=64, max_vcpus=6)
    with pytest.raises(ValueError, match="6"):
        host.empty(
            flavor=flavor,
            hardware=Hardware(cpu_topology=CpuTopology(sockets=1, cores=1, threads=2)),
        )
    whole = Hardware(cpu_topology=CpuTopology(sockets=3, cores=1, threads=2))
    with host.unchanged(), host.empty_machine(flavor=flavor, hardware=whole) as machine:
        driver, uuid = host.driver, machine.uuid
        driver.hot_resize_cpu(uuid, 4)
        driver.power_off(uuid)
        driver.power_on(uuid)
        assert (machine.info.flavor.vcpus, machine.info.flavor.max_vcpus) == (4, 6)
        driver.hot_resize_cpu(uuid, 6)
        for unfit in (5, 7):
            with pytest.raises(errors.InvalidRequest):
                driver.hot_resize_cpu(uuid, unfit)
        assert machine.info.flavor.vcpus == 6


@pytest.mark.parametrize("memory", [False, True])
def test_a_snapshot_from_before_a_cpu_was_plugged(own: Host, memory: bool) -> None:
    """kubevirt/kubevirt#10481: the snapshot of a running machine with room for more CPUs could not
    be restored, and the machine not be started any more."""
    flavor = Flavor(vcpus=1, memory_mib=64, max_vcpus=4)
    with own.unchanged(), own.empty_machine(flavor=flavor) as machine:
        driver, uuid = own.driver, machine.uuid
        driver.hot_resize_cpu(uuid, 2)
        snapshot = driver.create_snapshot(uuid, "of two", memory=memory)
        driver.hot_resize_cpu(uuid, 3)
        if memory:  # it holds the state of two CPUs
            with pytest.raises(errors.InvalidRequest, match="flavor"):
                driver.revert_snapshot(uuid, snapshot.id)
            assert (machine.state, machine.info.flavor.vcpus) == (S.RUNNING, 3)
        else:
            driver.power_off(uuid)
            driver.revert_snapshot(uuid, snapshot.id)
            driver.power_on(uuid)
        assert machine.info.flavor.max_vcpus == 4
        driver.hot_resize_cpu(uuid, 4)
        driver.power_off(uuid)
        driver.power_on(uuid)
        assert (machine.info.flavor.vcpus, machine.info.flavor.max_vcpus) == (4, 4)


# ---- backups -------------------------------------------------------------------------------------


def test_a_machine_that_goes_off_in_a_backup(libvirt_peer: LibvirtPeer, guest_image: Path) -> None:
    """abbbi/virtnbdbackup#145: a guest that goes down while a backup is read leaves a chain to
    which no further increment can be made."""
    with (
        closing(Host(libvirt_peer, guest_image, host_root=libvirt_peer.host_root)) as host,
        host.unchanged(),
        host.empty_machine() as machine,
    ):
        driver, uuid = host.driver, machine.uuid
        first = driver.begin_backup(uuid)
        driver.end_backup(uuid, first.id)
        second = driver.begin_backup(uuid, since=first.id)
        # as a guest's own power-off ends QEMU
        os.kill(host.peer.qemu_pid(str(uuid)), signal.SIGTERM)
        wait_until(lambda: machine.info.state is S.STOPPED, timeout=60, what="it is off")
        driver.end_backup(uuid, second.id)
        driver.power_on(uuid)
        third = driver.begin_backup(uuid, since=first.id)
        assert third.since == first.id
        driver.end_backup(uuid, third.id)


# ---- migration -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other_peer() -> Iterator[LibvirtPeer]:
    with started(LibvirtPeer) as peer:
        yield peer


def test_an_encrypted_volume_does_not_move_without_its_key(
    host: Host, other_peer: LibvirtPeer, tmp_path: Path
) -> None:
    """apache/cloudstack#8255: "no secret with matching uuid" in the middle of a migration."""
    made, secret = tmp_path / "luks", tmp_path / "secret"
    secret.write_bytes(b"a passphrase")
    make_luks(made, secret)
    destination = Destination(host=other_peer.uri, address="127.0.0.1")
    with host.unchanged(), host.file(made.read_bytes()) as path, host.made_empty() as machine:
        host.driver.attach_volume(machine.uuid, luks(path, b"a passphrase"))
        host.driver.power_on(machine.uuid)
        plan = host.driver.check_live_migration(machine.uuid, destination)
        assert [each.kind for each in plan.blockers] == [BlockerKind.STORAGE]
        assert plan.blockers[0].hint
        with pytest.raises(errors.InvalidRequest, match="password"):
            host.driver.live_migrate(machine.uuid, destination)
        assert machine.state is S.RUNNING
        host.driver.power_off(machine.uuid)
        host.driver.detach_volume(machine.uuid, "locked")


def test_a_migration_that_fails_keeps_a_shared_disk(
    host: Host, other_peer: LibvirtPeer, guest_image: Path, tmp_path: Path
) -> None:
    """OpenNebula/one#5531: a migration over a shared file system failed, and the disks were deleted
    with what it had made at the destination."""
    options = {"pool": "both", "console_pool": "logs", "pool_path": tmp_path}
    here = Host(host.peer, guest_image, **options)
    there = Host(other_peer, guest_image, **options)
    machine = here.made(here.empty(cloud_init=CloudInit(hostname="stays")))
    try:
        files = {each.name: each.stat().st_ino for each in tmp_path.rglob(f"{machine.uuid}*")}
        # nobody listens where the other QEMU would be
        destination = Destination(host=other_peer.uri, address="192.0.2.1")
        with pytest.raises(errors.HypervisorError):
            here.driver.live_migrate(machine.uuid, destination, timeout=15)
        left = {each.name: each.stat().st_ino for each in tmp_path.rglob(f"{machine.uuid}*")}
        assert left == files
        assert machine.state is S.RUNNING
        with pytest.raises(errors.InstanceNotFound):
            there.driver.get_instance(machine.uuid)
        here.driver.reboot(machine.uuid)
        here.driver.power_off(machine.uuid)
        here.driver.power_on(machine.uuid)
        assert machine.state is S.RUNNING
    finally:
        here.driver.destroy(machine.uuid)
        for each in (here, there):
            each.close()
            for pool in ("both", "logs"):
                each.peer.virsh("pool-destroy", pool)
                each.peer.virsh("pool-undefine", pool)


# ---- block copies --------------------------------------------------------------------------------


def test_another_volume_under_a_guest_that_writes(host: Host) -> None:
    """twilligon/backup-vm#23: "block copy still active: disk not ready for pivot yet", of a guest
    that writes all the time."""
    with (
        host.unchanged(),
        host.volume(size_bytes=64 << 20) as old,
        host.volume(size_bytes=64 << 20) as new,
        host.machine() as machine,
    ):
        machine.booted()
        machine.attach(old)
        disk = machine.sees(old.volume_id)
        writes = f"touch /run/go; (while [ -e /run/go ]; do dd if=/dev/urandom of=/dev/{disk}"
        machine.type(f"{writes} bs=64k count=64 conv=fsync; done) >/dev/null 2>&1 &")
        host.driver.swap_volume(
            machine.uuid, old.volume_id, VolumeAttachment(volume=new), timeout=120
        )
        assert machine.has(new.volume_id) == (True, True)
        machine.type("rm /run/go")
        host.driver.power_off(machine.uuid)
        host.driver.detach_volume(machine.uuid, new.volume_id)
