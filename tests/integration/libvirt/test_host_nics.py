"""NICs over network devices of the host. Macvtap carries packets here. A host without VFIO and vDPA
has no other: libvirt takes their definitions and refuses to start them. Which devices there are is
made up for those, at addresses at which this host has nothing.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import pytest

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.libvirt.driver import LibvirtDriver
from hvdrivers.libvirt.host_nics import macvtap_name
from hvdrivers.libvirt.start import start
from hvdrivers.models.instance import PciRequest
from hvdrivers.models.migration import Destination
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import (
    Bandwidth,
    BridgeVif,
    HostdevVif,
    MacvtapVif,
    NicModel,
    TapVif,
    VdpaVif,
    Vif,
    VifQos,
)
from tests.integration.libvirt.conftest import connect
from tests.integration.libvirt.machines import BOOT, Host, Machine
from tests.integration.libvirt.test_passthrough import FUNCTIONS, GPU, PORT, USED, with_devices
from tests.peers.bridge import LinuxBridge
from tests.peers.libvirtd import LibvirtPeer


@pytest.fixture
def raw(host: Host) -> Iterator[LibvirtDriver]:
    """A client that sees the devices of ``test_passthrough.py``, without the guard."""
    with closing(with_devices(connect(host.peer))) as made:
        yield made


def function(at: int = 0, **changes: object) -> HostdevVif:
    """A NIC that is a virtual function."""
    values: dict[str, object] = {"id": str(uuid4()), "pci_address": FUNCTIONS[at]}
    return HostdevVif.model_validate(values | changes)


def spawn(host: Host, raw: LibvirtDriver, *vifs: Vif, start: bool = False) -> Machine:
    spec = host.empty(vifs=vifs, start=start)
    raw.spawn(spec)
    return Machine(host, spec.uuid)


# ---- macvtap ------------------------------------------------------------------------------------


@contextmanager
def pair() -> Iterator[str]:
    """A network interface of the host; the end of its wire is one more, with a ``b``."""
    name = f"hvm{uuid4().hex[:8]}"
    add = ("link", "add", name, "type", "veth", "peer", f"{name}b")
    subprocess.run(["ip", *add], check=True)
    try:
        yield name
    finally:
        subprocess.run(["ip", "link", "delete", name], check=True)


@pytest.fixture(scope="module")
def wire(linux_bridge: LinuxBridge) -> Iterator[str]:
    """A network interface of the host, at whose other end is a DHCP server: a guest on macvtap
    does not reach the host itself."""
    with pair() as name:
        for end in (name, f"{name}b"):
            subprocess.run(["ip", "link", "set", end, "up"], check=True)
        subprocess.run(["ip", "link", "set", f"{name}b", "master", linux_bridge.name], check=True)
        yield name


def macvtap(source: str, **changes: object) -> MacvtapVif:
    return MacvtapVif.model_validate({"id": str(uuid4()), "source": source, **changes})


def test_macvtap_carries_packets(host: Host, wire: str) -> None:
    """At spawn and hot-plugged, in different modes, and gone when it is unplugged."""
    vifs = (macvtap(wire), macvtap(wire, active=False))
    with host.unchanged(), host.machine(vifs=vifs) as machine:
        assert [each.type for each in machine.info.vifs] == ["macvtap"] * 2
        assert machine.info.vifs[0].device == macvtap_name(vifs[0], machine.uuid)
        sources = [each.attrib for each in machine.xml().findall("devices/interface/source")]
        assert sources == [{"dev": wire, "mode": "bridge"}] * 2
        machine.booted()
        name = machine.console.expect(rf"nic (\w+) mac={vifs[0].mac} attached", timeout=BOOT)[1]
        machine.console.expect(rf"address {name} ", timeout=BOOT)
        more = macvtap(wire, mode="vepa")
        plugged = host.driver.plug_vif(machine.uuid, more)
        assert host.driver.plug_vif(machine.uuid, more) == plugged
        assert plugged.device == macvtap_name(more, machine.uuid)
        name = machine.console.expect(rf"nic (\w+) mac={more.mac} attached", timeout=BOOT)[1]
        machine.console.expect(rf"address {name} ", timeout=BOOT)
        host.driver.unplug_vif(machine.uuid, more.id)
        machine.console.expect(rf"nic {name} removed")
        assert [each.id for each in machine.info.vifs] == [each.id for each in vifs]


def test_the_whole_interface(host: Host, wire: str) -> None:
    """In mode passthrough one machine has it, and nobody else beside. The kernel refuses that as
    an invalid argument, so the hint says what it may be."""
    shared, whole = macvtap(wire), macvtap(wire, mode="passthrough")
    for first, second in ((shared, whole), (whole, shared)):
        with host.empty_machine(vifs=(first,)) as machine:
            with pytest.raises(errors.HypervisorFault) as refused:
                host.driver.plug_vif(machine.uuid, second)
            assert "passthrough" in (refused.value.hint or "")
            with pytest.raises(errors.HypervisorFault) as refused:
                host.driver.spawn(host.empty(vifs=(second,)))
            assert "passthrough" in (refused.value.hint or "")
            assert [each.id for each in machine.info.vifs] == [first.id]
    # what libvirt 9.0 has noted of the interface for the refused one stays in its own folder
    host.peer.path(f"/run/libvirt/qemu/{wire}").unlink(missing_ok=True)


def test_a_port_of_two_machines(host: Host, wire: str) -> None:
    """A start of the other one that fails in libvirt would remove the device of the one that runs,
    so it is refused before. Libvirt 9.0 alone knows of the ports of a machine that was made while
    nobody had them."""
    vif = macvtap(wire)
    both = host.empty(vifs=(vif,), start=False)
    with host.unchanged(), host.made(both).host.empty_machine(vifs=(vif,)) as owner:
        try:
            with host.made_empty() as other, pytest.raises(errors.DeviceBusy):
                host.driver.plug_vif(other.uuid, vif)
            with host.empty_machine() as other, pytest.raises(errors.DeviceBusy):
                host.driver.plug_vif(other.uuid, vif)
            for start in (True, False):
                with pytest.raises(errors.DeviceBusy, match=str(owner.uuid)) as refused:
                    host.driver.spawn(host.empty(vifs=(vif,), start=start))
                assert refused.value.hint
            # its owner keeps it
            assert Path(f"/sys/class/net/{macvtap_name(vif, owner.uuid)}").exists()
            with pytest.raises(errors.DeviceBusy):
                host.driver.power_on(both.uuid)
            host.driver.power_off(owner.uuid)
            host.driver.power_on(both.uuid)
        finally:
            host.driver.destroy(both.uuid)


def test_the_interface_has_gone(host: Host) -> None:
    """Under a machine that runs; the next start says what is missing, and what helps."""
    name = f"hvm{uuid4().hex[:8]}"
    pair = ("link", "add", name, "type", "veth", "peer", f"{name}b")
    subprocess.run(["ip", *pair], check=True)
    vif = macvtap(name)
    with host.unchanged(), host.empty_machine(vifs=(vif,)) as machine:
        subprocess.run(["ip", "link", "delete", name], check=True)
        assert machine.state is InstanceState.RUNNING
        assert [each.id for each in machine.info.vifs] == [vif.id]
        host.driver.reboot(machine.uuid)
        for stop, start in (("suspend", "resume"), ("power_off", "power_on")):
            getattr(host.driver, stop)(machine.uuid)
            with pytest.raises(errors.NetworkNotFound, match=name) as refused:
                getattr(host.driver, start)(machine.uuid)
            assert "make it first" in (refused.value.hint or "")
        host.driver.unplug_vif(machine.uuid, vif.id)
        host.driver.power_on(machine.uuid)


def test_a_second_machine_of_one_port_takes_nothing_away(host: Host, wire: str) -> None:
    """Both were made while they were off. The error says who has the device: also to a NIC that is
    plugged in while the machine runs, and where the kernel is the one to refuse the second device,
    as of a machine that others have started."""
    vif = macvtap(wire)
    with (
        host.unchanged(),
        host.made_empty(vifs=(vif,)) as one,
        host.made_empty(vifs=(vif,)) as two,
        host.empty_machine() as three,
    ):
        host.driver.power_on(one.uuid)
        device = one.info.vifs[0].device
        for attempt in (
            lambda: host.driver.power_on(two.uuid),
            lambda: host.driver.start_paused(two.uuid),
            lambda: start(host.raw.domains.find(two.uuid)),
            lambda: host.driver.plug_vif(three.uuid, vif),
            lambda: host.driver.spawn(host.empty(vifs=(vif,))),
        ):
            with pytest.raises(errors.DeviceBusy, match=str(one.uuid)) as refused:
                attempt()
            assert "power_off()" in (refused.value.hint or "")
            assert Path(f"/sys/class/net/{device}").exists()
        assert (two.state, three.info.vifs) == (InstanceState.STOPPED, ())
        # its device is off as long as its CPUs wait
        start(host.raw.domains.find(two.uuid), paused=True)
        with pytest.raises(errors.DeviceBusy, match=str(one.uuid)):
            host.driver.unpause(two.uuid)
        assert two.state is InstanceState.PAUSED
        host.driver.power_off(two.uuid)
        assert Path(f"/sys/class/net/{device}").exists()
        host.driver.power_off(one.uuid)
        host.driver.power_on(two.uuid)
        with pytest.raises(errors.DeviceBusy, match=str(two.uuid)):
            host.driver.power_on(one.uuid)


def test_a_port_over_two_interfaces(host: Host, wire: str) -> None:
    """Neither the kernel nor libvirt refuses the second device. So each start, and a NIC for a
    machine that runs, looks for the first one: one call, where there is a macvtap NIC."""
    driver, vif = host.driver, macvtap(wire)
    with (
        pair() as other,
        host.unchanged(),
        host.made_empty(vifs=(vif,)) as one,
        host.made_empty(vifs=(vif.model_copy(update={"source": other}),)) as two,
        host.empty_machine() as three,
    ):
        for state, prepare, starts in (
            (InstanceState.SUSPENDED, (driver.power_on, driver.suspend), (driver.resume,)),
            (InstanceState.SUSPENDED, (), (driver.power_on, driver.start_paused)),
            (InstanceState.STOPPED, (driver.power_off,), (driver.power_on, driver.rescue)),
        ):
            for step in prepare:
                step(two.uuid)
            with host.raw.connection.counting() as calls:
                driver.power_on(one.uuid)
            assert sum(calls.values()) == 5 + 1
            for attempt in starts:
                with pytest.raises(errors.DeviceBusy, match=str(one.uuid)) as refused:
                    attempt(two.uuid)
                assert "power_off()" in (refused.value.hint or "")
                assert two.state is state
            driver.power_off(one.uuid)
        driver.start_paused(two.uuid)
        for again in (
            lambda: driver.power_on(one.uuid),
            lambda: driver.plug_vif(three.uuid, vif),
        ):
            with pytest.raises(errors.DeviceBusy, match=str(two.uuid)):
                again()
        assert three.info.vifs == ()


def test_macvtap_that_cannot_be(host: Host, wire: str) -> None:
    """Every one is refused before anything is made, with a hint."""
    qos = VifQos(outbound=Bandwidth(average=80))
    with host.unchanged(), host.made_empty() as machine:
        wrong: dict[Vif, type[errors.HypervisorError]] = {
            macvtap("hv-nothing"): errors.NetworkNotFound,
            MacvtapVif(id="x", pci_address=FUNCTIONS[0]): errors.NetworkNotFound,
            macvtap(wire, vlan=4): errors.NotSupported,
            macvtap(wire, mtu=1400): errors.NotSupported,
            macvtap(wire, physical_interface="eth9"): errors.NotSupported,
        }
        for vif, error in wrong.items():
            for attempt in (
                lambda vif=vif: host.driver.plug_vif(machine.uuid, vif),
                lambda vif=vif: host.driver.spawn(host.empty(vifs=(vif,))),
            ):
                with pytest.raises(error) as refused:
                    attempt()
                assert refused.value.hint, vif
        # of this interface only the kernel knows that it is no virtual function
        tagged = macvtap(wire, vlan=4, mode="passthrough")
        with pytest.raises(errors.NotSupported, match="VF"):
            host.driver.spawn(host.empty(vifs=(tagged,)))
        host.peer.path(f"/run/libvirt/qemu/{wire}").unlink(missing_ok=True)  # libvirt's own note
        with suppress(errors.NotSupported):  # where the kernel lacks the parts for it
            host.driver.spawn(limited := host.empty(vifs=(macvtap(wire, qos=qos),)))
            host.driver.destroy(limited.uuid)
        assert machine.info.vifs == ()


# ---- devices of the host ------------------------------------------------------------------------


def test_a_host_without_vfio_says_so(host: Host) -> None:
    assert "VFIO" in (host.driver.why_not(Capability.VIF_HOSTDEV) or "")
    with host.unchanged(), host.made_empty() as machine, pytest.raises(errors.NotSupported):
        host.driver.plug_vif(machine.uuid, function())


def test_the_definition(host: Host, raw: LibvirtDriver) -> None:
    """By spawn() and by plug_vif(), as virsh shows it."""
    with host.unchanged():
        veb = function(vlan=42, physical_network="physnet1")
        whole = HostdevVif(id="whole", type="hostdev_physical", pci_address=GPU)
        machine = spawn(host, raw, veb, whole)
        infiniband = HostdevVif(id="ib", type="ib_hostdev", pci_address=FUNCTIONS[1])
        raw.plug_vif(machine.uuid, infiniband)
        raw.plug_vif(machine.uuid, infiniband)  # again
        shown = raw.get_instance(machine.uuid).vifs
        assert [(each.id, each.type, each.address, each.model) for each in shown] == [
            (veb.id, "hw_veb", veb.mac, None),
            ("whole", "hostdev_physical", None, None),
            ("ib", "ib_hostdev", None, None),
        ]
        assert None not in [each.pci_address for each in shown]
        devices = [each.host_pci_address for each in shown]
        assert devices == [veb.pci_address, GPU, infiniband.pci_address]
        xml = machine.xml(inactive=True)
        (interface,) = xml.findall("devices/interface")
        assert interface.attrib == {"type": "hostdev", "managed": "yes"}
        address = interface.find("source/address")
        assert address is not None
        assert (address.get("type"), address.get("bus"), address.get("slot")) == (
            "pci",
            "0x7e",
            "0x10",
        )
        assert [each.attrib for each in interface.iterfind("vlan/tag")] == [{"id": "42"}]
        devices = xml.findall("devices/hostdev")
        assert [each.get("managed") for each in devices] == ["yes"] * 2
        for vif in (veb, whole, infiniband):
            raw.set_vif_qos(machine.uuid, vif.id, None)
            with pytest.raises(errors.NotSupported):
                raw.set_vif_qos(machine.uuid, vif.id, VifQos(outbound=Bandwidth(average=80)))
            raw.unplug_vif(machine.uuid, vif.id)
        assert raw.get_instance(machine.uuid).vifs == ()
        assert machine.xml(inactive=True).findall("devices/hostdev") == []
        raw.destroy(machine.uuid)


def test_who_has_it(host: Host, raw: LibvirtDriver) -> None:
    """A function is one machine's, as its NIC or as a device; and so is a card in parts."""
    with host.unchanged():
        owner = spawn(host, raw, function())
        other = spawn(host, raw)
        for vif in (function(), HostdevVif(id="x", type="ib_hostdev", pci_address=FUNCTIONS[0])):
            with pytest.raises(errors.InsufficientResources, match=str(owner.uuid)) as refused:
                raw.plug_vif(other.uuid, vif)
            assert refused.value.hint
            with pytest.raises(errors.InsufficientResources):
                spawn(host, raw, vif)
        for address in (FUNCTIONS[0], PORT):
            wanted = (PciRequest(address=address),)
            with pytest.raises(errors.InsufficientResources, match=str(owner.uuid)):
                raw.spawn(host.empty(pci_devices=wanted, start=False))
        with pytest.raises(errors.InsufficientResources):
            raw.plug_vif(owner.uuid, function())  # it has it already
        raw.plug_vif(other.uuid, function(1))
        raw.unplug_vif(owner.uuid, raw.get_instance(owner.uuid).vifs[0].id)
        raw.plug_vif(other.uuid, function())
        for machine in (owner, other):
            raw.destroy(machine.uuid)


