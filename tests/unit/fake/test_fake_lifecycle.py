"""Machines come, change and go."""

from __future__ import annotations

from uuid import uuid4

import pytest
from fakery import CIRROS, DEBIAN, SMALL, build, chap, nic, pooled, rbd, spec, state_of

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, declared
from hvdrivers.contract.driver import OPERATIONS
from hvdrivers.fake import FakeConfig, FakeDriver, FakeHost, HostSize, ManualClock
from hvdrivers.models.cloudinit import CloudInit
from hvdrivers.models.image import HostImage
from hvdrivers.models.instance import CpuPolicy, Firmware, Flavor, Keep, PciRequest, VgpuRequest
from hvdrivers.models.pci import PciAddress
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import VolumeSpec

R, S = InstanceState.RUNNING, InstanceState.STOPPED


def test_it_declares_every_capability():
    assert declared(FakeDriver) == set(Capability)


def test_it_has_every_operation():
    derived = {name for name, rules in OPERATIONS.items() if rules.derived}
    assert {name for name in OPERATIONS if hasattr(FakeDriver, name)} == set(OPERATIONS) - derived


@pytest.mark.parametrize("capability", sorted(Capability))
def test_each_capability_can_be_switched_off(host, capability):
    with host.connect(without={capability: "not here"}) as driver:
        assert capability not in driver.capabilities
        assert driver.why_not(capability) == "not here"
        assert len(driver.capabilities) == len(Capability) - 1


def test_an_operation_that_is_switched_off_changes_nothing(host):
    with host.connect(without={Capability.PAUSE: "no pause here"}) as driver:
        uuid = build(host, driver, R)
        before = host.inventory()
        with pytest.raises(errors.NotSupported, match="no pause here"):
            driver.pause(uuid)
        assert host.inventory() == before


def test_hot_rename_is_checked_by_the_driver(host):
    with host.connect(without={Capability.HOT_RENAME: "stop it first"}) as driver:
        uuid = build(host, driver, R)
        with pytest.raises(errors.NotSupported, match="stop it first"):
            driver.rename(uuid, "other")
        driver.power_off(uuid)
        driver.rename(uuid, "other")
        assert driver.get_instance(uuid).name == "other"


def test_spawn_gives_what_was_asked_for(host, driver):
    flavor = Flavor(vcpus=2, memory_mib=1024, disk_gib=2, ephemeral_gib=1, swap_mib=128)
    wanted = spec(
        name="web 1",
        flavor=flavor,
        vifs=(nic("a"), nic("b")),
        volumes=(rbd("data"),),
        metadata={"owner": "me"},
        firmware=Firmware.UEFI,
        vtpm=True,
        cloud_init=CloudInit(user_data=b"#!/bin/sh\n", hostname="web1"),
    )
    info = driver.spawn(wanted)
    assert info == driver.get_instance(wanted.uuid)
    assert (info.uuid, info.name, info.state, info.flavor) == (wanted.uuid, "web 1", R, flavor)
    assert info.metadata == {"owner": "me"}
    assert info.firmware is Firmware.UEFI
    assert [vif.id for vif in info.vifs] == ["a", "b"]
    assert [volume.volume_id for volume in info.volumes] == ["data"]
    assert info.image == CIRROS.cache_key()
    kinds = {item.kind for item in host.inventory().of(wanted.uuid)}
    assert kinds == {"machine", "disk", "nvram", "tpm", "port", "lock"}
    disks = {item.id.rpartition("/")[2] for item in host.inventory().kind("disk")}
    assert disks == {"root", "ephemeral", "swap", "seed"}
    assert host.seed_files(wanted.uuid)["user-data"] == b"#!/bin/sh\n"
    assert [each.summary() for each in [info]] == list(driver.list_instances())

    driver.destroy(wanted.uuid)
    assert host.inventory().without_cache().items == frozenset()


def test_spawn_without_start(host, driver):
    wanted = spec(start=False)
    assert driver.spawn(wanted).state is S
    assert host.console(wanted.uuid) == b""
    driver.power_on(wanted.uuid)
    assert b"Booting" in host.console(wanted.uuid)


