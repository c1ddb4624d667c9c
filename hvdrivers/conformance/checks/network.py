"""Clauses of ``contract/network.py``."""

from __future__ import annotations

from uuid import UUID, uuid4

from hvdrivers.conformance.engine.clauses import Case, Level, check, clause
from hvdrivers.conformance.engine.field_values import limiting_a_nic, vif_qos
from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.conformance.engine.trial import Declined, Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.instance import InstanceInfo
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import AttachedVif, Bandwidth, NicModel, Vif, VifQos

NET_001 = clause(
    "NET-001",
    "plug_vif() gives the machine the NIC at once, and what it returns is what every connection"
    " shows",
    operation="plug_vif",
)
NET_002 = clause("NET-002", "a plugged NIC is there at every later start", operation="plug_vif")
NET_003 = clause(
    "NET-003",
    "plugging a VIF that the instance has returns what is there and changes nothing",
    operation="plug_vif",
)
NET_004 = clause(
    "NET-004",
    "a NIC has the MAC address, the type and the model that were asked for, the address that"
    " Vif.within() tells where none was, or is refused with NotSupported",
    operation="plug_vif",
)
NET_005 = clause(
    "NET-005",
    "plug_vif() to a network that is not there raises NetworkNotFound and leaves nothing behind",
    operation="plug_vif",
)
NET_006 = clause(
    "NET-006",
    "plug_vif() with the port of another powered-on machine raises DeviceBusy and changes nothing",
    operation="plug_vif",
)
NET_007 = clause(
    "NET-007",
    "plug_vif() to a machine without a free slot raises InsufficientResources and changes nothing",
    operation="plug_vif",
    level=Level.SHOULD,
)
NET_008 = clause(
    "NET-008",
    "plug_vif() with the MAC address of another powered-on machine raises DeviceBusy and changes"
    " nothing: the hypervisor can tell",
    operation="plug_vif",
    level=Level.MAY,
)
NET_010 = clause(
    "NET-010",
    "unplug_vif() takes the NIC away, that one alone, at once and for every later start",
    operation="unplug_vif",
)
NET_011 = clause(
    "NET-011",
    "after unplug_vif() nothing of the NIC is left on the host, and its port is free for another"
    " machine",
    operation="unplug_vif",
)
NET_013 = clause(
    "NET-013",
    "unplug_vif() of a VIF that this instance does not have succeeds and changes nothing, even if"
    " another instance has it",
    operation="unplug_vif",
)
NET_020 = clause(
    "NET-020",
    "set_vif_qos() sets the limits of that NIC, and None removes them, at once and for later"
    " starts",
    operation="set_vif_qos",
)
NET_021 = clause(
    "NET-021",
    "set_vif_qos() of a VIF that this instance does not have raises NetworkNotFound and changes"
    " nothing",
    operation="set_vif_qos",
)
NET_022 = clause(
    "NET-022",
    "the limits that a VIF names are in force once it is plugged, by plug_vif() or spawn()",
    operation="plug_vif",
    needs=[Capability.VIF_QOS],
)

_VIF = "hvct-nic"
_OTHER = "hvct-nic-2"
_ADDRESS = "52:54:00:68:76:63"
_MOST_NICS = 48
_QOS = VifQos(
    inbound=Bandwidth(average=2000, peak=4000, burst=1000), outbound=Bandwidth(average=3000)
)
_OTHER_QOS = VifQos(outbound=Bandwidth(average=1000))
_ON_AND_OFF = [
    Case("running", (InstanceState.RUNNING,)),
    Case("stopped", (InstanceState.STOPPED,)),
]


def expect_vif(trial: Trial, uuid: UUID, vif_id: str, there: bool, when: str) -> None:
    for who, driver in (("this", trial.driver), ("another", trial.other)):
        found = [each.id for each in driver.get_instance(uuid).vifs]
        trial.equal(found.count(vif_id), int(there), f"how often {who} connection shows it {when}")
    if trial.observer is not None:
        trial.equal(vif_id in trial.observer.devices(uuid), there, f"whether it is seen {when}")


def _shown(info: InstanceInfo, vif_id: str) -> AttachedVif | None:
    return next((each for each in info.vifs if each.id == vif_id), None)


def _changed(vif: Vif, **changes: object) -> Vif:
    return type(vif).model_validate({**vif.model_dump(), **changes})


@check(NET_001, cases=_ON_AND_OFF)
def is_plugged_at_once(trial: Trial, state: InstanceState) -> None:
    vif = trial.target.vif(_VIF)
    uuid = trial.in_state(state)
    plugged = trial.driver.plug_vif(uuid, vif)
    trial.equal(plugged.id, vif.id, "id that plug_vif() returned")
    expect_vif(trial, uuid, vif.id, True, "after plug_vif()")
    trial.equal(_shown(trial.connect().get_instance(uuid), vif.id), plugged, "another connection's")
    trial.equal(trial.state(uuid), state, "state after plug_vif()")


