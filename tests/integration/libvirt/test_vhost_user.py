"""NICs on a userspace switch: QEMU connects to it. Guests use none here; see the peer.

Emulated machines are refused such a port. The tests of what QEMU does with one go past that, by a
driver without the guard and that check.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.guard import guarded
from hvdrivers.models.instance import Flavor
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import Bandwidth, NicModel, TapVif, VhostUserVif, VifQos
from tests.integration.libvirt.conftest import connect
from tests.integration.libvirt.machines import Host, Machine
from tests.peers.libvirtd import LibvirtPeer
from tests.peers.vhostuser import VhostUserPort
from tests.peers.waiting import wait_until

FOLDER = "/var/lib/libvirt/qemu"


@pytest.fixture(scope="module")
def host(libvirt_peer: LibvirtPeer, guest_image: Path) -> Iterator[Host]:
    """The shared host, by a driver that gives emulated machines such a port."""
    made = Host(libvirt_peer, guest_image)
    lacking = made.raw.narrowed()
    assert "KVM" in lacking.pop(Capability.VIF_VHOSTUSER)
    made.raw.networks.refuse_emulated = lambda *_: None  # type: ignore[method-assign]
    made.raw.facts.narrowed = lambda: lacking  # type: ignore[method-assign]
    made.driver = guarded(made.raw)
    yield made
    made.close()


@pytest.fixture
def port(host: Host) -> Iterator[VhostUserPort]:
    with VhostUserPort(host.peer.path(f"{FOLDER}/vhu{uuid4().hex[:8]}")) as made:
        yield made


@pytest.fixture
def vif(port: VhostUserPort) -> VhostUserVif:
    return VhostUserVif(id=str(uuid4()), socket=f"{FOLDER}/{port.path.name}", mode="client")


def _shares_memory(machine: Machine) -> bool:
    access = machine.xml(inactive=True).find("memoryBacking/access")
    return access is not None and access.get("mode") == "shared"


def _wait(port: VhostUserPort, connected: bool) -> None:
    wait_until(lambda: port.connected is connected, timeout=30, what=f"connected: {connected}")


def test_a_machine_connects_to_the_switch(
    host: Host, port: VhostUserPort, vif: VhostUserVif
) -> None:
    """From spawn(), and each start on; until it is off."""
    with host.unchanged():
        with host.empty_machine(vifs=(vif,)) as machine:
            _wait(port, True)
            (nic,) = machine.info.vifs
            assert (nic.id, nic.type, nic.address) == (vif.id, "vhostuser", vif.mac)
            assert _shares_memory(machine)
            qos = VifQos(outbound=Bandwidth(average=80))
            with pytest.raises(errors.NotSupported):
                host.driver.set_vif_qos(machine.uuid, vif.id, qos)
            host.driver.power_off(machine.uuid)
            _wait(port, False)
            host.driver.power_on(machine.uuid)
            _wait(port, True)
        _wait(port, False)


def test_plugged_into_a_stopped_machine(host: Host, port: VhostUserPort, vif: VhostUserVif) -> None:
    """Its memory is shared from then on, until its size changes without such a NIC."""
    with host.unchanged(), host.made_empty() as machine:
        plugged = host.driver.plug_vif(machine.uuid, vif)
        assert host.driver.plug_vif(machine.uuid, vif) == plugged
        assert _shares_memory(machine)
        host.driver.power_on(machine.uuid)
        _wait(port, True)
        host.driver.power_off(machine.uuid)
        host.driver.unplug_vif(machine.uuid, vif.id)
        assert machine.info.vifs == ()
        host.driver.resize(machine.uuid, Flavor(vcpus=1, memory_mib=64, max_memory_mib=2048))
        assert not _shares_memory(machine)
        host.driver.power_on(machine.uuid)
        assert not port.connected


def test_what_is_refused(host: Host, vif: VhostUserVif) -> None:
    with host.unchanged(), host.empty_machine() as machine:
        with pytest.raises(errors.NotSupported, match="memory") as refused:
            host.driver.plug_vif(machine.uuid, vif)
        assert "power_off" in (refused.value.hint or "")
        host.driver.power_off(machine.uuid)
        for changes in (
            {"vlan": 3},
            {"model": NicModel.E1000E},
            {"qos": VifQos(outbound=Bandwidth(average=80))},
        ):
            with pytest.raises(errors.NotSupported) as refused:
                host.driver.plug_vif(machine.uuid, vif.model_copy(update=changes))
            assert refused.value.hint, changes
        assert machine.info.vifs == ()


def test_no_switch_at_the_socket(host: Host) -> None:
    vif = VhostUserVif(id="nic", socket=f"{FOLDER}/nothing", mode="client")
    with host.unchanged():
        with pytest.raises(errors.HypervisorFault) as refused:
            host.made(host.empty(vifs=(vif,)))
        assert vif.socket in (refused.value.hint or "")
        with host.made_empty() as machine:
            host.driver.plug_vif(machine.uuid, vif)
            with pytest.raises(errors.HypervisorFault):
                host.driver.power_on(machine.uuid)
            assert machine.state is InstanceState.STOPPED
            host.driver.unplug_vif(machine.uuid, vif.id)
            host.driver.power_on(machine.uuid)


def test_a_socket_in_the_place_of_a_file(host: Host) -> None:
    """QEMU would remove the file: another machine's disk, as here."""
    with host.unchanged(), host.made_empty() as machine, host.made_empty() as other:
        disk = host.raw.pools.disk_path(f"{other.uuid}.root")
        for path, error in {
            disk: errors.InvalidRequest,
            f"{FOLDER}/absent/a": errors.NetworkNotFound,
            f"{FOLDER}/domain-1-a/monitor.sock": errors.InvalidRequest,
        }.items():
            vif = VhostUserVif(id="nic", socket=path, mode="server")
            for refused in (
                lambda vif=vif: host.driver.plug_vif(machine.uuid, vif),
                lambda vif=vif: host.made(host.empty(vifs=(vif,))),
            ):
                with pytest.raises(error) as found:
                    refused()
                assert found.value.hint
        assert host.peer.path(disk).is_file()
        free = VhostUserVif(id="nic", socket=f"{FOLDER}/free,a&b", mode="server")
        counted = []
        for each, vif in ((machine, free), (other, free.model_copy(update={"mode": "client"}))):
            with host.raw.connection.counting() as calls:
                host.driver.plug_vif(each.uuid, vif)
            counted.append(sum(calls.values()))
        assert counted == [8 + 3, 8]
        source = machine.xml(inactive=True).find("devices/interface/source")
        assert source is not None
        assert source.get("path") == free.socket


def test_an_emulated_machine_has_none(host: Host, vif: VhostUserVif) -> None:
    """Without the guard too, as a host may show a KVM that does not work."""
    bridge = TapVif(id=vif.id, exists=False)
    with host.unchanged(), host.made_empty(vifs=(bridge,)) as machine:
        with closing(connect(host.peer)) as plain:
            for refused in (
                lambda: plain.spawn(host.empty(vifs=(vif,))),
                lambda: plain.plug_vif(machine.uuid, vif.model_copy(update={"id": "other"})),
                lambda: plain.reconnect(machine.uuid, vifs=[vif]),
            ):
                with pytest.raises(errors.NotSupported, match="KVM") as error:
                    refused()
                assert error.value.hint
        with closing(guarded(connect(host.peer))) as driver:
            assert Capability.VIF_VHOSTUSER not in driver.capabilities
            assert "KVM" in (driver.why_not(Capability.VIF_VHOSTUSER) or "")
        assert [each.type for each in machine.info.vifs] == ["tap"]
