"""The storage array that the simulator's hosts reach, over iSCSI and Fibre Channel (storage.go)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.volume import FibreChannelVolume, IscsiVolume, Volume
from tests.peers.vcsim import VcsimPeer

SIZE = 64 << 20
USER, SECRET = "hvct-chap", "hvct-chap-secret"
PORT = "50060160bb60194a"
"""A port of the array. Its number is below 2^63, as that of most; some are not."""
FAR_PORT = "d0060160bb60194b"


class VcsimArray:
    """One array."""

    def __init__(self, peer: VcsimPeer) -> None:
        self._peer = peer
        self._units: dict[str, dict[str, Any]] = {}
        self._numbers = 0

    @contextmanager
    def export(self, kind: Capability, **changes: Any) -> Iterator[Volume]:
        """A LUN; over iSCSI behind a target of its own, with CHAP, as Cinder's LIO has it."""
        name = f"hvct-{uuid4().hex[:8]}"
        self._numbers += 1
        iscsi = kind is Capability.VOLUME_ISCSI
        target = f"iqn.2010-10.org.openstack:{name}" if iscsi else FAR_PORT
        secret = {"user": USER, "secret": SECRET} if iscsi else {}
        self.add(
            name,
            **{
                "kind": "iscsi" if iscsi else "fc",
                "target": target,
                "lun": self._numbers,
                "id": f"naa.6001405{uuid4().hex[:25]}",
                "size": SIZE,
                **secret,
                **changes,
            },
        )
        try:
            yield self.volume(name)
        finally:
            self.remove(name)

    def add(self, name: str, **unit: Any) -> None:
        """Export a LUN."""
        self._units[name] = unit
        self._peer.ask("/lun", "POST", **unit)

    def remove(self, name: str) -> None:
        """Export it no more."""
        if name in self._units:
            self._peer.ask("/lun", "DELETE", id=self._units.pop(name)["id"])

    def volume(self, name: str, **data: Any) -> Volume:
        """A LUN as Cinder describes it."""
        unit = self._units[name]
        if unit["kind"] == "fc":
            data = {"target_wwn": [unit["target"]], "target_lun": unit["lun"]} | data
            return FibreChannelVolume.model_validate({"serial": name, "data": data})
        chap = {"auth_method": "CHAP", "auth_username": USER, "auth_password": SECRET}
        data = {
            "target_portal": "192.0.2.7:3260",
            "target_iqn": unit["target"],
            "target_lun": unit["lun"],
            **(chap if "user" in unit else {}),
        } | data
        return IscsiVolume.model_validate({"serial": name, "data": data})

    def unit(self, name: str) -> dict[str, Any]:
        """How a LUN is exported."""
        return self._units[name]

    def canonical(self, name: str) -> str:
        """The LUN's own name."""
        return str(self._units[name]["id"])

    def grow(self, volume_id: str, size: int) -> bool:
        """Make a LUN larger."""
        if volume_id not in self._units:
            return False
        self.add(volume_id, **{**self._units[volume_id], "size": size})
        return True
