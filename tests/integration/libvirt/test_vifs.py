"""NICs on every kind of wiring that this driver has, seen by the guest and at the switch."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import pytest

from hvdrivers.contract import errors
from hvdrivers.models.instance import Flavor
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import (
    Bandwidth,
    BridgeVif,
    NetworkVif,
    NicModel,
    OvsVif,
    TapVif,
    UserVif,
    Vif,
    VifQos,
    default_mac,
)
from tests.integration.libvirt.machines import BOOT, Host, Machine
from tests.peers.bridge import LinuxBridge
from tests.peers.dhcp import run_ip
from tests.peers.openvswitch import OvsBridge

BOTH = ("--live", "--config")


@pytest.fixture(scope="module")
def network(host: Host, linux_bridge: LinuxBridge) -> Iterator[str]:
    """A network of libvirt's own, over the bridge."""
    name = f"net-{uuid4().hex[:6]}"
    path = host.peer.root / "network.xml"
    path.write_text(
        f"<network><name>{name}</name><forward mode='bridge'/>"
        f"<bridge name='{linux_bridge.name}'/></network>"
    )
    host.peer.virsh("net-define", str(path))
    host.peer.virsh("net-start", name)
    yield name
    host.peer.virsh("net-destroy", name)
    host.peer.virsh("net-undefine", name)


def bridge_vif(bridge: LinuxBridge, **changes: object) -> BridgeVif:
    values: dict[str, object] = {"id": str(uuid4()), "bridge": bridge.name}
    return BridgeVif.model_validate(values | changes)


def nic_of(machine: Machine, vif: Vif) -> str:
    """The guest's name of a NIC, once it has seen it."""
    mac = vif.within(machine.uuid).mac
    return machine.console.expect(rf"nic (\w+) mac={mac} attached", timeout=BOOT)[1]


def interface(machine: Machine, mac: str, *, inactive: bool = False) -> bool:
    path = f"devices/interface/mac[@address='{mac}']"
    return machine.xml(inactive=inactive).find(path) is not None


def test_at_spawn(
    host: Host, linux_bridge: LinuxBridge, ovs_bridge: OvsBridge, network: str
) -> None:
    """In the order given; on bridge and switch, with addresses by DHCP; gone with the machine."""
    vifs: tuple[Vif, ...] = (
        bridge_vif(linux_bridge, id="z first"),
        OvsVif(id=str(uuid4()), bridge=ovs_bridge.name, model=NicModel.E1000E),
        NetworkVif(id="a third", network=network, address="52:54:00:00:00:07"),
        bridge_vif(linux_bridge, active=False),
    )
    with host.unchanged():
        ports = linux_bridge.ports(), ovs_bridge.ports()
        with host.machine(vifs=vifs, flavor=Flavor(vcpus=1, memory_mib=192)) as machine:
            info = machine.info
            assert [each.id for each in info.vifs] == [vif.id for vif in vifs]
            macs = [vif.within(machine.uuid).mac for vif in vifs]
            assert [each.address for each in info.vifs] == macs
            assert [each.type for each in info.vifs] == ["bridge", "ovs", "network", "bridge"]
            assert info.vifs[0].address == default_mac("z first", machine.uuid)
            assert info.vifs[1].model is NicModel.E1000E
            devices = [each.device for each in info.vifs]
            assert {devices[0], devices[2], devices[3]} == linux_bridge.ports() - ports[0]
            assert {devices[1]} == ovs_bridge.ports() - ports[1]
            addresses = [each.pci_address for each in info.vifs]
            assert None not in addresses
            machine.booted()
            names = [nic_of(machine, vif) for vif in (vifs[0], vifs[2], vifs[3])]
            # virtio NICs; Debian's cloud kernel has no e1000e
            assert names == sorted(names)
            for name in names[:2]:
                machine.console.expect(rf"address {name} ", timeout=BOOT)
            assert not [x for x in machine.console.lines() if x.startswith(f"address {names[2]}")]
        assert (linux_bridge.ports(), ovs_bridge.ports()) == ports


