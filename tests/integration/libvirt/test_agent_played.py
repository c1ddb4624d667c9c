"""A guest's agent every byte of which the test writes: what it says after it has done something
else, what has no right form, and what the caller learns of the guest's state.

One guest for all of it; see ``agents.PlayedAgent``.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydantic import SecretStr

from hvdrivers.contract import errors
from tests.peers.bridge import LinuxBridge
from tests.peers.waiting import wait_until

from .agents import END_AGENT, MAC, PlayedAgent, answers, played_agent, refused, returned
from .faults import script
from .machines import Host, Machine


@pytest.fixture(scope="module")
def played(agent_host: Host, linux_bridge: LinuxBridge) -> Iterator[tuple[Machine, PlayedAgent]]:
    with played_agent(agent_host, linux_bridge) as made:
        yield made


@pytest.fixture
def machine(played: tuple[Machine, PlayedAgent]) -> Machine:
    return played[0]


@pytest.fixture
def agent(played: tuple[Machine, PlayedAgent]) -> PlayedAgent:
    """It answers well, whatever libvirt thought of it before."""
    machine, agent = played
    agent.be_well()
    if not answers(machine):
        before = agent.connections
        machine.type("killall qemu-ga")  # the guest begins another
        wait_until(lambda: agent.connections > before, timeout=60, what="the channel is opened")
        wait_until(lambda: answers(machine), timeout=60, what="the agent answers again")
    agent.asked.clear()
    return agent


# ---- frozen, or not ------------------------------------------------------------------------------


def test_a_freeze_that_is_refused(machine: Machine, agent: PlayedAgent) -> None:
    """It is an error where nothing is frozen then. Where everything is, another client's request
    came first, and freezing twice is one freeze. kubevirt/kubevirt#9998: a snapshot that began with
    such a freeze could neither end nor be deleted. OpenNebula/addon-linstor_un#11: the locks that a
    hook in the guest had taken before the freeze failed stayed, as nobody asked it to thaw."""
    driver, uuid = machine.host.driver, machine.uuid
    agent.say["guest-fsfreeze-freeze"] = refused("a hook\n said \x1b[31mno\x1b[0m")
    with pytest.raises(errors.HypervisorFault, match="a hook said") as told:
        driver.freeze(uuid)
    assert "thawed" in (told.value.hint or "")
    assert str(told.value).isprintable()  # the words are the guest's, and somebody's terminal's
    driver.delete_snapshot(uuid, driver.create_snapshot(uuid, "all the same").id)
    driver.thaw(uuid)
    assert agent.asked[-1] == "guest-fsfreeze-thaw"

    def other_came_first(_question: object) -> bytes:
        agent.frozen = True
        return refused("the command is not allowed now")

    agent.say["guest-fsfreeze-freeze"] = other_came_first
    with machine.host.raw.connection.counting() as calls:
        driver.freeze(uuid)
    assert sum(calls.values()) == 6, calls
    driver.thaw(uuid)
    assert not agent.frozen


def test_a_thaw_that_is_refused(machine: Machine, agent: PlayedAgent) -> None:
    """autotest/tp-qemu#1774: Windows itself ends a freeze after ten seconds, and then refuses to
    thaw. The caller learns that the guest goes on, and has gone on before it was told to: what was
    copied meanwhile is not consistent."""
    driver, uuid = machine.host.driver, machine.uuid
    agent.say["guest-fsfreeze-thaw"] = refused("fsfreeze is limited up to 10 seconds.")
    for agent.frozen, hint in ((False, "freeze() and copy again"), (True, "reboot")):
        with pytest.raises(errors.HypervisorFault, match="10 seconds") as told:
            driver.thaw(uuid)
        assert hint in (told.value.hint or "")


def test_a_freeze_whose_end_is_not_known(machine: Machine, agent: PlayedAgent) -> None:
    """The guest may be frozen, or freeze later: the hint says what ends that, and a late answer is
    taken for no other question's."""
    driver, uuid = machine.host.driver, machine.uuid
    agent.say["guest-fsfreeze-freeze"] = None
    with pytest.raises(errors.OutcomeUnknown) as told:
        driver.freeze(uuid, timeout=6)
    assert "thaw()" in (told.value.hint or "")
    agent.frozen = True
    agent.say["guest-sync"] = lambda question: returned(5) + agent.well(question)
    agent.push(returned(1))
    driver.thaw(uuid)
    assert not agent.frozen
    # and so where the reply of the daemon is lost
    agent.be_well()

    def lost(_name: str, send: Callable[[], object]) -> None:
        send()
        raise errors.OutcomeUnknown("the reply is lost")

    with (
        script(machine.host.raw, "Domain.agent[guest-fsfreeze-freeze]", lost) as seam,
        pytest.raises(errors.OutcomeUnknown) as told,
    ):
        driver.freeze(uuid)
    assert seam.reached
    assert "thaw()" in (told.value.hint or "")
    driver.thaw(uuid)
    assert not agent.frozen