@check(NET_002, cases=_ON_AND_OFF)
def is_there_at_the_next_start(trial: Trial, state: InstanceState) -> None:
    vif = trial.target.vif(_VIF)
    uuid = trial.in_state(state)
    plugged = trial.driver.plug_vif(uuid, vif)
    if state is InstanceState.RUNNING:
        trial.driver.power_off(uuid)
        expect_vif(trial, uuid, vif.id, True, "after power_off()")
    trial.driver.power_on(uuid)
    expect_vif(trial, uuid, vif.id, True, "after power_on()")
    shown = _shown(trial.driver.get_instance(uuid), vif.id)
    trial.equal(shown and shown.address, plugged.address, "the MAC address at the next start")


@check(NET_003, cases=_ON_AND_OFF)
def again_returns_what_is_there(trial: Trial, state: InstanceState) -> None:
    vif = trial.target.vif(_VIF)
    uuid = trial.in_state(state)
    first = trial.driver.plug_vif(uuid, vif)
    with trial.unchanged():
        trial.equal(trial.driver.plug_vif(uuid, vif), first, "the second reply")
        again = trial.other.plug_vif(uuid, _changed(vif, address=_ADDRESS))
        trial.equal(again, first, "the reply where another address was asked for")


@check(NET_004)
def is_what_was_asked_for(trial: Trial) -> None:
    vif = trial.target.vif(_VIF)
    uuid = trial.in_state(InstanceState.STOPPED)
    wanted: list[dict[str, object]] = [{"address": None}, {"address": _ADDRESS}]
    wanted += [{"model": model} for model in NicModel]
    for changes in wanted:
        asked = _changed(vif, **changes)
        before = trial.picture()
        try:
            plugged = trial.driver.plug_vif(uuid, asked)
        except errors.NotSupported:
            trial.equal(trial.picture(), before, f"the host after {changes} was refused")
            continue
        shown = _shown(trial.driver.get_instance(uuid), asked.id)
        for what, seen in (("plug_vif() returned", plugged), ("get_instance() shows", shown)):
            trial.equal(seen and seen.type, asked.type, f"the type that {what}")
            # a device of the host keeps its own address and model
            if seen and seen.address is not None:
                trial.equal(
                    seen.address, asked.within(uuid).mac, f"the address that {what} ({changes})"
                )
            if seen and seen.model is not None and asked.model is not None:
                trial.equal(seen.model, asked.model, f"the model that {what}")
        trial.driver.unplug_vif(uuid, asked.id)


@check(NET_005, cases=_ON_AND_OFF)
def absent_network_is_refused(trial: Trial, state: InstanceState) -> None:
    vif = trial.target.vif_to_nowhere(_VIF)
    uuid = trial.in_state(state)
    with trial.unchanged(), trial.raises(errors.NetworkNotFound):
        trial.driver.plug_vif(uuid, vif)
    # what is left behind where nobody looks is in the way of the next one
    trial.driver.plug_vif(uuid, trial.target.vif(_VIF))
    expect_vif(trial, uuid, vif.id, True, "after it was plugged to a network that is there")


@check(NET_006)
def port_of_another_is_refused(trial: Trial) -> None:
    vif = trial.target.vif(str(uuid4()))
    owner = trial.spawn(vifs=(vif,)).uuid
    other = trial.spawn(start=False).uuid
    with trial.unchanged(), trial.raises(errors.DeviceBusy):
        trial.other.plug_vif(other, vif)
    expect_vif(trial, owner, vif.id, True, "after another wanted it")


@check(NET_008)
def address_of_another_is_refused(trial: Trial) -> None:
    vif = _changed(trial.target.vif(_VIF), address=_ADDRESS)
    trial.spawn(vifs=(vif,))
    other = trial.spawn(start=False).uuid
    same = _changed(trial.target.vif(_OTHER), address=_ADDRESS.upper())
    with trial.unchanged(), trial.raises(errors.DeviceBusy):
        trial.driver.plug_vif(other, same)
        raise Declined("two machines on one network have the same MAC address")


@check(NET_007)
def no_slot_is_left(trial: Trial) -> None:
    uuid = trial.spawn().uuid
    for number in range(_MOST_NICS):
        vif = trial.target.vif(f"{_VIF}-{number}")
        before = trial.picture()
        try:
            trial.driver.plug_vif(uuid, vif)
        except errors.InsufficientResources:
            trial.check(number > 0, "there was no slot for even one NIC")
            trial.equal(trial.picture(), before, "the host after there was no slot")
            return
    raise PreconditionMissing(f"the machine takes more than {_MOST_NICS} NICs")


