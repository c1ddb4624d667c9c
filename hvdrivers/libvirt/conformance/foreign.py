"""Machines that others make on a libvirt host, while the conformance suite runs there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from typing import Any
from uuid import UUID, uuid4

import libvirt

from hvdrivers.conformance.engine.image_files import DISK_BYTES, qcow2_with_text
from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.conformance.engine.target import FOREIGN_TEXT
from hvdrivers.libvirt.conformance.raw_host import RawHost
from hvdrivers.libvirt.xml import el, parse, text


@contextmanager
def machine_of_others(raw: RawHost, pool: str, name: str | None) -> Iterator[UUID]:
    """A running machine.

    Args:
        pool: where its disk is; without one where the driver has not made that pool yet.
        name: None: one is made up.
    """
    uuid = uuid4()
    connect = raw.connect
    volume = _disk(connect, pool, f"foreign-{uuid.hex[:8]}.qcow2")
    xml = el(
        "domain",
        el("name", name or f"foreign-{uuid.hex[:8]}"),
        el("uuid", str(uuid)),
        el("memory", "32", unit="MiB"),
        el("os", el("type", "hvm", arch=str(connect.getInfo()[0]))),
        el(
            "devices",
            el(
                "disk",
                el("driver", name="qemu", type="qcow2"),
                el("source", file=volume.path()),
                el("target", dev="vda", bus="virtio"),
                type="file",
                device="disk",
            ),
        )
        if volume is not None
        else None,
        type="qemu",
    )
    domain = connect.defineXML(text(xml))
    try:
        domain.create()
        yield uuid
    finally:
        with suppress(libvirt.libvirtError):  # it has been adopted and destroyed
            domain = raw.domain(uuid)
            if domain.isActive():
                domain.destroy()
            domain.undefine()
        with suppress(libvirt.libvirtError):
            if volume is not None:
                volume.delete()


def _disk(connect: Any, pool: str, name: str) -> Any:
    try:
        found = connect.storagePoolLookupByName(pool)
    except libvirt.libvirtError:
        return None
    target = el("target", el("format", type="qcow2"))
    xml = el("volume", el("name", name), el("capacity", str(DISK_BYTES)), target)
    volume = found.createXML(text(xml), 0)
    content = qcow2_with_text(FOREIGN_TEXT)
    stream = connect.newStream(0)
    volume.upload(stream, 0, len(content), 0)
    stream.sendAll(lambda _stream, size, source: source.read(size), BytesIO(content))
    stream.finish()
    return volume


@contextmanager
def copy_of(raw: RawHost, uuid: UUID) -> Iterator[UUID]:
    """What ``virt-clone`` does: the same definition, with its metadata, under another UUID."""
    copy = uuid4()
    xml = parse(raw.domain(uuid).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    for name, value in (("uuid", str(copy)), ("name", f"copy-{copy.hex[:8]}")):
        part = xml.find(name)
        if part is None:
            raise PreconditionMissing(f"the definition has no {name}")
        part.text = value
    devices = xml.find("devices")
    if devices is not None:
        for disk in devices.findall("disk"):
            devices.remove(disk)  # those of the original are not copied here
    domain = raw.connect.defineXML(text(xml))
    try:
        yield copy
    finally:
        domain.undefine()
