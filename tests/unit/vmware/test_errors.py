"""The table of faults: each fault of the API has a class, on purpose."""

from __future__ import annotations

import pytest
from pyVmomi import vim, vmodl
from pyVmomi.VmomiSupport import GetWsdlTypes

from hvdrivers.contract import errors
from hvdrivers.vmware.errors import ROOTS, TABLE, class_of, translate
from tests.unit.test_hints import ACTED_ON


def faults() -> list[type]:
    kinds = [each for each in GetWsdlTypes() if isinstance(each, type)]
    return [
        each
        for each in kinds
        if issubclass(each, vmodl.MethodFault) and each.__name__.startswith(("vim.", "vmodl."))
    ]


def test_every_fault_has_a_class_of_its_own_or_of_a_family() -> None:
    assert len(faults()) > 600
    lost = []
    for kind in faults():
        named = next(b for b in kind.__mro__ if getattr(b, "_wsdlName", "") in TABLE)
        if named._wsdlName in ROOTS and kind._wsdlName not in TABLE:
            lost.append(kind._wsdlName)
    assert not lost, "these say only that something has failed: put them into the table"


def test_every_name_in_the_table_is_a_fault() -> None:
    # pyVmomi has no type LocalizedMethodFault of its own: it unpacks it
    assert not set(TABLE) - {each._wsdlName for each in faults()} - {"LocalizedMethodFault"}


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (vim.fault.InvalidPowerState(), errors.InvalidState),
        (vim.fault.FileNotFound(), errors.VolumeNotFound),
        (vim.fault.NoDiskSpace(), errors.InsufficientResources),
        (vim.fault.InsufficientMemoryResourcesFault(), errors.InsufficientResources),
        (vim.fault.NoPermission(), errors.PermissionDenied),
        (vim.fault.NotAuthenticated(), errors.AuthenticationFailed),
        (vim.fault.InvalidLogin(), errors.AuthenticationFailed),
        (vim.fault.TaskInProgress(), errors.DeviceBusy),
        (vim.fault.ToolsUnavailable(), errors.GuestAgentUnavailable),
        (vim.fault.CpuHotPlugNotSupported(), errors.NotSupported),
        (vim.fault.DuplicateName(), errors.InvalidRequest),
        (vmodl.fault.ManagedObjectNotFound(), errors.HypervisorFault),
        (vmodl.fault.SystemError(), errors.HypervisorFault),
    ],
    ids=lambda each: getattr(each, "_wsdlName", None),
)
def test_what_a_caller_should_do(
    fault: vmodl.MethodFault, expected: type[errors.HypervisorError]
) -> None:
    assert class_of(type(fault)) is expected
    error = translate(fault)
    assert type(error) is expected
    assert error.vendor_code == fault._wsdlName


def test_the_message_is_one_line_and_never_decides() -> None:
    fault = vmodl.fault.SystemError(msg="the disk\nis not found")
    error = translate(fault)
    assert type(error) is errors.HypervisorFault
    assert error.message == "the disk is not found"


def test_a_long_message_keeps_its_end() -> None:
    """The last of a fault's messages is the one nearest to the cause."""
    more = [vmodl.LocalizableMessage(key="k", message=f"cannot open disk {n}") for n in range(99)]
    fault = vmodl.fault.SystemError(msg="power on failed", faultMessage=more)
    message = translate(fault).message
    assert message.startswith("power on failed")
    assert message.endswith("cannot open disk 98")
    assert len(message) <= 500


def test_a_missing_privilege_is_named() -> None:
    fault = vim.fault.NoPermission(privilegeId="VirtualMachine.Interact.PowerOn", msg="no")
    assert "VirtualMachine.Interact.PowerOn" in str(translate(fault))


def test_a_fault_that_a_caller_can_do_something_about_says_what() -> None:
    kinds = [kind for kind in faults() if class_of(kind) in ACTED_ON]
    assert len(kinds) > 300
    assert [kind._wsdlName for kind in kinds if not translate(kind()).hint] == []
