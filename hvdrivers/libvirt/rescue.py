"""Another root disk for a time.

rescue() starts the machine by a definition that is never stored. Libvirt runs it in place of the
stored one, which comes back by itself when the machine goes off, however it goes off. So a rescue
changes nothing of the instance but its domain's name: a mark in it tells every list that the
machine is rescued. Libvirt renames a machine only while it is off. So the mark, and the rescue
disk, stay until the next start, which takes them away first (``leaving_rescue.py``).

An adopted machine keeps its name, and a secret is its mark. Its rescue disk sits on the bus of its
root disk. The driver cannot tell which of its CDs is a seed disc: with one of the caller's, all its
drives are empty meanwhile.

unrescue() marks the stored definition before it switches the machine off, as rebuild() does: a
repeated call then lets the machine run.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from uuid import UUID

import libvirt

from hvdrivers import hints
from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, provides
from hvdrivers.contract.lifecycle import Rescue
from hvdrivers.driverkit.deadline import current_deadline
from hvdrivers.driverkit.own_disks import disc_of
from hvdrivers.driverkit.undo import Undo, changed, undoing
from hvdrivers.libvirt.adopted import adoption_in
from hvdrivers.libvirt.base import Topic
from hvdrivers.libvirt.devices import TARGET_PREFIX, source_of
from hvdrivers.libvirt.disk_plan import seed_drive
from hvdrivers.libvirt.domain import (
    OWN_ALIAS,
    OwnDisk,
    definable,
    next_target,
    own_disk,
    own_disk_element,
)
from hvdrivers.libvirt.domains import LookAgain, xml_of
from hvdrivers.libvirt.encrypted_memory import fitted
from hvdrivers.libvirt.files import base_path
from hvdrivers.libvirt.halves import put_back, rest, whole
from hvdrivers.libvirt.hardware import bus_of_own
from hvdrivers.libvirt.metadata import (
    STATE_NAMESPACE,
    hardware_in,
    keep,
    record_in,
    to_run_text,
)
from hvdrivers.libvirt.naming import (
    RESCUE,
    ROOT,
    SEED,
    disk_name,
    domain_name,
    label_of,
)
from hvdrivers.libvirt.overlays import Base
from hvdrivers.libvirt.pools import volume_xml
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.room import needing_room
from hvdrivers.libvirt.start import cut, explained, forget_crash, note_disk, shall_run, start
from hvdrivers.libvirt.turns import Turn
from hvdrivers.libvirt.xml import Element, attribute, parse, text
from hvdrivers.models.hardware import Hardware
from hvdrivers.models.image import ImageRef
from hvdrivers.models.progress import ProgressCallback
from hvdrivers.models.seed import SeedDisc
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import DiskBus

_FLAGS = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
_CONFIG = libvirt.VIR_DOMAIN_AFFECT_CONFIG
_RESCUE_ALIAS = f"{OWN_ALIAS}{RESCUE}-"
_TRIES = 3
"""Other clients that may start the machine while rescue() does."""


@dataclass(frozen=True)
class _Boots:
    """What a rescued machine is started with."""

    base: Base
    seed: SeedDisc | None
    disc: bytes | None
    """The content of ``seed``."""


class LibvirtRescue(Topic, Rescue):
    """Rescue."""

    @provides(Capability.RESCUE_BOOT_FROM_VOLUME, Capability.SEED_DISC)
    def rescue(
        self,
        uuid: UUID,
        image: ImageRef | None = None,
        *,
        seed: SeedDisc | None = None,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Budget from a cached image: 18 calls; 3 more for a seed, and 2 for each disk that an
        interrupted rescue has left. 6 more for an adopted machine, and 1 for macvtap NICs. It waits
        for what another client does with the snapshots: qemu-img may be at the disks."""
        del timeout
        deadline = current_deadline()
        disc = disc_of(seed) if seed is not None else None
        domain, _ = self.domains.checked("rescue", uuid, deadline)
        xml = xml_of(domain, inactive=True)
        self.networks.refuse_ports(uuid, xml)
        if seed is not None:
            seed_drive(seed, hardware_in(xml))
        base = (
            self._own_image(uuid, xml)
            if image is None
            else self.images.base(image, deadline, progress)
        )
        boots = _Boots(base, seed, disc)
        deadline.check("the image was brought to the host")
        self.turns.change(
            "rescue",
            uuid,
            deadline,
            lambda _, domain, state: self._rescued(uuid, domain, state, boots),
        )

    def _own_image(self, uuid: UUID, xml: Element) -> Base:
        """The image that the root disk was made from. One call; more for one that is not in the
        cache: the file that the root disk stands on."""
        root, key = own_disk(xml, ROOT), record_in(xml).image
        if root is None or key is None:
            raise errors.InvalidRequest(
                "the instance was made from no image", hint="name the image to boot"
            )
        found = self.images.cached(key)
        if found is not None:
            return found
        path, format_ = source_of(root), None
        while PurePosixPath(path).name.startswith(f"{uuid}."):
            description = parse(self.connection.remote.storageVolLookupByPath(path).XMLDesc(0))
            path = base_path(description)
            format_ = attribute(description, "backingStore/format", "type")
        if not path or format_ is None:
            raise errors.InvalidRequest(
                "the instance's own image is not on the host any more",
                hint="name the image to boot",
            )
        capacity = int(self.connection.remote.storageVolLookupByPath(path).info()[1])
        return Base(key=key, path=path, format=format_, virtual_size=capacity)

    def _rescued(
        self,
        uuid: UUID,
        domain: Remote,
        state: InstanceState,
        boots: _Boots,
    ) -> None:
        role = f"{RESCUE}-{secrets.token_hex(4)}"
        name, disc_name = disk_name(uuid, role), disk_name(uuid, f"{role}-{SEED}")
        others: list[str] = []
        with undoing() as undo:
            self.overlays.make(name, boots.base.virtual_size, boots.base, undo)
            if boots.disc is not None:
                self._make_rescue_seed(disc_name, boots.disc, undo)
            made = undo.steps
            if state is InstanceState.RUNNING:
                made = (*made, undo.callback(self._run_own, uuid, others))
            undo.callback(self._end_rescue, uuid, role, guards=made)
            if state is InstanceState.RUNNING:
                self.plugging.settle_before_the_end(uuid, domain)
                if not cut(domain):
                    others.append("power_off or suspend")
                    raise LookAgain
            elif state is not InstanceState.STOPPED:
                cut(domain)
            with rest() if state is InstanceState.RUNNING else nullcontext():
                self.rescues.begin(domain, uuid, role)
            # only now: a device that the guest had let go of has left the definition
            xml = definable(parse(domain.XMLDesc(_FLAGS)))
            hardware = hardware_in(xml)
            cache = _cache_of(xml) or self.config.disk_cache
            _boot_from(xml, role, _bus_for(xml, hardware), self.pools.disk_path(name), cache)
            if boots.seed is not None:
                _replace_seed(xml, boots.seed, hardware, self.pools.disk_path(disc_name))
            label = label_of(domain.name(), uuid)
            if label is not None:
                _name_of(xml).text = domain_name(label, uuid, rescued=True)
            with self.dedicated.placed(uuid, xml):
                started = self._start_rescued(uuid, domain, xml, name)
            if not started.isPersistent():
                raise errors.InstanceNotFound("the instance was destroyed meanwhile", instance=uuid)
        with changed():
            self.rescues.delete_disks(uuid, but={name, disc_name})
            self.rescues.end_others(domain, uuid, role)

    def _start_rescued(self, uuid: UUID, domain: Remote, xml: Element, name: str) -> Remote:
        """Start the machine by a definition that is not stored. One call. Another client that has
        started it by its own meanwhile came first: that machine is rescued then."""
        remote, document = domain.connect(), text(xml)
        for _ in range(_TRIES):
            try:
                started: Remote = remote.createXML(document, libvirt.VIR_DOMAIN_START_VALIDATE)
            except (errors.InvalidState, errors.HypervisorFault, errors.VolumeNotFound) as error:
                now = self.domains.find(uuid)
                if not now.isActive():
                    if not self.rescues.is_marked(now, uuid) or not self._has_disk(name):
                        raise LookAgain from error  # another client has ended the rescue
                    if isinstance(error, errors.VolumeNotFound):
                        raise
                    raise explained(remote, xml, error) from error
                if _rescue_disk(xml_of(now)) is not None:
                    raise  # by another client, which was faster
                cut(now)
            else:
                return started
        raise errors.DeviceBusy(
            "other clients start the machine again and again", hint=hints.CALL_AGAIN, retryable=True
        )

    def _has_disk(self, name: str) -> bool:
        try:
            self.pools.disks().storageVolLookupByName(name)
        except errors.VolumeNotFound:
            return False
        return True

    def _make_rescue_seed(self, name: str, disc: bytes, undo: Undo) -> None:
        undo.callback(self.pools.delete_disk, name)
        pool = self.pools.disks()
        with needing_room(pool, len(disc)):
            volume = pool.createXML(volume_xml(name, len(disc), "raw", allocation=len(disc)), 0)
        self.images.upload_bytes(volume, disc)

    def _end_rescue(self, uuid: UUID, role: str) -> None:
        """Undo the start; a rescue of another client's stays."""
        with suppress(errors.InstanceNotFound):
            domain = self.domains.find(uuid)
            if domain.isActive():
                disk = _rescue_disk(xml_of(domain))
                name = disk_name(uuid, role)
                if disk is not None and PurePosixPath(source_of(disk)).name == name:
                    cut(domain)
                elif label_of(domain.name(), uuid) is not None:
                    return
            with suppress(errors.InvalidState):  # another client has started it
                self.rescues.end(domain, uuid, role)

    def _run_own(self, uuid: UUID, others: Collection[str]) -> None:
        """Undo the end of a machine that ran. What other clients have ended stays as it is."""
        if others:
            return
        with suppress(errors.InstanceNotFound):
            start(self.domains.find(uuid))

    def unrescue(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Budget: 18 calls, 11 if it is off; of a machine that was not rescued 5 if it runs, 8 if
        it is off; 2 more for a rescue's seed, or where an earlier one was cut; 4 more for an
        adopted machine. It waits as rescue() does."""
        del timeout

        def act(_: Turn, domain: Remote, state: InstanceState) -> None:
            if state is InstanceState.RESCUED:
                unmark = partial(keep, domain, STATE_NAMESPACE, None, _CONFIG)
                with whole(partial(put_back, unmark)):
                    keep(domain, STATE_NAMESPACE, to_run_text(), _CONFIG)
                self.plugging.settle_before_the_end(uuid, domain)
                if not cut(domain):  # it has gone down by itself, and stays down
                    unmark()
                    raise LookAgain
                with rest():
                    note_disk(domain)
                runs = True
            else:
                runs = shall_run(domain, xml_of(domain, inactive=True))
            with rest():
                if state is InstanceState.CRASHED and not cut(domain):
                    forget_crash(domain)
                if state is not InstanceState.RUNNING:
                    self.rescues.delete_disks(uuid, unless_on=domain)
                    self.rescues.end(domain, uuid)
                if runs:
                    if state in {InstanceState.RESCUED, InstanceState.STOPPED}:
                        with self.dedicated.starting(uuid, domain):
                            start(domain)
                    keep(domain, STATE_NAMESPACE, None, _CONFIG)

        self.turns.change("unrescue", uuid, current_deadline(), act)


def _name_of(xml: Element) -> Element:
    name = xml.find("name")
    if name is None:
        raise errors.HypervisorFault("the domain has no name")
    return name


def _rescue_disk(xml: Element) -> Element | None:
    """The disk that a rescued machine boots from."""
    for disk in xml.iterfind("devices/disk"):
        if (attribute(disk, "alias", "name") or "").startswith(_RESCUE_ALIAS):
            return disk
    return None


def _bus_for(xml: Element, hardware: Hardware) -> DiskBus:
    """The bus of the rescue disk: that of the root disk of an adopted machine, whose firmware boots
    from it. In the place of IDE, which has four disks at most, SATA."""
    root = own_disk(xml, ROOT) if adoption_in(xml) is not None else None
    if root is None:
        return bus_of_own(None, hardware)
    there = attribute(root, "target", "bus")
    if there == DiskBus.IDE:
        return DiskBus.SATA
    return next((bus for bus in TARGET_PREFIX if bus == there), DiskBus.VIRTIO)


def _boot_from(xml: Element, role: str, bus: DiskBus, path: str, cache: str) -> None:
    """Add the rescue disk to a definition, which boots from it. No other disk changes its place."""
    added = OwnDisk(role, path, "qcow2", next_target(TARGET_PREFIX[bus], xml), bus)
    system, devices = xml.find("os"), xml.find("devices")
    if system is None or devices is None:
        raise errors.HypervisorFault("the domain has no devices")
    # an adopted machine may boot a kernel of the host
    for tag in ("boot", "kernel", "initrd", "cmdline", "dtb"):
        for each in system.findall(tag):
            system.remove(each)
    for device in devices:
        for each in device.findall("boot"):
            device.remove(each)
    last = [number for number, each in enumerate(devices) if each.tag == "disk"]
    devices.insert(last[-1] + 1 if last else 0, fitted(own_disk_element(added, cache), xml))


def _cache_of(xml: Element) -> str | None:
    """The cache mode of the machine's other disks, in the driver's own pool too; not of an adopted
    machine, whose disks are elsewhere."""
    if adoption_in(xml) is not None:
        return None
    modes = [attribute(disk, "driver", "cache") for disk in xml.iterfind("devices/disk")]
    return next((mode for mode in modes if mode), "none")


def _replace_seed(xml: Element, seed: SeedDisc, hardware: Hardware, path: str) -> None:
    """Put a seed disc in the place of the machine's own; in a drive of its own where that one is of
    another kind, or where there is none."""
    drive, own = seed_drive(seed, hardware), own_disk(xml, SEED)
    devices = xml.find("devices")
    if devices is None:
        raise errors.HypervisorFault("the domain has no devices")
    if adoption_in(xml) is not None:
        for disc in devices.findall("disk[@device='cdrom']"):
            disc.set("type", "file")
            for each in (*disc.findall("source"), *disc.findall("backingStore")):
                disc.remove(each)
    if own is not None:
        kind = "cdrom" if drive.cdrom else "disk"
        source = own.find("source")
        same = (own.get("device"), attribute(own, "target", "bus")) == (kind, drive.bus.value)
        if same and source is not None:
            source.set("file", path)
            return
        devices.remove(own)
    target = next_target(drive.prefix, xml)
    disk = OwnDisk(SEED, path, "raw", target, drive.bus, cdrom=drive.cdrom, read_only=True)
    devices.append(fitted(own_disk_element(disk, ""), xml))
