"""The guest's agent: what it says, what it does, and one that was written by an enemy.

One guest for all of it. The suite's GUEST clauses show the rest.
"""

from __future__ import annotations

import errno

import libvirt
import pytest
from pydantic import SecretStr

from hvdrivers.contract import errors
from hvdrivers.models.guest import AddressSource, GuestCredentials
from tests.peers.waiting import wait_until

from .agents import END_AGENT, MAC
from .faults import answered, script, vendor_error
from .machines import BOOT, Host, Machine

ENEMY = rf"""#!/bin/sh
# speaks the agent's protocol, until it is asked for what it answers its own way
{END_AGENT}
port=/dev/virtio-ports/org.qemu.guest_agent.0
nic='"ip-addresses":[{{"ip-address":"10.9.8.7","ip-address-type":"ipv4","prefix":4000000000}}]'
# libvirt connects when the port is opened: a read before it has would find the end of a file
again() {{ exec 4>&-; sleep 1; exec 4<>$port; sleep 1; }}
exec 4<>$port
sleep 1
while :; do
  # libvirt sees that somebody is there again only when the port is opened anew
  read -t 10 -r line <&4 || {{ again; continue; }}
  case $line in
    *guest-sync*) id=${{line##*:}}; echo "{{\"return\": ${{id%%\}}*}}}}" >&4 ;;
    *guest-ping*) echo '{{"return": {{}}}}' >&4 ;;
    *guest-network*)
      other='{{"name":"eth0","hardware-address":"52:54:00:99:99:99",'$nic'}}'
      long=$(head -c 3000 /dev/zero | tr '\000' x)
      own='{{"name":"'$long'","hardware-address":"{MAC}",'$nic'}}'
      echo '{{"return":['"$other,$own"']}}' >&4
      ;;
    *fsfreeze-status*) echo 'this is no JSON' >&4; again ;;
    *odd*) echo '{{"return": {{"pid": 7}}}}' >&4 ;;
    *exec-status*) echo '{{"return": {{"exited": true, "exitcode": 0, "out-data": "é"}}}}' >&4 ;;
    *guest-exec*) yes aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa | head -c 100000000 >&4; again ;;
    *) : ;; # and never a word to anything else
  esac
done
"""


def test_budgets(agent_host: Host, agent_machine: Machine) -> None:
    """And what each of them does, in the same guest."""
    raw, uuid = agent_host.raw, agent_machine.uuid
    raw.connection.links.spare = lambda: None  # type: ignore[method-assign] # one connection
    for expected, call in (
        (4, lambda: raw.set_guest_password(uuid, "root", SecretStr("hv-Secret-1"))),
        (4, lambda: raw.freeze(uuid)),
        (3, lambda: raw.freeze(uuid)),
        (4, lambda: raw.thaw(uuid)),
        (6, lambda: raw.guest_addresses(uuid)),
    ):
        with raw.connection.counting() as calls:
            call()
        assert sum(calls.values()) == expected, calls
    with raw.connection.counting() as calls:
        result = raw.guest_exec(uuid, ["/bin/sh", "-c", "echo $1 >&2; exit 7", "sh", "a b"])
    assert (result.exit_code, result.stderr) == (7, b"a b\n")
    assert sum(calls.values()) == 4 + calls["Domain.getAgent[guest-exec-status]"]
    # a signal counts as in a shell
    assert raw.guest_exec(uuid, ["/bin/sh", "-c", "kill -9 $$"]).exit_code == 128 + 9
    # what the agent asks for and what it cannot take
    with pytest.raises(errors.NotSupported):
        agent_host.driver.guest_exec(
            uuid, ["/bin/true"], credentials=GuestCredentials(user="root", password="x")
        )
    with pytest.raises(errors.InvalidRequest):
        agent_host.driver.guest_exec(uuid, ["/bin/cat"], stdin=bytes((1 << 20) + 1))
    with pytest.raises(errors.InvalidRequest):
        agent_host.driver.guest_exec(uuid, [])


def test_long_output(agent_host: Host, agent_machine: Machine) -> None:
    """What libvirt does not carry: the caller learns that the program has run, and what helps."""
    write = "head -c {} /dev/zero; echo ran >> /tmp/ran"
    result = agent_host.driver.guest_exec(
        agent_machine.uuid, ["/bin/sh", "-c", write.format(3_000_000)]
    )
    assert (result.exit_code, result.stdout) == (0, bytes(3_000_000))
    with pytest.raises(errors.OutcomeUnknown, match="was started") as told:
        agent_host.driver.guest_exec(agent_machine.uuid, ["/bin/sh", "-c", write.format(4_000_000)])
    assert "file" in (told.value.hint or "")
    found = agent_host.driver.guest_exec(agent_machine.uuid, ["/bin/cat", "/tmp/ran"])
    assert found.stdout == b"ran\nran\n"