def test_devices_that_are_not_fit(host: Host, raw: LibvirtDriver) -> None:
    """Neither a whole card for a NIC whose address the host sets, nor what the host lives on."""
    with host.unchanged():
        machine = spawn(host, raw)
        for vif in (
            function(pci_address=GPU),
            function(type="hostdev_physical", pci_address=USED),
            function(type="ib_hostdev", pci_address=USED),
        ):
            for attempt in (
                lambda vif=vif: raw.plug_vif(machine.uuid, vif),
                lambda vif=vif: spawn(host, raw, vif),
            ):
                with pytest.raises(errors.InsufficientResources) as refused:
                    attempt()
                assert refused.value.hint, vif
        with pytest.raises(errors.InsufficientResources, match="twice"):
            spawn(host, raw, function(), function())
        qos = VifQos(outbound=Bandwidth(average=80))
        for changes in (
            {"mtu": 1400},
            {"queues": 2},
            {"qos": qos},
            {"model": NicModel.VIRTIO},
            {"active": False},
        ):
            with pytest.raises(errors.NotSupported) as unsupported:
                spawn(host, raw, function(**changes))
            assert unsupported.value.hint, changes
        raw.destroy(machine.uuid)


def test_it_does_not_start_here(host: Host, raw: LibvirtDriver) -> None:
    """libvirt's refusal is a typed error, and leaves nothing; also of a NIC that is plugged in
    while the machine runs."""
    with host.unchanged():
        for vif in (function(), function(type="ib_hostdev")):
            with pytest.raises(errors.HypervisorError):
                spawn(host, raw, vif, start=True)
            machine = spawn(host, raw, vif)
            with pytest.raises(errors.HypervisorError):
                raw.power_on(machine.uuid)
            assert machine.info.state is InstanceState.STOPPED
            raw.unplug_vif(machine.uuid, vif.id)
            raw.power_on(machine.uuid)
            with pytest.raises(errors.HypervisorError):
                raw.plug_vif(machine.uuid, vif)
            assert machine.info.vifs == ()
            raw.destroy(machine.uuid)


