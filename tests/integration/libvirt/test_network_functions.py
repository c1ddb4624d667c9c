"""Functions that libvirt takes from a network of forward mode hostdev.

This machine has no adapter with virtual functions. Those here are made up, in the view of the
daemon alone: a folder that it takes for ``/sys/bus/pci/devices``. So a real libvirtd makes the
network, defines the machines, counts the functions, and gives one out at each start. Then it
refuses the start, as the host has no VFIO.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import uuid4

import libvirt
import pytest

from hvdrivers.contract import errors
from hvdrivers.libvirt.driver import LibvirtDriver
from hvdrivers.models.migration import BlockerKind, Destination
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import (
    AttachedVif,
    Bandwidth,
    NetworkVif,
    NicModel,
    TapVif,
    Vif,
    VifQos,
)
from tests.integration.libvirt.conftest import connect
from tests.integration.libvirt.machines import Host, Machine
from tests.peers.libvirtd import LibvirtPeer

POOL, EMPTY, USUAL = "functions", "no-functions", "usual"
DEVICES = "/sys/bus/pci/devices"
ADAPTER, FUNCTION = "0000:7e:00.0", "0000:7e:10.0"
_MADE_UP = f"""
mkdir -p {ADAPTER}/net/fast0 {FUNCTION}
ln -s ../{ADAPTER} {FUNCTION}/physfn
ln -s ../{FUNCTION} {ADAPTER}/virtfn0
for each in {ADAPTER} {FUNCTION}; do
  echo 0x8086 > $each/vendor; echo 0x10ed > $each/device; echo 0x020000 > $each/class
  head -c 256 /dev/zero > $each/config
done
"""
_NETWORKS = (
    f"<network><name>{POOL}</name><forward mode='hostdev' managed='yes'><address type='pci'"
    " domain='0' bus='0x7e' slot='0x10' function='0'/></forward></network>",
    f"<network><name>{EMPTY}</name><forward mode='hostdev' managed='yes'/></network>",
    f"<network><name>{USUAL}</name><forward mode='bridge'/><bridge name='hv-none'/></network>",
)
_PORT = """
<networkport><uuid>{port}</uuid><owner><name>other</name><uuid>{owner}</uuid></owner>
  <mac address="52:54:00:00:00:77"/>
  <plug type="hostdev-pci" managed="yes">
    <address domain="0" bus="0x7e" slot="0x10" function="0"/>
  </plug></networkport>"""


@pytest.fixture(scope="module")
def host(guest_image: Path) -> Iterator[Host]:
    """A host with a network that has one function, one that has none, and a usual one."""
    with LibvirtPeer() as peer, peer.small(DEVICES, 1 << 20):
        peer.inside("sh", "-ec", f"cd {DEVICES}; {_MADE_UP}")
        with closing(libvirt.open(peer.uri)) as connection:
            for each in _NETWORKS:
                connection.networkCreateXML(each)
        made = Host(peer, guest_image)
        yield made
        made.close()


@pytest.fixture
def raw(host: Host) -> Iterator[LibvirtDriver]:
    """A client that takes the host for one with VFIO, without the guard, which would not."""
    with closing(connect(host.peer)) as made:
        made.facts.narrowed = dict  # type: ignore[method-assign]
        yield made


def nic(**changes: object) -> NetworkVif:
    values: dict[str, object] = {"id": "fast", "network": POOL, "sriov": True}
    return NetworkVif.model_validate(values | changes)


def spawn(host: Host, raw: LibvirtDriver, *vifs: Vif, start: bool = False) -> Machine:
    spec = host.empty(vifs=vifs, start=start)
    raw.spawn(spec)
    return Machine(host, spec.uuid)


def shown(raw: LibvirtDriver, machine: Machine) -> AttachedVif:
    (found,) = raw.get_instance(machine.uuid).vifs
    return found


@contextmanager
def function_taken(host: Host) -> Iterator[None]:
    """Another machine has the network's function, as far as the network knows."""
    with closing(libvirt.open(host.peer.uri)) as connection:
        network = connection.networkLookupByName(POOL)
        port = network.portCreateXML(
            _PORT.format(port=uuid4(), owner=uuid4()), libvirt.VIR_NETWORK_PORT_CREATE_RECLAIM
        )
        try:
            yield
        finally:
            port.delete(0)


