"""Text of tenants, and what others do to our machines."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from pydantic import ValidationError
from pyVmomi import vim, vmodl

from hvdrivers.contract import errors
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.models.image import ImageRef
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import NetworkVif
from hvdrivers.models.volume import VolumeAttachment, VolumeSpec
from hvdrivers.vmware.config import VmwareConfig
from hvdrivers.vmware.conformance.raw_server import RawServer
from hvdrivers.vmware.driver import VmwareDriver
from hvdrivers.vmware.errors import translate
from hvdrivers.vmware.names import escaped
from tests.integration.vmware.conftest import SpecFactory, connected
from tests.peers.fixtures import started
from tests.peers.vcsim import VcsimPeer

NAMES = [
    "a/b\\c%d",
    "%2f%5c%25",
    "[LocalDS_0] ../../etc",
    "<x>&amp;]]>",
    "x" * 63,
    "ü" * 63,
    'hvdrivers.mark="x"',
    "%" * 63,
]


@pytest.mark.parametrize("name", NAMES)
def test_names_come_back(driver: VmwareDriver, spec: SpecFactory, name: str) -> None:
    info = driver.spawn(spec(name=name, metadata={"a.b/c": f"{name}\n\t\u2028\ufffe"}))
    assert driver.get_instance(info.uuid).name == name
    assert driver.get_instance(info.uuid).metadata == {"a.b/c": f"{name}\n\t\u2028\ufffe"}
    driver.rename(info.uuid, name[::-1])
    assert [each.name for each in driver.list_instances()] == [name[::-1]]
    driver.destroy(info.uuid)


def test_two_instances_may_have_one_name(driver: VmwareDriver, spec: SpecFactory) -> None:
    made = [driver.spawn(spec(name="same")).uuid for _ in range(2)]
    assert [each.name for each in driver.list_instances()] == ["same", "same"]
    for uuid in made:
        driver.destroy(uuid)


@pytest.mark.parametrize("name", ["a/b\\c%d", "[LocalDS_0] x", "ü" * 63, '{"hvdrivers": 1}'])
def test_snapshots_of_any_name(driver: VmwareDriver, spec: SpecFactory, name: str) -> None:
    uuid = driver.spawn(spec()).uuid
    assert driver.create_snapshot(uuid, name).name == name
    with pytest.raises(errors.InvalidRequest):
        driver.create_snapshot(uuid, name)
    (found,) = driver.list_snapshots(uuid)
    assert found.name == name
    driver.revert_snapshot(uuid, found.id)
    driver.destroy(uuid)


@pytest.mark.parametrize("name", ["10.0.0.0/8", "a%2fb", "x\\y"])
def test_networks_of_any_name(
    peer: VcsimPeer, driver: VmwareDriver, spec: SpecFactory, name: str
) -> None:
    server = RawServer(VmwareConfig(**peer.options))
    with _network(server, name):
        uuid = driver.spawn(spec(vifs=(NetworkVif(id="eth0", network=name),))).uuid
        assert [each.id for each in driver.get_instance(uuid).vifs] == ["eth0"]
        driver.destroy(uuid)
    server.drop()


def test_places_of_any_name(spec: SpecFactory) -> None:
    """The server stores a slash as %2f; who configures the driver writes it as the client shows."""
    with started(lambda: VcsimPeer("vpx")) as peer:
        server = RawServer(VmwareConfig(**peer.options))
        cluster = server.read(vim.ClusterComputeResource, "name")[0][0]
        # the simulator stores what it is given
        server.wait(cluster.Rename_Task(escaped("a/b\\c%d")))
        pool = server.of(cluster, "resourcePool")["resourcePool"]
        limits = vim.ResourceAllocationInfo(
            reservation=0,
            expandableReservation=True,
            limit=-1,
            shares=vim.SharesInfo(level="normal", shares=0),
        )
        config = vim.ResourceConfigSpec(cpuAllocation=limits, memoryAllocation=limits)
        pool.CreateResourcePool(escaped("p/q"), config)
        server.drop()
        for name, inside in (("a/b\\c%d", "p/q"), ("a%2fb%5cc%25d", "p%2fq")):
            with closing(connected(peer, compute=name, resource_pool=inside)) as driver:
                driver.destroy(driver.spawn(spec()).uuid)


@contextmanager
def _network(server: RawServer, name: str) -> Iterator[None]:
    """A port group: distributed on a vCenter, standard on a host."""
    switches = server.read(vim.DistributedVirtualSwitch, "name")
    if switches:
        spec = vim.dvs.DistributedVirtualPortgroup.ConfigSpec(name=name, type="earlyBinding")
        server.wait(switches[0][0].AddDVPortgroup_Task([spec]))
        groups = server.read(vim.dvs.DistributedVirtualPortgroup, "name")
        group = next(obj for obj, values in groups if values["name"] in (name, escaped(name)))
        yield
        server.wait(group.Destroy_Task())
        return
    host, _ = server.read(vim.HostSystem, "name")[0]
    system = server.of(host, "configManager.networkSystem")["configManager.networkSystem"]
    group = vim.host.PortGroup.Specification(
        name=name, vlanId=0, vswitchName="vSwitch0", policy=vim.host.NetworkPolicy()
    )
    system.AddPortGroup(group)
    yield
    system.RemovePortGroup(name)


@pytest.mark.parametrize("name", ["a b", "ü%25", "[x] y", "a+b&c=d"])
def test_volumes_of_any_name(driver: VmwareDriver, spec: SpecFactory, name: str) -> None:
    volume = driver.create_volume(VolumeSpec(name=name, size_bytes=1 << 20))
    (listed,) = driver.list_volumes()
    assert listed.name == name
    assert driver.get_volume(volume.volume_id) == listed
    with pytest.raises(errors.VolumeExists):
        driver.create_volume(VolumeSpec(name=name, size_bytes=1 << 20))
    info = driver.spawn(spec(volumes=(VolumeAttachment(volume=volume),)))
    assert info.volumes[0].size_bytes == 1 << 20
    driver.destroy(info.uuid)
    driver.delete_volume(volume.volume_id)
    assert driver.list_volumes() == []


@pytest.mark.parametrize(
    "name", ["x" * 10_000, "ü" * 300, "../../etc", "a/b", "\0", "", "hv-deleting-x", "x-flat"]
)
def test_volumes_that_cannot_be_there(driver: VmwareDriver, name: str) -> None:
    """No volume has such a name: it is gone already, and the server is not asked about it."""
    with driver.session.seam.counting() as calls:
        driver.delete_volume(f"LocalDS_0/{name}")
    assert set(calls) == {"RetrievePropertiesEx"}
    with pytest.raises(errors.VolumeNotFound):
        driver.get_volume(f"LocalDS_0/{name}")


def test_half_a_surrogate_pair_in_a_password(
    peer: VcsimPeer, caplog: pytest.LogCaptureFixture
) -> None:
    """The configuration refuses it. The encoder's own error would have the whole request in it, and
    so the password."""
    caplog.set_level(logging.DEBUG)
    secret = "hvct-secret"
    with pytest.raises(ValidationError, match="surrogate") as caught:
        connected(peer, password=f"{secret}\ud800")
    error: BaseException | None = caught.value
    while error is not None:
        assert secret not in f"{error!r} {error}"
        error = error.__cause__ or error.__context__
    assert secret not in caplog.text


@pytest.mark.parametrize("mac", ["00:0c:29:e7:c9:ec", "00:50:56:40:00:00", "00:50:56:FF:00:01"])
def test_mac_address_that_vsphere_keeps_for_itself(
    driver: VmwareDriver, spec: SpecFactory, mac: str
) -> None:
    """A machine that is given one does not start: it is refused before anything is made."""
    vif = NetworkVif(id="n", network="VM Network", address=mac)
    with pytest.raises(errors.InvalidRequest, match="keeps the MAC address"):
        driver.spawn(spec(vifs=(vif,)))
    fine = vif.model_copy(update={"address": "00:50:56:3f:ff:ff"})
    uuid = driver.spawn(spec(vifs=(fine,))).uuid
    other = vif.model_copy(update={"id": "other"})
    for refused in (
        lambda: driver.plug_vif(uuid, other),
        lambda: driver.reconnect(uuid, vifs=(vif,)),
    ):
        with pytest.raises(errors.InvalidRequest, match="keeps the MAC address"):
            refused()
    (there,) = driver.get_instance(uuid).vifs
    assert there.address == "00:50:56:3f:ff:ff"
    driver.destroy(uuid)


@pytest.mark.parametrize("ends", ["power_off", "destroy", "rebuild"])
def test_machine_that_waits_with_a_question(
    driver: VmwareDriver, spec: SpecFactory, image: ImageRef, ends: str
) -> None:
    """Its datastore has no room. The server does not switch it off until it has its answer."""
    info = driver.spawn(spec(start=True))
    choices = [
        vim.ElementDescription(key="0", label="button.retry", summary="Retry"),
        vim.ElementDescription(key="1", label="button.abort", summary="Cancel"),
    ]
    question = vim.vm.QuestionInfo(
        id="42",
        text="msg.hbacommon.outofspace: There is no more space for virtual disk root.vmdk.",
        choice=vim.option.ChoiceOption(choiceInfo=choices, defaultIndex=0),
    )
    answers: list[tuple[str, str]] = []

    def waits(name: str, send: Callable[[], Any]) -> Any:
        if name == "PowerOffVM_Task" and not answers:
            fault = vim.fault.QuestionPending(text=question.text)
            raise translate(fault) from fault
        result = send()
        for each in getattr(result, "objects", None) or ():
            if not answers and not each.missingSet and not each.propSet:
                each.propSet = [vmodl.DynamicProperty(name="runtime.question", val=question)]
        return result

    def answer(obj: Any, question_id: str, choice: str) -> None:
        answers.append((question_id, choice))

    with pytest.MonkeyPatch.context() as patch, driver.session.seam.through(waits):
        patch.setattr(vim.VirtualMachine, "AnswerVM", answer)
        if ends == "power_off":
            driver.power_off(info.uuid)
            assert driver.get_instance(info.uuid).state is InstanceState.STOPPED
        elif ends == "rebuild":
            driver.rebuild(info.uuid, image)
            assert driver.get_instance(info.uuid).state is InstanceState.RUNNING
        driver.destroy(info.uuid)
    assert answers == [("42", "1")]
    assert driver.list_instances() == []


def test_a_clone_of_our_machine_is_not_ours(driver: VmwareDriver, spec: SpecFactory) -> None:
    from pyVmomi import vim

    info = driver.spawn(spec())
    server = RawServer(driver.config)
    obj = server.machine(info.uuid)
    found = server.of(obj, "parent", "resourcePool", "config.extraConfig", "datastore")
    folder = found["parent"]
    if driver.places.get().is_vcenter:
        clone = vim.vm.CloneSpec(location=vim.vm.RelocateSpec(), powerOn=False, template=False)
        copy = server.wait(obj.CloneVM_Task(folder, "copy", clone))
    else:  # ESXi clones nothing: a copy is made by hand, with the options of the first
        datastore = server.of(found["datastore"][0], "name")["name"]
        by_hand = vim.vm.ConfigSpec(
            name="copy",
            guestId="otherGuest",
            numCPUs=1,
            memoryMB=64,
            files=vim.vm.FileInfo(vmPathName=f"[{datastore}]"),
            extraConfig=found["config.extraConfig"],
        )
        copy = server.wait(folder.CreateVM_Task(by_hand, pool=found["resourcePool"]))
    assert [each.uuid for each in driver.list_instances()] == [info.uuid]
    foreign = driver.list_foreign()
    assert [each.name for each in foreign] == ["copy"]
    with pytest.raises(errors.InstanceNotFound):
        driver.destroy(foreign[0].uuid)
    server.wait(copy.Destroy_Task())
    driver.destroy(info.uuid)
    server.drop()


def test_a_network_that_is_not_there_is_found_out_before_the_server_is_asked(
    driver: VmwareDriver, spec: SpecFactory
) -> None:
    """The simulator dies of it."""
    vif = NetworkVif(id="v", network="no such network")
    with (
        driver.session.seam.counting() as calls,
        pytest.raises(errors.NetworkNotFound),
    ):
        driver.spawn(spec(vifs=(vif,)))
    assert "CreateVM_Task" not in calls


def test_destroy_leaves_volumes_that_the_record_does_not_know(
    driver: VmwareDriver, spec: SpecFactory
) -> None:
    from pyVmomi import vim

    volume = driver.create_volume(VolumeSpec(name="kept", size_bytes=1 << 20))
    info = driver.spawn(spec(volumes=(VolumeAttachment(volume=volume),)))
    server = RawServer(driver.config)
    value = vim.option.OptionValue(key="hvdrivers.devices", value="broken")
    config = vim.vm.ConfigSpec(extraConfig=[value])
    server.wait(server.machine(info.uuid).ReconfigVM_Task(config))
    with pytest.raises(errors.HypervisorFault, match="damaged"):
        driver.get_instance(info.uuid)
    driver.destroy(info.uuid)
    assert [each.name for each in driver.list_volumes()] == ["kept"]
    driver.delete_volume(volume.volume_id)
    server.drop()


def test_two_nics_never_have_one_address(guarded_driver: ComputeDriver, spec: SpecFactory) -> None:
    """The driver knows a NIC by its address: of two with the same one it lost the first."""
    mac, other = "52:54:00:00:00:01", "52:54:00:00:00:02"

    def nic(name: str, address: str | None = None) -> NetworkVif:
        return NetworkVif(id=name, network="VM Network", address=address)

    driver = guarded_driver
    refused = spec(vifs=(nic("a", mac), nic("b", mac.upper())))
    with pytest.raises(errors.InvalidRequest, match="two NICs"):
        driver.spawn(refused)
    assert refused.uuid not in {each.uuid for each in driver.list_instances()}
    uuid = driver.spawn(spec(vifs=(nic("a", mac), nic("b", other)))).uuid
    before = driver.get_instance(uuid).vifs
    new = "52:54:00:00:00:03"
    with pytest.raises(errors.DeviceBusy, match="MAC address"):
        driver.reconnect(uuid, vifs=(nic("a", new), nic("b", new)))
    with pytest.raises(errors.DeviceBusy, match="MAC address"):
        driver.reconnect(uuid, vifs=(nic("a"), nic("b", mac)))
    with pytest.raises(errors.InvalidRequest, match="twice"):
        driver.reconnect(uuid, vifs=(nic("a", new), nic("a", other)))
    assert driver.get_instance(uuid).vifs == before
    driver.destroy(uuid)
