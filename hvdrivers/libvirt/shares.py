"""Shares on libvirt: directories of the host in the guest, by virtio-fs.

libvirtd starts a virtiofsd for each share, which sees the shared directory and nothing else of the
host (its sandbox). QEMU and virtiofsd share the guest's memory, so a machine with a share has its
memory in a file without a name (memfd). https://libvirt.org/kbase/virtiofs.html
"""

from __future__ import annotations

from uuid import UUID

import libvirt

from hvdrivers.contract import errors
from hvdrivers.contract.shares import Shares
from hvdrivers.driverkit.deadline import current_deadline
from hvdrivers.libvirt.base import Topic
from hvdrivers.libvirt.domains import require_off, xml_of
from hvdrivers.libvirt.encrypted_memory import is_encrypted, no_device
from hvdrivers.libvirt.redefining import redefine
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.shared_directories import (
    refuse_disks,
    refuse_kernel,
    refuse_separators,
    require_directory,
    share_element,
    shares_in,
    with_share,
    without_share,
)
from hvdrivers.libvirt.shared_memory import fit_memory, is_shared
from hvdrivers.libvirt.turns import Turn
from hvdrivers.libvirt.xml import text
from hvdrivers.models.guest import Share
from hvdrivers.models.state import InstanceState

_CONFIG = libvirt.VIR_DOMAIN_AFFECT_CONFIG


class LibvirtShares(Topic, Shares):
    """Give and take a share."""

    def attach_share(self, uuid: UUID, share: Share, *, timeout: float | None = None) -> None:
        """Budget: 12 calls for the first share of a machine, 11 for a further one, 6 if it is
        there already. A turn keeps two clients apart: each would define the machine without the
        other's share."""
        del timeout

        def act(turn: Turn, domain: Remote, state: InstanceState) -> None:
            del state
            xml = xml_of(domain, inactive=True)
            there = shares_in(xml).get(share.tag)
            if there == share:
                return
            if there is not None:
                raise errors.InvalidRequest(
                    f"the tag {share.tag!r} is taken by {there.path!r}",
                    hint="choose another tag, or detach_share() it first",
                )
            if is_encrypted(xml):
                raise no_device()
            refuse_separators(share.path)
            refuse_kernel(share.path)
            refuse_disks(self.pools, share.path)
            require_directory(self.connection.remote, share.path)
            turn.check()
            if is_shared(xml):
                domain.attachDeviceFlags(text(share_element(share)), _CONFIG)
            else:
                redefine(self.hub, uuid, domain, lambda now: fit_memory(with_share(now, share)))
            require_off(domain)

        self.turns.change("attach_share", uuid, current_deadline(), act)

    def detach_share(self, uuid: UUID, tag: str, *, timeout: float | None = None) -> None:
        """Budget: 10 calls for the last share of a machine, 9 while others stay, 6 if it is not
        there."""
        del timeout

        def act(turn: Turn, domain: Remote, state: InstanceState) -> None:
            del state
            shares = shares_in(xml_of(domain, inactive=True))
            share = shares.get(tag)
            if share is None:
                return
            turn.check()
            if len(shares) > 1:
                domain.detachDeviceFlags(text(share_element(share)), _CONFIG)
            else:
                redefine(self.hub, uuid, domain, lambda now: fit_memory(without_share(now, tag)))
            require_off(domain)

        self.turns.change("detach_share", uuid, current_deadline(), act)
