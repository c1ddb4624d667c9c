"""Two clients where the running machine got what its definition could not: one takes it back, or
has tried to, while the other one attaches the same, and its call finds room."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import libvirt
import pytest

from hvdrivers.contract import errors
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.guard import guarded
from hvdrivers.libvirt.sizes import plugged_memory
from hvdrivers.libvirt.xml import attribute, text
from hvdrivers.models.instance import Flavor
from hvdrivers.models.vif import Bandwidth, BridgeVif, OvsVif, VifQos
from hvdrivers.models.volume import DiskQos, VolumeAttachment
from tests.integration.libvirt.conftest import connect
from tests.integration.libvirt.faults import script
from tests.integration.libvirt.machines import Host, Machine
from tests.integration.libvirt.test_half_written import (
    FOLDER,
    fill,
    full,
    has_nic,
    room_afterwards,
    with_little_room,
)
from tests.peers.bridge import LinuxBridge
from tests.peers.openvswitch import OvsBridge
from tests.peers.waiting import wait_until


@pytest.fixture(scope="module")
def host(guest_image: Path) -> Iterator[Host]:
    with with_little_room(guest_image) as made:
        yield made


@pytest.fixture(scope="module")
def other(host: Host) -> Iterator[ComputeDriver]:
    """Another client."""
    made = guarded(connect(host.peer, host_root=host.peer.host_root))
    yield made
    made.close()


def meanwhile(host: Host, at: str, first: Callable[[], object], call: Callable[[], object]) -> None:
    """A call finds no room; before it takes back what it did, there is, and the other client is
    faster."""

    def fault(_name: str, send: Callable[[], Any]) -> Any:
        host.peer.inside("rm", "-f", f"{FOLDER}/fill")
        first()
        return send()

    with room_afterwards(host), script(host.raw, at, fault) as seam:
        fill(host)
        call()
    assert seam.reached


def let_go(host: Host, machine: Machine, gone: Callable[[], bool]) -> None:
    """The guest heeds what it has been asked before."""
    host.peer.virsh("reset", str(machine.uuid))
    wait_until(gone, timeout=60, what="the guest has let go")


@pytest.fixture(scope="module")
def booted(host: Host) -> Iterator[Machine]:
    """A guest that lets go of what it is asked for."""
    with host.machine() as made:
        yield made.booted()


def test_a_volume_that_the_other_client_attaches_while_it_is_taken_back(
    host: Host, other: ComputeDriver, booted: Machine
) -> None:
    """The other client has been told that it is attached: it is, by both."""
    with host.volume() as volume:
        attachment = VolumeAttachment(volume=volume)
        meanwhile(
            host,
            "Domain.detachDeviceAlias",
            lambda: other.attach_volume(booted.uuid, attachment),
            lambda: host.driver.attach_volume(booted.uuid, attachment),
        )
        assert booted.has(volume.volume_id) == (True, True)
        host.driver.detach_volume(booted.uuid, volume.volume_id)


def test_a_nic_that_the_other_client_plugs_while_it_is_taken_back(
    host: Host, other: ComputeDriver, booted: Machine, linux_bridge: LinuxBridge
) -> None:
    vif = BridgeVif(id=str(uuid4()), address="52:54:00:00:05:11", bridge=linux_bridge.name)
    meanwhile(
        host,
        "Domain.detachDeviceAlias",
        lambda: other.plug_vif(booted.uuid, vif),
        lambda: host.driver.plug_vif(booted.uuid, vif),
    )
    assert has_nic(booted) == (True, True)
    host.driver.unplug_vif(booted.uuid, vif.id)


def test_what_the_other_client_has_attached_stays_when_the_guest_lets_go_late(
    host: Host, other: ComputeDriver, linux_bridge: LinuxBridge
) -> None:
    """The client that could not take it back expects nothing more: the definition had it not."""
    driver = host.driver
    vif = BridgeVif(id=str(uuid4()), address="52:54:00:00:05:12", bridge=linux_bridge.name)
    flavor = Flavor(vcpus=1, memory_mib=64, max_memory_mib=512)
    with host.volume() as volume, host.empty_machine(flavor=flavor) as machine:
        attachment, volume_id = VolumeAttachment(volume=volume), volume.volume_id
        with full(host):
            for call in (
                lambda: driver.attach_volume(machine.uuid, attachment, timeout=5),
                lambda: driver.plug_vif(machine.uuid, vif, timeout=5),
            ):
                with pytest.raises(errors.OutcomeUnknown):
                    call()
        other.attach_volume(machine.uuid, attachment)
        other.plug_vif(machine.uuid, vif)
        let_go(host, machine, lambda: not machine.has(volume_id)[0] and not has_nic(machine)[0])
        assert not host.raw.plugging.late.of(machine.uuid)
        assert (machine.has(volume_id), has_nic(machine)) == ((False, True), (False, True))
        driver.power_off(machine.uuid)
        driver.power_on(machine.uuid)
        assert (machine.has(volume_id), has_nic(machine)) == ((True, True), (True, True))
        driver.power_off(machine.uuid)
        driver.detach_volume(machine.uuid, volume_id)


@pytest.mark.parametrize("what", ["volume", "nic"])
def test_what_is_taken_back_while_the_other_client_writes_it(
    host: Host, booted: Machine, linux_bridge: LinuxBridge, what: str
) -> None:
    """The guest lets go of it after this client has seen it there: it gets it again."""
    driver, uuid = host.driver, booted.uuid
    vif = BridgeVif(id=str(uuid4()), address="52:54:00:00:05:14", bridge=linux_bridge.name)
    with host.volume() as volume:

        def plug() -> None:
            if what == "nic":
                driver.plug_vif(uuid, vif)
            else:
                driver.attach_volume(uuid, VolumeAttachment(volume=volume))

        def there() -> tuple[bool, bool]:
            return has_nic(booted) if what == "nic" else booted.has(volume.volume_id)

        driver.pause(uuid)  # so that it is not taken back
        with full(host), pytest.raises(errors.OutcomeUnknown):
            plug()
        driver.unpause(uuid)
        assert there() == (True, False)
        (name,) = (
            name
            for each in booted.xml().iterfind("devices/*/alias")
            if (name := each.get("name", "")).startswith(("ua-vif-", "ua-volume-"))
        )

        def taken_back(_name: str, send: Callable[[], Any]) -> Any:
            host.peer.virsh("detach-device-alias", str(uuid), name, "--live")
            wait_until(lambda: there() == (False, False), timeout=60, what="it is taken back")
            return send()

        with script(host.raw, "Domain.attachDeviceFlags", taken_back) as seam:
            plug()
        assert seam.reached
        assert there() == (True, True)
        if what == "nic":
            driver.unplug_vif(uuid, vif.id)
        else:
            driver.detach_volume(uuid, volume.volume_id)


@pytest.mark.parametrize("what", ["disk", "nic", "cpus"])
def test_sizes_that_the_other_client_sets_before_the_old_ones_are_put_back(
    host: Host, other: ComputeDriver, ovs_bridge: OvsBridge, what: str
) -> None:
    """They stay."""
    nic = OvsVif(id=str(uuid4()), address="52:54:00:00:05:13", bridge=ovs_bridge.name)
    flavor = Flavor(vcpus=1, memory_mib=64, max_vcpus=4)
    with host.volume() as volume, host.empty_machine(flavor=flavor, vifs=(nic,)) as machine:
        uuid, volume_id = machine.uuid, volume.volume_id
        machine.attach(volume, qos=DiskQos(total_iops_sec=100))

        def set_to(client: ComputeDriver, number: int) -> None:
            if what == "disk":
                client.set_disk_qos(uuid, volume_id, DiskQos(total_iops_sec=100 * number))
            elif what == "nic":
                limits = VifQos(inbound=Bandwidth(average=1000 * number))
                client.set_vif_qos(uuid, nic.id, limits)
            else:
                client.hot_resize_cpu(uuid, number)

        def after_failure(name: str, send: Callable[[], Any]) -> Any:
            try:
                return send()
            except libvirt.libvirtError:
                if not faults:
                    faults.append(name)
                    host.peer.inside("rm", "-f", f"{FOLDER}/fill")
                    set_to(other, 3)
                raise

        faults: list[str] = []
        host.raw.connection.seam = after_failure
        try:
            with room_afterwards(host):
                fill(host)
                with pytest.raises((errors.InsufficientResources, errors.OutcomeUnknown)):
                    set_to(host.driver, 2)
        finally:
            host.raw.connection.seam = None
        assert faults
        host.peer.restart()
        for inactive in (False, True):
            xml = machine.xml(inactive=inactive)
            found = {
                "disk": xml.findtext(".//iotune/total_iops_sec"),
                "nic": attribute(xml, ".//inbound", "average"),
                "cpus": attribute(xml, "vcpu", "current"),
            }
            assert found[what] == {"disk": "300", "nic": "375", "cpus": "3"}[what]
        host.driver.power_off(uuid)
        host.driver.detach_volume(uuid, volume_id)


def test_memory_that_the_definition_alone_has(host: Host) -> None:
    """The guest has let go of it, and another client has written it: the machine gets it again."""
    flavor = Flavor(vcpus=1, memory_mib=64, max_memory_mib=512)
    with host.empty_machine(flavor=flavor) as machine:
        piece = host.peer.root / "piece.xml"
        piece.write_text(text(plugged_memory(128, after=64)))
        host.peer.virsh("attach-device", str(machine.uuid), str(piece), "--config")
        host.driver.hot_resize_memory(machine.uuid, 64 + 128)
        for inactive in (False, True):
            assert machine.xml(inactive=inactive).findtext("memory") == str((64 + 128) << 10)
