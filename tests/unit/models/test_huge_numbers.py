"""A number that no hypervisor has room for is refused before anything is sent."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from hvdrivers.checking import signature_of
from hvdrivers.contract.driver import OPERATIONS
from hvdrivers.models.disk import OwnDisk
from hvdrivers.models.flavor import Flavor
from hvdrivers.models.guest import GuestCredentials
from hvdrivers.models.hardware import CpuTopology
from hvdrivers.models.numa import NumaNode
from hvdrivers.models.vif import OvsVif, VifBase, VifQos
from hvdrivers.models.vif.common import Bandwidth
from hvdrivers.models.volume import DiskQos, VolumeAttachment, VolumeData, VolumeSpec

HUGE = 1 << 64


@pytest.mark.parametrize(
    "model",
    [
        OwnDisk,
        Flavor,
        CpuTopology,
        NumaNode,
        Bandwidth,
        VifQos,
        VifBase,
        OvsVif,
        DiskQos,
        VolumeAttachment,
        VolumeData,
        VolumeSpec,
    ],
    ids=lambda each: each.__name__,
)
def test_no_field_that_a_caller_fills_takes_it(model: type[BaseModel]) -> None:
    taken = []
    for name in model.model_fields:
        try:
            model(**{name: HUGE})
        except ValidationError as error:
            if any(each["loc"][:1] == (name,) for each in error.errors()):
                continue
        taken.append(name)
    assert taken == []


def test_no_argument_takes_it() -> None:
    taken = []
    for operation in OPERATIONS:
        for name, adapter in signature_of(operation).accepts.items():
            try:
                adapter.validate_python(HUGE, strict=True)
            except ValidationError:
                continue
            taken.append(f"{operation}({name})")
    # seconds: the guard makes a year of more
    assert {each.partition("(")[2] for each in taken} <= {"timeout)", "graceful)"}


def test_a_secret_that_holds_itself_is_refused() -> None:
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(ValidationError):
        GuestCredentials(user="u", password=endless)  # type: ignore[arg-type]
