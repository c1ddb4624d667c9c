"""What must hold before a machine is powered on, whichever operation does it."""

from __future__ import annotations

from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.fake.capacity import check_power
from hvdrivers.fake.port_steps import PortSteps
from hvdrivers.fake.records import Machine
from hvdrivers.fake.volume_steps import VolumeSteps


class Starting(PortSteps, VolumeSteps):
    """Base of the topics that start machines."""

    def _check_start(self, machine: Machine) -> None:
        """Raise unless the machine can be powered on.

        Raises:
            InsufficientResources: the host has not the memory or the CPUs, or is in maintenance.
            VolumeNotFound, NetworkNotFound: what it is wired to, or based on, has gone.
            DeviceBusy: another powered-on machine has one of its volumes or ports.
        """
        if not machine.takes_memory:
            if self.fake_host.maintenance:
                raise errors.InsufficientResources("the host is in maintenance: nothing is started")
            check_power(self.fake_host, machine)
        if machine.image_key is not None and self.fake_host.disk(machine.uuid, "root") is None:
            raise errors.VolumeNotFound("the root disk has gone: destroy() was interrupted")
        for _, own in self.fake_host.disks_of(machine.uuid):
            if not self.fake_host.has_image(own.base):
                raise errors.VolumeNotFound(f"the image has gone that disk {own.role} is based on")
        for disk in machine.volumes.values():
            self._check_free(machine.uuid, disk.attachment)
        for port in self._ports_of(machine.uuid):
            self._check_wiring(port.vif)
            self._check_free_port(machine.uuid, port.vif)

    def _needs_no_device(self, uuid: UUID) -> None:
        """Raise NotSupported if the machine has devices whose state nobody can save."""
        if any(claim.owner == uuid for claim in self.fake_host.claims):
            raise errors.NotSupported("the instance has devices of the host: they cannot be saved")
