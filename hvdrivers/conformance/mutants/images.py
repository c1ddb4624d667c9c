"""Mutants of the image cache, and of images in spawn."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import ClassVar
from uuid import UUID, uuid4

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.image_store import Images
from hvdrivers.fake.records import ImageRecord, Machine
from hvdrivers.fake.showing import Showing
from hvdrivers.fake.steps import Task
from hvdrivers.models.image import CachedImage, FileImage, HostImage, HttpImage, ImageRef
from hvdrivers.models.instance import InstanceInfo, InstanceSpec, Keep
from hvdrivers.models.progress import Phase, Progress, ProgressCallback


@mutant("IMG-001")
class KeyIsTheFilesName(FakeDriver):
    """An image is named by its file: another content under that name is never loaded."""

    def cache_image(
        self,
        image: ImageRef,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> CachedImage:
        cached = super().cache_image(image, timeout=timeout, progress=progress)
        if isinstance(image, FileImage):
            key = HostImage(name=image.path.name).cache_key()
            return cached.model_copy(update={"key": key})
        return cached


@mutant("IMG-001")
class EachConnectionHasItsCache(FakeDriver):
    """list_cached_images() shows what this connection has loaded."""

    def _cached(self, record: ImageRecord) -> CachedImage:
        self.__dict__.setdefault("loaded", set()).add(record.key)
        return super()._cached(record)

    def _list_images(self) -> list[CachedImage]:
        loaded = set(self.__dict__.get("loaded", ()))
        records = self.fake_host.default_pool.images.values()
        return [self._cached(record) for record in records if record.key in loaded]


@mutant("IMG-001")
class DiskSizeIsTheFiles(FakeDriver):
    """The size of the disk in an image is taken for that of the file."""

    def _cached(self, record: ImageRecord) -> CachedImage:
        cached = super()._cached(record)
        return cached.model_copy(update={"virtual_size_bytes": record.size_bytes + 4096})


@mutant("IMG-002")
class EachLoadUploads(FakeDriver):
    """An image that is in the cache is uploaded again."""

    class images_type(Images):
        def find(self, key: str) -> ImageRecord | None:
            return None


@mutant("IMG-002")
class LoadWithoutChecksumUploads(FakeDriver):
    """Only an image with a checksum is found in the cache; any other is uploaded each time."""

    class images_type(Images):
        def upload(self, task: Task, ref: FileImage | HttpImage) -> ImageRecord:
            if ref.checksum is None:
                task.report(Phase.UPLOAD, 1, 1)
            return super().upload(task, ref)


@mutant("IMG-003")
class SecondCallerIsRefused(FakeDriver):
    """Who asks for an image that another is just loading gets DeviceBusy."""

    loading: ClassVar[set[ImageRef]] = set()
    gate: ClassVar[threading.Lock] = threading.Lock()

    def cache_image(
        self,
        image: ImageRef,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> CachedImage:
        with self.gate:
            if image in self.loading:
                raise errors.DeviceBusy("somebody else loads it")
            self.loading.add(image)
        try:
            time.sleep(0.05)
            return super().cache_image(image, timeout=timeout, progress=progress)
        finally:
            self.loading.discard(image)


@mutant("IMG-003")
class HalfAnImageStays(FakeDriver):
    """What was uploaded under a name of its own stays beside the image."""

    class images_type(Images):
        def finish_upload(self, name: str) -> ImageRecord:
            record = self.host.default_pool.uploads[name]
            finished = super().finish_upload(name)
            self.host.default_pool.uploads[name] = record
            return finished


class _Trusting(Images):
    """Uploads what it is given, without a look at it."""

    def upload(self, task: Task, ref: FileImage | HttpImage) -> ImageRecord:
        key = ref.cache_key() or f"{ref.format}-{uuid4().hex}"
        record = ImageRecord(key, ref.format, 1 << 20, 1 << 20, ("unseen",))
        task.call("upload-image", lambda: None, covered=True)
        return task.call(
            "finish-upload",
            lambda: self.host.default_pool.images.setdefault(key, record),
            covered=True,
        )


@mutant("IMG-004")
class CacheTrustsImages(FakeDriver):
    """cache_image() does not inspect what it loads."""

    images_type = _Trusting


@mutant("IMG-012")
class SpawnTrustsImages(FakeDriver):
    """spawn() does not inspect what it boots."""

    images_type = _Trusting


@mutant("IMG-004")
class RejectedImageIsCached(FakeDriver):
    """The right error for an unsafe image, after it was put into the cache."""

    class images_type(Images):
        def upload(self, task: Task, ref: FileImage | HttpImage) -> ImageRecord:
            try:
                return super().upload(task, ref)
            except errors.ImageRejected:
                key = f"{ref.format}-{uuid4().hex}"
                rejected = ImageRecord(key, ref.format, 512, 512, ("unsafe",))
                self.host.default_pool.images[key] = rejected
                raise


@mutant("IMG-004")
class RejectionIsAFault(FakeDriver):
    """An unsafe image is a HypervisorFault, like a host that is broken."""

    class images_type(Images):
        def upload(self, task: Task, ref: FileImage | HttpImage) -> ImageRecord:
            try:
                return super().upload(task, ref)
            except errors.ImageRejected as error:
                raise errors.HypervisorFault("the image cannot be read") from error


@mutant("IMG-004")
class ChecksumIsNotCompared(FakeDriver):
    """An image is loaded whose content is not what its checksum says."""

    class images_type(Images):
        def upload(self, task: Task, ref: FileImage | HttpImage) -> ImageRecord:
            if isinstance(ref, FileImage) and ref.checksum is not None:
                ref = ref.model_copy(update={"checksum": None})
            return super().upload(task, ref)


@mutant("IMG-005")
class RoomForImagesIsNotCounted(FakeDriver):
    """cache_image() overfills the pool."""

    class images_type(Images):
        def begin_upload(self, name: str, record: ImageRecord) -> None:
            self.host.default_pool.uploads[name] = record


@mutant("IMG-006")
class CacheListShowsSomeTwice(FakeDriver):
    """list_cached_images() shows an entry for each file that it consists of."""

    def list_cached_images(self, *, timeout: float | None = None) -> Sequence[CachedImage]:
        return 2 * list(super().list_cached_images(timeout=timeout))


@mutant("IMG-006")
class NoImageIsInUse(FakeDriver):
    """list_cached_images() says of every image that nobody uses it."""

    def _cached(self, record: ImageRecord) -> CachedImage:
        return super()._cached(record).model_copy(update={"in_use": False})


@mutant("IMG-007")
class EvictOfAbsentRaises(FakeDriver):
    """evict_image() of an image that is gone raises VolumeNotFound."""

    def _evict(self, key: str) -> None:
        if key not in self.fake_host.default_pool.images:
            raise errors.VolumeNotFound("no such image")
        super()._evict(key)


@mutant("IMG-007")
class EvictTakesAll(FakeDriver):
    """evict_image() empties the cache of everything that nobody uses."""

    def _evict(self, key: str) -> None:
        super()._evict(key)
        for other in list(self.fake_host.default_pool.images):
            if not self._in_use(other):
                super()._evict(other)


@mutant("IMG-008")
class EvictsImagesInUse(FakeDriver):
    """evict_image() removes the image that instances' disks are based on."""

    def _evict(self, key: str) -> None:
        self.fake_host.default_pool.images.pop(key, None)


