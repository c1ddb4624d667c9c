"""What must hold before a machine is powered on, whichever operation does it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.fake.capacity import check_power
from hvdrivers.hints import OPEN_HOST

if TYPE_CHECKING:
    from hvdrivers.fake.host import FakeHost
    from hvdrivers.fake.ports import Ports
    from hvdrivers.fake.records import Machine
    from hvdrivers.fake.volumes import Volumes


class Starting:
    """Look before a machine is started, or saved to be started later."""

    def __init__(self, host: FakeHost, volumes: Volumes, ports: Ports) -> None:
        self.host = host
        self.volumes = volumes
        self.ports = ports

    def check(self, machine: Machine) -> None:
        """Raise unless the machine can be powered on.

        Raises:
            InsufficientResources: the host has not the memory or the CPUs, or is in maintenance.
            VolumeNotFound, NetworkNotFound: what it is wired to, or based on, has gone.
            DeviceBusy: another powered-on machine has one of its volumes or ports.
        """
        if not machine.takes_memory:
            if self.host.maintenance:
                raise errors.InsufficientResources(
                    "the host is in maintenance: nothing is started", hint=OPEN_HOST
                )
            check_power(self.host, machine)
        if machine.image_key is not None and self.host.disk(machine.uuid, "root") is None:
            raise errors.VolumeNotFound(
                "the root disk has gone: destroy() was interrupted",
                hint="destroy() removes the rest",
            )
        for _, own in self.host.disks_of(machine.uuid):
            if not self.host.has_image(own.base):
                raise errors.VolumeNotFound(
                    f"the image has gone that disk {own.role} is based on",
                    hint="destroy() it: what its disk held cannot be read without the image",
                )
        for disk in machine.volumes.values():
            self.volumes.check_free(machine.uuid, disk.attachment)
        for port in self.ports.of(machine.uuid):
            self.ports.check_wiring(port.vif)
            self.ports.check_free(machine.uuid, port.vif)

    def refuse_devices(self, uuid: UUID) -> None:
        """Raise NotSupported if the machine has devices whose state nobody can save."""
        if any(claim.owner == uuid for claim in self.host.claims):
            raise errors.NotSupported(
                "the instance has devices of the host: they cannot be saved",
                hint="power_off() it instead, or leave the memory out",
            )
