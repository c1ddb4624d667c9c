"""Libvirt's errors in the words of the contract: the only such table, by code.

The meaning of each code: https://libvirt.org/html/libvirt-virterror.html. A code that says
nothing by itself (VIR_ERR_SYSTEM_ERROR) carries an errno in ``int1``, which decides.
"""

from __future__ import annotations

import errno
import re
from types import MappingProxyType

import libvirt

from hvdrivers.contract import errors as e
from hvdrivers.libvirt.lost_errors import UNREADABLE, is_lost
from hvdrivers.messages import shortened

CODES: dict[int, str] = {
    value: name
    for name, value in vars(libvirt).items()
    if name.startswith("VIR_ERR_")
    and name not in {"VIR_ERR_OK", "VIR_ERR_NONE", "VIR_ERR_WARNING", "VIR_ERR_ERROR"}
}

_BY_CLASS: dict[type[e.HypervisorError], str] = {
    e.InstanceNotFound: "NO_DOMAIN INVALID_DOMAIN",
    e.InstanceExists: "DOM_EXIST",
    e.VolumeNotFound: """NO_STORAGE_POOL NO_STORAGE_VOL INVALID_STORAGE_POOL INVALID_STORAGE_VOL
        NO_DOMAIN_SNAPSHOT INVALID_DOMAIN_SNAPSHOT NO_DOMAIN_CHECKPOINT INVALID_DOMAIN_CHECKPOINT
        NO_DOMAIN_BACKUP CHECKPOINT_INCONSISTENT""",
    e.NetworkNotFound: """NO_NETWORK INVALID_NETWORK NO_INTERFACE INVALID_INTERFACE
        MULTIPLE_INTERFACES NO_NWFILTER INVALID_NWFILTER NO_NWFILTER_BINDING
        INVALID_NWFILTER_BINDING NO_NETWORK_PORT INVALID_NETWORK_PORT""",
    e.InvalidState: "OPERATION_INVALID",
    e.DeviceBusy: """RESOURCE_BUSY BLOCK_COPY_ACTIVE NETWORK_EXIST NETWORK_PORT_EXIST
        STORAGE_VOL_EXIST STORAGE_POOL_BUILT OPERATION_TIMEOUT""",
    e.InsufficientResources: "NO_MEMORY DRIVER_FULL",
    e.NotSupported: """NO_SUPPORT CONFIG_UNSUPPORTED ARGUMENT_UNSUPPORTED OPERATION_UNSUPPORTED
        CPU_INCOMPATIBLE NO_SECURITY_MODEL SNAPSHOT_REVERT_RISKY""",
    e.GuestAgentUnavailable: "AGENT_UNRESPONSIVE AGENT_UNSYNCED",
    e.AuthenticationFailed: "AUTH_FAILED AUTH_CANCELLED AUTH_UNAVAILABLE GNUTLS_ERROR",
    e.PermissionDenied: "ACCESS_DENIED OPERATION_DENIED",
    e.ConnectionFailed: """NO_CONNECT INVALID_CONN UNKNOWN_HOST RPC SSH LIBSSH NO_SERVER NO_CLIENT
        NO_HOSTNAME""",
    e.InvalidRequest: """INVALID_ARG INVALID_MAC XML_ERROR XML_DETAIL XML_INVALID_SCHEMA OS_TYPE
        NO_KERNEL NO_ROOT NO_SOURCE NO_TARGET NO_NAME NO_OS NO_DEVICE OVERFLOW MIGRATE_UNSAFE""",
    e.HypervisorFault: """INTERNAL_ERROR OPERATION_FAILED OPERATION_ABORTED GET_FAILED POST_FAILED
        HTTP_ERROR SEXPR_SERIAL NO_XEN XEN_CALL NO_XENSTORE CALL_FAILED OPEN_FAILED READ_FAILED
        PARSE_FAILED CONF_SYNTAX WRITE_FAILED SYSTEM_ERROR BUILD_FIREWALL INVALID_SECRET NO_SECRET
        INVALID_NODE_DEVICE NO_NODE_DEVICE MIGRATE_PERSIST_FAILED MIGRATE_FINISH_OK
        HOOK_SCRIPT_FAILED INVALID_STREAM STORAGE_PROBE_FAILED NO_DOMAIN_METADATA DBUS_SERVICE
        DEVICE_MISSING MULTIPLE_DOMAINS""",
}