@mutant("IMG-008")
class EvictLooksAtRunningMachines(FakeDriver):
    """evict_image() removes the image that the disk of a stopped instance is based on."""

    def _evict(self, key: str) -> None:
        if any(each.image_key == key and each.takes_memory for each in self.fake_host.ours()):
            raise errors.DeviceBusy("an instance runs from it")
        self.fake_host.default_pool.images.pop(key, None)


@mutant("IMG-008")
class EvictRefusedTooLate(FakeDriver):
    """The right error for an image in use, after it was removed."""

    def _evict(self, key: str) -> None:
        used = self._in_use(key)
        self.fake_host.default_pool.images.pop(key, None)
        if used:
            raise errors.DeviceBusy("a disk is based on it")


@mutant("IMG-008")
class OnceUsedIsForEver(FakeDriver):
    """An image from which anything was ever spawned cannot be evicted."""

    def _evict(self, key: str) -> None:
        record = self.fake_host.default_pool.images.get(key)
        if record is not None and record.last_used is not None:
            raise errors.DeviceBusy("the image was used")
        super()._evict(key)


@mutant("IMG-010")
class DestroyEvictsTheImage(FakeDriver):
    """destroy() of the last instance removes the image from the cache."""

    def destroy(
        self, uuid: UUID, *, keep: AbstractSet[Keep] = frozenset(), timeout: float | None = None
    ) -> None:
        machine = self.fake_host.machines.get(uuid)
        super().destroy(uuid, keep=keep, timeout=timeout)
        if machine is not None and not self._in_use(machine.image_key or ""):
            self.fake_host.default_pool.images.pop(machine.image_key or "", None)


