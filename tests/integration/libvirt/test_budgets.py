"""Round trips: every operation against the Budget sentence of its docstring."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any
from uuid import UUID, uuid4

import libvirt
import pytest

from hvdrivers.contract.driver import OPERATIONS
from hvdrivers.libvirt.config import LibvirtConfig
from hvdrivers.libvirt.driver import LibvirtDriver
from hvdrivers.libvirt.naming import domain_name
from hvdrivers.models.cloudinit import CloudInit
from hvdrivers.models.image import HostImage
from hvdrivers.models.instance import Flavor, Keep
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import Bandwidth, BridgeVif, VifQos
from hvdrivers.models.volume import DiskQos, VolumeAttachment, VolumeSpec
from tests.integration.libvirt.conftest import SpecFactory, connect
from tests.peers.bridge import LinuxBridge
from tests.peers.libvirtd import LibvirtPeer
from tests.peers.proxy import LibvirtProxy
from tests.peers.waiting import wait_until


@pytest.fixture
def host(peer: LibvirtPeer) -> Iterator[LibvirtDriver]:
    made = connect(peer)
    # on one connection: a second one would look the pools up for itself
    made.connection.links.spare = lambda: None  # type: ignore[method-assign]
    made.host()
    made.pools.path(made.pools.disks())
    made.pools.path(made.pools.consoles())
    yield made
    made.close()


def calls(driver: LibvirtDriver, operation: Callable[[], Any]) -> int:
    with driver.connection.counting() as counter:
        operation()
    return sum(counter.values())


def budget(name: str) -> str:
    text = " ".join((inspect.getdoc(getattr(LibvirtDriver, name)) or "").split())
    assert "Budget" in text, f"{name}() states no budget"
    return text[text.index("Budget") :]


def numbers(name: str) -> list[int]:
    """The numbers of calls that an operation's docstring names; the first is for the usual case."""
    return [int(each) for each in re.findall(r"\b\d+\b", budget(name))]


def look_at_users(driver: LibvirtDriver, *, volumes: int = 0, machines: int = 0) -> int:
    """The most calls of a look at all that may use a file: each pool, volume and machine.

    Args:
        volumes: so many more there are when it looks.
        machines: the same.
    """
    pools = driver.pools.files()
    volumes += sum(len(pool.listAllVolumes(0)) for pool in pools)
    machines += len(driver.connection.remote.listAllDomains(0))
    return 2 * len(pools) + 3 + volumes + 2 * machines + 2


def test_every_operation_states_its_budget() -> None:
    for name in OPERATIONS.keys() & set(dir(LibvirtDriver)):
        if name != "placement_inventories":
            assert budget(name)


def test_reads(host: LibvirtDriver, spec: SpecFactory) -> None:
    made = spec()
    host.spawn(made)
    for name, operation, expected in (
        ("ping", host.ping, 1),
        ("host", host.host, 4),
        ("get_instance", lambda: host.get_instance(made.uuid), 4),  # it never ran
        ("list_instances", host.list_instances, 2),
        ("list_foreign", host.list_foreign, 2),
        ("get_metrics", host.get_metrics, 2),
        ("watch", lambda: host.watch().close(), 3),
    ):
        assert calls(host, operation) == expected, name
        assert expected in numbers(name), (name, budget(name))
    host.destroy(made.uuid)


