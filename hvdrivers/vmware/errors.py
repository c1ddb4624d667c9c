"""vSphere's faults in the words of the contract: the only such table, by class.

A fault is looked up by its own type and then by its base types, so a subtype that is not named
here means what its base means. The meaning of each type: the vSphere Web Services API reference.
"""

from __future__ import annotations

from types import MappingProxyType

from pyVmomi import vmodl

from hvdrivers.contract import errors as e
from hvdrivers.messages import shortened

_BY_CLASS: dict[type[e.HypervisorError], str] = {
    e.InvalidState: """InvalidState CannotPowerOffVmInCluster InvalidPowerState InvalidVmState
        SnapshotNoChange MethodDisabled DisallowedOperationOnFailoverHost VmPowerOnDisabled
        QuestionPending EncryptionKeyRequired""",
    e.DeviceBusy: """ResourceInUse TaskInProgress FileLocked ConcurrentAccess
        VAppOperationInProgress MethodAlreadyDisabledFault StorageDrsHmsMoveInProgress
        SnapshotLocked
        TooManyConcurrentNativeClones MksConnectionLimitReached ConflictingDatastoreFound
        FailToLockFaultToleranceVMs TooManyGuestLogons DirectoryNotEmpty""",
    e.InsufficientResources: """InsufficientResourcesFault NoDiskSpace LimitExceeded OutOfBounds
        TooManyDevices VmValidateMaxDevice NotEnoughLicenses NamespaceFull NamespaceLimitReached
        InsufficientStorageIops InaccessibleDatastore NoCompatibleHost NoCompatibleDatastore
        FileTooLarge TooManySnapshotLevels TooManyNativeCloneLevels TooManyNativeClonesOnFile
        NumVirtualCpusIncompatible
        RuleViolation InvalidHostState NoActiveHostInCluster DatabaseError
        CannotPlaceWithoutPrerequisiteMoves""",
    e.VolumeNotFound: """FileNotFound InvalidDatastore NoDiskFound CannotAccessVmDisk
        CannotAccessLocalSource InvalidDatastorePath UnsupportedDatastore
        InaccessibleVFlashSource NoConnectedDatastore SsdDiskNotAvailable SwapDatastoreUnset""",
    e.NetworkNotFound: """CannotAccessNetwork CannotUseNetwork NetworksMayNotBeTheSame DvsFault
        CannotUseNetwork""",
    e.InvalidRequest: """InvalidArgument InvalidRequest InvalidName DuplicateName AlreadyExists
        FileAlreadyExists InvalidVmConfig InvalidDeviceSpec InvalidFormat InvalidFolder
        InvalidProperty FileNameTooLong IncorrectFileType NotADirectory NotAFile
        VmConfigFault MigrationFault CustomizationFault VAppConfigFault SnapshotFault OvfFault
        AlreadyUpgraded InvalidLocale InvalidAffinitySettingFault InvalidProfileReferenceHost
        InvalidScheduledTask KeyNotFound UserNotFound InvalidEvent UnrecognizedHost
        DrsDisabledOnVm GenericDrsFault InvalidPrivilege ShrinkDiskFault
        NamespaceWriteProtected UncustomizableGuest""",
    e.NotSupported: """NotSupported NotImplemented RestrictedVersion RestrictedByAdministrator
        CpuHotPlugNotSupported MemoryHotPlugNotSupported DeviceHotPlugNotSupported
        DeviceNotSupported DeviceUnsupportedForVmPlatform DeviceUnsupportedForVmVersion
        VirtualHardwareCompatibilityIssue UnsupportedGuest RDMNotSupportedOnDatastore
        LargeRDMNotSupportedOnDatastore CannotDisableSnapshot MultipleSnapshotsNotSupported
        MemorySnapshotOnIndependentDisk SnapshotDisabled SnapshotIncompatibleDeviceInVm
        CloneFromSnapshotNotSupported SnapshotCopyNotSupported SuspendedRelocateNotSupported
        OperationDisallowedOnHost DisallowedChangeByService UnsupportedVimApiVersion
        IORMNotSupportedHostOnDatastore RecordReplayDisabled OperationNotSupportedByGuest
        OperationDisabledByGuest DisallowedDiskModeChange DeltaDiskFormatNotSupported
        VFlashModuleNotSupported VFlashCacheHotConfigNotSupported MigrationFeatureNotSupported
        NotSupportedHostForChecksum MissingBmcSupport VFlashModuleVersionIncompatible""",
    e.GuestAgentUnavailable: """ToolsUnavailable GuestOperationsUnavailable
        GuestComponentsOutOfDate VmToolsUpgradeFault ApplicationQuiesceFault
        FilesystemQuiesceFault""",
    e.AuthenticationFailed: """InvalidLogin NotAuthenticated SessionNotFound
        AuthenticationRequired InvalidToken SSPIChallenge NoClientCertificate
        AuthMinimumAdminPermission NoSubjectName""",
    e.PermissionDenied: """NoPermission SecurityError NoPermissionOnHost InvalidGuestLogin
        GuestPermissionDenied GuestAuthenticationChallenge InvalidLicense""",
    e.ConnectionFailed: "HostCommunication HostConnectFault HttpFault LicenseServerUnavailable",
    e.HypervisorFault: """VimFault RuntimeFault MethodFault SystemError UnexpectedFault FileFault
        Timedout RequestCanceled GuestOperationsFault GuestProcessNotFound DeviceNotFound
        ExtendedFault HostConfigFault HostHasComponentFailure HostPowerOpFailed
        NetworkDisruptedAndConfigRolledBack RemoveFailed RebootRequired ResourceNotAvailable
        InvalidCollectorVersion LocalizedMethodFault NotFound ManagedObjectNotFound
        PlatformConfigFault LogBundlingFailed WipeDiskFault MismatchedBundle""",
}