@mutant("IMG-010")
class InstanceForgetsItsImage(FakeDriver):
    """get_instance() does not tell what an instance was made from."""

    class showing_type(Showing):
        def info(self, machine: Machine) -> InstanceInfo:
            return super().info(machine).model_copy(update={"image": None})


@mutant("IMG-011")
class EachSpawnUploads(FakeDriver):
    """spawn() brings the image to the host each time."""

    def spawn(
        self,
        spec: InstanceSpec,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> InstanceInfo:
        if progress is not None:
            progress(Progress(phase=Phase.UPLOAD, done=1, total=1))
        return super().spawn(spec, timeout=timeout, progress=progress)


@mutant("IMG-012")
class RejectedSpawnLeavesAnUpload(FakeDriver):
    """The right error for an unsafe image, after it was uploaded."""

    class images_type(Images):
        def upload(self, task: Task, ref: FileImage | HttpImage) -> ImageRecord:
            try:
                return super().upload(task, ref)
            except errors.ImageRejected:
                rejected = ImageRecord("unsafe", ref.format, 512, 512, ("unsafe",))
                self.host.default_pool.uploads[uuid4().hex] = rejected
                raise


@mutant("IMG-013")
class DiskGrowsToTheImage(FakeDriver):
    """An image that is larger than the disk asked for makes the disk larger, unasked."""

    def spawn(
        self,
        spec: InstanceSpec,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> InstanceInfo:
        try:
            return super().spawn(spec, timeout=timeout, progress=progress)
        except errors.ImageRejected:
            flavor = spec.flavor.model_copy(update={"disk_gib": 0})
            spec = spec.model_copy(update={"flavor": flavor})
            return super().spawn(spec, timeout=timeout, progress=progress)


@mutant("IMG-013")
class TooLargeImageLacksResources(FakeDriver):
    """An image that is larger than the disk asked for is a lack of resources."""

    def spawn(
        self,
        spec: InstanceSpec,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> InstanceInfo:
        try:
            return super().spawn(spec, timeout=timeout, progress=progress)
        except errors.ImageRejected as error:
            raise errors.InsufficientResources("the disk is too small") from error


@mutant("IMG-014")
class AbsentFileIsAnAbsentVolume(FakeDriver):
    """A file that is not there is reported as something that the host lacks."""

    class images_type(Images):
        def upload(self, task: Task, ref: FileImage | HttpImage) -> ImageRecord:
            if isinstance(ref, FileImage) and not ref.path.exists():
                raise errors.VolumeNotFound("no such image")
            return super().upload(task, ref)


@mutant("IMG-008")
class RescueDisksAreNotCounted(FakeDriver):
    """evict_image() removes the image that a rescue disk is based on."""

    def _in_use(self, key: str) -> bool:
        pools = self.fake_host.pools.values()
        disks = [disk for pool in pools for disk in pool.disks.values()]
        return any(disk.base == key for disk in disks if disk.role != "rescue")


@mutant("IMG-015")
class HostImagesAreCached(FakeDriver):
    """cache_image() of an image that is on the host copies it into the cache."""

    def cache_image(
        self,
        image: ImageRef,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> CachedImage:
        if isinstance(image, HostImage):
            return self._cached(self.images.host_image(image))
        return super().cache_image(image, timeout=timeout, progress=progress)