def test_a_host_without_vfio_says_so(host: Host) -> None:
    """Before anything is made, with what users get."""
    with host.unchanged(), host.made_empty() as machine:
        for attempt in (
            lambda: host.driver.spawn(host.empty(vifs=(nic(),), start=False)),
            lambda: host.driver.plug_vif(machine.uuid, nic()),
        ):
            with pytest.raises(errors.NotSupported, match="VFIO") as refused:
                attempt()
            assert refused.value.hint
        assert machine.info.vifs == ()


def test_spawned_plugged_and_unplugged(host: Host, raw: LibvirtDriver) -> None:
    """A definition names the network, and no function: libvirt chooses at each start."""
    with host.unchanged():
        one, two = spawn(host, raw, nic()), spawn(host, raw)
        made = raw.plug_vif(two.uuid, nic())
        assert raw.plug_vif(two.uuid, nic()) == made
        for machine in (one, two):
            found = shown(raw, machine)
            assert (found.id, found.type, found.sriov) == ("fast", "network", True)
            assert (found.model, found.host_pci_address) == (None, None)
            assert found.address == nic().mac
            (interface,) = machine.xml(inactive=True).findall("devices/interface")
            assert interface.get("type") == "network"
            sources = [dict(each.attrib) for each in interface.iterfind("source")]
            assert sources == [{"network": POOL}]
            raw.set_vif_qos(machine.uuid, "fast", None)
            qos = VifQos(outbound=Bandwidth(average=80))
            with pytest.raises(errors.NotSupported):
                raw.set_vif_qos(machine.uuid, "fast", qos)
            for _ in range(2):
                raw.unplug_vif(machine.uuid, "fast")
            assert raw.get_instance(machine.uuid).vifs == ()
            raw.destroy(machine.uuid)


def test_a_vlan_is_the_functions(host: Host, raw: LibvirtDriver) -> None:
    with host.unchanged():
        machine = spawn(host, raw, nic(vlan=42))
        tags = machine.xml(inactive=True).iterfind("devices/interface/vlan/tag")
        assert [each.get("id") for each in tags] == ["42"]
        raw.destroy(machine.uuid)


def test_what_cannot_be(host: Host, raw: LibvirtDriver) -> None:
    """Refused before anything is made."""
    wrong: dict[NetworkVif, tuple[type[errors.HypervisorError], str]] = {
        nic(network=USUAL): (errors.NotSupported, USUAL),
        nic(network=EMPTY): (errors.NotSupported, "no virtual functions"),
        nic(network="absent"): (errors.NetworkNotFound, "absent"),
        nic(sriov=False): (errors.NotSupported, POOL),
        nic(model=NicModel.VIRTIO): (errors.NotSupported, "model"),
        nic(mtu=1400): (errors.NotSupported, "mtu"),
        nic(active=False): (errors.NotSupported, "link"),
    }
    with host.unchanged():
        machine = spawn(host, raw)
        for vif, (error, words) in wrong.items():
            for attempt in (
                lambda vif=vif: raw.plug_vif(machine.uuid, vif),
                lambda vif=vif: spawn(host, raw, vif),
            ):
                with pytest.raises(error, match=words) as refused:
                    attempt()
                assert refused.value.hint, vif
        assert raw.get_instance(machine.uuid).vifs == ()
        raw.destroy(machine.uuid)


def test_no_function_is_left(host: Host, raw: LibvirtDriver) -> None:
    """A machine may be made, and waits for its start until there is one."""
    with host.unchanged():
        machine, runs = spawn(host, raw, nic()), spawn(host, raw, start=True)
        with function_taken(host):
            for attempt in (
                lambda: spawn(host, raw, nic(), start=True),
                lambda: raw.plug_vif(runs.uuid, nic()),
                lambda: raw.power_on(machine.uuid),
            ):
                with pytest.raises(errors.InsufficientResources, match=POOL) as short:
                    attempt()
                assert "power_off()" in (short.value.hint or "")
            assert machine.info.state is InstanceState.STOPPED
            assert raw.get_instance(runs.uuid).vifs == ()
            raw.destroy(spawn(host, raw, nic()).uuid)
        for each in (machine, runs):
            raw.destroy(each.uuid)


def test_more_nics_than_functions(host: Host, raw: LibvirtDriver) -> None:
    """libvirt has given them back by the time that it is asked."""
    with host.unchanged():
        machine = spawn(host, raw, nic(), nic(id="second"))
        with pytest.raises(errors.InsufficientResources, match="1 virtual function left"):
            raw.power_on(machine.uuid)
        raw.destroy(machine.uuid)


