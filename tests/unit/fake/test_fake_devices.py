"""Volumes and NICs."""

from __future__ import annotations

import pytest
from fakery import CIRROS, bridge_nic, build, chap, local, nic, pooled, rbd, spec
from pydantic import SecretBytes

from hvdrivers.contract import errors
from hvdrivers.fake import FakeHost, HostSize, ManualClock
from hvdrivers.models.instance import PciRequest, VgpuRequest
from hvdrivers.models.pci import PciAddress
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import (
    Bandwidth,
    DvsVif,
    HostdevVif,
    HypervVif,
    MacvtapVif,
    OvsVif,
    TapVif,
    UserVif,
    VdpaVif,
    VhostUserVif,
    VifQos,
)
from hvdrivers.models.volume import (
    DiskBus,
    DiskQos,
    FcdVolume,
    NfsVolume,
    SmbfsVolume,
    VmdkVolume,
    VolumeAttachment,
    VolumeEncryption,
    VolumeSpec,
)

R, S = InstanceState.RUNNING, InstanceState.STOPPED
SERVED = [
    rbd("v"),
    chap("v"),
    VolumeAttachment(volume=NfsVolume(serial="v", data={"export": "nas:/x", "name": "f"})),
    VolumeAttachment(
        volume=SmbfsVolume(
            serial="v",
            data={"export": "//nas/x", "name": "f", "options": "-o username=u,password=p4ss"},
        )
    ),
    VolumeAttachment(volume=VmdkVolume(serial="v", data={"volume": "vm-1"})),
    VolumeAttachment(volume=FcdVolume(serial="v", data={"id": "d", "ds_ref_val": "ds"})),
]


@pytest.mark.parametrize("attachment", SERVED, ids=lambda a: a.volume.driver_volume_type)
@pytest.mark.parametrize("state", [R, S, InstanceState.PAUSED], ids=str)
def test_attach_and_detach(host, driver, attachment, state):
    uuid = build(host, driver, state)
    before = host.inventory()
    attached = driver.attach_volume(uuid, attachment)
    assert attached.volume_id == "v"
    assert driver.get_instance(uuid).volumes == (attached,)
    assert driver.attach_volume(uuid, attachment) == attached
    if state is InstanceState.PAUSED:
        driver.unpause(uuid)
    driver.detach_volume(uuid, "v")
    driver.detach_volume(uuid, "v")
    if state is InstanceState.PAUSED:
        driver.pause(uuid)
    assert host.inventory() == before


def test_local_and_pool_volumes_must_exist(host, driver):
    uuid = build(host, driver, R)
    driver.attach_volume(uuid, local())
    with pytest.raises(errors.VolumeNotFound):
        driver.attach_volume(uuid, local("/dev/none", "x"))
    with pytest.raises(errors.VolumeNotFound):
        driver.attach_volume(uuid, pooled("none"))
    driver.create_volume(VolumeSpec(name="there", size_gib=1))
    assert driver.attach_volume(uuid, pooled("there")).volume_id == "default/there"


def test_any_volume_and_network_can_be_accepted():
    host = FakeHost(clock=ManualClock(), accept_any_volume=True, accept_any_network=True)
    with host.connect() as driver:
        uuid = build(host, driver, R)
        driver.attach_volume(uuid, local("/dev/none", "x"))
        driver.attach_volume(uuid, pooled("none"))
        driver.attach_volume(uuid, pooled("none", pool="nowhere"))
        driver.plug_vif(uuid, bridge_nic(bridge="anything"))


def test_a_lost_volume(host, driver):
    uuid = build(host, driver, R)
    host.lose_volume("gone")
    with pytest.raises(errors.VolumeNotFound):
        driver.attach_volume(uuid, rbd("gone"))


def test_one_machine_at_a_time(host, driver):
    first, second = (build(host, driver, R) for _ in range(2))
    driver.attach_volume(first, rbd("v"))
    before = host.inventory()
    with pytest.raises(errors.DeviceBusy):
        driver.attach_volume(second, rbd("v"))
    with pytest.raises(errors.DeviceBusy):
        driver.attach_volume(second, rbd("v", multiattach=True))
    host.add_foreign(volumes=("theirs",))
    with pytest.raises(errors.DeviceBusy):
        driver.attach_volume(second, rbd("theirs"))
    driver.detach_volume(first, "v")
    driver.attach_volume(second, rbd("v"))
    driver.detach_volume(second, "v")
    driver.attach_volume(first, rbd("v"))
    assert [i for i in host.inventory().items if i.owner == second] == [
        i for i in before.items if i.owner == second
    ]