def test_hot_plug_and_unplug_on_a_bridge(
    host: Host, machine: Machine, linux_bridge: LinuxBridge
) -> None:
    """Two NICs of one bridge; each repetition converges."""
    driver = host.driver
    first, second = bridge_vif(linux_bridge), bridge_vif(linux_bridge, id="x <'\"&/ 🦆")
    with host.unchanged():
        ports = linux_bridge.ports()
        plugged = [driver.plug_vif(machine.uuid, vif) for vif in (first, second)]
        assert [driver.plug_vif(machine.uuid, vif) for vif in (first, second)] == plugged
        assert machine.info.vifs == tuple(plugged)
        assert linux_bridge.ports() - ports == {each.device for each in plugged}
        assert plugged[0].device == first.device_name
        for vif in (first, second):
            name = nic_of(machine, vif)
            machine.console.expect(rf"address {name} ", timeout=BOOT)
        for vif in (first, second, second):
            driver.unplug_vif(machine.uuid, vif.id)
        machine.console.expect(rf"nic {name} removed")
        assert machine.info.vifs == ()
        assert linux_bridge.ports() == ports
        driver.unplug_vif(machine.uuid, "never there")


def test_hot_plug_on_open_vswitch(host: Host, machine: Machine, ovs_bridge: OvsBridge) -> None:
    """The port is named to OVN or Neutron by its id, with the VLAN asked for."""
    vif = OvsVif(
        id="our own name",
        interface_id=str(uuid4()),
        bridge=ovs_bridge.name,
        vlan=42,
        profile_id="profile-1",
    )
    with host.unchanged():
        ports = ovs_bridge.ports()
        plugged = host.driver.plug_vif(machine.uuid, vif)
        assert plugged.device is not None
        assert ovs_bridge.ports() - ports == {plugged.device}
        ids = ovs_bridge.interface(plugged.device, "external_ids")
        assert f'iface-id="{vif.interface_id}"' in ids
        assert f'attached-mac="{vif.within(machine.uuid).mac}"' in ids
        assert f'vm-id="{machine.uuid}"' in ids
        assert _ovs(ovs_bridge, "port", plugged.device, "tag") == "42"
        nic_of(machine, vif)
        host.driver.unplug_vif(machine.uuid, vif.id)
        assert ovs_bridge.ports() == ports
        with pytest.raises(errors.InvalidRequest):
            host.driver.plug_vif(machine.uuid, vif.model_copy(update={"interface_id": "no uuid"}))
        # an id of the caller's own, which no control plane looks for
        plain = OvsVif(id="plain", bridge=ovs_bridge.name)
        host.driver.plug_vif(machine.uuid, plain)
        host.driver.unplug_vif(machine.uuid, plain.id)
        assert ovs_bridge.ports() == ports


def _ovs(bridge: OvsBridge, table: str, record: str, column: str) -> str:
    command = ["ovs-vsctl", "--timeout=10", "get", table, record, column]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_hot_plug_on_a_network(
    host: Host, machine: Machine, linux_bridge: LinuxBridge, network: str
) -> None:
    vif = NetworkVif(id=str(uuid4()), network=network)
    with host.unchanged():
        plugged = host.driver.plug_vif(machine.uuid, vif)
        assert plugged.device in linux_bridge.ports()
        name = nic_of(machine, vif)
        machine.console.expect(rf"address {name} ", timeout=BOOT)
        host.driver.unplug_vif(machine.uuid, vif.id)


def test_tap(host: Host, machine: Machine) -> None:
    """A device that somebody else made, and stays his; and one that libvirt makes."""
    name = f"tap{uuid4().hex[:8]}"
    user = ["user", "root"] if os.geteuid() == 0 else []
    subprocess.run(["ip", "tuntap", "add", name, "mode", "tap", *user], check=True)
    try:
        with host.unchanged():
            theirs = TapVif(id="theirs", device=name)
            ours = TapVif(id=str(uuid4()), exists=False)
            assert host.driver.plug_vif(machine.uuid, theirs).device == name
            assert host.driver.plug_vif(machine.uuid, ours).device == ours.device_name
            assert os.path.exists(f"/sys/class/net/{ours.device_name}")
            for vif in (theirs, ours):
                nic_of(machine, vif)
                host.driver.unplug_vif(machine.uuid, vif.id)
            assert not os.path.exists(f"/sys/class/net/{ours.device_name}")
            assert os.path.exists(f"/sys/class/net/{name}")
    finally:
        subprocess.run(["ip", "link", "delete", name], check=True)


