"""Lifecycle on Hyper-V: each operation is one request; the script on the host undoes what it has
begun when a step fails, when the deadline passes, and when it is stopped.

A spawn first makes a file that only one can make: the claim. The instance is there for others once
a second file says which machine it is. See ``scripts/host.ps1`` for the folders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, declared, provides
from hvdrivers.contract.lifecycle import Lifecycle
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.driverkit.own_disks import seed_of
from hvdrivers.hyperv.base import Topic
from hvdrivers.hyperv.image_store import ImageStore
from hvdrivers.hyperv.instances import GIB, MIB, info_of
from hvdrivers.hyperv.library import Json
from hvdrivers.hyperv.naming import volume_file
from hvdrivers.hyperv.record import InstanceRecord, MetadataRecord, packed
from hvdrivers.hyperv.sizes import check_size
from hvdrivers.hyperv.volume_sources import VolumeSources
from hvdrivers.hyperv.wiring import Wiring
from hvdrivers.messages import shown_label
from hvdrivers.models.instance import (
    Firmware,
    ForeignInstance,
    InstanceInfo,
    InstanceSpec,
    InstanceSummary,
    Keep,
)
from hvdrivers.models.progress import ProgressCallback
from hvdrivers.models.state import InstanceState

LINUX_TEMPLATE: Final = "MicrosoftUEFICertificateAuthority"
"""Secure boot for what Microsoft has signed for others: boot loaders of Linux distributions."""


class HypervLifecycle(Topic, Lifecycle):
    """Core lifecycle."""

    @provides(*declared(ImageStore), *declared(VolumeSources), *declared(Wiring))
    def spawn(
        self,
        spec: InstanceSpec,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> InstanceInfo:
        """Budget: 1 call from a cached image. If the image is not on the host, the calls that bring
        it there, and 1 more."""
        deadline = Deadline(timeout)
        check_size(spec.flavor)
        seed = seed_of(spec)
        key = self.store.key_of(spec.image, deadline, progress)
        arguments = self._spawn_arguments(spec, key)

        def send() -> Any:
            return self.session.call("Spawn", arguments, deadline, data=seed)

        return info_of(self.store.with_image(spec.image, send, deadline, progress))

    @provides(
        Capability.UEFI,
        Capability.SECURE_BOOT,
        Capability.VTPM,
        Capability.NUMA,
        Capability.PCI_PASSTHROUGH,
        Capability.VGPU,
        Capability.CONFIG_DRIVE,
        Capability.SEED_DISC,
        Capability.USER_DATA,
        Capability.EPHEMERAL_DISK,
        Capability.SWAP_DISK,
    )
    def _spawn_arguments(self, spec: InstanceSpec, key: str | None) -> dict[str, Json]:
        firmware = spec.firmware or self.config.default_firmware
        if spec.vtpm and firmware is not Firmware.UEFI:
            raise errors.NotSupported(
                "Hyper-V gives a TPM only to machines with UEFI",
                hint="say firmware=uefi, or leave vtpm out",
            )
        flavor = spec.flavor
        extra = [
            {"name": name, "size": size}
            for name, size in (
                ("ephemeral", flavor.ephemeral_gib * GIB),
                ("swap", flavor.swap_mib * MIB),
            )
            if size
        ]
        return {
            "uuid": str(spec.uuid),
            "name": spec.name,
            "notes": f"hvdrivers instance {spec.uuid}",
            "generation": 2 if firmware is Firmware.UEFI else 1,
            "cpus": flavor.vcpus,
            "memory": flavor.memory_mib * MIB,
            "numa": flavor.numa_nodes or 0,
            "nested": False,
            "image": self.store.path_of(spec.image, key) if spec.image is not None else "",
            "size": flavor.disk_gib * GIB,
            "extra": extra,
            "volumes": [self.sources.attachment(each) for each in spec.volumes],
            "nics": [self.wiring.nic(each) for each in spec.vifs],
            "pci": [str(each.address) for each in spec.pci_devices],
            "vgpus": [{"type": each.type, "parent": str(each.parent or "")} for each in spec.vgpus],
            "secure": spec.secure_boot,
            "template": LINUX_TEMPLATE,
            "tpm": spec.vtpm,
            "start": spec.start,
            "record": packed(InstanceRecord(created_at=datetime.now(UTC))),
            "flavor": packed(flavor),
            "key": key or "",
            "pipe": serial_pipe(spec.uuid),
            "metadata": packed(MetadataRecord(metadata=dict(spec.metadata))),
        }

    def destroy(
        self,
        uuid: UUID,
        *,
        keep: AbstractSet[Keep] = frozenset(),
        timeout: float | None = None,
    ) -> None:
        """Budget: 1 call. It waits until the disks below checkpoints are merged."""
        kept = self._kept_path(uuid) if Keep.ROOT_DISK in keep else ""
        self.session.call("Destroy", {"uuid": str(uuid), "keep": kept}, Deadline(timeout))

    def _kept_path(self, uuid: UUID) -> str:
        return f"{self.sources.pool_path('default')}\\{volume_file(f'{uuid}-root')}"

    def get_instance(self, uuid: UUID, *, timeout: float | None = None) -> InstanceInfo:
        """Budget: 1 call."""
        return info_of(self.session.call("Get", {"uuid": str(uuid)}, Deadline(timeout)))

    def list_instances(self, *, timeout: float | None = None) -> Sequence[InstanceSummary]:
        """Budget: 1 call for any number of instances."""
        found = self.session.call("List", {}, Deadline(timeout))
        return [
            InstanceSummary(
                uuid=UUID(uuid),
                name=shown_label(name),
                state=InstanceState(state),
                vcpus=cpus,
                memory_mib=memory // MIB,
            )
            for uuid, name, state, cpus, memory in found["ours"]
        ]

    def list_foreign(self, *, timeout: float | None = None) -> Sequence[ForeignInstance]:
        """Budget: 1 call for any number of machines. The UUID is the machine's own Id."""
        found = self.session.call("List", {}, Deadline(timeout))
        return [
            ForeignInstance(uuid=UUID(uuid), name=name, state=InstanceState(state))
            for uuid, name, state in found["foreign"]
        ]

    @provides(Capability.HOT_RENAME)
    def rename(self, uuid: UUID, name: str, *, timeout: float | None = None) -> None:
        """Budget: 1 call."""
        self.session.change("rename", "Rename", uuid, {"name": name}, timeout)

    def set_metadata(
        self, uuid: UUID, metadata: Mapping[str, str], *, timeout: float | None = None
    ) -> None:
        """Budget: 1 call. Metadata has a line of its own in the record."""
        line = f"metadata {packed(MetadataRecord(metadata=dict(metadata)))}"
        arguments = {"start": "metadata", "line": line}
        self.session.change("set_metadata", "SetRecord", uuid, arguments, timeout)


def serial_pipe(uuid: UUID) -> str:
    """The pipe on the host that the first serial port of an instance is connected to."""
    return f"\\\\.\\pipe\\hvdrivers-{uuid}"
