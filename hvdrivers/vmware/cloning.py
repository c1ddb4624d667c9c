"""Spawn on vCenter: one request clones a machine from the image's template, changes it to what was
asked for, and starts it.

A disk of the image's size is a child of the template's frozen one (a linked clone), so the cost of
a spawn does not depend on the image's size. vSphere lets no such disk grow: a larger one is a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

from pyVmomi import vim

from hvdrivers import hints
from hvdrivers.contract import errors
from hvdrivers.models.disk import DiskRole
from hvdrivers.models.instance import InstanceSpec
from hvdrivers.models.progress import ProgressCallback
from hvdrivers.models.volume import DiskBus
from hvdrivers.vmware.devices import capacity_of, editing
from hvdrivers.vmware.files import Files
from hvdrivers.vmware.machines import Machine, Machines
from hvdrivers.vmware.names import machine_name
from hvdrivers.vmware.own_disks import Planned
from hvdrivers.vmware.place import Places, Surroundings
from hvdrivers.vmware.questions import ending_questions
from hvdrivers.vmware.record import IMAGE, option
from hvdrivers.vmware.seen_images import Base, SeenImages, Template
from hvdrivers.vmware.specs import Plan, wants_function
from hvdrivers.vmware.tasks import Tasks
from hvdrivers.vmware.templates import Templates

_HOST_IMAGE = "host-"
_CHILD, _COPY = "createNewChildDiskBacking", "moveAllDiskBackingsAndDisallowSharing"


class Cloning:
    """Clones machines."""

    def __init__(
        self,
        tasks: Tasks,
        places: Places,
        files: Files,
        machines: Machines,
        *,
        seen: SeenImages,
        templates: Templates,
    ) -> None:
        self._tasks = tasks
        self._places = places
        self._files = files
        self._machines = machines
        self._seen = seen
        self._templates = templates

    def template_for(
        self,
        spec: InstanceSpec,
        disks: Sequence[Planned],
        base: Base | None,
        surroundings: Surroundings,
    ) -> Template | None:
        """What to clone the machine from; None if its root disk must be copied: on ESXi, from an
        image of the administrator's, on another bus than the template's, and with a vTPM or a PCI
        device of the host, which no documentation lets a clone's changes add, and with encrypted
        memory, of which vSphere makes no clones."""
        root = next((disk for disk in disks if disk.role == DiskRole.ROOT), None)
        if (
            base is None
            or root is None
            or root.bus is not DiskBus.SCSI
            or spec.vtpm
            or spec.sev
            or spec.pci_devices
            or spec.vgpus
            or any(map(wants_function, spec.vifs))
            or base.key.startswith(_HOST_IMAGE)
            or not self._places.get().is_vcenter
        ):
            return None
        try:
            return self._templates.of(base, surroundings)
        except errors.VolumeNotFound as error:
            self._seen.forget(base)
            raise evicted(error) from error

    def clone(
        self,
        spec: InstanceSpec,
        base: Base,
        template: Template,
        config: Any,
        *,
        store: Any,
        host: Any,
        progress: ProgressCallback | None,
    ) -> Any:
        """Clone a machine, and start it if it shall run and is in no server group. The caller looks
        whether it does.

        Raises:
            InvalidState: it has asked a question when it was started; the error has its text.
        """
        place = self._places.get()
        grows = any(change.operation == "edit" for change in config.deviceChange)
        config.extraConfig.append(option(IMAGE, None))  # the template's own
        clone = vim.vm.CloneSpec(
            location=vim.vm.RelocateSpec(
                datastore=store,
                pool=place.pool,
                host=host,
                diskMoveType=_COPY if grows else _CHILD,
            ),
            snapshot=template.snapshot,
            config=config,
            template=False,
            # a member of a group starts when it is in the rule
            powerOn=spec.start and spec.server_group is None,
        )
        name = machine_name(spec.name, spec.uuid)
        try:
            with ending_questions() as answer:
                return self._tasks.run(
                    lambda: template.obj.CloneVM_Task(place.vm_folder, name, clone),
                    entity=template.obj,
                    progress=progress,
                    asked=answer,
                    born=lambda: self._born(spec.uuid),
                )
        except errors.HypervisorError as error:
            gone = error.vendor_code == "ManagedObjectNotFound"
            if gone and _another_machine(error, template):
                # vCenter meets one that is being deleted at the same time
                raise errors.DeviceBusy(
                    f"another machine was deleted meanwhile: {error.message}",
                    vendor_code=error.vendor_code,
                    hint=hints.CALL_AGAIN,
                    retryable=True,
                ) from error
            if not gone and error.vendor_code == "FileNotFound":
                gone = not self._files.exists(base.path)
            if not gone:
                raise
            self._seen.forget(base)
            with suppress(errors.HypervisorError):
                self._templates.drop(base.path)  # without its disk it is good for nothing
            raise evicted(error) from error

    def _born(self, uuid: UUID) -> Any:
        """The machine that a clone has made, before the clone has ended; None while nothing of it
        can be read. 2 calls."""
        with suppress(errors.HypervisorError):
            found = self._machines.if_there(uuid)
            if isinstance(found, Machine):
                return found.obj
        return None


def _another_machine(error: errors.HypervisorError, template: Template) -> bool:
    """Whether the object that has gone is a machine, and not the template."""
    obj = getattr(error.__cause__, "obj", None)
    return isinstance(obj, vim.VirtualMachine) and obj._moId != template.obj._moId


def cloned_root(plan: Plan, template: Template, capacity: int) -> None:
    """The root disk of a clone, which grows if it is larger than the template's."""
    disk = template.disk
    plan.own[template.address] = DiskRole.ROOT.value
    plan.boot = disk.controllerKey, disk.unitNumber
    if capacity > capacity_of(disk):
        larger = vim.vm.device.VirtualDisk(
            key=disk.key,
            controllerKey=disk.controllerKey,
            unitNumber=disk.unitNumber,
            capacityInBytes=capacity,
            capacityInKB=capacity // 1024,
            backing=disk.backing,
        )
        plan.changes.append(editing(larger))


def evicted(error: errors.HypervisorError) -> errors.DeviceBusy:
    """What a spawn raises whose image has gone since it was found."""
    return errors.DeviceBusy(
        "the image was evicted from the cache meanwhile",
        vendor_code=error.vendor_code,
        hint=hints.EVICTED,
        retryable=True,
    )