def test_cold_and_paused(host: Host, machine: Machine, linux_bridge: LinuxBridge) -> None:
    driver = host.driver
    vif = bridge_vif(linux_bridge)
    with host.unchanged():
        with host.machine(start=False) as off:
            plugged = driver.plug_vif(off.uuid, vif)
            assert driver.plug_vif(off.uuid, vif) == plugged
            assert plugged.address == vif.mac
            assert [each.id for each in off.info.vifs] == [vif.id]
            driver.unplug_vif(off.uuid, vif.id)
            driver.unplug_vif(off.uuid, vif.id)
            assert off.info.vifs == ()
        driver.pause(machine.uuid)
        driver.plug_vif(machine.uuid, vif)
        with pytest.raises(errors.InvalidState):
            driver.unplug_vif(machine.uuid, vif.id)
        assert interface(machine, vif.mac)
        assert interface(machine, vif.mac, inactive=True)
        driver.unpause(machine.uuid)
        nic_of(machine, vif)
        driver.unplug_vif(machine.uuid, vif.id)
        assert not interface(machine, vif.mac)
        assert not interface(machine, vif.mac, inactive=True)


def test_a_name_is_the_instances_own(
    host: Host, linux_bridge: LinuxBridge, ovs_bridge: OvsBridge, network: str
) -> None:
    """Two machines that run may each have an eth0; a port is one machine's."""
    names: tuple[Vif, ...] = (
        bridge_vif(linux_bridge, id="eth0"),
        OvsVif(id="eth1", bridge=ovs_bridge.name),
        NetworkVif(id="eth2", network=network),
        TapVif(id="eth3", exists=False),
    )
    port = bridge_vif(linux_bridge)
    with (
        host.unchanged(),
        host.empty_machine(vifs=(*names, port)) as one,
        host.empty_machine(vifs=names[:2]) as two,
    ):
        for vif in names[2:]:
            host.driver.plug_vif(two.uuid, vif)
        nics = [*one.info.vifs[:4], *two.info.vifs]
        assert [each.id for each in nics] == ["eth0", "eth1", "eth2", "eth3"] * 2
        assert len({each.address for each in nics}) == 8
        assert len({each.device for each in nics}) == 8
        assert nics[3].device == names[3].within(one.uuid).device_name
        with pytest.raises(errors.DeviceBusy):
            host.driver.plug_vif(two.uuid, port)


def test_a_guest_that_never_lets_go_of_a_nic(host: Host, linux_bridge: LinuxBridge) -> None:
    vif = bridge_vif(linux_bridge)
    with host.unchanged(), host.empty_machine() as machine:
        host.driver.plug_vif(machine.uuid, vif)
        with pytest.raises(errors.DeviceBusy):
            host.driver.unplug_vif(machine.uuid, vif.id, timeout=1)
        assert interface(machine, vif.mac)
        assert interface(machine, vif.mac, inactive=True)
        assert [each.id for each in machine.info.vifs] == [vif.id]


def test_what_is_not_there(
    host: Host, machine: Machine, linux_bridge: LinuxBridge, ovs_bridge: OvsBridge, network: str
) -> None:
    """NetworkNotFound, hot, cold and at spawn, and nothing is left."""
    host.peer.virsh("net-destroy", network)
    missing: tuple[Vif, ...] = (
        BridgeVif(id="a", bridge="nobridge0"),
        BridgeVif(id="b", bridge="lo"),
        OvsVif(id="c", bridge="nobridge0"),
        NetworkVif(id="d", network="no network"),
        NetworkVif(id="e", network=network),
        OvsVif(id=str(uuid4()), bridge="nobridge0", hybrid_plug=True),
    )
    try:
        with host.unchanged():
            ports = linux_bridge.ports(), ovs_bridge.ports()
            for vif in missing:
                with pytest.raises(errors.NetworkNotFound) as refused:
                    host.driver.plug_vif(machine.uuid, vif)
                assert refused.value.hint, vif
                assert machine.info.vifs == ()
                with pytest.raises(errors.NetworkNotFound):
                    host.spawn(vifs=(bridge_vif(linux_bridge), vif))
            assert (linux_bridge.ports(), ovs_bridge.ports()) == ports
    finally:
        host.peer.virsh("net-start", network)