def test_an_agent_that_ends_in_a_freeze(machine: Machine, agent: PlayedAgent) -> None:
    driver, uuid = machine.host.driver, machine.uuid

    def dies(_question: object) -> None:
        agent.cut()

    agent.say["guest-fsfreeze-freeze"] = dies
    with pytest.raises(errors.OutcomeUnknown) as told:
        driver.freeze(uuid, timeout=20)
    assert "thaw()" in (told.value.hint or "")
    with pytest.raises(errors.GuestAgentUnavailable) as told:
        driver.thaw(uuid)
    assert "anew" in (told.value.hint or "")


@pytest.mark.parametrize("answer", [b"no JSON\n", b'{"return": "\xff\xfe"}\n'])
def test_a_thaw_that_gets_no_answer(machine: Machine, agent: PlayedAgent, answer: bytes) -> None:
    """libvirt gives the agent up then, until it begins anew: the hint says so."""
    driver, uuid = machine.host.driver, machine.uuid
    agent.say["guest-fsfreeze-thaw"] = answer
    with pytest.raises(errors.OutcomeUnknown) as told:
        driver.thaw(uuid)
    assert "reboot" in (told.value.hint or "")
    with pytest.raises(errors.GuestAgentUnavailable) as told:
        driver.thaw(uuid)
    assert "anew" in (told.value.hint or "")
    assert driver.guest_addresses(uuid) == []


# ---- programs, passwords, addresses --------------------------------------------------------------


@pytest.mark.parametrize("pid", [False, None, "7", 7.0, [7]])
def test_a_program_without_a_number(machine: Machine, agent: PlayedAgent, pid: object) -> None:
    agent.say["guest-exec"] = returned({"pid": pid})
    with pytest.raises(errors.OutcomeUnknown) as told:
        machine.host.driver.guest_exec(machine.uuid, ["/x"])
    assert "runs it again" in (told.value.hint or "")


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ({"signal": 9}, 137),
        # Windows: what ended it is an exception, and the agent has its code as a signal
        ({"signal": -1073741819}, -1073741819),
        ({}, None),
        ({"exitcode": False}, None),
        ({"exitcode": 10**300}, None),
        ({"signal": 10**300}, None),
    ],
)
def test_how_a_program_ended(
    machine: Machine, agent: PlayedAgent, end: dict[str, object], code: int | None
) -> None:
    """No exit code is made up."""
    agent.say["guest-exec-status"] = returned({"exited": True} | end)
    if code is None:
        with pytest.raises(errors.OutcomeUnknown, match="no exit code"):
            machine.host.driver.guest_exec(machine.uuid, ["/x"])
    else:
        assert machine.host.driver.guest_exec(machine.uuid, ["/x"]).exit_code == code


