"""What PowerShell and Hyper-V report, in the words of the contract: the only such table.

Messages are localised and never read. What decides is the FullyQualifiedErrorId up to its comma;
where that says nothing (``OperationFailed``, ``Unspecified``), the HResult of the exception or of
one inside it. Ids that begin with ``Hv.`` are those of the driver's own scripts.

Sources: https://learn.microsoft.com/windows/win32/seccrypto/common-hresult-values; for the codes of
the iSCSI initiator, 0xEFFFxxxx, https://learn.microsoft.com/windows-hardware/drivers/storage/iscsi-status-qualifiers;
and reports of users of public drivers for what Hyper-V's cmdlets raise.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from hvdrivers.contract import errors as e
from hvdrivers.hints import CALL_AGAIN
from hvdrivers.hyperv.own_errors import HINTS, OWN, REMOVE_FIRST, SHARE
from hvdrivers.messages import shortened


class ScriptError(Exception):
    """What a script on the host raised: codes for the table in ``errors``, and words.

    Attributes:
        id: the FullyQualifiedErrorId up to its comma; ``Hv.`` in front of our own.
        source: what came after the comma: the cmdlet's class.
        category: PowerShell's error category.
        codes: the HResults of the exception and of those inside it, as unsigned numbers.
        types: the class names of the exception and of those inside it.
        message: in the host's own language.
    """

    def __init__(self, error: Mapping[str, Any]) -> None:
        full = str(error.get("id") or "")
        self.id, _, self.source = full.partition(",")
        self.category = str(error.get("category") or "")
        self.codes = tuple(int(code) & 0xFFFFFFFF for code in error.get("codes") or ())
        self.types = tuple(str(each) for each in error.get("types") or ())
        self.message = " ".join(str(error.get("message") or "").split())
        self.command = str(error.get("command") or "")
        self.line = int(error.get("line") or 0)
        super().__init__(f"{full}: {self.message}")


BY_ID: Mapping[str, type[e.HypervisorError]] = MappingProxyType(
    {
        "OutOfMemory": e.InsufficientResources,
        "AccessDenied": e.PermissionDenied,
        "InvalidState": e.InvalidState,
        "InvalidOperation": e.InvalidState,
        "ObjectNotFound": e.HypervisorFault,
        "ObjectInUse": e.DeviceBusy,
        "InvalidParameter": e.InvalidRequest,
        "NotSupported": e.NotSupported,
        "UnauthorizedAccess": e.PermissionDenied,
        "ItemExistsUnauthorizedAccessError": e.PermissionDenied,
        "NewItemUnauthorizedAccessError": e.PermissionDenied,
        "PathNotFound": e.VolumeNotFound,
        "FileNotFound": e.VolumeNotFound,
        # the initiator's codes, as CIM cmdlets give them
        "HRESULT 0xefff0002": e.VolumeNotFound,  # ISDSC_LOGIN_FAILED
        "HRESULT 0xefff0003": e.VolumeNotFound,  # ISDSC_CONNECTION_FAILED
        "HRESULT 0xefff0009": e.VolumeNotFound,  # ISDSC_AUTHENTICATION_FAILURE
        "HRESULT 0xefff000a": e.VolumeNotFound,  # ISDSC_AUTHORIZATION_FAILURE
        "HRESULT 0xefff000b": e.VolumeNotFound,  # ISDSC_NOT_FOUND: of the login's answer
        "HRESULT 0xefff000c": e.VolumeNotFound,  # ISDSC_TARGET_REMOVED
        "HRESULT 0xefff0013": e.VolumeNotFound,  # ISDSC_SERVICE_UNAVAILABLE
        "HRESULT 0xefff0014": e.InsufficientResources,  # ISDSC_OUT_OF_RESOURCES
        "HRESULT 0xefff001e": e.InsufficientResources,  # ISDSC_TOO_MANY_SESSIONS
        "HRESULT 0xefff001f": e.DeviceBusy,  # ISDSC_SESSION_BUSY
        "HRESULT 0xefff0029": e.VolumeNotFound,  # ISDSC_TARGET_NOT_FOUND
        "HRESULT 0xefff0038": e.VolumeNotFound,  # ISDSC_TARGET_OUT_OF_RESORCES
        "HRESULT 0xefff003e": e.NotSupported,  # ISDSC_SERVICE_NOT_RUNNING
        "HRESULT 0xefff0040": e.DeviceBusy,  # ISDSC_DEVICE_BUSY_ON_SESSION
        "HRESULT 0xefff0043": e.VolumeNotFound,  # ISDSC_PORTAL_NOT_FOUND
        "HRESULT 0xefff004a": e.InvalidRequest,  # ISDSC_INVALID_CHAP_SECRET
        "HRESULT 0xefff004d": e.InvalidRequest,  # ISDSC_INVALID_CHAP_USER_NAME
        "HRESULT 0xefff0051": e.InvalidRequest,  # ISDSC_INVALID_ISCSI_NAME
        "HRESULT 0xefff005f": e.VolumeNotFound,  # ISDSC_DNS_NAME_UNRESOLVED
        "StorageWMI 40001": e.PermissionDenied,
        # the host's PowerShell or its Hyper-V module lacks something
        "CommandNotFoundException": e.NotSupported,
        "CouldNotAutoLoadModule": e.NotSupported,
        "CouldNotAutoloadMatchingModule": e.NotSupported,
        "Modules_ModuleNotFound": e.NotSupported,
        "NamedParameterNotFound": e.NotSupported,
        "AmbiguousParameterSet": e.HypervisorFault,
        "MissingMandatoryParameter": e.HypervisorFault,
        "ParameterArgumentValidationError": e.HypervisorFault,
        "ParameterArgumentTransformationError": e.HypervisorFault,
        "CannotConvertArgumentNoMessage": e.HypervisorFault,
    }
)
"""By the id of PowerShell or a cmdlet."""

BY_HRESULT: Mapping[int, type[e.HypervisorError]] = MappingProxyType(
    {
        0x8007000E: e.InsufficientResources,  # E_OUTOFMEMORY
        0x800705AA: e.InsufficientResources,  # ERROR_NO_SYSTEM_RESOURCES
        0x800705AF: e.InsufficientResources,  # ERROR_COMMITMENT_LIMIT
        0x80070070: e.InsufficientResources,  # ERROR_DISK_FULL
        0x80070027: e.InsufficientResources,  # ERROR_HANDLE_DISK_FULL
        0x800700DF: e.InsufficientResources,  # ERROR_FILE_TOO_LARGE
        0x80070299: e.InsufficientResources,  # ERROR_FILE_SYSTEM_LIMITATION
        0x8007050F: e.InsufficientResources,  # ERROR_DISK_QUOTA_EXCEEDED
        0x80070013: e.PermissionDenied,  # ERROR_WRITE_PROTECT
        0x80070005: e.PermissionDenied,  # E_ACCESSDENIED
        0x80070020: e.DeviceBusy,  # ERROR_SHARING_VIOLATION
        0x80070021: e.DeviceBusy,  # ERROR_LOCK_VIOLATION
        0x80070091: e.DeviceBusy,  # ERROR_DIR_NOT_EMPTY
        0x800700AA: e.DeviceBusy,  # ERROR_BUSY
        0x80070002: e.VolumeNotFound,  # ERROR_FILE_NOT_FOUND
        0x80070003: e.VolumeNotFound,  # ERROR_PATH_NOT_FOUND
        0x80070015: e.VolumeNotFound,  # ERROR_NOT_READY
        0x80070035: e.VolumeNotFound,  # ERROR_BAD_NETPATH
        0x80070043: e.VolumeNotFound,  # ERROR_BAD_NET_NAME
        0xC03A0002: e.HypervisorFault,  # a virtual disk is damaged
        0xC03A000D: e.HypervisorFault,  # ERROR_VHD_PARENT_VHD_NOT_FOUND
        0xC03A000E: e.HypervisorFault,  # ERROR_VHD_CHILD_PARENT_ID_MISMATCH
        0xC03A001A: e.HypervisorFault,  # the disk's file is compressed, encrypted or sparse
        0x80048052: e.InvalidState,
        0x80070032: e.NotSupported,  # ERROR_NOT_SUPPORTED
    }
)
"""By the code of the exception, or of one inside it."""

_VAGUE = frozenset({"OperationFailed", "Unspecified", "ObjectNotFound"})

_HINTS: Mapping[type[e.HypervisorError], str] = {
    e.PermissionDenied: "the user must be in 'Hyper-V Administrators', and Hyper-V's own service"
    f" must be able to open the file; if it is on another server, {SHARE}",
    e.InsufficientResources: "free memory or disk space on the host, or choose another host",
    e.InvalidState: "get_instance() shows the state that it has: bring it into another one first",
    e.InvalidRequest: "change what Hyper-V names, or leave it out",
    e.DeviceBusy: "a program or a machine of the host uses it: end that, and call again",
    e.VolumeNotFound: "a path on the host, or on a share, leads to nothing: put the file back, or"
    " name another",
    e.NotSupported: "the host's Windows or its Hyper-V PowerShell module lacks this",
    e.HypervisorFault: "the log Microsoft-Windows-Hyper-V-VMMS-Admin on the host has the details",
}

_CODE_HINTS: Mapping[int, str] = MappingProxyType(
    {
        0x80070091: "a file came into the folder while it was removed, or one of its files is open."
        " Repeat it; openfiles /query on the host tells who has a file open",
        0x80070013: "the drive is write-protected: Set-Disk -IsReadOnly $false on the host, or"
        " another pool",
        0xC03A000D: "a file that the disk is based on is not where it was: bring it back, or tell"
        " the disk where it is now (Set-VHD -ParentPath)",
        0xC03A000E: "a file that the disk is based on is gone, or was changed since: bring it back"
        " as it was; Get-VHD names it (ParentPath)",
        0xC03A001A: "Hyper-V takes no disk file that is compressed, encrypted or sparse, or has the"
        " integrity bit of ReFS. Switch that off for the driver's folder and for the pools, and for"
        " the files in them: compact /u /s, cipher /d /s, Set-FileIntegrity -Enable $false",
    }
)
"""Where a code says more about what to do than the class."""


_ISCSI = "HRESULT 0xefff"
"""How the ids of the iSCSI initiator begin."""
_ISCSI_HINTS: Mapping[type[e.HypervisorError], str] = {
    e.VolumeNotFound: "look whether the storage server answers at the volume's portals, has its"
    " target, and lets in the initiator that get_volume_connector() names; and at auth_username and"
    " auth_password",
    e.NotSupported: "start the initiator on the host: Start-Service MSiSCSI",
    e.InvalidRequest: "give target_iqn, auth_username and auth_password as the storage server has"
    " them",
    e.InsufficientResources: "log the host out of targets that nobody uses",
    e.DeviceBusy: CALL_AGAIN,
}


def translate(error: ScriptError) -> e.HypervisorError:
    """The contract's error for what a script has raised. The caller raises it ``from`` that."""
    if error.id.startswith("Hv."):
        own = error.id.removeprefix("Hv.")
        cls = OWN.get(own, e.HypervisorFault)
        retryable = False if own in REMOVE_FIRST else None
        return cls(
            error.message or own,
            vendor_code=error.id,
            hint=HINTS.get(own),
            retryable=retryable,
        )
    cls, code = _class_of(error)
    message = shortened(error.message) or "the host gave no message"
    by_class = _ISCSI_HINTS if error.id.startswith(_ISCSI) else _HINTS
    hint = next((_CODE_HINTS[code] for code in error.codes if code in _CODE_HINTS), None)
    return cls(message, vendor_code=code, hint=hint or by_class.get(cls) or _HINTS.get(cls))


def _class_of(error: ScriptError) -> tuple[type[e.HypervisorError], str]:
    named = BY_ID.get(error.id)
    if named is None or error.id in _VAGUE:
        for code in error.codes:
            if code in BY_HRESULT:
                return BY_HRESULT[code], f"{error.id}/0x{code:08X}"
    if named is None and error.codes:
        return e.HypervisorFault, f"{error.id}/0x{error.codes[-1]:08X}"
    return named or e.HypervisorFault, error.id