@check(NET_010, cases=_ON_AND_OFF)
def is_taken_away(trial: Trial, state: InstanceState) -> None:
    going, staying = trial.target.vif(_VIF), trial.target.vif(_OTHER)
    uuid = trial.in_state(state, vifs=(going, staying))
    if state is InstanceState.RUNNING:
        trial.target.wait_booted(trial.driver, uuid)
    trial.driver.unplug_vif(uuid, going.id)
    for when, step in (
        ("after unplug_vif()", None),
        ("after power_off()", trial.driver.power_off),
        ("after power_on()", trial.driver.power_on),
    ):
        if step is not None:
            step(uuid)
        expect_vif(trial, uuid, going.id, False, when)
        expect_vif(trial, uuid, staying.id, True, when)


@check(NET_011, cases=_ON_AND_OFF)
def frees_its_port(trial: Trial, state: InstanceState) -> None:
    vif = trial.target.vif(_VIF)
    uuid = trial.in_state(state)
    if state is InstanceState.RUNNING:
        trial.target.wait_booted(trial.driver, uuid)
    other = trial.spawn(start=False).uuid
    with trial.unchanged():
        trial.driver.plug_vif(uuid, vif)
        trial.driver.unplug_vif(uuid, vif.id)
    trial.driver.plug_vif(other, vif)
    expect_vif(trial, other, vif.id, True, "in the machine that gets it next")


@check(NET_013, cases=_ON_AND_OFF)
def not_plugged_is_a_success(trial: Trial, state: InstanceState) -> None:
    vif = trial.target.vif(_VIF)
    uuid = trial.in_state(state, vifs=(vif,))
    if state is InstanceState.RUNNING:
        trial.target.wait_booted(trial.driver, uuid)
    with trial.unchanged():
        trial.driver.unplug_vif(uuid, "hvct-absent")
    trial.driver.unplug_vif(uuid, vif.id)
    with trial.unchanged():
        trial.driver.unplug_vif(uuid, vif.id)


@check(NET_013)
def of_another_is_left_alone(trial: Trial) -> None:
    vif = trial.target.vif(_VIF)
    owner = trial.spawn(vifs=(vif,), start=False).uuid
    other = trial.spawn(start=False).uuid
    with trial.unchanged():
        trial.driver.unplug_vif(other, vif.id)
    expect_vif(trial, owner, vif.id, True, "after another was told to unplug it")


def _limits(trial: Trial, uuid: UUID) -> dict[str, VifQos | None]:
    if trial.observer is None:
        raise PreconditionMissing("there is no observer, and get_instance() shows no limits")
    return dict(trial.observer.vif_limits(uuid))


@check(NET_020, cases=_ON_AND_OFF)
def limits_are_in_force(trial: Trial, state: InstanceState) -> None:
    limited, free = trial.target.vif(_VIF), trial.target.vif(_OTHER)
    uuid = trial.in_state(state, vifs=(limited, free))
    for qos in (vif_qos(trial, _QOS), vif_qos(trial, _OTHER_QOS), None):
        for _ in range(2):  # repeating it changes nothing more
            with limiting_a_nic(trial):
                trial.driver.set_vif_qos(uuid, limited.id, qos)
            found = _limits(trial, uuid)
            trial.equal(found, {limited.id: qos, free.id: None}, f"after set_vif_qos({qos})")
    trial.driver.set_vif_qos(uuid, limited.id, vif_qos(trial, _QOS))
    wanted = {limited.id: vif_qos(trial, _QOS), free.id: None}
    trial.driver.power_off(uuid)
    trial.equal(_limits(trial, uuid), wanted, "limits after power_off()")
    with limiting_a_nic(trial):
        trial.driver.power_on(uuid)
    trial.equal(_limits(trial, uuid), wanted, "limits at the next start")


@check(NET_021)
def only_what_is_plugged_is_limited(trial: Trial) -> None:
    vif = trial.target.vif(_VIF)
    trial.spawn(vifs=(vif,), start=False)
    other = trial.spawn(start=False).uuid
    for vif_id in ("hvct-absent", vif.id):
        with trial.unchanged(), trial.raises(errors.NetworkNotFound):
            trial.driver.set_vif_qos(other, vif_id, vif_qos(trial, _QOS))


@check(NET_022, cases=_ON_AND_OFF)
def vifs_limits_are_in_force(trial: Trial, state: InstanceState) -> None:
    vif = _changed(trial.target.vif(_VIF), qos=vif_qos(trial, _QOS))
    uuid = trial.in_state(state)
    with limiting_a_nic(trial):
        trial.driver.plug_vif(uuid, vif)
    trial.equal(_limits(trial, uuid), {vif.id: vif_qos(trial, _QOS)}, "limits")


@check(NET_022)
def limits_are_in_force_from_the_start(trial: Trial) -> None:
    vif = _changed(trial.target.vif(_VIF), qos=vif_qos(trial, _QOS))
    with limiting_a_nic(trial):
        uuid = trial.spawn(vifs=(vif,)).uuid
    trial.equal(_limits(trial, uuid), {vif.id: vif_qos(trial, _QOS)}, "limits after spawn()")
