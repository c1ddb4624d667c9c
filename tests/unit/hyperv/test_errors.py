"""The table of errors: by code, complete, and never by the text."""

from __future__ import annotations

import re
from importlib import resources

import pytest

from hvdrivers.contract import errors as e
from hvdrivers.hyperv.errors import BY_HRESULT, BY_ID, ScriptError, translate
from hvdrivers.hyperv.own_errors import HINTS, OWN


def script_error(full_id: str, *codes: int, message: str = "") -> ScriptError:
    return ScriptError({"id": full_id, "codes": list(codes), "message": message})


def test_every_error_that_a_script_raises_is_in_the_table() -> None:
    raised = set()
    folder = resources.files("hvdrivers.hyperv") / "scripts"
    for script in folder.iterdir():
        raised |= set(re.findall(r"Stop-Hv '(\w+)'", script.read_text(encoding="utf-8")))
    assert raised - OWN.keys() == set()
    assert {"InstanceExists", "DiskBusy", "ImageEvicted"} <= raised


def test_a_long_message_keeps_its_end() -> None:
    """Hyper-V says why a machine does not start after each of its parts."""
    reason = "the file or directory is corrupted and unreadable"
    text = "'web-1' failed to start. " + "Synthetic SCSI Controller: " * 50 + reason
    message = translate(script_error("OperationFailed", message=text)).message
    assert message.startswith("'web-1' failed to start.")
    assert message.endswith(reason)
    assert len(message) <= 500


@pytest.mark.parametrize(
    ("full_id", "codes", "expected"),
    [
        ("OutOfMemory,Microsoft.HyperV.PowerShell.Commands.StartVM", (), e.InsufficientResources),
        (
            "Unspecified,Microsoft.HyperV.PowerShell.Commands.StartVM",
            (-2147023446,),
            e.InsufficientResources,
        ),
        (
            "OperationFailed,Microsoft.Vhd.PowerShell.Cmdlets.NewVhd",
            (0x80070070,),
            e.InsufficientResources,
        ),
        (
            "OperationFailed,Microsoft.HyperV.PowerShell.Commands.AddVMHardDiskDrive",
            (0x80131500, 0x80070005),
            e.PermissionDenied,
        ),
        ("OperationFailed,X", (0x80131500,), e.HypervisorFault),
        ("SomethingNew,X", (), e.HypervisorFault),
        ("NamedParameterNotFound,Get-VM", (), e.NotSupported),
        ("Hv.InstanceExists", (), e.InstanceExists),
        # https://learn.microsoft.com/windows-hardware/drivers/storage/iscsi-status-qualifiers
        ("HRESULT 0xefff0009,Connect-IscsiTarget", (), e.VolumeNotFound),
        ("HRESULT 0xefff0029,Connect-IscsiTarget", (), e.VolumeNotFound),
        ("HRESULT 0xefff0040,Disconnect-IscsiTarget", (), e.DeviceBusy),
        ("HRESULT 0xefff004a,Connect-IscsiTarget", (), e.InvalidRequest),
        # ISDSC_CONNECTION_ALREADY_EXISTS and ISDSC_TARGET_MAPPING_UNAVAILABLE say nothing of these
        ("HRESULT 0xefff0015,Connect-IscsiTarget", (), e.HypervisorFault),
        ("HRESULT 0xefff0020,Disconnect-IscsiTarget", (), e.HypervisorFault),
        ("Hv.Stopped", (), e.OperationTimeout),
        ("Hv.NotUndone", (), e.OutcomeUnknown),
    ],
)
def test_codes_decide(
    full_id: str, codes: tuple[int, ...], expected: type[e.HypervisorError]
) -> None:
    for message in ("Not enough memory", "Nicht genug Arbeitsspeicher", ""):
        assert type(translate(script_error(full_id, *codes, message=message))) is expected


def test_the_double_hop_is_named() -> None:
    found = translate(script_error("OperationFailed,X", 0x80070005))
    assert "double hop" in str(found.hint).replace("'", "")


def test_a_lock_that_only_a_call_removes_is_not_retryable() -> None:
    assert not translate(script_error("Hv.DiskInUse")).retryable
    assert translate(script_error("Hv.DiskBusy")).retryable


def test_each_entry_is_an_error_of_the_contract() -> None:
    for table in (OWN, BY_ID, BY_HRESULT):
        assert all(issubclass(each, e.HypervisorError) for each in table.values())


HELPED = (
    e.VolumeNotFound,
    e.NetworkNotFound,
    e.InvalidRequest,
    e.NotSupported,
    e.InvalidState,
    e.DeviceBusy,
    e.InsufficientResources,
    e.PermissionDenied,
)
"""What a caller ends by another call or another argument."""


@pytest.mark.parametrize("own", sorted(id_ for id_, cls in OWN.items() if issubclass(cls, HELPED)))
def test_a_script_s_own_error_says_what_to_do(own: str) -> None:
    assert translate(script_error(f"Hv.{own}", message="words")).hint


@pytest.mark.parametrize("id_", sorted(id_ for id_, cls in BY_ID.items() if cls in HELPED))
def test_an_error_of_the_host_says_what_to_do(id_: str) -> None:
    assert translate(script_error(f"{id_},X")).hint


@pytest.mark.parametrize("code", sorted(c for c, cls in BY_HRESULT.items() if cls in HELPED))
def test_a_code_of_the_host_says_what_to_do(code: int) -> None:
    assert translate(script_error("OperationFailed,X", code)).hint


def test_each_hint_is_of_an_error_that_there_is() -> None:
    assert HINTS.keys() <= OWN.keys()


def test_an_id_in_the_table_is_raised_by_a_script() -> None:
    folder = resources.files("hvdrivers.hyperv") / "scripts"
    texts = [each.read_text(encoding="utf-8") for each in folder.iterdir()]
    raised = {id_ for text in texts for id_ in re.findall(r"'(?:Hv\.)?(\w+)'", text)}
    assert OWN.keys() <= raised
