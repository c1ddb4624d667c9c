"""Each field that a caller can give has its place: the guard looks at it, or it says here why not.

A field that is new in a model fails these tests until it has one.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator

from pydantic import BaseModel

from hvdrivers.contract.driver import OPERATIONS, ComputeDriver
from hvdrivers.contract.fields import FREE, NOT_FOR_DRIVERS, optional_fields
from hvdrivers.models.cloudinit import CloudInit
from hvdrivers.models.group import ServerGroup
from hvdrivers.models.guest import GuestCredentials
from hvdrivers.models.image import Checksum, FileImage, HttpImage
from hvdrivers.models.migration import Move
from hvdrivers.models.numa import NumaNode
from hvdrivers.models.vif.common import FixedIp, FixedIpRoute
from hvdrivers.models.volume import NvmePortal, NvmeReplica, VmdkConfig, VmdkData

WHOLE: dict[type[BaseModel], str] = {
    **dict.fromkeys((FileImage, HttpImage, Checksum), "read by hvdrivers.images, for each driver"),
    CloudInit: "written by hvdrivers.cloudinit, for each driver",
    **dict.fromkeys((FixedIp, FixedIpRoute), "for the seed disc: no driver configures an address"),
    NumaNode: "InstanceSpec.numa is taken with all of it",
    ServerGroup: "recorded as a whole; a hypervisor that chooses hosts follows it",
    GuestCredentials: "an operation takes an account, or refuses one",
    Move: "what prepare_move() has returned",
    **dict.fromkeys((NvmePortal, NvmeReplica), "the address of an NVMe-oF volume"),
    VmdkConfig: NOT_FOR_DRIVERS[VmdkData]["config"],
}
"""Models that the guard does not look into, and why."""


def given() -> Iterator[type[BaseModel]]:
    """Every model in the arguments of the operations."""
    seen: set[object] = set()

    def walk(annotation: object) -> Iterator[type[BaseModel]]:
        is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
        if is_model and annotation not in seen:
            seen.add(annotation)
            yield annotation
            for field in annotation.model_fields.values():
                yield from walk(field.annotation)
        for part in typing.get_args(annotation):
            yield from walk(part)

    for name in OPERATIONS:
        operation = inspect.unwrap(getattr(ComputeDriver, name))
        hints = typing.get_type_hints(operation)
        for argument, annotation in hints.items():
            if argument != "return":
                yield from walk(annotation)


def test_each_model_is_looked_into_or_taken_as_a_whole() -> None:
    models = set(given())
    assert len(models) > 50
    assert models - set(FREE) == set(WHOLE)


def test_each_field_of_a_model_is_free_or_optional() -> None:
    optional = optional_fields()
    for model in set(given()) & set(FREE):
        homes = [each for each in model.__mro__ if each in FREE]
        for name in model.model_fields:
            assert any(
                name in FREE[each] or name in optional.get(each, frozenset()) for each in homes
            ), f"{model.__name__}.{name}"


def test_what_says_nothing_to_a_driver_says_why() -> None:
    for model, reasons in NOT_FOR_DRIVERS.items():
        assert set(reasons) <= FREE[model]
        for name, reason in reasons.items():
            assert len(reason) > 8, f"{model.__name__}.{name}"
