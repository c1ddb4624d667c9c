"""Machines that move to another host, and get another kind of NIC there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from hvdrivers.contract import errors
from hvdrivers.models.migration import BlockerKind, Destination
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import BridgeVif, MacvtapVif, NicModel, TapVif, UserVif, Vif
from tests.integration.libvirt.machines import Host, Machine
from tests.peers.bridge import LinuxBridge
from tests.peers.fixtures import started
from tests.peers.libvirtd import LibvirtPeer

_MAC = "52:54:00:00:04:01"
_MOVES = ("cold", "live")
_REFUSED = {
    ("bridge", "user", None),
    ("direct", "user", None),
    ("user", "bridge", None),
    ("user", "tap", NicModel.RTL8139),
}
"""Of a guest that runs QEMU hands over neither the headers of a virtio NIC's packets to a user-mode
network, nor the connections of such a network to anything else."""


@pytest.fixture(scope="module")
def pair(libvirt_peer: LibvirtPeer, guest_image: Path) -> Iterator[tuple[Host, Host]]:
    with ExitStack() as stack:
        peers = libvirt_peer, stack.enter_context(started(LibvirtPeer))
        made = [Host(each, guest_image) for each in peers]
        for each in made:
            stack.callback(each.close)
        yield made[0], made[1]


def _nic(kind: str, bridge: str, model: NicModel | None = None, queues: int | None = None) -> Vif:
    # the two hosts have the network devices of one kernel
    device = f"hv{uuid4().hex[:10]}"
    if kind == "user":
        return UserVif(id="nic", address=_MAC, model=model)
    common: dict[str, Any] = {"id": "nic", "address": _MAC, "model": model, "queues": queues}
    if kind == "bridge":
        return BridgeVif(bridge=bridge, device=device, **common)
    if kind == "tap":
        return TapVif(device=device, exists=False, **common)
    return MacvtapVif(source=bridge, **common)


def _to(host: Host, nic: Vif) -> Destination:
    return Destination(host=host.peer.uri, address="127.0.0.1", vifs=(nic,))


def _moves(hosts: tuple[Host, Host], machine: Machine, kind: str, nic: Vif) -> Machine:
    here, there = hosts
    move = here.driver.cold_migrate if kind == "cold" else here.driver.live_migrate
    move(machine.uuid, _to(there, nic))
    moved = Machine(there, machine.uuid)
    found = moved.info.vifs
    assert [(each.id, each.type, each.address) for each in found] == [("nic", nic.type, _MAC)]
    assert moved.state is (InstanceState.STOPPED if kind == "cold" else InstanceState.RUNNING)
    with pytest.raises(errors.InstanceNotFound):
        here.driver.get_instance(machine.uuid)
    return moved


@pytest.mark.parametrize("kind", _MOVES)
@pytest.mark.parametrize(
    ("before", "after", "model"),
    [
        ("bridge", "user", None),
        ("user", "bridge", None),
        ("direct", "user", None),
        ("user", "user", None),
        ("tap", "direct", None),
        ("bridge", "user", NicModel.E1000E),
        ("user", "tap", NicModel.RTL8139),
    ],
)
def test_from_one_kind_to_another(
    pair: tuple[Host, Host],
    linux_bridge: LinuxBridge,
    kind: str,
    before: str,
    after: str,
    model: NicModel | None,
) -> None:
    """It arrives, or the pre-check says why it does not; it never fails on the way."""
    here, there = pair
    with here.empty_machine(vifs=(_nic(before, linux_bridge.name, model),)) as machine:
        nic = _nic(after, linux_bridge.name)
        if kind == "live" and (before, after, model) in _REFUSED:
            plan = here.driver.check_live_migration(machine.uuid, _to(there, nic))
            (blocker,) = plan.blockers
            assert (blocker.kind, blocker.device) == (BlockerKind.NETWORK, "nic")
            assert blocker.hint is not None
            assert "cold_migrate()" in blocker.hint
            with pytest.raises(errors.InvalidRequest, match="user-mode"):
                here.driver.live_migrate(machine.uuid, _to(there, nic))
            assert machine.state is InstanceState.RUNNING
            return
        if kind == "cold":
            here.driver.power_off(machine.uuid)
        try:
            moved = _moves(pair, machine, kind, nic)
            shown = NicModel.VIRTIO if model is None else model
            assert [each.model for each in moved.info.vifs] == [shown]
            if kind == "cold":
                there.driver.power_on(machine.uuid)
        finally:
            there.driver.destroy(machine.uuid)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (("bridge", None, 2), ("user", None, None)),
        (("user", NicModel.E1000E, None), ("bridge", NicModel.VIRTIO, 2)),
    ],
    ids=["fewer queues", "another model and more queues"],
)
def test_what_the_guest_sees_of_it_changes_too(
    pair: tuple[Host, Host],
    linux_bridge: LinuxBridge,
    before: tuple[str, NicModel | None, int | None],
    after: tuple[str, NicModel | None, int | None],
) -> None:
    """A machine that is off may have another NIC at its next start. A guest that runs may not."""
    here, there = pair
    old, new = (_nic(name, linux_bridge.name, *rest) for name, *rest in (before, after))
    with here.empty_machine(vifs=(old,)) as machine:
        plan = here.driver.check_live_migration(machine.uuid, _to(there, new))
        assert {each.kind for each in plan.blockers} == {BlockerKind.NETWORK}
        with pytest.raises(errors.InvalidRequest, match="another"):
            here.driver.live_migrate(machine.uuid, _to(there, new))
        assert machine.state is InstanceState.RUNNING
        here.driver.power_off(machine.uuid)
        try:
            _moves(pair, machine, "cold", new)
            there.driver.power_on(machine.uuid)
        finally:
            there.driver.destroy(machine.uuid)
