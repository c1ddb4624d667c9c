"""The iSCSI initiator of the host: portals, targets, sessions, and the disks that they bring.

Its error codes are those of ``iscsierr.h``, documented in
https://learn.microsoft.com/windows-hardware/drivers/storage/iscsi-status-qualifiers.
"""

import re
from collections.abc import Mapping
from uuid import uuid4

from hvdrivers.hyperv.simulator.cmdlets.call import Call, like
from hvdrivers.hyperv.simulator.cmdlets.registry import cmdlet
from hvdrivers.hyperv.simulator.cmdlets.storage import (
    cim,
    cim_error,
    need_administrator,
    not_found,
)
from hvdrivers.hyperv.simulator.errors import CmdletError
from hvdrivers.hyperv.simulator.state.host import HostState
from hvdrivers.hyperv.simulator.state.storage import IscsiSession, IscsiTarget
from hvdrivers.hyperv.simulator.wire import Thing, UInt16, UInt32

CONNECTION_FAILED = "HRESULT 0xefff0003"
"""``ISDSC_CONNECTION_FAILED``"""
AUTHENTICATION_FAILED = "HRESULT 0xefff0009"
"""``ISDSC_AUTHENTICATION_FAILURE``"""
NO_SUCH_SESSION = "HRESULT 0xefff001c"
"""``ISDSC_INVALID_SESSION_ID``"""
TARGET_NOT_FOUND = "HRESULT 0xefff0029"
"""``ISDSC_TARGET_NOT_FOUND``"""
ALREADY_CONNECTED = "HRESULT 0xefff003f"
"""``ISDSC_TARGET_ALREADY_LOGGED_IN``"""
IN_USE = "HRESULT 0xefff0040"
"""``ISDSC_DEVICE_BUSY_ON_SESSION``"""
BAD_CHAP = "HRESULT 0xefff004a"
"""``ISDSC_INVALID_CHAP_SECRET``"""


def _target_view(host: HostState, target: IscsiTarget) -> Thing:
    connected = any(s.target == target.name for s in host.storage.sessions.values())
    return cim(
        "MSFT_iSCSITarget",
        {"NodeAddress": target.name, "IsConnected": connected, "PSComputerName": None},
    )


def _session_view(host: HostState, session: IscsiSession) -> Thing:
    return cim(
        "MSFT_iSCSISession",
        {
            "SessionIdentifier": session.identifier,
            "TargetNodeAddress": session.target,
            "TargetSideIdentifier": "0100",
            "InitiatorNodeAddress": host.storage.initiator,
            "InitiatorInstanceName": "ROOT\\ISCSIPRT\\0000_0",
            "InitiatorPortalAddress": "0.0.0.0",  # noqa: S104 - what the initiator shows
            "InitiatorSideIdentifier": "400001370000",
            "IsConnected": True,
            "IsDataDigest": False,
            "IsDiscovered": True,
            "IsHeaderDigest": False,
            "IsPersistent": session.persistent,
            "NumberOfConnections": UInt32(1),
            "AuthenticationType": session.authentication,
        },
    )


def _portal_view(portal: tuple[str, int]) -> Thing:
    return cim(
        "MSFT_iSCSITargetPortal",
        {
            "TargetPortalAddress": portal[0],
            "TargetPortalPortNumber": UInt16(portal[1]),
            "InitiatorInstanceName": "",
            "InitiatorPortalAddress": "",
            "IsDataDigest": False,
            "IsHeaderDigest": False,
        },
    )


def _discover(host: HostState, portal: tuple[str, int]) -> None:
    reachable = [target for target in host.storage.network.values() if target.answers(*portal)]
    if not reachable:
        raise cim_error(CONNECTION_FAILED, "Connection Failed.")
    for target in reachable:
        host.storage.discovered[target.name] = target


@cmdlet("New-IscsiTargetPortal")
def new_portal(call: Call) -> None:
    need_administrator(call)
    portal = (call.text("TargetPortalAddress"), call.integer("TargetPortalPortNumber", 3260))
    _discover(call.host, portal)
    call.host.storage.portals[portal] = None
    call.write(_portal_view(portal))


