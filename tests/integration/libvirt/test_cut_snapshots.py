"""Snapshots with memory whose client loses the host. QEMU is asked in steps: none of them leaves
the machine in a state that is neither the one before nor the one after."""

from __future__ import annotations

import json

import pytest

from hvdrivers.contract import errors
from hvdrivers.models.state import InstanceState
from tests.integration.libvirt.faults import after, before, script
from tests.integration.libvirt.machines import Host, Machine

S = InstanceState
LOST = (errors.ConnectionFailed, errors.OutcomeUnknown)


def jobs(machine: Machine) -> list[str]:
    """What QEMU knows of, as virsh asks it."""
    question = json.dumps({"execute": "query-jobs"})
    answer = machine.host.peer.virsh("qemu-monitor-command", str(machine.uuid), question)
    return [job["id"] for job in json.loads(answer)["return"]]


@pytest.mark.parametrize("call", ["Domain.getMonitor[query-jobs]", "Domain.monitor[job-dismiss]"])
def test_no_job_stays(own: Host, call: str) -> None:
    """Of a snapshot that is made, and of one that a machine goes back to."""
    driver, fault = own.driver, before(own.raw, own.peer)
    with own.unchanged(), own.empty_machine() as machine:
        with script(own.raw, call, fault) as seam, pytest.raises(errors.ConnectionFailed):
            driver.create_snapshot(machine.uuid, "one", memory=True)
        assert seam.reached
        assert jobs(machine) == []
        assert driver.list_snapshots(machine.uuid) == []
        made = driver.create_snapshot(machine.uuid, "one", memory=True)
        with script(own.raw, call, fault) as seam, pytest.raises(errors.OutcomeUnknown):
            driver.revert_snapshot(machine.uuid, made.id)
        assert seam.reached
        assert machine.state is S.RUNNING
        assert jobs(machine) == []
        driver.revert_snapshot(machine.uuid, made.id)


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        ("Connect.createXML", after),
        ("Domain.getMonitor[query-block]", before),
        ("Domain.monitor[snapshot-load]", before),
    ],
)
def test_a_machine_without_its_memory_is_off(own: Host, call: str, fault: type) -> None:
    """It was started for a snapshot's memory and has none: PAUSED would let unpause() boot disks
    that nobody has brought back."""
    driver = own.driver
    with own.unchanged(), own.empty_machine() as machine:
        made = driver.create_snapshot(machine.uuid, "one", memory=True)
        driver.power_off(machine.uuid)
        with script(own.raw, call, fault(own.raw, own.peer)) as seam, pytest.raises(LOST):
            driver.revert_snapshot(machine.uuid, made.id)
        assert seam.reached
        assert machine.state is S.STOPPED
        driver.revert_snapshot(machine.uuid, made.id)
        assert machine.state is S.RUNNING


def test_a_machine_that_has_its_memory_keeps_it(own: Host) -> None:
    """The machine stands still where the snapshot was made; a repetition lets it go on."""
    driver = own.driver
    with own.unchanged(), own.empty_machine() as machine:
        made = driver.create_snapshot(machine.uuid, "one", memory=True)
        driver.power_off(machine.uuid)
        with (
            script(own.raw, "Domain.resume", before(own.raw, own.peer)) as seam,
            pytest.raises(errors.OutcomeUnknown),
        ):
            driver.revert_snapshot(machine.uuid, made.id)
        assert seam.reached
        assert machine.state is S.PAUSED
        assert jobs(machine) == []
        driver.revert_snapshot(machine.uuid, made.id)
        assert machine.state is S.RUNNING