def test_the_uuid_is_taken_once(host, driver):
    wanted = spec()
    driver.spawn(wanted)
    before = host.inventory()
    with pytest.raises(errors.InstanceExists):
        driver.spawn(wanted)
    foreign = host.add_foreign()
    with pytest.raises(errors.InstanceExists):
        driver.spawn(spec(uuid=foreign))
    host.remove_foreign(foreign)
    assert host.inventory() == before


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"image": HostImage(name="nothing")}, errors.VolumeNotFound),
        ({"flavor": Flavor(vcpus=1, memory_mib=512, disk_gib=4096)}, errors.InsufficientResources),
        ({"flavor": Flavor(vcpus=1, memory_mib=1 << 20)}, errors.InsufficientResources),
        ({"flavor": Flavor(vcpus=64, memory_mib=512)}, errors.InsufficientResources),
        ({"vifs": (nic("n").model_copy(update={"network": "no"}),)}, errors.NetworkNotFound),
        ({"volumes": (pooled("none"),), "image": CIRROS}, errors.VolumeNotFound),
        ({"volumes": (pooled("x", pool="none"),), "image": CIRROS}, errors.VolumeNotFound),
        ({"vgpus": (VgpuRequest(type="unknown"),)}, errors.InsufficientResources),
        (
            {"pci_devices": (PciRequest(address=PciAddress("0000:ff:00.0")),)},
            errors.InsufficientResources,
        ),
        (
            {"flavor": Flavor(vcpus=2, memory_mib=512, numa_nodes=2, page_size_kib=4096)},
            errors.InsufficientResources,
        ),
    ],
)
def test_a_spawn_that_fails_leaves_nothing(host, driver, fields, error):
    with pytest.raises(error):
        driver.spawn(spec(**fields))
    assert host.inventory().without_cache().items == frozenset()


def test_an_image_larger_than_the_disk_is_rejected(driver, host):
    size = HostSize(images=({"name": "big", "virtual_size_bytes": 2 << 30},))
    host = FakeHost(size=size, clock=ManualClock())
    with host.connect() as driver:
        with pytest.raises(errors.ImageRejected):
            driver.spawn(spec(image=HostImage(name="big")))
        wanted = spec(image=HostImage(name="big"), flavor=Flavor(vcpus=1, memory_mib=64))
        driver.spawn(wanted)
        assert driver.get_metrics()[0].disks[0].capacity_bytes == 2 << 30


def test_boot_from_volume(host, driver):
    with pytest.raises(errors.InvalidRequest):
        driver.rescue(build(host, driver, R, volumes=(rbd("root", boot_index=0),)))
    wanted = spec(volumes=(rbd("own", boot_index=0),))
    info = driver.spawn(wanted)
    assert info.image is None
    assert info.volumes[0].boot_index == 0
    with pytest.raises(errors.InvalidRequest):
        driver.rebuild(wanted.uuid, CIRROS)
    with pytest.raises(errors.InvalidRequest, match="boots from"):
        driver.detach_volume(wanted.uuid, "own")
    driver.rescue(wanted.uuid, DEBIAN)
    driver.unrescue(wanted.uuid)


def test_rescue_of_a_boot_from_volume_instance_can_be_switched_off(host):
    reason = {Capability.RESCUE_BOOT_FROM_VOLUME: "cannot"}
    with host.connect(without=reason) as driver:
        uuid = build(host, driver, R, volumes=(rbd("own", boot_index=0),))
        with pytest.raises(errors.NotSupported, match="cannot"):
            driver.rescue(uuid, DEBIAN)
        driver.rescue(build(host, driver, R), DEBIAN)


def test_destroy_of_nothing_succeeds_and_costs_one_call(host, driver):
    before = host.round_trips
    driver.destroy(uuid4())
    assert host.round_trips == before + 1


def test_destroy_keeps_volumes_and_foreign_machines(host, driver):
    foreign = host.add_foreign()
    before = host.inventory().without_cache()
    uuid = build(host, driver, R, volumes=(chap("data"),), vifs=(nic(),), image=CIRROS)
    host.write_disk(uuid, "kept", disk="data")
    assert host.inventory().kind("secret")
    driver.destroy(uuid)
    assert host.inventory().without_cache() == before
    again = build(host, driver, R, volumes=(rbd("data"),), image=CIRROS)
    assert host.disk_content(again, "data")[-1] == "write:kept"
    with pytest.raises(errors.InstanceNotFound):
        driver.destroy(foreign)
    assert [each.uuid for each in driver.list_foreign()] == [foreign]


def test_destroy_can_keep_the_root_disk(host, driver):
    uuid = build(host, driver, R)
    host.write_disk(uuid, "mine")
    driver.destroy(uuid, keep={Keep.ROOT_DISK})  # any set will do
    (volume,) = driver.list_volumes()
    assert volume.name == f"{uuid}-root"
    other = build(host, driver, R, volumes=(pooled(volume.name),), image=CIRROS)
    (attached,) = driver.get_instance(other).volumes
    assert host.disk_content(other, attached.volume_id)[-1] == "write:mine"
    with pytest.raises(errors.DeviceBusy):
        driver.delete_volume(volume.volume_id)
    driver.destroy(other)
    driver.delete_volume(volume.volume_id)
    driver.delete_volume(volume.volume_id)
    assert list(driver.list_volumes()) == []