def _portals(call: Call) -> list[tuple[str, int]]:
    portals = list(call.host.storage.portals)
    if call.has("InputObject"):
        wanted = {item["TargetPortalAddress"] for item in call.things("InputObject")}
        return [portal for portal in portals if portal[0] in wanted]
    if not call.has("TargetPortalAddress"):
        return portals
    found: list[tuple[str, int]] = []
    for address in call.texts("TargetPortalAddress"):
        port = call.integer("TargetPortalPortNumber", 0)
        match = [p for p in portals if like(p[0], address) and port in (0, p[1])]
        if not match:
            call.error(not_found("TargetPortalAddress", address))
        found.extend(match)
    return found


@cmdlet("Get-IscsiTargetPortal")
def get_portal(call: Call) -> None:
    for portal in _portals(call):
        call.write(_portal_view(portal))


@cmdlet("Update-IscsiTargetPortal")
def update_portal(call: Call) -> None:
    for portal in _portals(call):
        _discover(call.host, portal)


@cmdlet("Remove-IscsiTargetPortal")
def remove_portal(call: Call) -> None:
    need_administrator(call)
    storage = call.host.storage
    for portal in _portals(call):
        storage.portals.pop(portal, None)
        for name, target in list(storage.discovered.items()):
            connected = any(s.target == name for s in storage.sessions.values())
            known = any(target.answers(*each) for each in storage.portals)
            there = portal[0] in (target.portal, *target.further) and portal[1] == target.port
            if there and not known and not connected:
                del storage.discovered[name]


def _targets(call: Call) -> list[IscsiTarget]:
    storage = call.host.storage
    every = list(storage.discovered.values())
    if call.has("InputObject"):
        wanted = {item["NodeAddress"] for item in call.things("InputObject")}
        return [target for target in every if target.name in wanted]
    for item in call.things("IscsiSession"):
        return [target for target in every if target.name == item.get("TargetNodeAddress")]
    if not call.has("NodeAddress"):
        return every
    found: list[IscsiTarget] = []
    for address in call.texts("NodeAddress"):
        match = [target for target in every if like(target.name, address)]
        if not match:
            call.error(not_found("NodeAddress", address))
        found.extend(match)
    return found


@cmdlet("Get-IscsiTarget")
def get_target(call: Call) -> None:
    for target in _targets(call):
        call.write(_target_view(call.host, target))


@cmdlet("Update-IscsiTarget")
def update_target(call: Call) -> None:
    for portal in call.host.storage.portals:
        _discover(call.host, portal)


@cmdlet("Connect-IscsiTarget")
def connect(call: Call) -> None:
    need_administrator(call)
    host = call.host
    storage = host.storage
    for name in call.texts("NodeAddress") or [t["NodeAddress"] for t in call.things("InputObject")]:
        target = _known(storage.discovered, name)
        if target is None:
            raise cim_error(
                TARGET_NOT_FOUND, "The target name is not found or is marked as hidden."
            )
        portal = call.text("TargetPortalAddress", target.portal)
        if not target.answers(portal, call.integer("TargetPortalPortNumber", target.port)):
            raise cim_error(CONNECTION_FAILED, "Connection Failed.")
        _authenticate(call, target)
        multipath = call.flag("IsMultipathEnabled")
        if not multipath and any(s.target == target.name for s in storage.sessions.values()):
            raise cim_error(
                ALREADY_CONNECTED, "The target has already been logged in via an iSCSI session."
            )
        session = IscsiSession(
            f"{uuid4().hex[:16]}-{uuid4().hex[:16]}",
            target.name,
            portal,
            target.port,
            call.flag("IsPersistent"),
            multipath,
            call.text("AuthenticationType", "NONE"),
        )
        storage.sessions[session.identifier] = session
        storage.rescan()
        call.write(_session_view(host, session))


def _known(targets: Mapping[str, IscsiTarget], name: str) -> IscsiTarget | None:
    """Names of targets are compared without case."""
    return next((each for each in targets.values() if each.name.lower() == name.lower()), None)


def _authenticate(call: Call, target: IscsiTarget) -> None:
    kind = call.text("AuthenticationType", "NONE").upper()
    if kind not in ("NONE", "ONEWAYCHAP", "MUTUALCHAP"):
        raise cim_error("HRESULT 0x80070057", "The parameter is incorrect.")
    given = (call.text("ChapUsername"), call.text("ChapSecret"))
    if kind != "NONE" and not 12 <= len(given[1]) <= 16:
        raise cim_error(BAD_CHAP, "The CHAP secret must be 12 to 16 characters long.")
    if (target.chap is not None and (kind == "NONE" or given != target.chap)) or (
        target.chap is None and kind != "NONE"
    ):
        raise cim_error(AUTHENTICATION_FAILED, "Authentication Failure.")