@pytest.mark.parametrize("how", ["paused", "frozen", "busy"])
def test_a_program_goes_on_while_the_agent_cannot_be_asked(
    machine: Machine, agent: PlayedAgent, how: str
) -> None:
    """Its end is told afterwards. QEMU's agent refuses that question while the guest is frozen, and
    libvirt while the machine is paused, or another client waits for the agent."""
    driver, uuid = machine.host.driver, machine.uuid
    over = threading.Event()

    def status(question: dict[str, object]) -> bytes:
        if agent.frozen:
            return refused(
                "Command guest-exec-status has been disabled: the agent is in frozen state"
            )
        return agent.well(question) if over.is_set() else returned({"exited": False})

    def busy(name: str, send: Callable[[], object]) -> object:
        raise errors.DeviceBusy("another client asks the agent")

    agent.say["guest-exec-status"] = status
    name = "Domain.getAgent[guest-exec-status]"
    began: dict[str, Callable[[], object]] = {"paused": driver.pause, "frozen": driver.freeze}
    ends = {"paused": driver.unpause, "frozen": driver.thaw}
    with ThreadPoolExecutor(1) as pool, machine.host.raw.connection.counting() as calls:
        running = pool.submit(driver.guest_exec, uuid, ["/x"], timeout=600)

        def looks(more: int) -> None:
            wanted = calls[name] + more
            wait_until(
                lambda: calls[name] >= wanted or running.done(), timeout=120, what="it is asked"
            )

        looks(2)
        if how == "busy":
            with script(machine.host.raw, name, busy) as seam:
                wait_until(lambda: seam.reached or running.done(), timeout=120, what="it is asked")
        else:
            began[how](uuid)
            try:
                looks(2)
            finally:
                ends[how](uuid)
        looks(2)
        assert not running.done()
        over.set()
        assert running.result(120).stdout == b"ok"


@pytest.mark.parametrize("command", ["guest-exec", "guest-exec-status"])
def test_a_program_and_a_guest_that_is_thawed_meanwhile(
    machine: Machine, agent: PlayedAgent, command: str
) -> None:
    """The agent says no to what comes while the guest is frozen, and the guest is thawed before it
    is asked for the reason: the question comes once more."""
    noes = [refused(f"Command {command} has been disabled: the agent is in frozen state")]
    agent.say[command] = lambda question: noes.pop() if noes else agent.well(question)
    assert machine.host.driver.guest_exec(machine.uuid, ["/x"]).stdout == b"ok"
    assert not noes


def test_what_a_frozen_guest_does_not_take(machine: Machine, agent: PlayedAgent) -> None:
    """Nothing is wrong with what was asked for."""
    driver, uuid = machine.host.driver, machine.uuid
    driver.freeze(uuid)
    for command in ("guest-exec", "guest-set-user-password"):
        agent.say[command] = refused(f"Command {command} has been disabled")
    for call in (
        lambda: driver.guest_exec(uuid, ["/x"]),
        lambda: driver.set_guest_password(uuid, "root", SecretStr("hv-Secret-9")),
    ):
        with pytest.raises(errors.DeviceBusy, match="frozen") as told:
            call()
        assert "thaw()" in (told.value.hint or "")
    driver.thaw(uuid)


@pytest.mark.parametrize("how", ["busy", "cut", "late"])
@pytest.mark.parametrize("held", ["paused", "frozen"])
def test_a_program_of_which_it_cannot_be_told_why_the_agent_says_no(
    machine: Machine, agent: PlayedAgent, held: str, how: str
) -> None:
    """It has been started: no error says that it has not, or that the call may be repeated."""
    driver, uuid = machine.host.driver, machine.uuid
    raw = machine.host.raw
    kinds = {
        "busy": errors.DeviceBusy("another client asks the agent"),
        "cut": errors.ConnectionFailed("the connection broke"),
        "late": errors.OperationTimeout("the host did not answer"),
    }

    def fault(name: str, send: Callable[[], object]) -> object:
        if name == "Domain.getAgent[guest-exec-status]":
            if held == "paused":
                raise errors.InvalidState("the machine is paused")
            raise errors.GuestAgentUnavailable("no", vendor_code="VIR_ERR_INTERNAL_ERROR")
        looked = {
            "paused": "Connect.lookupByUUIDString",
            "frozen": "Domain.getAgent[guest-fsfreeze-status]",
        }
        if name == looked[held] and "guest-exec" in agent.asked:
            raise kinds[how]
        return send()

    raw.connection.seam = fault
    try:
        with pytest.raises(errors.OutcomeUnknown):
            driver.guest_exec(uuid, ["/x"], timeout=5)
    finally:
        raw.connection.seam = None


