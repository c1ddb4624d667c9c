"""Looks at a simulated host past the driver: its state in Python and the files of its drive.

Nothing of the driver's scripts is used. What is shared with the driver are facts of the host: how
its folders are named, and how a record's lines begin.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from io import BytesIO
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote
from uuid import UUID

from hvdrivers.conformance.engine.observer import Observer
from hvdrivers.conformance.engine.residue import numbered
from hvdrivers.contract.capabilities import Capability
from hvdrivers.hyperv.naming import volume_name
from hvdrivers.hyperv.simulator.host import SimulatedHost
from hvdrivers.hyperv.simulator.state.machine import Machine
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import Bandwidth, VifQos

ROOT: Final = "C:\\hvct"
"""The driver's folder in the suite."""
_CHECKPOINT: Final = re.compile(r"(Snapshots/|_)[0-9A-F-]{36}(\.\w+)")
_STATES: Final = {
    "Off": InstanceState.STOPPED,
    "Saved": InstanceState.SUSPENDED,
    "Paused": InstanceState.PAUSED,
}


class HypervObserver(Observer):
    """The state server's tables, and the folder of the driver."""

    def __init__(self, host: SimulatedHost) -> None:
        self._host = host
        self._folder = host.drive / "hvct"
        self._second = host.drive / "hvct-second"

    def _owners(self) -> dict[UUID, UUID]:
        """UUID by VM Id."""
        found = {}
        for entry in self._folder.glob("index/*.vm"):
            uuid, machine, _ = entry.name.split(".")
            found[UUID(machine)] = UUID(uuid)
        return found

    def machine(self, uuid: UUID) -> Machine:
        """The machine of an instance, or the one with this Id."""
        ids = {owner: machine for machine, owner in self._owners().items()}
        return self._host.state.machines[ids.get(uuid, uuid)]

    def states(self) -> dict[UUID, InstanceState]:
        owners = self._owners()
        with self._host.world.lock:
            return {
                owners[each.id]: self._state(each, owners[each.id])
                for each in self._host.state.machines.values()
                if each.id in owners
            }

    def _state(self, machine: Machine, uuid: UUID | None) -> InstanceState:
        state = _STATES.get(machine.state, InstanceState.RUNNING)
        rescued = uuid is not None and (self._folder / "index" / f"{uuid}.rescue").exists()
        if rescued and state is InstanceState.RUNNING:
            return InstanceState.RESCUED
        return state

    def residue(self) -> frozenset[str]:
        owners = self._owners()
        found: set[str] = set()
        files: list[str] = []
        # what says that a machine is ours: the line of the machine tells it
        booked = {
            name
            for machine, uuid in owners.items()
            if machine in self._host.state.machines
            for name in (
                f"index/{uuid}.claim",
                f"index/{uuid}.{machine}.vm",
                f"instances/{uuid}/record",
            )
        }
        with self._host.world.lock:
            for machine in self._host.state.machines.values():
                owner = owners.get(machine.id)
                # a machine of others keeps its Id; that of an instance differs at each attempt
                who = str(owner or machine.id)
                # a guest that was asked to stop may still do so: the contract calls it RUNNING
                state = self._state(machine, owner)
                ours = "of ours " if owner is not None else ""
                found.add(f"machine {ours}{who}: {machine.name}, {state}")
                found |= {f"nic {nic.name} of {who}" for nic in machine.config.adapters}
                found |= {
                    f"drive {self._stable(drive.path)} of {who}"
                    for drive in machine.config.drives
                    # a disk of the instance's own is a file, and counted as one
                    if drive.path and f"\\{who}\\" not in drive.path.lower()
                }
                found |= {
                    f"disk {drive.disk_unique_id} of {who}"
                    for drive in machine.config.drives
                    if drive.disk_number is not None
                }
                found |= {
                    f"snapshot {point.name} of {who}" for point in machine.checkpoints.values()
                }
            found |= {
                f"device {each.location_path}: owner {each.owner and owners.get(each.owner)}"
                f"{', dismounted' if each.dismounted else ''}"
                for each in self._host.state.hardware.devices
            }
            storage = self._host.state.storage
            found |= {f"iSCSI session to {each.target}" for each in storage.sessions.values()}
            found |= {f"iSCSI portal {address}" for address, _ in storage.portals}
        for entry in self._folder.rglob("*"):
            path = entry.relative_to(self._folder)
            if path.parts[0] in {"images", "locks"} or entry.is_dir():
                continue
            if str(path) in booked or self._of_devices(path.name, booked):
                continue
            files.append(self._stable(str(path), owners))
        files += [
            self._stable(f"second/{entry.relative_to(self._second)}", owners)
            for entry in self._second.glob("*/*")
        ]
        # the host names files of checkpoints by Ids that differ from one attempt to the next
        found |= set(numbered(f"file {name}" for name in files))
        locks = {entry.name for entry in self._folder.glob("locks/*")}
        found |= {
            f"lock {name}"
            for name in locks
            if not (self._folder / "index" / f"{name}.claim").exists()
        }
        return frozenset(found)

    @staticmethod
    def _of_devices(name: str, booked: Set[str]) -> bool:
        """Whether it is the list of devices that came and went, of an instance that is there."""
        uuid, _, rest = name.partition(".")
        return rest.endswith(".devices") and f"index/{uuid}.claim" in booked

    @staticmethod
    def _stable(path: str, owners: Mapping[UUID, UUID] | None = None) -> str:
        """A path without Hyper-V's own identifiers, which differ from one attempt to the next."""
        for machine, uuid in (owners or {}).items():
            path = path.replace(f"{uuid}.{machine}.vm", f"{uuid}.(machine).vm")
            path = path.replace(str(machine).upper(), "(machine)")
        return _CHECKPOINT.sub(r"\1(checkpoint)\2", path)

    def _record(self, uuid: UUID) -> list[list[str]]:
        text = (self._folder / "instances" / str(uuid) / "record").read_text()
        return [line.split(" ", 3) for line in text.splitlines()]

    def volumes(self, uuid: UUID) -> dict[str, Any]:
        """The drives that are volumes, by volume id."""
        record = self._record(uuid)
        drives = {drive.path.lower(): drive for drive in self.machine(uuid).config.drives}
        places = {
            f"{drive.slot.bus} {drive.slot.controller} {drive.slot.location}": drive
            for drive in self.machine(uuid).config.drives
            if drive.disk_number is not None
        }
        disks = {
            line[1]: places[line[3]] for line in record if line[0] == "disk" and line[3] in places
        }
        found = {
            line[1]: disks.get(line[1]) or drives.get(unquote(line[2]).lower())
            for line in record
            if line[0] == "volume"
        }
        return {unquote(name): drive for name, drive in found.items() if drive is not None}

    def _nics(self, uuid: UUID) -> dict[str, Any]:
        adapters = {adapter.name: adapter for adapter in self.machine(uuid).config.adapters}
        return {
            unquote(line[1]): adapters[unquote(line[1])]
            for line in self._record(uuid)
            if line[0] == "nic" and unquote(line[1]) in adapters
        }

    def devices(self, uuid: UUID) -> frozenset[str]:
        with self._host.world.lock:
            return frozenset(self.volumes(uuid)) | frozenset(self._nics(uuid))

    def disk_limits(self, uuid: UUID) -> Mapping[str, Mapping[str, int]]:
        with self._host.world.lock:
            return {
                name: {"total_iops_sec": drive.maximum_iops} if drive.maximum_iops else {}
                for name, drive in self.volumes(uuid).items()
            }

    def vif_limits(self, uuid: UUID) -> Mapping[str, VifQos | None]:
        with self._host.world.lock:
            return {
                name: VifQos(outbound=Bandwidth(average=nic.maximum_bandwidth // 1000))
                if nic.maximum_bandwidth
                else None
                for name, nic in self._nics(uuid).items()
            }

    def options(self, uuid: UUID) -> Mapping[str, Mapping[str, object]]:
        with self._host.world.lock:
            disks: dict[str, Mapping[str, object]] = {
                name: {"bus": drive.slot.bus.lower()} for name, drive in self.volumes(uuid).items()
            }
            return disks | {
                name: {
                    "vlan": nic.vlan.access or None,
                    "active": nic.switch is not None,
                    "model": "netvsc",
                    "sriov": nic.iov_weight > 0,
                }
                for name, nic in self._nics(uuid).items()
            }

    def fittings(self, uuid: UUID) -> frozenset[Capability]:
        with self._host.world.lock:
            config = self.machine(uuid).config
            uefi = config.generation == 2
            found = {
                Capability.UEFI: uefi,
                Capability.SECURE_BOOT: uefi and config.firmware.secure_boot,
                Capability.VTPM: config.tpm,
            }
        return frozenset(each for each, there in found.items() if there)

    def own_disks(self, uuid: UUID) -> list[int]:
        folder = f"\\{uuid}\\"
        # those that an adopted machine had
        had = {unquote(line[1]).lower() for line in self._record(uuid) if line[0] == "own"}
        with self._host.world.lock:
            paths = [drive.path for drive in self.machine(uuid).config.drives]
            disks = self._host.state.disks
            return [
                disks.look(path).size
                for path in paths
                if folder in path.lower() or path.lower() in had
            ]

    def kept(self, uuid: UUID) -> frozenset[str]:
        disks = (self._folder / "instances" / str(uuid)).glob("*.*")
        images = list((self._folder / "images").glob("*.vhdx"))
        return frozenset(
            {f"{ROOT}\\instances\\{uuid}\\{each.name}" for each in disks}
            | {f"{ROOT}\\images\\{each.name}" for each in images}
            | {each.stem for each in images}
        )

    def seed(self, uuid: UUID) -> Mapping[str, bytes]:
        import pycdlib

        files: dict[str, bytes] = {}
        with self._host.world.lock:
            discs = [disc.path for disc in self.machine(uuid).config.dvds if disc.path]
            found = [self._host.state.files.file(path) for path in discs]
        for file in found:
            iso: Any = pycdlib.PyCdlib()
            iso.open_fp(BytesIO(Path(file).read_bytes()))
            for folder, _, names in iso.walk(rr_path="/"):
                for name in names:
                    path, data = f"{folder.rstrip('/')}/{name}", BytesIO()
                    iso.get_file_from_iso_fp(data, rr_path=path)
                    files[path.lstrip("/")] = data.getvalue()
            iso.close()
        return files

    def seed_disc(self, uuid: UUID) -> bytes:
        with self._host.world.lock:
            discs = [disc.path for disc in self.machine(uuid).config.dvds if disc.path]
            files = [self._host.state.files.file(path) for path in discs]
        return files[0].read_bytes() if files else b""

    def read_only(self, uuid: UUID) -> frozenset[str]:
        return frozenset()

    def foreign(self) -> Mapping[UUID, tuple[str, InstanceState]]:
        owners = self._owners()
        with self._host.world.lock:
            return {
                each.id: (each.name, self._state(each, None))
                for each in self._host.state.machines.values()
                if each.id not in owners
            }

    def power_off(self, uuid: UUID) -> None:
        with self._host.world.lock:
            ids = {owner: machine for machine, owner in self._owners().items()}
            machine = self._host.state.machines[ids.get(uuid, uuid)]
            if machine.guest is not None:
                machine.guest.power_off()
                machine.guest = None
            machine.set_state("Off")
            self._host.state.record("turned-off", machine)

    def volume_files(self) -> dict[str, Path]:
        """The files of the default pool, by the volume's name."""
        return {
            name: entry
            for entry in self._folder.glob("volumes/*.vhdx")
            if (name := volume_name(entry.name)) is not None
        }
