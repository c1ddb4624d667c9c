"""The image cache as callers see it: bring an image to the host, list them, take one away."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress

from hvdrivers.contract import errors
from hvdrivers.contract.images import ImageCache
from hvdrivers.driverkit import undoing
from hvdrivers.driverkit.images import partial_upload, staged_key, staging_name
from hvdrivers.hints import ON_THE_HOST
from hvdrivers.models.image import CachedImage, HostImage, ImageFormat, ImageRef
from hvdrivers.models.progress import ProgressCallback
from hvdrivers.vmware.base import Topic
from hvdrivers.vmware.deadline import timed
from hvdrivers.vmware.devices import by_address, chain_of
from hvdrivers.vmware.images import complete_in
from hvdrivers.vmware.record import IMAGE, RECORD, image_in, path_of, record_in
from hvdrivers.vmware.seen_images import Base


class VmwareImages(Topic, ImageCache):
    """The image cache."""

    @timed
    def cache_image(
        self,
        image: ImageRef,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> CachedImage:
        """Budget: 4 calls if it is there; else 10 and the upload, 2 more where the image ends in 64
        MiB of zeros. On vCenter 4 more if its template is there, else 12."""
        del timeout
        if isinstance(image, HostImage):
            raise errors.InvalidRequest("a host image is on the host already", hint=ON_THE_HOST)
        base = self.images.bring(image, progress)
        if not self.files.exists(base.path):  # evicted by another client
            self.seen.forget(base)
            base = self.images.bring(image, progress)
        if self.places.get().is_vcenter:
            self.templates.of(base, self.places.surroundings())
        return _entry(base, self._used())

    @timed
    def list_cached_images(self, *, timeout: float | None = None) -> Sequence[CachedImage]:
        """Budget: 4 calls for any number of images."""
        del timeout
        used = self._used()
        files = self.uploads.in_cache()
        found = [_entry(base, used) for base in complete_in(files)]
        for name, (size, written) in self.uploads.among(files).items():
            entry = partial_upload(name, size_bytes=size, written=written)
            if entry is not None:
                found.append(entry)
        return found

    @timed
    def evict_image(self, key: str, *, timeout: float | None = None) -> None:
        """Budget: 3 calls; on vCenter 15."""
        del timeout
        if staged_key(key) is not None:
            self.uploads.evict(key)
            return
        if re.fullmatch(r"[a-z0-9-]{1,80}", key) is None:
            return  # nothing of this name is in the cache
        self._refuse_used(key)
        self.seen.forget_key(key)
        folder = self.folders.path("images", key)
        if not self.places.get().is_vcenter:
            self.files.delete(folder)
            return
        for base in self.images.entries(key):
            self.seen.forget(base)
        # by its folder: the disk itself may have been deleted by hand
        self.templates.drop(f"{folder}/disk.vmdk")
        # a clone that was under way may have come to its end meanwhile: its disk is a child of
        # this one. From the renaming on there is no further one
        away = self.folders.path("images", staging_name(key))
        with undoing() as undo:
            undo.callback(self._put_back, away, folder)
            try:
                self.files.move(folder, away)
            except errors.VolumeNotFound:
                undo.forget()
                return
            # somebody may have made the template again before the renaming
            if self.templates.drop(f"{folder}/disk.vmdk"):
                self.files.delete(f"{away}/template")
            self._refuse_used(key)
            undo.forget()
        self.files.delete(away)

    def _put_back(self, away: str, folder: str) -> None:
        with suppress(errors.VolumeNotFound):
            self.files.move(away, folder)

    def _refuse_used(self, key: str) -> None:
        if key in self._used():
            raise errors.DeviceBusy(
                "an instance was made from this image, or a machine of others has its disk",
                hint="destroy() the instances that get_instance() shows with it, and look for"
                " linked clones of the image's template",
                retryable=False,
            )

    def _used(self) -> frozenset[str]:
        """Keys of the images that machines were made from: also those on other clusters and hosts
        of the vCenter, clones that others have made of instances, and any other machine that has an
        image's disk, or a child of it. One call."""
        found: set[str | None] = set()
        paths = (path_of(RECORD), path_of(IMAGE), "config.instanceUuid", "config.hardware.device")
        home = f"{self.folders.path('images')}/"
        for row in self.machines.rows(*paths, everywhere=self.places.get().is_vcenter):
            with suppress(errors.HypervisorFault):  # not ours, or damaged by somebody
                record = record_in(row)
                found |= {record.image, record.rescue_image}
            if image_in(row) is not None:
                continue  # a template of ours
            for disk in by_address(row.get("config.hardware.device") or ()).values():
                inside = [each for each in chain_of(disk) if each.startswith(home)]
                found |= {each.removeprefix(home).partition("/")[0] for each in inside}
        return frozenset(key for key in found if key is not None)


def _entry(base: Base, used: frozenset[str]) -> CachedImage:
    return CachedImage(
        key=base.key,
        format=ImageFormat.VMDK,
        virtual_size_bytes=base.virtual_size,
        size_bytes=base.size,
        in_use=base.key in used,
    )
