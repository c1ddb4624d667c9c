"""The contract about itself: rules that every operation, interface and capability must keep."""

from __future__ import annotations

import ast
import inspect
import pathlib
from enum import Enum
from typing import Any, get_type_hints
from uuid import uuid4

import pytest

from hvdrivers.checking import signature_of
from hvdrivers.contract import driver as joined
from hvdrivers.contract import errors, requirements
from hvdrivers.contract.capabilities import CHECKED_BY_DRIVER, Capability, declared, provides
from hvdrivers.contract.consoles import CONSOLE_CAPABILITIES
from hvdrivers.contract.driver import (
    CORE_OPERATIONS,
    OPERATIONS,
    ComputeDriver,
    Core,
    Driver,
    check_state,
    state_table,
)
from hvdrivers.contract.operation import Interface, Scope, operation, operations_of
from hvdrivers.contract.power import RebootKind
from hvdrivers.contract.states import End, InstanceState, row
from hvdrivers.models.image import ImageFormat
from hvdrivers.models.vif import VIF_TYPES

CONTRACT = pathlib.Path(inspect.getfile(joined)).parent
INTERFACES = [
    base for base in ComputeDriver.__mro__ if issubclass(base, Interface) and base.__hv_operations__
]
EVERY = pytest.mark.parametrize("name", OPERATIONS)


@EVERY
def test_an_operation_is_documented_and_bounded(name: str) -> None:
    function = getattr(ComputeDriver, name)
    assert inspect.getdoc(function)
    timeout = inspect.signature(function).parameters["timeout"]
    assert timeout.kind is timeout.KEYWORD_ONLY
    assert timeout.default is None
    assert get_type_hints(function)["timeout"] == float | None
    assert OPERATIONS[name].timeout > 0


@EVERY
def test_what_an_operation_takes_and_gives_can_be_checked(name: str) -> None:
    contract = signature_of(name)
    assert set(contract.accepts) == set(contract.parameters.parameters) - {"self"}
    hints = get_type_hints(getattr(ComputeDriver, name), include_extras=True)
    assert Any not in hints.values()


@EVERY
def test_a_progress_callback_is_optional_and_by_name(name: str) -> None:
    progress = inspect.signature(getattr(ComputeDriver, name)).parameters.get("progress")
    if progress is not None:
        assert (progress.kind, progress.default) == (progress.KEYWORD_ONLY, None)


@EVERY
def test_an_instance_operation_begins_with_the_uuid_and_has_a_full_row(name: str) -> None:
    rules = OPERATIONS[name]
    if rules.scope is Scope.HOST:
        assert rules.states is None
        return
    assert list(inspect.signature(getattr(ComputeDriver, name)).parameters)[1] == "uuid"
    assert rules.states is not None
    for states in (rules.states, *rules.variants.values()):
        assert set(states) == set(InstanceState)
    if not rules.changes:
        assert all(outcome.end in {End.SAME, None} for outcome in rules.states.values())


@EVERY
def test_a_read_repeats_freely_and_holds_nobody_up(name: str) -> None:
    rules = OPERATIONS[name]
    if not rules.changes:
        assert not rules.serialised
        assert rules.repeat.value == "converges"


@EVERY
def test_the_topic_is_the_file(name: str) -> None:
    topic = OPERATIONS[name].topic
    tree = ast.parse((CONTRACT / f"{topic}.py").read_text())
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@EVERY
def test_the_docstring_names_only_errors_that_exist(name: str) -> None:
    _, _, raises = (inspect.getdoc(getattr(ComputeDriver, name)) or "").partition("Raises:\n")
    for line in raises.splitlines():
        if line.startswith("    ") and not line.startswith("     ") and ":" in line:
            for error in line.partition(":")[0].split(","):
                assert issubclass(getattr(errors, error.strip()), errors.HypervisorError)


def test_the_errors_that_docstrings_name_are_found() -> None:
    """Without this the test above would pass if it found none."""
    docs = [inspect.getdoc(getattr(ComputeDriver, name)) or "" for name in OPERATIONS]
    assert sum("Raises:\n" in doc for doc in docs) > len(docs) // 2


@pytest.mark.parametrize("interface", INTERFACES, ids=lambda each: each.__name__)
def test_the_operations_of_an_interface_are_abstract(interface: type[Interface]) -> None:
    assert interface.__doc__
    assert set(interface.__hv_operations__) <= interface.__abstractmethods__
    with pytest.raises(TypeError, match="abstract"):
        interface()


def test_no_operation_is_in_two_interfaces() -> None:
    names = [name for interface in INTERFACES for name in interface.__hv_operations__]
    assert sorted(names) == sorted(OPERATIONS)


def test_no_capability_has_two_interfaces() -> None:
    capabilities = [each.__hv_capability__ for each in INTERFACES if each.__hv_capability__]
    assert len(capabilities) == len(set(capabilities))


