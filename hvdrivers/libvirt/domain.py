"""A domain's XML: built from a spec, and read back.

Only functions of their arguments, no remote call. https://libvirt.org/formatdomain.html
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree as ET

from hvdrivers.libvirt.adopted import adopted_disks, adoption_in
from hvdrivers.libvirt.devices import disk_element
from hvdrivers.libvirt.encrypted_memory import launch_security
from hvdrivers.libvirt.hardware import fittings, topology_element, tpm, video
from hvdrivers.libvirt.metadata import NAMESPACE, PREFIX, Record
from hvdrivers.libvirt.naming import OWN_ALIAS, RESCUE, ROOT, domain_name
from hvdrivers.libvirt.placement import placed_nodes
from hvdrivers.libvirt.shared_memory import fit_memory
from hvdrivers.libvirt.sizes import backing_element, memory_elements, numa_element, vcpu_element
from hvdrivers.libvirt.wiring import vif_element
from hvdrivers.libvirt.xml import Element, attribute, el, text
from hvdrivers.models.console import ConsoleKind
from hvdrivers.models.hardware import Hardware, VideoModel
from hvdrivers.models.instance import Firmware, InstanceSpec
from hvdrivers.models.volume import DiskBus

ET.register_namespace(PREFIX, NAMESPACE)


@dataclass(frozen=True)
class OwnDisk:
    """A disk that belongs to the instance."""

    role: str
    """``root``, ``ephemeral-1``, ...: what its file and its alias are named by."""
    path: str
    format: str
    target: str
    """Name of the device: ``vda``."""
    bus: DiskBus = DiskBus.VIRTIO
    cdrom: bool = False
    read_only: bool = False
    """Of a disk: a CD is so in any case."""

    @property
    def boots(self) -> bool:
        """Whether the machine boots from it."""
        return self.role == ROOT or self.role.startswith(f"{RESCUE}-")

    @property
    def serial(self) -> str | None:
        """What the guest finds an additional disk by: an empty one has nothing else."""
        return None if self.boots or self.cdrom or self.read_only else self.role


@dataclass(frozen=True)
class HostChoice:
    """What the host decides about a new domain."""

    virt_type: str
    """``kvm`` or ``qemu``."""
    architecture: str
    machine: str
    hotplug_slots: int
    screens: tuple[ConsoleKind, ...] = ()
    """The servers of a screen: VNC, SPICE, both, or none."""
    graphics_listen: str = "127.0.0.1"
    """Where they listen."""
    disk_cache: str = "none"
    """QEMU's cache mode of the instance's own disks."""


def domain_xml(
    spec: InstanceSpec,
    record: Record,
    host: HostChoice,
    *,
    disks: list[OwnDisk],
    volumes: list[Element],
    console_path: str,
    nvram_path: str,
    placement: Sequence[Element] = (),
    hostdevs: Sequence[Element] = (),
) -> str:
    """The definition of a new domain.

    Args:
        volumes: ``<disk>`` elements of the attached volumes.
        console_path: where the daemon logs the serial port.
        nvram_path: where UEFI keeps its variables. By itself libvirt makes the path of the
            domain's name: rename() would lose the variables, and leave the file.
        placement: where on the host its CPUs and memory are.
        hostdevs: ``<hostdev>`` elements of the host's devices that it has.
    """
    flavor, hardware = spec.flavor, spec.hardware
    pcie = "q35" in host.machine or host.machine.startswith("virt")
    given = len(disks) + len(volumes) + len(spec.vifs) + len(hostdevs)
    devices = el(
        "devices",
        *(own_disk_element(disk, host.disk_cache) for disk in disks),
        *volumes,
        *(vif_element(vif, spec.uuid) for vif in spec.vifs),
        *hostdevs,
        *(_pcie_ports(given, host) if pcie else ()),
        el("controller", type="scsi", index=0, model="virtio-scsi"),
        *_consoles(console_path, host.architecture),
        el(
            "channel",
            el("target", type="virtio", name="org.qemu.guest_agent.0"),
            type="unix",
        ),
        *fittings(hardware),
        el("memballoon", el("stats", period=10), model="virtio"),
        el("panic", model="isa") if host.architecture == "x86_64" else None,
        tpm(hardware) if spec.vtpm else None,
        *_screen(hardware, host),
    )
    domain = el(
        "domain",
        el("name", domain_name(spec.name, spec.uuid)),
        el("uuid", str(spec.uuid)),
        el("metadata", record.qualified()),
        *memory_elements(flavor, placed=bool(spec.numa)),
        vcpu_element(flavor, placed=bool(spec.numa)),
        backing_element(flavor),
        *placement,
        _os(spec, record.firmware, host, nvram_path),
        _features(spec, host),
        _cpu(spec, host),
        el("clock", el("timer", name="rtc", tickpolicy="catchup"), offset="utc"),
        el("on_poweroff", "destroy"),
        el("on_reboot", "restart"),
        # kept for a look at it; power_on(), power_off() and destroy() go on from there
        el("on_crash", "preserve"),
        devices,
        launch_security() if spec.sev else None,
        type=host.virt_type,
    )
    return text(fit_memory(domain))


def _cpu(spec: InstanceSpec, host: HostChoice) -> Element | None:
    # KVM: what the host has, minus what could not move to a like host. Emulation: the default.
    mode = "host-model" if host.virt_type == "kvm" else None
    numa = placed_nodes(spec.numa) if spec.numa else numa_element(spec.flavor)
    topology = topology_element(spec.hardware)
    parts = [each for each in (topology, numa) if each is not None]
    return el("cpu", *parts, mode=mode) if mode or parts else None


def _os(spec: InstanceSpec, firmware: Firmware, host: HostChoice, nvram_path: str) -> Element:
    kind = el("type", "hvm", arch=host.architecture, machine=host.machine)
    if firmware is Firmware.BIOS:
        return el("os", kind)
    secure = "yes" if spec.secure_boot else "no"
    return el(
        "os",
        kind,
        el(
            "firmware",
            el("feature", enabled=secure, name="enrolled-keys"),
            el("feature", enabled=secure, name="secure-boot"),
        ),
        el("nvram", nvram_path),
        firmware="efi",
    )


def definable(domain: Element) -> Element:
    """The definition of a running machine that was never defined. Libvirt shows the firmware that
    it has chosen beside what it was chosen by, and takes only one of them back."""
    system = domain.find("os")
    features = domain.find("os/firmware")
    if system is not None and features is not None:
        system.remove(features)
    return domain


def _features(spec: InstanceSpec, host: HostChoice) -> Element | None:
    if host.architecture != "x86_64":
        return el("features", el("acpi")) if host.architecture == "aarch64" else None
    return el(
        "features", el("acpi"), el("apic"), el("smm", state="on") if spec.secure_boot else None
    )


def own_disk_element(disk: OwnDisk, cache: str) -> Element:
    """The ``<disk>`` of a disk that belongs to the instance.

    Args:
        cache: QEMU's cache mode; of a read-only disk nothing is said of it.
    """
    if disk.cdrom:
        return el(
            "disk",
            el("driver", name="qemu", type=disk.format),
            el("source", file=disk.path),
            el("target", dev=disk.target, bus=disk.bus.value),
            el("readonly"),
            el("alias", name=f"{OWN_ALIAS}{disk.role}"),
            type="file",
            device="cdrom",
        )
    return el(
        "disk",
        # discard: what the guest frees becomes free on the host
        el("driver", name="qemu", type=disk.format, cache=cache, discard="unmap")
        if not disk.read_only
        # direct I/O cannot open a file whose size is no whole number of sectors
        else el("driver", name="qemu", type=disk.format),
        el("source", file=disk.path),
        el("target", dev=disk.target, bus=disk.bus.value),
        el("readonly") if disk.read_only else None,
        el("serial", disk.serial) if disk.serial else None,
        el("boot", order=1) if disk.boots else None,
        el("alias", name=f"{OWN_ALIAS}{disk.role}"),
        type="file",
        device="disk",
    )


def _pcie_ports(given: int, host: HostChoice) -> list[Element]:
    # PCI Express hot-plug needs an empty root port for each device; libvirt adds ports only for
    # what is there at the start. Five more for scsi, rng, balloon, channel and a spare.
    ports = min(given + host.hotplug_slots + 5, 30)
    return [
        el("controller", type="pci", index=0, model="pcie-root"),
        *(
            el("controller", type="pci", index=index, model="pcie-root-port")
            for index in range(1, ports + 1)
        ),
    ]


def _consoles(path: str, architecture: str) -> list[Element]:
    kind = "isa-serial" if architecture == "x86_64" else "system-serial"
    return [
        el(
            "serial",
            # a pty can be opened remotely; virtlogd keeps a bounded log of what passes through it
            el("log", file=path, append="on"),
            el("target", type=kind, port=0),
            type="pty",
        ),
        el("console", el("target", type="serial", port=0), type="pty"),
    ]


def _screen(hardware: Hardware, host: HostChoice) -> list[Element]:
    adapter = video(hardware, host.architecture)
    if hardware.video is VideoModel.NONE:
        return [adapter]
    if not host.screens:
        return [adapter] if hardware.video is not None else []
    # a password that has expired lets nobody in: get_console() sets one for a moment
    return [
        *(
            el(
                "graphics",
                el("listen", type="address", address=host.graphics_listen),
                type=kind.value,
                autoport="yes",
                passwd=secrets.token_urlsafe(6),
                passwdValidTo="1970-01-02T00:00:00",
            )
            for kind in host.screens
        ),
        adapter,
    ]


def own_disks_in(domain: Element) -> dict[str, Element]:
    """The ``<disk>`` of each disk that belongs to the instance, by role."""
    adoption = adoption_in(domain)
    if adoption is not None:
        return adopted_disks(domain, adoption)
    found = {}
    for disk in domain.iterfind("devices/disk"):
        alias = attribute(disk, "alias", "name") or ""
        if alias.startswith(OWN_ALIAS):
            found[alias.removeprefix(OWN_ALIAS)] = disk
    return found


def own_disk(domain: Element, role: str) -> Element | None:
    """The ``<disk>`` of a disk that belongs to the instance."""
    return own_disks_in(domain).get(role)


def next_target(prefix: str, *domains: Element) -> str:
    """The first device name (``vdb``) that is free in all of these: a running machine and its
    definition may have different disks."""
    taken = {
        target.get("dev") for each in domains for target in each.iterfind("devices/disk/target")
    }
    for number in range(26 * 27):
        name = prefix + _letters(number)
        if name not in taken:
            return name
    raise AssertionError("libvirt has fewer slots than there are names")


def _letters(number: int) -> str:
    letters = ""
    number += 1
    while number:
        number, digit = divmod(number - 1, 26)
        letters = chr(ord("a") + digit) + letters
    return letters


def used_sources(stats: dict[str, Any]) -> set[str]:
    """Paths of the disks in a domain's bulk statistics."""
    return {
        str(stats[f"block.{index}.path"])
        for index in range(int(stats.get("block.count", 0)))
        if f"block.{index}.path" in stats
    }


__all__ = [
    "OWN_ALIAS",
    "HostChoice",
    "OwnDisk",
    "definable",
    "disk_element",
    "domain_xml",
    "next_target",
    "own_disk",
    "own_disk_element",
    "used_sources",
]