def test_answers_to_no_question(machine: Machine, agent: PlayedAgent) -> None:
    """One of them may be taken for the answer to a question of that moment: the caller is told that
    the outcome is unknown, or gets what the guest says, and soon the right answer again."""

    def ran() -> bool:
        try:
            return machine.host.driver.guest_exec(machine.uuid, ["/x"]).stdout == b"ok"
        except errors.OutcomeUnknown:
            return False

    agent.say["guest-exec"] = lambda question: agent.well(question) * 3
    agent.push(returned({}) * 100)
    wait_until(ran, timeout=120, what="a program runs")
    agent.be_well()
    wait_until(ran, timeout=120, what="a program runs")
    agent.cut()  # what is still on its way must answer no other test's question
    wait_until(lambda: not answers(machine), timeout=60, what="libvirt gives the agent up")


def test_a_password_that_is_said_back(machine: Machine, agent: PlayedAgent) -> None:
    agent.say["guest-set-user-password"] = lambda question: refused(json.dumps(question))
    with pytest.raises(errors.InvalidRequest) as told:
        machine.host.driver.set_guest_password(machine.uuid, "root", SecretStr("hv-Secret-9"))
    seen: BaseException | None = told.value
    while seen is not None:
        assert "aHYtU2VjcmV0LTk" not in str(seen)
        assert "hv-Secret-9" not in str(seen)
        seen = seen.__cause__
    agent.say["guest-set-user-password"] = b'{"return": ' + b"9" * 5000 + b"}\n"
    with pytest.raises(errors.OutcomeUnknown) as unknown:
        machine.host.driver.set_guest_password(machine.uuid, "root", SecretStr("hv-Secret-9"))
    assert "set it again" in (unknown.value.hint or "")


def test_interfaces_of_one_name(machine: Machine, agent: PlayedAgent) -> None:
    """Each keeps its own MAC address: another's addresses are not the instance's."""

    def one(name: str, mac: str, address: str, prefix: object = 24) -> object:
        at = {"ip-address": address, "prefix": prefix}
        return {"name": name, "hardware-address": mac, "ip-addresses": [at]}

    other = MAC[:-2] + "99"
    agent.say["guest-network-get-interfaces"] = returned(
        [
            one("lan:a", MAC, "10.0.0.1"),
            one("lan:b", other, "10.0.0.2"),
            one("lan", other, "10.0.0.3"),
            one(":", MAC, "10.0.0.4", prefix=False),
            one("e", MAC, "10.0.0.5/8"),
            one("e", MAC, "x" * 100_000),
        ]
    )
    told = machine.host.driver.guest_addresses(machine.uuid)
    found = [(str(each.address), each.interface, each.prefix_length) for each in told]
    assert found == [("10.0.0.1", "lan", 24), ("10.0.0.4", None, None)]


def test_a_channel_that_the_guest_has_closed(machine: Machine, agent: PlayedAgent) -> None:
    """Runs last: nobody opens it again. Each operation says so at once."""
    driver, uuid = machine.host.driver, machine.uuid
    machine.type(END_AGENT)
    wait_until(lambda: not answers(machine), timeout=60, what="the channel is closed")
    agent.asked.clear()
    for call in (
        lambda: driver.freeze(uuid),
        lambda: driver.thaw(uuid),
        lambda: driver.guest_exec(uuid, ["/x"]),
        lambda: driver.set_guest_password(uuid, "root", SecretStr("hv-Secret-9")),
    ):
        with pytest.raises(errors.GuestAgentUnavailable):
            call()
    assert driver.guest_addresses(uuid) == []
    assert not agent.asked
