"""The disks of a QEMU process: which nodes it has, plugging, layers, commits."""

from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

from hvdrivers.hyperv.simulator.errors import failed
from hvdrivers.hyperv.simulator.guests.qmp import Qmp, QmpError
from hvdrivers.hyperv.simulator.state.devices import DvdDrive, HardDrive
from hvdrivers.hyperv.simulator.state.files import normal
from hvdrivers.hyperv.simulator.state.machine import Machine
from hvdrivers.hyperv.simulator.state.vhd import image_format

_SECONDS = 60.0


def comma(path: Path) -> str:
    """A path in an option of QEMU's, where a comma is written twice."""
    return str(path).replace(",", ",,")


def buses(machine: Machine) -> list[str]:
    """One SCSI bus for each controller that the machine has."""
    ide = ["ide0", "ide1"] if machine.config.generation == 1 else []
    return ide + [f"scsi{number}" for number in range(machine.config.scsi)]


@dataclass
class Plugged:
    """A drive that QEMU has."""

    device: str
    node: str
    path: str


class Blocks:
    """The drives of one QEMU process, by the id of the machine's drive."""

    def __init__(self, qmp: Qmp, machine: Machine) -> None:
        self._qmp = qmp
        self._machine = machine
        self._plugged: dict[UUID, Plugged] = {}

    def plug_all(self) -> None:
        """Give a process that does not run yet its drives, with the order in which they boot."""
        for place, drive in enumerate(_boot_order(self._machine), 1):
            self._plug(drive, place)

    def reconcile(self) -> None:
        """Follow the machine's configuration: plug, unplug, change media."""
        wanted = {drive.id: drive for drive in self._machine.config.all_drives()}
        for identity in [each for each in self._plugged if each not in wanted]:
            self._unplug(identity)
        for identity, drive in wanted.items():
            have = self._plugged.get(identity)
            if have is None:
                self._plug(drive, None)
            elif have.path != drive.path and isinstance(drive, DvdDrive):
                self._change_medium(have, drive)

    def _file(self, path: str) -> Path:
        return self._machine.host.files.file(path)

    def _node(self, path: str, *, read_only: bool = False, backing: bool = True) -> str:
        if not read_only and backing:
            self._machine.host.disks.make_inner(path)
        file = self._file(path)
        name = f"n{uuid4().hex[:24]}"
        kind = image_format(file) or "raw"
        options: dict[str, object] = {
            "driver": kind,
            "node-name": name,
            "read-only": read_only,
            "file": {"driver": "file", "filename": str(file), "read-only": read_only},
        }
        if kind == "qcow2" and not backing:
            options["backing"] = None
        if kind == "vpc":
            options["force-size-calc"] = "current_size"
        self._qmp("blockdev-add", **options)
        return name

    def _plug(self, drive: HardDrive | DvdDrive, place: int | None) -> None:
        slot = drive.slot
        device = f"d{drive.id.hex[:24]}"
        optical = isinstance(drive, DvdDrive)
        node = ""
        if drive.path:
            node = self._node(drive.path, read_only=optical)
        elif not optical:
            return  # a physical disk of the simulated host has no data
        options: dict[str, object] = {
            "driver": "scsi-cd" if optical else "scsi-hd",
            "id": device,
            "bus": f"{slot.bus.lower()}{slot.controller}.0",
            "scsi-id": slot.location,
            "lun": 0,
        }
        if node:
            options["drive"] = node
        if not optical:
            options["serial"] = drive.id.hex[:20]
        if place is not None:
            options["bootindex"] = place
        try:
            self._qmp("device_add", **options)
        except QmpError:
            if node:
                self._qmp("blockdev-del", node_name=node)
            raise
        self._plugged[drive.id] = Plugged(device, node, drive.path)

    def _unplug(self, identity: UUID) -> None:
        have = self._plugged.pop(identity)
        self._qmp("device_del", id=have.device)
        self._qmp.wait_event("DEVICE_DELETED", lambda d: d.get("device") == have.device, _SECONDS)
        if have.node:
            self._qmp("blockdev-del", node_name=have.node)

    def _change_medium(self, have: Plugged, drive: DvdDrive) -> None:
        self._qmp("blockdev-open-tray", id=have.device, force=True)
        if have.node:
            self._qmp("blockdev-remove-medium", id=have.device)
            self._qmp("blockdev-del", node_name=have.node)
        have.node, have.path = "", drive.path
        if drive.path:
            have.node = self._node(drive.path, read_only=True)
            self._qmp("blockdev-insert-medium", id=have.device, node_name=have.node)
        self._qmp("blockdev-close-tray", id=have.device)

    def _with(self, path: str) -> Plugged | None:
        key = normal(path)
        return next((each for each in self._plugged.values() if normal(each.path) == key), None)

    def layered(self, below: dict[str, str]) -> None:
        """Write into the new layers from now on."""
        for old, new in below.items():
            have = self._with(old)
            if have is None:
                continue
            node = self._node(new, backing=False)
            self._qmp("blockdev-snapshot", node=have.node, overlay=node)
            have.node, have.path = node, new

    def commit(self, child: str, layer: str) -> None:
        """Commit ``child`` into ``layer``, which lies right below it."""
        top = self._with(child)
        child_file, layer_file = str(self._file(child)), str(self._file(layer))
        holder = top or next(iter(self._plugged.values()), None)
        if holder is None:
            raise failed("No disk is open.", target=self._machine.name)
        nodes = self._nodes()
        for each in self._plugged.values():
            if each.node and self._below(each.node, child_file):
                holder = each
        job = f"j{uuid4().hex[:20]}"
        self._qmp(
            "block-commit", job_id=job, device=holder.node, top_node=nodes[child_file],
            base_node=nodes[layer_file], auto_dismiss=True,
        )  # fmt: skip
        if top is not None:
            ready = self._qmp.wait_event(
                "BLOCK_JOB_READY", lambda d: d.get("device") == job, _SECONDS
            )
            if ready:
                self._qmp("block-job-complete", device=job)
        done = self._qmp.wait_event(
            "BLOCK_JOB_COMPLETED", lambda d: d.get("device") == job and "error" not in d, _SECONDS
        )
        if not done:
            raise failed("The disks could not be merged.", target=self._machine.name)
        if top is not None:
            self._qmp("blockdev-del", node_name=top.node)
            top.node, top.path = nodes[layer_file], layer

    def _nodes(self) -> dict[str, str]:
        """Name of the format node of each open file."""
        found: dict[str, str] = {}
        answer = self._qmp("query-named-block-nodes", flat=True)
        for each in answer if isinstance(answer, list) else []:
            if each["drv"] != "file":
                found[str(each["file"])] = str(each["node-name"])
        return found

    def _below(self, node: str, file: str) -> bool:
        """Whether a file is part of the chain under a node."""
        answer = self._qmp("query-named-block-nodes")
        for each in answer if isinstance(answer, list) else []:
            if each["node-name"] == node:
                image = each["image"]
                while image is not None:
                    if image["filename"] == file:
                        return True
                    image = image.get("backing-image")
        return False

    def grow(self, path: str, size: int) -> bool:
        """Change the size of a disk; whether this process has it open."""
        have = self._with(path)
        if have is None:
            return False
        try:
            self._qmp("block_resize", node_name=have.node, size=size)
        except QmpError as error:
            raise failed(str(error), target=path) from error
        return True


def _boot_order(machine: Machine) -> list[HardDrive | DvdDrive]:
    config = machine.config
    drives = config.all_drives()
    if config.generation == 2:
        order = config.firmware.order
        return sorted(drives, key=lambda d: order.index(d.id) if d.id in order else len(order))
    kinds = {name: place for place, name in enumerate(config.firmware.startup)}

    def key(drive: HardDrive | DvdDrive) -> tuple[int, int, int]:
        kind = "CD" if isinstance(drive, DvdDrive) else "IDE"
        slot = drive.slot
        late = 0 if slot.bus == "IDE" else 10
        return kinds.get(kind, 9) + late, slot.controller, slot.location

    return sorted(drives, key=key)
