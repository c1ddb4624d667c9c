"""One swap_volume(): which disk, what takes its place, and how libvirt is told."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from uuid import UUID

from hvdrivers.libvirt.devices import serial_of
from hvdrivers.libvirt.held_volumes import place_of, volumes_of
from hvdrivers.libvirt.xml import Element, attribute, el
from hvdrivers.models.volume import VolumeAttachment


@dataclass(frozen=True)
class Swap:
    """One call of swap_volume()."""

    uuid: UUID
    volume_id: str
    replacement: VolumeAttachment
    disk: Element
    """As the machine has it."""
    new: Element
    """What takes its place."""
    part: int | None
    """The bytes of a larger replacement that the running machine uses."""
    capacity: int | None
    """The bytes that the guest saw at the beginning; None where nothing is copied."""
    run: str | None
    """What libvirt calls this run of the machine, from its start to its end."""

    @property
    def alias(self) -> str:
        """By which libvirt knows the disk."""
        return attribute(self.disk, "alias", "name") or ""

    @property
    def device(self) -> str:
        """``vdb``."""
        return attribute(self.disk, "target", "dev") or ""

    def is_on(self, xml: Element) -> Element | None:
        """The disk, if it holds the replacement."""
        disk = volumes_of(xml).get(self.replacement.volume_id)
        same = disk is not None and attribute(disk, "alias", "name") == self.alias
        return disk if same else None

    def is_another(self, xml: Element) -> bool:
        """Whether the disk is another one than at the beginning."""
        disk = volumes_of(xml).get(self.volume_id)
        return (
            disk is None
            or attribute(disk, "alias", "name") != self.alias
            or place_of(disk) != place_of(self.disk)
        )

    def copies(self, xml: Element) -> bool:
        """Whether a copy to this replacement runs: a copy goes by the name of the device."""
        return any(
            attribute(each, "target", "dev") == self.device
            and (mirror := each.find("mirror")) is not None
            and place_of(mirror) == place_of(self.new)
            for each in xml.iterfind("devices/disk")
        )


def destination(swap: Swap) -> Element:
    """What a copy is told: where to, in which format, and that it is a copy of the same size."""
    parts = [deepcopy(each) for each in swap.new if each.tag in {"driver", "source", "target"}]
    for each in parts:
        if each.tag == "source" and swap.part is not None:
            each.append(el("slices", el("slice", type="storage", offset=0, size=swap.part)))
    return el("disk", *parts, type=swap.new.get("type"), device="disk")


def defined_anew(swap: Swap, stored: Element, disk: Element) -> Element:
    """The disk of the definition with the replacement: source, format, and the number by which the
    guest finds it at the next start. A running machine keeps the old number, and its part of a
    larger volume.

    Args:
        stored: as the definition has it.
        disk: as the machine has it.
    """
    for element in stored:
        if element.tag == "source":
            element[:] = [deepcopy(each) for each in disk.iterfind("source/*")]
            element.attrib.clear()
            element.attrib.update(next(disk.iter("source")).attrib)
            element.attrib.pop("index", None)
            for part in element.findall("slices"):
                element.remove(part)
        elif element.tag == "driver":
            element.set("type", attribute(disk, "driver", "type") or "raw")
        elif element.tag == "serial":
            element.text = serial_of(swap.replacement.volume_id)
    stored.set("type", disk.get("type") or "")
    return stored
