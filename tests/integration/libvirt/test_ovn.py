"""A NIC as a port of OVN: ovn-controller binds it, and OVN carries its packets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID, uuid4

from hvdrivers.models.instance import StartAs
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import OvsVif
from tests.integration.libvirt.machines import BOOT, Host, Machine
from tests.peers.ovn import Ovn


class Port:
    """A logical switch port, and the VIF that an orchestrator gives the driver for it."""

    def __init__(self, ovn: Ovn) -> None:
        self.id: UUID = uuid4()
        self.vif = OvsVif(id=str(self.id), bridge=ovn.bridge.name, mtu=1400)
        self.address = ovn.add_port(self.id, self.vif.mac)


@contextmanager
def logical_port(ovn: Ovn) -> Iterator[Port]:
    made = Port(ovn)
    try:
        yield made
    finally:
        ovn.delete_port(made.id)


def gets_its_address(machine: Machine, port: Port, after: int = 0) -> str:
    """The guest's name of the NIC."""
    pattern = rf"address (\w+) {port.address}$"
    return machine.console.expect(pattern, timeout=BOOT, after=after)[1]


def test_a_port_is_up_as_long_as_a_machine_has_it(host: Host, ovn: Ovn) -> None:
    with host.unchanged(), logical_port(ovn) as port:
        assert not ovn.is_up(port.id)
        assert ovn.bound_to(port.id) == ""
        with host.machine(vifs=[port.vif], start=False) as machine:
            assert not ovn.is_up(port.id)
            host.driver.power_on(machine.uuid)
            ovn.wait_up(port.id)
            assert ovn.bound_to(port.id) == ovn.chassis
            (nic,) = machine.info.vifs
            assert nic.device is not None
            ids = ovn.bridge.interface(nic.device, "external_ids")
            for key, value in {
                "iface-id": port.id,
                "attached-mac": port.vif.mac,
                "vm-id": machine.uuid,
            }.items():
                assert f'{key}="{value}"' in ids
            assert "iface-status=active" in ids
            gets_its_address(machine, port)
            machine.booted()

            host.driver.unplug_vif(machine.uuid, port.vif.id)
            ovn.wait_up(port.id, False)
            assert ovn.bound_to(port.id) == ""
            said = machine.said()
            host.driver.plug_vif(machine.uuid, port.vif)
            ovn.wait_up(port.id)
            gets_its_address(machine, port, said)

            host.driver.suspend(machine.uuid)
            ovn.wait_up(port.id, False)
            host.driver.resume(machine.uuid)
            ovn.wait_up(port.id)
            host.driver.power_off(machine.uuid)
            ovn.wait_up(port.id, False)
            host.driver.power_on(machine.uuid)
            ovn.wait_up(port.id)
        ovn.wait_up(port.id, False)
        assert ovn.bridge.ports() == set()


def test_up_before_the_guest_runs(host: Host, ovn: Ovn) -> None:
    """start_paused: the orchestrator waits for the port, and then lets the guest run."""
    with host.unchanged(), logical_port(ovn) as port:
        with host.machine(vifs=[port.vif], start_as=StartAs.PAUSED) as machine:
            ovn.wait_up(port.id)
            assert machine.state is InstanceState.PAUSED
            assert machine.said() == 0
            host.driver.unpause(machine.uuid)
            gets_its_address(machine, port)
            host.driver.power_off(machine.uuid)
            ovn.wait_up(port.id, False)
            host.driver.start_paused(machine.uuid)
            ovn.wait_up(port.id)
            assert machine.state is InstanceState.PAUSED
        ovn.wait_up(port.id, False)


def test_two_guests_on_one_switch(host: Host, ovn: Ovn) -> None:
    """They reach each other by their own addresses, and by no other: port security."""
    with (
        host.unchanged(),
        logical_port(ovn) as first,
        logical_port(ovn) as second,
        host.machine(vifs=[first.vif]) as one,
        host.machine(vifs=[second.vif]) as two,
    ):
        for machine, port in ((one, first), (two, second)):
            name = gets_its_address(machine, port)
            machine.booted()
        two.run(f"ping -c 2 -W 20 {first.address}", timeout=60)
        one.run(f"ping -c 2 -W 20 {second.address}", timeout=60)
        false = second.address.rsplit(".", 1)[0] + ".200"
        two.run(f"ip address add {false}/24 dev {name}")
        two.run(f"! ping -c 2 -W 3 -I {false} {first.address}", timeout=60)
        two.run(f"ping -c 2 -W 20 {first.address}", timeout=60)


def test_a_port_that_ovn_does_not_know(host: Host, ovn: Ovn) -> None:
    """Plugging it succeeds: the port comes up once the control plane has made it."""
    identity = uuid4()
    vif = OvsVif(id="nic", interface_id=str(identity), bridge=ovn.bridge.name)
    with host.unchanged(), host.empty_machine() as machine:
        host.driver.plug_vif(machine.uuid, vif)
        ovn.add_port(identity, vif.within(machine.uuid).mac)
        try:
            ovn.wait_up(identity)
            host.driver.power_off(machine.uuid)
            ovn.wait_up(identity, False)
        finally:
            ovn.delete_port(identity)
