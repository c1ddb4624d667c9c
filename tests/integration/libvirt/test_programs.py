"""A program in a guest whose run ends meanwhile: its caller never gets what another one has
said."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from hvdrivers.contract import errors
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.contract.power import RebootKind
from hvdrivers.guard import guarded
from tests.integration.libvirt.agents import (
    PlayedAgent,
    answers,
    played_agent,
    refused,
    returned,
)
from tests.integration.libvirt.conftest import connect
from tests.integration.libvirt.machines import BOOT, Host, Machine
from tests.peers.bridge import LinuxBridge
from tests.peers.waiting import wait_until

_LOOK = "Domain.getAgent[guest-exec-status]"


@pytest.fixture(scope="module")
def played(agent_host: Host, linux_bridge: LinuxBridge) -> Iterator[tuple[Machine, PlayedAgent]]:
    with played_agent(agent_host, linux_bridge) as made:
        yield made


@pytest.fixture(scope="module")
def other(agent_host: Host) -> Iterator[ComputeDriver]:
    """Another client."""
    with closing(guarded(connect(agent_host.peer))) as made:
        yield made


def power(other: ComputeDriver, machine: Machine) -> None:
    other.power_off(machine.uuid)
    other.power_on(machine.uuid)


def reset(other: ComputeDriver, machine: Machine) -> None:
    other.reboot(machine.uuid, kind=RebootKind.HARD)


def revert(other: ComputeDriver, machine: Machine) -> None:
    (snapshot,) = other.list_snapshots(machine.uuid)
    other.revert_snapshot(machine.uuid, snapshot.id)


def suspend(other: ComputeDriver, machine: Machine) -> None:
    other.suspend(machine.uuid)
    other.resume(machine.uuid)


@pytest.mark.parametrize("begin_anew", [power, reset, revert, suspend])
def test_another_program_of_the_same_number(
    played: tuple[Machine, PlayedAgent],
    other: ComputeDriver,
    begin_anew: Callable[[ComputeDriver, Machine], None],
) -> None:
    """The guest begins anew between two looks of a client that is slow, and runs a program of
    another client: numbers begin anew, too."""
    machine, agent = played
    driver, uuid = machine.host.driver, machine.uuid
    agent.be_well()
    snapshot = other.create_snapshot(uuid, "before", memory=True) if begin_anew is revert else None
    agent.say["guest-exec-status"] = returned({"exited": False})
    looks: list[str] = []

    def slow(name: str, send: Callable[[], Any]) -> Any:
        if name == _LOOK:
            looks.append(name)
            if len(looks) == 2:
                before = agent.connections
                begin_anew(other, machine)
                wait_until(
                    lambda: agent.connections > before and answers(machine),
                    timeout=BOOT,
                    what="the agent answers",
                )
                del agent.say["guest-exec-status"]  # that one has ended
        return send()

    machine.host.raw.connection.seam = slow
    try:
        with pytest.raises(errors.OutcomeUnknown) as told:
            driver.guest_exec(uuid, ["/x"], timeout=600)
    finally:
        machine.host.raw.connection.seam = None
    assert len(looks) == 2
    assert "runs it again" in (told.value.hint or "")
    if snapshot is not None:
        other.delete_snapshot(uuid, snapshot.id)


@pytest.mark.parametrize(
    "kind",
    [errors.ConnectionFailed, errors.OperationTimeout, errors.InvalidState, errors.DeviceBusy],
)
def test_a_start_of_which_nobody_can_tell(
    played: tuple[Machine, PlayedAgent], kind: type[errors.HypervisorError]
) -> None:
    """libvirt has one code for an agent's no and for an answer that is none, and the look for
    which of them it was fails: no error says that nothing was started."""
    machine, agent = played
    agent.be_well()
    agent.say["guest-exec"] = refused("no")

    def fails(name: str, send: Callable[[], Any]) -> Any:
        if name == "Domain.getAgent[guest-ping]" and "guest-exec" in agent.asked:
            raise kind("the look")
        return send()

    machine.host.raw.connection.seam = fails
    try:
        with pytest.raises(errors.OutcomeUnknown) as told:
            machine.host.driver.guest_exec(machine.uuid, ["/x"])
    finally:
        machine.host.raw.connection.seam = None
    assert "runs it again" in (told.value.hint or "")
