"""Clauses of ``contract/limits.py``: what Core allows a hypervisor not to have is declared, and a
driver keeps to what it declares."""

from __future__ import annotations

from hvdrivers.conformance.engine.assertions import larger
from hvdrivers.conformance.engine.clauses import check, clause
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract.limits import Limit
from hvdrivers.models.state import InstanceState

LIMIT_001 = clause("LIMIT-001", "each limit that the driver declares has a reason, in a sentence")
LIMIT_002 = clause(
    "LIMIT-002",
    "a machine whose guest or process died is CRASHED, or STOPPED where the driver declares the"
    " limit never-crashed, and both a read and an event say the same",
    operation="get_instance",
)
LIMIT_003 = clause(
    "LIMIT-003",
    "a driver that declares the limit detach-unasked takes a NIC away at once from a guest that"
    " keeps its devices",
    operation="unplug_vif",
)

LIMIT_004 = clause(
    "LIMIT-004",
    "a driver that declares the limit growth-unasked gives a running guest CPUs that it does not"
    " take, and shows them",
    operation="hot_resize_cpu",
)


@check(LIMIT_001)
def says_why(trial: Trial) -> None:
    limits = trial.driver.limits
    trial.check(set(limits) <= set(Limit), f"{sorted(set(limits) - set(Limit))} are no limits")
    for limit, reason in limits.items():
        trial.check(len(reason.split()) > 2, f"{limit}: {reason!r} is no reason")
    trial.equal(dict(trial.other.limits), dict(limits), "limits on another connection")


@check(LIMIT_002)
def died(trial: Trial) -> None:
    never = Limit.NEVER_CRASHED in trial.driver.limits
    expected = InstanceState.STOPPED if never else InstanceState.CRASHED
    uuid = trial.spawn().uuid
    trial.target.crash(trial.driver, uuid)
    trial.equal(trial.state(uuid), expected, "state of a machine that died")
    listed = {each.uuid: each.state for each in trial.driver.list_instances()}
    trial.equal(listed[uuid], expected, "state of a machine that died, in the list")


@check(LIMIT_003)
def takes_it_unasked(trial: Trial) -> None:
    if Limit.DETACH_UNASKED not in trial.driver.limits:
        # the other side is NET-012: the guest that keeps it is asked in vain
        trial.check(True, "the guest is asked")
        return
    vif = trial.target.vif("hvct-nic")
    uuid = trial.spawn(vifs=(vif,)).uuid
    trial.target.wait_booted(trial.driver, uuid)
    with trial.target.keeping_guest(trial.driver, uuid):
        trial.driver.unplug_vif(uuid, vif.id)
        there = {each.id for each in trial.driver.get_instance(uuid).vifs}
    trial.check(vif.id not in there, "the NIC is still there")


@check(LIMIT_004)
def grows_unasked(trial: Trial) -> None:
    if Limit.GROWTH_UNASKED not in trial.driver.limits:
        # the other side is HOTCPU-003: the guest that does not take them keeps its size
        trial.check(True, "the guest is asked")
        return
    now = trial.target.flavor.vcpus
    uuid = trial.spawn(flavor=larger(trial.target.flavor, max_vcpus=now + 1)).uuid
    trial.target.wait_booted(trial.driver, uuid)
    with trial.target.keeping_guest(trial.driver, uuid):
        trial.driver.hot_resize_cpu(uuid, now + 1)
        trial.equal(trial.driver.get_instance(uuid).flavor.vcpus, now + 1, "CPUs after it")
