"""Why a NIC could not be plugged into a bridge, where the daemon is a user's own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast
from xml.etree import ElementTree as ET

from hvdrivers.contract import errors
from hvdrivers.libvirt.network_checks import unplugged
from hvdrivers.libvirt.remote import Remote

BRIDGE = "<interface type='bridge'><source bridge='br0'/></interface>"


def _host(kind: str = "bridge") -> Remote:
    found = SimpleNamespace(XMLDesc=lambda flags: f"<interface type='{kind}' name='br0'/>")
    return cast(Remote, SimpleNamespace(interfaceLookupByName=lambda name: found))


def _failed(code: str) -> errors.HypervisorFault:
    return errors.HypervisorFault("failed to communicate with bridge helper", vendor_code=code)


def test_the_helper_may_not_or_is_not_there() -> None:
    """As libvirtd 9.0 of a user without rights answers."""
    reason = unplugged(_host(), ET.fromstring(BRIDGE), _failed("VIR_ERR_SYSTEM_ERROR/ENOTCONN"))
    assert isinstance(reason, errors.PermissionDenied)
    assert reason.vendor_code == "VIR_ERR_SYSTEM_ERROR/ENOTCONN"
    assert "bridge.conf" in (reason.hint or "")


def test_what_else_has_failed_is_as_it_was() -> None:
    user = "<interface type='user'/>"
    for xml, code in ((BRIDGE, "VIR_ERR_INTERNAL_ERROR"), (user, "VIR_ERR_SYSTEM_ERROR/ENOTCONN")):
        assert unplugged(_host(), ET.fromstring(xml), _failed(code)) is None
    no_bridge: Any = unplugged(
        _host("ethernet"), ET.fromstring(BRIDGE), _failed("VIR_ERR_SYSTEM_ERROR/ENOTCONN")
    )
    assert isinstance(no_bridge, errors.NetworkNotFound)
