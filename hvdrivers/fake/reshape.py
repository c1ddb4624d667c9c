"""Fake machines get another disk or another size: rescue, resize, hot resize, rebuild."""

from __future__ import annotations

from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, provides
from hvdrivers.contract.lifecycle import HotResizeCpu, HotResizeMemory, Rebuild, Rescue, Resize
from hvdrivers.fake.base import FakeBase
from hvdrivers.fake.capacity import Taken, check_fits, check_power, check_room
from hvdrivers.fake.image_steps import ImageSteps, disk_size
from hvdrivers.fake.records import Disk, ImageRecord, Machine
from hvdrivers.fake.starting import Starting
from hvdrivers.models.events import LifecycleKind
from hvdrivers.models.image import ImageRef
from hvdrivers.models.instance import Flavor
from hvdrivers.models.progress import ProgressCallback
from hvdrivers.models.state import InstanceState


class FakeRescue(Starting, ImageSteps, Rescue):
    """Boot from another image."""

    def rescue(
        self,
        uuid: UUID,
        image: ImageRef | None = None,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """4 calls, 7 if the image is new to the host."""
        with self._task("rescue", uuid, timeout, progress=progress, slow="start-rescue") as task:
            ref = task.call("look-up", lambda: self._rescue_image(uuid, image), changes=False)
            record = self._provide(task, ref)
            disk = Disk(
                uuid, "rescue", record.virtual_size_bytes, record.content, task.token, record.key
            )
            task.call(
                "create-rescue-disk",
                lambda: self._place_rescue(disk),
                undo=(
                    "delete-disk",
                    lambda: self._host.remove_disks(uuid, "rescue", token=task.token),
                ),
            )
            task.call("start-rescue", lambda: self._start_rescue(uuid))

    def _rescue_image(self, uuid: UUID, image: ImageRef | None) -> ImageRef:
        machine = self._checked("rescue", uuid)
        if machine.image_key is None:
            self._check_rescue_of_volume()
        self._check_start(machine)
        found = image or machine.image
        if found is None:
            raise errors.InvalidRequest(
                "the instance was not made from an image: name one to boot from"
            )
        return found

    @provides(Capability.RESCUE_BOOT_FROM_VOLUME)
    def _check_rescue_of_volume(self) -> None:
        self._need(Capability.RESCUE_BOOT_FROM_VOLUME)

    def _place_rescue(self, disk: Disk) -> None:
        self._checked("rescue", disk.owner)
        check_room(self._host.default_pool, disk.size_bytes)
        self._host.default_pool.disks[disk.name] = disk

    def _start_rescue(self, uuid: UUID) -> None:
        machine = self._checked("rescue", uuid)
        self._check_start(machine)
        if machine.state is InstanceState.RUNNING:
            self._host.set_state(machine, InstanceState.STOPPED, LifecycleKind.STOPPED)
        self._host.set_state(machine, InstanceState.RESCUED, LifecycleKind.STARTED)
        self._host.boot(machine)

    def unrescue(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """1 call."""
        with self._task("unrescue", uuid, timeout) as task:
            task.call("end-rescue", lambda: self._unrescue(uuid))

    def _unrescue(self, uuid: UUID) -> None:
        machine = self._checked("unrescue", uuid)
        before = machine.state
        if before is InstanceState.RUNNING:
            return  # not rescued
        self._host.remove_disks(uuid, "rescue")
        if before is not InstanceState.STOPPED:
            self._host.set_state(machine, InstanceState.STOPPED, LifecycleKind.STOPPED)
        if before is not InstanceState.RESCUED:
            return  # it went down while it was rescued, and stays down
        self._host.set_state(machine, InstanceState.RUNNING, LifecycleKind.STARTED)
        self._host.boot(machine)


class FakeResize(FakeBase, Resize):
    """Another size for a stopped machine."""

    def resize(
        self,
        uuid: UUID,
        flavor: Flavor,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """1 call."""
        with self._task("resize", uuid, timeout, progress=progress) as task:
            task.call("resize-machine", lambda: self._resize(uuid, flavor))

    def _resize(self, uuid: UUID, flavor: Flavor) -> None:
        machine = self._checked("resize", uuid)
        alone = Taken()
        alone.add(flavor, sev=machine.sev)
        check_fits(self._host.size, alone)
        if flavor.vcpus > self._host.size.threads:
            raise errors.InsufficientResources(
                f"the host has {self._host.size.threads} hardware threads"
            )
        before = machine.flavor
        extra = (flavor.ephemeral_gib, flavor.swap_mib)
        if extra != (before.ephemeral_gib, before.swap_mib):
            raise errors.InvalidRequest("the ephemeral or swap disk would change")
        root = self._host.disk(uuid, "root")
        # a machine that boots from a volume has no root disk, whatever its flavor says
        if root is not None and flavor.disk_gib:
            self._grow(machine, root, flavor.disk_gib << 30)
        machine.flavor = flavor

    def _grow(self, machine: Machine, root: Disk, size: int) -> None:
        if size < root.size_bytes:
            raise errors.InvalidRequest("the root disk would shrink, which destroys data")
        if size > root.size_bytes and machine.snapshots:
            raise errors.DeviceBusy(
                "a disk with snapshots does not grow",
                hint="delete the snapshots first",
                retryable=False,
            )
        check_room(self._host.home(machine.uuid), size - root.size_bytes)
        root.size_bytes = size


class _HotResize(FakeBase):
    def _resize_hot(self, operation: str, uuid: UUID, field: str, wanted: int) -> None:
        machine = self._checked(operation, uuid)
        flavor = machine.flavor
        now, most = getattr(flavor, field), getattr(flavor, f"max_{field}")
        if wanted == now:
            return
        if wanted > (most or now):
            raise errors.InvalidRequest(f"the flavor's headroom ends at {most or now}")
        try:
            changed = Flavor.model_validate(flavor.model_dump() | {field: wanted})
        except ValueError as error:
            raise errors.InvalidRequest("the flavor does not allow that size") from error
        check_power(self._host, machine, changed)
        if not machine.guest.accepts_hotplug:
            raise errors.DeviceBusy("the guest did not take it")
        machine.flavor = changed


class FakeHotResizeCpu(_HotResize, HotResizeCpu):
    """Other CPUs while the guest runs; fewer as well."""

    def hot_resize_cpu(self, uuid: UUID, vcpus: int, *, timeout: float | None = None) -> None:
        """1 call."""
        with self._task("hot_resize_cpu", uuid, timeout) as task:
            task.call("set-vcpus", lambda: self._resize_hot("hot_resize_cpu", uuid, "vcpus", vcpus))


class FakeHotResizeMemory(_HotResize, HotResizeMemory):
    """Other memory while the guest runs; less as well."""

    def hot_resize_memory(
        self, uuid: UUID, memory_mib: int, *, timeout: float | None = None
    ) -> None:
        """1 call."""
        with self._task("hot_resize_memory", uuid, timeout) as task:
            task.call(
                "set-memory",
                lambda: self._resize_hot("hot_resize_memory", uuid, "memory_mib", memory_mib),
            )


class FakeRebuild(ImageSteps, Rebuild):
    """A new root disk."""

    def rebuild(
        self,
        uuid: UUID,
        image: ImageRef,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """4 calls, 7 if the image is new to the host."""
        with self._task(
            "rebuild", uuid, timeout, progress=progress, slow="create-root-disk"
        ) as task:
            task.call("look-up", lambda: self._check_rebuild(uuid), changes=False)
            record = self._provide(task, image)
            task.call(
                "create-root-disk",
                lambda: self._place_new(uuid, record, task.token),
                undo=(
                    "delete-disk",
                    lambda: self._host.remove_disks(uuid, "root.new", token=task.token),
                ),
            )
            task.call("switch-disk", lambda: self._switch_root(uuid, image, record))

    def _check_rebuild(self, uuid: UUID) -> Machine:
        machine = self._checked("rebuild", uuid)
        if machine.image_key is None:
            raise errors.InvalidRequest("the instance boots from a volume: there is no root disk")
        if machine.snapshots:
            raise errors.DeviceBusy(
                "snapshots depend on the root disk",
                hint="delete the snapshots first",
                retryable=False,
            )
        return machine

    def _place_new(self, uuid: UUID, record: ImageRecord, token: int) -> None:
        machine = self._check_rebuild(uuid)
        size = disk_size(record, machine.flavor.disk_gib)
        home = self._host.home(uuid)
        check_room(home, size)
        disk = Disk(uuid, "root.new", size, record.content, token, record.key)
        home.disks[disk.name] = disk

    def _switch_root(self, uuid: UUID, image: ImageRef, record: ImageRecord) -> None:
        machine = self._check_rebuild(uuid)
        host = self._host
        was_running = machine.state is InstanceState.RUNNING
        if machine.state is not InstanceState.STOPPED:
            host.set_state(machine, InstanceState.STOPPED, LifecycleKind.STOPPED)
        host.remove_disks(uuid, "root")
        for pool, disk in list(host.disks_of(uuid)):
            if disk.role == "root.new":
                del pool.disks[disk.name]
                disk.role = "root"
                pool.disks[disk.name] = disk
        machine.backups.clear()
        machine.image = image
        machine.image_key = record.key
        if was_running:
            host.set_state(machine, InstanceState.RUNNING, LifecycleKind.STARTED)
            host.boot(machine)