_ELSEWHERE = """ActiveDirectoryFault AnswerFileUpdateFailed CannotDisconnectHostWithFaultToleranceVm
    CannotEnableVmcpForCluster CannotMoveFaultToleranceVm CannotMoveHostWithFaultToleranceVm
    CnsFault DasConfigFault EVCConfigFault FaultToleranceVmNotDasProtected FcoeFault
    HostIncompatibleForRecordReplay HostSpecificationOperationFailed InvalidBmcRole
    InvalidIpmiLoginInfo InvalidIpmiMacAddress IscsiFault LicenseEntityNotFound
    PatchBinariesNotFound PatchMetadataInvalid PatchNotApplicable ProfileUpdateFailed
    ReplicationFault
    StorageDrsCannotMoveDiskInMultiWriterMode StorageDrsCannotMoveFTVm
    StorageDrsCannotMoveIndependentDisk StorageDrsCannotMoveManuallyPlacedSwapFile
    StorageDrsCannotMoveManuallyPlacedVm StorageDrsCannotMoveSharedDisk StorageDrsCannotMoveTemplate
    StorageDrsCannotMoveVmInUserFolder StorageDrsCannotMoveVmWithMountedCDROM
    StorageDrsCannotMoveVmWithNoFilesInLayout StorageDrsDatacentersCannotShareDatastore
    StorageDrsDisabledOnVm StorageDrsHbrDiskNotMovable StorageDrsHmsUnreachable
    StorageDrsIolbDisabledInternally StorageDrsRelocateDisabled StorageDrsStaleHmsCollection
    StorageDrsUnableToMoveFiles TooManyConsecutiveOverrides VmFaultToleranceIssue
    VmMetadataManagerFault VmMonitorIncompatibleForFaultTolerance VsanFault VsanNodeNotMaster
    CannotDisableDrsOnClustersWithVApps LicenseAssignmentFailed ThirdPartyLicenseAssignmentFailed"""
"""Faults of services that this driver never calls: Fault Tolerance, vSAN, patches, Storage DRS."""

TABLE = MappingProxyType(
    {name: error for error, names in _BY_CLASS.items() for name in names.split()}
    | dict.fromkeys(_ELSEWHERE.split(), e.HypervisorFault)
)
"""Class by the fault's type name."""

ROOTS = frozenset({"VimFault", "RuntimeFault", "MethodFault"})
"""Names in the table that say only that something has failed."""

_HINTS: dict[type[e.HypervisorError], str] = {
    e.PermissionDenied: "give the user the privilege that the fault names on that object",
    e.InsufficientResources: "free memory, CPU or disk space, or choose another host or datastore",
    e.InvalidState: "get_instance() shows the state that it has: bring it into another one first",
    e.DeviceBusy: "call again when what uses it has ended: vSphere's tasks of the object show it",
    e.VolumeNotFound: "list_volumes() shows the volumes; or a datastore is out of the host's reach",
    e.NetworkNotFound: "drivers make no networks: vSphere's client shows those that the host has",
    e.InvalidRequest: "change what vSphere names, or leave it out",
    e.NotSupported: "leave out what vSphere names, or use a host whose version and licence have it",
    e.HypervisorFault: "vSphere's events and tasks of the object have the details",
    e.AuthenticationFailed: "check username and password; an account may be locked after attempts",
}
_RETRYABLE = frozenset({"TaskInProgress", "ConcurrentAccess", "Timedout", "FileLocked"})


def name_of(fault: vmodl.MethodFault) -> str:
    """The type of a fault as the API reference names it: ``InvalidPowerState``."""
    return str(type(fault)._wsdlName)


def class_of(kind: type) -> type[e.HypervisorError]:
    """The contract's error for a type of fault."""
    for base in kind.__mro__:
        found = TABLE.get(getattr(base, "_wsdlName", ""))
        if found is not None:
            return found
    return e.HypervisorFault


def translate(fault: vmodl.MethodFault) -> e.HypervisorError:
    """The contract's error for a fault. The caller raises it ``from`` the fault."""
    cls, name = class_of(type(fault)), name_of(fault)
    said = [fault.msg] if isinstance(fault.msg, str) else []
    said += [each.message for each in fault.faultMessage or () if each.message]
    text = "; ".join(" ".join(part.split()) for part in said if part.strip())
    if name == "NoPermission" and getattr(fault, "privilegeId", None):
        text = f"{text} (privilege {fault.privilegeId})".strip()
    retryable = True if name in _RETRYABLE else None
    return cls(
        shortened(text or f"vSphere answered {name}"),
        vendor_code=name,
        hint=_HINTS.get(cls),
        retryable=retryable,
    )
