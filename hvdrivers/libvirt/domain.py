"""A domain's XML: built from a spec, and read back.

Only functions of their arguments, no remote call. https://libvirt.org/formatdomain.html
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree as ET

from hvdrivers.libvirt.devices import disk_element, vif_element
from hvdrivers.libvirt.naming import domain_name
from hvdrivers.libvirt.record import NAMESPACE, PREFIX, Record
from hvdrivers.libvirt.xml import Element, el, text
from hvdrivers.models.instance import Firmware, InstanceSpec

ET.register_namespace(PREFIX, NAMESPACE)


@dataclass(frozen=True)
class OwnDisk:
    """A disk that belongs to the instance."""

    role: str
    path: str
    format: str
    boots: bool = False
    cdrom: bool = False


@dataclass(frozen=True)
class HostChoice:
    """What the host decides about a new domain."""

    virt_type: str
    """``kvm`` or ``qemu``."""
    architecture: str
    machine: str
    hotplug_slots: int


def domain_xml(
    spec: InstanceSpec,
    record: Record,
    host: HostChoice,
    *,
    disks: list[OwnDisk],
    volumes: list[Element],
    console_path: str,
    nvram_path: str,
) -> str:
    """The definition of a new domain.

    Args:
        volumes: ``<disk>`` elements of the attached volumes.
        console_path: where the daemon logs the serial port.
        nvram_path: where UEFI keeps its variables. By itself libvirt makes the path of the
            domain's name: rename() would lose the variables, and leave the file.
    """
    flavor = spec.flavor
    pcie = "q35" in host.machine or host.machine.startswith("virt")
    devices = el(
        "devices",
        *(_own_disk(disk, index) for index, disk in enumerate(disks)),
        *volumes,
        *(vif_element(vif) for vif in spec.vifs),
        *(_pcie_ports(len(disks) + len(volumes) + len(spec.vifs), host) if pcie else ()),
        el("controller", type="scsi", index=0, model="virtio-scsi"),
        *_consoles(console_path, host.architecture),
        el(
            "channel",
            el("target", type="virtio", name="org.qemu.guest_agent.0"),
            type="unix",
        ),
        el("rng", el("backend", "/dev/urandom", model="random"), model="virtio"),
        el("memballoon", el("stats", period=10), model="virtio"),
        el("panic", model="isa") if host.architecture == "x86_64" else None,
        _tpm() if spec.vtpm else None,
    )
    domain = el(
        "domain",
        el("name", domain_name(spec.name, spec.uuid)),
        el("uuid", str(spec.uuid)),
        el("metadata", record.qualified()),
        el("memory", str(flavor.memory_mib), unit="MiB"),
        el("vcpu", str(flavor.vcpus)),
        _os(spec, record.firmware, host, nvram_path),
        _features(spec, host),
        # KVM: what the host has, minus what could not move to a like host. Emulation: the default.
        el("cpu", mode="host-model") if host.virt_type == "kvm" else None,
        el("clock", el("timer", name="rtc", tickpolicy="catchup"), offset="utc"),
        el("on_poweroff", "destroy"),
        el("on_reboot", "restart"),
        # kept for a look at it; power_on(), power_off() and destroy() go on from there
        el("on_crash", "preserve"),
        devices,
        type=host.virt_type,
    )
    return text(domain)


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


def _own_disk(disk: OwnDisk, index: int) -> Element:
    if disk.cdrom:
        return el(
            "disk",
            el("driver", name="qemu", type=disk.format),
            el("source", file=disk.path),
            # not SATA, q35's own: kernels made for clouds have no AHCI driver, but this one
            el("target", dev="sda", bus="scsi"),
            el("readonly"),
            el("alias", name=f"ua-own-{disk.role}"),
            type="file",
            device="cdrom",
        )
    return el(
        "disk",
        # discard: what the guest frees becomes free on the host
        el("driver", name="qemu", type=disk.format, cache="none", discard="unmap"),
        el("source", file=disk.path),
        el("target", dev=f"vd{chr(ord('a') + index)}", bus="virtio"),
        el("boot", order=1) if disk.boots else None,
        el("alias", name=f"ua-own-{disk.role}"),
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


def _tpm() -> Element:
    return el("tpm", el("backend", type="emulator", version="2.0"), model="tpm-crb")


def next_target(domain: Element, prefix: str) -> str:
    """The first free device name (``vdb``) in a domain."""
    taken = {target.get("dev") for target in domain.iterfind("devices/disk/target")}
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
    "HostChoice",
    "OwnDisk",
    "definable",
    "disk_element",
    "domain_xml",
    "next_target",
    "used_sources",
]