def test_spawn_and_destroy(
    host: LibvirtDriver, spec: SpecFactory, linux_bridge: LinuxBridge
) -> None:
    host.cache_image(spec().image)
    for _ in range(2):  # each connection looks the pools up once
        warm = spec()
        host.spawn(warm)
        host.destroy(warm.uuid)
    plain = spec()
    assert calls(host, lambda: host.spawn(plain)) == 8
    # lookup, read, off, a look for a turn at the snapshots, undefine; list and delete a disk;
    # refresh, list and delete the log; secrets; look again
    assert calls(host, lambda: host.destroy(plain.uuid)) == 5 + 1 + 1 + 3 + 1 + 2
    # the same without a domain, and a look for its secrets
    assert calls(host, lambda: host.destroy(plain.uuid)) == 6
    started = spec(start=True)
    assert calls(host, lambda: host.spawn(started)) == 9
    assert calls(host, lambda: host.destroy(started.uuid)) == 5 + 1 + 1 + 3 + 1
    for changes, more in (
        ({"cloud_init": CloudInit(hostname="h")}, 3),
        ({"flavor": Flavor(vcpus=1, memory_mib=192, ephemeral_gib=1, swap_mib=64)}, 2),
        (
            {
                "vifs": (
                    BridgeVif(
                        id=str(uuid4()), address="52:54:00:00:02:01", bridge=linux_bridge.name
                    ),
                )
            },
            1,
        ),
    ):
        made = spec(**changes)
        assert calls(host, lambda made=made: host.spawn(made)) == 8 + more, changes
        host.destroy(made.uuid)
    assert {8, 9, 3} <= set(numbers("spawn"))
    volume = host.create_volume(VolumeSpec(name="root", size_bytes=1 << 20))
    booted = spec(image=None, volumes=(VolumeAttachment(volume=volume, boot_index=0),))
    # without an image: no record to find and to find again, no disk to make; 4 for the volume
    assert calls(host, lambda: host.spawn(booted)) == 8 - 4 + 4
    host.destroy(booted.uuid)
    define(host.connection.remote, 2)
    pools, machines = host.pools.files(), host.connection.remote.listAllDomains(0)
    volumes = sum(len(each.listAllVolumes(0)) for each in pools)
    usual = calls(host, lambda: host.delete_volume("root"))
    assert usual <= 1 + 12 + 3 * len(pools) + volumes + 2 * len(machines)
    assert 12 in numbers("delete_volume")
    for each in machines:
        each.undefine()
    kept = spec()
    host.spawn(kept)
    keep = frozenset({Keep.ROOT_DISK})
    # look for the name, two marks and their deletion, size, copy
    assert calls(host, lambda: host.destroy(kept.uuid, keep=keep)) == 13 + 7
    host.delete_volume(f"{kept.uuid}-root")


def test_calls_in_sequence(peer: LibvirtPeer, spec: SpecFactory) -> None:
    """What a distant host costs: 200 milliseconds for each call that waits for another."""
    with closing(connect(peer)) as host:
        host.cache_image(spec().image)
    with LibvirtProxy(peer.socket, peer.root / "distant") as proxy:
        config = LibvirtConfig(uri=proxy.uri(peer.uri), virt_type="qemu")
        with closing(LibvirtDriver.connect(config)) as host:
            # the calls of opening are libvirt's own; those for events do not keep the caller
            assert proxy.wires[0].calls <= 8
            host.hub.ensure()
            for _ in range(3):  # until there are two connections, and the pools are known on both
                made = spec(start=True)
                with host.connection.counting() as calls:
                    host.spawn(made)
                with host.connection.counting() as ending:
                    host.destroy(made.uuid)
                wait_until(lambda: len(host.connection.links.links) >= 3, timeout=30, what="spare")
            assert sum(calls.values()) == 9
            assert calls.in_sequence == 7
            assert 7 in numbers("spawn")
            assert sum(ending.values()) == 11
            assert ending.in_sequence == 8
            assert {8, 11} <= set(numbers("destroy"))


def test_a_look_is_three_calls_in_sequence(host: LibvirtDriver, spec: SpecFactory) -> None:
    """Also where the text of the machine has been read before; and each caller has metadata of its
    own."""
    made = spec(start=True, metadata={"a": "b"})
    host.spawn(made)
    for _ in range(2):
        with host.connection.counting() as calls:
            seen = host.get_instance(made.uuid)
        assert (sum(calls.values()), calls.in_sequence) == (3, 3)
        assert seen.metadata == {"a": "b"}
        assert isinstance(seen.metadata, dict)
        seen.metadata["a"] = "spoilt"
    host.set_metadata(made.uuid, {"a": "c"})
    host.pause(made.uuid)
    now = host.get_instance(made.uuid)
    assert (now.metadata, now.state) == ({"a": "c"}, InstanceState.PAUSED)
    host.destroy(made.uuid)