TABLE = MappingProxyType(
    {f"VIR_ERR_{code}": error for error, codes in _BY_CLASS.items() for code in codes.split()}
)
"""Class by the name of the code. Names, as an older libvirt lacks the newer numbers."""

BY_ERRNO = MappingProxyType(
    {
        errno.ENOENT: e.VolumeNotFound,
        errno.ENODEV: e.NetworkNotFound,
        errno.EACCES: e.PermissionDenied,
        errno.EPERM: e.PermissionDenied,
        errno.EROFS: e.PermissionDenied,
        errno.ENOSPC: e.InsufficientResources,
        errno.EDQUOT: e.InsufficientResources,
        errno.EFBIG: e.InsufficientResources,
        errno.ENOMEM: e.InsufficientResources,
        errno.EBUSY: e.DeviceBusy,
        errno.EEXIST: e.DeviceBusy,
    }
)
"""What VIR_ERR_SYSTEM_ERROR means, by the errno it carries. ECONNREFUSED and its like are not here:
on a connection that lives they tell that the daemon did not reach its log daemon, or a QEMU."""

_NO_SHAPING = re.compile(
    r"Child process \((?:\S*/)?tc (?:qdisc|class|filter) .*"
    r"(?:Specified qdisc kind is unknown|TC classifier not found|Failed to load TC action module"
    r"|RTNETLINK answers: (?:No such file or directory|Operation not supported))",
    re.DOTALL,
)
"""``tc`` could not limit a NIC, because the host's kernel lacks a part of its traffic control. The
one message that is read: libvirt runs ``tc`` (virNetDevBandwidthSet in its source) and reports any
failure of a program as VIR_ERR_INTERNAL_ERROR. The words are the kernel's, which has no other
language; "RTNETLINK answers" is how ``tc`` shows the errno of a kernel before 4.16."""
_LIMIT_HINT = (
    "limit no NIC on a Linux bridge of this host, or give its kernel the modules sch_htb, sch_sfq,"
    " sch_ingress, cls_u32 and act_police; NICs on Open vSwitch do not need them"
)

_HINTS: dict[type[e.HypervisorError], str] = {
    e.VolumeNotFound: (
        "list_volumes() shows the volumes of the host, list_snapshots() those of an instance, and"
        " virsh pool-list --all the storage pools"
    ),
    e.NetworkNotFound: "drivers never make networks; those that there are: virsh net-list --all",
    e.InvalidRequest: "change what libvirt names, or leave it out",
    e.NotSupported: "leave out what libvirt names, or use a host whose libvirt and QEMU have it",
    e.PermissionDenied: (
        "the daemon, or QEMU's user, may not do or open this: see the daemon's log, and the"
        " owner, AppArmor and SELinux rules of the path"
    ),
    e.InsufficientResources: "free memory or disk space on the host, or choose another host",
    e.HypervisorFault: "the daemon's log on the host has the details",
}

_BUSY_HINT = (
    "another job of the machine is under way, such as a backup, a copy or a migration: wait for its"
    " end, or end it; end_backup() ends a backup"
)
LEFT_START = (
    "where a start never ends, the daemon was killed in the middle of it: stop the daemon on the"
    " host, remove {file} below /run/libvirt/qemu, and start it"
)
"""What helps where libvirt 9.0 has written down that it starts a machine (PAUSED, STARTING_UP, and
no process of QEMU) and was killed before QEMU began: with each start of the daemon the machine has
a job that never ends, and every call that would change it waits for that. ``file`` is named for the
domain."""
_CODE_HINTS = MappingProxyType(
    {
        "VIR_ERR_OPERATION_TIMEOUT": f"{_BUSY_HINT}. {LEFT_START.format(file='NAME.xml')}",
        "VIR_ERR_RESOURCE_BUSY": _BUSY_HINT,
        "VIR_ERR_BLOCK_COPY_ACTIVE": _BUSY_HINT,
    }
)

