"""Mutants of shares."""

from __future__ import annotations

from uuid import UUID

from hvdrivers.conformance.mutants.registry import mutant
from hvdrivers.contract import errors
from hvdrivers.fake.driver import FakeDriver
from hvdrivers.models.guest import Share


@mutant("SHARE-001")
class ShareIsNotKept(FakeDriver):
    """attach_share() checks everything, and attaches nothing."""

    def _add(self, uuid: UUID, share: Share) -> None:
        super()._add(uuid, share)
        del self.machines.find(uuid).shares[share.tag]


@mutant("SHARE-001")
class ShareIsWritable(FakeDriver):
    """The guest can write to a directory that was to be read-only."""

    def _add(self, uuid: UUID, share: Share) -> None:
        super()._add(uuid, share.model_copy(update={"read_only": False}))


@mutant("SHARE-001")
class ShareIsOfOneStart(FakeDriver):
    """A share is gone after the first power_off()."""

    def power_off(self, uuid: UUID, *, graceful: float = 0, timeout: float | None = None) -> None:
        super().power_off(uuid, graceful=graceful, timeout=timeout)
        self.machines.find(uuid).shares.clear()


@mutant("SHARE-002")
class SecondShareRaises(FakeDriver):
    """Attaching the same share again raises InvalidRequest."""

    def _add(self, uuid: UUID, share: Share) -> None:
        if share.tag in self.machines.find(uuid).shares:
            raise errors.InvalidRequest("the tag is taken")
        super()._add(uuid, share)


@mutant("SHARE-002")
class SecondShareBecomesWritable(FakeDriver):
    """Attaching a read-only share again makes it writable."""

    def _add(self, uuid: UUID, share: Share) -> None:
        again = share.tag in self.machines.find(uuid).shares
        super()._add(uuid, share)
        if again:
            writable = share.model_copy(update={"read_only": False})
            self.machines.find(uuid).shares[share.tag] = writable


@mutant("SHARE-003")
class TakenTagIsReplaced(FakeDriver):
    """attach_share() with a taken tag puts another directory under it."""

    def _add(self, uuid: UUID, share: Share) -> None:
        self.machines.checked("attach_share", uuid).shares.pop(share.tag, None)
        super()._add(uuid, share)


@mutant("SHARE-003")
class TagsAreOfTheHost(FakeDriver):
    """A tag that one instance has cannot be used by another."""

    def _add(self, uuid: UUID, share: Share) -> None:
        for machine in self.fake_host.ours():
            if machine.uuid != uuid and share.tag in machine.shares:
                raise errors.InvalidRequest("the tag is taken")
        super()._add(uuid, share)


@mutant("SHARE-004")
class AbsentDirectoryIsShared(FakeDriver):
    """attach_share() does not look whether the directory is there: the next start fails."""

    def _add(self, uuid: UUID, share: Share) -> None:
        self.machines.checked("attach_share", uuid).shares[share.tag] = share


@mutant("SHARE-004")
class AbsentDirectoryIsInvalid(FakeDriver):
    """A directory that is not there is an InvalidRequest."""

    def _add(self, uuid: UUID, share: Share) -> None:
        try:
            super()._add(uuid, share)
        except errors.VolumeNotFound as error:
            raise errors.InvalidRequest("no such directory") from error


@mutant("SHARE-005")
class ShareStays(FakeDriver):
    """detach_share() does nothing."""

    def _remove(self, uuid: UUID, tag: str) -> None:
        self.machines.checked("detach_share", uuid)


@mutant("SHARE-005")
class DetachByPath(FakeDriver):
    """detach_share() takes every share of the same directory away."""

    def _remove(self, uuid: UUID, tag: str) -> None:
        shares = self.machines.checked("detach_share", uuid).shares
        going = shares.get(tag)
        for name in [name for name, each in shares.items() if going and each.path == going.path]:
            del shares[name]


@mutant("SHARE-006")
class DetachOfAbsentShareRaises(FakeDriver):
    """detach_share() of a share that is not there raises InvalidRequest."""

    def _remove(self, uuid: UUID, tag: str) -> None:
        if tag not in self.machines.checked("detach_share", uuid).shares:
            raise errors.InvalidRequest("no such share")
        super()._remove(uuid, tag)


@mutant("SHARE-006")
class DetachOfAnothersShare(FakeDriver):
    """detach_share() takes the tag away from every instance."""

    def _remove(self, uuid: UUID, tag: str) -> None:
        super()._remove(uuid, tag)
        for machine in self.fake_host.ours():
            machine.shares.pop(tag, None)
