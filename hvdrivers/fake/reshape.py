"""Fake machines get another disk or another size: rescue, resize, hot resize, rebuild."""

from __future__ import annotations

from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, declared, provides
from hvdrivers.contract.lifecycle import HotResizeCpu, HotResizeMemory, Rebuild, Rescue, Resize
from hvdrivers.contract.limits import Limit
from hvdrivers.driverkit.checks import require_growth, root_disk_bytes
from hvdrivers.fake.base import FakeBase
from hvdrivers.fake.capacity import Taken, check_fits, check_placement, check_power, check_room
from hvdrivers.fake.image_store import Images, whole
from hvdrivers.fake.records import Disk, ImageRecord, Machine
from hvdrivers.hints import RESIZE_OFF, SAME_DISKS, SMALLER_FLAVOR, WRITE_VOLUME
from hvdrivers.models.events import LifecycleKind
from hvdrivers.models.image import ImageRef
from hvdrivers.models.instance import Flavor
from hvdrivers.models.progress import ProgressCallback
from hvdrivers.models.seed import SeedDisc
from hvdrivers.models.state import InstanceState


class FakeRescue(FakeBase, Rescue):
    """Boot from another image."""

    @provides(*declared(Images))
    def rescue(
        self,
        uuid: UUID,
        image: ImageRef | None = None,
        *,
        seed: SeedDisc | None = None,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """4 calls, 7 if the image is new to the host."""
        with self.link.task(
            "rescue", uuid, timeout, progress=progress, slow="start-rescue"
        ) as task:
            ref = task.call("look-up", lambda: self._rescue_image(uuid, image), changes=False)
            record = self.images.provide(task, ref)
            disk = Disk(
                uuid, "rescue", record.virtual_size_bytes, record.content, task.token, record.key
            )
            task.call(
                "create-rescue-disk",
                lambda: self._place_rescue(disk),
                undo=(
                    "delete-disk",
                    lambda: self.fake_host.remove_disks(uuid, "rescue", token=task.token),
                ),
            )
            task.call("start-rescue", lambda: self._start_with(uuid, seed))

    def _rescue_image(self, uuid: UUID, image: ImageRef | None) -> ImageRef:
        machine = self.machines.checked("rescue", uuid)
        if self.fake_host.disk(uuid, "root") is None:
            self._check_rescue_of_volume()
        self.starting.check(machine)
        found = image or machine.image
        if found is None:
            raise errors.InvalidRequest(
                "the instance was not made from an image",
                hint="name the image to boot from",
            )
        return found

    @provides(Capability.RESCUE_BOOT_FROM_VOLUME)
    def _check_rescue_of_volume(self) -> None:
        self.machines.need(Capability.RESCUE_BOOT_FROM_VOLUME)

    def _place_rescue(self, disk: Disk) -> None:
        self.machines.checked("rescue", disk.owner)
        check_room(self.fake_host.default_pool, disk.size_bytes)
        self.fake_host.default_pool.disks[disk.name] = disk

    @provides(Capability.SEED_DISC)
    def _start_with(self, uuid: UUID, seed: SeedDisc | None) -> None:
        disc = None if seed is None else whole(seed)
        self._start_rescue(uuid)
        self.fake_host.machines[uuid].rescue_seed = disc

    def _start_rescue(self, uuid: UUID) -> None:
        machine = self.machines.checked("rescue", uuid)
        self.starting.check(machine)
        if machine.state is InstanceState.RUNNING:
            self.fake_host.set_state(machine, InstanceState.STOPPED, LifecycleKind.STOPPED)
        self.fake_host.set_state(machine, InstanceState.RESCUED, LifecycleKind.STARTED)
        self.fake_host.boot(machine)

    def unrescue(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """1 call."""
        with self.link.task("unrescue", uuid, timeout) as task:
            task.call("end-rescue", lambda: self._unrescue(uuid))

    def _unrescue(self, uuid: UUID) -> None:
        machine = self.machines.checked("unrescue", uuid)
        before = machine.state
        if before is InstanceState.RUNNING:
            return  # not rescued
        self.fake_host.remove_disks(uuid, "rescue")
        if before is not InstanceState.STOPPED:
            self.fake_host.set_state(machine, InstanceState.STOPPED, LifecycleKind.STOPPED)
        if before is not InstanceState.RESCUED:
            return  # it went down while it was rescued, and stays down
        self.fake_host.set_state(machine, InstanceState.RUNNING, LifecycleKind.STARTED)
        self.fake_host.boot(machine)


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
        with self.link.task("resize", uuid, timeout, progress=progress) as task:
            task.call("resize-machine", lambda: self._resize(uuid, flavor))

    def _resize(self, uuid: UUID, flavor: Flavor) -> None:
        machine = self.machines.checked("resize", uuid)
        check_placement(machine, flavor)
        alone = Taken()
        alone.add(flavor, sev=machine.sev)
        check_fits(self.fake_host.size, alone)
        if flavor.vcpus > self.fake_host.size.threads:
            raise errors.InsufficientResources(
                f"the host has {self.fake_host.size.threads} hardware threads", hint=SMALLER_FLAVOR
            )
        before = machine.flavor
        extra = (flavor.ephemeral_gib, flavor.swap_mib)
        if extra != (before.ephemeral_gib, before.swap_mib):
            raise errors.InvalidRequest("the ephemeral or swap disk would change", hint=SAME_DISKS)
        root = self.fake_host.disk(uuid, "root")
        # a machine that boots from a volume has no root disk, whatever its flavor says
        if root is not None and flavor.disk_gib:
            self._grow(machine, root, flavor.disk_gib << 30)
        machine.flavor = flavor

    def _grow(self, machine: Machine, root: Disk, size: int) -> None:
        require_growth("the root disk", root.size_bytes, size)
        if size > root.size_bytes and machine.snapshots:
            raise errors.DeviceBusy(
                "a disk with snapshots does not grow",
                hint="delete the snapshots first",
                retryable=False,
            )
        check_room(self.fake_host.home(machine.uuid), size - root.size_bytes)
        root.size_bytes = size


class _HotResize(FakeBase):
    def _resize_hot(self, operation: str, uuid: UUID, field: str, wanted: int) -> None:
        machine = self.machines.checked(operation, uuid)
        flavor = machine.flavor
        now, most = getattr(flavor, field), getattr(flavor, f"max_{field}")
        if wanted == now:
            return
        if wanted > (most or now):
            raise errors.InvalidRequest(
                f"the flavor's headroom ends at {most or now}", hint=RESIZE_OFF
            )
        try:
            changed = Flavor.model_validate(flavor.model_dump() | {field: wanted})
        except ValueError as error:
            raise errors.InvalidRequest(
                "the flavor does not allow that size", hint=RESIZE_OFF
            ) from error
        check_placement(machine, changed)
        check_power(self.fake_host, machine, changed)
        asks = Limit.GROWTH_UNASKED not in self.fake_host.size.limits
        if asks and not machine.guest.accepts_hotplug:
            raise errors.DeviceBusy("the guest did not take it", hint=RESIZE_OFF)
        machine.flavor = changed


class FakeHotResizeCpu(_HotResize, HotResizeCpu):
    """Other CPUs while the guest runs; fewer as well."""

    def hot_resize_cpu(self, uuid: UUID, vcpus: int, *, timeout: float | None = None) -> None:
        """1 call."""
        with self.link.task("hot_resize_cpu", uuid, timeout) as task:
            task.call("set-vcpus", lambda: self._resize_hot("hot_resize_cpu", uuid, "vcpus", vcpus))


class FakeHotResizeMemory(_HotResize, HotResizeMemory):
    """Other memory while the guest runs; less as well."""

    def hot_resize_memory(
        self, uuid: UUID, memory_mib: int, *, timeout: float | None = None
    ) -> None:
        """1 call."""
        with self.link.task("hot_resize_memory", uuid, timeout) as task:
            task.call(
                "set-memory",
                lambda: self._resize_hot("hot_resize_memory", uuid, "memory_mib", memory_mib),
            )


class FakeRebuild(FakeBase, Rebuild):
    """A new root disk."""

    @provides(*declared(Images))
    def rebuild(
        self,
        uuid: UUID,
        image: ImageRef,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """4 calls, 7 if the image is new to the host."""
        with self.link.task(
            "rebuild", uuid, timeout, progress=progress, slow="create-root-disk"
        ) as task:
            task.call("look-up", lambda: self._check_rebuild(uuid), changes=False)
            record = self.images.provide(task, image)
            task.call(
                "create-root-disk",
                lambda: self._place_new(uuid, record, task.token),
                undo=(
                    "delete-disk",
                    lambda: self.fake_host.remove_disks(uuid, _new(task.token), token=task.token),
                ),
            )
            task.call("switch-disk", lambda: self._switch_to(uuid, image, record, task.token))

    def _check_rebuild(self, uuid: UUID) -> Machine:
        machine = self.machines.checked("rebuild", uuid)
        if self.fake_host.disk(uuid, "root") is None:
            raise errors.InvalidRequest(
                "the instance boots from a volume: there is no root disk", hint=WRITE_VOLUME
            )
        if machine.snapshots:
            raise errors.DeviceBusy(
                "snapshots depend on the root disk",
                hint="delete the snapshots first",
                retryable=False,
            )
        return machine

    def _place_new(self, uuid: UUID, record: ImageRecord, token: int) -> None:
        machine = self._check_rebuild(uuid)
        size = root_disk_bytes(record.virtual_size_bytes, machine.flavor.disk_gib)
        home = self.fake_host.home(uuid)
        check_room(home, size)
        disk = Disk(uuid, _new(token), size, record.content, token, record.key)
        home.disks[disk.name] = disk

    def _switch_to(self, uuid: UUID, image: ImageRef, record: ImageRecord, token: int) -> None:
        made = [each for each in self.fake_host.disks_of(uuid) if each[1].role.startswith(_NEW)]
        if not any(disk.role == _new(token) for _, disk in made):
            raise errors.DeviceBusy(
                "another rebuild() has put its disk in place meanwhile",
                hint="get_instance() shows its image; call again if it is to have another one",
            )
        # the others are of callers who have died, or will see that they come too late
        for pool, disk in made:
            del pool.disks[disk.name]
            if disk.role == _new(token):
                disk.role = "root.new"
                pool.disks[disk.name] = disk
        self._switch_root(uuid, image, record)

    def _switch_root(self, uuid: UUID, image: ImageRef, record: ImageRecord) -> None:
        machine = self._check_rebuild(uuid)
        host = self.fake_host
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


_NEW = "root.new-"


def _new(token: int) -> str:
    """Role of the root disk that a rebuild() makes: of its own, as another may be under way."""
    return f"{_NEW}{token}"
