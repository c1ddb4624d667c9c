"""Names below ``/dev`` that are no disks'. Functions of their arguments, no remote call.

No call of libvirt's tells what is there without opening it. To open a watchdog arms it, and the
daemon that reads a terminal waits for ever for somebody to type, with the machine locked meanwhile.
So a path is refused by its name, where Linux gives that name to a character device, a socket or a
pipe: https://docs.kernel.org/admin-guide/devices.html. Block devices may have nearly any other name
(``/dev/<volume group>/<volume>``).
"""

from __future__ import annotations

import re

from hvdrivers.libvirt.files import clean

_DEVICES, _MEMORY = "/dev/", "/dev/shm/"  # noqa: S108 - files in memory are files
_ALONE = """autofs btrfs-control console core cpu_dma_latency cuse full fuse gpmctl hpet hwrng
    initctl kmem kmsg kvm log loop-control mcelog mem null nvme-fabrics nvram oldmem port ppp ptmx
    random rfkill sev snapshot stderr stdin stdout tun udmabuf uhid uinput urandom userfaultfd
    userio vga_arbiter vhci vmci vsock xconsole zero"""
_NUMBERED = """ng\\d+n bsg fb gpiochip hidraw hvc hvsi i2c- ipmi lp mei media mtd ng nst nvme ptp
    pps rtc sg st tpm tpmrm tty usbmon vcs vcsa vcsu vfio video watchdog"""
"""Each may have a number behind."""
_BELOW = r"""
    (tty|pty)[A-Za-z0-9]+
  | vhost-[a-z0-9-]+
  | pts/\w+ | fd/\d+ | char/\d+:\d+ | net/(tun|tap\d+) | mapper/control
  | cpu/(\d+/)?(cpuid|msr|microcode) | dma_heap/\w+ | dri/(card|renderD)\d+ | snd/\w+
  | input/(event|mouse|js|ts)\d+ | input/mice | bus/usb/\d+/\d+ | usb/(hiddev|lp)\d+
  | infiniband/[a-z_]+\d* | vfio/(vfio|noiommu-\d+|\d+) | v4l/.+ | serial/.+ | mqueue/.+
  | virtio-ports/.+ | vport\d+p\d+ | nvidia(\d+|ctl|-uvm|-uvm-tools|-modeset)
"""
_NO_DISK = re.compile(
    "|".join((*_ALONE.split(), *(rf"{each}\d*" for each in _NUMBERED.split()), _BELOW)),
    re.VERBOSE,
)


def is_device(path: str) -> bool:
    """Whether a path is below ``/dev``, where a folder is not to be looked at: files in memory are
    beside it."""
    return f"{clean(path)}/".startswith(_DEVICES) and not f"{clean(path)}/".startswith(_MEMORY)


def is_no_disk(path: str) -> bool:
    """Whether a path below ``/dev`` has the name of what is no disk."""
    return is_device(path) and _NO_DISK.fullmatch(clean(path).removeprefix(_DEVICES)) is not None
