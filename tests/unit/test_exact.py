"""The guard's short way to see that a result is what the contract says: it may say yes only where
pydantic would, and must say yes to what drivers mostly return."""

from __future__ import annotations

import copy
import pickle
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import uuid4

import pytest
from pydantic import ValidationError

from hvdrivers.checking import signature_of, unkept
from hvdrivers.contract.driver import OPERATIONS
from hvdrivers.exact import acceptor
from hvdrivers.models.instance import Firmware, Flavor, InstanceInfo, InstanceSummary
from hvdrivers.models.metrics import DiskMetrics, InstanceMetrics
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import AttachedVif


class _Other(StrEnum):
    RUNNING = "running"


class _Text(str):
    __slots__ = ()


SUMMARY: dict[str, Any] = {
    "uuid": uuid4(),
    "name": "web",
    "state": InstanceState.RUNNING,
    "vcpus": 2,
    "memory_mib": 512,
}
VIF = AttachedVif(id="a", address="52:54:00:00:00:01", type="bridge")
INFO: dict[str, Any] = {
    "uuid": uuid4(),
    "name": "web",
    "state": InstanceState.RUNNING,
    "flavor": Flavor(vcpus=1, memory_mib=64),
    "metadata": {"a": "b"},
    "volumes": (),
    "vifs": (VIF,),
    "firmware": Firmware.BIOS,
    "created_at": datetime.now(UTC),
    "image": None,
    "move": None,
}
METRICS = InstanceMetrics(
    uuid=uuid4(),
    at=datetime.now(UTC),
    state=InstanceState.RUNNING,
    vcpus=1,
    cpu_time_ns=None,
    memory_mib=64,
    disks=(DiskMetrics(device="vda", read_bytes=1),),
)


@pytest.mark.parametrize(
    ("operation", "result"),
    [
        ("list_instances", [InstanceSummary(**SUMMARY)]),
        ("list_instances", ()),
        ("get_instance", InstanceInfo(**INFO)),
        ("spawn", InstanceInfo(**INFO)),
        ("get_metrics", [METRICS]),
        ("plug_vif", VIF),
        ("destroy", None),
    ],
)
def test_it_knows_what_drivers_mostly_return(operation: str, result: object) -> None:
    signature = signature_of(operation)
    assert signature.exactly is not None
    assert signature.exactly(result)
    assert unkept(result) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("uuid", "6f0e2c2e-8f0b-4b6e-9d9a-2f3b1c5d7e90"),
        ("name", 7),
        ("name", None),
        ("name", _Text("web")),
        ("state", "running"),
        ("state", _Other.RUNNING),
        ("vcpus", True),
        ("vcpus", 2.0),
        ("memory_mib", None),
        ("more", 1),
    ],
)
def test_one_wrong_field_of_a_line_of_a_list_is_left_to_pydantic(field: str, value: object) -> None:
    made = InstanceSummary.model_construct(**SUMMARY)
    made.__dict__[field] = value
    test = signature_of("list_instances").exactly
    assert test is not None
    assert test([InstanceSummary(**SUMMARY)])
    assert not test([InstanceSummary(**SUMMARY), made])


def test_a_lacking_field_is_left_to_pydantic() -> None:
    made = InstanceSummary.model_construct(**SUMMARY)
    del made.__dict__["vcpus"]
    test = signature_of("list_instances").exactly
    assert test is not None
    assert not test([made])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("flavor", Flavor.model_construct(vcpus="1", memory_mib=64)),
        ("flavor", {"vcpus": 1, "memory_mib": 64}),
        ("metadata", {"a": 1}),
        ("metadata", {1: "a"}),
        ("vifs", [VIF]),
        ("vifs", (VIF.model_copy(update={"address": 1}),)),
        ("vifs", (VIF.model_copy(update={"pci_address": "0000:00:03.0"}),)),
        ("created_at", datetime(2026, 1, 1)),
        ("move", "prepared"),
    ],
)
def test_what_is_wrong_deep_inside_is_left_to_pydantic(field: str, value: object) -> None:
    made = InstanceInfo.model_construct(**(INFO | {field: value}))
    test = signature_of("get_instance").exactly
    assert test is not None
    assert not test(made)


def test_a_model_of_another_class_is_left_to_pydantic() -> None:
    class Derived(InstanceSummary):
        pass

    test = signature_of("list_instances").exactly
    assert test is not None
    assert not test([Derived(**SUMMARY)])
    assert not test({"a": InstanceSummary(**SUMMARY)})
    assert not test(iter([InstanceSummary(**SUMMARY)]))


@pytest.mark.parametrize("annotation", [Any, object, frozenset[str], set[int], dict[str, int]])
def test_what_it_does_not_know_is_pydantic_s(annotation: object) -> None:
    assert acceptor(annotation) is None


def test_most_operations_have_one() -> None:
    lacking = {name for name in OPERATIONS if signature_of(name).exactly is None}
    assert lacking <= {
        "adopt",
        "create_volume",
        "get_available_resource",
        "get_volume_connector",
        "placement_inventories",
        "prepare_move",
        "finish_move",
        "check_live_migration",
        "guest_addresses",
        "watch",
    }


def test_a_line_of_a_list_is_the_same_made_in_either_way() -> None:
    slow, quick = InstanceSummary(**SUMMARY, server_group=None), InstanceSummary.of(**SUMMARY)
    assert quick == slow
    assert hash(quick) == hash(slow)
    assert repr(quick) == repr(slow)
    assert quick.model_dump_json() == slow.model_dump_json()
    assert quick.model_fields_set == slow.model_fields_set
    assert pickle.loads(pickle.dumps(quick)) == slow
    assert quick.model_copy(update={"name": "db"}).name == "db"
    assert copy.deepcopy(quick) == slow
    with pytest.raises(ValidationError):
        quick.name = "db"


@pytest.mark.parametrize(
    ("field", "value"),
    [("uuid", "x"), ("name", " web"), ("name", "a\nb"), ("name", ""), ("state", "on")],
)
def test_a_line_of_a_list_is_refused_in_either_way(field: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        InstanceSummary.of(**(SUMMARY | {field: value}))
