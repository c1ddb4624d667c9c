"""Virtual hard disks as real files, made and read with qemu-img.

Empty ones, and ones that only become larger, are written without a process of it: most are such.

A client that reads a disk finds a real VHDX or VHD. Inside, two things are qcow2 under a
``.vhdx`` name, since qemu-img can neither make differencing VHDX nor change a VHDX's size:
differencing disks, and disks after ``Resize-VHD``. ``Convert-VHD`` and exports write real VHDX.
"""

import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

from hvdrivers.hyperv.simulator.errors import file_error
from hvdrivers.hyperv.simulator.state.blank import Blank
from hvdrivers.hyperv.simulator.state.files import WindowsFiles, normal
from hvdrivers.hyperv.simulator.state.qcow2 import grow, make_layer, qcow2_info

MIB = 1 << 20
BLOCK = 32 * MIB


@dataclass
class DiskFile:
    """One virtual hard disk. ``kind`` is Fixed, Dynamic or Differencing; sizes are bytes."""

    path: str
    format: str
    kind: str
    size: int
    file_size: int
    parent: str | None
    identifier: UUID


def _taken(name: str, status: os.stat_result) -> int:
    """What a file takes on drive ``C:``. NTFS keeps no holes in the files that Hyper-V makes; the
    file system below the simulator does, and only a dynamic VHDX has there the blocks that it has
    on NTFS, beside its header and its first tables."""
    suffix = name.lower().rpartition(".")[2]
    if suffix in {"vhd", "avhd"}:
        return status.st_size
    blocks = status.st_blocks * 512
    return max(blocks, 4 * MIB) if suffix in {"vhdx", "avhdx"} else blocks


def _signature(status: os.stat_result) -> tuple[int, int, int]:
    """Differs once a file was changed, but for what comes within the same few milliseconds."""
    return status.st_ino, status.st_size, status.st_mtime_ns


