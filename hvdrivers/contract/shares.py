"""Shares: directories of the host inside the guest (virtio-fs).

A share binds the instance to its host: it does not migrate until the share is detached.
"""

from __future__ import annotations

from abc import abstractmethod
from uuid import UUID

from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.operation import Interface, operation
from hvdrivers.contract.states import S, row
from hvdrivers.models.guest import Share


class Shares(Interface, capability=Capability.SHARES):
    """Give and take a share."""

    @operation(states=row(same=(S,)))
    @abstractmethod
    def attach_share(self, uuid: UUID, share: Share, *, timeout: float | None = None) -> None:
        """Let a stopped instance mount a directory of the host after its next start. Attaching
        the same share again is a success.

        Raises:
            InvalidRequest: the tag is taken by another path, or with another read_only; disks of
                instances are in the directory, or below it; or it is of the kernel's own file
                systems.
            NotSupported: read_only where ``driver.takes`` does not name ``Share.read_only``.
            VolumeNotFound: no such directory on the host.
        """

    @operation(states=row(same=(S,)))
    @abstractmethod
    def detach_share(self, uuid: UUID, tag: str, *, timeout: float | None = None) -> None:
        """Take it away. A share that is not there is a success."""
