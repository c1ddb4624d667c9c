"""Clauses of ``contract/network.py``: who has a port. The rest is in ``network.py``."""

from __future__ import annotations

from uuid import uuid4

from hvdrivers.conformance.engine.assertions import expect_state
from hvdrivers.conformance.engine.clauses import check, clause
from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import HostdevVif

NET_023 = clause(
    "NET-023",
    "plug_vif() of a virtual function that another powered-on machine has raises"
    " InsufficientResources and changes nothing",
    operation="plug_vif",
    needs=[Capability.VIF_HOSTDEV],
)
NET_024 = clause(
    "NET-024",
    "the port of a machine that is powered off can be plugged into another, and be named in a"
    " spawn()",
    operation="plug_vif",
)
NET_025 = clause(
    "NET-025",
    "a machine whose port a powered-on machine has can be there, and is not started: power_on()"
    " and spawn() raise DeviceBusy and change nothing, until the other is powered off",
    operation="power_on",
)

NET_027 = clause(
    "NET-027",
    "the id of a NIC that is no UUID is a name within its instance: two powered-on machines may"
    " have one of the same id, each with a MAC address of its own, by spawn() and by plug_vif()",
    operation="plug_vif",
)

_VIF = "hvct-nic"


@check(NET_023)
def virtual_function_of_another_is_refused(trial: Trial) -> None:
    found = trial.driver.get_available_resource().devices
    functions = [each.address for each in found if each.physical_function is not None]
    if not functions:
        raise PreconditionMissing("the host has no virtual functions (SR-IOV)")
    vif = HostdevVif(id=_VIF, pci_address=functions[0])
    owner = trial.spawn(vifs=(vif,)).uuid
    other = trial.spawn(start=False).uuid
    same = HostdevVif(id=f"{_VIF}-2", pci_address=functions[0])
    with trial.unchanged(), trial.raises(errors.InsufficientResources):
        trial.driver.plug_vif(other, same)
    trial.driver.destroy(owner)
    trial.driver.plug_vif(other, same)
    shown = [each.id for each in trial.driver.get_instance(other).vifs]
    trial.equal(shown, [same.id], "NICs of the other, once the function was free")


@check(NET_024)
def powered_off_machine_does_not_hold_it(trial: Trial) -> None:
    vif = trial.target.vif(str(uuid4()))
    owner = trial.spawn(start=False, vifs=(vif,)).uuid
    other = trial.spawn(start=False).uuid
    trial.driver.plug_vif(other, vif)
    third = trial.spawn(start=False, vifs=(vif,)).uuid
    for uuid in (owner, other, third):
        shown = [each.id for each in trial.driver.get_instance(uuid).vifs]
        trial.equal(shown, [vif.id], "NICs of each of three machines that are off")
    trial.driver.unplug_vif(other, vif.id)
    shown = [each.id for each in trial.driver.get_instance(owner).vifs]
    trial.equal(shown, [vif.id], "NICs of the first, after another gave the port back")


@check(NET_025)
def powered_on_machine_holds_it(trial: Trial) -> None:
    vif = trial.target.vif(str(uuid4()))
    owner = trial.spawn(vifs=(vif,)).uuid
    other = trial.spawn(start=False, vifs=(vif,)).uuid
    with trial.unchanged(), trial.raises(errors.DeviceBusy):
        trial.driver.power_on(other)
    with trial.unchanged(), trial.raises(errors.DeviceBusy):
        trial.spawn(vifs=(vif,))
    expect_state(trial, owner, InstanceState.RUNNING, "after others wanted its port")
    trial.driver.power_off(owner)
    trial.driver.power_on(other)
    expect_state(trial, other, InstanceState.RUNNING, "after the first was powered off")


@check(NET_027)
def names_are_an_instances_own(trial: Trial) -> None:
    vif = trial.target.vif(_VIF)
    one = trial.spawn(vifs=(vif,)).uuid
    two = trial.spawn(vifs=(vif,)).uuid
    three = trial.spawn().uuid
    trial.driver.plug_vif(three, vif)
    shown = [each for uuid in (one, two, three) for each in trial.driver.get_instance(uuid).vifs]
    trial.equal([each.id for each in shown], [_VIF] * 3, "ids of the NICs of three machines")
    for uuid, each in zip((one, two, three), shown, strict=True):
        trial.equal(each.address, vif.within(uuid).mac, f"MAC address of the NIC of {uuid}")
    trial.equal(len({each.address for each in shown}), 3, "different MAC addresses")
