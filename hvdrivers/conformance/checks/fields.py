"""Clauses of ``contract/fields.py``: a field is honoured or refused, never passed over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from hvdrivers.conformance.engine.assertions import larger
from hvdrivers.conformance.engine.clauses import Case, check, clause
from hvdrivers.conformance.engine.field_values import HARDWARE_VALUES, VIF_VALUES, VOLUME_VALUES
from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.conformance.engine.trial import Trial
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.hardware import Hardware
from hvdrivers.models.vif import Vif
from hvdrivers.models.vif.common import VifBase
from hvdrivers.models.volume import VolumeAttachment

FIELD_001 = clause(
    "FIELD-001",
    "an optional field of a volume that the driver takes is what the machine gets, by"
    " attach_volume() and by spawn(); one that it does not take, or a value that it does not,"
    " raises NotSupported and changes nothing",
    operation="attach_volume",
    needs=[Capability.HOST_VOLUMES],
)
FIELD_002 = clause(
    "FIELD-002",
    "an optional field of a NIC that the driver takes is what the machine gets, by plug_vif() and"
    " by spawn(); one that it does not take, or a value that it does not, raises NotSupported and"
    " changes nothing",
    operation="plug_vif",
)


FIELD_003 = clause(
    "FIELD-003",
    "a field of the hardware wishes that the driver takes is what the machine is made of; one that"
    " it does not take, or a value that it does not, raises NotSupported and makes nothing",
    operation="spawn",
)


@dataclass(frozen=True)
class _Field:
    """One field of one device, and how a machine gets it."""

    home: type[BaseModel]
    name: str
    values: Sequence[object]
    device: str
    give: Callable[[UUID, object], object]
    spawn: Callable[[object], UUID]


def _accepted(trial: Trial, uuid: UUID, field: _Field) -> list[object]:
    """The first value that the driver takes; each that it refuses changes nothing."""
    for value in field.values:
        before = trial.picture()
        try:
            field.give(uuid, value)
        except errors.NotSupported as error:
            trial.equal(trial.picture(), before, f"the host after {value!r} was refused ({error})")
        else:
            return [value]
    return []


def _found(trial: Trial, uuid: UUID, field: _Field) -> object:
    if trial.observer is None:
        raise PreconditionMissing("there is no observer, and get_instance() shows no such field")
    return trial.observer.options(uuid).get(field.device, {}).get(field.name)


def _honoured(trial: Trial, field: _Field) -> None:
    uuid = trial.spawn(start=False).uuid
    takes = field.name in trial.driver.takes.get(field.home, frozenset())
    accepted = _accepted(trial, uuid, field)
    trial.equal(bool(accepted), takes, f"whether the driver, which says so, takes {field.name}")
    for value in accepted:
        what = f"{field.name} of {field.device}"
        trial.equal(_found(trial, uuid, field), value, what)
        trial.driver.destroy(uuid)
        trial.equal(_found(trial, field.spawn(value), field), value, f"{what} after spawn()")


@check(FIELD_001, cases=[Case(name, (name,)) for name in VOLUME_VALUES])
def volume_has_it_or_is_refused(trial: Trial, field: str) -> None:
    volume = trial.volume()

    def wanted(value: object) -> VolumeAttachment:
        return VolumeAttachment.model_validate({"volume": volume, field: value})

    _honoured(
        trial,
        _Field(
            home=VolumeAttachment,
            name=field,
            values=VOLUME_VALUES[field],
            device=volume.volume_id,
            give=lambda uuid, value: trial.driver.attach_volume(uuid, wanted(value)),
            spawn=lambda value: trial.spawn(start=False, volumes=(wanted(value),)).uuid,
        ),
    )


@check(FIELD_002, cases=[Case(name, (name,)) for name in VIF_VALUES])
def nic_has_it_or_is_refused(trial: Trial, field: str) -> None:
    vif = trial.target.vif("hvct-nic")

    def wanted(value: object) -> Vif:
        return vif.model_copy(update={field: value})

    _honoured(
        trial,
        _Field(
            home=VifBase,
            name=field,
            values=VIF_VALUES[field],
            device=vif.id,
            give=lambda uuid, value: trial.driver.plug_vif(uuid, wanted(value)),
            spawn=lambda value: trial.spawn(start=False, vifs=(wanted(value),)).uuid,
        ),
    )


@check(FIELD_003, cases=[Case(name, (name,)) for name in HARDWARE_VALUES])
def machine_is_made_of_it_or_is_refused(trial: Trial, field: str) -> None:
    takes = field in trial.driver.takes.get(Hardware, frozenset())
    if field == "tpm_model":
        takes = takes and trial.has(Capability.VTPM)
    values = HARDWARE_VALUES[field] or (trial.target.machine_type if takes else "hvct-type",)
    accepted = []
    for value in values:
        changes: dict[str, Any] = {"hardware": Hardware.model_validate({field: value})}
        if field == "tpm_model":
            changes["vtpm"] = True
        if field == "nic_model" and takes:
            changes["vifs"] = (trial.target.vif("hvct-nic"),)
        if field == "cpu_topology":
            changes["flavor"] = larger(trial.target.flavor, vcpus=2)
        before = trial.picture()
        try:
            uuid = trial.spawn(start=False, **changes).uuid
        except errors.NotSupported as error:
            trial.equal(trial.picture(), before, f"the host after {value!r} was refused ({error})")
            continue
        accepted.append(value)
        if trial.observer is None:
            raise PreconditionMissing(
                "there is no observer, and get_instance() shows no such field"
            )
        found = trial.observer.hardware(uuid).get(field)
        trial.equal(found, value, f"{field} of the machine")
        break
    trial.equal(bool(accepted), takes, f"whether the driver, which says so, takes {field}")