def test_other_connections(host: Host, raw: LibvirtDriver) -> None:
    """A NIC keeps its id and MAC address when it becomes a function, and when it leaves it; a
    function of another machine is refused."""
    with host.unchanged():
        owner = spawn(host, raw, function(1))
        plain = TapVif(id="nic", exists=False, address="52:54:00:00:00:09")
        machine = spawn(host, raw, plain)
        with pytest.raises(errors.InsufficientResources):
            raw.reconnect(machine.uuid, vifs=[function(1, id="nic")])
        for _ in range(2):
            raw.reconnect(machine.uuid, vifs=[function(id="nic")])
            (nic,) = raw.get_instance(machine.uuid).vifs
            assert (nic.id, nic.type, nic.address) == ("nic", "hw_veb", plain.mac)
        raw.reconnect(machine.uuid, vifs=[TapVif(id="nic", exists=False)])
        (nic,) = raw.get_instance(machine.uuid).vifs
        assert (nic.id, nic.type, nic.address) == ("nic", "tap", plain.mac)
        raw.plug_vif(owner.uuid, function())
        for each in (owner, machine):
            raw.destroy(each.uuid)


def test_it_stays_with_its_host(host: Host, raw: LibvirtDriver) -> None:
    """Also if it is off."""
    with host.unchanged(), LibvirtPeer(network=True) as there:
        machine = spawn(host, raw, function(id="nic"))
        there_too = Destination(host=there.uri, address=there.address)
        for move in (raw.cold_migrate, raw.prepare_move):
            with pytest.raises(errors.InvalidRequest, match="device of one host"):
                move(machine.uuid, there_too)
        raw.destroy(machine.uuid)


