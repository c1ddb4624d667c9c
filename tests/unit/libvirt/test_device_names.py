"""Names below /dev: what the kernel gives to character devices is no disk, and nothing else is
refused."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from hvdrivers.libvirt.device_names import is_device, is_no_disk

DISKS = """sda sda1 sdaa15 hda vda vdb2 xvda xvda1 nvme0n1 nvme0n1p2 nvme1c0n1 loop0 loop7p1 dm-0
    md0 md127 md/root md_d0p1 mapper/vg-root mapper/mpatha disk/by-id/ata-DISK_1-part1 zvol/pool/vm
    disk/by-path/ip-192.0.2.1:3260-iscsi-iqn.x:y-lun-1 vg/root tty/lv log/lv null0 mem-vg/lv nbd0
    nbd0p1 rbd0 rbd/pool/image sr0 cdrom fd0 ram0 zram0 mmcblk0 mmcblk0p1 drbd1000 drbd/by-res/r/0
    bcache0 pmem0 dasda dasda1 mtdblock0 ubiblock0_1 cciss/c0d0 block/8:0 stratis/p/f raw/vm
    input/vm snd-vg/lv kvm/disk net/vm cpu/vm nst-vg/lv rtc-vg/a mapper/control-vg"""
OTHERS = """null zero full random urandom kmsg mem port ptmx tty tty1 ttyS0 ttyUSB0 ttyAMA0 console
    pts/0 pts/ptmx vcs1 vcsa hvc0 kvm vhost-net vhost-vdpa-0 fuse loop-control watchdog watchdog0
    rtc0 hpet net/tun mapper/control cpu/0/msr snd/pcmC0D0p input/event0 input/mice dri/card0
    sg0 st0 nst0 bsg nvme0 nvme-fabrics ng0n1 char/1:3 fd/0 stdin log initctl bus/usb/001/002
    vfio/vfio vfio/12 tpm0 tpmrm0 nvidia0 nvidiactl mtd0 serial/by-id/usb-x vport0p1"""


@pytest.mark.parametrize("name", DISKS.split())
def test_a_name_that_a_disk_may_have(name: str) -> None:
    assert is_device(f"/dev/{name}")
    assert not is_no_disk(f"/dev/{name}")


@pytest.mark.parametrize("name", OTHERS.split())
def test_a_name_that_no_disk_has(name: str) -> None:
    for path in (f"/dev/{name}", f"//dev/./{name}", f"/dev/sda/../{name}"):
        assert is_no_disk(path)


@pytest.mark.parametrize("path", ["/dev/shm/null", "/developer/null", "/srv/dev/null", "/devnull"])
def test_a_path_elsewhere(path: str) -> None:
    assert not is_device(path)
    assert not is_no_disk(path)


def test_devices_of_this_machine() -> None:
    """None that is a disk here has such a name."""
    for path in Path("/dev").rglob("*"):
        try:
            kind = path.stat().st_mode
        except OSError:
            continue  # it has gone, or leads nowhere
        assert not (stat.S_ISBLK(kind) and is_no_disk(str(path))), path