def test_core_is_what_every_driver_has_and_needs_no_capability() -> None:
    assert set(operations_of(Driver)) == CORE_OPERATIONS
    assert issubclass(ComputeDriver, Core)
    assert all(OPERATIONS[name].capability is None for name in CORE_OPERATIONS)


def test_every_interface_in_the_contract_is_joined() -> None:
    found = set()
    for path in CONTRACT.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and any(
                isinstance(base, ast.Name) and base.id == "Interface" for base in node.bases
            ):
                found.add(node.name)
    assert found == {interface.__name__ for interface in INTERFACES}


def test_every_capability_has_a_home() -> None:
    interfaces = {each.__hv_capability__ for each in INTERFACES} - {None}
    source = inspect.getsource(requirements)
    asked_for = {
        Capability[node.attr]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "Capability"
    }
    consoles = set(CONSOLE_CAPABILITIES.values())
    homeless = set(Capability) - interfaces - asked_for - consoles - CHECKED_BY_DRIVER
    assert not homeless
    assert not CHECKED_BY_DRIVER & (interfaces | asked_for | consoles)


def test_every_type_of_image_and_nic_has_its_capability() -> None:
    assert set(requirements.IMAGE_CAPABILITIES) == set(ImageFormat)
    kinds = {
        value for kind in VIF_TYPES for value in _literal(kind.model_fields["type"].annotation)
    }
    assert set(requirements.VIF_CAPABILITIES) == kinds


def test_every_type_of_volume_has_its_capability() -> None:
    from hvdrivers.models import volume

    kinds = {
        value
        for each in vars(volume).values()
        if isinstance(each, type) and "driver_volume_type" in getattr(each, "model_fields", {})
        for value in _literal(each.model_fields["driver_volume_type"].annotation)
    }
    assert set(requirements.VOLUME_CAPABILITIES) == kinds


def _literal(annotation: object) -> set[str]:
    return {
        each.value if isinstance(each, Enum) else each
        for each in getattr(annotation, "__args__", ())
    }


def test_a_class_has_what_it_implements_and_what_it_marks() -> None:
    class Some(joined.Pause):
        def pause(self, uuid, *, timeout=None):
            pass

        def unpause(self, uuid, *, timeout=None):
            pass

        @provides(Capability.UEFI)
        @provides(Capability.VTPM, Capability.SEV)
        def anything(self):
            pass

        @staticmethod
        @provides(Capability.NUMA)
        def static():
            pass

    assert declared(Some) == {
        Capability.PAUSE,
        Capability.UEFI,
        Capability.VTPM,
        Capability.SEV,
        Capability.NUMA,
    }


def test_a_row_refuses_what_it_does_not_name() -> None:
    states = row({InstanceState.RUNNING: InstanceState.PAUSED}, same=[InstanceState.PAUSED])
    assert states[InstanceState.RUNNING].after(InstanceState.RUNNING) is InstanceState.PAUSED
    assert states[InstanceState.PAUSED].after(InstanceState.PAUSED) is InstanceState.PAUSED
    assert [state for state in InstanceState if states[state].legal] == [
        InstanceState.RUNNING,
        InstanceState.PAUSED,
    ]
    with pytest.raises(TypeError):
        states[InstanceState.STOPPED] = states[InstanceState.RUNNING]  # type: ignore[index]


def test_a_row_belongs_to_instance_operations_and_to_no_others() -> None:
    with pytest.raises(TypeError):
        operation(scope=Scope.HOST, states=row())
    with pytest.raises(TypeError):
        operation()


def test_check_state_raises_what_the_table_says() -> None:
    uuid = uuid4()
    outcome = check_state("power_off", InstanceState.PAUSED, uuid)
    assert outcome.after(InstanceState.PAUSED) is InstanceState.STOPPED
    with pytest.raises(errors.InvalidState) as caught:
        check_state("pause", InstanceState.STOPPED, uuid)
    assert caught.value.instance == uuid
    assert caught.value.hint == "possible while it is: running, paused"
    assert check_state("reboot", InstanceState.PAUSED, uuid, variant=RebootKind.HARD).legal
    with pytest.raises(errors.InvalidState):
        check_state("reboot", InstanceState.PAUSED, uuid, variant=RebootKind.SOFT)
    with pytest.raises(TypeError):
        check_state("ping", InstanceState.RUNNING, uuid)


def test_the_table_has_a_row_for_every_variant() -> None:
    table = state_table()
    assert "reboot[soft]" in table
    instance_operations = {name for name, each in OPERATIONS.items() if each.states is not None}
    assert {name.partition("[")[0] for name in table} == instance_operations
    assert OPERATIONS["reboot"].row_for({"kind": RebootKind.SOFT}) is table["reboot[soft]"]
    assert OPERATIONS["reboot"].row_for({"kind": RebootKind.HARD}) is table["reboot"]