def test_two_clients_at_once(host: Host, raw: LibvirtDriver) -> None:
    """One of four machines gets it."""
    with (
        host.unchanged(),
        closing(with_devices(connect(host.peer))) as other,
        ThreadPoolExecutor(4) as pool,
    ):
        machines = [spawn(host, raw) for _ in range(4)]

        def plug(at: int) -> bool:
            with suppress(errors.InsufficientResources):
                (raw, other)[at % 2].plug_vif(machines[at].uuid, function())
                return True
            return False

        assert sum(pool.map(plug, range(4))) == 1
        for machine in machines:
            raw.destroy(machine.uuid)


def test_budget(host: Host, raw: LibvirtDriver) -> None:
    """Against a tap device, of a stopped machine: 4 more, 2 of which are made up here, and one for
    each machine."""

    def count(vif: Vif) -> int:
        with raw.connection.counting() as counter:
            raw.plug_vif(machine.uuid, vif)
        raw.unplug_vif(machine.uuid, vif.id)
        return sum(counter.values())

    with host.unchanged():
        machine = spawn(host, raw)
        machines = len(raw.list_instances()) + len(raw.list_foreign())
        assert count(TapVif(id="x", exists=False)) == 7
        # the turn's helper is a machine of the host too
        assert count(function()) - 7 == 4 - 2 + machines + 1
        raw.destroy(machine.uuid)


