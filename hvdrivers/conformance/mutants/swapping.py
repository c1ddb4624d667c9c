"""Mutants of swap_volume(): what becomes of the replacement. The rest is in ``volumes.py``."""

from __future__ import annotations

from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.models.volume import AttachedVolume, VolumeAttachment


@mutant("STOR-030")
class SwapForgetsTheBootOrder(FakeDriver):
    """The machine boots from nothing after the volume that it boots from was swapped."""

    def _switch_volume(
        self, uuid: UUID, volume_id: str, replacement: VolumeAttachment
    ) -> AttachedVolume:
        swapped = super()._switch_volume(uuid, volume_id, replacement)
        self.machines.find(uuid).volumes[replacement.volume_id].attachment = replacement
        return swapped


@mutant("STOR-042")
class SwapIgnoresTheLimits(FakeDriver):
    """The limits that the replacement of a swap names are not set."""

    def _switch_volume(
        self, uuid: UUID, volume_id: str, replacement: VolumeAttachment
    ) -> AttachedVolume:
        swapped = super()._switch_volume(uuid, volume_id, replacement)
        self.machines.find(uuid).volumes[replacement.volume_id].qos = None
        return swapped
