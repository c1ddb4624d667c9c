"""Lifecycle: from an image to a machine and back to nothing.

*Instance*: a virtual machine that this library made (or adopted). Its identity is a UUID that
the caller chose; its name is a label. *Foreign machine*: any other on the same host; shown by
list_foreign(), touched by nothing. The mark that makes a machine ours repeats the machine's
native id, so that a copy of it (export and import, clone) does not become ours too.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from uuid import UUID

from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.operation import Interface, Repeat, Scope, operation
from hvdrivers.contract.states import ANY_STATE, B, C, End, P, R, S, U, X, row
from hvdrivers.models.base import Name, PositiveCount, PositiveMib
from hvdrivers.models.image import ImageRef
from hvdrivers.models.instance import (
    Flavor,
    ForeignInstance,
    InstanceInfo,
    InstanceSpec,
    InstanceSummary,
    Keep,
    Metadata,
)
from hvdrivers.models.progress import ProgressCallback
from hvdrivers.models.seed import SeedDisc


class Lifecycle(Interface):
    """Core: create, look, destroy."""

    @operation(scope=Scope.HOST, timeout=600, repeat=Repeat.REFUSED)
    @abstractmethod
    def spawn(
        self,
        spec: InstanceSpec,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> InstanceInfo:
        """Make an instance and start it (``spec.start``), or leave nothing at all.

        Returns when the machine is RUNNING (or STOPPED, if not to be started; or PAUSED, as
        ``spec.start_as`` says) and every other connection to the host sees it. RUNNING means that
        its CPUs run; how far the guest has booted is the guest's affair. Meanwhile it is BUILDING
        where the hypervisor can show that, and not there where it cannot.

        The image is inspected and its checksum verified before the hypervisor opens it. The
        first spawn from an image puts it into the host's cache; later ones (on vSphere: with the
        same size of root disk) cost the same for any size of image.

        A second spawn with the same UUID raises InstanceExists, also after a success whose reply
        was lost: so a retry after OutcomeUnknown is safe, and InstanceExists then means that it
        worked. Of two processes that spawn the same UUID at the same moment one gets it: drivers
        first take a name on the host that only one can have. After a crash of the calling
        process destroy(uuid) clears what was begun. Spawns of different UUIDs run in parallel.

        Raises:
            InstanceExists: the UUID is taken.
            ImageRejected: unsafe or corrupt image, wrong checksum, larger than the disk.
            NetworkNotFound, VolumeNotFound: a NIC's network, a volume, a kept disk or a host image
                is not there.
            InvalidRequest: a kept disk is larger than the flavor says. Or the server group has
                members with another policy.
            DeviceBusy: a kept disk is attached as a volume. Or a powered-on machine has one of the
                volumes and it is not ``multiattach``,
                or, if this one is to be started, one of the ports. Or an interrupted spawn has left
                something of this UUID, and no machine: destroy() removes that.
            InsufficientResources: not enough memory, huge pages, dedicated CPUs, disk or slots. Or
                the host has too few of the requested devices, or another machine has one of them,
                in whole or in part. Or the machine has more CPUs than the hypervisor gives one on
                this host. Or ``numa`` names a cell or a CPU that the host does not have, or that
                is taken. Or the policy of its server group leaves no host for it.
            NotSupported: the spec needs a capability that is not there.
            OperationTimeout: the deadline passed; what was made has been removed.
        """

    @operation(
        timeout=120,
        states=row(dict.fromkeys((B, R, P, U, S, X, C), End.GONE)),
        interrupts=True,
    )
    @abstractmethod
    def destroy(
        self,
        uuid: UUID,
        *,
        keep: AbstractSet[Keep] = frozenset(),
        timeout: float | None = None,
    ) -> None:
        """Stop the instance at once and remove everything that spawn and later calls made for it.

        Afterwards there are no disks, seed image, NVRAM, TPM state, NICs on switches, secrets,
        snapshots or logs of it on the host. Attached volumes are detached and stay, with their
        data. Disks that other tools attached to the machine stay too. destroy() does not wait
        for the end of a long operation of the same instance (a snapshot, a copy, a migration): that
        one is stopped where it next tells its progress, undoes what it began, and raises
        InstanceNotFound. An instance that is not there is a success, and what an interrupted spawn
        or destroy has left of it is removed all the same. So is what prepare_move() of
        another host has brought here, or a migration whose caller has died; the instance stays at
        the source. A foreign machine with this UUID is not touched: InstanceNotFound.

        Args:
            keep: which disks to leave on purpose. A spawn() takes them over by ``OwnDisk.kept``.

        Raises:
            VolumeExists: there is a volume already of the name that a disk would be kept
                under; nothing has changed.
        """

    @operation(changes=False, states=ANY_STATE, timeout=30)
    @abstractmethod
    def get_instance(self, uuid: UUID, *, timeout: float | None = None) -> InstanceInfo:
        """One instance in full, read from the hypervisor now.

        Raises:
            InstanceNotFound: not there, or not ours.
        """

    @operation(scope=Scope.HOST, changes=False, timeout=60)
    @abstractmethod
    def list_instances(self, *, timeout: float | None = None) -> Sequence[InstanceSummary]:
        """All instances of ours, in any order; one bulk call for any number of them.

        Each entry is what get_instance(uuid).summary() would give at that moment.
        """

    @operation(scope=Scope.HOST, changes=False, timeout=60)
    @abstractmethod
    def list_foreign(self, *, timeout: float | None = None) -> Sequence[ForeignInstance]:
        """All machines on the host that are not ours, each by its own name and in the state that
        it has now; one bulk call."""

    @operation(states=row(same=(R, P, U, S, X, C)), timeout=30)
    @abstractmethod
    def rename(self, uuid: UUID, name: Name, *, timeout: float | None = None) -> None:
        """Change the label. In a state other than STOPPED this needs HOT_RENAME: where the label
        is the machine's own name, so that one call lists all names, the hypervisor may not let it
        be changed while it runs.

        Raises:
            InvalidRequest: not a valid name.
            NotSupported: this hypervisor renames only stopped machines.
        """

    @operation(states=row(same=(R, P, U, S, X, C)), timeout=30)
    @abstractmethod
    def set_metadata(self, uuid: UUID, metadata: Metadata, *, timeout: float | None = None) -> None:
        """Replace all metadata by these entries; they come back unchanged from get_instance().

        Raises:
            InvalidRequest: a key or value is not allowed (see models.instance.Metadata).
        """


class Rescue(Interface, capability=Capability.RESCUE):
    """Repair a guest that does not boot."""

    @operation(
        states=row({R: X, S: X, C: X}), timeout=600, repeat=Repeat.REFUSED, optional=("seed",)
    )
    @abstractmethod
    def rescue(
        self,
        uuid: UUID,
        image: ImageRef | None = None,
        *,
        seed: SeedDisc | None = None,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Stop the instance and boot it from ``image`` with its own root disk second.

        Args:
            image: the rescue image; None boots the image that the instance was made from.
            seed: a seed disc that the rescued machine has instead of its own. Needs SEED_DISC.

        Raises:
            InvalidRequest: no image given, and the instance was booted from a volume, or others
                have made it and its root disk is not based on an image.
            ImageRejected: as in spawn.
        """

    @operation(states=row({X: R, C: S}, same=(R, S)), timeout=120)
    @abstractmethod
    def unrescue(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Remove the rescue disk and boot the instance's own root disk again. An instance that is
        not rescued stays as it is.

        A rescued machine that was powered off, or went down by itself, is STOPPED and stays so;
        power_on() of it removes the rescue disk as well.
        """


class Resize(Interface, capability=Capability.RESIZE):
    """Another size for a stopped instance."""

    @operation(states=row(same=(S,)), timeout=600)
    @abstractmethod
    def resize(
        self,
        uuid: UUID,
        flavor: Flavor,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Give a stopped instance the CPUs, memory and root disk of ``flavor`` (``disk_gib=0``: the
        disk stays as it is). What is on its disks and volumes stays.

        Raises:
            InvalidRequest: the root disk would shrink, which destroys data; or the ephemeral or
                swap disk would change; or CPUs and memory would, and ``InstanceSpec.numa`` has
                placed them.
            DeviceBusy: the disk would grow and has snapshots, which this hypervisor refuses.
            InsufficientResources: the host has not that much.
        """


class HotResizeCpu(Interface, capability=Capability.HOT_RESIZE_CPU):
    """Other CPUs while the guest runs."""

    @operation(states=row(same=(R,)), timeout=120)
    @abstractmethod
    def hot_resize_cpu(
        self, uuid: UUID, vcpus: PositiveCount, *, timeout: float | None = None
    ) -> None:
        """Change the number of virtual CPUs of a running instance, and of its flavor.

        Raises:
            InvalidRequest: above the flavor's max_vcpus, not even over its numa_nodes, or a
                decrease that the hypervisor does not do while it runs.
            DeviceBusy: the guest did not take it in time; nothing has changed.
        """


class HotResizeMemory(Interface, capability=Capability.HOT_RESIZE_MEMORY):
    """Other memory while the guest runs."""

    @operation(states=row(same=(R,)), timeout=120)
    @abstractmethod
    def hot_resize_memory(
        self, uuid: UUID, memory_mib: PositiveMib, *, timeout: float | None = None
    ) -> None:
        """Change the memory (MiB) of a running instance, and of its flavor.

        Raises:
            InvalidRequest: above the flavor's max_memory_mib, or a decrease that the hypervisor
                does not do while it runs.
            InsufficientResources: the host has not that much.
            DeviceBusy: the guest did not take it in time; nothing has changed.
        """


class Rebuild(Interface, capability=Capability.REBUILD):
    """A new root disk for the same machine."""

    @operation(states=row({C: S}, same=(R, S)), timeout=600, repeat=Repeat.AGAIN)
    @abstractmethod
    def rebuild(
        self,
        uuid: UUID,
        image: ImageRef,
        *,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Replace the root disk by a fresh one from ``image``. UUID, name, metadata, NICs and
        volumes stay; what was on the root disk is lost. A failure before the new disk is in place
        leaves the old one. Afterwards get_instance() names the new image, and rescue() without
        an image boots the new one. A running guest is restarted, and watch() reports that.

        Raises:
            InvalidRequest: the instance was booted from a volume.
            ImageRejected: as in spawn.
            DeviceBusy: the disk has snapshots; delete them first.
        """


class Adopt(Interface, capability=Capability.ADOPT):
    """Machines that others made."""

    @operation(states=row(same=(R, P, S)), timeout=60)
    @abstractmethod
    def adopt(
        self,
        uuid: UUID,
        *,
        name: Name | None = None,
        metadata: Metadata | None = None,
        timeout: float | None = None,
    ) -> InstanceInfo:
        """Make a foreign machine (see list_foreign()) an instance of ours, as it is.

        Nothing of it is changed but the mark. The first disk that it has now counts as its root
        disk. A later destroy() removes all disks that it has now, and with ``keep=`` leaves the
        root disk as a volume. rescue() boots another image, and leaves the disks of the machine as
        they are. rebuild() replaces the root disk by a fresh one, and leaves the machine's other
        disks. The other operations, too, are for it as for any instance. One that cannot be, as
        others have made the machine in another way, raises NotSupported or InvalidRequest with a
        hint, and changes nothing.

        Args:
            name: a label; None takes the machine's own name.

        Raises:
            InstanceNotFound: no machine has this UUID.
            InvalidRequest: its own name is not a valid label and no other was given; or it cannot
                be kept to the contract (it vanishes when it stops, its disks are out of reach,
                another machine has the same UUID).
        """
