"""What the suite writes to a disk as if a guest did: texts at a fixed place, by qemu-io."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.hyperv.simulator.state.vhd import image_format

_MARKS: Final = 512 << 10
"""Where they are: bytes from the start of the disk."""
_SLOT: Final = 512
_SLOTS: Final = 16


def write(file: Path, text: str) -> None:
    """Put a text behind those that are there."""
    place = _MARKS + _SLOT * len(read(file))
    with TemporaryDirectory(prefix="hvct-") as folder:
        source = Path(folder) / "mark"
        source.write_bytes(text.encode().ljust(_SLOT, b"\0"))
        _qemu_io(file, f"write -s {source} {place} {_SLOT}")


def read(file: Path) -> list[str]:
    """The texts on a disk, oldest first."""
    out = _qemu_io(file, f"read -v {_MARKS} {_SLOT * _SLOTS}")
    data = b"".join(
        bytes.fromhex(line.partition(":")[2][:50].replace(" ", ""))
        for line in out.splitlines()
        if ":" in line[:20] and line[:8].strip().isalnum()
    )
    slots = [data[place : place + _SLOT] for place in range(0, len(data), _SLOT)]
    return [slot.rstrip(b"\0").decode() for slot in slots if slot.strip(b"\0")]


def _qemu_io(file: Path, command: str) -> str:
    program = shutil.which("qemu-io")
    if program is None:
        raise PreconditionMissing("no qemu-io on this machine")
    arguments = [program, "-r", "-U", "-f", image_format(file) or "raw", "-c", command, str(file)]
    if command.startswith("write"):
        arguments = [each for each in arguments if each not in {"-r", "-U"}]
    return subprocess.run(  # noqa: S603 - a fixed program, and no shell
        arguments, check=True, capture_output=True, text=True
    ).stdout
