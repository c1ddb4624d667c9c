"""Round trips: the calls of each operation, counted at the seam."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.console import ConsoleKind
from hvdrivers.models.image import ImageRef
from hvdrivers.models.instance import Flavor
from hvdrivers.models.vif import NetworkVif
from hvdrivers.models.volume import VolumeAttachment, VolumeSpec
from hvdrivers.vmware.conformance.target import VmwareTarget
from hvdrivers.vmware.driver import VmwareDriver
from tests.integration.vmware.conftest import SpecFactory
from tests.peers.vcsim import GUEST_PASSWORD, GUEST_USER, VcsimPeer

READ = "RetrievePropertiesEx"
WAITS = frozenset({"CreatePropertyCollector", "CreateFilter", "WaitForUpdatesEx"})
"""Calls of a task that was not finished at the first look."""


@pytest.fixture
def target(peer: VcsimPeer) -> Iterator[VmwareTarget]:
    made = VmwareTarget(**peer.options, guest_user=GUEST_USER, guest_password=GUEST_PASSWORD)
    yield made
    made.close()


def calls(driver: VmwareDriver, operation: Callable[[], Any]) -> Counter[str]:
    with driver.session.seam.counting() as counter:
        operation()
    found = Counter(counter)
    for name in (*WAITS, "DestroyPropertyCollector"):
        # after such a wait the task is read once more
        waited = found.pop(name, 0)
        if name == "CreateFilter":
            found[READ] -= waited
    return +found


@pytest.fixture
def machine(driver: VmwareDriver, spec: SpecFactory) -> Any:
    driver.spawn(spec())  # the image is in the cache now, and the folders are there
    info = driver.spawn(spec())
    yield info.uuid
    for each in driver.list_instances():
        driver.destroy(each.uuid)


def test_reads(driver: VmwareDriver, machine: Any) -> None:
    assert calls(driver, lambda: driver.get_instance(machine)) == {READ: 1}
    assert calls(driver, driver.list_instances) == {READ: 1}
    assert calls(driver, driver.list_foreign) == {READ: 1}
    assert calls(driver, driver.get_metrics) == {READ: 1}
    first = calls(driver, driver.get_available_resource)
    # the profiles of GPUs are asked for once
    alone = driver.places.get().only_host is not None
    assert first == ({READ: 1, "QueryConfigTarget": 1} if alone else {READ: 1})
    assert calls(driver, driver.get_available_resource) == {READ: 1}
    assert calls(driver, driver.ping) == {"CurrentTime": 1}
    assert calls(driver, driver.host) == {"CurrentTime": 1}
    driver.machines.known.forget(machine)
    assert calls(driver, lambda: driver.get_instance(machine)) == {"FindAllByUuid": 1, READ: 1}


def test_power(driver: VmwareDriver, machine: Any) -> None:
    on = calls(driver, lambda: driver.power_on(machine))
    assert on == {READ: 3, "HEAD /folder": 1, "PowerOnVM_Task": 1}
    assert calls(driver, lambda: driver.suspend(machine)) == {READ: 2, "SuspendVM_Task": 1}
    driver.resume(machine)
    assert calls(driver, lambda: driver.reboot(machine)) == {READ: 2, "ResetVM_Task": 1}
    assert calls(driver, lambda: driver.power_off(machine)) == {READ: 2, "PowerOffVM_Task": 1}


def test_volumes_and_nics(driver: VmwareDriver, machine: Any) -> None:
    volume = driver.create_volume(VolumeSpec(name="budget", size_bytes=1 << 20))
    attachment = VolumeAttachment(volume=volume)
    attached = calls(driver, lambda: driver.attach_volume(machine, attachment))
    assert attached == {READ: 4, "GET /folder": 1, "ReconfigVM_Task": 1}
    detached = calls(driver, lambda: driver.detach_volume(machine, volume.volume_id))
    assert detached == {READ: 2, "ReconfigVM_Task": 1}
    deleted = calls(driver, lambda: driver.delete_volume(volume.volume_id))
    assert deleted == {READ: 5, "MoveVirtualDisk_Task": 1, "DeleteVirtualDisk_Task": 1}
    vif = NetworkVif(id="budget", network="VM Network")
    plugged = calls(driver, lambda: driver.plug_vif(machine, vif))
    assert plugged == {READ: 4, "ReconfigVM_Task": 1}
    unplugged = calls(driver, lambda: driver.unplug_vif(machine, vif.id))
    assert unplugged == {READ: 2, "ReconfigVM_Task": 1}


def test_other_connections(driver: VmwareDriver, machine: Any) -> None:
    first, second = (driver.create_volume(VolumeSpec(size_bytes=1 << 20)) for _ in range(2))
    vif = NetworkVif(id="budget", network="VM Network")
    driver.attach_volume(machine, VolumeAttachment(volume=first))
    driver.plug_vif(machine, vif)
    moved = VolumeAttachment(volume=second.model_copy(update={"serial": first.volume_id}))
    wired = calls(driver, lambda: driver.reconnect(machine, vifs=(vif,)))
    assert wired == {READ: 3, "ReconfigVM_Task": 1}
    both = calls(driver, lambda: driver.reconnect(machine, volumes=(moved,), vifs=(vif,)))
    assert both == {READ: 4, "GET /folder": 1, "ReconfigVM_Task": 1}
    assert calls(driver, lambda: driver.reconnect(machine)) == {READ: 2}
    driver.detach_volume(machine, first.volume_id)
    for each in (first, second):
        driver.delete_volume(each.volume_id)


def test_label_and_metadata(driver: VmwareDriver, machine: Any) -> None:
    renamed = calls(driver, lambda: driver.rename(machine, "another"))
    assert renamed == {READ: 2, "ReconfigVM_Task": 1}
    marked = calls(driver, lambda: driver.set_metadata(machine, {"a": "b"}))
    assert marked == {READ: 2, "ReconfigVM_Task": 1}


def test_spawn_from_a_cached_image(
    peer: VcsimPeer, driver: VmwareDriver, machine: Any, spec: SpecFactory
) -> None:
    larger = Flavor(vcpus=1, memory_mib=64, disk_gib=1)
    stopped = calls(driver, lambda: driver.spawn(spec()))
    running = calls(driver, lambda: driver.spawn(spec(start=True)))
    # the second folder says whose the first one is
    before = {"FindAllByUuid": 1, "MakeDirectory": 2}
    if peer.mode == "vpx":
        # of the reads one is of the surroundings, one of the task, and one of what came of it
        assert stopped == {**before, READ: 3, "CloneVM_Task": 1}
        assert calls(driver, lambda: driver.spawn(spec(flavor=larger))) == stopped
        assert running == {**stopped, READ: 4, "ReconfigVM_Task": 1}
    else:
        assert stopped == {**before, READ: 4, "CopyVirtualDisk_Task": 1, "CreateVM_Task": 1}
        assert running == {**stopped, READ: 6, "PowerOnVM_Task": 1, "ReconfigVM_Task": 1}


def test_image_cache(peer: VcsimPeer, driver: VmwareDriver, machine: Any, image: ImageRef) -> None:
    again = calls(driver, lambda: driver.cache_image(image))
    assert again == {"HEAD /folder": 1, READ: 2 if peer.mode == "vpx" else 1}
    driver.destroy(machine)
    for each in driver.list_instances():
        driver.destroy(each.uuid)
    (cached,) = driver.list_cached_images()
    evicted = calls(driver, lambda: driver.evict_image(cached.key))
    if peer.mode == "vpx":
        assert evicted == {
            READ: 8,
            "SearchDatastore_Task": 1,
            "FindByDatastorePath": 2,
            "UnregisterVM": 1,
            "DeleteDatastoreFile_Task": 2,
            "MoveDatastoreFile_Task": 1,
        }
    else:
        assert evicted == {READ: 2, "DeleteDatastoreFile_Task": 1}


def test_disk_that_grows(peer: VcsimPeer, driver: VmwareDriver, machine: Any) -> None:
    larger = Flavor(vcpus=1, memory_mib=64, disk_gib=1)
    child = {READ: 5, "PromoteDisks_Task": 1} if peer.mode == "vpx" else {READ: 3}
    assert calls(driver, lambda: driver.resize(machine, larger)) == {**child, "ReconfigVM_Task": 1}
    largest = larger.model_copy(update={"disk_gib": 2})
    grown = calls(driver, lambda: driver.resize(machine, largest))
    assert grown == {READ: 3, "ReconfigVM_Task": 1}


def test_snapshots(driver: VmwareDriver, machine: Any) -> None:
    made = calls(driver, lambda: driver.create_snapshot(machine, "budget"))
    assert made == {READ: 3, "CreateSnapshot_Task": 1}
    assert calls(driver, lambda: driver.list_snapshots(machine)) == {READ: 1}
    (snapshot,) = driver.list_snapshots(machine)
    back = calls(driver, lambda: driver.revert_snapshot(machine, snapshot.id))
    assert back == {READ: 4, "GET /folder": 1, "RevertToSnapshot_Task": 1}
    driver.set_metadata(machine, {"newer": "yes"})
    kept = calls(driver, lambda: driver.revert_snapshot(machine, snapshot.id))
    assert kept == {
        **back,
        READ: 6,
        "PUT /folder": 1,
        "ReconfigVM_Task": 1,
        "DeleteDatastoreFile_Task": 1,
    }
    gone = calls(driver, lambda: driver.delete_snapshot(machine, snapshot.id))
    assert gone == {READ: 2, "RemoveSnapshot_Task": 1}


def test_snapshots_of_a_machine_that_went_off_while_it_was_rescued(
    driver: VmwareDriver, machine: Any, image: ImageRef
) -> None:
    """Each reconfiguration is read once more than it is counted in the budget, as each task is."""
    plain = calls(driver, lambda: driver.create_snapshot(machine, "plain"))
    (snapshot,) = driver.list_snapshots(machine)
    driver.set_metadata(machine, {"newer": "yes"})
    reverted = calls(driver, lambda: driver.revert_snapshot(machine, snapshot.id))
    more = Counter({READ: 3 + 2, "ReconfigVM_Task": 2})
    for operation, less in (
        (lambda: driver.create_snapshot(machine, "budget"), plain),
        (lambda: driver.revert_snapshot(machine, snapshot.id), reverted),
    ):
        driver.rescue(machine, image)
        driver.power_off(machine)
        assert calls(driver, operation) == less + more


def test_another_root_disk(
    peer: VcsimPeer, driver: VmwareDriver, machine: Any, image: ImageRef
) -> None:
    whole = {READ: 4, "CopyVirtualDisk_Task": 1, "ReconfigVM_Task": 1}
    child = (
        {**whole, READ: 6, "PromoteDisks_Task": 1, "MakeDirectory": 1}
        if peer.mode == "vpx"
        else whole
    )
    assert calls(driver, lambda: driver.rebuild(machine, image)) == child
    assert calls(driver, lambda: driver.rebuild(machine, image)) == whole
    rescued = calls(driver, lambda: driver.rescue(machine, image))
    assert rescued == {
        READ: 7,
        "CopyVirtualDisk_Task": 1,
        "ReconfigVM_Task": 2,
        "PowerOnVM_Task": 1,
    }
    back = calls(driver, lambda: driver.unrescue(machine))
    assert back == {
        READ: 8,
        "ReconfigVM_Task": 3,
        "PowerOffVM_Task": 1,
        "PowerOnVM_Task": 1,
    }


def test_screen_and_guest(driver: VmwareDriver, machine: Any) -> None:
    driver.power_on(machine)
    ticket = calls(driver, lambda: driver.get_console(machine, ConsoleKind.WEBMKS))
    assert ticket == {READ: 1, "AcquireTicket": 1}
    picture = calls(driver, lambda: driver.screenshot(machine))
    assert picture == {
        READ: 3,
        "CreateScreenshot_Task": 1,
        "GET /folder": 1,
        "DeleteDatastoreFile_Task": 1,
    }
    assert calls(driver, lambda: driver.inject_nmi(machine)) == {READ: 1, "SendNMI": 1}
    assert calls(driver, lambda: driver.guest_addresses(machine)) == {READ: 1}


def test_inside_the_guest(driver: VmwareDriver, target: VmwareTarget, machine: Any) -> None:
    driver.power_on(machine)
    target.wait_booted(driver, machine)
    account = target.guest_account(driver, machine)
    silent = {
        READ: 1,
        "CreateTemporaryDirectoryInGuest": 1,
        "InitiateFileTransferToGuest": 1,
        "PUT /guestFile": 1,
        "StartProgramInGuest": 1,
        "ListProcessesInGuest": 1,
        "InitiateFileTransferFromGuest": 2,
        "DeleteDirectoryInGuest": 1,
    }

    def run(*command: str) -> Counter[str]:
        return calls(driver, lambda: driver.guest_exec(machine, command, credentials=account))

    assert run("/bin/true") == silent
    assert run("/bin/echo", "x") == {**silent, "GET /guestFile": 1}
    assert run("/hvct/flood", "9") == {**silent, "GET /guestFile": 2}
    password = SecretStr("hvct-Budget-1")
    changed = calls(
        driver,
        lambda: driver.set_guest_password(machine, "root", password, credentials=account),
    )
    assert changed == silent


def test_disks_move_in_one_task(peer: VcsimPeer, driver: VmwareDriver, machine: Any) -> None:
    if peer.mode == "vpx":
        moved = calls(driver, lambda: driver.migrate_storage(machine, "LocalDS_1"))
        # its disks are written down before their files get other names
        assert moved == {READ: 5, "ReconfigVM_Task": 1, "RelocateVM_Task": 1}
        again = calls(driver, lambda: driver.migrate_storage(machine, "LocalDS_0"))
        assert again == {READ: 4, "RelocateVM_Task": 1}
    else:
        assert Capability.STORAGE_MIGRATION in driver.narrowed()


def test_lists_do_not_grow_with_machines(
    driver: VmwareDriver, machine: Any, spec: SpecFactory
) -> None:
    for _ in range(5):
        driver.spawn(spec())
    assert calls(driver, driver.list_instances) == {READ: 1}
    assert calls(driver, driver.get_metrics) == {READ: 1}
