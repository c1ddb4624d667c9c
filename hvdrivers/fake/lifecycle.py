"""Fake machines come and go."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from uuid import UUID

from pydantic import TypeAdapter, ValidationError

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, declared, provides
from hvdrivers.contract.lifecycle import Adopt, Lifecycle
from hvdrivers.driverkit.checks import root_disk_bytes
from hvdrivers.fake.base import FakeBase
from hvdrivers.fake.capacity import check_device_free, check_power, find_slice
from hvdrivers.fake.image_store import Images
from hvdrivers.fake.own_disks import OwnDisks
from hvdrivers.fake.ports import Ports
from hvdrivers.fake.records import Claim, ImageRecord, Machine
from hvdrivers.fake.steps import Task
from hvdrivers.fake.volumes import Volumes
from hvdrivers.hints import OPEN_HOST, SHARE_OUT
from hvdrivers.models.base import Name
from hvdrivers.models.events import LifecycleKind
from hvdrivers.models.instance import (
    Firmware,
    ForeignInstance,
    InstanceInfo,
    InstanceSpec,
    InstanceSummary,
    Keep,
    Metadata,
)
from hvdrivers.models.progress import ProgressCallback
from hvdrivers.models.state import POWERED_ON, InstanceState, StartAs

_NAME: TypeAdapter[str] = TypeAdapter(Name)


class FakeLifecycle(FakeBase, Lifecycle):
    """The lifecycle topic of Core."""

    @provides(*declared(Images), *declared(OwnDisks), *declared(Volumes), *declared(Ports))
    def spawn(
        self,
        spec: InstanceSpec,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> InstanceInfo:
        """3 calls, and: image and root disk 2 (5 if the image is new to the host), ephemeral and
        swap disk 1 each, seed 1, each volume 1 (2 with secrets), all volumes 1, each NIC 1."""
        last = "start-machine" if spec.start else "finish-machine"
        with self.link.task("spawn", spec.uuid, timeout, progress=progress, slow=last) as task:
            task.call("check-request", lambda: self._check_spec(spec), changes=False)
            image = None if spec.image is None else self.images.provide(task, spec.image)
            if image is not None:
                root_disk_bytes(image.virtual_size_bytes, spec.flavor.disk_gib)
            task.call(
                "define-machine",
                lambda: self._define(task, spec, image),
                undo=("undefine-machine", lambda: self._undefine(spec.uuid, task.token)),
            )
            self.own_disks.make(task, spec, image)
            for attachment in spec.volumes:
                self.volumes.connect(task, spec.uuid, attachment)
            if spec.volumes:
                task.call("add-volumes", lambda: self._add_volumes(task, spec), covered=True)
            for vif in spec.vifs:
                self.ports.create(task, spec.uuid, vif)
            return task.call(last, lambda: self._finish(task, spec))

    def _check_spec(self, spec: InstanceSpec) -> None:
        self._check_new(spec.uuid)
        for vif in spec.vifs:
            self.ports.check(spec.uuid, vif, starts=spec.start)
        for attachment in spec.volumes:
            self.volumes.check_free(spec.uuid, attachment)
        if len(spec.volumes) > self.fake_host.size.disk_slots:
            raise errors.InsufficientResources(
                "the machine has not that many slots for disks", hint=SHARE_OUT
            )
        if len(spec.vifs) > self.fake_host.size.nic_slots:
            raise errors.InsufficientResources(
                "the machine has not that many slots for NICs", hint=SHARE_OUT
            )

    def _check_new(self, uuid: UUID) -> None:
        if uuid in self.fake_host.machines or uuid in self.fake_host.incoming:
            raise errors.InstanceExists(f"the UUID {uuid} is taken", instance=uuid)
        if self.fake_host.maintenance:
            raise errors.InsufficientResources(
                "the host is in maintenance: no new machines", hint=OPEN_HOST
            )

    def _define(self, task: Task, spec: InstanceSpec, image: ImageRecord | None) -> None:
        self._check_new(spec.uuid)
        machine = Machine(
            uuid=spec.uuid,
            name=spec.name,
            state=InstanceState.BUILDING,
            flavor=spec.flavor,
            created_at=self.fake_host.clock.wall(),
            token=task.token,
            guest=self.fake_host.default_guest.copy(),
            metadata=dict(spec.metadata),
            image=spec.image,
            image_key=None if image is None else image.key,
            claims=spec.start,
        )
        self._set_firmware(machine, spec)
        self._set_group(machine, spec)
        self._check_size(machine, spec)
        before = list(self.fake_host.claims)
        try:
            self._claim_devices(task, spec)
        except errors.InsufficientResources:
            self.fake_host.claims = before
            raise
        self.fake_host.machines[spec.uuid] = machine
        self.groups.join(machine)
        if machine.firmware is Firmware.UEFI:
            self.fake_host.nvram[spec.uuid] = task.token
        if machine.vtpm:
            self.fake_host.tpm[spec.uuid] = task.token
        self.fake_host.tell_lifecycle(machine, LifecycleKind.CREATED, InstanceState.BUILDING)

    @provides(Capability.UEFI, Capability.SECURE_BOOT, Capability.VTPM, Capability.SEV)
    def _set_firmware(self, machine: Machine, spec: InstanceSpec) -> None:
        # there is no BIOS on ARM
        usual = Firmware.BIOS if self.fake_host.size.architecture == "x86_64" else Firmware.UEFI
        machine.firmware = spec.firmware or usual
        machine.secure_boot = spec.secure_boot
        machine.vtpm = spec.vtpm
        machine.sev = spec.sev
        machine.hardware = spec.hardware
        machine.numa = spec.numa

    @provides(Capability.SERVER_GROUP)
    def _set_group(self, machine: Machine, spec: InstanceSpec) -> None:
        self.groups.check_policy(spec.server_group)
        machine.server_group = spec.server_group

    @provides(Capability.NUMA, Capability.CPU_PINNING, Capability.HUGEPAGES)
    def _check_size(self, machine: Machine, spec: InstanceSpec) -> None:
        if (
            spec.flavor.numa_nodes is not None
            and spec.flavor.numa_nodes > self.fake_host.size.sockets
        ):
            raise errors.InsufficientResources(
                f"the host has {self.fake_host.size.sockets} NUMA cells",
                hint="choose a flavor with fewer numa_nodes, or another host",
            )
        if spec.start:
            check_power(self.fake_host, machine)

    @provides(Capability.PCI_PASSTHROUGH, Capability.VGPU)
    def _claim_devices(self, task: Task, spec: InstanceSpec) -> None:
        claims = self.fake_host.claims
        for wanted in spec.pci_devices:
            check_device_free(self.fake_host, wanted.address)
            claims.append(Claim(spec.uuid, wanted.address, None, task.token, use="passthrough"))
        for slice_ in spec.vgpus:
            parent = find_slice(self.fake_host, slice_.type, slice_.parent)
            claims.append(Claim(spec.uuid, parent, slice_.type, task.token, use="vgpu"))

    def _undefine(self, uuid: UUID, token: int) -> None:
        """Remove a machine that spawn has begun, and what hangs on its definition."""
        host = self.fake_host
        machine = host.machines.get(uuid)
        if machine is not None and machine.token == token:
            del host.machines[uuid]
            self.groups.leave(machine)
            host.tell_lifecycle(machine, LifecycleKind.DESTROYED, None)
        for states in (host.nvram, host.tpm):
            if states.get(uuid) == token:
                del states[uuid]
        host.release(uuid, token=token)

    @provides(Capability.BOOT_FROM_VOLUME)
    def _add_volumes(self, task: Task, spec: InstanceSpec) -> None:
        machine = self.machines.building(spec.uuid, task.token)
        for attachment in spec.volumes:
            self.volumes.add(machine, attachment)

    def _finish(self, task: Task, spec: InstanceSpec) -> InstanceInfo:
        machine = self.machines.building(spec.uuid, task.token)
        for vif in spec.vifs:
            self.fake_host.ports[spec.uuid, vif.id].plugged = True
        if spec.start and spec.start_as is StartAs.PAUSED:
            self.fake_host.start_paused(machine)
        elif spec.start:
            self.fake_host.set_state(machine, InstanceState.RUNNING, LifecycleKind.STARTED)
            self.fake_host.boot(machine)
        else:
            self.fake_host.set_state(machine, InstanceState.STOPPED, LifecycleKind.STOPPED)
        return self.showing.info(machine)

    def destroy(
        self,
        uuid: UUID,
        *,
        keep: AbstractSet[Keep] = frozenset(),
        timeout: float | None = None,
    ) -> None:
        """1 call if nothing is there, else at most 8. The definition goes last: until then the
        instance can be seen, and destroyed again."""
        with self.link.task("destroy", uuid, timeout, slow="undefine-machine") as task:
            steps = task.call("look-up", lambda: self._leftovers(uuid, keep), changes=False)
            host = self.fake_host
            effects = {
                "stop-machine": lambda: self._cut_power(uuid),
                "release-volumes": lambda: self._release_volumes(uuid),
                "delete-ports": lambda: host.remove_ports(uuid),
                "delete-secrets": lambda: host.remove_secrets(uuid),
                "delete-incoming": lambda: self._delete_incoming(uuid),
                "delete-disks": lambda: self.own_disks.delete(uuid, keep),
                "delete-firmware": lambda: self._delete_firmware(uuid),
                "undefine-machine": lambda: self._forget(uuid),
            }
            for name, effect in effects.items():
                if name in steps:
                    task.call(name, effect)

    def _leftovers(self, uuid: UUID, keep: AbstractSet[Keep]) -> set[str]:
        """Which calls it takes to remove all that is there of an instance."""
        host = self.fake_host
        machine = host.machines.get(uuid)
        if machine is not None:
            self.machines.checked("destroy", uuid)  # a foreign machine is 'not found'
        self.own_disks.check_kept_names(uuid, keep)
        key = (host.name, uuid)
        found = {
            "stop-machine": machine is not None and machine.state in POWERED_ON,
            "release-volumes": any(key in volume.locks for volume in host.volumes()),
            "delete-ports": any(port.owner == uuid for port in host.ports.values()),
            "delete-secrets": any(each.owner == uuid for each in host.secrets.values()),
            "delete-incoming": uuid in host.incoming,
            "delete-disks": any(host.disks_of(uuid)),
            "delete-firmware": uuid in host.nvram or uuid in host.tpm,
            "undefine-machine": machine is not None,
        }
        return {name for name, there in found.items() if there}

    def _cut_power(self, uuid: UUID) -> None:
        machine = self.fake_host.machines.get(uuid)
        if machine is not None and machine.state in POWERED_ON:
            if machine.migration is not None:
                machine.migration.wake.set()
            self.fake_host.set_state(machine, InstanceState.STOPPED, LifecycleKind.STOPPED)

    def _delete_incoming(self, uuid: UUID) -> None:
        """What prepare_move(), or a migration, has brought here."""
        self.fake_host.incoming.pop(uuid, None)

    def _release_volumes(self, uuid: UUID) -> None:
        self.fake_host.unlock(uuid)
        machine = self.fake_host.machines.get(uuid)
        if machine is not None:
            machine.volumes.clear()

    def _delete_firmware(self, uuid: UUID) -> None:
        self.fake_host.nvram.pop(uuid, None)
        self.fake_host.tpm.pop(uuid, None)

    def _forget(self, uuid: UUID) -> None:
        machine = self.fake_host.machines.pop(uuid, None)
        if machine is not None and machine.move is not None:
            self.fake_host.world.forget_move(machine.move.move)
        self.fake_host.release(uuid)
        self.groups.leave(machine)
        if machine is not None:
            self.fake_host.tell_lifecycle(machine, LifecycleKind.DESTROYED, None)

    def get_instance(self, uuid: UUID, *, timeout: float | None = None) -> InstanceInfo:
        """1 call."""
        with self.link.task("get_instance", uuid, timeout) as task:
            return task.call(
                "read-machine", lambda: self.showing.info(self.machines.find(uuid)), changes=False
            )

    def list_instances(self, *, timeout: float | None = None) -> Sequence[InstanceSummary]:
        """1 call."""
        with self.link.task("list_instances", None, timeout) as task:
            return task.call("list-machines", self._summaries, changes=False)

    def _summaries(self) -> list[InstanceSummary]:
        return [self.showing.info(machine).summary() for machine in self.fake_host.ours()]

    def list_foreign(self, *, timeout: float | None = None) -> Sequence[ForeignInstance]:
        """1 call."""
        with self.link.task("list_foreign", None, timeout) as task:
            return task.call("list-machines", self._foreign, changes=False)

    def _foreign(self) -> list[ForeignInstance]:
        return [
            ForeignInstance(uuid=machine.uuid, name=machine.name, state=machine.state)
            for machine in self.fake_host.machines.values()
            if not machine.ours
        ]

    @provides(Capability.HOT_RENAME)
    def rename(self, uuid: UUID, name: Name, *, timeout: float | None = None) -> None:
        """1 call."""
        with self.link.task("rename", uuid, timeout) as task:
            task.call("rename-machine", lambda: self._rename(uuid, name))

    def _rename(self, uuid: UUID, name: str) -> None:
        machine = self.machines.checked("rename", uuid)
        if machine.state is not InstanceState.STOPPED:
            self.machines.need(Capability.HOT_RENAME)
        machine.name = name

    def set_metadata(self, uuid: UUID, metadata: Metadata, *, timeout: float | None = None) -> None:
        """1 call."""
        with self.link.task("set_metadata", uuid, timeout) as task:
            task.call("write-metadata", lambda: self._set_metadata(uuid, metadata))

    def _set_metadata(self, uuid: UUID, metadata: Metadata) -> None:
        self.machines.checked("set_metadata", uuid).metadata = dict(metadata)


class FakeAdopt(FakeBase, Adopt):
    """Machines of others become ours."""

    def adopt(
        self,
        uuid: UUID,
        *,
        name: Name | None = None,
        metadata: Metadata | None = None,
        timeout: float | None = None,
    ) -> InstanceInfo:
        """1 call."""
        with self.link.task("adopt", uuid, timeout) as task:
            return task.call("mark-machine", lambda: self._adopt(uuid, name, metadata))

    def _adopt(self, uuid: UUID, name: str | None, metadata: Metadata | None) -> InstanceInfo:
        machine = self.fake_host.machines.get(uuid)
        if machine is None:
            raise errors.InstanceNotFound(f"no machine {uuid} is on this host", instance=uuid)
        self.machines.outcome("adopt", machine)
        if not machine.ours:
            try:
                machine.name = _NAME.validate_python(name or machine.name)
            except ValidationError:
                raise errors.InvalidRequest(
                    "the machine's own name is not a valid label", hint="give name="
                ) from None
            machine.metadata = dict(metadata or {})
            machine.ours = True
            self.fake_host.tell_lifecycle(machine, LifecycleKind.CREATED, machine.state)
        return self.showing.info(machine)
