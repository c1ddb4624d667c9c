"""Mutants that two connections on one instance bring to light."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.models.image import ImageRef
from hvdrivers.models.instance import Flavor, Keep
from hvdrivers.models.progress import ProgressCallback
from hvdrivers.models.snapshot import Snapshot
from hvdrivers.models.vif import AttachedVif, Vif
from hvdrivers.models.volume import AttachedVolume, VolumeAttachment

_A_MOMENT = 0.25
"""Seconds that another connection needs at most to be at the same place, on a busy machine."""
_LOCK = threading.Lock()


@mutant("CONC-012")
class NamesOfDevicesAreChosenTooEarly(FakeDriver):
    """attach_volume() chooses the name of the device, and fails if another has taken it since."""

    def attach_volume(
        self, uuid: UUID, attachment: VolumeAttachment, *, timeout: float | None = None
    ) -> AttachedVolume:
        before = set(self.machines.find(uuid).volumes)
        time.sleep(_A_MOMENT)
        with _LOCK:
            now = set(self.machines.find(uuid).volumes)
            if now != before and attachment.volume_id not in before:
                raise errors.InvalidState("target vdb already exists")
            return super().attach_volume(uuid, attachment, timeout=timeout)


@mutant("CONC-012")
class WritesTheWholeDefinition(FakeDriver):
    """plug_vif() reads the definition, adds the NIC, and writes the whole: what another connection
    has plugged in between is lost."""

    def plug_vif(self, uuid: UUID, vif: Vif, *, timeout: float | None = None) -> AttachedVif:
        before = self._plugged(uuid)
        time.sleep(_A_MOMENT)
        plugged = super().plug_vif(uuid, vif, timeout=timeout)
        with _LOCK:
            for each in self._plugged(uuid) - before - {vif.id}:
                self.fake_host.remove_ports(uuid, vif_id=each)
        return plugged

    def _plugged(self, uuid: UUID) -> set[str]:
        return {vif_id for owner, vif_id in list(self.fake_host.ports) if owner == uuid}


@mutant("CONC-012")
class SecondDetachIsAFault(FakeDriver):
    """detach_volume() finds the volume, and fails when another connection has detached it since."""

    def detach_volume(self, uuid: UUID, volume_id: str, *, timeout: float | None = None) -> None:
        there = volume_id in self.machines.find(uuid).volumes
        time.sleep(_A_MOMENT)
        with _LOCK:
            if there and volume_id not in self.machines.find(uuid).volumes:
                raise errors.HypervisorFault("device not found")
            super().detach_volume(uuid, volume_id, timeout=timeout)


@mutant("CONC-021")
class ResizeWritesTheWholeDefinition(FakeDriver):
    """resize() reads the definition and writes the whole: metadata and volumes that another
    connection has changed in between are lost."""

    def resize(
        self,
        uuid: UUID,
        flavor: Flavor,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        machine = self.machines.find(uuid)
        metadata, volumes = dict(machine.metadata), dict(machine.volumes)
        time.sleep(_A_MOMENT)
        super().resize(uuid, flavor, timeout=timeout, progress=progress)
        with _LOCK:
            machine.metadata, machine.volumes = metadata, volumes

    def set_metadata(
        self, uuid: UUID, metadata: Mapping[str, str], *, timeout: float | None = None
    ) -> None:
        time.sleep(_A_MOMENT / 2)  # the other one has read by now, and has not written
        super().set_metadata(uuid, metadata, timeout=timeout)

    def attach_volume(
        self, uuid: UUID, attachment: VolumeAttachment, *, timeout: float | None = None
    ) -> AttachedVolume:
        time.sleep(_A_MOMENT / 2)
        return super().attach_volume(uuid, attachment, timeout=timeout)


@mutant("CONC-021")
class ResizeBringsBackWhatIsDestroyed(FakeDriver):
    """resize() defines the machine anew, also where destroy() has removed it in between."""

    def resize(
        self,
        uuid: UUID,
        flavor: Flavor,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        machine = self.machines.find(uuid)
        end = time.monotonic() + 4 * _A_MOMENT
        while uuid in self.fake_host.machines and time.monotonic() < end:
            time.sleep(0.005)
        with _LOCK:
            if uuid not in self.fake_host.machines:
                self.fake_host.machines[uuid] = machine
        super().resize(uuid, flavor, timeout=timeout, progress=progress)

    def destroy(
        self,
        uuid: UUID,
        *,
        keep: AbstractSet[Keep] = frozenset(),
        timeout: float | None = None,
    ) -> None:
        time.sleep(_A_MOMENT)
        super().destroy(uuid, keep=keep, timeout=timeout)


@mutant("CONC-021")
class RebuildsDeleteEachOthersDisk(FakeDriver):
    """rebuild() deletes all root disks but its own, and so does the other one."""

    def rebuild(
        self,
        uuid: UUID,
        image: ImageRef,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        with _LOCK:  # one after the other, so that both come to their end
            before = self.fake_host.disk(uuid, "root")
            super().rebuild(uuid, image, timeout=timeout, progress=progress)
            mine = self.fake_host.disk(uuid, "root")
        time.sleep(_A_MOMENT)
        with _LOCK:
            now = self.fake_host.disk(uuid, "root")
            if now is not mine and now is not before:
                self.fake_host.remove_disks(uuid, "root")


@mutant("CONC-021")
class MemoryIsAddedTwice(FakeDriver):
    """hot_resize_memory() adds what was missing when it looked."""

    def hot_resize_memory(
        self, uuid: UUID, memory_mib: int, *, timeout: float | None = None
    ) -> None:
        more = memory_mib - self.machines.find(uuid).flavor.memory_mib
        time.sleep(_A_MOMENT)
        with _LOCK:
            now = self.machines.find(uuid).flavor.memory_mib
            super().hot_resize_memory(uuid, now + more, timeout=timeout)


@mutant("CONC-022")
class LooksForUsersTooEarly(FakeDriver):
    """delete_volume() looks who has the volume, and deletes it when another connection has attached
    it since."""

    def delete_volume(self, volume_id: str, *, timeout: float | None = None) -> None:
        found = [
            (pool, record)
            for pool in self.fake_host.pools.values()
            for record in list(pool.volumes.values())
            if record.volume_id == volume_id and not record.locks
        ]
        time.sleep(_A_MOMENT)
        with _LOCK:
            for pool, record in found:
                pool.volumes.pop(record.name, None)
            if not found:
                super().delete_volume(volume_id, timeout=timeout)


@mutant("SNAP-021")
class SnapshotGoesBelowAnOldOne(FakeDriver):
    """create_snapshot() chooses the parent, and writes it down when another connection has made a
    snapshot since."""

    def create_snapshot(
        self, uuid: UUID, name: str, *, memory: bool = False, timeout: float | None = None
    ) -> Snapshot:
        machine = self.machines.find(uuid)
        parent = machine.current_snapshot
        time.sleep(_A_MOMENT)
        with _LOCK:
            made = super().create_snapshot(uuid, name, memory=memory, timeout=timeout)
            machine.snapshots[made.id].parent = parent
        return made


@mutant("SNAP-021")
class TwoSnapshotsOfOneName(FakeDriver):
    """create_snapshot() looks for the name, and takes it when another connection has it since."""

    def create_snapshot(
        self, uuid: UUID, name: str, *, memory: bool = False, timeout: float | None = None
    ) -> Snapshot:
        machine = self.machines.find(uuid)
        taken = any(each.name == name for each in machine.snapshots.values())
        time.sleep(_A_MOMENT)
        with _LOCK:
            for each in machine.snapshots.values():
                if each.name == name and not taken:
                    each.name = f"{name} "
            made = super().create_snapshot(uuid, name, memory=memory, timeout=timeout)
            for each in machine.snapshots.values():
                each.name = each.name.rstrip()
        return made
