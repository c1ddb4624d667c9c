"""Uploads that are not complete: those under way, and what dead clients have left.

The content of an image is a volume ``hv-image-<key>.<nonce>``. It is in the cache as soon as the
record ``hv-image-<key>`` stands on it. A content without a record is an upload that is under way,
or what an upload or an eviction has left whose client died.

All ages are differences of two times of files on the host. The caller's clock may be days off.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import PurePosixPath

from hvdrivers.contract import errors
from hvdrivers.driverkit.images import (
    abandoned,
    partial_upload,
    refuse_alive,
    staged_key,
    staging_name,
)
from hvdrivers.libvirt.chains import Chains, described
from hvdrivers.libvirt.files import base_path, written_at
from hvdrivers.libvirt.naming import IMAGE_PREFIX
from hvdrivers.libvirt.pools import Pools, delete, volume_xml
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.xml import parse, readable
from hvdrivers.messages import shortened
from hvdrivers.models.image import CachedImage


class PartialUploads:
    """Contents without a record."""

    def __init__(self, pools: Pools, chains: Chains) -> None:
        self._pools = pools
        self._chains = chains

    def shown(self, volumes: Mapping[str, Remote]) -> list[CachedImage]:
        """Two calls for each content without a record, and one for each that has one."""
        found = []
        for name in self._incomplete(volumes):
            volume = volumes[name]
            key = name.removeprefix(IMAGE_PREFIX)
            with suppress(errors.VolumeNotFound):  # complete, or removed meanwhile
                entry = readable(f"the upload {key!r}", partial(_shown, key, volume))
                if entry is not None:
                    found.append(entry)
        return found

    def _incomplete(self, volumes: Mapping[str, Remote]) -> list[str]:
        """Names of the contents that no record stands on. One call for each that has a record of
        its key: it may stand on another content, if two clients have uploaded one image."""
        found = []
        for name in volumes:
            key = staged_key(name.removeprefix(IMAGE_PREFIX))
            if key is None or not name.startswith(IMAGE_PREFIX):
                continue
            record = volumes.get(IMAGE_PREFIX + key)
            if record is not None:
                description = described(record)
                # a record that cannot be read now may stand on it
                content = base_path(description) if description is not None else ""
                if not content or PurePosixPath(content).name == name:
                    continue
            found.append(name)
        return found

    def evict(self, key: str) -> None:
        """Remove an upload that nobody writes to. Budget: 6 calls, one for each cached image, and
        those of a look at all file pools, as for a complete one."""
        pool = self._pools.disks()
        volumes = self._pools.volumes(pool)
        name = IMAGE_PREFIX + key
        if name not in self._incomplete(volumes):
            return
        description = described(volumes[name])
        if description is None:
            return
        refuse_alive(written_at(description), host_now=_host_now(pool, name))
        # an eviction that died has left a content with disks on it
        self.refuse_based(volumes[name], None)
        delete(volumes[name])

    def refuse_based(self, content: Remote, record: str | None) -> None:
        """Raise DeviceBusy if an image's content is in use. Calls as for delete_volume()."""
        with self._chains.looking(content) as look:
            users = [name for name in look.overlays() if name != record]
            machine = None if users else self._chains.machine_with(look)
        if users:
            disks = "1 disk" if len(users) == 1 else f"{len(users)} disks"
            raise errors.DeviceBusy(
                f"the image is the base of {disks}: {shortened(', '.join(sorted(users)))}",
                hint="destroy their instances first: a disk's name begins with the instance's UUID",
                retryable=False,
            )
        if machine is not None:
            raise errors.DeviceBusy(
                f"the image is a disk of machine {machine.UUIDString()}",
                hint="detach it from that machine first",
                retryable=False,
            )

    def remove_abandoned(self, pool: Remote, new: Remote) -> None:
        """Remove what dead clients have left, before another upload takes room.

        Args:
            new: a volume that has just been made. It tells the time by the host's clock.
        """
        now = described(new)
        host_now = written_at(now)
        if host_now is None:
            return
        volumes = self._pools.volumes(pool)
        contents: dict[str, Remote] = {}
        written: list[tuple[str, float]] = []
        for name in self._incomplete(volumes):
            description = described(volumes[name])
            at = written_at(description)
            if at is not None:
                key = name.removeprefix(IMAGE_PREFIX)
                contents[key] = volumes[name]
                written.append((key, at))
        for key in abandoned(written, host_now=host_now):
            with suppress(errors.DeviceBusy):
                self.refuse_based(contents[key], None)
                delete(contents[key])


def _shown(key: str, volume: Remote) -> CachedImage | None:
    description = parse(volume.XMLDesc(0))
    size = int(description.findtext("allocation") or 0)
    return partial_upload(key, size_bytes=size, written=written_at(description))


def _host_now(pool: Remote, name: str) -> float:
    """The host's clock: the time of an empty file that is made for it. Three calls.

    Its name is that of one more upload of the same image, so that it is removed as such if this
    process dies here.
    """
    key = staged_key(name.removeprefix(IMAGE_PREFIX)) or ""
    volume = pool.createXML(volume_xml(IMAGE_PREFIX + staging_name(key), 4096, "raw"), 0)
    try:
        now = written_at(parse(volume.XMLDesc(0)))
    finally:
        delete(volume)
    return now if now is not None else 0.0