def test_after_an_answer_that_was_too_long(agent_host: Host, agent_machine: Machine) -> None:
    """Libvirt says so to the next caller: no agent answers, and what it was to do is unknown."""
    driver, uuid = agent_host.driver, agent_machine.uuid
    told = vendor_error(
        libvirt.VIR_ERR_SYSTEM_ERROR,
        "No complete agent response found in 10485760 bytes: Numerical result out of range",
        number=errno.ERANGE,
    )
    for call, expected in (
        ("Domain.getAgent[guest-ping]", errors.GuestAgentUnavailable),
        ("Domain.agent[guest-exec]", errors.OutcomeUnknown),
    ):
        with script(agent_host.raw, call, answered(told)) as seam, pytest.raises(expected):
            driver.guest_exec(uuid, ["/bin/true"])
        assert seam.reached


def test_what_is_too_long_for_the_agent(agent_host: Host, agent_machine: Machine) -> None:
    """The call is refused: the agent was silent for half a minute, and gone after that."""
    for call in (
        lambda: agent_host.driver.guest_exec(agent_machine.uuid, ["/bin/echo", "x" * (1 << 20)]),
        lambda: agent_host.driver.guest_exec(agent_machine.uuid, ["/bin/echo", *"x" * 300_000]),
        lambda: agent_host.driver.set_guest_password(
            agent_machine.uuid, "root", SecretStr("x" * 4097)
        ),
    ):
        with pytest.raises(errors.InvalidRequest) as refused:
            call()
        assert refused.value.hint
    result = agent_host.driver.guest_exec(agent_machine.uuid, ["/bin/echo", *"x" * 3_000])
    assert len(result.stdout) == 6_000
    agent_host.driver.set_guest_password(agent_machine.uuid, "root", SecretStr("hv-Secret-3"))


def test_addresses_by_source(agent_host: Host, agent_machine: Machine) -> None:
    def by_agent() -> bool:
        found = agent_host.driver.guest_addresses(agent_machine.uuid)
        return any(each.source is AddressSource.AGENT and each.prefix_length for each in found)

    wait_until(by_agent, timeout=BOOT, what="the agent tells an address")
    found = agent_host.driver.guest_addresses(agent_machine.uuid)
    assert {each.mac for each in found} == {MAC}
    assert {each.interface for each in found if each.source is AddressSource.AGENT} == {"eth0"}


def test_an_agent_that_lies(agent_host: Host, agent_machine: Machine) -> None:
    """Runs last: its agent is another afterwards."""
    driver, uuid = agent_host.driver, agent_machine.uuid
    begin = "cat >/bin/enemy; chmod 755 /bin/enemy; (sleep 1; setsid enemy) >/dev/null 2>&1 &"
    driver.guest_exec(uuid, ["/bin/sh", "-c", begin], stdin=ENEMY.encode())

    def lies() -> bool:
        try:
            found = driver.guest_addresses(uuid, timeout=10)
        except errors.OperationTimeout:
            return False  # the agent that was asked ended with the question
        return any(str(each.address) == "10.9.8.7" for each in found)

    wait_until(lies, timeout=120, what="the enemy answers")
    told = [each for each in driver.guest_addresses(uuid) if each.source is AddressSource.AGENT]
    # addresses of others' NICs are left out, and names are cut
    assert [each.mac for each in told] == [MAC]
    assert len(told[0].interface or "") <= 64
    assert told[0].prefix_length is None
    with pytest.raises(errors.OutcomeUnknown, match="output"):  # letters that are no base64
        driver.guest_exec(uuid, ["/bin/odd"])
    with pytest.raises(errors.OutcomeUnknown):  # it never answers
        driver.set_guest_password(uuid, "root", SecretStr("hv-Secret-2"), timeout=3)
    with pytest.raises(errors.GuestAgentUnavailable):  # no JSON
        driver.freeze(uuid, timeout=20)
    wait_until(lies, timeout=120, what="the enemy has come back")
    with pytest.raises(errors.OutcomeUnknown):  # 100 MB
        driver.guest_exec(uuid, ["/bin/true"], timeout=30)
    assert agent_host.driver.get_instance(uuid).vifs  # the host has survived it
