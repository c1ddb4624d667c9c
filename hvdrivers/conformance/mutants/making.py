"""Mutants of what spawn() makes and destroy() leaves of it."""

from __future__ import annotations

from uuid import UUID

from pydantic import SecretBytes

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.records import Disk
from hvdrivers.fake.steps import Task
from hvdrivers.models.instance import Keep


@mutant("LIFE-003")
class DestroyForgetsSnapshots(FakeDriver):
    """destroy() leaves the files of snapshots."""

    def _delete_disks(self, uuid: UUID, keep: frozenset[Keep]) -> None:
        kept = [each for each in self._host.disks_of(uuid) if "snapshot" in each[1].role]
        super()._delete_disks(uuid, keep)
        for pool, disk in kept:
            pool.disks[disk.name] = disk


class _Sparing(FakeDriver):
    _role = ""

    def _create_disk(
        self, task: Task, disk: Disk, seed: dict[str, SecretBytes] | None = None
    ) -> None:
        if disk.role != self._role:
            super()._create_disk(task, disk, seed)


@mutant("LIFE-018")
class SpawnMakesNoEphemeralDisk(_Sparing):
    """The flavor shows an ephemeral disk, and the machine has none."""

    _role = "ephemeral"


@mutant("LIFE-018")
class SpawnMakesNoSwapDisk(_Sparing):
    """The flavor shows a swap disk, and the machine has none."""

    _role = "swap"


@mutant("LIFE-018")
class SpawnMakesNoSeed(_Sparing):
    """cloud-init in the guest finds nothing: the seed disk was not made."""

    _role = "seed"
