"""LUNs of a storage array as volumes: raw device mappings, over iSCSI and Fibre Channel."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Any
from uuid import UUID

import pytest
from pyVmomi import vim

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.driverkit import Fault, cut_after, cut_before
from hvdrivers.guard import guarded
from hvdrivers.models.image import ImageFormat
from hvdrivers.models.instance import Flavor
from hvdrivers.models.migration import BlockerKind, Destination
from hvdrivers.models.volume import DiskBus, DiskQos, Volume, VolumeAttachment, VolumeSpec
from hvdrivers.vmware.devices import by_address, lun_of
from hvdrivers.vmware.driver import VmwareDriver
from hvdrivers.vmware.lun_paths import STORAGE, SYSTEM, initiator_of
from tests.integration.vmware.conftest import SpecFactory, connected
from tests.integration.vmware.test_budgets import READ, calls
from tests.peers.vcsim import VcsimPeer
from tests.peers.vcsim.array import FAR_PORT, PORT, SECRET, SIZE, USER, VcsimArray

ISCSI, FC = Capability.VOLUME_ISCSI, Capability.VOLUME_FC


@pytest.fixture
def array(peer: VcsimPeer) -> VcsimArray:
    return VcsimArray(peer)


@pytest.fixture(params=[ISCSI, FC])
def volume(
    request: pytest.FixtureRequest, array: VcsimArray, driver: VmwareDriver
) -> Iterator[Volume]:
    with array.export(request.param) as made:
        yield made
        clear(driver)


@pytest.fixture
def iscsi(array: VcsimArray, driver: VmwareDriver) -> Iterator[Volume]:
    with array.export(ISCSI) as made:
        yield made
        clear(driver)


@pytest.fixture
def machine(driver: VmwareDriver, spec: SpecFactory) -> Iterator[UUID]:
    yield driver.spawn(spec()).uuid
    clear(driver)


def clear(driver: VmwareDriver) -> None:
    for each in driver.list_instances():
        driver.destroy(each.uuid)


def told(peer: VcsimPeer) -> set[str]:
    """The targets that hosts are told of."""
    return {each for targets in peer.ask("/targets").values() for each in targets}


def mappings(driver: VmwareDriver, uuid: UUID) -> list[Any]:
    row = driver.reader.one(driver.machines.get(uuid).obj, "config.hardware.device")
    disks = by_address(row["config.hardware.device"]).values()
    return [each for each in disks if lun_of(each) is not None]


def shown(driver: VmwareDriver, uuid: UUID) -> list[str]:
    return [each.volume_id for each in driver.get_instance(uuid).volumes]


def files(driver: VmwareDriver, uuid: UUID) -> set[str]:
    store = driver.places.datastores().datastores["LocalDS_0"]
    return {
        each.name for each in driver.files.search(store["browser"], driver.folders.instance(uuid))
    }


def changed(volume: Volume, **data: Any) -> VolumeAttachment:
    return VolumeAttachment(
        volume=volume.model_copy(update={"data": volume.data.model_copy(update=data)})
    )


def test_attach_and_detach(
    peer: VcsimPeer, driver: VmwareDriver, machine: UUID, array: VcsimArray, volume: Volume
) -> None:
    """Other clients add such a disk without a file operation, or by a name that is no path of the
    host: https://github.com/vmware/pyvmomi/issues/833."""
    before = files(driver, machine)
    hosts = 2 if peer.mode == "vpx" else 1
    attachment = VolumeAttachment(volume=volume)
    attached = calls(driver, lambda: driver.attach_volume(machine, attachment))
    iscsi = volume.driver_volume_type == "iscsi"
    login = {"AddInternetScsiStaticTargets": hosts} if iscsi else {}
    assert attached == {
        READ: 6,
        "RescanHba": hosts,
        "MakeDirectory": 1 + iscsi,
        "ReconfigVM_Task": 1,
        **login,
    }
    (disk,) = mappings(driver, machine)
    name = array.canonical(volume.volume_id)
    assert disk.backing.deviceName == f"/vmfs/devices/disks/{name}"
    assert (disk.backing.compatibilityMode, disk.backing.diskMode) == (
        "physicalMode",
        "independent_persistent",
    )
    assert disk.capacityInBytes == SIZE
    assert len(told(peer)) == iscsi
    assert driver.attach_volume(machine, attachment).size_bytes is None
    logout = {"RemoveInternetScsiStaticTargets": hosts, "RescanHba": hosts} if iscsi else {}
    detached = calls(driver, lambda: driver.detach_volume(machine, volume.volume_id))
    notes = {"SearchDatastore_Task": 1, "DeleteDatastoreFile_Task": 1} if iscsi else {}
    assert detached == {READ: 5 + 3 * iscsi, "ReconfigVM_Task": 1, **logout, **notes}
    assert (shown(driver, machine), told(peer)) == ([], set())
    assert files(driver, machine) == before