def test_several_machines_where_the_volume_allows_it(host, driver):
    for _ in range(2):
        driver.attach_volume(build(host, driver, R), rbd("shared", multiattach=True))


def test_disk_slots_run_out():
    host = FakeHost(size=HostSize(disk_slots=2, nic_slots=1), clock=ManualClock())
    with host.connect() as driver:
        uuid = build(host, driver, R)
        driver.attach_volume(uuid, rbd("a"))
        driver.attach_volume(uuid, rbd("b"))
        with pytest.raises(errors.InsufficientResources):
            driver.attach_volume(uuid, rbd("c"))
        driver.plug_vif(uuid, nic("a"))
        with pytest.raises(errors.InsufficientResources):
            driver.plug_vif(uuid, nic("b"))
        with pytest.raises(errors.InsufficientResources):
            driver.spawn(spec(volumes=tuple(map(rbd, "xyz")), image=CIRROS))
        with pytest.raises(errors.InsufficientResources):
            driver.spawn(spec(vifs=(nic("x"), nic("y"))))
        driver.detach_volume(uuid, "a")
        driver.attach_volume(uuid, rbd("c"))


def test_device_names(host, driver):
    uuid = build(host, driver, R)
    names = [
        driver.attach_volume(uuid, attachment).device
        for attachment in (
            rbd("a"),
            rbd("b", device="vdz"),
            rbd("c", bus=DiskBus.SCSI),
            rbd("d", bus=DiskBus.NVME),
            rbd("e", bus=DiskBus.IDE),
            rbd("f", device_type="cdrom"),
            rbd("g", device="vdz"),
        )
    ]
    assert names == ["vdb", "vdz", "sda", "nvme0n1", "hda", "sdb", "vdc"]


def test_a_guest_that_does_not_let_go(host, driver, clock):
    uuid = build(host, driver, R, volumes=(rbd(),), vifs=(nic(),), image=CIRROS)
    before = host.inventory()
    host.guest(uuid).refuses_unplug = True
    with pytest.raises(errors.DeviceBusy, match="refuses"):
        driver.detach_volume(uuid, "vol-1")
    with pytest.raises(errors.DeviceBusy, match="refuses"):
        driver.unplug_vif(uuid, "nic-1")
    host.guest(uuid).refuses_unplug = False
    host.guest(uuid).detach_seconds = 30
    with pytest.raises(errors.DeviceBusy, match="deadline"):
        driver.detach_volume(uuid, "vol-1", timeout=5)
    with pytest.raises(errors.DeviceBusy, match="deadline"):
        driver.unplug_vif(uuid, "nic-1", timeout=5)
    assert host.inventory() == before
    began = clock.now()
    driver.detach_volume(uuid, "vol-1")
    assert clock.now() - began == 30
    driver.power_off(uuid)
    driver.unplug_vif(uuid, "nic-1")
    assert clock.now() - began == 30  # a stopped guest need not be asked


def test_secrets_are_kept_while_they_are_needed_and_shown_nowhere(host, driver, caplog):
    uuid = build(host, driver, R)
    encrypted = rbd(
        "luks", encryption=VolumeEncryption(provider="luks", secret=SecretBytes(b"pass-phrase"))
    )
    driver.attach_volume(uuid, chap("c", password="chap-pass-word"))
    driver.attach_volume(uuid, encrypted)
    inventory = host.inventory()
    assert len(inventory.kind("secret")) == 2
    text = f"{inventory!r} {host!r} {driver!r} {caplog.text} {host.transcript()!r}"
    assert "pass-phrase" not in text
    assert b"pass-phrase".hex() not in text
    assert "chap-pass-word" not in text
    driver.detach_volume(uuid, "c")
    driver.detach_volume(uuid, "luks")
    assert host.inventory().kind("secret") == frozenset()


def test_a_key_that_nobody_has_resolved(host, driver):
    uuid = build(host, driver, R)
    before = host.inventory()
    with pytest.raises(errors.InvalidRequest, match="passphrase"):
        driver.attach_volume(
            uuid, rbd(encryption=VolumeEncryption(provider="luks", encryption_key_id="key-1"))
        )
    assert host.inventory() == before
    back = VolumeEncryption(provider="luks", control_location="back-end")
    driver.attach_volume(uuid, rbd(encryption=back))


