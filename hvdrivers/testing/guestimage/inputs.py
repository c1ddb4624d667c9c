"""What the guest is made from: a kernel, its modules, busybox, and tools that write a disk."""

from __future__ import annotations

import lzma
import os
import re
import shutil
import subprocess
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

KERNEL_VARIABLE = "HVDRIVERS_GUEST_KERNEL"
"""Environment variable: a folder with ``boot/vmlinuz-*`` and ``lib/modules/*`` to prefer."""

_SMALL_FLAVOURS = ("cloud", "kvm", "virtual")
_DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")


class GuestImageUnavailable(Exception):
    """The image cannot be built on this machine; ``missing`` names what to install."""

    def __init__(self, missing: Sequence[str]) -> None:
        self.missing = tuple(missing)
        super().__init__("precondition missing: " + "; ".join(self.missing))


@dataclass(frozen=True)
class Kernel:
    """One kernel image and the modules that belong to it."""

    version: str
    image: Path
    modules: Path
    _files: dict[str, Path] = field(default_factory=dict, repr=False, compare=False)

    def module_files(self) -> dict[str, Path]:
        """Every loadable module by name (``-`` is ``_``), read from the tree without depmod."""
        if not self._files:
            for path in self.modules.rglob("*.ko*"):
                self._files[_module_name(path.name)] = path
        return self._files

    def builtin(self) -> frozenset[str]:
        """Names of the modules that are part of the kernel image."""
        try:
            lines = (self.modules / "modules.builtin").read_text().splitlines()
        except FileNotFoundError:
            return frozenset()
        return frozenset(_module_name(line.rpartition("/")[2]) for line in lines)

    def has(self, module: str) -> bool:
        return module in self.module_files() or module in self.builtin()

    def load_order(self, wanted: Iterable[str], done: Sequence[str] = ()) -> list[str]:
        """``wanted`` and what they need, each after its needs; without built-in or absent ones."""
        order: list[str] = []

        def add(module: str) -> None:
            if module in order or module in done or module not in self.module_files():
                return
            found = _DEPENDS.search(self.read_module(module))
            for need in (found[1].decode() if found else "").split(","):
                if need:
                    add(_module_name(need))
            order.append(module)

        for module in wanted:
            add(module)
        return order

    def read_module(self, module: str) -> bytes:
        """The module as an uncompressed ELF file, which is all that busybox can insert."""
        path = self.module_files()[module]
        data = path.read_bytes()
        match path.suffix:
            case ".xz":
                return lzma.decompress(data)
            case ".gz":
                return zlib.decompress(data, wbits=31)
            case ".zst":
                return run_tool("zstd", "-dcq", str(path))
            case _:
                return data


_SIGNED = b"~Module signature appended~\n"


def without_signature(module: bytes) -> bytes:
    """A module as it was before it was signed. Where nobody asks for signatures the kernel checks
    those that are there all the same, which takes an emulated guest a tenth of its start.

    The end of a signed module is the signature, twelve bytes that end with its length, and the
    mark (Linux: include/linux/module_signature.h)."""
    if not module.endswith(_SIGNED):
        return module
    fields = module[: -len(_SIGNED)]
    return fields[: -12 - int.from_bytes(fields[-4:], "big")]


def _module_name(file_name: str) -> str:
    return file_name.partition(".ko")[0].replace("-", "_")


def _version_key(version: str) -> tuple[bool, list[int]]:
    small = any(flavour in version for flavour in _SMALL_FLAVOURS)
    return small, [int(part) for part in re.findall(r"\d+", version)]


def find_kernel(cache: Path) -> Kernel | None:
    """The kernel to use: of $HVDRIVERS_GUEST_KERNEL, of the cache, or of the machine itself.

    ``make setup`` unpacks one into the cache where the machine's own is absent or, as on Ubuntu,
    readable by root only. In each place small flavours go first, then the newest.
    """
    chosen = os.environ.get(KERNEL_VARIABLE)
    for root in [Path(chosen)] if chosen else [cache / "kernel", Path("/")]:
        found = []
        for image in root.glob("boot/vmlinuz-*"):
            version = image.name.removeprefix("vmlinuz-")
            for modules in (root / "lib/modules" / version, root / "usr/lib/modules" / version):
                if modules.is_dir() and os.access(image, os.R_OK):
                    found.append(Kernel(version, image, modules))
                    break
        found.sort(key=lambda kernel: _version_key(kernel.version), reverse=True)
        for kernel in found:
            if kernel.has("virtio_pci") and kernel.has("virtio_blk"):
                return kernel
    return None


def find_static_busybox() -> Path | None:
    """A busybox without shared libraries: the guest has none."""
    for candidate in (shutil.which("busybox.static"), shutil.which("busybox")):
        if candidate is None:
            continue
        path = Path(candidate).resolve()
        # a dynamic program names its loader in the ELF header's neighbourhood
        if b"ld-linux" not in path.read_bytes()[:4096]:
            return path
    return None


def find_agent(cache: Path) -> Path | None:
    """The QEMU guest agent's program, of the cache (`make setup`) or of the machine."""
    unpacked = cache / "agent/usr/sbin/qemu-ga"
    found = find_tool("qemu-ga")
    return unpacked if unpacked.exists() else Path(found) if found else None


def find_signed_loaders(cache: Path) -> tuple[Path, Path] | None:
    """shim and GRUB as the distribution signed them, of the cache (`make setup`) or the machine."""
    for root in (cache / "secure-boot", Path("/")):
        grub = root / "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"
        for suffix in ("", ".latest"):  # Ubuntu ships two, and links to one when installed
            shim = root / f"usr/lib/shim/shimx64.efi.signed{suffix}"
            if shim.exists() and grub.exists():
                return shim, grub
    return None


def find_tool(name: str) -> str | None:
    """Where the program is, also in the folders that only root has in its PATH."""
    path = os.environ.get("PATH", os.defpath)
    return shutil.which(name, path=os.pathsep.join([path, "/usr/sbin", "/sbin"]))


def run_tool(name: str, *arguments: str, cwd: Path | None = None) -> bytes:
    """Run a program to its end; its output, or `GuestImageUnavailable` with what it said."""
    program = find_tool(name)
    if program is None:
        raise GuestImageUnavailable([f"the program {name}"])
    done = subprocess.run(  # noqa: S603  (a fixed program, arguments of our own)
        [program, *arguments],
        cwd=cwd,
        env={**os.environ, "MTOOLS_SKIP_CHECK": "1", "MTOOLSRC": "/dev/null", "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise GuestImageUnavailable([f"a working {name} ({said})"])
    return done.stdout
