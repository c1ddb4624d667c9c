"""Directories of the fake host in its guests."""

from __future__ import annotations

from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.contract.shares import Shares
from hvdrivers.fake.base import FakeBase
from hvdrivers.models.guest import Share


class FakeShares(FakeBase, Shares):
    """The shares topic."""

    def attach_share(self, uuid: UUID, share: Share, *, timeout: float | None = None) -> None:
        """1 call."""
        with self.link.task("attach_share", uuid, timeout) as task:
            task.call("add-share", lambda: self._add(uuid, share))

    def _add(self, uuid: UUID, share: Share) -> None:
        machine = self.machines.checked("attach_share", uuid)
        if share.path not in self.fake_host.size.directories:
            raise errors.VolumeNotFound(
                f"the host has no directory {share.path!r}",
                hint="make it on the host first: drivers make none",
            )
        there = machine.shares.get(share.tag)
        if there is not None and there != share:
            raise errors.InvalidRequest(
                f"the tag {share.tag!r} is taken by {there.path!r}",
                hint="choose another tag, or detach_share() that one first",
            )
        machine.shares[share.tag] = share

    def detach_share(self, uuid: UUID, tag: str, *, timeout: float | None = None) -> None:
        """1 call."""
        with self.link.task("detach_share", uuid, timeout) as task:
            task.call("remove-share", lambda: self._remove(uuid, tag))

    def _remove(self, uuid: UUID, tag: str) -> None:
        self.machines.checked("detach_share", uuid).shares.pop(tag, None)
