"""Export-VM, Import-VM and Compare-VM: a machine as files.

The configuration file holds a number of an in-memory record: simulated hosts of one process can
import what another one exported. The disks are real files.
"""

import copy
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

from hvdrivers.hyperv.simulator.cmdlets import views
from hvdrivers.hyperv.simulator.cmdlets.call import Call
from hvdrivers.hyperv.simulator.cmdlets.compatibility import write_report
from hvdrivers.hyperv.simulator.cmdlets.machinefiles import write_files
from hvdrivers.hyperv.simulator.cmdlets.migration import compare_move
from hvdrivers.hyperv.simulator.cmdlets.registry import cmdlet
from hvdrivers.hyperv.simulator.errors import failed, file_error, invalid_parameter, invalid_state
from hvdrivers.hyperv.simulator.state.devices import Config
from hvdrivers.hyperv.simulator.state.files import folder_of, join, name_of
from hvdrivers.hyperv.simulator.state.host import HostState
from hvdrivers.hyperv.simulator.state.machine import Checkpoint, Machine


@dataclass
class Exported:
    """A machine as its configuration file tells it. Disk paths are as they were in the export."""

    id: UUID
    config: Config
    path: str
    checkpoints: dict[UUID, Checkpoint] = field(default_factory=dict)
    parent: UUID | None = None
    saved: object = None
    state: str = "Off"


def _copy_file(host: HostState, source: str, target: str) -> None:
    """A real VHDX or VHD of what may be qcow2 inside; a differencing disk keeps its parent."""
    disk = host.disks.look(source)
    host.files.file(folder_of(target)).mkdir(parents=True, exist_ok=True)
    if disk.parent is None:
        host.disks.convert(source, target, disk.kind)
    else:
        file, new = host.files.file(source), host.files.file(target)
        if new.exists():
            raise file_error("file-exists", target)
        shutil.copyfile(file, new)


def export(host: HostState, machine: Machine, folder: str, config: Config) -> Path:
    """Write a machine below ``folder\\name``; the file that Import-VM takes."""
    home = join(folder, machine.name)
    if host.files.file(home).exists():
        raise file_error("file-exists", home)
    told = Exported(machine.id, copy.deepcopy(config), home)
    moved: dict[str, str] = {}
    paths = [drive.path for drive in told.config.drives if drive.path]
    if config is machine.config:
        told.checkpoints = copy.deepcopy(machine.checkpoints)
        told.parent, told.saved, told.state = machine.current_parent, machine.saved, machine.state
        paths = sorted(machine.disk_paths())
    if told.state not in ("Off", "Saved"):
        told.state = "Off"
    host.pause(host.timing.export)
    chain: list[str] = []
    for path in paths:
        for each in reversed(host.disks.chain(path)):
            if each not in chain:
                chain.append(each)
    for each in chain:
        moved[each] = join(home, "Virtual Hard Disks", name_of(each))
        _copy_file(host, each, moved[each])
        parent = host.disks.look(each).parent
        if parent is not None:
            host.disks.rebase(moved[each], moved[parent])
    for each_config in (told.config, *(point.config for point in told.checkpoints.values())):
        for drive in each_config.drives:
            drive.path = moved.get(drive.path, drive.path)
    identity = str(machine.id).upper()
    file = host.files.file(join(home, "Virtual Machines", f"{identity}.vmcx"))
    file.parent.mkdir(parents=True, exist_ok=True)
    host.exported[str(uuid4())] = told
    number = next(reversed(host.exported))
    file.write_text(f"simulated {number}\n", "utf-8")
    file.with_suffix(".vmrs").write_bytes(b"simulated\n")
    host.files.file(join(home, "Snapshots")).mkdir(exist_ok=True)
    return file


