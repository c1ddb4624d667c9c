"""A migration copies disks to a pool that fills up under it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hvdrivers.contract import errors
from hvdrivers.models.instance import Flavor
from hvdrivers.models.state import InstanceState
from tests.integration.libvirt.machines import Host, host
from tests.integration.libvirt.test_relocation import alone, places
from tests.peers.fixtures import started
from tests.peers.libvirtd import LibvirtPeer

__all__ = ["host"]

FOLDER = "/var/lib/libvirt/hvdrivers"
TWO_DISKS = Flavor(vcpus=1, memory_mib=64, ephemeral_gib=1)


@pytest.fixture
def there(host: Host) -> Iterator[Host]:
    """Another host, whose pools are on a small file system."""
    with started(LibvirtPeer) as peer:
        peer.inside("mkdir", "-p", FOLDER)
        with peer.small(FOLDER, 24 << 20):
            made = Host(peer, host.image)
            yield made
            made.close()


@pytest.mark.parametrize("running", [True, False], ids=["live", "cold"])
def test_a_pool_that_fills_up_there(host: Host, there: Host, running: bool) -> None:
    """There was room when it was asked for, and another client has taken it since."""
    with host.made_empty(flavor=TWO_DISKS) as machine:
        disk = alone(host, places(machine)["ephemeral"])
        write = ["qemu-io", "-c", "write -P 5 0 20M", disk]
        subprocess.run(write, check=True, stdout=subprocess.DEVNULL)
        if running:
            host.driver.power_on(machine.uuid)
        state, move = (
            machine.state,
            host.driver.live_migrate if running else host.driver.cold_migrate,
        )
        destination = there.destination()

        def seam(name: str, send: Callable[[], Any]) -> Any:
            if name == "Domain.migrate3":
                fill = f"head -c 12M /dev/zero >{FOLDER}/fill"
                there.peer.inside("sh", "-c", fill, check=False)
            return send()

        with host.unchanged(), there.unchanged():
            host.raw.connection.seam = seam
            try:
                with pytest.raises(errors.InsufficientResources, match="room left") as refused:
                    move(machine.uuid, destination)
            finally:
                host.raw.connection.seam = None
                there.peer.inside("rm", f"{FOLDER}/fill")
            assert refused.value.hint
            assert machine.state is state
        move(machine.uuid, destination)
        assert there.driver.get_instance(machine.uuid).state is state
        there.driver.destroy(machine.uuid)
        with pytest.raises(errors.InstanceNotFound):
            host.driver.get_instance(machine.uuid)
    assert state is (InstanceState.RUNNING if running else InstanceState.STOPPED)
