"""Volumes of storage servers that a simulated host reaches: their logical units are files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from uuid import uuid4

from hvdrivers.conformance.engine.observer import NotShown
from hvdrivers.contract.capabilities import Capability
from hvdrivers.hyperv.simulator.host import SimulatedHost
from hvdrivers.hyperv.simulator.state.storage import LogicalUnit
from hvdrivers.models.volume import Volume, parse_connection_info

PORTAL: Final = "192.0.2.20"
CHAP: Final = ("hvct", "hvct-secret-12")
FIBRE_PORT: Final = ("20000025b5111100", "10000025b5111100")
"""Node and port name of the Fibre Channel adapter of the host."""
_SIZE: Final = 64 << 20
_WHY: Mapping[Capability, str] = MappingProxyType(
    {Capability.VOLUME_SMBFS: "the PowerShell of the simulated host reaches no file server"}
)


class Server:
    """An iSCSI target and a port on the Fibre Channel, for one host.

    Args:
        folder: where the files of the units are.
    """

    def __init__(self, host: SimulatedHost, folder: Path) -> None:
        self._host = host
        self._folder = folder
        self._units: dict[str, LogicalUnit] = {}
        with host.world.lock:
            host.state.storage.hba_ports.append(FIBRE_PORT)

    @contextmanager
    def volume(self, kind: Capability) -> Iterator[Volume]:
        """A volume of this kind, which is gone afterwards."""
        made = {Capability.VOLUME_ISCSI: self._iscsi, Capability.VOLUME_FC: self._fibre}.get(kind)
        if made is None:
            raise NotShown(_WHY.get(kind, f"the simulated host reaches no server for {kind}"))
        serial = f"hvct-{uuid4().hex[:8]}"
        file = self._folder / f"{serial}.lun"
        storage = self._host.state.storage
        with self._host.world.lock:
            info, units = made(serial, file)
            self._units[serial] = units[0]
        try:
            yield parse_connection_info({"serial": serial, **info})
        finally:
            with self._host.world.lock:
                del self._units[serial]
                units.clear()
                storage.rescan()
            file.unlink()

    def _iscsi(self, serial: str, file: Path) -> tuple[dict[str, Any], list[LogicalUnit]]:
        name = f"iqn.2026-01.org.example:{serial}"
        storage = self._host.state.storage
        target = storage.add_target(name, PORTAL, size=_SIZE, chap=CHAP, files=(file,))
        data = {
            "target_portal": f"{PORTAL}:3260",
            "target_iqn": name,
            "target_lun": target.luns[0].number,
            "auth_method": "CHAP",
            "auth_username": CHAP[0],
            "auth_password": CHAP[1],
        }
        return {"driver_volume_type": "iscsi", "data": data}, target.luns

    def _fibre(self, serial: str, file: Path) -> tuple[dict[str, Any], list[LogicalUnit]]:
        del serial
        wwn = f"50014380{uuid4().hex[:8]}"
        target = self._host.state.storage.add_fibre_target(wwn, size=_SIZE, files=(file,))
        data = {"target_wwn": [wwn], "target_lun": target.luns[0].number}
        return {"driver_volume_type": "fibre_channel", "data": data}, target.luns

    def grow(self, volume_id: str, size_bytes: int) -> bool:
        """Whether the volume is one of this server's, which is larger now."""
        unit = self._units.get(volume_id)
        if unit is not None:
            unit.grow(size_bytes)
        return unit is not None