def test_a_kept_disk_is_never_overwritten(host, driver):
    uuid = build(host, driver, R)
    driver.destroy(uuid, keep=frozenset({Keep.ROOT_DISK}))
    build(host, driver, R, uuid=uuid)
    before = host.inventory()
    with pytest.raises(errors.VolumeExists):
        driver.destroy(uuid, keep=frozenset({Keep.ROOT_DISK}))
    assert host.inventory() == before


def test_rename_and_metadata(driver, host):
    uuid = build(host, driver, R, metadata={"a": "1"})
    driver.rename(uuid, "Grüße <&'\">")
    driver.set_metadata(uuid, {"b": "two\nlines"})
    info = driver.get_instance(uuid)
    assert info.name == "Grüße <&'\">"
    assert info.metadata == {"b": "two\nlines"}


def test_rescue_shows_another_disk_and_gives_the_own_one_back(host, driver):
    uuid = build(host, driver, R)
    host.write_disk(uuid, "own data")
    own = host.disk_content(uuid)
    driver.rescue(uuid, DEBIAN)
    assert host.disk_content(uuid, "rescue") == ("image:debian",)
    assert host.disk_content(uuid) == own
    driver.unrescue(uuid)
    assert state_of(driver, uuid) is R
    assert host.disk_content(uuid) == own
    with pytest.raises(errors.VolumeNotFound):
        host.disk_content(uuid, "rescue")


@pytest.mark.parametrize("how", ["power_off", "guest", "crash"])
def test_a_rescue_that_went_down_can_be_cleared(host, driver, how):
    uuid = build(host, driver, InstanceState.RESCUED)
    if how == "power_off":
        driver.power_off(uuid)
    elif how == "guest":
        host.shut_down_guest(uuid)
    else:
        host.crash(uuid)
    driver.unrescue(uuid)
    assert state_of(driver, uuid) is S
    driver.power_on(uuid)
    assert not [item for item in host.inventory().of(uuid) if "rescue" in item.id]


def test_resize(host, driver):
    uuid = build(host, driver, S)
    bigger = Flavor(vcpus=4, memory_mib=2048, disk_gib=3)
    driver.resize(uuid, bigger)
    assert driver.get_instance(uuid).flavor == bigger
    assert driver.get_metrics()[0].disks[0].capacity_bytes == 3 << 30
    before = host.inventory()
    for wrong, error in (
        (SMALL, errors.InvalidRequest),
        (Flavor(vcpus=4, memory_mib=2048, disk_gib=3, swap_mib=64), errors.InvalidRequest),
        (Flavor(vcpus=4, memory_mib=1 << 20, disk_gib=3), errors.InsufficientResources),
        (Flavor(vcpus=1000, memory_mib=2048, disk_gib=3), errors.InsufficientResources),
        (Flavor(vcpus=33, memory_mib=2048, disk_gib=3), errors.InsufficientResources),
        (Flavor(vcpus=1, memory_mib=2048, disk_gib=99999), errors.InsufficientResources),
    ):
        with pytest.raises(error):
            driver.resize(uuid, wrong)
        assert host.inventory() == before
    driver.create_snapshot(uuid, "snap")
    with pytest.raises(errors.DeviceBusy):
        driver.resize(uuid, Flavor(vcpus=1, memory_mib=512, disk_gib=9))


def test_hot_resize(host, driver):
    flavor = Flavor(vcpus=2, memory_mib=512, disk_gib=1, max_vcpus=4, max_memory_mib=2048)
    uuid = build(host, driver, R, flavor=flavor)
    driver.hot_resize_cpu(uuid, 4)
    driver.hot_resize_memory(uuid, 2048)
    assert driver.get_instance(uuid).flavor.vcpus == 4
    assert driver.get_available_resource().memory.used_mib == 2048
    driver.hot_resize_cpu(uuid, 1)
    before = host.inventory()
    with pytest.raises(errors.InvalidRequest):
        driver.hot_resize_cpu(uuid, 5)
    with pytest.raises(errors.InvalidRequest):
        driver.hot_resize_memory(uuid, 4096)
    with pytest.raises(errors.InvalidRequest):
        driver.hot_resize_memory(uuid, 1)
    host.guest(uuid).accepts_hotplug = False
    with pytest.raises(errors.DeviceBusy):
        driver.hot_resize_memory(uuid, 1024)
    driver.hot_resize_memory(uuid, 2048)  # it has that already: nobody asks the guest
    assert host.inventory() == before


