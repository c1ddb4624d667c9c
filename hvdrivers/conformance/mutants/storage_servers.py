"""Mutants of volumes of storage servers, and of encrypted ones."""

from __future__ import annotations

from uuid import UUID

from pydantic import SecretStr

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.fake.records import AttachedDisk, VolumeRecord
from hvdrivers.fake.steps import Task
from hvdrivers.fake.volumes import Served, Volumes
from hvdrivers.models.instance import InstanceSpec
from hvdrivers.models.volume import VolumeAttachment


@mutant("STOR-076")
class FailsOnEveryServer(FakeDriver):
    """No volume of a storage server can be attached, though every kind is declared."""

    class volumes_type(Volumes):
        def served_volume(self, volume: Served) -> VolumeRecord:
            raise errors.HypervisorFault("the host cannot open it")


@mutant("STOR-076")
class ServedVolumeIsAnybodys(FakeDriver):
    """Two running machines get the same volume of a storage server."""

    class volumes_type(Volumes):
        def check_free(self, uuid: UUID, attachment: VolumeAttachment) -> VolumeRecord:
            record = self.find(attachment)
            return record if record.pool is None else super().check_free(uuid, attachment)


@mutant("STOR-076")
class DetachKeepsTheServersPassword(FakeDriver):
    """The password for a storage server stays on the host when the volume is detached."""

    class volumes_type(Volumes):
        def disconnect(self, uuid: UUID, volume_id: str) -> None:
            kept = {
                name: each for name, each in self.host.secrets.items() if name.endswith("/chap")
            }
            super().disconnect(uuid, volume_id)
            self.host.secrets |= kept


@mutant("STOR-076")
class SpawnLeavesServedVolumesOut(FakeDriver):
    """An instance is spawned without its volumes of storage servers."""

    def _add_volumes(self, task: Task, spec: InstanceSpec) -> None:
        super()._add_volumes(task, spec)
        volumes = self.machines.find(spec.uuid).volumes
        for name in [name for name, disk in volumes.items() if disk.record.pool is None]:
            del volumes[name]


@mutant("STOR-077")
class ExtendKnowsTheHostsOwn(FakeDriver):
    """extend_volume() does not find a volume that a storage server has."""

    def _disk_of(self, operation: str, uuid: UUID, volume_id: str) -> AttachedDisk:
        disk = super()._disk_of(operation, uuid, volume_id)
        if operation == "extend_volume" and disk.record.pool is None:
            raise errors.VolumeNotFound("no pool has it")
        return disk


@mutant("STOR-078")
class StoresAnotherPassphrase(FakeDriver):
    """The passphrase is stored as text, without what is no ASCII."""

    class volumes_type(Volumes):
        def passphrase(self, attachment: VolumeAttachment) -> SecretStr | None:
            found = super().passphrase(attachment)
            if found is None:
                return None
            text = bytes.fromhex(found.get_secret_value()).decode("ascii", "ignore")
            return SecretStr(text.encode().hex())


@mutant("STOR-078")
class OnePassphraseForAll(FakeDriver):
    """The passphrase of the first encrypted volume of an instance is taken for the others."""

    class volumes_type(Volumes):
        def store_secrets(self, uuid: UUID, token: int, secrets: dict[str, SecretStr]) -> None:
            known = [
                each.value
                for name, each in self.host.secrets.items()
                if name.startswith(f"{uuid}/") and name.endswith("/luks")
            ]
            changed = {
                name: known[0] if known and name.endswith("/luks") else value
                for name, value in secrets.items()
            }
            super().store_secrets(uuid, token, changed)
