"""Another volume under a running guest: QEMU copies the old one to it, and goes on with that.

The moment of the change is libvirt's pivot. Before it the machine has the old volume, and what
fails ends the copy. After it the machine has the replacement, and its definition too: libvirt
changes both. ``held_volumes.py`` tells how each client sees which of the two it is.

A client that dies leaves a copy that runs on: libvirt keeps it until the machine is switched off.
The same swap_volume() goes on with such a copy. Any other change of the volume is DeviceBusy.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from uuid import UUID

import libvirt

from hvdrivers.contract import errors
from hvdrivers.contract.storage import SwapVolume
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.driverkit.hub import is_gap
from hvdrivers.driverkit.undo import changed, undoing
from hvdrivers.libvirt.base import LookAgain, affecting
from hvdrivers.libvirt.chains import described
from hvdrivers.libvirt.deletions import Deletions
from hvdrivers.libvirt.devices import attached_volume, limits_of, serial_of
from hvdrivers.libvirt.event_hub import Lifecycle, RawEvent
from hvdrivers.libvirt.held_volumes import (
    Slot,
    place_of,
    slot_namespace,
    slot_text,
    source_of,
    volumes_of,
)
from hvdrivers.libvirt.metadata import keep, kept
from hvdrivers.libvirt.redefining import redefine
from hvdrivers.libvirt.secrets import has_secrets
from hvdrivers.libvirt.session import Remote
from hvdrivers.libvirt.volumes import VolumeSources
from hvdrivers.libvirt.xml import Element, attribute, el, text
from hvdrivers.models.progress import Phase, Progress, ProgressCallback
from hvdrivers.models.state import InstanceState
from hvdrivers.models.volume import AttachedVolume, VolumeAttachment

_COPY = (
    libvirt.VIR_DOMAIN_BLOCK_COPY_REUSE_EXT
    | libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB
    # the guest's writes go to both at once: a busy guest cannot keep the copy from its end
    | libvirt.VIR_DOMAIN_BLOCK_COPY_SYNCHRONOUS_WRITES
)
_FIRST_LOOK, _LOOKS_APART = 0.05, 1.0
"""Seconds: libvirt tells of a copy's progress only when it is asked."""


@dataclass(frozen=True)
class _Swap:
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
    former: str | None
    """The disk's element in the metadata, as it was."""
    flags: int

    @property
    def alias(self) -> str:
        return attribute(self.disk, "alias", "name") or ""

    @property
    def device(self) -> str:
        return attribute(self.disk, "target", "dev") or ""

    @property
    def namespace(self) -> str:
        return slot_namespace(self.alias)

    def is_on(self, xml: Element) -> Element | None:
        """The disk, if it holds the replacement."""
        disk = volumes_of(xml).get(self.replacement.volume_id)
        same = disk is not None and attribute(disk, "alias", "name") == self.alias
        return disk if same else None

    def copies(self, xml: Element) -> bool:
        """Whether a copy of the disk to this replacement runs."""
        return any(
            attribute(each, "alias", "name") == self.alias
            and (mirror := each.find("mirror")) is not None
            and source_of(mirror) == source_of(self.new)
            for each in xml.iterfind("devices/disk")
        )