@dataclass
class DiskStore:
    """The virtual hard disks of one host."""

    files: WindowsFiles
    capacity: int = 1 << 40
    qemu_img: str = "qemu-img"
    _identifiers: dict[str, UUID] = field(default_factory=dict)
    _fixed: dict[str, int] = field(default_factory=dict)
    _parents: dict[str, str] = field(default_factory=dict)
    _known: dict[str, tuple[tuple[int, int, int], dict[str, object]]] = field(default_factory=dict)
    _blanks: dict[int, Blank] = field(default_factory=dict)
    """Empty VHDX files by the size of their disks."""

    def free(self) -> int:
        """Bytes that are free on drive ``C:``: the capacity less what the files take."""
        used = 0
        for folder, _, names in os.walk(self.files.root):
            for name in names:
                try:
                    used += _taken(name, os.stat(os.path.join(folder, name)))
                except FileNotFoundError:
                    continue
        for path, size in list(self._fixed.items()):
            file = self.files.file(path)
            if file.exists():
                used += max(0, size - _taken(path, file.stat()))
            else:
                del self._fixed[path]
        return max(0, self.capacity - used)

    def need(self, path: str, size: int) -> None:
        """Refuse what would not fit."""
        if size > self.free():
            raise file_error("disk-full", path)

    def look(self, path: str) -> DiskFile:
        """The disk at a path. Raises a CmdletError if there is none, or it is not a disk."""
        file = self.files.file(path)
        if not file.is_file():
            raise file_error("file-not-found", path)
        kind = image_format(file)
        if kind is None:
            raise file_error("vhd-corrupt", path)
        info = self._info(path, file, kind)
        parent = self._parent_of(path, info)
        key = normal(path)
        if parent is not None:
            style = "Differencing"
        elif key in self._fixed or (kind == "vpc" and _fixed_vhd(file)) or kind == "raw":
            style = "Fixed"
        else:
            style = "Dynamic"
        size = int(str(info["virtual-size"]))
        if kind == "vpc":
            size = _vhd_size(file) or size
        taken = self._fixed.get(key, 0) if style == "Fixed" else 0
        return DiskFile(
            path=path,
            format="VHD" if path.lower().endswith((".vhd", ".avhd")) else "VHDX",
            kind=style,
            size=size,
            file_size=max(taken, _taken(path, file.stat())),
            parent=parent,
            identifier=self._identifiers.setdefault(key, uuid4()),
        )

    def _info(self, path: str, file: Path, kind: str) -> dict[str, object]:
        """What qemu-img says of a file; asked again only after the file has changed."""
        signature = _signature(file.stat())
        known = self._known.get(str(file))
        if known is not None and known[0] == signature:
            return known[1]
        info = qcow2_info(file) if kind == "qcow2" else None
        if info is None:
            answer = self._run("info", "-U", "--output=json", "-f", kind, str(file), path=path)
            info = json.loads(answer)
        self._known[str(file)] = (signature, info)
        return info

    def create(self, path: str, size: int, kind: str) -> DiskFile:
        """An empty Fixed or Dynamic disk."""
        file = self._new(path)
        if kind == "Fixed":
            self.need(path, size)
        if path.lower().endswith(".vhd"):
            form = f"subformat={'fixed' if kind == 'Fixed' else 'dynamic'},force_size=on"
            self._run("create", "-q", "-f", "vpc", "-o", form, str(file), str(size), path=path)
        else:
            self._new_vhdx(path, file, size)
        if kind == "Fixed":
            self._fixed[normal(path)] = size
        return self.look(path)

    def _new_vhdx(self, path: str, file: Path, size: int) -> None:
        self._known.pop(str(file), None)
        blank = self._blanks.get(size)
        if blank is not None and blank.make(file):
            self._known[str(file)] = (_signature(file.stat()), blank.info)
            return
        self._run("create", "-q", "-f", "vhdx", str(file), str(size), path=path)
        self._blanks[size] = Blank.of(file, self._info(path, file, "vhdx"))

    def differencing(self, path: str, parent: str, size: int | None = None) -> DiskFile:
        """A disk that holds the differences from its parent, which it names."""
        base = self.look(parent)
        file = self._new(path)
        parent_file = self.files.file(parent)
        below, whole = image_format(parent_file) or "raw", size or base.size
        self._known.pop(str(file), None)
        if not make_layer(file, parent_file, below, whole):
            command = ("create", "-q", "-f", "qcow2", "-u", "-b", str(parent_file), "-F", below)
            self._run(*command, str(file), str(whole), path=path)
        self._parents[normal(path)] = parent
        return self.look(path)

    def convert(self, source: str, target: str, kind: str) -> DiskFile:
        """A copy of a whole chain as one real VHDX or VHD."""
        disk = self.look(source)
        file = self._new(target)
        if kind == "Fixed":
            self.need(target, disk.size)
        else:
            self.need(target, disk.file_size)
        source_file = self.files.file(source)
        vhd = target.lower().endswith(".vhd")
        options = (
            ["-o", f"subformat={'fixed' if kind == 'Fixed' else 'dynamic'},force_size=on"]
            if vhd
            else []
        )
        self._run(
            "convert",
            "-q",
            "-U",
            "-f",
            image_format(source_file) or "raw",
            "-O",
            "vpc" if vhd else "vhdx",
            *options,
            str(source_file),
            str(file),
            path=target,
        )
        if kind == "Fixed":
            self._fixed[normal(target)] = disk.size
        return self.look(target)

    def resize(self, path: str, size: int) -> DiskFile:
        """Change the virtual size; a VHDX becomes qcow2 inside."""
        file = self.files.file(path)
        disk = self.look(path)
        if disk.kind == "Fixed":
            self.need(path, max(0, size - disk.size))
            self._fixed[normal(path)] = size
        self._to_qcow2(path, file)
        # the clock of the file system may be too slow to tell of the change
        self._known.pop(str(file), None)
        if not grow(file, size):
            shrink = ["--shrink"] if size < disk.size else []
            self._run("resize", "-q", *shrink, "-f", "qcow2", str(file), str(size), path=path)
        return self.look(path)

    def rebase(self, path: str, parent: str) -> None:
        """Name another parent without reading either."""
        file, parent_file = self.files.file(path), self.files.file(parent)
        self._run(
            "rebase",
            "-q",
            "-u",
            "-f",
            "qcow2",
            "-u",
            "-b",
            str(parent_file),
            "-F",
            image_format(parent_file) or "raw",
            str(file),
            path=path,
        )
        self._parents[normal(path)] = parent

    def merge(self, path: str, into: str) -> None:
        """Write what a differencing disk holds into a disk below it, and drop the disks between."""
        chain: list[str] = []
        current: str | None = path
        while current is not None and normal(current) != normal(into):
            chain.append(current)
            current = self.look(current).parent
        if current is None:
            raise file_error("vhd-chain", path)
        target, file = self.files.file(into), self.files.file(path)
        size = self.look(path).size
        if self.look(into).size < size:
            self._to_qcow2(into, target)
            self._run("resize", "-q", "-f", "qcow2", str(target), str(size), path=into)
        # qemu-img's commit writes into the base that it is told to, whatever lies between.
        self._run("commit", "-q", "-d", "-f", "qcow2", "-b", str(target), str(file), path=path)
        for gone in chain:
            self.files.file(gone).unlink(missing_ok=True)
            self.forget(gone)

    def move(self, source: str, target: str) -> None:
        """Rename a disk; its identity and its parent go with it."""
        file, new = self.files.file(source), self.files.file(target)
        new.parent.mkdir(parents=True, exist_ok=True)
        file.rename(new)
        old, key = normal(source), normal(target)
        if old in self._identifiers:
            self._identifiers[key] = self._identifiers.pop(old)
        if old in self._fixed:
            self._fixed[key] = self._fixed.pop(old)
        if old in self._parents:
            self._parents[key] = self._parents.pop(old)

    def forget(self, path: str) -> None:
        """Drop what is known of a file that is gone."""
        key = normal(path)
        self._identifiers.pop(key, None)
        self._fixed.pop(key, None)
        self._parents.pop(key, None)

    def chain(self, path: str) -> list[str]:
        """The disk and its parents, nearest first."""
        found: list[str] = []
        current: str | None = path
        while current is not None:
            found.append(current)
            current = self.look(current).parent
        return found

    def make_inner(self, path: str) -> None:
        """Make a disk and its parents qcow2 inside: QEMU saves no guest that has a VHDX open."""
        for each in reversed(self.chain(path)):
            self._to_qcow2(each, self.files.file(each))

    def _to_qcow2(self, path: str, file: Path) -> None:
        kind = image_format(file)
        if kind == "qcow2":
            return
        part = file.with_name(file.name + ".resizing")
        self._run(
            "convert", "-q", "-f", kind or "raw", "-O", "qcow2", str(file), str(part), path=path
        )
        os.replace(part, file)
        # A differencing disk names its parent's format.
        for child, parent in list(self._parents.items()):
            if self.files.same(parent, path) and self.files.file(child).is_file():
                self.rebase(child, parent)

    def _parent_of(self, path: str, info: dict[str, object]) -> str | None:
        backing = info.get("full-backing-filename") or info.get("backing-filename")
        if not isinstance(backing, str):
            return None
        known = self._parents.get(normal(path))
        # the spelling that was used, unless another file has come to this path by now
        if known is not None and self.files.file(known) == Path(backing):
            return known
        return self.files.windows(Path(backing))

    def _new(self, path: str) -> Path:
        file = self.files.file(path)
        if file.exists():
            raise file_error("file-exists", path)
        if not file.parent.is_dir():
            # Hyper-V makes the folders of a new disk.
            file.parent.mkdir(parents=True)
        self.forget(path)
        return file

    def _run(self, *arguments: str, path: str) -> str:
        done = subprocess.run(  # noqa: S603 - a fixed program, arguments as a list
            [self.qemu_img, *arguments], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            if "No space left" in done.stderr:
                raise file_error("disk-full", path)
            if "backing file" in done.stderr and "No such file" in done.stderr:
                raise file_error("vhd-chain", path)
            if "lock" in done.stderr:
                raise file_error("file-in-use", path)
            raise file_error("vhd-corrupt", path)
        return done.stdout


def image_format(file: Path) -> str | None:
    """qemu-img's name of the format, read from the file's first and last bytes."""
    with file.open("rb") as stream:
        head = stream.read(8)
        if head == b"vhdxfile":
            return "vhdx"
        if head[:4] == b"QFI\xfb":
            return "qcow2"
        if head == b"conectix":
            return "vpc"
        stream.seek(0, os.SEEK_END)
        if stream.tell() >= 512:
            stream.seek(-512, os.SEEK_END)
            if stream.read(8) == b"conectix":
                return "vpc"
    return None


def _footer(file: Path) -> bytes:
    with file.open("rb") as stream:
        stream.seek(-512, os.SEEK_END)
        return stream.read(512)


def _fixed_vhd(file: Path) -> bool:
    return int.from_bytes(_footer(file)[60:64], "big") == 2


def _vhd_size(file: Path) -> int | None:
    """The current size that the footer names; qemu may round by geometry."""
    footer = _footer(file)
    return int.from_bytes(footer[48:56], "big") if footer[:8] == b"conectix" else None