def test_changes(host: LibvirtDriver, spec: SpecFactory, linux_bridge: LinuxBridge) -> None:
    made = spec(start=True)
    host.spawn(made)
    uuid = made.uuid
    host.power_off(uuid)
    volume = host.create_volume(VolumeSpec(name="v", size_bytes=1 << 20))
    nic = BridgeVif(id=str(uuid4()), address="52:54:00:00:02:02", bridge=linux_bridge.name)
    attachment = VolumeAttachment(volume=volume)
    for name, operation, expected in (
        ("attach_volume", lambda: host.attach_volume(uuid, attachment), 10),
        ("attach_volume", lambda: host.attach_volume(uuid, attachment), 5),
        ("detach_volume", lambda: host.detach_volume(uuid, "v"), 7),
        ("detach_volume", lambda: host.detach_volume(uuid, "v"), 5),
        ("plug_vif", lambda: host.plug_vif(uuid, nic), 8),  # it is stopped
        ("plug_vif", lambda: host.plug_vif(uuid, nic), 4),
        ("unplug_vif", lambda: host.unplug_vif(uuid, nic.id), 6),
        ("rename", lambda: host.rename(uuid, "other"), 4),
        ("rename", lambda: host.rename(uuid, "other"), 3),
        ("set_metadata", lambda: host.set_metadata(uuid, {"a": "b"}), 5),
        ("resize", lambda: host.resize(uuid, Flavor(vcpus=2, memory_mib=192)), 9),
        ("resize", lambda: host.resize(uuid, Flavor(vcpus=1, memory_mib=192, disk_gib=2)), 15),
        ("power_on", lambda: host.power_on(uuid), 5),
        ("pause", lambda: host.pause(uuid), 3),
        ("unpause", lambda: host.unpause(uuid), 3),
        ("inject_nmi", lambda: host.inject_nmi(uuid), 3),
        ("reboot", lambda: host.reboot(uuid), 4),
        ("suspend", lambda: host.suspend(uuid), 7),
        ("set_metadata", lambda: host.set_metadata(uuid, {"a": "c"}), 7),
        ("resume", lambda: host.resume(uuid), 8),
        ("power_off", lambda: host.power_off(uuid), 6),
        ("power_off", lambda: host.power_off(uuid), 4),
        ("rescue", lambda: host.rescue(uuid), 18),
        ("power_off", lambda: host.power_off(uuid), 6),
        ("unrescue", lambda: host.unrescue(uuid), 11),
        ("unrescue", lambda: host.unrescue(uuid), 8),
        ("power_on", lambda: host.power_on(uuid), 5),
        ("rescue", lambda: host.rescue(uuid), 18),
        ("unrescue", lambda: host.unrescue(uuid), 18),
        ("unrescue", lambda: host.unrescue(uuid), 5),
        ("power_off", lambda: host.power_off(uuid), 6),
        ("start_paused", lambda: host.start_paused(uuid), 5),
        ("start_paused", lambda: host.start_paused(uuid), 3),
        ("suspend", lambda: host.suspend(uuid), 7),
        ("start_paused", lambda: host.start_paused(uuid), 5),
    ):
        assert calls(host, operation) == expected, name
        stated = numbers(name)  # "as detach_volume()" has none
        assert not stated or expected in stated or expected < stated[0], (name, budget(name))
    host.destroy(uuid)
    host.delete_volume("v")