class LibvirtSwap(Deletions, VolumeSources, SwapVolume):
    """Swap."""

    def swap_volume(
        self,
        uuid: UUID,
        volume_id: str,
        replacement: VolumeAttachment,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> AttachedVolume:
        """Budget: 18 calls for a volume of a pool, and 1 for each look at the copy, about one a
        second; 1 more for limits, 2 for each secret.

        QEMU copies only to a disk of the same size: of a larger replacement the guest sees the rest
        at its next start."""
        deadline = Deadline(timeout)

        def act(domain: Remote, state: InstanceState) -> AttachedVolume:
            swap = self._prepared(uuid, volume_id, replacement, domain, state)
            with undoing() as undo:
                undo.callback(self._given_up, swap)
                self._make_secrets(uuid, replacement)
                self._begin(swap, domain)
                self._require_kept(replacement.volume, deadline)
                self._pivoted(swap, domain, deadline, progress)
            with changed():
                return self._completed(swap, domain)

        return self._change("swap_volume", uuid, deadline, act)

    def _prepared(
        self,
        uuid: UUID,
        volume_id: str,
        replacement: VolumeAttachment,
        domain: Remote,
        state: InstanceState,
    ) -> _Swap:
        """Check all that can be checked before anything is changed."""
        xml = self._xml(domain)
        mine, stored = volumes_of(xml), volumes_of(self._xml(domain, inactive=True))
        disk = mine.get(volume_id)
        if disk is None:
            raise errors.VolumeNotFound(f"the instance has no volume {volume_id}")
        if replacement.volume_id in {*mine, *stored}:
            raise errors.InvalidRequest("the replacement is attached to this instance already")
        if volume_id not in stored:
            raise errors.DeviceBusy(
                "the volume is leaving the machine", hint="call again when it has been detached"
            )
        _refuse_unfit(disk, replacement)
        new = self._volume_element(uuid, replacement, attribute(disk, "target", "dev") or "")
        if source_of(new) in map(source_of, (*mine.values(), *stored.values())):
            raise errors.InvalidRequest(
                "the replacement is a volume of this instance, under another id"
            )
        capacity = int(domain.blockInfo(attribute(disk, "target", "dev"), 0)[0])
        size = self._size_of(new)
        if size is not None and size < capacity:
            raise errors.InvalidRequest(
                f"the replacement has {size} bytes, the volume {capacity}",
                hint="make one that has the same size",
            )
        larger = size is not None and size > capacity
        if larger and attribute(new, "driver", "type") != "raw":
            raise errors.NotSupported(
                f"QEMU copies a disk only to one of its size; the replacement has {size} bytes, the"
                f" volume {capacity}, and only of a raw volume can QEMU use a part",
                hint="make one that has the same size, and extend_volume() it after the swap",
            )
        name = attribute(disk, "alias", "name") or ""
        return _Swap(
            uuid=uuid,
            volume_id=volume_id,
            replacement=replacement,
            disk=disk,
            new=new,
            part=capacity if larger else None,
            former=kept(xml, slot_namespace(name)),
            flags=affecting(domain, state),
        )

    def _size_of(self, disk: Element) -> int | None:
        """The bytes that a guest will see, if the volume lies in a pool. Two calls; none for one
        behind a network, and for an encrypted one, which has a header."""
        if disk.get("type") == "network" or disk.find("source/encryption") is not None:
            return None
        volume = self._in_a_pool(source_of(disk))
        description = described(volume) if volume is not None else None
        if description is None:
            return None
        # the first bytes of a raw volume are a guest's: they may look like a header with a size
        raw = attribute(disk, "driver", "type") == "raw"
        tag = "physical" if raw else "capacity"
        return int(description.findtext(tag) or description.findtext("capacity") or 0)

    def _begin(self, swap: _Swap, domain: Remote) -> None:
        mirror = swap.disk.find("mirror")
        if mirror is not None and source_of(mirror) == source_of(swap.new):
            return  # of a client that has died, or that makes the same call
        if mirror is not None:
            raise errors.DeviceBusy(
                "the volume is being copied to another one already",
                hint="the same swap_volume() goes on with that copy, and power_off() ends it",
            )
        slot = Slot(
            volume_id=swap.replacement.volume_id,
            before=swap.volume_id,
            place=place_of(swap.disk),
        )
        keep(domain, swap.namespace, slot_text(slot), swap.flags)
        domain.blockCopy(swap.device, text(_destination(swap)), None, _COPY)

    def _pivoted(
        self, swap: _Swap, domain: Remote, deadline: Deadline, progress: ProgressCallback | None
    ) -> None:
        """Wait until both volumes are the same, and go on with the replacement."""
        while self._is_copied(swap, domain, deadline, progress):
            try:
                domain.blockJobAbort(swap.device, libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)
            except (errors.DeviceBusy, errors.HypervisorFault, errors.InvalidRequest):
                if swap.copies(self._xml(domain)):
                    deadline.check("the machine went on with the replacement")
                    continue
                # another client that makes the same call was faster, or the copy has ended
                if swap.is_on(self._xml(domain)) is None:
                    raise
            return

    def _is_copied(
        self, swap: _Swap, domain: Remote, deadline: Deadline, progress: ProgressCallback | None
    ) -> bool:
        """Wait for the end of the copy; False: another client has come to the end of the swap."""
        pause = _FIRST_LOOK
        with self.hub.listening() as events:
            while True:
                job = domain.blockJobInfo(swap.device, 0)
                if not job:
                    self._require_swapped(swap, domain)
                    return False
                done, total = int(job["cur"]), int(job["end"])
                if progress is not None and total:
                    progress(Progress(phase=Phase.COPY, done=min(done, total), total=total))
                if total and done >= total:  # libvirt says so only of a copy that is complete
                    return True
                deadline.check("the volume was copied")
                event = events.wait(_is_end(swap.uuid), deadline.within(pause))
                if is_gap(event):
                    raise errors.ConnectionFailed("the connection broke while a volume was copied")
                pause = min(2 * pause, _LOOKS_APART)

    def _require_swapped(self, swap: _Swap, domain: Remote) -> None:
        """After the end of a copy that this client has not ended. Up to two calls."""
        if swap.is_on(self._xml(domain)) is not None:
            return
        if not domain.isActive():
            raise LookAgain  # the machine went off
        raise errors.HypervisorFault(
            "the copy came to no end: the replacement has another size, or could not be written,"
            " or another client has stopped the copy",
            hint="the daemon's log on the host has the details",
        )

    def _completed(self, swap: _Swap, domain: Remote) -> AttachedVolume:
        """What follows the pivot: the names, the limits, and the old one's secrets."""
        slot = Slot(volume_id=swap.replacement.volume_id)
        keep(domain, swap.namespace, slot_text(slot), swap.flags)
        redefine(self.hub, swap.uuid, domain, _defining(swap))
        qos = swap.replacement.qos
        if qos is not None or swap.disk.find("iotune") is not None:
            domain.setBlockIoTune(swap.device, limits_of(qos), swap.flags)
        if has_secrets(swap.disk):
            self._delete_secrets(swap.uuid, swap.volume_id)
        disk = swap.is_on(self._xml(domain))
        if disk is None:
            raise errors.VolumeNotFound("another client has detached the replacement meanwhile")
        return attached_volume(swap.replacement.volume_id, disk)

    def _given_up(self, swap: _Swap) -> None:
        """End the copy, and forget it; nothing, if the machine has gone on with the replacement."""
        # the machine is looked up now: this is how things are undone after a connection was lost
        try:
            domain = self._domain(swap.uuid)
            xml = self._xml(domain)
            if swap.copies(xml):
                with suppress(errors.InvalidState, errors.InvalidRequest, errors.HypervisorFault):
                    domain.blockJobAbort(swap.device, 0)
                xml = self._xml(domain)
            if swap.replacement.volume_id in volumes_of(xml):
                return
            if swap.copies(xml):
                raise errors.DeviceBusy("the copy of the volume did not end")
            if kept(xml, swap.namespace) != swap.former:
                flags = libvirt.VIR_DOMAIN_AFFECT_CONFIG
                if domain.isActive():
                    flags |= libvirt.VIR_DOMAIN_AFFECT_LIVE
                keep(domain, swap.namespace, swap.former, flags)
        except errors.InstanceNotFound:
            pass
        if swap.replacement.encryption is not None or has_secrets(swap.new):
            self._delete_secrets(swap.uuid, swap.replacement.volume_id)


def _refuse_unfit(disk: Element, replacement: VolumeAttachment) -> None:
    """What QEMU cannot change under a guest."""
    shared = disk.find("shareable") is not None or replacement.volume.multiattach
    if disk.get("device") != "disk" or shared:
        raise errors.NotSupported(
            "QEMU swaps no volume that machines share, and no disc and no LUN",
            hint="detach_volume() the old one, and attach_volume() the other",
        )
    if disk.find("readonly") is not None or replacement.read_only:
        raise errors.NotSupported(
            "QEMU swaps no volume that is read-only",
            hint="detach_volume() the old one, and attach_volume() the other",
        )


def _destination(swap: _Swap) -> Element:
    """What a copy is told: where to, in which format, and that it is a copy of the same size."""
    parts = [deepcopy(each) for each in swap.new if each.tag in {"driver", "source", "target"}]
    for each in parts:
        if each.tag == "source" and swap.part is not None:
            each.append(el("slices", el("slice", type="storage", offset=0, size=swap.part)))
    return el("disk", *parts, type=swap.new.get("type"), device="disk")


def _defining(swap: _Swap) -> Callable[[Element], Element]:
    """The definition with the replacement: source, format, and the number by which the guest finds
    it at the next start. A running machine keeps the old number."""

    def change(xml: Element) -> Element:
        for disk in xml.iterfind("devices/disk"):
            if attribute(disk, "alias", "name") != swap.alias:
                continue
            source, driver, serial = (disk.find(name) for name in ("source", "driver", "serial"))
            if source is not None:
                disk.set("type", swap.new.get("type") or "")
                disk[list(disk).index(source)] = deepcopy(next(swap.new.iter("source")))
            if driver is not None:
                driver.set("type", attribute(swap.new, "driver", "type") or "raw")
            if serial is not None:
                serial.text = serial_of(swap.replacement.volume_id)
        return xml

    return change


def _is_end(uuid: UUID) -> Callable[[RawEvent], bool]:
    def ends(event: RawEvent) -> bool:
        return (
            isinstance(event, Lifecycle)
            and event.uuid == uuid
            and event.event == libvirt.VIR_DOMAIN_EVENT_STOPPED
        )

    return ends
