"""The guest's disk: an MBR, one FAT partition, syslinux for BIOS and systemd-boot for UEFI.

mtools write into a plain file, so nothing is mounted and nobody needs to be root.
"""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

from hvdrivers.testing.guestimage.inputs import run_tool

DISK_MIB = 64
_SECTOR = 512
_START = 2048  # sectors; the usual alignment
_COMMAND_LINE = (
    "console=tty0 console=ttyS0,115200 quiet loglevel=3 no_timer_check random.trust_cpu=on "
    "random.trust_bootloader=on mitigations=off memhp_default_state=online panic=5 "
    "net.ifnames=0 cryptomgr.notests"
)

MBR_CODE = (
    Path("/usr/lib/syslinux/mbr/mbr.bin"),
    Path("/usr/lib/SYSLINUX/mbr.bin"),
    Path("/usr/share/syslinux/mbr.bin"),
)
EFI_LOADER = Path("/usr/lib/systemd/boot/efi/systemd-bootx64.efi")

_SYSLINUX_CFG = f"""\
serial 0 115200
default guest
prompt 0
timeout 0
label guest
  kernel /vmlinuz
  initrd /initrd.gz
  append {_COMMAND_LINE}
"""

_EFI_FILES = {
    "loader/loader.conf": "timeout 0\ndefault guest.conf\neditor no\n",
    "loader/entries/guest.conf": (
        f"title guest\nlinux /vmlinuz\ninitrd /initrd.gz\noptions {_COMMAND_LINE}\n"
    ),
}

# The signed GRUB has its folder's name built in.
_GRUB_FOLDERS = ("EFI/debian", "EFI/ubuntu")
_GRUB_CFG = f"linux /vmlinuz {_COMMAND_LINE}\ninitrd /initrd.gz\nboot\n"


def _partition_table(code: bytes, sectors: int) -> bytes:
    """A master boot record with one active partition of the type "EFI system"; BIOS ignores it."""
    entry = struct.pack("<B3sB3sII", 0x80, b"\xfe\xff\xff", 0xEF, b"\xfe\xff\xff", _START, sectors)
    return code[:440].ljust(440, b"\0") + b"hvg1\0\0" + entry.ljust(64, b"\0") + b"\x55\xaa"


def write_disk(
    target: Path, kernel: bytes, initramfs: bytes, signed: tuple[Path, Path] | None = None
) -> None:
    """Write the raw disk to ``target``; with ``signed`` (shim, GRUB) it obeys secure boot."""
    total = DISK_MIB * 1024 * 1024 // _SECTOR
    code = next((path.read_bytes() for path in MBR_CODE if path.exists()), b"")
    with target.open("wb") as disk:
        disk.truncate(total * _SECTOR)
        disk.write(_partition_table(code, total - _START))
    partition = f"{target}@@{_START * _SECTOR}"
    run_tool(
        *("mformat", "-i", partition, "-T", str(total - _START), "-h", "16", "-s", "63"),
        *("-H", str(_START), "-v", "HVGUEST", "-N", "48564755", "::"),
    )
    with tempfile.TemporaryDirectory() as folder:
        files = {
            "vmlinuz": kernel,
            "initrd.gz": initramfs,
            "syslinux.cfg": _SYSLINUX_CFG.encode(),
        }
        if signed:
            files["EFI/BOOT/BOOTX64.EFI"] = signed[0].read_bytes()
            files["EFI/BOOT/grubx64.efi"] = signed[1].read_bytes()
            files |= {f"{folder}/grub.cfg": _GRUB_CFG.encode() for folder in _GRUB_FOLDERS}
        elif EFI_LOADER.exists():
            files["EFI/BOOT/BOOTX64.EFI"] = EFI_LOADER.read_bytes()
            files |= {name: text.encode() for name, text in _EFI_FILES.items()}
        made: set[Path] = set()
        for name, data in files.items():
            for parent in list(Path(name).parents)[-2::-1]:
                if parent not in made:
                    made.add(parent)
                    run_tool("mmd", "-i", partition, f"::/{parent}")
            source = Path(folder) / "file"
            source.write_bytes(data)
            run_tool("mcopy", "-i", partition, str(source), f"::/{name}")
    run_tool("syslinux", "--install", "--offset", str(_START * _SECTOR), str(target))


def input_files() -> list[Path]:
    """Files of the machine that end up on the disk besides kernel and initramfs."""
    return [path for path in (*MBR_CODE, EFI_LOADER) if path.exists()]
