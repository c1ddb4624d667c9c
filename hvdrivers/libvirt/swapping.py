"""Another volume under a running guest: QEMU copies the old one to it, and goes on with that.

The moment of the change is libvirt's pivot. Before it the machine has the old volume, and what
fails ends the copy. After it the machine has the replacement, and its definition too: libvirt
changes both. ``held_volumes.py`` tells how each client sees which of the two it is.

A client that dies leaves a copy that runs on: libvirt keeps it until the machine is switched off.
The same swap_volume() goes on with such a copy. Any other change of the volume is DeviceBusy. A
client that dies right after the pivot leaves the number of the old volume in the definition, its
limits and its secrets: the same swap_volume() brings them in order, before it says that the old
volume is not attached.
"""

from __future__ import annotations

from contextlib import suppress
from uuid import UUID

import libvirt

from hvdrivers.contract import errors
from hvdrivers.contract.storage import SwapVolume
from hvdrivers.driverkit.deadline import Deadline, current_deadline
from hvdrivers.driverkit.hub import is_gap
from hvdrivers.driverkit.undo import Undo, changed, undoing
from hvdrivers.libvirt.base import Topic
from hvdrivers.libvirt.chains import described
from hvdrivers.libvirt.destroy import is_about
from hvdrivers.libvirt.devices import attached_volume, limits_of, serial_of
from hvdrivers.libvirt.domains import LookAgain, xml_of
from hvdrivers.libvirt.halves import second_half
from hvdrivers.libvirt.held_volumes import (
    Slot,
    in_both,
    not_attached,
    place_of,
    slot_of,
    source_of,
    volumes_of,
    write_slot,
)
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.room import explained_write
from hvdrivers.libvirt.secrets import has_secrets
from hvdrivers.libvirt.swap import Swap, defined_anew, destination
from hvdrivers.libvirt.xml import Element, attribute, parse, text
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


_CONFIG = libvirt.VIR_DOMAIN_AFFECT_CONFIG
_STORED = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
_REFUSALS = (errors.DeviceBusy, errors.HypervisorFault, errors.InvalidRequest)


