"""The guest's root file system: an initramfs (cpio, gzip) of busybox, modules and our scripts."""

from __future__ import annotations

import gzip
import io
import re
import stat
from importlib import resources
from pathlib import Path

from hvdrivers.testing.guestimage.inputs import Kernel, run_tool, without_signature

# What the first report needs, then the rest: the guest says "booted" between the two.
_EARLY = ("virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod", "virtio_net", "button", "evdev")
_LATE = (
    *("isofs", "nls_cp437", "nls_ascii", "nls_iso8859_1", "vfat", "sr_mod"),
    *("virtio_rng", "virtio_balloon", "virtio_console", "virtio_mem"),
    *("ahci", "ata_piix", "nvme", "e1000", "e1000e", "fuse", "virtiofs", "loop"),
)
_UEFI = ("efivarfs",)

_FOLDERS = [
    "bin",
    "dev",
    "disk",
    "etc",
    "lib",
    "lib/modules",
    "proc",
    "root",
    "run",
    "sbin",
    "seed",
    "sys",
    "tmp",
    "usr",
    "usr/share",
    "var",
]
_SCRIPTS = {
    "init": "init",
    "hv-functions": "lib/hv-functions",
    "hv-event": "bin/hv-event",
    "hv-dhcp": "bin/hv-dhcp",
    "hv-console": "bin/hv-console",
}
_AGENT_SCRIPTS = {
    "hv-agent": "bin/hv-agent",
    "hv-shutdown": "sbin/shutdown",
    "hv-chpasswd": "bin/chpasswd",
}


class Cpio:
    """Writes the ``newc`` format by hand: device nodes need no root that way, and times are 0."""

    def __init__(self) -> None:
        self._out = io.BytesIO()
        self._inode = 0

    def add(
        self, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)
    ) -> None:
        self._inode += 1
        path = name.encode() + b"\0"
        fields = (self._inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(path), 0)
        self._out.write(b"070701" + b"".join(b"%08x" % value for value in fields) + path)
        self._pad()
        self._out.write(data)
        self._pad()

    def folder(self, name: str) -> None:
        self.add(name, stat.S_IFDIR | 0o755)

    def file(self, name: str, data: bytes, mode: int = 0o755) -> None:
        self.add(name, stat.S_IFREG | mode, data)

    def link(self, name: str, target: str) -> None:
        self.add(name, stat.S_IFLNK | 0o777, target.encode())

    def finish(self) -> bytes:
        self.add("TRAILER!!!", 0)
        return self._out.getvalue()

    def _pad(self) -> None:
        self._out.write(b"\0" * (-self._out.tell() % 4))


def scripts(with_agent: bool) -> dict[str, bytes]:
    """Our files by their path in the guest."""
    names = _SCRIPTS | (_AGENT_SCRIPTS if with_agent else {})
    root = resources.files("hvdrivers.testing.guestimage") / "root"
    return {target: (root / name).read_bytes() for name, target in names.items()}


def module_lists(kernel: Kernel) -> dict[str, list[str]]:
    early = kernel.load_order(_EARLY)
    return {
        "early": early,
        "late": kernel.load_order(_LATE, done=early),
        "uefi": kernel.load_order(_UEFI),
    }


def make_initramfs(
    kernel: Kernel, busybox: Path, name: str, agent: Path | None, *, signed: bool = False
) -> bytes:
    """The compressed archive, the same bytes for the same inputs.

    Args:
        kernel: whose modules to take.
        busybox: the static program.
        name: what the guest reports as ``image=``.
        agent: the program qemu-ga, if the guest shall run it.
        signed: the kernel will take no module without its signature (secure boot).
    """
    cpio = Cpio()
    for folder in _FOLDERS:
        cpio.folder(folder)
    # the kernel opens it before it starts /init
    cpio.add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    cpio.file("bin/busybox", busybox.read_bytes())
    for applet in run_tool(str(busybox), "--list").decode().split():
        if applet not in ("busybox", "init"):
            cpio.link(f"bin/{applet}", "busybox")
    for target, data in scripts(agent is not None).items():
        cpio.file(target, data)
    cpio.file("etc/image", f"{name}\n".encode())
    cpio.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    cpio.file("etc/group", b"root:x:0:\n")
    cpio.file("etc/shadow", b"root:*:1::::::\n", mode=0o600)
    for stage, modules in module_lists(kernel).items():
        for module in modules:
            data = kernel.read_module(module)
            cpio.file(f"lib/modules/{module}.ko", data if signed else without_signature(data))
        lines = "".join(f"{module}.ko\n" for module in modules)
        cpio.file(f"lib/modules/{stage}", lines.encode())
    if agent:
        _add_agent(cpio, agent)
    return gzip.compress(cpio.finish(), compresslevel=9, mtime=0)


def _add_agent(cpio: Cpio, agent: Path) -> None:
    """qemu-ga is dynamic: copy what its loader would load, to the same places."""
    cpio.file("bin/qemu-ga", agent.read_bytes())
    made = set(_FOLDERS)
    for library in re.findall(r"(/\S+) \(0x", run_tool("ldd", str(agent)).decode()):
        folders = [str(parent).lstrip("/") for parent in Path(library).parents][-2::-1]
        for folder in folders:
            if folder not in made:
                made.add(folder)
                cpio.folder(folder)
        cpio.file(library.lstrip("/"), Path(library).read_bytes())
