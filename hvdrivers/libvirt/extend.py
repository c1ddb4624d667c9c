"""A volume that has grown at its server."""

from __future__ import annotations

from uuid import UUID

import libvirt

from hvdrivers.contract import errors
from hvdrivers.contract.storage import ExtendVolume
from hvdrivers.driverkit.checks import require_growth
from hvdrivers.driverkit.deadline import current_deadline
from hvdrivers.libvirt.base import Topic
from hvdrivers.libvirt.devices import source_of, volumes_of
from hvdrivers.libvirt.domains import LookAgain, xml_of
from hvdrivers.libvirt.held_volumes import not_attached
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.room import growing
from hvdrivers.libvirt.xml import Element, attribute
from hvdrivers.models.state import InstanceState


class LibvirtExtend(Topic, ExtendVolume):
    """Extend."""

    def extend_volume(
        self, uuid: UUID, volume_id: str, size_bytes: int, *, timeout: float | None = None
    ) -> None:
        """Budget: 5 calls; 5 for a machine that is off, 2 more for a qcow2 volume.

        A qcow2 volume grows here: while a machine has it nobody else can make it larger. QEMU is
        told the new size of a volume of any other kind; a machine that is off sees it when it
        starts."""
        del timeout

        def act(domain: Remote, state: InstanceState) -> None:
            stopped = state is InstanceState.STOPPED
            disk = volumes_of(xml_of(domain, inactive=stopped)).get(volume_id)
            if disk is None:
                raise not_attached(volume_id)
            device = attribute(disk, "target", "dev")
            if stopped and disk.get("type") == "network":
                return  # its size is not known before QEMU has opened it
            capacity, _, physical = (int(each) for each in domain.blockInfo(device, 0))
            grows_here = attribute(disk, "driver", "type") == "qcow2"
            if not grows_here and physical > size_bytes:
                raise errors.InvalidRequest(
                    f"the volume has {physical} bytes, not {size_bytes}",
                    hint="size_bytes is the size that it has now",
                )
            require_growth("the volume", capacity, size_bytes)
            try:
                if not stopped:
                    domain.blockResize(device, size_bytes, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)
                elif grows_here:
                    volume = self.connection.remote.storageVolLookupByPath(source_of(disk))
                    volume.resize(size_bytes, 0)
            except (errors.HypervisorFault, errors.InvalidRequest) as error:
                # QEMU's lock refuses a file of a machine that has been started meanwhile, and
                # libvirt a size that another client has gone beyond
                if bool(domain.isActive()) is stopped:
                    raise LookAgain from error
                if int(domain.blockInfo(device, 0)[0]) != capacity:
                    raise LookAgain from error
                if isinstance(error, errors.HypervisorFault):
                    self._explain(domain, disk, size_bytes, error, running=not stopped)
                raise

        self.domains.change("extend_volume", uuid, current_deadline(), act)

    def _explain(
        self,
        domain: Remote,
        disk: Element,
        size_bytes: int,
        error: errors.HypervisorFault,
        *,
        running: bool,
    ) -> None:
        """After a failure, for which QEMU has no code: whether a block job has the disk, or no pool
        could hold it. Up to seven calls."""
        if running and disk.find("source/slices") is not None:
            raise errors.NotSupported(
                "the running machine uses a part of the volume, since swap_volume()",
                vendor_code=error.vendor_code,
                hint="power_off() and power_on() the instance: then it has the whole of it",
            ) from error
        if running and domain.blockJobInfo(attribute(disk, "target", "dev"), 0):
            raise errors.DeviceBusy(
                "a block job of another client has the disk",
                vendor_code=error.vendor_code,
                hint="call again when the job has ended",
            ) from error
        with growing(self.connection.remote, [source_of(disk)], capacity=size_bytes):
            raise error