_OPENING_HINTS = MappingProxyType(
    {
        errno.ENOENT: (
            "no libvirt daemon runs on this machine: systemctl start libvirtd (Debian, Ubuntu:"
            " apt-get install libvirt-daemon-system), or name the socket by ?socket="
        ),
        errno.EACCES: (
            "this user may not open the daemon's socket: be a member of the group libvirt, and log"
            " in anew"
        ),
        errno.ECONNREFUSED: (
            "no libvirt daemon listens there: systemctl start libvirtd; for qemu+tcp and qemu+tls"
            " also libvirtd-tcp.socket or libvirtd-tls.socket, and the firewall"
        ),
    }
)
"""By the errno of a daemon's socket that could not be opened; ``refused_by`` has SSH and TLS."""

_LOST_HINT = (
    "Python's garbage collector ran before libvirt-python had asked for the reason. Look what the"
    " operation has done, and call again; the daemon's log on the host has the reason"
)


def translate(error: libvirt.libvirtError) -> e.HypervisorError:
    """The contract's error for one of libvirt's. The caller raises it ``from`` the original."""
    code = error.get_error_code()
    name = CODES.get(code, f"VIR_ERR_{code}") if code is not None else "VIR_ERR_UNKNOWN"
    cls = TABLE.get(name, e.HypervisorFault)
    if name == "VIR_ERR_SYSTEM_ERROR":
        cls = BY_ERRNO.get(error.get_int1() or 0, e.HypervisorFault)
        name = f"{name}/{errno.errorcode.get(error.get_int1() or 0, error.get_int1())}"
    # QEMU's own words may come on lines of their own, and the reason is in the last of them
    message = " ".join((error.get_error_message() or "").split()) or "libvirt gave no message"
    if is_lost(error):
        return e.HypervisorFault(shortened(message), vendor_code=name, hint=_LOST_HINT)
    if cls is e.HypervisorFault and _NO_SHAPING.search(message):
        return e.NotSupported(
            f"the host's kernel cannot limit this NIC: {shortened(message)}",
            vendor_code=name,
            hint=_LIMIT_HINT,
        )
    return cls(shortened(message), vendor_code=name, hint=_CODE_HINTS.get(name) or _HINTS.get(cls))


def translate_unreadable(message: str) -> e.HypervisorError:
    """The same where libvirt-python cannot read an error; see ``lost_errors.unreadable``."""
    return e.HypervisorFault(
        shortened(message), vendor_code=UNREADABLE, hint=_HINTS[e.HypervisorFault]
    )


def translate_on_live(error: libvirt.libvirtError) -> e.HypervisorError:
    """The same for a call on a connection that lives: whatever could not be reached, it was not the
    host, and the call may have done a part."""
    translated = translate(error)
    if type(translated) is not e.ConnectionFailed:
        return translated
    return e.HypervisorFault(
        translated.message,
        vendor_code=translated.vendor_code,
        hint="the daemon did not reach another program or host: its log has the details",
    )


def translate_opening(error: libvirt.libvirtError) -> e.HypervisorError:
    """The same for an error while connecting, where nothing can have been changed: a missing
    socket is an unreachable host and no missing volume."""
    translated = translate(error)
    hint = None
    if error.get_error_code() == libvirt.VIR_ERR_SYSTEM_ERROR:
        hint = _OPENING_HINTS.get(error.get_int1() or 0)
    cls = type(translated)
    if not issubclass(
        cls, e.ConnectionFailed | e.PermissionDenied | e.InvalidRequest | e.NotSupported
    ):
        cls, hint = e.ConnectionFailed, hint or ""
    elif hint is None:
        return translated
    return cls(translated.message, vendor_code=translated.vendor_code, hint=hint or None)