def test_limits_volumes_and_looks(
    host: LibvirtDriver, spec: SpecFactory, linux_bridge: LinuxBridge
) -> None:
    nic = BridgeVif(id=str(uuid4()), address="52:54:00:00:02:03", bridge=linux_bridge.name)
    volume = host.create_volume(VolumeSpec(name="w", size_bytes=1 << 20))
    made = spec(start=True, vifs=(nic,), volumes=(VolumeAttachment(volume=volume),))
    host.spawn(made)
    uuid, image = made.uuid, made.image
    assert image is not None
    pools = len(host.pools.files())
    vif_qos = VifQos(outbound=Bandwidth(average=1000))
    disk_qos = DiskQos(total_iops_sec=100)
    try:
        for name, operation, expected in (
            ("list_volumes", host.list_volumes, 1 + pools + 1),
            ("get_volume", lambda: host.get_volume("w"), 1 + pools + 1),
            ("get_volume_connector", host.get_volume_connector, 2),
            ("get_console_log", lambda: host.get_console_log(uuid), 6),
            ("set_disk_qos", lambda: host.set_disk_qos(uuid, "w", disk_qos), 4),
            ("extend_volume", lambda: host.extend_volume(uuid, "w", 2 << 20), 5),
            ("migration_progress", lambda: host.migration_progress(uuid), 2),
            ("abort_migration", lambda: host.abort_migration(uuid), 3),
            ("rebuild", lambda: host.rebuild(uuid, image), 30),
            ("rebuild", lambda: host.rebuild(uuid, image), 33),
            ("power_off", lambda: host.power_off(uuid), 6),
            ("set_vif_qos", lambda: host.set_vif_qos(uuid, nic.id, vif_qos), 6),
            ("set_disk_qos", lambda: host.set_disk_qos(uuid, "w", disk_qos), 6),
            ("extend_volume", lambda: host.extend_volume(uuid, "w", 3 << 20), 5 + 2),
            ("rebuild", lambda: host.rebuild(uuid, image), 29),
        ):
            assert calls(host, operation) == expected, name
            stated = numbers(name)
            assert expected in stated or expected > stated[0], (name, budget(name))
    finally:
        host.destroy(uuid)
        host.delete_volume("w")


def _without_stream(driver: LibvirtDriver, operation: Callable[[], Any]) -> int:
    with driver.connection.counting() as counter:
        operation()
    return sum(count for name, count in counter.items() if not name.startswith("Stream."))


def test_images(host: LibvirtDriver, peer: LibvirtPeer, spec: SpecFactory) -> None:
    image = spec().image
    assert image is not None
    key = host.cache_image(image).key
    host.evict_image(key)
    assert _without_stream(host, lambda: host.cache_image(image)) == 10
    assert calls(host, lambda: host.cache_image(image)) == 4
    assert calls(host, host.list_cached_images) == 1 + 4
    made = spec(image=HostImage(name=f"hv-image-{key}"))
    host.destroy(made.uuid)
    pools = host.pools.files()
    volumes = sum(len(pool.listAllVolumes(0)) for pool in pools)
    assert calls(host, lambda: host.evict_image(key)) <= 16 + 4 * len(pools) + 2 * volumes


@pytest.fixture
def raw(peer: LibvirtPeer) -> Iterator[Any]:
    with closing(libvirt.open(peer.uri)) as connection:
        yield connection


def define(raw: Any, how_many: int) -> list[Any]:
    """Machines of ours and of others by turns, without disks."""
    found = []
    for number in range(how_many):
        uuid = uuid4()
        name = domain_name(f"many-{number}", uuid) if number % 2 else f"foreign-{uuid}"
        found.append(
            raw.defineXML(
                f"<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid>"
                "<memory unit='MiB'>64</memory><vcpu>1</vcpu>"
                "<os><type arch='x86_64' machine='q35'>hvm</type></os></domain>"
            )
        )
    return found


def test_lists_cost_the_same_for_any_number_of_machines(host: LibvirtDriver, raw: Any) -> None:
    def bulk() -> dict[str, int]:
        return {
            "list_instances": calls(host, host.list_instances),
            "list_foreign": calls(host, host.list_foreign),
            "get_metrics": calls(host, host.get_metrics),
            "get_available_resource": calls(host, host.get_available_resource),
        }

    defined = define(raw, 5)
    try:
        host.get_available_resource()
        few = bulk()
        defined += define(raw, 495)
        assert bulk() == few
        ours = {UUID(each.UUIDString()) for each in defined if each.name().startswith("many")}
        assert {each.uuid for each in host.list_instances()} == ours
        assert {each.uuid for each in host.get_metrics()} == ours
        assert len(host.list_foreign()) == len(defined) - len(ours)
        # one of them for the marks of adopted machines: half of the host's are of others
        assert few["list_instances"] == few["list_foreign"] == few["get_metrics"] == 2 + 1
    finally:
        for each in defined:
            each.undefine()