def test_extend(host, driver):
    uuid = build(host, driver, R, volumes=(rbd(),), image=CIRROS)
    host.resize_volume("vol-1", 5 << 30)
    assert driver.get_instance(uuid).volumes[0].size_bytes == 1 << 30
    driver.extend_volume(uuid, "vol-1", 5 << 30)
    assert driver.get_instance(uuid).volumes[0].size_bytes == 5 << 30
    with pytest.raises(errors.InvalidRequest):
        driver.extend_volume(uuid, "vol-1", 1 << 30)
    with pytest.raises(errors.VolumeNotFound):
        driver.extend_volume(uuid, "other", 1 << 30)


def test_swap(host, driver):
    uuid = build(host, driver, R, volumes=(rbd("old", boot_index=0),))
    host.write_disk(uuid, "precious", disk="old")
    content = host.disk_content(uuid, "old")
    host.add_volume("small", size_gib=0)
    with pytest.raises(errors.InvalidRequest):
        driver.swap_volume(uuid, "old", rbd("small"))
    seen = []
    host.latency["swap_volume"] = 10
    attached = driver.swap_volume(uuid, "old", rbd("new"), progress=seen.append)
    assert [p.done for p in seen] == [25, 50, 75, 100]
    assert (attached.volume_id, attached.boot_index) == ("new", 0)
    assert driver.get_instance(uuid).volumes == (attached,)
    assert host.disk_content(uuid, "new") == content
    with pytest.raises(errors.VolumeNotFound):
        driver.swap_volume(uuid, "old", rbd("new"))
    with pytest.raises(errors.InvalidRequest):
        driver.swap_volume(uuid, "new", rbd("new"))
    other = build(host, driver, R)
    driver.attach_volume(other, rbd("old"))  # it is free again


def test_disk_qos(host, driver):
    uuid = build(host, driver, R, volumes=(rbd(),), image=CIRROS)
    before = host.inventory()
    driver.set_disk_qos(uuid, "vol-1", DiskQos(total_iops_sec=5))
    assert host.inventory() != before
    driver.set_disk_qos(uuid, "vol-1", None)
    assert host.inventory() == before
    with pytest.raises(errors.VolumeNotFound):
        driver.set_disk_qos(uuid, "other", None)


def test_migrate_storage(host, driver):
    uuid = build(host, driver, R)
    host.write_disk(uuid, "data")
    driver.migrate_storage(uuid, "fast")
    driver.migrate_storage(uuid, "fast")
    assert host.disk_content(uuid)[-1] == "write:data"
    assert {item.id.partition(":")[0] for item in host.inventory().kind("disk")} == {"fast"}
    with pytest.raises(errors.VolumeNotFound):
        driver.migrate_storage(uuid, "none")
    full = build(host, driver, S, flavor=spec().flavor.model_copy(update={"disk_gib": 300}))
    before = host.inventory()
    with pytest.raises(errors.InsufficientResources):
        driver.migrate_storage(full, "fast")
    assert host.inventory() == before


def test_volume_connector(driver, host):
    connector = driver.get_volume_connector()
    assert connector.host == "alpha"
    assert connector.initiator
    assert driver.get_volume_connector(build(host, driver, R)) == connector


VIFS = [
    (nic("v"), ("network", "default")),
    (bridge_nic("v"), ("bridge", "br0")),
    (OvsVif(id="v", bridge="br-int"), ("ovs", "br-int")),
    (MacvtapVif(id="v", source="eth0"), ("macvtap", "eth0")),
    (DvsVif(id="v", port_group="VM Network"), ("dvs", "VM Network")),
    (HypervVif(id="v", switch="External"), ("hyperv", "External")),
    (TapVif(id="v"), None),
    (UserVif(id="v"), None),
    (VhostUserVif(id="v", socket="/run/vhu", mode="server"), None),
    (VdpaVif(id="v", device="/dev/vhost-vdpa-0"), None),
    (MacvtapVif(id="v", pci_address=PciAddress("0000:03:10.1")), None),
    (HostdevVif(id="v", pci_address=PciAddress("0000:03:10.0")), None),
]


