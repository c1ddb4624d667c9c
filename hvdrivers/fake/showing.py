"""A fake machine as get_instance() shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvdrivers.fake.volumes import shown
from hvdrivers.models.instance import InstanceInfo

if TYPE_CHECKING:
    from hvdrivers.fake.ports import Ports
    from hvdrivers.fake.records import Machine


class Showing:
    """What each operation returns that returns an instance."""

    def __init__(self, ports: Ports) -> None:
        self.ports = ports

    def info(self, machine: Machine) -> InstanceInfo:
        return InstanceInfo(
            uuid=machine.uuid,
            name=machine.name,
            state=machine.state,
            flavor=machine.flavor,
            metadata=dict(machine.metadata),
            volumes=tuple(shown(disk) for disk in machine.volumes.values()),
            vifs=tuple(self.ports.shown(machine, port) for port in self.ports.of(machine.uuid)),
            firmware=machine.firmware,
            created_at=machine.created_at,
            image=machine.image_key,
            server_group=machine.server_group,
            move=None if machine.move is None else machine.move.phase,
        )
