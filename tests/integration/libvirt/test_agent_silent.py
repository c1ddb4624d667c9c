"""A guest's agent that is there, and late, or silent: what it costs the host and other callers.

One guest for all of it; its agent does what the last program ``/be/...`` was named for.
"""

from __future__ import annotations

import pytest

from hvdrivers.contract import errors
from hvdrivers.models.guest import AddressSource
from tests.peers.waiting import wait_until

from .agents import END_AGENT, MAC
from .faults import Fault, script
from .machines import Machine

AGENT = rf"""#!/bin/sh
{END_AGENT}
exec 4<>/dev/virtio-ports/org.qemu.guest_agent.0
sleep 1
be=well
say() {{ echo "{{\"return\": $1}}" >&4; }}
late() {{ [ $be = late-$1 ] && be=well && sleep 8; }}
again() {{ exec 4>&-; sleep 2; exec 4<>/dev/virtio-ports/org.qemu.guest_agent.0; sleep 1; }}
while read -r line <&4; do
  case $line in
    *guest-sync*) id=${{line##*:}}; say ${{id%%\}}*}} ;;
    *guest-ping*) late ping; say '{{}}' ;;
    *guest-network*)
      case $be in
        silent) ;;
        many)
          many=$(seq -s , 1200 | sed 's/\([0-9]*\)/{{"ip-address":"fd00::\1","prefix":64}}/g')
          say '[{{"name":"eth0","hardware-address":"{MAC}","ip-addresses":['"$many"']}}]'
          ;;
        odd)
          odd='{{}},{{"name":1}},{{"name":"a","hardware-address":[],"ip-addresses":{{}}}}'
          own='"ip-addresses":[1,null,{{"ip-address":7}},{{"ip-address":"10.9.8.6","prefix":"x"}}]'
          say '[7,null,'$odd',{{"name":"b","hardware-address":"{MAC}",'$own'}}]'
          ;;
        none) say '"none"' ;;
        *)
          at='"ip-addresses":[{{"ip-address":"10.9.8.7","prefix":24}}]'
          say '[{{"name":"eth0","hardware-address":"{MAC}",'$at'}}]' ;;
      esac ;;
    *fsfreeze-status*) say '"thawed"' ;;
    *fsfreeze-freeze*) [ $be = silent ] || say 1 ;;
    *fsfreeze-thaw*) late thaw; say 1 ;;
    *exec-status*)
      late status
      [ $be = anew ] && be=well && again && continue
      [ $be = gone ] && sleep 3600
      say '{{"exited": true, "exitcode": 0}}' ;;
    *guest-exec*) line=${{line#*/be/}}; be=${{line%%\"*}}; say '{{"pid": 7}}' ;;
  esac
done
"""


@pytest.fixture(scope="module")
def machine(agent_machine: Machine) -> Machine:
    """The guest with the other agent."""
    begin = "cat >/bin/odd; chmod 755 /bin/odd; (sleep 1; setsid odd) >/dev/null 2>&1 &"
    command = ["/bin/sh", "-c", begin]
    agent_machine.host.driver.guest_exec(agent_machine.uuid, command, stdin=AGENT.encode())
    wait_until(lambda: is_well(agent_machine), timeout=240, what="the other one answers")
    return agent_machine


def is_well(machine: Machine) -> bool:
    try:
        be(machine, "well")
    except (errors.InvalidRequest, errors.GuestAgentUnavailable, errors.OutcomeUnknown):
        return False  # the guest's own agent knows no such program, and is ended
    return True


def told(machine: Machine) -> list[str]:
    try:
        found = machine.host.driver.guest_addresses(machine.uuid, timeout=20)
    except errors.OperationTimeout:
        return []
    return [str(each.address) for each in found if each.source is AddressSource.AGENT]


def be(machine: Machine, what: str) -> None:
    machine.host.driver.guest_exec(machine.uuid, [f"/be/{what}"])


def lease(address: str) -> Fault:
    """What libvirt answers of its leases."""
    found = {"hwaddr": MAC, "addrs": [{"addr": address, "prefix": 24, "type": 0}]}
    return lambda name, send: {"vnet0": found}


def test_one_that_names_too_many(machine: Machine) -> None:
    """What the host knows stays, however many addresses the guest names."""
    be(machine, "many")
    with script(machine.host.raw, "Domain.interfaceAddresses", lease("10.1.1.1")) as seam:
        found = machine.host.driver.guest_addresses(machine.uuid)
    assert seam.reached
    assert [str(each.address) for each in found if each.source is AddressSource.LEASE] == [
        "10.1.1.1"
    ]
    assert len(told(machine)) == 1000


@pytest.mark.parametrize(("what", "expected"), [("odd", ["10.9.8.6"]), ("none", [])])
def test_one_whose_answer_has_another_form(
    machine: Machine, what: str, expected: list[str]
) -> None:
    be(machine, what)
    assert told(machine) == expected


def test_one_that_tells_no_addresses(machine: Machine) -> None:
    """What the host knows is told all the same, and nobody else waits for the agent: libvirt
    would, for ever, with one of the daemon's few workers."""
    be(machine, "silent")
    with script(machine.host.raw, "Domain.interfaceAddresses", lease("10.1.1.1")) as seam:
        found = machine.host.driver.guest_addresses(machine.uuid)
    assert seam.reached
    assert [str(each.address) for each in found] == ["10.1.1.1"]
    be(machine, "well")
    assert told(machine) == ["10.9.8.7"]


def test_one_that_never_ends_to_freeze(machine: Machine) -> None:
    """It can be told to thaw, and is asked for other things, at once."""
    be(machine, "silent")
    with pytest.raises(errors.OutcomeUnknown):
        machine.host.driver.freeze(machine.uuid, timeout=6)
    machine.host.driver.thaw(machine.uuid)
    be(machine, "well")
    assert told(machine) == ["10.9.8.7"]


@pytest.mark.parametrize("what", ["ping", "thaw"])
def test_one_that_is_late_to_thaw(machine: Machine, what: str) -> None:
    be(machine, f"late-{what}")
    machine.host.driver.thaw(machine.uuid)
    machine.host.driver.freeze(machine.uuid)
    machine.host.driver.thaw(machine.uuid)


@pytest.mark.parametrize("how", ["late-status", "anew"])
def test_one_that_is_late_to_tell_an_end(machine: Machine, how: str) -> None:
    """The first question about the program has no answer in five seconds, or the agent began
    anew; the next one has."""
    assert machine.host.driver.guest_exec(machine.uuid, [f"/be/{how}"]).exit_code == 0
    assert told(machine) == ["10.9.8.7"]


def test_one_that_dies_with_a_program(machine: Machine) -> None:
    """Runs last: nobody answers afterwards. The whole of the timeout is not waited for."""
    with pytest.raises(errors.OutcomeUnknown, match="was started"):
        machine.host.driver.guest_exec(machine.uuid, ["/be/gone"], timeout=300)
    with pytest.raises(errors.GuestAgentUnavailable):
        machine.host.driver.thaw(machine.uuid, timeout=20)
    assert machine.host.driver.get_instance(machine.uuid).vifs