# ---- vDPA ---------------------------------------------------------------------------------------

VDPA = (
    "<device><name>vdpa_vdpa0</name><parent>pci_0000_7e_10_0</parent><driver><name>vhost_vdpa"
    "</name></driver><capability type='vdpa'><chardev>/dev/vhost-vdpa-0</chardev></capability>"
    "</device>"
)


class _Node:
    """A vDPA device, as libvirt's documentation shows one: https://libvirt.org/formatnode.html"""

    @staticmethod
    def XMLDesc(_flags: int) -> str:
        return VDPA


def test_vdpa(host: Host, raw: LibvirtDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its device and by its function. This host has none: where it is, is made up."""
    with host.unchanged():
        absent = VdpaVif(id="x", device="/dev/vhost-vdpa-0")
        with pytest.raises(errors.NetworkNotFound) as missing:
            spawn(host, raw, absent)
        assert missing.value.hint
        real = raw.networks._connection
        listed = type("Remote", (), {"listAllDevices": lambda *_: [_Node()]})()
        monkeypatch.setattr(raw.networks, "_connection", type("C", (), {"remote": listed})())
        by_device = VdpaVif(id="x", device="/dev/vhost-vdpa-0", queues=2)
        by_function = VdpaVif(id="y", pci_address=FUNCTIONS[0])
        machine = spawn(host, raw, by_device)
        raw.plug_vif(machine.uuid, by_function)
        shown = raw.get_instance(machine.uuid).vifs
        assert [(each.id, each.type, each.address) for each in shown] == [
            ("x", "vdpa", by_device.mac),
            ("y", "vdpa", by_function.mac),
        ]
        interfaces = machine.xml(inactive=True).findall("devices/interface")
        assert [each.get("type") for each in interfaces] == ["vdpa"] * 2
        sources = [each.find("source") for each in interfaces]
        assert [each.get("dev") for each in sources if each is not None] == [by_device.device] * 2
        for vif in (
            VdpaVif(id="z", device="/dev/vhost-vdpa-1"),
            VdpaVif(id="z", pci_address=FUNCTIONS[1]),
        ):
            with pytest.raises(errors.NetworkNotFound) as missing:
                raw.plug_vif(machine.uuid, vif)
            assert missing.value.hint
        for changes in ({"vlan": 3}, {"mtu": 1400}, {"model": NicModel.E1000E}):
            with pytest.raises(errors.NotSupported) as refused:
                raw.plug_vif(
                    machine.uuid,
                    by_device.model_copy(update={"id": "z", "queues": None, **changes}),
                )
            assert refused.value.hint, changes
        with pytest.raises(errors.HypervisorError):
            raw.power_on(machine.uuid)
        assert machine.info.state is InstanceState.STOPPED
        monkeypatch.setattr(raw.networks, "_connection", real)
        for vif in (by_device, by_function):
            raw.unplug_vif(machine.uuid, vif.id)
        raw.destroy(machine.uuid)


def test_reconnected_to_a_bridge(host: Host, linux_bridge: LinuxBridge, wire: str) -> None:
    """From macvtap to a bridge and back; the machine starts with either."""
    vif = macvtap(wire, id="nic-wired")
    with host.unchanged(), host.made_empty(vifs=(vif,)) as machine:
        mac = machine.info.vifs[0].address
        for new in (BridgeVif(id="nic-wired", bridge=linux_bridge.name), vif):
            host.driver.reconnect(machine.uuid, vifs=[new])
            (nic,) = machine.info.vifs
            assert (nic.type, nic.address) == (new.type, mac)
            host.driver.power_on(machine.uuid)
            host.driver.power_off(machine.uuid)
