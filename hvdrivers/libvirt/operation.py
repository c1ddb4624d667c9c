"""What one operation has of a connection: a link of its own, its deadline, and the number of its
calls that waited for another."""

from __future__ import annotations

import threading
from collections import Counter

from hvdrivers.driverkit.deadline import Deadline, current_deadline
from hvdrivers.libvirt.link import Link
from hvdrivers.libvirt.link_pool import LinkPool


class Calls(Counter[str]):
    """How often each call was made."""

    in_sequence = 0
    """How many of them had to wait for another, in operations: what the host's distance costs."""


class Operation:
    """One operation, or a branch of one, and the link that it has."""

    def __init__(self, links: LinkPool, deadline: Deadline, link: Link | None = None) -> None:
        self.links = links
        self.deadline = deadline
        self.in_sequence = 0
        self.asking = ""
        """The call that was made last."""
        self._link = link
        self._thread: int | None = None

    def stay_here(self) -> None:
        """This thread, which is the link's own, makes all its calls."""
        self._thread = threading.get_ident()

    @property
    def stays(self) -> bool:
        """Whether its calls are made in the link's own thread."""
        return self._thread is not None

    @property
    def is_here(self) -> bool:
        """Whether this thread makes its calls. One that was started meanwhile has the context of
        the operation, and must not wait for a link whose thread waits for it."""
        return self._thread in {None, threading.get_ident()}

    def link(self) -> Link:
        """Its link; another one where that is of no use any more."""
        if self._link is not None and (self.stays or self._link.usable):
            return self._link
        self.release()
        self._link = self.links.lease(current_deadline().at)
        return self._link

    def release(self) -> None:
        """Give the link back."""
        link, self._link = self._link, None
        if link is not None:
            self.links.release(link)
