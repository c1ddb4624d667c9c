"""The machines of a fake host, as an operation finds them: ours, and in a state that allows it."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from enum import Enum
from typing import TYPE_CHECKING
from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.driver import check_state
from hvdrivers.contract.limits import Limit
from hvdrivers.contract.states import Outcome
from hvdrivers.models.migration import MovePhase
from hvdrivers.models.state import InstanceState

if TYPE_CHECKING:
    from hvdrivers.fake.host import FakeHost
    from hvdrivers.fake.records import Machine


class Machines:
    """Look before anything is done.

    Args:
        capabilities: what the driver declares.
        without: what its connection was made without, with the reasons.
    """

    def __init__(
        self,
        host: FakeHost,
        capabilities: AbstractSet[Capability],
        without: Mapping[Capability, str],
    ) -> None:
        self.host = host
        self._capabilities = capabilities
        self._without = without

    def find(self, uuid: UUID) -> Machine:
        """A machine of ours. The caller holds the world's lock."""
        machine = self.host.machines.get(uuid)
        if machine is None or not machine.ours:
            raise errors.InstanceNotFound(f"no instance {uuid} is on this host", instance=uuid)
        return machine

    def building(self, uuid: UUID, token: int) -> Machine:
        """The machine that a spawn() with this token has begun, and nobody has destroyed."""
        machine = self.host.machines.get(uuid)
        if machine is None or machine.token != token:
            raise errors.InstanceNotFound(
                "the instance was destroyed while it was built", instance=uuid
            )
        return machine

    def refuse_reserved(self, name: str) -> None:
        """An instance's own disks and the cache are in the same pools as volumes and images."""
        for pool in self.host.pools.values():
            if name in {*pool.disks, *pool.images, *pool.uploads}:
                raise errors.InvalidRequest(
                    f"{name!r} is a disk of an instance, or a cached image, and nothing to name",
                    hint="destroy(keep={Keep.ROOT_DISK}) makes a volume of an instance's root disk",
                )

    def checked(self, operation: str, uuid: UUID, variant: Enum | None = None) -> Machine:
        """The machine, if its state allows the operation now."""
        machine = self.find(uuid)
        self.outcome(operation, machine, variant)
        return machine

    def outcome(self, operation: str, machine: Machine, variant: Enum | None = None) -> Outcome:
        outcome = check_state(
            operation,
            machine.state,
            machine.uuid,
            variant=variant,
            capabilities=self._capabilities - self._without.keys(),
        )
        moving = machine.move is not None and machine.move.phase is MovePhase.PREPARED
        if moving and operation not in _DURING_MOVE:
            raise errors.InvalidState(
                "the instance is being moved: this is the copy to come back to",
                instance=machine.uuid,
                hint="confirm_move() or revert_move()",
            )
        busy = machine.migration is not None and machine.migration.active
        if busy and operation not in _DURING_MIGRATION:
            raise errors.DeviceBusy(
                "the instance is being migrated", hint="wait for its end, or abort_migration()"
            )
        return outcome

    def asks(self, machine: Machine) -> bool:
        """Whether the guest is asked before a device of its machine is taken away."""
        asks = Limit.DETACH_UNASKED not in self.host.size.limits
        return asks and machine.state is InstanceState.RUNNING

    def need(self, capability: Capability) -> None:
        """Raise NotSupported if the connection was made without this capability."""
        if capability in self._without:
            raise errors.NotSupported(
                self._without[capability],
                hint=f"'{capability}' is not among this driver's capabilities",
            )


_DURING_MOVE = frozenset(
    {
        "get_instance",
        "get_console_log",
        "list_snapshots",
        "migration_progress",
        "prepare_move",
        "confirm_move",
        "revert_move",
        "destroy",
    }
)
"""What may happen to the source of a move in steps before its end."""
_DURING_MIGRATION = frozenset(
    {
        "get_instance",
        "get_console_log",
        "list_snapshots",
        "migration_progress",
        "abort_migration",
        "force_migration",
        "live_migrate",
        "cold_migrate",
        "check_live_migration",
        "guest_addresses",
        "screenshot",
        "destroy",
    }
)
"""What may happen to an instance while it moves."""
