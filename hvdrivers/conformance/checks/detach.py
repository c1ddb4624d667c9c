"""Clauses of ``contract/storage.py`` and ``contract/network.py``: a device that is taken away while
the guest holds on to it, or stands still. What holds for a volume holds for a NIC."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from hvdrivers.conformance.checks.network import expect_vif
from hvdrivers.conformance.checks.storage import expect_volume
from hvdrivers.conformance.engine.clauses import Case, check, clause
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.contract.limits import Limit
from hvdrivers.models.state import InstanceState

STOR_012 = clause(
    "STOR-012",
    "while the guest does not let go, detach_volume() raises DeviceBusy at its deadline, and the"
    " volume stays attached, now and for later starts, until a later call succeeds",
    operation="detach_volume",
)
STOR_071 = clause(
    "STOR-071",
    "detach_volume() of a PAUSED machine takes the volume away at once, though its guest cannot let"
    " go, and leaves it PAUSED",
    operation="detach_volume",
    needs=[Capability.DETACH_PAUSED],
)
STOR_075 = clause(
    "STOR-075",
    "a volume that the guest lets go of after detach_volume() has raised DeviceBusy has left the"
    " instance for good: get_instance() shows it no more, and the next start is without it",
    operation="detach_volume",
)
NET_012 = clause(
    "NET-012",
    "while the guest does not let go, unplug_vif() raises DeviceBusy at its deadline, and the NIC"
    " stays plugged, now and for later starts, until a later call succeeds",
    operation="unplug_vif",
)
NET_028 = clause(
    "NET-028",
    "a NIC that the guest lets go of after unplug_vif() has raised DeviceBusy has left the instance"
    " for good: get_instance() shows it no more, and the next start is without it",
    operation="unplug_vif",
)
NET_026 = clause(
    "NET-026",
    "unplug_vif() of a PAUSED machine takes the NIC away at once, though its guest cannot let go,"
    " and leaves it PAUSED",
    operation="unplug_vif",
    needs=[Capability.DETACH_PAUSED],
)

_DEADLINE = 0.5
"""Seconds for what is going to be refused at its deadline."""


@dataclass(frozen=True)
class _Kind:
    """A volume or a NIC: what is different about them here."""

    made: Callable[[Trial], tuple[str, dict[str, Any]]]
    """Its id, and what spawn() is given so that the machine has it."""
    take: str
    """The operation that takes it away."""
    expect: Callable[[Trial, UUID, str, bool, str], None]


def _volume(trial: Trial) -> tuple[str, dict[str, Any]]:
    attachment = trial.attachment()
    return attachment.volume_id, {"volumes": (attachment,)}


def _nic(trial: Trial) -> tuple[str, dict[str, Any]]:
    vif = trial.target.vif("hvct-nic")
    return vif.id, {"vifs": (vif,)}


_VOLUME = _Kind(_volume, "detach_volume", expect_volume)
_NIC = _Kind(_nic, "unplug_vif", expect_vif)


@check(cases=[Case("volume", (_VOLUME,), STOR_012), Case("nic", (_NIC,), NET_012)])
def guest_that_holds_on_keeps_it(trial: Trial, kind: _Kind) -> None:
    trial.unless(Limit.DETACH_UNASKED)
    device, changes = kind.made(trial)
    uuid = trial.spawn(**changes).uuid
    take = getattr(trial.driver, kind.take)
    trial.target.wait_booted(trial.driver, uuid)
    with trial.target.keeping_guest(trial.driver, uuid):
        with trial.unchanged(), trial.raises(errors.DeviceBusy) as caught:
            take(uuid, device, timeout=trial.deadline(_DEADLINE))
        trial.check(caught[0].retryable, "the error does not say that calling again is right")
        kind.expect(trial, uuid, device, True, "although the guest holds on")
        trial.driver.power_off(uuid)
        kind.expect(trial, uuid, device, True, "after power_off()")
    trial.driver.power_on(uuid)
    kind.expect(trial, uuid, device, True, "at the next start")
    trial.driver.power_off(uuid)
    take(uuid, device)
    kind.expect(trial, uuid, device, False, "after no guest holds on to it")


def _devices(driver: ComputeDriver, uuid: UUID) -> set[str]:
    info = driver.get_instance(uuid)
    return {each.volume_id for each in info.volumes} | {each.id for each in info.vifs}


@check(cases=[Case("volume", (_VOLUME,), STOR_075), Case("nic", (_NIC,), NET_028)])
def guest_that_lets_go_late(trial: Trial, kind: _Kind) -> None:
    trial.unless(Limit.DETACH_UNASKED)
    device, changes = kind.made(trial)
    uuid = trial.spawn(**changes).uuid
    trial.target.wait_booted(trial.driver, uuid)
    with trial.target.keeping_guest(trial.driver, uuid), trial.raises(errors.DeviceBusy):
        getattr(trial.driver, kind.take)(uuid, device, timeout=trial.deadline(_DEADLINE))
    # what was asked may have been forgotten in the meantime: then the guest has it still

    def shown() -> bool:
        return device in _devices(trial.driver, uuid)

    # a hypervisor may have forgotten its request meanwhile: then the guest has the device still
    there = shown() if trial.observer is None else device in trial.observer.devices(uuid)
    trial.eventually(lambda: shown() is there, f"whether it is shown is not {there}")
    trial.driver.power_off(uuid)
    trial.eventually(lambda: shown() is there, f"whether it is defined is not {there}")
    trial.driver.power_on(uuid)
    kind.expect(trial, uuid, device, there, "at the next start")


@check(
    cases=[
        Case(label, (kind,), rule, needs=frozenset({Capability.PAUSE}))
        for label, kind, rule in (("volume", _VOLUME, STOR_071), ("nic", _NIC, NET_026))
    ]
)
def is_taken_from_what_stands_still(trial: Trial, kind: _Kind) -> None:
    device, changes = kind.made(trial)
    uuid = trial.in_state(InstanceState.PAUSED, **changes)
    with trial.target.keeping_guest(trial.driver, uuid):
        getattr(trial.driver, kind.take)(uuid, device)
    trial.equal(trial.state(uuid), InstanceState.PAUSED, "state after that")
    kind.expect(trial, uuid, device, False, "after it was taken away")
    trial.driver.unpause(uuid)
    kind.expect(trial, uuid, device, False, "after the guest has gone on")