def test_what_a_machine_is_wired_to_has_gone(host: Host, network: str) -> None:
    """Found out by power_on(), which names it."""
    with host.unchanged(), LinuxBridge(dhcp=False) as own:
        vifs = (bridge_vif(own), NetworkVif(id="n", network=network))
        with host.empty_machine(vifs=vifs) as machine:
            host.driver.power_off(machine.uuid)
            host.peer.virsh("net-destroy", network)
            try:
                with pytest.raises(errors.NetworkNotFound, match=network):
                    host.driver.power_on(machine.uuid)
            finally:
                host.peer.virsh("net-start", network)
            own.close()
            with pytest.raises(errors.NetworkNotFound, match=own.name):
                host.driver.power_on(machine.uuid)
            assert machine.state is InstanceState.STOPPED


def test_limits(
    host: Host, machine: Machine, linux_bridge: LinuxBridge, ovs_bridge: OvsBridge
) -> None:
    """As virsh reads them, in kilobytes where the contract has kilobits. Those of a NIC that is
    plugged are tried on Open vSwitch: for a Linux bridge the kernel must have sfq."""
    qos = VifQos(
        inbound=Bandwidth(average=8000, peak=16000, burst=800), outbound=Bandwidth(average=801)
    )
    expected = {
        "inbound.average": 1000,
        "inbound.peak": 2000,
        "inbound.burst": 100,
        "outbound.average": 101,
    }
    cold = bridge_vif(linux_bridge, qos=qos)
    hot = OvsVif(id=str(uuid4()), bridge=ovs_bridge.name, qos=qos)
    with host.unchanged(), host.made_empty() as off:
        for each, vif, options in ((off, cold, BOTH[1:]), (machine, hot, BOTH)):
            host.driver.plug_vif(each.uuid, vif)
            for option in options:
                assert _iftune(host, each, vif.mac, option) == expected
            host.driver.set_vif_qos(each.uuid, vif.id, VifQos(outbound=Bandwidth(average=80)))
            for option in options:
                assert _iftune(host, each, vif.mac, option) == {"outbound.average": 10}
            host.driver.set_vif_qos(each.uuid, vif.id, None)
            for option in options:
                assert _iftune(host, each, vif.mac, option) == {}
            host.driver.unplug_vif(each.uuid, vif.id)
            with pytest.raises(errors.NetworkNotFound):
                host.driver.set_vif_qos(each.uuid, vif.id, None)


def test_limits_that_the_kernel_cannot_set(
    host: Host, machine: Machine, linux_bridge: LinuxBridge
) -> None:
    """A Linux bridge where the kernel lacks a part of its traffic control: each operation says so,
    and changes nothing. Where the kernel has all of it, each of them works."""
    limits = [
        VifQos(inbound=Bandwidth(average=8000)),  # wants sch_sfq
        VifQos(outbound=Bandwidth(average=800)),  # wants act_police
    ]
    with host.unchanged():
        for qos in limits:
            vif = bridge_vif(linux_bridge, qos=qos)
            with host.made_empty(vifs=(vif,)) as off, _limited_or_refused(host, off):
                host.driver.power_on(off.uuid)
            with _limited_or_refused(host, machine):
                host.driver.plug_vif(machine.uuid, vif)
            host.driver.unplug_vif(machine.uuid, vif.id)
            host.driver.plug_vif(machine.uuid, vif.model_copy(update={"qos": None}))
            with _limited_or_refused(host, machine):
                host.driver.set_vif_qos(machine.uuid, vif.id, qos)
            host.driver.unplug_vif(machine.uuid, vif.id)
        before = host.peer.virsh("list", "--all", "--uuid")
        with refused_with_hint():
            host.driver.destroy(host.spawn(vifs=(vif,)).uuid)
        assert host.peer.virsh("list", "--all", "--uuid") == before


@contextmanager
def refused_with_hint() -> Iterator[list[errors.NotSupported]]:
    """The refusals in the block: at most one."""
    found: list[errors.NotSupported] = []
    try:
        yield found
    except errors.NotSupported as error:
        found.append(error)
    assert [each.vendor_code for each in found] in ([], ["VIR_ERR_INTERNAL_ERROR"])
    assert all("sch_sfq" in str(each.hint) for each in found)


@contextmanager
def _limited_or_refused(host: Host, machine: Machine) -> Iterator[None]:
    before = _seen(host, machine)
    with refused_with_hint() as refusals:
        yield
    assert (_seen(host, machine) == before) == bool(refusals)