@cmdlet("Get-MSDSMAutomaticClaimSettings")
def claims(call: Call) -> None:
    need_administrator(call)
    storage = call.host.storage
    if not storage.multipath_feature:
        raise CmdletError(
            "CommandNotFoundException",
            "ObjectNotFound",
            "object-not-found",
            terminating=True,
            name=call.cmdlet,
        )
    call.write(Thing((), {"iSCSI": storage.multipath, "SAS": False}))


@cmdlet("Get-IscsiSession")
def get_session(call: Call) -> None:
    for session in _sessions(call):
        call.write(_session_view(call.host, session))


def _sessions(call: Call) -> list[IscsiSession]:
    storage = call.host.storage
    every = list(storage.sessions.values())
    if call.has("InputObject"):
        wanted = {item["SessionIdentifier"] for item in call.things("InputObject")}
        return [s for s in every if s.identifier in wanted]
    for item in call.things("IscsiTarget"):
        every = [s for s in every if s.target == item.get("NodeAddress")]
    for item in call.things("Disk"):
        unique = item.get("UniqueId")
        holders = {d.session for d in storage.disks.values() if d.unique_id == unique}
        every = [s for s in every if s.identifier in holders]
    for identifier in call.texts("SessionIdentifier"):
        every = [s for s in every if s.identifier == identifier]
        if not every:
            call.error(not_found("SessionIdentifier", identifier))
    return every


@cmdlet("Get-IscsiConnection")
def get_connection(call: Call) -> None:
    for session in call.host.storage.sessions.values():
        items = call.things("IscsiSession")
        if items and items[0].get("SessionIdentifier") != session.identifier:
            continue
        call.write(
            cim(
                "MSFT_iSCSIConnection",
                {
                    "ConnectionIdentifier": f"{session.identifier}-0",
                    "TargetAddress": session.portal,
                    "TargetPortNumber": UInt16(session.port),
                    "InitiatorAddress": "10.0.0.1",
                    "InitiatorPortNumber": UInt16(50000),
                },
            )
        )


@cmdlet("Disconnect-IscsiTarget")
def disconnect(call: Call) -> None:
    need_administrator(call)
    storage = call.host.storage
    names = call.texts("NodeAddress") or [t["NodeAddress"] for t in call.things("InputObject")]
    every = list(storage.sessions.values())
    wanted = {each.lower() for each in names}
    doomed = [s for s in every if not names or s.target.lower() in wanted]
    for identifier in call.texts("SessionIdentifier"):
        doomed = [s for s in doomed if s.identifier == identifier]
    if names and not doomed:
        raise cim_error(NO_SUCH_SESSION, "The specified session id is not valid.")
    for session in doomed:
        end_session(call.host, session)


def end_session(host: HostState, session: IscsiSession) -> None:
    """Log out. The disks that no other session brings go away; one in use forbids it."""
    storage = host.storage
    others = [
        s for s in storage.sessions.values() if s.target == session.target and s is not session
    ]
    mine = [disk for disk in storage.disks.values() if disk.session == session.identifier]
    if others and storage.multipath:
        for disk in mine:
            disk.session = others[0].identifier
    else:
        numbers = {disk.number for disk in mine}
        for machine in host.machines.values():
            if machine.on and any(d.disk_number in numbers for d in machine.config.drives):
                raise cim_error(
                    IN_USE, "The session cannot be logged out since a device is in use."
                )
        for number in numbers:
            del storage.disks[number]
    del storage.sessions[session.identifier]


@cmdlet("Register-IscsiSession", "Unregister-IscsiSession")
def persist(call: Call) -> None:
    need_administrator(call)
    for session in _sessions(call):
        session.persistent = call.cmdlet.startswith("Register")


@cmdlet("Set-IscsiChapSecret")
def set_secret(call: Call) -> None:
    if not re.fullmatch(".{12,16}", call.text("ChapSecret")):
        raise cim_error(BAD_CHAP, "The CHAP secret must be 12 to 16 characters long.")
