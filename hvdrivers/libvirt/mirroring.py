"""The disks of a machine that runs, copied to another pool by its QEMU.

The guest's writes go to the old file and to the copy. When all copies are whole the machine goes on
with each: libvirt's pivot, which changes the machine and its definition at once.
"""

from __future__ import annotations

from contextlib import suppress

import libvirt

from hvdrivers.contract import errors
from hvdrivers.driverkit.hub import is_gap
from hvdrivers.libvirt.backup_job import job_of, open_backup
from hvdrivers.libvirt.destroy import is_about
from hvdrivers.libvirt.domain import own_disk
from hvdrivers.libvirt.domains import LookAgain, xml_of
from hvdrivers.libvirt.event_hub import EventHub
from hvdrivers.libvirt.relocating import Move, Part
from hvdrivers.libvirt.room import lacking_room, needing_room
from hvdrivers.libvirt.xml import Element

_FIRST_LOOK, _LOOKS_APART = 0.05, 1.0
"""Seconds: libvirt tells of a copy's progress only when it is asked."""
_REFUSALS = (errors.DeviceBusy, errors.HypervisorFault, errors.InvalidRequest)


class Mirroring:
    """Copies disks that are in use."""

    def __init__(self, hub: EventHub) -> None:
        self._hub = hub

    def mirror(self, move: Move, live: Element) -> None:
        """Copy the disks of a machine that runs, and go on with the copies."""
        domain, turn = move.machine.domain, move.machine.turn
        if job_of(domain) is not None:
            raise open_backup()
        for part in move.parts:
            with needing_room(move.pool):
                move.pool.createXML(part.document(), 0)
            try:
                part.begin(domain, live)
            except _REFUSALS:
                self._look_again_if_off(move, live)
                raise
        self._until_whole(move, live)
        turn.check()
        gone_on: list[Part] = []
        try:
            for part in move.parts:
                self._pivot(part, move, live)
                gone_on.append(part)
        except errors.HypervisorError as error:
            if gone_on:
                raise errors.OutcomeUnknown(
                    f"some of the disks are in the other pool: {error.message}",
                    vendor_code=error.vendor_code,
                    hint="call again: that moves the rest",
                ) from error
            raise

    def _until_whole(self, move: Move, live: Element) -> None:
        """Wait until all copies are whole. One call for each look, and one for each disk."""
        machine, pause = move.machine, _FIRST_LOOK
        with self._hub.listening() as events:
            while True:
                done, whole = 0, True
                for part in move.parts:
                    job = self._job(part, move, live)
                    at, end = int(job["cur"]), int(job["end"])
                    # libvirt says so only of a copy that is complete
                    whole = whole and at >= end > 0
                    done += part.allocation * at // end if end else 0
                move.tell(done)
                if whole:
                    return
                machine.deadline.check("the disks were copied")
                machine.turn.check()
                event = events.wait(
                    lambda event: is_about(event, machine.uuid), machine.deadline.within(pause)
                )
                if is_gap(event):
                    raise errors.ConnectionFailed("the connection broke while disks were copied")
                pause = min(2 * pause, _LOOKS_APART)

    def _job(self, part: Part, move: Move, live: Element) -> dict[str, int]:
        """How far the copy of a disk is. One call.

        Raises:
            InsufficientResources: it has ended, as the pool is full.
        """
        domain = move.machine.domain
        try:
            job = domain.blockJobInfo(part.device, 0)
        except _REFUSALS:
            self._look_again_if_off(move, live)
            raise
        if job:
            return dict(job)
        self._look_again_if_off(move, live)
        move.machine.turn.check()  # or it was the client that has the turn now
        raise self._ended(part, move)

    def _ended(self, part: Part, move: Move) -> errors.HypervisorError:
        """Why a copy has come to no end. Four calls."""
        error = errors.HypervisorFault(
            "the copy of a disk came to no end: it could not be written, or others have stopped it",
            hint="the daemon's log on the host has the details",
        )
        taken = 0
        with suppress(errors.VolumeNotFound):
            taken = int(move.pool.storageVolLookupByName(part.new.name).info()[2])
        return lacking_room(move.pool, part.allocation - taken, error) or error

    def _pivot(self, part: Part, move: Move, live: Element) -> None:
        """Let the machine go on with the copy. One call; more where QEMU is not ready."""
        domain, pause = move.machine.domain, _FIRST_LOOK
        while True:
            try:
                domain.blockJobAbort(part.device, libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)
                return
            except _REFUSALS:
                now = xml_of(domain)
                if part.is_on(own_disk(now, part.role)):
                    return
                self._look_again_if_off(move, live)
                if not part.is_copied(now):
                    move.machine.turn.check()
                    raise
            move.machine.deadline.check("the machine went on with the copies")
            move.machine.turn.check()
            with self._hub.listening() as events:
                events.wait(lambda _: False, move.machine.deadline.within(pause))
            pause = min(2 * pause, _LOOKS_APART)

    @staticmethod
    def _look_again_if_off(move: Move, live: Element) -> None:
        """Look again if another client has switched the machine off meanwhile. One call."""
        if xml_of(move.machine.domain).get("id") != live.get("id"):
            raise LookAgain