@pytest.mark.parametrize(("vif", "network"), VIFS, ids=lambda v: getattr(v, "type", ""))
@pytest.mark.parametrize("state", [R, S], ids=str)
def test_plug_and_unplug(host, driver, vif, network, state):
    uuid = build(host, driver, state)
    before = host.inventory()
    if network is not None:
        host.remove_network(*network)
        with pytest.raises(errors.NetworkNotFound):
            driver.plug_vif(uuid, vif)
        assert host.inventory() == before
        host.add_network(*network)
    attached = driver.plug_vif(uuid, vif)
    assert (attached.id, attached.type, attached.address) == (
        "v",
        vif.type,
        vif.within(uuid).mac,
    )
    assert driver.get_instance(uuid).vifs == (attached,)
    assert driver.plug_vif(uuid, vif) == attached
    driver.unplug_vif(uuid, "v")
    driver.unplug_vif(uuid, "v")
    assert host.inventory() == before


def test_a_port_or_mac_belongs_to_one_machine(host, driver):
    first, second = (build(host, driver, R) for _ in range(2))
    port = "b679325f-ca89-4ee0-a8be-6db1409b69ea"
    driver.plug_vif(first, nic(port, address="52:54:00:00:00:01"))
    for vif in (nic(port), nic("b", address="52:54:00:00:00:01")):
        with pytest.raises(errors.DeviceBusy):
            driver.plug_vif(second, vif)
    driver.unplug_vif(first, port)
    driver.plug_vif(second, nic(port))


def test_a_virtual_function_belongs_to_one_machine(host, driver):
    first, second = (build(host, driver, R) for _ in range(2))
    vif = HostdevVif(id="a", pci_address=PciAddress("0000:03:10.0"))
    driver.plug_vif(first, vif)
    with pytest.raises(errors.InsufficientResources):
        driver.plug_vif(second, vif.model_copy(update={"id": "b"}))
    with pytest.raises(errors.InsufficientResources):
        driver.spawn(spec(pci_devices=(PciRequest(address=PciAddress("0000:03:00.0")),)))
    driver.destroy(first)
    driver.plug_vif(second, vif.model_copy(update={"id": "b"}))


def test_a_representor_is_not_for_a_remote_driver(host, driver):
    uuid = build(host, driver, R)
    with pytest.raises(errors.NotSupported, match="host itself"):
        driver.plug_vif(
            uuid,
            HostdevVif(
                id="a", pci_address=PciAddress("0000:03:10.0"), offload={"interface_id": "p"}
            ),
        )


def test_vif_qos(host, driver):
    uuid = build(host, driver, R, vifs=(nic(),))
    before = host.inventory()
    driver.set_vif_qos(uuid, "nic-1", VifQos(outbound=Bandwidth(average=1)))
    assert host.inventory() != before
    driver.set_vif_qos(uuid, "nic-1", None)
    assert host.inventory() == before
    with pytest.raises(errors.NetworkNotFound):
        driver.set_vif_qos(uuid, "other", None)


def test_gpus_and_their_slices(host, driver):
    gpu = PciRequest(address=PciAddress("0000:17:00.0"))
    first = build(host, driver, S, pci_devices=(gpu,))
    with pytest.raises(errors.InsufficientResources):
        driver.spawn(spec(pci_devices=(gpu,)))
    with pytest.raises(errors.InsufficientResources):
        driver.spawn(spec(vgpus=(VgpuRequest(type="fake-4q"),) * 5))
    assert len(host.inventory().kind("device")) == 1
    build(host, driver, S, vgpus=(VgpuRequest(type="fake-4q"),) * 3)
    left = next(d for d in driver.get_available_resource().devices if d.mediated_types)
    assert left.mediated_types[0].available == 1
    parent = PciAddress("0000:65:00.0")
    build(host, driver, S, vgpus=(VgpuRequest(type="fake-4q", parent=parent),))
    with pytest.raises(errors.InsufficientResources):
        driver.spawn(spec(pci_devices=(PciRequest(address=parent),)))
    driver.destroy(first)
    build(host, driver, S, pci_devices=(gpu,))


def test_write_to_a_disk_that_is_not_there(host, driver):
    uuid = build(host, driver, R)
    with pytest.raises(errors.VolumeNotFound):
        host.write_disk(uuid, "x", disk="none")
