"""Puts kernel, initramfs and disk together, once per set of inputs."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import os
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hvdrivers.testing.guestimage.disk import MBR_CODE, input_files, write_disk
from hvdrivers.testing.guestimage.initramfs import (
    make_initramfs,
    module_lists,
    scripts,
)
from hvdrivers.testing.guestimage.inputs import (
    GuestImageUnavailable,
    Kernel,
    find_agent,
    find_kernel,
    find_signed_loaders,
    find_static_busybox,
    find_tool,
    run_tool,
)

Format = Literal["qcow2", "raw"]


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/hvdrivers``, by default ``~/.cache/hvdrivers``; made if it is not there."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "hvdrivers"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def build_guest_image(
    *,
    name: str = "hv-guest",
    image_format: Format = "qcow2",
    with_agent: bool = False,
    secure_boot: bool = False,
    cache: Path | None = None,
) -> Path:
    """The path of the guest's disk image, built if the cache does not have it (1 to 2 seconds).

    Treat the file as read-only: others use it too. Safe to call from several processes at once.

    Args:
        name: what the guest reports as ``image=``; letters, digits, dot, dash and underscore.
        image_format: ``qcow2`` (about 17 MB) or ``raw`` (sparse).
        with_agent: run the QEMU guest agent where the machine has its channel; shutdown, exec,
            files, freezing /frozen, addresses and passwords (kept in /etc/shadow) work.
        secure_boot: boot UEFI by the distribution's signed shim and GRUB, which firmware with
            Microsoft's keys accepts; slower than systemd-boot, and wants 384 MiB of memory.
        cache: folder to keep images in, by default `cache_folder`.

    Raises:
        GuestImageUnavailable: packages are missing; the message names them.
        ValueError: the name has other characters.
    """
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,40}", name):
        raise ValueError(f"not a name for a guest image: {name!r}")
    cache = cache or cache_folder()
    recipe = _find_inputs(cache, name, with_agent, secure_boot)
    target = cache / f"guest-{name}-{recipe.key()}.{image_format}"
    if target.exists():
        # beside it: somebody may be uploading the image, and it must not look changed
        _used(target).touch()
        return target
    with (cache / "guest.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            _forget_old(cache)
            recipe.build(target, image_format)
            _used(target).touch()
    return target


def _used(image: Path) -> Path:
    return image.with_name(f".{image.name}.used")


def _forget_old(cache: Path) -> None:
    """Images that nobody has asked for in 30 days were made from other packages."""
    for image in cache.glob("guest-*-*.*"):
        used = _used(image)
        asked = used if used.exists() else image
        if asked.stat().st_mtime < time.time() - 30 * 24 * 3600:
            image.unlink(missing_ok=True)
            used.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Recipe:
    kernel: Kernel
    busybox: Path
    name: str
    agent: Path | None
    signed: tuple[Path, Path] | None

    def key(self) -> str:
        """A hash of the content of everything that goes in, this package included."""
        head = (self.kernel.version, self.name, self.agent is None, self.signed is None)
        digest = hashlib.sha256(repr(head).encode())
        here = Path(__file__).parent
        files = [self.kernel.image, self.busybox, *input_files(), *sorted(here.glob("*.py"))]
        if self.agent:
            files.append(self.agent)
        files += self.signed or ()
        modules = itertools.chain.from_iterable(module_lists(self.kernel).values())
        files += [self.kernel.module_files()[module] for module in modules]
        for path in files:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        for data in scripts(self.agent is not None).values():
            digest.update(hashlib.sha256(data).digest())
        return digest.hexdigest()[:16]

    def build(self, target: Path, image_format: Format) -> None:
        initramfs = make_initramfs(
            *(self.kernel, self.busybox, self.name, self.agent), signed=self.signed is not None
        )
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".building-") as folder:
            raw = Path(folder) / "disk.raw"
            write_disk(raw, self.kernel.image.read_bytes(), initramfs, self.signed)
            result = raw
            if image_format == "qcow2":
                result = Path(folder) / "disk.qcow2"
                convert = ("convert", "-q", "-f", "raw", "-O", "qcow2")
                run_tool("qemu-img", *convert, str(raw), str(result))
            result.chmod(0o644)
            result.replace(target)


def _find_inputs(cache: Path, name: str, with_agent: bool, secure_boot: bool) -> _Recipe:
    kernel = find_kernel(cache)
    busybox = find_static_busybox()
    agent = find_agent(cache) if with_agent else None
    signed = find_signed_loaders(cache) if secure_boot else None
    missing = []
    if kernel is None:
        missing.append("a readable Linux kernel with modules (run `make setup`)")
    if busybox is None:
        missing.append("a static busybox (package busybox-static)")
    packages = {"mcopy": "mtools", "mformat": "mtools", "mmd": "mtools", "syslinux": "syslinux"}
    packages["qemu-img"] = "qemu-utils"
    for tool, package in packages.items():
        if find_tool(tool) is None:
            missing.append(f"{tool} (package {package})")
    if with_agent and agent is None:
        missing.append("the QEMU guest agent (run `make setup`)")
    if secure_boot and signed is None:
        missing.append("shim and GRUB as signed by the distribution (run `make setup`)")
    if not any(path.exists() for path in MBR_CODE):
        missing.append("syslinux's mbr.bin (package syslinux-common)")
    if kernel is None or busybox is None or missing:
        raise GuestImageUnavailable(missing)
    return _Recipe(kernel, busybox, name, agent, signed)
