"""Another size, another root disk, and a disk to rescue from."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from hvdrivers.contract.capabilities import Capability, declared, provides
from hvdrivers.contract.lifecycle import HotResizeMemory, Rebuild, Rescue, Resize
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.driverkit.own_disks import disc_of
from hvdrivers.hyperv.base import Topic
from hvdrivers.hyperv.image_store import ImageStore
from hvdrivers.hyperv.instances import GIB, MIB
from hvdrivers.hyperv.library import Json
from hvdrivers.hyperv.record import packed
from hvdrivers.hyperv.sizes import check_size
from hvdrivers.models.image import ImageRef
from hvdrivers.models.instance import Flavor
from hvdrivers.models.progress import ProgressCallback
from hvdrivers.models.seed import SeedDisc


class HypervReshape(Topic, Resize, HotResizeMemory, Rebuild, Rescue):
    """Budget of each operation: 1 call, and what it takes to bring an image to the host."""

    def resize(
        self,
        uuid: UUID,
        flavor: Flavor,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Budget: 1 call."""
        del progress
        check_size(flavor)
        arguments = {
            "flavor": packed(flavor),
            "cpus": flavor.vcpus,
            "memory": flavor.memory_mib * MIB,
            "numa": flavor.numa_nodes or 0,
            "size": flavor.disk_gib * GIB,
        }
        self.session.change("resize", "Resize", uuid, arguments, timeout)

    def hot_resize_memory(
        self, uuid: UUID, memory_mib: int, *, timeout: float | None = None
    ) -> None:
        """Budget: 1 call. More, and less too; Windows Server 2016 is the first that does so."""
        check_size(Flavor(vcpus=1, memory_mib=memory_mib))
        arguments = {"mib": memory_mib, "memory": memory_mib * MIB}
        self.session.change("hot_resize_memory", "HotMemory", uuid, arguments, timeout)

    @provides(*declared(ImageStore))
    def rebuild(
        self,
        uuid: UUID,
        image: ImageRef,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Budget: 1 call from a cached image."""
        deadline = Deadline(timeout)
        arguments = self._image_arguments(image, deadline, progress)

        def send() -> Any:
            return self.session.change("rebuild", "Rebuild", uuid, arguments, deadline.left)

        self.store.with_image(image, send, deadline, progress)

    @provides(Capability.RESCUE_BOOT_FROM_VOLUME)
    def rescue(
        self,
        uuid: UUID,
        image: ImageRef | None = None,
        *,
        seed: SeedDisc | None = None,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Budget: 1 call from a cached image. Without one the root disk's parent is the image."""
        disc = disc_of(seed) if seed is not None else None
        deadline = Deadline(timeout)
        arguments = self._image_arguments(image, deadline, progress)

        def send() -> Any:
            left = deadline.left
            return self.session.change("rescue", "Rescue", uuid, arguments, left, data=disc)

        self.store.with_image(image, send, deadline, progress)

    def unrescue(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Budget: 1 call."""
        self.session.change("unrescue", "Unrescue", uuid, {}, timeout)

    def _image_arguments(
        self, image: ImageRef | None, deadline: Deadline, progress: ProgressCallback | None
    ) -> dict[str, Json]:
        key = self.store.key_of(image, deadline, progress)
        return {
            "image": self.store.path_of(image, key) if image is not None else "",
            "key": key or "",
        }