def test_a_host_that_knows_it_is_not_asked_to_look(
    driver: VmwareDriver, machine: UUID, array: VcsimArray, volume: Volume
) -> None:
    """A LUN that the volume names is not looked for again; one that has only a number is, as the
    number may be another volume's by now."""
    other = driver.machines.get(machine).uuid
    named = changed(volume, wwn=array.canonical(volume.volume_id).removeprefix("naa."))
    driver.attach_volume(other, named)
    found = calls(driver, lambda: driver.attach_volume(machine, named))
    assert "RescanHba" not in found
    driver.detach_volume(machine, volume.volume_id)


def test_the_number_of_another_volume(
    driver: VmwareDriver, machine: UUID, array: VcsimArray
) -> None:
    """The hosts know what was behind the number before."""
    with array.export(FC, lun=77) as old:
        driver.attach_volume(machine, VolumeAttachment(volume=old))
        driver.detach_volume(machine, old.volume_id)
        gone = array.canonical(old.volume_id)
    with array.export(FC, lun=77) as new:
        named = array.canonical(new.volume_id)
        driver.attach_volume(machine, changed(new, wwn=named))
        driver.detach_volume(machine, new.volume_id)
        with pytest.raises(errors.VolumeNotFound, match=f"is {named}, and not {gone}"):
            driver.attach_volume(machine, changed(new, wwn=gone))
        driver.attach_volume(machine, VolumeAttachment(volume=new))
        (disk,) = mappings(driver, machine)
        assert disk.backing.deviceName.endswith(array.canonical(new.volume_id))
        clear(driver)


def test_spawn_with_it_and_destroy(
    peer: VcsimPeer, driver: VmwareDriver, spec: SpecFactory, volume: Volume
) -> None:
    wanted = spec(start=True, volumes=(VolumeAttachment(volume=volume),))
    driver.spawn(wanted)
    assert shown(driver, wanted.uuid) == [volume.volume_id]
    driver.create_snapshot(wanted.uuid, "it is left out")
    driver.destroy(wanted.uuid)
    assert told(peer) == set()


def test_a_spawn_that_fails(
    peer: VcsimPeer, driver: VmwareDriver, spec: SpecFactory, volume: Volume
) -> None:
    huge = Flavor(vcpus=1, memory_mib=64, disk_gib=1 << 20)
    with pytest.raises(errors.InsufficientResources):
        driver.spawn(spec(flavor=huge, volumes=(VolumeAttachment(volume=volume),)))
    with (
        peer.fault("CreateVM_Task", "NoDiskSpace", 9),
        peer.fault("CloneVM_Task", "NoDiskSpace", 9),
        pytest.raises(errors.InsufficientResources),
    ):
        driver.spawn(spec(volumes=(VolumeAttachment(volume=volume),)))
    assert (told(peer), driver.list_instances()) == (set(), [])


@pytest.mark.parametrize("kind", [ISCSI, FC])
def test_a_host_that_does_not_see_it(
    peer: VcsimPeer, driver: VmwareDriver, machine: UUID, array: VcsimArray, kind: Capability
) -> None:
    """Of a cluster one is enough: the machine may be there tomorrow."""
    alone = {"vpx": "DC0_C0_H0", "esx": "elsewhere"}[peer.mode]
    with array.export(kind, host=alone) as volume:
        with pytest.raises(errors.VolumeNotFound, match="does not see") as caught:
            driver.attach_volume(machine, VolumeAttachment(volume=volume))
        assert "all hosts" in (caught.value.hint or "")
    assert (told(peer), shown(driver, machine)) == (set(), [])
    clear(driver)


