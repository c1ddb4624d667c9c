"""Rescue: what stays as it was, what two clients make of it, and what an end by itself leaves."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from xml.etree import ElementTree as ET

import libvirt
import pytest
from pydantic import SecretBytes

from hvdrivers.contract import errors
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.libvirt.devices import source_of
from hvdrivers.libvirt.domain import own_disk
from hvdrivers.libvirt.metadata import STATE_NAMESPACE, keep, to_run_text
from hvdrivers.libvirt.naming import ROOT
from hvdrivers.libvirt.start import note_disk
from hvdrivers.models.cloudinit import CloudInit
from hvdrivers.models.image import FileImage, ImageFormat
from hvdrivers.models.instance import Flavor
from hvdrivers.models.seed import SeedDisc
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import UserVif
from hvdrivers.models.volume import DeviceType, DiskBus, VolumeAttachment
from tests.integration.libvirt.faults import after, script
from tests.integration.libvirt.machines import Host, Machine
from tests.integration.libvirt.test_relocation import alone
from tests.peers.waiting import wait_until

S = InstanceState
FLAVOR = Flavor(vcpus=1, memory_mib=64, ephemeral_gib=1)


@pytest.fixture(scope="module")
def repair(own: Host) -> FileImage:
    """A rescue image."""
    path = own.peer.root / "repair.raw"
    path.write_bytes(b"r" * (1 << 20))
    return FileImage(path=path, format=ImageFormat.RAW)


def left(machine: Machine) -> list[str]:
    """What a rescue has on the host."""
    listed = machine.host.peer.virsh("vol-list", "hvdrivers").split()
    return sorted({each for each in listed if each.startswith(f"{machine.uuid}.rescue")})


def places(machine: Machine) -> dict[str, tuple[str, ...]]:
    """Where each disk and NIC of the running machine is, by its alias; without the rescue disk."""
    found = {}
    for device in machine.xml().iterfind("devices/*"):
        alias, address = device.find("alias"), device.find("address")
        if device.tag in {"disk", "interface"} and alias is not None and address is not None:
            target = device.find("target")
            name = target.get("dev", "") if target is not None and device.tag == "disk" else ""
            found[alias.attrib["name"]] = (name, *map(str, sorted(address.attrib.items())))
    return {alias: place for alias, place in found.items() if "rescue" not in alias}


def stored(machine: Machine) -> str:
    """The definition, without its name and the time that a CD was changed."""
    xml = machine.xml(inactive=True)
    name = xml.find("name")
    assert name is not None
    name.text = ""
    return ET.tostring(xml, encoding="unicode")


@pytest.mark.parametrize("bus", [DiskBus.VIRTIO, DiskBus.SCSI, DiskBus.SATA])
def test_all_that_is_the_instances_keeps_its_place(
    own: Host, other: ComputeDriver, repair: FileImage, bus: DiskBus
) -> None:
    driver = own.driver
    spec = own.empty(
        flavor=FLAVOR,
        cloud_init=CloudInit(hostname="h"),
        vifs=(UserVif(id="u", address="52:54:00:00:07:01"),),
        hardware={"disk_bus": bus},
    )
    with own.volume() as volume:
        machine = own.made(spec.model_copy(update={"volumes": (VolumeAttachment(volume=volume),)}))
        uuid = machine.uuid
        info, before, definition = machine.info, places(machine), stored(machine)
        assert len(before) >= 5
        given = SeedDisc(content=SecretBytes(bytes(1024)))
        for seed in (None, given, given.model_copy(update={"device_type": DeviceType.DISK})):
            if seed is not None and bus is DiskBus.SATA and seed.device_type is DeviceType.DISK:
                with pytest.raises(errors.NotSupported):
                    driver.rescue(uuid, repair, seed=seed)
                continue
            driver.rescue(uuid, repair, seed=seed)
            assert machine.state is S.RESCUED
            for client in (driver, other):
                assert client.get_instance(uuid) == info.model_copy(update={"state": S.RESCUED})
            boots = [each.get("order") for each in machine.xml().iterfind("devices/disk/boot")]
            assert boots == ["1"]
            now = places(machine)
            kept = {each for each in before if seed is None or "seed" not in each}
            assert {each: now[each] for each in kept} == {each: before[each] for each in kept}
            assert len(left(machine)) == (1 if seed is None else 2)
            assert stored(machine) == definition
            with pytest.raises(errors.InvalidState):
                driver.rescue(uuid, repair)
            with pytest.raises(errors.NotSupported):
                driver.rename(uuid, "other")
            driver.reboot(uuid)
            assert machine.state is S.RESCUED
            driver.unrescue(uuid)
            assert (machine.info, places(machine), left(machine)) == (info, before, [])
            assert stored(machine) == definition
        # what is written while it is rescued, or off after that, stays
        driver.rescue(uuid)
        driver.set_metadata(uuid, {"while": "rescued"})
        driver.power_off(uuid)
        driver.rename(uuid, "renamed%rescued")
        assert len(left(machine)) == 1
        with pytest.raises(errors.InvalidRequest):
            driver.rescue(uuid, repair.model_copy(update={"path": repair.path / "absent"}))
        driver.power_on(uuid)
        assert (machine.state, left(machine)) == (S.RUNNING, [])
        assert machine.info.metadata == {"while": "rescued"}
        assert machine.info.name == "renamed%rescued"
        driver.rescue(uuid, repair)
        driver.destroy(uuid)
        assert left(machine) == []


@pytest.mark.parametrize("how", ["rebuild", "unrescue"])
def test_what_was_cut_after_its_start_is_over_with_power_off(
    own: Host, repair: FileImage, how: str
) -> None:
    """Its note says that the machine is to run. Nobody who switches it off later wants that."""
    driver = own.driver
    with own.unchanged(), own.empty_machine(start=True) as machine:
        if how == "unrescue":
            driver.rescue(machine.uuid, repair)
        arguments = (repair,) if how == "rebuild" else ()
        with (
            script(own.raw, "Domain.createWithFlags", after(own.raw, own.peer)),
            suppress(errors.HypervisorError),
        ):
            getattr(driver, how)(machine.uuid, *arguments)
        assert machine.state is S.RUNNING
        driver.power_off(machine.uuid)
        driver.unrescue(machine.uuid)
        assert machine.state is S.STOPPED
        driver.rebuild(machine.uuid, repair)
        assert machine.state is S.STOPPED


@pytest.mark.parametrize("again", ["rebuild", "unrescue"])
def test_a_guest_that_goes_down_after_what_was_cut_stays_off(
    own: Host, repair: FileImage, again: str
) -> None:
    """A client has died after the start, so its note is there still. The guest's own end is newer;
    the end that a client has made, and died, is not."""
    driver = own.driver
    with own.unchanged(), own.empty_machine(start=True) as machine:
        uuid, arguments = machine.uuid, (repair,) if again == "rebuild" else ()

        def note() -> None:
            flags = libvirt.VIR_DOMAIN_AFFECT_CONFIG
            keep(own.raw.domains.find(uuid), STATE_NAMESPACE, to_run_text(), flags)

        def is_off() -> bool:
            return driver.get_instance(uuid).state is S.STOPPED

        note()
        os.kill(own.peer.qemu_pid(str(uuid)), signal.SIGTERM)  # as at a guest's own end
        wait_until(is_off, timeout=60, what="it is off")
        getattr(driver, again)(uuid, *arguments)
        assert machine.state is S.STOPPED
        own.peer.virsh("start", str(uuid))
        own.peer.virsh("destroy", str(uuid))
        getattr(driver, again)(uuid, *arguments)
        assert machine.state is S.STOPPED, "the note has gone"
        note()
        getattr(driver, again)(uuid, *arguments)
        assert machine.state is S.RUNNING


@pytest.mark.parametrize("ran", [True, False], ids=["has run", "has not"])
@pytest.mark.parametrize("again", ["rebuild", "unrescue"])
def test_a_machine_that_others_cut_after_it_ran_stays_off(
    own: Host, repair: FileImage, again: str, ran: bool
) -> None:
    """A client has died after the start, or before it. libvirt does not tell one cut from another,
    nor any after its daemon has started anew; the time at which the disk was written to does."""
    driver = own.driver
    with own.unchanged(), own.empty_machine(start=True) as machine:
        uuid, arguments = machine.uuid, (repair,) if again == "rebuild" else ()
        domain = own.raw.domains.find(uuid)
        keep(domain, STATE_NAMESPACE, to_run_text(), libvirt.VIR_DOMAIN_AFFECT_CONFIG)
        own.peer.virsh("destroy", str(uuid))
        note_disk(domain)
        if ran:
            disk = own_disk(machine.xml(inactive=True), ROOT)
            assert disk is not None
            write = ["qemu-io", "-c", "write 0 64k", alone(own, source_of(disk))]
            subprocess.run(write, check=True, stdout=subprocess.DEVNULL)
        own.peer.restart()
        getattr(driver, again)(uuid, *arguments)
        assert machine.state is (S.STOPPED if ran else S.RUNNING)


def test_a_rescued_machine_that_dies(own: Host, repair: FileImage) -> None:
    """Each way on boots its own disk, and nothing of the rescue is left. Snapshots stay, and one
    with memory lets the guest go on."""
    driver = own.driver

    def revert(machine: Machine) -> None:
        driver.power_off(machine.uuid)
        driver.revert_snapshot(machine.uuid, snapshot.id)

    ways: tuple[tuple[Callable[[Machine], object], InstanceState], ...] = (
        (lambda machine: driver.power_on(machine.uuid), S.RUNNING),
        (lambda machine: driver.start_paused(machine.uuid), S.PAUSED),
        (lambda machine: driver.reboot(machine.uuid), S.RUNNING),
        (revert, S.RUNNING),
        (lambda machine: driver.unrescue(machine.uuid), S.STOPPED),
        (lambda machine: driver.rescue(machine.uuid, repair), S.RESCUED),
    )
    with own.empty_machine() as machine:
        snapshot = driver.create_snapshot(machine.uuid, "with memory", memory=True)
        for way, end in ways:
            driver.power_off(machine.uuid)
            driver.rescue(machine.uuid, repair)
            os.kill(own.peer.qemu_pid(str(machine.uuid)), signal.SIGKILL)
            wait_until(lambda: machine.info.state is S.CRASHED, timeout=30, what="it has crashed")
            way(machine)
            assert machine.state is end
            assert len(left(machine)) == (1 if end is S.RESCUED else 0)


def test_two_clients(own: Host, other: ComputeDriver, repair: FileImage) -> None:
    """Whatever another client does at the last moment: the end is that of one after the other."""
    driver = own.driver

    def meets(machine: Machine, call: str, act: Callable[[], object]) -> Any:
        def first(_name: str, send: Callable[[], Any]) -> Any:
            act()
            return send()

        return script(own.raw, call, first)

    with own.made_empty() as machine:
        uuid = machine.uuid
        # it starts the machine by its own definition, or ends the rescue that it finds begun
        for act in (lambda: other.power_on(uuid), lambda: other.unrescue(uuid)):
            with meets(machine, "Connect.createXML", act) as seam:
                driver.rescue(uuid, repair)
            assert seam.reached
            assert (machine.state, len(left(machine))) == (S.RESCUED, 1)
            driver.power_off(uuid)
            driver.unrescue(uuid)
        with meets(machine, "Connect.createXML", lambda: other.rescue(uuid, repair)) as seam:
            with pytest.raises(errors.InvalidState):
                driver.rescue(uuid, repair)
            assert seam.reached
        assert (machine.state, len(left(machine))) == (S.RESCUED, 1)
        # both end it; one finds it ended
        with meets(machine, "Domain.destroyFlags", lambda: other.unrescue(uuid)) as seam:
            driver.unrescue(uuid)
        assert seam.reached
        assert (machine.state, left(machine)) == (S.RUNNING, [])
    for call in ("Domain.rename", "Connect.createXML"):
        with own.unchanged(), own.empty_machine() as machine:
            uuid = machine.uuid
            with meets(machine, call, lambda uuid=uuid: other.destroy(uuid)) as seam:
                with pytest.raises(errors.InstanceNotFound):
                    driver.rescue(uuid, repair)
                assert seam.reached


def test_another_client_has_ended_or_rescued_it(
    own: Host, other: ComputeDriver, repair: FileImage
) -> None:
    """Saved memory, a machine that was switched off, and the disk of a running rescue stay."""
    driver = own.driver

    def meets(call: str, act: Callable[[], object]) -> Any:
        def first(_name: str, send: Callable[[], Any]) -> Any:
            act()
            return send()

        return script(own.raw, call, first)

    with own.empty_machine() as machine:
        uuid = machine.uuid
        snapshot = driver.create_snapshot(uuid, "disks")
        for change in (
            lambda: driver.rescue(uuid, repair),
            lambda: driver.revert_snapshot(uuid, snapshot.id),
        ):
            with meets("Domain.destroyFlags", lambda: other.suspend(uuid)) as seam:
                with pytest.raises(errors.InvalidState):
                    change()
                assert seam.reached
            assert (machine.state, left(machine)) == (S.SUSPENDED, [])
            driver.resume(uuid)
        driver.pause(uuid)
        with meets("Domain.resume", lambda: other.power_off(uuid)) as seam:
            with pytest.raises(errors.InvalidState):
                driver.reboot(uuid)
            assert seam.reached
        assert machine.state is S.STOPPED
        # it went off while it was rescued, and another client rescues it again
        driver.rescue(uuid, repair)
        driver.power_off(uuid)
        with meets("StoragePool.listAllVolumes", lambda: other.rescue(uuid, repair)) as seam:
            with pytest.raises(errors.InvalidState):
                driver.start_paused(uuid)
            assert seam.reached
        assert (machine.state, len(left(machine))) == (S.RESCUED, 1)
