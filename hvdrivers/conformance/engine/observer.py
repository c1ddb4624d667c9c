"""What a target may give beside its driver: the truth by another path, and a way to cut calls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from uuid import UUID

from hvdrivers.contract.capabilities import Capability
from hvdrivers.driverkit.seam import Cut as Cut  # noqa: PLC0414 - public here, too
from hvdrivers.models.group import ServerGroupPolicy
from hvdrivers.models.guest import Share
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import VifQos


class PreconditionMissing(Exception):
    """The target cannot give what a check needs. The sentence says what."""


class NotShown(Exception):
    """The simulator that the target runs against cannot show what a check looks for, although the
    hypervisor that it stands for can. The sentence says why. A hook of a target raises it; only a
    target whose ``simulated`` is True may."""


class Observer(ABC):
    """Reads the host by another path than the driver: virsh, a raw property collector, Get-VM."""

    @abstractmethod
    def states(self) -> dict[UUID, InstanceState]:
        """Every machine of ours and its state."""

    @abstractmethod
    def residue(self) -> frozenset[str]:
        """Everything on the host that a driver could leave: a sentence for each disk, seed, NVRAM,
        secret, port, snapshot, log. The image cache is left out."""

    @abstractmethod
    def devices(self, uuid: UUID) -> frozenset[str]:
        """Volume ids and VIF ids that the machine has now, as the hypervisor's own tools show."""

    def disk_limits(self, uuid: UUID) -> Mapping[str, Mapping[str, int]]:
        """The limits of each attached volume, by volume id, as ``DiskQos.limits()`` has them; of
        one without limits an empty mapping."""
        raise PreconditionMissing("the observer does not see the limits of disks (disk_limits)")

    def vif_limits(self, uuid: UUID) -> Mapping[str, VifQos | None]:
        """The limits of each NIC, by VIF id."""
        raise PreconditionMissing("the observer does not see the limits of NICs (vif_limits)")

    def options(self, uuid: UUID) -> Mapping[str, Mapping[str, object]]:
        """The optional fields that each attached volume and NIC has, by volume id or VIF id: names
        and values as ``VolumeAttachment`` and ``Vif`` have them. Those that the driver does not
        take may be left out."""
        raise PreconditionMissing("the observer does not see optional fields (options)")

    def hardware(self, uuid: UUID) -> Mapping[str, object]:
        """What the machine is made of: names and values as ``Hardware`` has them. Those that the
        driver does not take may be left out."""
        raise PreconditionMissing("the observer does not see hardware (hardware)")

    def shares(self, uuid: UUID) -> Mapping[str, Share]:
        """The directories of the host that the machine has, by tag."""
        raise PreconditionMissing("the observer does not see shares (shares)")

    def frozen(self, uuid: UUID) -> bool:
        """Whether the guest's file systems are frozen."""
        raise PreconditionMissing("the observer does not see frozen file systems (frozen)")

    def fittings(self, uuid: UUID) -> frozenset[Capability]:
        """Which of UEFI, SECURE_BOOT, VTPM and SEV the machine has."""
        raise PreconditionMissing("the observer does not see firmware and TPM (fittings)")

    def kept_with(self, uuid: UUID) -> tuple[ServerGroupPolicy, frozenset[UUID]] | None:
        """The policy that the hypervisor itself keeps for the machine, and all the machines that it
        keeps it for. None: it keeps none, as of a group with one member."""
        raise PreconditionMissing("the observer does not see server groups (kept_with)")

    def own_disks(self, uuid: UUID) -> Sequence[int]:
        """The size in bytes of each disk that spawn() has made for the machine, without the seed
        disk."""
        raise PreconditionMissing("the observer does not see the machine's own disks (own_disks)")

    def kept(self, uuid: UUID) -> frozenset[str]:
        """The names under which the host's storage keeps what is the machine's own (disks, seed,
        logs), and the cached image that it was made from."""
        raise PreconditionMissing("the observer does not see names in the storage (kept)")

    def seed(self, uuid: UUID) -> Mapping[str, bytes]:
        """What cloud-init finds in the guest, on a disk or in place of it: files by their paths, as
        ``hvdrivers.cloudinit.seed_files()`` names and writes them."""
        raise PreconditionMissing("the observer does not see what cloud-init finds (seed)")

    def seed_disc(self, uuid: UUID) -> bytes:
        """The seed disc that the machine has now, byte for byte; empty: it has none."""
        raise PreconditionMissing("the observer does not see the seed disc (seed_disc)")

    def read_only(self, uuid: UUID) -> frozenset[str]:
        """Ids of the volumes that the machine has and cannot write to."""
        raise PreconditionMissing("the observer does not see who may write (read_only)")

    def foreign(self) -> Mapping[UUID, tuple[str, InstanceState]]:
        """Every machine of others: its own name, and its state."""
        raise PreconditionMissing("the observer does not see machines of others (foreign)")

    def power_off(self, uuid: UUID) -> None:
        """Switch a machine off behind the driver's back, ours or not."""
        raise PreconditionMissing("the observer cannot switch a machine off")


class FaultSeam(ABC):
    """The place in a driver's transport where a call can be cut."""

    deadline: float = 1.5
    """Seconds that the suite gives an operation of which one call is to time out. They are slept
    out each time: a seam whose host answers within milliseconds sets a fraction of it."""

    @abstractmethod
    def counting(self) -> AbstractContextManager[list[str]]:
        """Collect the names of the calls that are made meanwhile, in their order."""

    @abstractmethod
    def cut(self, name: str, occurrence: int, kind: str) -> AbstractContextManager[Cut]:
        """Cut one call: the one that is named ``name`` for the ``occurrence``-th time, from 1. A
        call is named and not numbered, because an operation polls now more and now less often.

        Args:
            kind: ``before`` it is sent, ``after`` it took effect (the reply is lost), ``timeout``
                (it hangs for longer than ``deadline``), or ``expired`` (the session is not valid
                any more, and the host refuses it).
        """

    @contextmanager
    def cut_twice(self, name: str, occurrence: int, then: int) -> Iterator[Sequence[Cut]]:
        """Lose the reply of one call, named as for ``cut``, and cut a later one before it is sent:
        the ``then``-th after it, from 1, whatever it is for. Mostly the driver undoes with it what
        it had begun. Yields the two cuts."""
        raise PreconditionMissing("the target's seam cuts one call, not two (cut_twice)")
        yield

    @contextmanager
    def host_dies(self, name: str, occurrence: int) -> Iterator[Cut]:
        """Cut one call, named as for ``cut``, before it is sent, and every call after it until the
        end of the block, those of the undo too: the host has died, and is back then."""
        raise PreconditionMissing("the target's seam does not let the host die (host_dies)")
        yield
