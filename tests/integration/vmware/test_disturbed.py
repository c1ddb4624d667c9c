"""What two clients, and people beside the driver, do to seeds, rescues, LUNs, adopted machines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import SecretBytes
from pyVmomi import vim

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.driverkit import cut_after
from hvdrivers.models.image import ImageRef
from hvdrivers.models.seed import SeedDisc
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import VmdkVolume, VolumeAttachment, VolumeSpec
from hvdrivers.vmware.conformance.raw_server import RawServer
from hvdrivers.vmware.devices import by_address, editing, file_of, lun_of, removing
from hvdrivers.vmware.driver import VmwareDriver
from hvdrivers.vmware.passthrough import BROWSER
from tests.integration.vmware.conftest import SpecFactory, connected
from tests.integration.vmware.test_by_hand import foreign, hardware
from tests.integration.vmware.test_luns import clear, told
from tests.peers.fixtures import started
from tests.peers.vcsim import VcsimPeer
from tests.peers.vcsim.array import VcsimArray

ISCSI, FC = Capability.VOLUME_ISCSI, Capability.VOLUME_FC
DISC = SeedDisc(content=SecretBytes(b"seed" * 512))


@pytest.fixture
def array(peer: VcsimPeer) -> VcsimArray:
    return VcsimArray(peer)


@pytest.fixture
def server(driver: VmwareDriver) -> Iterator[RawServer]:
    made = RawServer(driver.config)
    yield made
    made.drop()


@pytest.fixture(autouse=True)
def cleared(driver: VmwareDriver) -> Iterator[None]:
    yield
    clear(driver)
    for each in driver.list_volumes():  # disks of adopted machines whose UUID the simulator has not
        driver.delete_volume(each.volume_id)


@pytest.mark.parametrize(
    "reference",
    [
        'x</obj><skip>false</skip></objectSet><objectSet><obj type="Folder">group-d1',
        "a&b",
        "<",
    ],
)
def test_reference_that_is_markup(driver: VmwareDriver, spec: SpecFactory, reference: str) -> None:
    machine = driver.spawn(spec()).uuid
    volume = VmdkVolume.model_validate({"data": {"volume": reference, "volume_id": "v"}})
    with pytest.raises((errors.InvalidRequest, errors.VolumeNotFound)) as caught:
        driver.attach_volume(machine, VolumeAttachment(volume=volume))
    assert "xml" not in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("kind", ["pool", FC, ISCSI])
def test_spawn_with_one_disk_under_two_names(
    driver: VmwareDriver, spec: SpecFactory, array: VcsimArray, kind: Any, peer: VcsimPeer
) -> None:
    if kind == "pool":
        volume = driver.create_volume(VolumeSpec(size_bytes=1 << 20))
        two = (volume, volume.model_copy(update={"serial": "other"}))
        with pytest.raises(errors.InvalidRequest):
            driver.spawn(spec(volumes=tuple(VolumeAttachment(volume=v) for v in two)))
        assert not driver.list_instances()
        driver.delete_volume(volume.volume_id)
        return
    with array.export(kind) as volume:
        two = (volume, volume.model_copy(update={"serial": "other"}))
        with pytest.raises(errors.InvalidRequest):
            driver.spawn(spec(volumes=tuple(VolumeAttachment(volume=v) for v in two)))
        assert (driver.list_instances(), told(peer)) == ([], set())


@pytest.mark.parametrize("how", ["eject", "remove", "delete"])
def test_start_after_the_seed_disc_has_gone(
    driver: VmwareDriver, server: RawServer, spec: SpecFactory, how: str, image: ImageRef
) -> None:
    uuid = driver.spawn(spec(seed=DISC)).uuid
    machine = vim.VirtualMachine(driver.machines.get(uuid).obj._moId, server.instance._stub)
    (drive,) = [d for d in hardware(server, machine) if isinstance(d, vim.vm.device.VirtualCdrom)]
    if how == "eject":
        drive.backing = vim.vm.device.VirtualCdrom.RemotePassthroughBackingInfo(
            deviceName="", exclusive=False
        )
        server.wait(machine.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[editing(drive)])))
    elif how == "remove":
        server.wait(machine.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[removing(drive)])))
    else:
        driver.files.delete(file_of(drive))
        with pytest.raises(errors.VolumeNotFound) as caught:
            driver.power_on(uuid)
        assert "seed" in caught.value.message
        assert caught.value.hint
        return
    driver.power_on(uuid)
    assert driver.get_instance(uuid).state is InstanceState.RUNNING
    driver.rescue(uuid, image, seed=DISC)
    driver.unrescue(uuid)
    driver.power_off(uuid)
    driver.power_on(uuid)
    drives = [d for d in hardware(server, machine) if isinstance(d, vim.vm.device.VirtualCdrom)]
    assert [file_of(each) for each in drives] == ([None] if how == "eject" else [])


@pytest.mark.parametrize("at", ["CopyVirtualDisk_Task", "ReconfigVM_Task", "PowerOnVM_Task"])
@pytest.mark.parametrize("start", [False, True])
def test_two_clients_rescue(
    peer: VcsimPeer, driver: VmwareDriver, spec: SpecFactory, image: ImageRef, at: str, start: bool
) -> None:
    uuid = driver.spawn(spec(start=start, seed=DISC)).uuid
    seen = Counter[str]()
    with closing(connected(peer)) as other:

        def between(name: str, send: Any, /) -> Any:
            seen[name] += 1
            if name == at and seen[name] == 1:
                other.rescue(uuid, image, seed=DISC)
            return send()

        refused = (errors.DeviceBusy, errors.InvalidState)
        with driver.session.seam.through(between), pytest.raises(refused):
            driver.rescue(uuid, image, seed=DISC)
        assert driver.get_instance(uuid).state is InstanceState.RESCUED
        found = driver.machines.get(uuid, "config.hardware.device").row["config.hardware.device"]
        files = [str(file_of(each)) for each in by_address(found).values()]
        assert all(map(driver.files.exists, files))
        left = [each for each in files if "/rescue-" in each]
        assert [each.rpartition(".")[2] for each in left] in (["vmdk", "iso"], ["iso", "vmdk"])
    driver.unrescue(uuid)
    assert driver.get_instance(uuid).state is (InstanceState.RUNNING)


@pytest.fixture(scope="module")
def vcenter() -> Iterator[VcsimPeer]:
    with started(lambda: VcsimPeer("vpx", standalone=1)) as peer:
        yield peer
        peer.require_alive()


def test_adopt_on_another_cluster(vcenter: VcsimPeer) -> None:
    """It was marked before it was not found."""
    with (
        closing(connected(vcenter, compute="DC0_H0")) as there,
        closing(connected(vcenter)) as here,
    ):
        server = RawServer(there.config)
        there.folders.ensure()
        path = there.folders.path("volumes", f"{uuid4()}.vmdk")
        there.files.create_disk(path, 1 << 20)
        machine = foreign(server, there, path)
        uuid = next(each.uuid for each in there.list_foreign() if each.name == "foreign")
        with pytest.raises(errors.InstanceNotFound) as caught:
            here.adopt(uuid)
        assert "compute=" in (caught.value.hint or "")
        assert uuid not in {each.uuid for each in there.list_instances()}
        server.wait(machine.Destroy_Task())
        server.drop()


def test_destroy_of_an_adopted_machine_that_shares_a_disk(
    driver: VmwareDriver, server: RawServer
) -> None:
    driver.folders.ensure()
    driver.files.make_folder("[LocalDS_0] theirs", parents=True)
    path = f"[LocalDS_0] theirs/{uuid4()}.vmdk"
    driver.files.create_disk(path, 1 << 20)
    one, two = foreign(server, driver, path), foreign(server, driver, path)
    first = UUID(server.of(one, "config.instanceUuid")["config.instanceUuid"])
    driver.adopt(first, name="adopted")
    try:
        with pytest.raises(errors.DeviceBusy, match="has the disk"):
            driver.destroy(first)
        assert driver.files.exists(path)
        server.wait(two.Destroy_Task())  # the simulator deletes the disk of both
        driver.destroy(first)
    finally:
        for each in (one, two):
            with suppress(Exception):
                server.wait(each.Destroy_Task())


def test_two_clients_adopt(peer: VcsimPeer, driver: VmwareDriver, server: RawServer) -> None:
    driver.files.make_folder("[LocalDS_0] theirs", parents=True)
    path = f"[LocalDS_0] theirs/{uuid4()}.vmdk"
    driver.files.create_disk(path, 1 << 20)
    one = foreign(server, driver, path)
    uuid = UUID(server.of(one, "config.instanceUuid")["config.instanceUuid"])
    with closing(connected(peer)) as other:
        done: list[Any] = []

        def between(name: str, send: Any, /) -> Any:
            if name == "ReconfigVM_Task" and not done:
                done.append(other.adopt(uuid, name="theirs"))
            return send()

        with driver.session.seam.through(between):
            mine = driver.adopt(uuid, name="mine")
    assert mine.name == done[0].name


def test_mapping_that_was_detached_by_hand(
    peer: VcsimPeer, driver: VmwareDriver, server: RawServer, spec: SpecFactory, array: VcsimArray
) -> None:
    for end in ("detach", "destroy"):
        with array.export(ISCSI) as volume:
            uuid = driver.spawn(spec(volumes=(VolumeAttachment(volume=volume),))).uuid
            machine = vim.VirtualMachine(driver.machines.get(uuid).obj._moId, server.instance._stub)
            (disk,) = [d for d in by_address(hardware(server, machine)).values() if lun_of(d)]
            server.wait(machine.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[removing(disk)])))
            if end == "detach":
                driver.detach_volume(uuid, volume.volume_id)
            driver.destroy(uuid)
            assert told(peer) == set(), end


def test_attach_that_fails_beside_another_of_the_same_target(
    peer: VcsimPeer, driver: VmwareDriver, spec: SpecFactory, array: VcsimArray
) -> None:
    one, two = (driver.spawn(spec()).uuid for _ in range(2))
    with array.export(ISCSI, lun=1) as volume:
        absent = volume.model_copy(
            update={"serial": "absent", "data": volume.data.model_copy(update={"target_lun": 99})}
        )
        done: list[Any] = []
        with closing(connected(peer)) as other:

            def between(name: str, send: Any, /) -> Any:
                if name == "AddInternetScsiStaticTargets" and not done:
                    done.append(1)
                    other.attach_volume(two, VolumeAttachment(volume=volume))
                return send()

            with driver.session.seam.through(between), pytest.raises(errors.VolumeNotFound):
                driver.attach_volume(one, VolumeAttachment(volume=absent))
        assert len(told(peer)) == 1
        driver.detach_volume(two, volume.volume_id)
        assert told(peer) == set()
        with pytest.raises(errors.VolumeNotFound):
            driver.attach_volume(one, VolumeAttachment(volume=absent))
        assert told(peer) == set()


def test_a_target_in_capitals(
    peer: VcsimPeer, driver: VmwareDriver, spec: SpecFactory, array: VcsimArray
) -> None:
    """Names of targets have no case (RFC 3722); a server may show them in small letters."""
    uuid = driver.spawn(spec()).uuid
    with array.export(ISCSI) as volume:
        name = volume.data.target_iqn.replace("hvct", "HVCT")
        capital = volume.model_copy(
            update={"data": volume.data.model_copy(update={"target_iqn": name})}
        )
        driver.attach_volume(uuid, VolumeAttachment(volume=capital))
        driver.detach_volume(uuid, volume.volume_id)
        assert told(peer) == set()


def test_question_for_the_inventory_that_is_lost(driver: VmwareDriver) -> None:
    """A host is asked for its profiles once more: that changes nothing."""
    only = driver.places.get().only_host
    if only is None:
        only = driver.places.surroundings().hosts[0].obj
    browser = driver.reader.one(driver.places.get().compute, BROWSER)[BROWSER]
    with driver.session.seam.cut(cut_after, name="QueryConfigTarget"):
        assert browser.QueryConfigTarget(only) is not None


def test_a_target_of_an_adopted_machine_stays(
    peer: VcsimPeer, driver: VmwareDriver, spec: SpecFactory, array: VcsimArray
) -> None:
    """Others have told the hosts of it."""
    with array.export(ISCSI) as volume:
        uuid = driver.spawn(spec(volumes=(VolumeAttachment(volume=volume),))).uuid
        keys = [vim.option.OptionValue(key="hvdrivers.mark", value="")]
        obj = driver.machines.get(uuid).obj
        driver.changes.reconfigure(obj, vim.vm.ConfigSpec(extraConfig=keys))
        driver.adopt(uuid)
        driver.destroy(uuid)
        assert len(told(peer)) == 1
        other = driver.spawn(spec(volumes=(VolumeAttachment(volume=volume),))).uuid
        driver.destroy(other)
        assert told(peer) == set()
