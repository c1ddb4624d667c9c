"""The files in which Hyper-V keeps a machine and its checkpoints, below the machine's path."""

from pathlib import Path

from hvdrivers.hyperv.simulator.state.files import join
from hvdrivers.hyperv.simulator.state.machine import Checkpoint, Machine

_CONTENT = b"simulated\n"


def _machine_files(machine: Machine) -> list[Path]:
    stem = join(machine.path, "Virtual Machines", str(machine.id).upper())
    return [machine.host.files.file(stem + suffix) for suffix in (".vmcx", ".vmrs", ".vmgs")]


def _checkpoint_files(machine: Machine, point: Checkpoint) -> list[Path]:
    folder = machine.config.snapshot_path or machine.path
    stem = join(folder, "Snapshots", str(point.id).upper())
    return [machine.host.files.file(stem + suffix) for suffix in (".vmcx", ".vmrs")]


def _write(files: list[Path]) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(_CONTENT)


def write_files(machine: Machine) -> None:
    """Write the files of a machine and of its checkpoints."""
    _write(_machine_files(machine)[:2])
    for point in machine.checkpoints.values():
        _write(_checkpoint_files(machine, point))


def write_checkpoint(machine: Machine, point: Checkpoint) -> None:
    """Write the files of a checkpoint."""
    _write(_checkpoint_files(machine, point))


def remove_files(machine: Machine) -> None:
    """Remove the files of a machine and of its checkpoints; disks and folders stay."""
    for file in _machine_files(machine):
        file.unlink(missing_ok=True)
    for point in machine.checkpoints.values():
        remove_checkpoint(machine, point)


def remove_checkpoint(machine: Machine, point: Checkpoint) -> None:
    """Remove the files of a checkpoint."""
    for file in _checkpoint_files(machine, point):
        file.unlink(missing_ok=True)