def test_a_wrong_secret(
    peer: VcsimPeer,
    driver: VmwareDriver,
    machine: UUID,
    array: VcsimArray,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "<other>&\"']]> secret"
    with array.export(ISCSI, secret=secret, user="<us&er>") as volume:
        with pytest.raises(errors.VolumeNotFound) as caught:
            driver.attach_volume(machine, VolumeAttachment(volume=volume))
        assert (told(peer), SECRET in f"{caught.value!r}{caplog.text}") == (set(), False)
        right = array.volume(volume.volume_id, auth_username="<us&er>", auth_password=secret)
        driver.attach_volume(machine, VolumeAttachment(volume=right))
        assert secret not in caplog.text
        assert (shown(driver, machine), USER in caplog.text) == ([volume.volume_id], False)
        clear(driver)


def test_a_secret_that_has_changed(
    peer: VcsimPeer, driver: VmwareDriver, machine: UUID, array: VcsimArray
) -> None:
    """A host that was told of the target gets the new one."""
    with array.export(ISCSI) as volume:
        attachment = VolumeAttachment(volume=volume)
        driver.attach_volume(machine, attachment)
        array.add(volume.volume_id, **{**array.unit(volume.volume_id), "secret": "another-one"})
        again = array.volume(volume.volume_id, auth_password="another-one")
        driver.detach_volume(machine, volume.volume_id)
        driver.attach_volume(machine, VolumeAttachment(volume=again))
        assert shown(driver, machine) == [volume.volume_id]
        clear(driver)


def test_one_lun_in_two_machines(
    driver: VmwareDriver, spec: SpecFactory, machine: UUID, volume: Volume
) -> None:
    driver.attach_volume(machine, VolumeAttachment(volume=volume))
    again = VolumeAttachment(volume=volume.model_copy(update={"serial": "another-name"}))
    with pytest.raises(errors.InvalidRequest, match="already"):
        driver.attach_volume(machine, again)
    driver.power_on(machine)
    other = driver.spawn(spec()).uuid
    with pytest.raises(errors.DeviceBusy):
        driver.attach_volume(other, again)
    with pytest.raises(errors.DeviceBusy):
        driver.spawn(spec(volumes=(again,)))
    driver.power_off(machine)
    driver.attach_volume(other, again)
    driver.power_on(other)
    with pytest.raises(errors.DeviceBusy):
        driver.power_on(machine)
    driver.detach_volume(machine, volume.volume_id)
    assert len(mappings(driver, other)) == 1


def test_two_clients_at_the_same_moment(
    peer: VcsimPeer, driver: VmwareDriver, spec: SpecFactory, volume: Volume
) -> None:
    """Machines do not lock a LUN against each other: one of the two gives it up."""
    one, two = (driver.spawn(spec(start=True)).uuid for _ in range(2))
    attachment = VolumeAttachment(volume=volume)
    meeting = Counter[str]()
    with closing(connected(peer)) as second:

        def between(name: str, send: Any, /) -> Any:
            meeting[name] += 1
            if name == "ReconfigVM_Task" and meeting[name] == 1:
                second.attach_volume(two, attachment)
            return send()

        with driver.session.seam.through(between), pytest.raises(errors.DeviceBusy):
            driver.attach_volume(one, attachment)
    assert (shown(driver, one), shown(driver, two)) == ([], [volume.volume_id])
    assert (mappings(driver, one), len(mappings(driver, two))) == ([], 1)


def test_the_lun_of_a_datastore(
    driver: VmwareDriver, machine: UUID, array: VcsimArray, peer: VcsimPeer
) -> None:
    """Whoever has the array hand it out by mistake loses no datastore."""
    with (
        array.export(FC, id="____simulated_volumes_____") as volume,
        pytest.raises(errors.InvalidRequest, match="datastore"),
    ):
        driver.attach_volume(machine, VolumeAttachment(volume=volume))
    clear(driver)


@pytest.mark.parametrize(
    "wish",
    [
        {"read_only": True},
        {"bus": DiskBus.SATA},
        {"bus": DiskBus.NVME},
        {"qos": DiskQos(total_iops_sec=100)},
    ],
)
def test_wishes_that_are_refused(
    driver: VmwareDriver, machine: UUID, iscsi: Volume, wish: dict[str, Any]
) -> None:
    with driver.session.seam.counting() as made, pytest.raises(errors.NotSupported):
        driver.attach_volume(machine, VolumeAttachment(volume=iscsi, **wish))
    assert set(made.by_name) == {READ}
    for update in ({"multiattach": True}, {"driver_volume_type": "iser"}):
        other = VolumeAttachment(volume=iscsi.model_copy(update=update))
        with pytest.raises(errors.NotSupported):
            driver.attach_volume(machine, other)


def test_paths(driver: VmwareDriver, machine: UUID, array: VcsimArray) -> None:
    """Two ports, of which one has a number beyond 2^63; and ports that lead to different LUNs."""
    with array.export(FC, lun=9) as volume, array.export(FC, target=PORT, lun=9) as other:
        both = changed(volume, target_wwn=(FAR_PORT, PORT))
        with pytest.raises(errors.InvalidRequest, match="different"):
            driver.attach_volume(machine, both)
        alone = changed(volume, enforce_multipath=True)
        with pytest.raises(errors.InsufficientResources, match="path"):
            driver.attach_volume(machine, alone)
        array.remove(other.volume_id)
        second = {**array.unit(volume.volume_id), "target": PORT}
        array.add(other.volume_id, **second)
        driver.attach_volume(
            machine, changed(volume, target_wwn=(FAR_PORT, PORT), enforce_multipath=True)
        )
        assert len(mappings(driver, machine)) == 1
        clear(driver)


def test_keys_of_the_connection(driver: VmwareDriver, machine: UUID, volume: Volume) -> None:
    """The guest sees the sectors of a LUN itself; a virtual disk has its own, and is a VMDK."""
    sized = changed(volume, logical_block_size=512, physical_block_size=4096)
    driver.attach_volume(machine, sized)
    driver.detach_volume(machine, volume.volume_id)
    file = driver.create_volume(VolumeSpec(name="file", size_gib=1))
    for data in (
        {"logical_block_size": 4096},
        {"physical_block_size": 4096},
        {"format": ImageFormat.QCOW2},
    ):
        with pytest.raises(errors.NotSupported):
            driver.attach_volume(machine, changed(file, **data))
    driver.delete_volume(file.volume_id)


def test_it_grows(driver: VmwareDriver, machine: UUID, array: VcsimArray, volume: Volume) -> None:
    driver.attach_volume(machine, VolumeAttachment(volume=volume))
    with pytest.raises(errors.InvalidRequest, match=f"sees {SIZE} bytes") as caught:
        driver.extend_volume(machine, volume.volume_id, 2 * SIZE)
    assert "storage server first" in (caught.value.hint or "")
    array.grow(volume.volume_id, 2 * SIZE)
    hosts = len(driver.places.surroundings().hosts)
    grown = calls(driver, lambda: driver.extend_volume(machine, volume.volume_id, 2 * SIZE))
    assert grown == {READ: 4, "RescanHba": hosts}
    with pytest.raises(errors.NotSupported):
        driver.set_disk_qos(machine, volume.volume_id, DiskQos(total_iops_sec=100))


def test_other_connections(
    peer: VcsimPeer, driver: VmwareDriver, machine: UUID, array: VcsimArray, volume: Volume
) -> None:
    """A LUN in the place of a VMDK, and of a LUN; and the other way round."""
    disk = driver.create_volume(VolumeSpec(size_bytes=1 << 20))
    name = disk.volume_id
    driver.attach_volume(machine, VolumeAttachment(volume=disk))
    in_its_place = volume.model_copy(update={"serial": name})
    driver.reconnect(machine, volumes=(VolumeAttachment(volume=in_its_place),))
    assert len(mappings(driver, machine)) == 1
    with array.export(ISCSI) as third:
        again = third.model_copy(update={"serial": name})
        driver.reconnect(machine, volumes=(VolumeAttachment(volume=again),))
        (found,) = mappings(driver, machine)
        assert found.backing.deviceName.endswith(array.canonical(third.volume_id))
        assert len(told(peer)) == 1
        driver.reconnect(machine, volumes=(VolumeAttachment(volume=disk),))
    assert (mappings(driver, machine), told(peer)) == ([], set())
    driver.detach_volume(machine, name)
    driver.delete_volume(name)


def test_a_move_to_a_host_without_it(
    peer: VcsimPeer, driver: VmwareDriver, machine: UUID, volume: Volume
) -> None:
    assert (Capability.COLD_MIGRATION in driver.narrowed()) == (peer.mode == "esx")
    driver.attach_volume(machine, VolumeAttachment(volume=volume))
    driver.power_on(machine)
    row = driver.reader.one(driver.machines.get(machine).obj, "runtime.host")
    hosts = {
        each["name"]
        for each in driver.places.surroundings().hosts
        if each.obj != row["runtime.host"]
    }
    if peer.mode == "vpx":
        (other,) = hosts
        assert not driver.check_live_migration(machine, Destination(host=other)).blockers
        peer.ask("/lun", "DELETE", id=lun_name(driver, machine))
        for each in driver.places.surroundings().hosts:
            system = driver.reader.one(each.obj, "configManager.storageSystem")
            system["configManager.storageSystem"].RescanHba("vmhba67")
        plan = driver.check_live_migration(machine, Destination(host=other))
        assert [each.kind for each in plan.blockers] == [BlockerKind.STORAGE]
        assert other in plan.blockers[0].reason
        driver.destroy(machine)  # the array exports the LUN no more
        assert told(peer) == set()
    else:
        assert not hosts


def lun_name(driver: VmwareDriver, uuid: UUID) -> str:
    return str(mappings(driver, uuid)[0].backing.deviceName.rpartition("/")[2])


def test_a_mapping_of_another_client(
    peer: VcsimPeer, driver: VmwareDriver, machine: UUID, spec: SpecFactory, volume: Volume
) -> None:
    """Somebody's running machine has the LUN, without the driver."""
    driver.attach_volume(machine, VolumeAttachment(volume=volume))
    obj = driver.machines.get(machine).obj
    keys = [vim.option.OptionValue(key="hvdrivers.mark", value="")]
    driver.changes.reconfigure(obj, vim.vm.ConfigSpec(extraConfig=keys))
    driver.power.on(obj)
    with pytest.raises(errors.DeviceBusy):
        guarded(driver).spawn(spec(start=True, volumes=(VolumeAttachment(volume=volume),)))
    driver.power.off(obj)
    driver.tasks.run(obj.Destroy_Task, entity=obj)
    other = driver.spawn(spec()).uuid
    driver.attach_volume(other, VolumeAttachment(volume=volume))
    driver.detach_volume(other, volume.volume_id)  # its hosts log out
    assert told(peer) == set()


def test_the_connector(peer: VcsimPeer, driver: VmwareDriver, machine: UUID) -> None:
    """It names the ports of every host that must see a LUN, that of the machine first."""
    assert calls(driver, driver.get_volume_connector) == {READ: 1}
    assert calls(driver, lambda: driver.get_volume_connector(machine)) == {READ: 2}
    whole, mine = driver.get_volume_connector(), driver.get_volume_connector(machine)
    rows = driver.places.surroundings().hosts
    assert len(whole.wwpns) == len(rows)
    assert whole.to_cinder()["multipath"] is True
    assert set(whole.wwpns) == set(mine.wwpns)
    assert all(each.startswith("10000000c900") for each in whole.wwpns)
    row = driver.reader.one(driver.machines.get(machine).obj, "runtime.host")
    (host,) = (each for each in rows if each.obj == row["runtime.host"])
    assert mine.host == host["name"]
    assert (mine.initiator or "").endswith(f"hvct-{mine.wwpns[0][-1]}")


def test_a_lun_in_the_place_of_a_sata_disk(
    driver: VmwareDriver, machine: UUID, volume: Volume
) -> None:
    disk = driver.create_volume(VolumeSpec(size_bytes=1 << 20))
    limited = VolumeAttachment(volume=disk, bus=DiskBus.SATA, qos=DiskQos(total_iops_sec=100))
    driver.attach_volume(machine, limited)
    in_its_place = volume.model_copy(update={"serial": disk.volume_id})
    driver.reconnect(machine, volumes=(VolumeAttachment(volume=in_its_place),))
    (shown_now,) = driver.get_instance(machine).volumes
    assert (shown_now.bus, (shown_now.address or "")[:4]) == (DiskBus.SCSI, "scsi")
    (mapping,) = mappings(driver, machine)
    limit = mapping.storageIOAllocation
    assert limit is None or limit.limit in (None, -1)
    driver.detach_volume(machine, disk.volume_id)
    driver.delete_volume(disk.volume_id)


def test_a_snapshot_that_had_it(
    peer: VcsimPeer, driver: VmwareDriver, machine: UUID, volume: Volume
) -> None:
    """A revert brings back what has gone since, so the file of the mapping stays until the end."""
    driver.attach_volume(machine, VolumeAttachment(volume=volume))
    snapshot = driver.create_snapshot(machine, "had it")
    driver.detach_volume(machine, volume.volume_id)
    assert any(each.startswith("lun-") for each in files(driver, machine))
    driver.revert_snapshot(machine, snapshot.id)
    assert (shown(driver, machine), mappings(driver, machine), told(peer)) == ([], [], set())
    home = driver.folders.instance(machine)
    driver.destroy(machine)
    assert not driver.files.exists(f"{home}/root.vmdk")


@pytest.mark.parametrize("fault", [cut_before, cut_after])
def test_calls_that_are_cut(
    peer: VcsimPeer, driver: VmwareDriver, machine: UUID, volume: Volume, fault: Fault
) -> None:
    """Whatever breaks: what is done again comes to its end, and nothing of it is left."""
    before = files(driver, machine)
    attachment = VolumeAttachment(volume=volume)

    def attach() -> Any:
        return driver.attach_volume(machine, attachment)

    def detach() -> Any:
        return driver.detach_volume(machine, volume.volume_id)

    for operation, other in ((attach, detach), (detach, attach)):
        with driver.session.seam.counting() as made:
            operation()
        for number, name in enumerate(list(made), start=1):
            other()
            with (
                driver.session.seam.cut(fault, occurrence=number, repeats=3) as cut,
                suppress(errors.HypervisorError),
            ):
                operation()
            assert cut.struck, name
            operation()
            wanted = [volume.volume_id] if operation is attach else []
            assert shown(driver, machine) == wanted, name
    assert (shown(driver, machine), mappings(driver, machine)) == ([], [])
    attach()
    detach()
    assert (told(peer), files(driver, machine)) == (set(), before)


def test_a_reply_that_is_lost_to_what_may_be_done_twice(
    peer: VcsimPeer, driver: VmwareDriver, machine: UUID, volume: Volume
) -> None:
    """A host may look twice, and a folder may be there already: nothing is unknown after that."""
    for name in ("RescanHba", "MakeDirectory"):
        with driver.session.seam.cut(cut_after, name=name) as cut:
            driver.attach_volume(machine, VolumeAttachment(volume=volume))
        assert cut.struck
        assert shown(driver, machine) == [volume.volume_id]
        driver.detach_volume(machine, volume.volume_id)


@pytest.mark.parametrize("ends", ["detach", "destroy", "failure"])
def test_a_target_that_an_administrator_has_added_stays(
    peer: VcsimPeer, driver: VmwareDriver, machine: UUID, array: VcsimArray, ends: str
) -> None:
    """On one host of the cluster: hosts are logged out only of what the driver has told them."""
    with array.export(ISCSI) as volume:
        row, *_ = driver.reader.many([driver.places.surroundings().hosts[0].obj], *STORAGE)
        target = vim.host.InternetScsiHba.StaticTarget(
            address="192.0.2.7", port=3260, iScsiName=array.unit(volume.volume_id)["target"]
        )
        device = initiator_of(row).device
        row[SYSTEM].AddInternetScsiStaticTargets(device, [target])
        before = peer.ask("/targets")
        if ends == "failure":
            alone = {**array.unit(volume.volume_id), "host": row["name"]}
            array.add(volume.volume_id, **alone)
            wrong = changed(volume, wwn="naa.1")
            with pytest.raises(errors.VolumeNotFound):
                driver.attach_volume(machine, wrong)
            assert peer.ask("/targets") == before
        else:
            driver.attach_volume(machine, VolumeAttachment(volume=volume))
            if ends == "detach":
                driver.detach_volume(machine, volume.volume_id)
            else:
                driver.destroy(machine)
            assert peer.ask("/targets")[row["name"]] == before[row["name"]]
        for each in driver.places.surroundings().hosts:
            (system,) = driver.reader.many([each.obj], SYSTEM)
            with suppress(errors.HypervisorError):
                system[SYSTEM].RemoveInternetScsiStaticTargets(device, [target])
        clear(driver)


@pytest.mark.parametrize("ends", ["detach", "destroy", "reconnect"])
def test_a_reply_that_is_lost_to_what_detaches(
    peer: VcsimPeer, driver: VmwareDriver, machine: UUID, iscsi: Volume, ends: str
) -> None:
    """A call that is repeated does not know the LUN any more: the hosts log out at once."""
    driver.attach_volume(machine, VolumeAttachment(volume=iscsi))
    disk = driver.create_volume(VolumeSpec(size_bytes=1 << 20))
    in_its_place = disk.model_copy(update={"serial": iscsi.volume_id})
    run: dict[str, Callable[[], None]] = {
        "detach": lambda: driver.detach_volume(machine, iscsi.volume_id),
        "destroy": lambda: driver.destroy(machine),
        "reconnect": lambda: driver.reconnect(
            machine, volumes=(VolumeAttachment(volume=in_its_place),)
        ),
    }
    task = "Destroy_Task" if ends == "destroy" else "ReconfigVM_Task"
    with (
        driver.session.seam.cut(cut_after, name=task),
        pytest.raises(errors.OutcomeUnknown),
    ):
        run[ends]()
    run[ends]()
    assert told(peer) == set()
    clear(driver)
    driver.delete_volume(disk.volume_id)


@pytest.mark.parametrize("ends", ["detach", "destroy"])
def test_hosts_in_maintenance_log_out_too(
    peer: VcsimPeer, driver: VmwareDriver, machine: UUID, iscsi: Volume, ends: str
) -> None:
    driver.attach_volume(machine, VolumeAttachment(volume=iscsi))
    driver.enter_maintenance()
    if ends == "detach":
        driver.detach_volume(machine, iscsi.volume_id)
    else:
        driver.destroy(machine)
    driver.exit_maintenance()
    assert told(peer) == set()


def test_a_revert_to_before_the_attachment(
    peer: VcsimPeer, driver: VmwareDriver, machine: UUID, volume: Volume
) -> None:
    """The LUN stays attached, by the file that maps it."""
    snapshot = driver.create_snapshot(machine, "before it came")
    driver.attach_volume(machine, VolumeAttachment(volume=volume))
    (before,) = mappings(driver, machine)
    driver.revert_snapshot(machine, snapshot.id)
    (after,) = mappings(driver, machine)
    assert (after.backing.fileName, after.backing.lunUuid) == (
        before.backing.fileName,
        before.backing.lunUuid,
    )
    assert shown(driver, machine) == [volume.volume_id]
    driver.detach_volume(machine, volume.volume_id)
    assert told(peer) == set()


def test_two_starts_at_the_same_moment(
    peer: VcsimPeer, driver: VmwareDriver, spec: SpecFactory, volume: Volume
) -> None:
    attachment = VolumeAttachment(volume=volume)
    one, two = (driver.spawn(spec(volumes=(attachment,))).uuid for _ in range(2))
    meeting = Counter[str]()
    with closing(connected(peer)) as second:

        def between(name: str, send: Any, /) -> Any:
            meeting[name] += 1
            if name == "PowerOnVM_Task" and meeting[name] == 1:
                second.power_on(two)
            return send()

        with driver.session.seam.through(between), pytest.raises(errors.DeviceBusy):
            driver.power_on(one)
    states = {each.uuid: each.state.value for each in driver.list_instances()}
    assert states == {one: "stopped", two: "running"}


def test_boot_from_it(
    peer: VcsimPeer, driver: VmwareDriver, spec: SpecFactory, volume: Volume
) -> None:
    boots = VolumeAttachment(volume=volume, boot_index=0)
    uuid = driver.spawn(spec(image=None, start=True, volumes=(boots,))).uuid
    (mapping,) = mappings(driver, uuid)
    assert mapping.unitNumber == 0
    with pytest.raises(errors.InvalidRequest, match="boots from"):
        driver.detach_volume(uuid, volume.volume_id)
    driver.power_off(uuid)
    driver.power_on(uuid)
    driver.destroy(uuid)
    assert told(peer) == set()


def test_hosts_are_asked_at_once(
    peer: VcsimPeer, driver: VmwareDriver, machine: UUID, volume: Volume
) -> None:
    """Each takes seconds to look for its LUNs."""
    meeting = threading.Barrier(2 if peer.mode == "vpx" else 1, timeout=30)

    def between(name: str, send: Any, /) -> Any:
        if name == "RescanHba":
            meeting.wait()
        return send()

    with driver.session.seam.through(between):
        driver.attach_volume(machine, VolumeAttachment(volume=volume))
        driver.detach_volume(machine, volume.volume_id)
    assert told(peer) == set()