def _seen(host: Host, machine: Machine) -> tuple[str, str]:
    name = str(machine.uuid)
    return host.peer.virsh("domstate", name), host.peer.virsh("dumpxml", "--inactive", name) + (
        host.peer.virsh("dumpxml", name)
    )


def _iftune(host: Host, machine: Machine, device: str, option: str) -> dict[str, int]:
    text = host.peer.virsh("domiftune", str(machine.uuid), device, option)
    found = {name: int(value) for name, value in re.findall(r"([\w.]+)\s*:\s*(\d+)", text)}
    return {name: value for name, value in found.items() if value}


def test_one_port_for_two_machines(host: Host, machine: Machine, linux_bridge: LinuxBridge) -> None:
    """The same VIF has the same tap device: the second machine does not get it."""
    vif = bridge_vif(linux_bridge)
    with host.unchanged(), host.empty_machine() as second:
        host.driver.plug_vif(second.uuid, vif)
        with pytest.raises(errors.DeviceBusy):
            host.driver.plug_vif(machine.uuid, vif)
        assert machine.info.vifs == ()
        # and at power-on
        with host.made_empty(vifs=(vif,)) as third:
            with pytest.raises(errors.DeviceBusy):
                host.driver.power_on(third.uuid)
            assert third.state is InstanceState.STOPPED


def test_what_libvirt_cannot_do(host: Host, machine: Machine, linux_bridge: LinuxBridge) -> None:
    for vif in (
        bridge_vif(linux_bridge, vlan=5),
        bridge_vif(linux_bridge, model=NicModel.NETVSC),
    ):
        with host.unchanged(), pytest.raises(errors.NotSupported):
            host.driver.plug_vif(machine.uuid, vif)
    assert json.loads(machine.info.model_dump_json())["vifs"] == []


def test_a_network_of_the_machines_own(host: Host) -> None:
    """C2 of the list of faults found by use: no kind of NIC worked without privileges."""
    vif, later = UserVif(id="own"), UserVif(id="later")
    with host.unchanged(), host.machine(vifs=(vif,)) as machine:
        shown = machine.info.vifs[0]
        assert (shown.id, shown.type, shown.device) == ("own", "user", None)
        assert shown.address == vif.within(machine.uuid).mac
        machine.booted()
        name = nic_of(machine, vif)
        # QEMU answers DHCP with the first address that is not its own
        machine.console.expect(rf"address {name} 10\.0\.2\.15", timeout=BOOT)
        limits = VifQos(inbound=Bandwidth(average=1000))
        for refused in ({"qos": limits}, {"mtu": 1400}, {"queues": 2}, {"vlan": 5}):
            with pytest.raises(errors.NotSupported, match=next(iter(refused))):
                host.driver.plug_vif(machine.uuid, later.model_copy(update=refused))
        with pytest.raises(errors.NotSupported):
            host.driver.set_vif_qos(machine.uuid, "own", limits)
        host.driver.plug_vif(machine.uuid, later)
        nic_of(machine, later)
        metrics = {each.uuid: each for each in host.driver.get_metrics()}
        assert len(metrics[machine.uuid].vifs) == 2
        host.driver.unplug_vif(machine.uuid, "later")
        assert [each.id for each in host.driver.get_instance(machine.uuid).vifs] == ["own"]


def test_a_tap_device_that_nobody_has_made(host: Host) -> None:
    """It is missing like a bridge, however the machine comes to it; and one that is there is
    found."""
    with host.unchanged(), host.empty_machine() as on, host.made_empty() as off:
        absent = TapVif(id="absent", device=f"hv{uuid4().hex[:10]}")
        with pytest.raises(errors.NetworkNotFound, match="tap device") as refused:
            host.driver.plug_vif(on.uuid, absent)
        assert refused.value.hint
        with pytest.raises(errors.NetworkNotFound, match="tap device"):
            host.made(host.empty(vifs=(absent,)))
        host.driver.plug_vif(off.uuid, absent)
        with pytest.raises(errors.NetworkNotFound, match="tap device"):
            host.driver.power_on(off.uuid)
        run_ip("tuntap", "add", "dev", absent.device_name, "mode", "tap")
        try:
            assert host.raw.connection.remote.interfaceLookupByName(absent.device_name)
            host.driver.power_on(off.uuid)
        finally:
            host.driver.power_off(off.uuid)
            run_ip("link", "delete", absent.device_name)