class LibvirtSwap(Topic, SwapVolume):
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
        second; 1 more for limits, 2 for each secret. Up to 5 more where a client has died after
        the pivot.

        QEMU copies only to a disk of the same size: of a larger replacement the guest sees the rest
        at its next start."""
        del timeout
        deadline = current_deadline()

        def act(domain: Remote, state: InstanceState) -> AttachedVolume:
            del state
            swap = self._prepared(uuid, volume_id, replacement, domain)
            with undoing() as undo:
                undo.callback(self._unlocked, swap)
                self.secrets.make(uuid, replacement)
                self._begin(swap, domain, undo)
                self.deletions.require_kept(replacement.volume, deadline)
                self._pivoted(swap, domain, deadline, progress)
            with changed(), second_half(domain):
                return self._completed(swap, domain, swap.disk)

        return self.domains.change("swap_volume", uuid, deadline, act)

    def _prepared(
        self,
        uuid: UUID,
        volume_id: str,
        replacement: VolumeAttachment,
        domain: Remote,
    ) -> Swap:
        """Check all that can be checked before anything is changed."""
        xml = xml_of(domain)
        mine, stored = volumes_of(xml), volumes_of(xml_of(domain, inactive=True))
        disk = mine.get(volume_id)
        if disk is None:
            self._complete_for_another(uuid, volume_id, replacement, domain, xml)
            raise not_attached(volume_id)
        if replacement.volume_id in {*mine, *stored}:
            raise errors.InvalidRequest(
                "the replacement is attached to this instance already",
                hint="detach_volume() it first, or name another",
            )
        if volume_id not in stored:
            raise errors.DeviceBusy(
                "the volume is leaving the machine", hint="call again when it has been detached"
            )
        _refuse_unfit(disk, replacement)
        new = self.volumes.element(uuid, replacement, attribute(disk, "target", "dev") or "")
        _refuse_other_sectors(disk, new)
        if place_of(new) in map(place_of, (*mine.values(), *stored.values())):
            raise errors.InvalidRequest(
                "the replacement is a volume of this instance, under another id",
                hint="name another volume",
            )
        capacity = _capacity(domain, attribute(disk, "target", "dev"))
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
        return Swap(
            uuid=uuid,
            volume_id=volume_id,
            replacement=replacement,
            disk=disk,
            new=new,
            part=capacity if larger else None,
            capacity=capacity,
            run=xml.get("id"),
        )

    def _size_of(self, disk: Element) -> int | None:
        """The bytes that a guest will see, if the volume lies in a pool. Two calls; none for one
        behind a network, and for an encrypted one, which has a header."""
        if disk.get("type") == "network" or disk.find("source/encryption") is not None:
            return None
        volume = self.volumes.in_a_pool(source_of(disk))
        description = described(volume) if volume is not None else None
        if description is None:
            return None
        # the first bytes of a raw volume are a guest's: they may look like a header with a size
        raw = attribute(disk, "driver", "type") == "raw"
        tag = "physical" if raw else "capacity"
        return int(description.findtext(tag) or description.findtext("capacity") or 0)

    def _begin(self, swap: Swap, domain: Remote, undo: Undo) -> None:
        """Begin the copy, or go on with that of a client that has died, or that makes the same
        call: an undo ends no such copy."""
        mirror = swap.disk.find("mirror")
        if mirror is not None and not swap.copies(xml_of(domain)):
            raise errors.DeviceBusy(
                "the volume is being copied to another one already",
                hint="the same swap_volume() goes on with that copy, and power_off() ends it",
            )
        if mirror is None:
            undo.callback(self._given_up, swap)
            try:
                domain.blockCopy(swap.device, text(destination(swap)), None, _COPY)
            except _REFUSALS as error:
                if not swap.copies(xml_of(domain)):
                    if isinstance(error, errors.HypervisorFault):
                        self.volumes.explain_unopened(swap.new, error)
                    raise
                undo.forget()
            # a copy goes by the name of the device, and another client may have changed what is
            # behind it; from here on nobody can
            if swap.is_another(xml_of(domain)):
                raise LookAgain
        slot = Slot(
            volume_id=swap.replacement.volume_id,
            before=swap.volume_id,
            place=place_of(swap.disk),
        )
        write_slot(domain, swap.alias, slot)

    def _pivoted(
        self, swap: Swap, domain: Remote, deadline: Deadline, progress: ProgressCallback | None
    ) -> None:
        """Wait until both volumes are the same, and go on with the replacement."""
        pause = _FIRST_LOOK
        with self.hub.listening() as events:
            while True:
                job = domain.blockJobInfo(swap.device, 0)
                if not job:
                    self._require_swapped(swap, domain)
                    return
                done, total = int(job["cur"]), int(job["end"])
                if progress is not None and total:
                    progress(Progress(phase=Phase.COPY, done=min(done, total), total=total))
                # libvirt says so only of a copy that is complete
                if total and done >= total and self._has_pivoted(swap, domain):
                    return
                deadline.check("the machine went on with the replacement")
                event = events.wait(
                    lambda event: is_about(event, swap.uuid), deadline.within(pause)
                )
                if is_gap(event):
                    raise errors.ConnectionFailed("the connection broke while a volume was copied")
                pause = min(2 * pause, _LOOKS_APART)

    def _has_pivoted(self, swap: Swap, domain: Remote) -> bool:
        """Go on with the replacement; False: QEMU is not ready."""
        try:
            domain.blockJobAbort(swap.device, libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)
        except _REFUSALS:
            if swap.copies(xml_of(domain)):
                return False
            # another client that makes the same call was faster, or the copy has ended
            self._require_swapped(swap, domain)
        return True

    def _require_swapped(self, swap: Swap, domain: Remote) -> None:
        """After the end of a copy that this client has not ended. One call; five more after a
        failure."""
        xml = xml_of(domain)
        if swap.is_on(xml) is not None:
            return
        if xml.get("id") != swap.run or swap.is_another(xml):
            raise LookAgain  # the machine went off, or another client has detached the volume
        if swap.capacity != _capacity(domain, swap.device):
            raise LookAgain  # another client has extended the volume
        error = errors.HypervisorFault(
            "the copy came to no end: the replacement has another size, or could not be written,"
            " or another client has stopped the copy",
            hint="the daemon's log on the host has the details",
        )
        if swap.new.get("type") == "network":
            raise error
        raise explained_write(self.connection.remote, source_of(swap.new), error)

    def _completed(self, swap: Swap, domain: Remote, before: Element | None) -> AttachedVolume:
        """What follows the pivot: the limits, the old one's secrets, and the definition, whose
        number of the disk says that all is done. Another client may have switched the machine off
        meanwhile.

        Args:
            before: the disk with the old volume; None where nobody knows it any more.
        """
        disk = swap.is_on(xml_of(domain))
        if disk is None:
            raise errors.VolumeNotFound(
                "another client has detached the replacement meanwhile",
                hint="get_instance() shows what is attached",
            )
        qos = swap.replacement.qos
        if qos is not None or before is None or before.find("iotune") is not None:
            in_both(lambda flags: domain.setBlockIoTune(swap.device, limits_of(qos), flags))
        if before is None or has_secrets(before):
            self.secrets.delete_of(swap.uuid, swap.volume_id)
        self._define_on(swap, domain, disk)
        return attached_volume(swap.replacement.volume_id, disk)

    @staticmethod
    def _define_on(swap: Swap, domain: Remote, disk: Element) -> None:
        """Two calls, which leave what other clients change meanwhile."""

        def stored() -> Element | None:
            return swap.is_on(parse(domain.XMLDesc(_STORED)))

        if (found := stored()) is not None:
            try:
                domain.updateDeviceFlags(text(defined_anew(swap, found, disk)), _CONFIG)
            except _REFUSALS:
                if stored() is not None:  # not detached meanwhile
                    raise

    def _complete_for_another(
        self,
        uuid: UUID,
        volume_id: str,
        replacement: VolumeAttachment,
        domain: Remote,
        xml: Element,
    ) -> None:
        """Do what a client that has died after the pivot of the same call did not come to."""
        disk = volumes_of(xml).get(replacement.volume_id)
        slot = None if disk is None else slot_of(xml, disk)
        if disk is None or slot is None or slot.before != volume_id:
            return
        stored = volumes_of(xml_of(domain, inactive=True)).get(replacement.volume_id)
        if stored is None or stored.findtext("serial") == serial_of(replacement.volume_id):
            return
        with changed(), second_half(domain):
            swap = Swap(
                uuid=uuid,
                volume_id=volume_id,
                replacement=replacement,
                disk=disk,
                new=disk,
                part=None,
                capacity=None,
                run=xml.get("id"),
            )
            self._completed(swap, domain, None)

    def _given_up(self, swap: Swap) -> None:
        """End the copy; nothing, if the machine has gone on with the replacement."""
        # the machine is looked up now: this is how things are undone after a connection was lost
        with suppress(errors.InstanceNotFound):
            domain = self.domains.find(swap.uuid)
            if not swap.copies(xml_of(domain)):
                return
            with suppress(errors.InvalidState, errors.InvalidRequest, errors.HypervisorFault):
                domain.blockJobAbort(swap.device, 0)
            if swap.copies(xml_of(domain)):
                raise errors.DeviceBusy(
                    "the copy of the volume did not end",
                    hint="the same swap_volume() goes on with that copy, and power_off() ends it",
                )

    def _unlocked(self, swap: Swap) -> None:
        """Forget the secrets of a replacement that the machine has not, and does not get. No call
        where there are none."""
        if swap.replacement.encryption is None and not has_secrets(swap.new):
            return
        with suppress(errors.InstanceNotFound):
            xml = xml_of(self.domains.find(swap.uuid))
            if swap.copies(xml) or swap.replacement.volume_id in volumes_of(xml):
                return
        self.secrets.delete_of(swap.uuid, swap.replacement.volume_id)


def _capacity(domain: Remote, device: str | None) -> int:
    """The bytes that a guest sees of a disk. One call."""
    return int(domain.blockInfo(device, 0)[0])


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


def _refuse_other_sectors(disk: Element, new: Element) -> None:
    wanted, there = new.find("blockio"), disk.find("blockio")
    if wanted is not None and wanted.attrib != (there.attrib if there is not None else {}):
        raise errors.NotSupported(
            "the guest knows the disk by the sizes of its blocks, and the replacement has others",
            hint="detach_volume() the old one, and attach_volume() the other",
        )