def test_a_fixed_flavor_has_no_headroom(host, driver):
    uuid = build(host, driver, R)
    with pytest.raises(errors.InvalidRequest):
        driver.hot_resize_cpu(uuid, 2)
    driver.hot_resize_cpu(uuid, 1)


def test_rebuild_replaces_the_root_disk_only(host, driver):
    uuid = build(host, driver, R, vifs=(nic(),), volumes=(rbd(),), image=CIRROS, name="keep me")
    host.write_disk(uuid, "lost")
    host.write_disk(uuid, "kept", disk="vol-1")
    before = driver.get_instance(uuid)
    driver.rebuild(uuid, DEBIAN)
    after = driver.get_instance(uuid)
    assert host.disk_content(uuid) == ("image:debian",)
    assert host.disk_content(uuid, "vol-1")[-1] == "write:kept"
    assert after.image == DEBIAN.cache_key()
    assert after.model_copy(update={"image": None}) == before.model_copy(update={"image": None})
    driver.create_snapshot(uuid, "snap")
    with pytest.raises(errors.DeviceBusy):
        driver.rebuild(uuid, CIRROS)


def test_adopt(host, driver):
    uuid = host.add_foreign(name="their vm", vcpus=2)
    info = driver.adopt(uuid, metadata={"from": "them"})
    assert (info.name, info.state, info.flavor.vcpus) == ("their vm", R, 2)
    assert list(driver.list_foreign()) == []
    assert driver.adopt(uuid) == driver.get_instance(uuid)
    driver.destroy(uuid)
    assert host.inventory().items == frozenset()


def test_adopt_needs_a_valid_name(host, driver):
    uuid = host.add_foreign(name="bad\x07name")
    before = host.inventory()
    with pytest.raises(errors.InvalidRequest):
        driver.adopt(uuid)
    assert host.inventory() == before
    assert driver.adopt(uuid, name="good").name == "good"


def test_pinned_and_huge_and_encrypted(host, driver):
    flavor = Flavor(
        vcpus=4, memory_mib=1024, disk_gib=1, cpu_policy=CpuPolicy.DEDICATED, page_size_kib=2048
    )
    uuid = build(host, driver, R, flavor=flavor, sev=True)
    resources = driver.get_available_resource()
    assert resources.memory.hugepages[0].free == 1024 - 512
    with pytest.raises(errors.InsufficientResources, match="dedicated"):
        driver.spawn(spec(flavor=flavor.model_copy(update={"vcpus": 5, "memory_mib": 64})))
    with pytest.raises(errors.InsufficientResources, match="huge pages"):
        driver.spawn(spec(flavor=flavor.model_copy(update={"memory_mib": 1026})))
    driver.power_off(uuid)
    assert driver.get_available_resource().memory.hugepages[0].free == 1024


def test_firmware_is_the_hosts_choice():
    for architecture, firmware in (("x86_64", Firmware.BIOS), ("aarch64", Firmware.UEFI)):
        host = FakeHost(size=HostSize(architecture=architecture), clock=ManualClock())
        with host.connect() as driver:
            assert driver.spawn(spec()).firmware is firmware


def test_an_instance_destroyed_while_it_is_built(host, driver):
    """Another connection does not wait for the one that builds."""
    wanted = spec(vifs=(nic(),))
    with host.connect() as second:

        def destroy() -> float:
            second.destroy(wanted.uuid)
            return 0.0

        host.latency["create-port"] = destroy
        with pytest.raises(errors.InstanceNotFound):
            driver.spawn(wanted)
    assert host.inventory().without_cache().items == frozenset()


def test_raw_driver_refuses_a_foreign_configuration():
    from hvdrivers.models.config import DriverConfig

    with pytest.raises(errors.InvalidRequest):
        FakeDriver.connect(DriverConfig())
    assert isinstance(FakeDriver.connect(FakeConfig()), FakeDriver)


def test_create_volume_gives_what_attach_takes(host, driver):
    volume = driver.create_volume(VolumeSpec(name="data", size_gib=2))
    with pytest.raises(errors.VolumeExists):
        driver.create_volume(VolumeSpec(name="data", size_gib=2))
    with pytest.raises(errors.VolumeNotFound):
        driver.create_volume(VolumeSpec(name="data", size_gib=2, pool="none"))
    with pytest.raises(errors.InsufficientResources):
        driver.create_volume(VolumeSpec(size_gib=99999))
    assert driver.create_volume(VolumeSpec(size_gib=1)).volume_id.startswith("default/volume-")
    uuid = build(host, driver, R)
    from hvdrivers.models.volume import VolumeAttachment

    attached = driver.attach_volume(uuid, VolumeAttachment(volume=volume))
    assert attached.size_bytes == 2 << 30
