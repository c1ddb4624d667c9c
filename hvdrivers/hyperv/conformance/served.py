"""Volumes of storage servers that a simulated host reaches: their logical units are files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from hvdrivers.conformance.engine.observer import NotShown
from hvdrivers.contract.capabilities import Capability
from hvdrivers.hyperv.simulator.guests.qemu import QemuGuest
from hvdrivers.hyperv.simulator.host import SimulatedHost
from hvdrivers.hyperv.simulator.state.storage import LogicalUnit
from hvdrivers.models.volume import Volume, parse_connection_info

PORTAL: Final = "192.0.2.20"
CHAP: Final = ("hvct", "hvct-secret-12")
FIBRE_PORT: Final = ("20000025b5111100", "10000025b5111100")
"""Node and port name of the Fibre Channel adapter of the host."""
FILE_SERVER: Final = "files.example.org"
_SIZE: Final = 64 << 20


def enlarge(host: SimulatedHost, path: str, size_bytes: int) -> None:
    """Make a disk of a host larger, in the QEMU of the real guest that has it open, if one has."""
    with host.world.lock:
        guests = [each.guest for each in host.state.users_of(path)]
        if not any(each.grow(path, size_bytes) for each in guests if isinstance(each, QemuGuest)):
            host.state.disks.resize(path, size_bytes)


class Server:
    """iSCSI targets, ports on the Fibre Channel and a file server, for one host.

    Args:
        folder: where the files of the units are.
    """

    def __init__(self, host: SimulatedHost, folder: Path) -> None:
        self._host = host
        self._folder = folder
        self._units: dict[str, LogicalUnit] = {}
        self._files: dict[str, str] = {}
        """Paths of volumes that are files, by the volumes' ids."""
        with host.world.lock:
            host.state.storage.hba_ports.append(FIBRE_PORT)

    @contextmanager
    def volume(self, kind: Capability) -> Iterator[Volume]:
        """A volume of this kind, which is gone afterwards."""
        if kind is Capability.VOLUME_SMBFS:
            with self._shared() as shared:
                yield shared
            return
        made = {Capability.VOLUME_ISCSI: self._iscsi, Capability.VOLUME_FC: self._fibre}.get(kind)
        if made is None:
            raise NotShown(f"the simulated host reaches no server for {kind}")
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

    @contextmanager
    def _shared(self) -> Iterator[Volume]:
        """A VHDX on a share that the sessions, which may go on to it, and the host can open."""
        state = self._host.state
        name = f"hvct-{uuid4().hex[:8]}"
        path = f"\\\\{FILE_SERVER}\\{name}\\disk.vhdx"
        folder = self._folder / name
        folder.mkdir()
        with self._host.world.lock:
            usual, state.delegation = state.delegation, True
            state.files.share(FILE_SERVER, name, folder)
            state.disks.create(path, _SIZE, "Dynamic")
            self._files[name] = path
        data = {"export": f"//{FILE_SERVER}/{name}", "name": "disk.vhdx", "format": "vhdx"}
        info = {"driver_volume_type": "smbfs", "serial": name, "data": data}
        try:
            yield parse_connection_info(info)
        finally:
            self._end_share(name, usual)

    def _end_share(self, name: str, delegation: bool) -> None:
        state = self._host.state
        with self._host.world.lock:
            path = self._files.pop(name)
            state.files.file(path).unlink(missing_ok=True)
            state.disks.forget(path)
            state.files.unshare(FILE_SERVER, name)
            state.delegation = delegation

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
        path = self._files.get(volume_id)
        if path is not None:
            enlarge(self._host, path, size_bytes)
            return True
        unit = self._units.get(volume_id)
        if unit is not None:
            unit.grow(size_bytes)
        return unit is not None