@cmdlet("Export-VM")
def export_vm(call: Call) -> None:
    for machine in call.machines("Name"):
        if machine.busy:
            raise invalid_state(machine.name)
        machine.busy = "Export"
        try:
            file = export(call.host, machine, call.text("Path"), machine.config)
        finally:
            machine.busy = None
        if call.flag("Passthru"):
            call.write(call.host.files.windows(file))


@cmdlet("Export-VMSnapshot")
def export_snapshot(call: Call) -> None:
    from hvdrivers.hyperv.simulator.cmdlets.checkpoints import chosen_checkpoints

    for machine, point in chosen_checkpoints(call):
        export(call.host, machine, call.text("Path"), point.config)


def _read(call: Call, path: str) -> Exported:
    host = call.host
    file = host.files.file(path)
    if not file.is_file():
        raise file_error("file-not-found", path)
    words = file.read_text("utf-8", "replace").split()
    if len(words) != 2 or words[0] != "simulated":
        raise failed("The configuration file is not valid.", hresult=0x80070570, target=path)
    for peer in (host, *host.peers.values()):
        if words[1] in peer.exported:
            found: Exported = copy.deepcopy(peer.exported[words[1]])  # type: ignore[assignment]
            return found
    raise failed("The configuration file is not valid.", hresult=0x80070570, target=path)


def _incompatible(call: Call, told: Exported) -> list[tuple[str, int, str, str]]:
    host = call.host
    reasons = [
        (f"Could not find Ethernet switch '{nic.switch}'.", 33012, "VMNetworkAdapter", nic.name)
        for nic in told.config.adapters
        if nic.switch is not None and nic.switch not in host.switches
    ]
    if told.config.processor.count > host.hardware.processors:
        text = "The number of processors exceeds that of the host."
        reasons.append((text, 0, "VMProcessor", ""))
    return reasons


@cmdlet("Compare-VM")
def compare(call: Call) -> None:
    if not call.has("Path"):
        compare_move(call)
        return
    told = _read(call, call.text("Path"))
    write_report(call, told.id, told.config.name, _incompatible(call, told))


@cmdlet("Import-VM")
def import_vm(call: Call) -> None:
    host = call.host
    if call.has("CompatibilityReport"):
        raise invalid_parameter("CompatibilityReport", "The simulated host takes paths only.")
    told = _read(call, call.text("Path"))
    reasons = _incompatible(call, told)
    if reasons:
        raise failed(" ".join(text for text, *_ in reasons), target=told.config.name)
    identity = uuid4() if call.flag("GenerateNewId") else told.id
    if identity in host.machines:
        raise failed("A machine with this id exists already.", hresult=0x80070050)
    source = folder_of(folder_of(call.text("Path")))
    configs = [told.config, *(point.config for point in told.checkpoints.values())]
    machine = Machine(host=host, config=told.config, path=source, id=identity)
    if call.flag("Copy"):
        machine.path = call.text("VirtualMachinePath") or host.settings.machine_path
        target = call.text("VhdDestinationPath") or host.settings.vhd_path
        _bring(host, configs, target)
        if call.flag("GenerateNewId"):
            for nic in told.config.adapters:
                if nic.dynamic_mac:
                    nic.mac = "0" * 12
    machine.checkpoints, machine.current_parent = told.checkpoints, told.parent
    machine.saved = told.saved
    machine.state = told.state
    if call.flag("Copy"):
        write_files(machine)
    host.machines[identity] = machine
    host.record("created", machine)
    call.write(views.machine(machine))


def _bring(host: HostState, configs: list[Config], target: str) -> None:
    moved: dict[str, str] = {}
    for config in configs:
        for drive in config.drives:
            for each in reversed(host.disks.chain(drive.path)) if drive.path else []:
                if each in moved:
                    continue
                moved[each] = join(target, name_of(each))
                _copy_file(host, each, moved[each])
                parent = host.disks.look(each).parent
                if parent is not None:
                    host.disks.rebase(moved[each], moved[parent])
    for config in configs:
        for drive in config.drives:
            drive.path = moved.get(drive.path, drive.path)
