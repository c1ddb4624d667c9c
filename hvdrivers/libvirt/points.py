"""Points in time that backups were made at: persistent bitmaps in the qcow2 files of own disks.

A bitmap marks what has been written since. QEMU keeps it in memory while the machine is on, and in
the disk's file while it is off. Where QEMU was killed the bitmaps are damaged, and a disk with
bitmaps goes back to no snapshot: neither QEMU nor ``qemu-img`` does that. So a bitmap that is
whole tells the truth, whatever has happened to the machine.

Libvirt would remember a checkpoint for each, and loses it when the machine is renamed: libvirt 9.0
moves its description to the folder of snapshots. The driver has libvirt forget it at once, and
tells it again when the point is used (``backup.py``).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from typing import Any

import libvirt

from hvdrivers.contract import errors
from hvdrivers.libvirt import monitor
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.session import unnoticed

_PREFIX = "hv-backup-"
_ID = re.compile(rf"{_PREFIX}([0-9]{{1,9}})-[0-9a-f]{{8}}")
_FORGET = libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY
_JOB = "backup-"
"""What libvirt calls the jobs of a backup in QEMU, at the beginning."""
MOST = 8
"""Points that are kept. Each bitmap costs QEMU a little at each write."""


def next_id(known: Iterable[str]) -> str:
    """The id of a point after these."""
    return f"{_PREFIX}{1 + max(map(_number, known), default=0)}-{secrets.token_hex(4)}"


def is_point(name: str) -> bool:
    """Whether a bitmap, or a checkpoint, of this name is one of the driver's."""
    return _ID.fullmatch(name) is not None


def _number(name: str) -> int:
    found = _ID.fullmatch(name)
    return int(found[1]) if found else 0


def points_in(bitmaps: Iterable[Mapping[str, Any]]) -> dict[str, bool]:
    """The points in what QEMU tells of a disk's bitmaps, and whether each is whole."""
    return {
        str(each["name"]): bool(each.get("recording")) and not each.get("inconsistent")
        for each in bitmaps
        if is_point(str(each.get("name") or ""))
    }


def whole(disks: Collection[Mapping[str, bool]]) -> set[str]:
    """The points that every disk has whole."""
    names = [{name for name, is_whole in disk.items() if is_whole} for disk in disks]
    return set.intersection(*names) if names else set()


def outdated(disks: Collection[Mapping[str, bool]], but: str | None) -> set[str]:
    """The points that are to go before there is another one: damaged ones, and the oldest.

    Args:
        but: one that stays.
    """
    good = sorted(whole(disks), key=lambda name: (_number(name), name))
    stay = set(good[-(MOST - 1) :]) | {but}
    return {name for disk in disks for name in disk} - stay


def remove(
    domain: Remote,
    disks: Mapping[str, Mapping[str, bool]],
    names: Collection[str],
) -> bool:
    """Remove these points from the disks of a machine that is on; whether there were any. One
    call, none without one.

    Args:
        disks: the points in each, by what QEMU calls the disk.
    """
    actions = [
        {"type": "block-dirty-bitmap-remove", "data": {"node": node, "name": name}}
        for node, known in disks.items()
        for name in known
        if name in names
    ]
    if actions:
        monitor.ask(domain, "transaction", {"actions": actions})
    return bool(actions)


def forget_checkpoints(domain: Remote) -> int:
    """Let libvirt forget the driver's points; the bitmaps stay. One call, and one for each.

    Returns:
        How many there are of other software.
    """
    others = 0
    for checkpoint in domain.listAllCheckpoints(0):
        if not is_point(checkpoint.getName()):
            others += 1
            continue
        with suppress(errors.VolumeNotFound), unnoticed():
            checkpoint.delete(_FORGET)
    return others


def end_jobs(domain: Remote) -> None:
    """End what QEMU has begun of a backup that libvirt 9.0 takes for failed: it knows of no job
    then that it could end, and keeps the backup until these have ended. One call, and one for each
    disk."""
    for job in monitor.ask(domain, "query-block-jobs", reads=True):
        if str(job.get("device", "")).startswith(_JOB):
            with suppress(errors.HypervisorFault):  # it has ended meanwhile
                monitor.ask(domain, "block-job-cancel", {"device": job["device"]})
