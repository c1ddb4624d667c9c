"""Templates and linked clones on vCenter: what is shared stays, and what must be whole is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest
from pyVmomi import vim, vmodl

from hvdrivers.contract import errors
from hvdrivers.driverkit import Undo, cut_before
from hvdrivers.models.image import ImageRef
from hvdrivers.models.instance import Flavor, Keep
from hvdrivers.models.state import InstanceState
from hvdrivers.vmware.config import VmwareConfig
from hvdrivers.vmware.conformance.raw_server import RawServer
from hvdrivers.vmware.driver import VmwareDriver
from hvdrivers.vmware.errors import translate
from tests.integration.vmware.conftest import SpecFactory, connected
from tests.peers.fixtures import started
from tests.peers.vcsim import VcsimPeer

GIB = Flavor(vcpus=1, memory_mib=64, disk_gib=1)


@pytest.fixture(scope="module")
def vcenter() -> Iterator[VcsimPeer]:
    """A vCenter with a cluster and two hosts outside of it."""
    with started(lambda: VcsimPeer("vpx", standalone=2)) as peer:
        yield peer


@pytest.fixture
def driver(vcenter: VcsimPeer) -> Iterator[VmwareDriver]:
    made = connected(vcenter)
    yield made
    for each in made.list_instances():
        made.destroy(each.uuid)
    for image in made.list_cached_images():
        made.evict_image(image.key)
    assert vcenter.ask("/objects")["VirtualMachine"] == 0
    made.close()
    vcenter.require_alive()


@pytest.fixture
def other(vcenter: VcsimPeer) -> Iterator[VmwareDriver]:
    """Another client."""
    made = connected(vcenter)
    yield made
    made.close()


def forget_images(client: VmwareDriver) -> None:
    """Let a client be one that has seen nothing of the cache."""
    for image in client.list_cached_images():
        for base in client.images.entries(image.key):
            client.seen.forget(base)


@pytest.fixture
def server(vcenter: VcsimPeer) -> Iterator[RawServer]:
    made = RawServer(VmwareConfig(**vcenter.options))
    yield made
    made.drop()


def root(server: RawServer, uuid: UUID) -> Any:
    hardware = server.of(server.machine(uuid), "config.hardware.device")["config.hardware.device"]
    return next(each for each in hardware if isinstance(each, vim.vm.device.VirtualDisk))


def content(server: RawServer, path: str) -> bytes | None:
    return server.file(path.replace(".vmdk", "-flat.vmdk"))


def before(call: str, do: Callable[[], object]) -> Callable[..., Any]:
    """Do something once, just before a call is sent."""
    waiting = [do]

    def through(name: str, send: Callable[[], Any]) -> Any:
        if name == call and waiting:
            waiting.pop()()
        return send()

    return through


def test_disks_of_instances_are_children_of_the_image_and_go_alone(
    driver: VmwareDriver, server: RawServer, spec: SpecFactory
) -> None:
    first, second = (driver.spawn(spec(start=True)).uuid for _ in range(2))
    bases = {root(server, each).backing.parent.fileName for each in (first, second)}
    assert len(bases) == 1
    (base,) = bases
    whole = content(server, base)
    driver.create_snapshot(first, "one")
    driver.destroy(first)
    assert content(server, base) == whole
    driver.power_off(second)
    driver.power_on(second)
    (image,) = driver.list_cached_images()
    assert image.in_use
    with pytest.raises(errors.DeviceBusy):
        driver.evict_image(image.key)
    assert list(driver.list_foreign()) == []
    driver.destroy(second)
    assert content(server, base) == whole
    driver.evict_image(image.key)
    assert server.file(base) is None


@pytest.mark.parametrize("change", ["resize", "rebuild", "keep", "move"])
def test_disk_that_must_be_whole_is_no_child_any_more(
    driver: VmwareDriver, server: RawServer, spec: SpecFactory, image: ImageRef, change: str
) -> None:
    uuid = driver.spawn(spec()).uuid
    base = root(server, uuid).backing.parent.fileName
    whole = content(server, base)
    if change == "resize":
        driver.resize(uuid, GIB)
        assert root(server, uuid).capacityInBytes == 1 << 30
    elif change == "rebuild":
        driver.rebuild(uuid, image)
    elif change == "move":
        driver.migrate_storage(uuid, "LocalDS_1")
    else:
        driver.destroy(uuid, keep=frozenset({Keep.ROOT_DISK}))
        (kept,) = driver.list_volumes()
        assert content(server, f"[LocalDS_0] hvdrivers/volumes/{kept.name}.vmdk") == whole
        driver.delete_volume(kept.volume_id)
    if change != "keep":
        assert root(server, uuid).backing.parent is None
        driver.destroy(uuid)
    assert content(server, base) == whole


def test_larger_disk_is_a_copy_in_the_same_request(
    driver: VmwareDriver, server: RawServer, spec: SpecFactory
) -> None:
    driver.spawn(spec())
    with driver.session.seam.counting() as calls:
        uuid = driver.spawn(spec(flavor=GIB)).uuid
    assert calls.count("CloneVM_Task") == 1
    assert calls.count("ReconfigVM_Task") == 0
    disk = root(server, uuid)
    assert disk.capacityInBytes == 1 << 30
    assert disk.backing.parent is None


@pytest.mark.parametrize("call", ["CreateSnapshot_Task", "MarkAsTemplate"])
def test_template_that_was_left_half_made_is_completed(
    driver: VmwareDriver, other: VmwareDriver, spec: SpecFactory, call: str
) -> None:
    with (
        driver.session.seam.cut(cut_before, name=call, repeats=3),
        pytest.raises(errors.OutcomeUnknown),
    ):
        driver.spawn(spec())
    assert list(other.list_foreign()) == []
    assert other.spawn(spec(start=True)).state is InstanceState.RUNNING


@pytest.mark.parametrize("call", ["CreateVM_Task", "CreateSnapshot_Task", "MarkAsTemplate"])
def test_two_clients_make_one_template(
    vcenter: VcsimPeer, driver: VmwareDriver, other: VmwareDriver, spec: SpecFactory, call: str
) -> None:
    with driver.session.seam.through(before(call, lambda: other.spawn(spec()))):
        driver.spawn(spec())
    assert len(driver.list_instances()) == 2
    assert vcenter.ask("/objects")["VirtualMachine"] == 3


def test_template_is_made_while_every_host_is_in_maintenance(
    driver: VmwareDriver, vcenter: VcsimPeer, spec: SpecFactory, image: ImageRef
) -> None:
    driver.enter_maintenance()
    try:
        driver.cache_image(image)
        assert vcenter.ask("/objects")["VirtualMachine"] == 1  # the template
        uuid = driver.spawn(spec()).uuid
    finally:
        driver.exit_maintenance()
    driver.power_on(uuid)


@pytest.mark.parametrize("call", ["FindByDatastorePath", "UnregisterVM", "MoveDatastoreFile_Task"])
def test_image_that_gets_used_while_it_is_evicted_stays(
    driver: VmwareDriver,
    other: VmwareDriver,
    server: RawServer,
    spec: SpecFactory,
    call: str,
) -> None:
    driver.destroy(driver.spawn(spec()).uuid)
    other.destroy(other.spawn(spec()).uuid)
    (image,) = driver.list_cached_images()
    wanted = spec(start=True)

    def spawn() -> None:
        with suppress(errors.DeviceBusy):  # its template has just gone
            other.spawn(wanted)
            return
        other.spawn(wanted)

    with (
        driver.session.seam.through(before(call, spawn)),
        pytest.raises(errors.DeviceBusy, match="was made from this image"),
    ):
        driver.evict_image(image.key)
    assert content(server, root(server, wanted.uuid).backing.parent.fileName) is not None
    driver.power_off(wanted.uuid)
    driver.power_on(wanted.uuid)
    assert driver.spawn(spec(start=True)).state is InstanceState.RUNNING


def test_image_is_in_use_by_machines_of_other_clusters_and_of_others(
    vcenter: VcsimPeer, driver: VmwareDriver, server: RawServer, spec: SpecFactory
) -> None:
    uuid = driver.spawn(spec()).uuid
    away = connected(vcenter, compute="DC0_H0")
    (image,) = away.list_cached_images()
    assert image.in_use
    with pytest.raises(errors.DeviceBusy):
        away.evict_image(image.key)
    # somebody clones the instance: such a clone may be a child of the image's disk as well
    machine = server.machine(uuid)
    place = server.of(machine, "parent", "resourcePool")
    spec_of = vim.vm.CloneSpec(
        location=vim.vm.RelocateSpec(pool=place["resourcePool"]), template=False, powerOn=False
    )
    clone = server.wait(machine.CloneVM_Task(place["parent"], "a clone of others", spec_of))
    driver.destroy(uuid)
    assert [each.name for each in driver.list_foreign()] == ["a clone of others"]
    with pytest.raises(errors.DeviceBusy):
        away.evict_image(image.key)
    server.wait(clone.Destroy_Task())
    away.close()


def test_template_that_somebody_has_taken_away_is_made_again(
    driver: VmwareDriver, server: RawServer, spec: SpecFactory
) -> None:
    driver.destroy(driver.spawn(spec()).uuid)
    machines = server.read(vim.VirtualMachine, "config.template")
    (template,) = [obj for obj, values in machines if values["config.template"]]
    server.wait(template.Destroy_Task())  # with its disk
    with pytest.raises(errors.DeviceBusy) as gone:
        driver.spawn(spec())
    assert gone.value.retryable
    assert driver.list_instances() == []
    assert driver.spawn(spec(start=True)).state is InstanceState.RUNNING


def test_deletion_of_another_machine_does_not_cost_the_template(
    driver: VmwareDriver, server: RawServer, spec: SpecFactory
) -> None:
    """A clone fails while vCenter deletes another machine, and the fault names that one."""
    driver.destroy(driver.spawn(spec()).uuid)
    template = template_of(server)
    seen: list[str] = []

    def meets(name: str, send: Callable[[], Any]) -> Any:
        if name == "CloneVM_Task" and not seen:
            seen.append(name)
            fault = vmodl.fault.ManagedObjectNotFound(obj=vim.VirtualMachine("vm-58107"))
            raise translate(fault) from fault
        return send()

    wanted = spec(start=True)
    with driver.session.seam.through(meets), pytest.raises(errors.DeviceBusy) as caught:
        driver.spawn(wanted)
    assert caught.value.retryable
    assert driver.list_instances() == []
    assert driver.spawn(wanted).state is InstanceState.RUNNING
    assert template_of(server)._moId == template._moId


def test_template_that_somebody_has_unregistered_is_made_again(
    driver: VmwareDriver, other: VmwareDriver, server: RawServer, spec: SpecFactory
) -> None:
    """Its files are there, and the machines that came of it keep their disks."""
    first = driver.spawn(spec()).uuid
    below = root(server, first).backing.parent.fileName
    template_of(server).UnregisterVM()
    # one client has seen the template, and another one has not
    with pytest.raises(errors.DeviceBusy) as gone:
        driver.spawn(spec())
    assert gone.value.retryable
    for each in (driver, other):
        made = each.spawn(spec(start=True))
        assert made.state is InstanceState.RUNNING
        assert root(server, made.uuid).backing.parent.fileName == below
    assert root(server, first).backing.parent.fileName == below
    assert content(server, below) is not None


def test_unregistered_template_is_made_again_by_two_clients(
    driver: VmwareDriver, other: VmwareDriver, server: RawServer, spec: SpecFactory
) -> None:
    """The second one has made it when the first one takes the remains away."""
    driver.destroy(driver.spawn(spec()).uuid)
    template_of(server).UnregisterVM()
    forget_images(driver)
    late = before("MoveDatastoreFile_Task", lambda: other.spawn(spec()))
    with driver.session.seam.through(late):
        made = driver.spawn(spec(start=True))
    assert made.state is InstanceState.RUNNING
    again = template_of(server)
    assert server.of(again, "config.template")["config.template"]
    for each in driver.list_instances():
        assert root(server, each.uuid).backing.parent is not None
    path = server.of(again, "config.files.vmPathName")["config.files.vmPathName"]
    assert server.file(path) is not None


def test_spawn_that_died_in_the_middle_leaves_what_destroy_removes(
    vcenter: VcsimPeer, driver: VmwareDriver, other: VmwareDriver, spec: SpecFactory
) -> None:
    """The clone goes on at the server when its client is no more."""
    driver.destroy(driver.spawn(spec()).uuid)
    wanted = spec(start=True)
    driver.claims.take(wanted.uuid, Undo())  # the process has died: nothing is taken back
    surroundings = driver.places.surroundings()
    assert wanted.image is not None
    base = driver.images.bring(wanted.image, None)
    template = driver.templates.of(base, surroundings)
    assert template is not None
    place = driver.places.get()
    mark = vim.option.OptionValue(
        key="hvdrivers.mark", value=f'{{"uuid": "{wanted.uuid}", "name": "x"}}'
    )
    clone = vim.vm.CloneSpec(
        location=vim.vm.RelocateSpec(pool=place.pool),
        snapshot=template.snapshot,
        config=vim.vm.ConfigSpec(instanceUuid=str(wanted.uuid), extraConfig=[mark]),
        powerOn=True,
        template=False,
    )
    with vcenter.slow_task("CloneVm", 0.5):
        template.obj.CloneVM_Task(place.vm_folder, f"x.{wanted.uuid}", clone)
        other.destroy(wanted.uuid)
    assert other.list_instances() == []
    assert vcenter.ask("/objects")["VirtualMachine"] == 1


def template_of(server: RawServer) -> Any:
    machines = server.read(vim.VirtualMachine, "config.template")
    (template,) = [obj for obj, values in machines if values["config.template"]]
    return template


def clone_of(server: RawServer, driver: VmwareDriver, source: Any, snapshot: Any = None) -> Any:
    """A linked clone that somebody makes."""
    pool = vim.ResourcePool(driver.places.get().root_pool._moId, server.instance._stub)
    folder = server.of(server.datacenter[0], "vmFolder")["vmFolder"]
    wanted = vim.vm.CloneSpec(
        location=vim.vm.RelocateSpec(pool=pool, diskMoveType="createNewChildDiskBacking"),
        snapshot=snapshot or server.of(source, "snapshot")["snapshot"].currentSnapshot,
        template=False,
        powerOn=False,
    )
    return server.wait(source.CloneVM_Task(folder, "of others", wanted))


@pytest.mark.parametrize("call", ["FindByDatastorePath", "UnregisterVM", "MoveDatastoreFile_Task"])
def test_image_below_a_linked_clone_of_others_stays(
    driver: VmwareDriver, other: VmwareDriver, server: RawServer, image: ImageRef, call: str
) -> None:
    """It is made while the image is evicted; and it is there when that is tried again."""
    entry = driver.cache_image(image)
    made: list[Any] = []

    def clone() -> None:
        forget_images(other)
        other.cache_image(image)  # the template may have gone already
        template = template_of(server)
        made.append(clone_of(server, driver, template))

    with (
        driver.session.seam.through(before(call, clone)),
        pytest.raises(errors.DeviceBusy, match="of others has its disk"),
    ):
        driver.evict_image(entry.key)
    with pytest.raises(errors.DeviceBusy, match="of others has its disk"):
        driver.evict_image(entry.key)
    assert driver.cache_image(image).in_use
    hardware = server.of(made[0], "config.hardware.device")["config.hardware.device"]
    (disk,) = [each for each in hardware if isinstance(each, vim.vm.device.VirtualDisk)]
    assert content(server, disk.backing.parent.fileName) is not None
    server.wait(made[0].Destroy_Task())


@pytest.mark.parametrize("found", [True, False])
def test_cached_disk_whose_description_was_deleted(
    driver: VmwareDriver, server: RawServer, spec: SpecFactory, image: ImageRef, found: bool
) -> None:
    """Its content and its template are there. No machine is made from it, and evicting it repairs
    it."""
    entry = driver.cache_image(image)
    (base,) = driver.images.entries(entry.key)
    driver.files.delete(base.path)
    if found:  # by the clone that fails
        with pytest.raises(errors.DeviceBusy) as gone:
            driver.spawn(spec())
        assert gone.value.retryable
    else:
        driver.seen.forget(base)
    with pytest.raises(errors.DeviceBusy, match="has lost the description") as half:
        driver.spawn(spec())
    assert entry.key in str(half.value.hint)
    assert driver.list_instances() == []
    driver.evict_image(entry.key)
    assert server.read(vim.VirtualMachine, "name") == []
    assert driver.spawn(spec(start=True)).state is InstanceState.RUNNING


def test_template_made_again_before_the_renaming_goes_too(
    driver: VmwareDriver, other: VmwareDriver, server: RawServer, image: ImageRef
) -> None:
    entry = driver.cache_image(image)

    def again() -> None:
        forget_images(other)
        other.cache_image(image)

    with driver.session.seam.through(before("MoveDatastoreFile_Task", again)):
        driver.evict_image(entry.key)
    assert server.read(vim.VirtualMachine, "name") == []
    assert driver.list_cached_images() == []


def test_template_that_somebody_has_started(
    driver: VmwareDriver, server: RawServer, spec: SpecFactory, image: ImageRef
) -> None:
    """Its image stays, and instances are made from the frozen disk."""
    entry = driver.cache_image(image)
    template = template_of(server)
    place = vim.ResourcePool(driver.places.get().root_pool._moId, server.instance._stub)
    template.MarkAsVirtualMachine(place, None)
    server.wait(template.PowerOnVM_Task())
    (base,) = driver.images.entries(entry.key)
    driver.seen.forget(base)
    uuid = driver.spawn(spec()).uuid
    assert root(server, uuid).backing.parent.fileName == base.path
    driver.destroy(uuid)
    with pytest.raises(errors.DeviceBusy, match="powered on"):
        driver.evict_image(entry.key)
    server.wait(template.RemoveAllSnapshots_Task(True))
    driver.seen.forget(base)
    with pytest.raises(errors.DeviceBusy, match="powered on"):
        driver.spawn(spec())  # its guest writes to the image's disk now
    server.wait(template.PowerOffVM_Task())


def test_clone_of_a_snapshot_that_has_gone_is_a_fault(
    vcenter: VcsimPeer, driver: VmwareDriver, server: RawServer, image: ImageRef
) -> None:
    """Of the server, which lives on."""
    driver.cache_image(image)
    template = template_of(server)
    snapshot = vim.vm.Snapshot("snapshot-0", server.instance._stub)
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        clone_of(server, driver, template, snapshot)
    vcenter.require_alive()


def test_instance_below_a_linked_clone_of_others_stays(
    driver: VmwareDriver, server: RawServer, spec: SpecFactory
) -> None:
    """Somebody has made it from a snapshot of the instance, and its disk has a parent there."""
    uuid = driver.spawn(spec()).uuid
    driver.create_snapshot(uuid, "for-clones")
    made = clone_of(server, driver, server.machine(uuid))
    parent = root_of(server, made).backing.parent.fileName
    with pytest.raises(errors.DeviceBusy, match="has the disk"):
        driver.destroy(uuid)
    assert content(server, parent) is not None
    server.wait(made.Destroy_Task())
    driver.destroy(uuid)
    assert content(server, parent) is None


def test_clone_that_was_rebuilt_leaves_no_folder_when_it_has_a_snapshot(
    driver: VmwareDriver, server: RawServer, spec: SpecFactory, image: ImageRef
) -> None:
    """Its disk is in the instance's folder then, and its configuration in vCenter's."""
    uuid = driver.spawn(spec()).uuid
    driver.rebuild(uuid, image)
    driver.create_snapshot(uuid, "rebuilt")
    path = "config.files.vmPathName"
    configuration = server.of(server.machine(uuid), path)[path]
    assert content(server, configuration) is not None
    driver.destroy(uuid)
    assert content(server, configuration) is None


def root_of(server: RawServer, machine: Any) -> Any:
    hardware = server.of(machine, "config.hardware.device")["config.hardware.device"]
    (disk,) = [each for each in hardware if isinstance(each, vim.vm.device.VirtualDisk)]
    return disk