def test_it_does_not_start_here(host: Host, raw: LibvirtDriver) -> None:
    """libvirt's refusal is a typed error, leaves nothing, and gives the function back."""
    with host.unchanged():
        with pytest.raises(errors.NotSupported, match="passthrough"):
            spawn(host, raw, nic(), start=True)
        machine, runs = spawn(host, raw, nic()), spawn(host, raw, start=True)
        with pytest.raises(errors.NotSupported, match="passthrough"):
            raw.power_on(machine.uuid)
        with pytest.raises(errors.NotSupported, match="passthrough"):
            raw.plug_vif(runs.uuid, nic())
        assert raw.get_instance(runs.uuid).vifs == ()
        raw.unplug_vif(machine.uuid, "fast")
        raw.power_on(machine.uuid)
        assert 'connections="' not in host.peer.virsh("net-dumpxml", POOL).replace("'", '"')
        for each in (machine, runs):
            raw.destroy(each.uuid)


def test_other_connections(host: Host, raw: LibvirtDriver) -> None:
    """A NIC keeps its id and MAC address when it becomes a function, and when it leaves it."""
    with host.unchanged():
        plain = TapVif(id="fast", exists=False, address="52:54:00:00:00:09")
        machine = spawn(host, raw, plain)
        with pytest.raises(errors.NotSupported):
            raw.reconnect(machine.uuid, vifs=[nic(sriov=False)])
        for vif, wanted in ((nic(), True), (nic(), True), (TapVif(id="fast", exists=False), False)):
            raw.reconnect(machine.uuid, vifs=[vif])
            found = shown(raw, machine)
            assert (found.id, found.type, found.sriov) == ("fast", vif.type, wanted)
            assert found.address == plain.mac
        raw.power_on(machine.uuid)
        raw.destroy(machine.uuid)


def test_it_stays_with_its_host(host: Host, raw: LibvirtDriver) -> None:
    """Also if it is off, and wherever it would get a function."""
    with host.unchanged(), LibvirtPeer(network=True) as there:
        machine = spawn(host, raw, nic())
        there_too = Destination(host=there.uri, address=there.address)
        for move in (raw.cold_migrate, raw.prepare_move):
            with pytest.raises(errors.InvalidRequest, match="device of one host"):
                move(machine.uuid, there_too)
        raw.destroy(machine.uuid)
        runs = spawn(host, raw, TapVif(id="fast", exists=False), start=True)
        with_one = there_too.model_copy(update={"vifs": (nic(),)})
        blockers = raw.check_live_migration(runs.uuid, with_one).blockers
        assert [each.device for each in blockers if each.kind is BlockerKind.DEVICE] == ["fast"]
        with closing(libvirt.open(there.uri)) as connection:
            connection.networkCreateXML(_NETWORKS[1])
        unasked = there_too.model_copy(update={"vifs": (nic(network=EMPTY, sriov=False),)})
        (blocker,) = raw.check_live_migration(runs.uuid, unasked).blockers
        assert (blocker.kind, EMPTY in blocker.reason) == (BlockerKind.NETWORK, True)
        with pytest.raises(errors.InvalidRequest, match=EMPTY):
            raw.live_migrate(runs.uuid, unasked)
        raw.destroy(runs.uuid)


def test_a_plain_nic_gets_no_function_there(host: Host, raw: LibvirtDriver) -> None:
    """The network of its name there gives functions alone. The NIC is none of those that the caller
    connects anew."""
    with host.unchanged(), LibvirtPeer(network=True) as there:
        with closing(libvirt.open(there.uri)) as connection:
            connection.networkCreateXML(_NETWORKS[1].replace(EMPTY, USUAL))
        machine = spawn(host, raw, nic(network=USUAL, sriov=False))
        for move in (raw.cold_migrate, raw.prepare_move):
            with pytest.raises(errors.InvalidRequest, match=f"{USUAL}.*functions alone") as refused:
                move(machine.uuid, Destination(host=there.uri, address=there.address))
            assert refused.value.hint
        raw.destroy(machine.uuid)


def test_budget(host: Host, raw: LibvirtDriver) -> None:
    """As for any network of libvirt's; but there is no device on the host to look for."""
    with host.unchanged():
        machine = spawn(host, raw)
        found = []
        for vif in (TapVif(id="x", exists=False), nic(), nic(network=USUAL, sriov=False)):
            with raw.connection.counting() as counter:
                raw.plug_vif(machine.uuid, vif)
            raw.unplug_vif(machine.uuid, vif.id)
            found.append(sum(counter.values()))
        assert found == [7, 8, 9]
        raw.destroy(machine.uuid)
