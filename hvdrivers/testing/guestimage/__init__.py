"""A tiny Linux guest for demos and tests: it boots in seconds without KVM and says what it sees.

`build_guest_image` makes a bootable disk of about 17 MB from packages of the machine it runs on
(a Debian or Ubuntu kernel, static busybox, syslinux), as any user, without mounting anything::

    from hvdrivers.testing.guestimage import build_guest_image

    image = build_guest_image()                     # Path to a qcow2, from the cache if it is there
    rescue = build_guest_image(name="rescue")       # differs in the name that it reports
    agent = build_guest_image(with_agent=True)      # runs the QEMU guest agent
    secure = build_guest_image(secure_boot=True)    # boots where firmware checks signatures

It boots through BIOS, and through UEFI where systemd-boot's EFI file is installed, on the machines
``q35`` and ``pc``. Secure boot refuses it ("Access Denied" on the console) unless it was built for
that. It wants 128 MiB of memory (UEFI 256, secure boot 384) and a virtio, SCSI or NVMe disk
(Debian's cloud kernel has no AHCI driver, so no SATA disks and CD drives), and reports on the
first serial port, one fact a line (``\\r\\n`` ends it)::

    SYSLINUX 6.04 ...                             BIOS: the boot loader, within the first second
    hv-guest: starts                              UEFI: its boot loader says nothing
    hv-guest: booted uuid=UUID vcpus=2 memory_mib=180 firmware=bios image=hv-guest uptime=2.61
    hv-guest: boot number 1                       counted on its disk: tells a reset from a rebuild
    hv-guest: root disk vda 64 MiB
    hv-guest: disk vdb 64 MiB serial=abc attached    at boot and on hot-plug
    hv-guest: disk vdb 128 MiB resized
    hv-guest: disk vdb removed
    hv-guest: cdrom sr0 attached
    hv-guest: nic eth0 mac=52:54:00:12:34:56 attached
    hv-guest: nic eth0 removed
    hv-guest: address eth0 192.0.2.7              by DHCP
    hv-guest: vcpus 4                             after hot-plug; the same for memory_mib
    hv-guest: seed cidata hostname=web-1 instance-id=i-1      or config-2
    hv-guest: public-key ssh-ed25519 AAAA...
    hv-guest: network-data network-config
    hv-guest: user-data #!/bin/sh                 the first five lines; a script is run
    hv-guest: user-data exit 0
    hv-guest: tpm 2
    hv-guest: ready                               all that was there at boot has been reported
    hv-guest: tick 1                              about every five seconds: it is alive
    hv-guest: power button                        then it powers off (also: agent shutdown)
    hv-guest: ctrl-alt-del                        then it reboots (also: agent reboot)
    hv-guest: password of root set                by the agent, in /etc/shadow
    hv-guest: pong                                the answer to a typed `ping`

Any other line typed on the serial console (or on a virtio console) is run by a shell, followed by
``hv-guest: exit STATUS``. ``memory_mib`` is what the kernel manages, 10 to 60 MiB below the
machine's size (100, if memory can be plugged). ``firmware`` is ``bios``, ``uefi`` or
``uefi-secure``. Files below ``/disk`` stay on the root disk, written through at once.

The image is kept in ``$XDG_CACHE_HOME/hvdrivers`` (``~/.cache/hvdrivers``) under a hash of
everything that it was made from.
"""

from __future__ import annotations

from hvdrivers.testing.guestimage.build import build_guest_image, cache_folder
from hvdrivers.testing.guestimage.inputs import GuestImageUnavailable

__all__ = ["GuestImageUnavailable", "build_guest_image", "cache_folder"]
