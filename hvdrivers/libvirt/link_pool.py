"""The connections to one host: as many as there are calls at the same time (see ``link.py``).

An operation leases a link for as long as it lasts. Where no link is free, another is opened; the
operation takes the one that comes first. Few are kept when nobody needs them.

An attempt to open one may hang without any limit (a host that accepts and says nothing). So it
runs in a thread of its own, and at most ``_MOST_ATTEMPTS`` hang at the same time. Attempts at a
server that accepts and hangs up are slowed down, and made in a way in which libvirt loses no
descriptor (see ``opening.py``); it may lose one in each of the first attempts at such a server.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from contextlib import suppress
from functools import partial
from typing import Any

import libvirt

from hvdrivers.contract import errors
from hvdrivers.driverkit.deadline import waitable
from hvdrivers.libvirt import descriptors
from hvdrivers.libvirt.errors import translate_opening
from hvdrivers.libvirt.link import Link
from hvdrivers.workers import Workers

_MOST_ATTEMPTS = 4
"""Attempts to connect that may hang at the same time."""
_MOST_LINKS = 32
"""Connections to one host, with those whose call hangs."""
_KEPT = 4
"""Connections that are kept though no operation needs them."""
_CLOSING = 5.0
"""Seconds that close() waits for connections on which a call hangs."""
_OPENING = 1.0
"""Seconds that close() waits for connections that are being opened."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 30.0
"""Seconds between two attempts, while the server hangs up: doubled each time."""
_WAITED_FOR = 1.0
"""A pause of at most so many seconds is waited for. Behind a longer one the caller is told at once
what the newest attempt was told: the host has hung up five times by then."""
_HUNG_UP = libvirt.VIR_ERR_INTERNAL_ERROR
"""The code of "client socket is closed": the one failure that loses a descriptor (39 of 39; none
in 250 attempts that were refused, reset, or ended while libvirt read)."""


class LinkPool:
    """All connections of one driver object. Thread-safe.

    Args:
        open_one: opens a connection, and blocks until it is open. Its argument: whether the host
            has ever hung up on an attempt.
        connect_timeout: seconds for one attempt.
    """

    def __init__(self, open_one: Callable[[bool], Any], connect_timeout: float) -> None:
        self._open_one = open_one
        self._connect_timeout = connect_timeout
        self._changed = threading.Condition()
        self._links: list[Link] = []
        self._attempts: dict[Link, float] = {}
        self._endings: list[Future[None]] = []
        self._waiting = 0
        self._failed = 0.0
        """When the newest of the attempts that have failed began."""
        self._hung_up = 0
        self._hangs_up = False
        """The host has done so at least once."""
        self._not_before = 0.0
        self._failure: errors.HypervisorError = errors.ConnectionFailed("no attempt was made")
        self._closed = False
        self.facts: dict[str, Any] = {}
        """What has been read about the host, until a connection is lost."""
        self.reading = threading.RLock()
        """Held while a fact is read: threads that need the same one ask once."""
        self.workers = Workers("hvdrivers-libvirt", keep_idle=2)

    def lease(self, end: float) -> Link:
        """A link for one operation.

        Args:
            end: when the operation's deadline passes, on the monotonic clock.

        Raises:
            ConnectionFailed: the host cannot be reached, or closed() was called.
            OperationTimeout: the deadline passed; nothing was sent.
        """
        began = time.monotonic()
        with self._changed:
            while True:
                if self._closed:
                    raise errors.ConnectionFailed("the connection has been closed", retryable=False)
                link = self._free()
                if link is not None:
                    link.leased = True
                    return link
                others = any(each.usable and not each.kept for each in self._links)
                if self._failed >= began and not others:
                    # Any attempt since then is ours too: with a hundred threads and a dead host
                    # the last one would otherwise wait for a hundred. An earlier one tells nothing
                    # of the host as it is now.
                    raise _again(self._failure)
                if self._failed < began:
                    self._grow(quietly=others)
                    if self._failed >= began or self._free() is not None:
                        continue  # it has come to its end at once
                waits_for_others = others or len(self._links) >= _MOST_LINKS
                now = time.monotonic()
                limit = end if waits_for_others else min(end, began + self._connect_timeout)
                if limit <= now:
                    break
                wakes = self._not_before if now < self._not_before else limit
                self._waiting += 1
                try:
                    self._changed.wait(waitable(min(limit, wakes) - now))
                finally:
                    self._waiting -= 1
        if limit == end:
            raise errors.OperationTimeout(
                "the deadline passed before the host could be asked; nothing was sent"
            )
        raise errors.ConnectionFailed(
            f"the host did not answer within {self._connect_timeout:g} seconds"
        )

    def spare(self) -> Link | None:
        """A link beside the one that an operation has; None if none is free, and then one is
        opened for the next time."""
        with self._changed:
            link = None if self._closed else self._free()
            if link is not None:
                link.leased = True
            elif not self._closed:
                self._grow(quietly=True, beside=1)
            return link

    def shared(self, end: float) -> Link:
        """Any link, for a call outside of an operation: it may have to wait for others."""
        with self._changed:
            for link in self._links:
                if link.usable and not link.kept:
                    return link
        link = self.lease(end)
        self.release(link)
        return link

    def keep(self, link: Link) -> None:
        """A leased one will not be given back, but discarded: nobody waits for it."""
        with self._changed:
            link.kept = True
            self._changed.notify_all()

    def release(self, link: Link) -> None:
        """Give a leased one back."""
        with self._changed:
            link.leased = False
            free = sum(not each.leased for each in self._links)
            if link in self._links and (free > _KEPT or not (link.stuck or link.alive)):
                self._drop(link)
            self._changed.notify_all()

    def discard(self, link: Link) -> None:
        """Give a leased one back to be closed."""
        with self._changed:
            self._drop(link)
            self._changed.notify_all()

    def notify(self) -> None:
        """A call that hung has come back."""
        with self._changed:
            self._changed.notify_all()

    def close(self, timeout: float = _CLOSING) -> None:
        """Close all; waits a little for those on which a call hangs. Twice is allowed."""
        with self._changed:
            self._closed = True
            for link in self._links:
                self._end(link)
            self._links = []
            self._changed.notify_all()
            # what is opened now is closed as soon as it is there; one that hangs is left to itself
            self._changed.wait_for(lambda: not self._attempts, min(timeout, _OPENING))
            endings = self._endings
        wait_for(endings, min(timeout, _CLOSING))
        self.workers.close()

    @property
    def links(self) -> list[Link]:
        """Those that are open, for tests."""
        with self._changed:
            return list(self._links)

    def _free(self) -> Link | None:
        """The first link that nobody has. Dead ones are closed on the way."""
        found = None
        for link in list(self._links):
            if link.leased or link.stuck:
                continue
            if not link.alive:
                self._drop(link)
            elif found is None:
                found = link
        return found

    def _drop(self, link: Link) -> None:
        if link in self._links:
            self._links.remove(link)
            if not link.alive:
                self.facts = {}  # it may be another daemon that answers next
            self._end(link)

    def _end(self, link: Link) -> None:
        self._endings = [each for each in self._endings if not each.done()]
        # without a thread to close it in it stays open: the process is at its end anyway
        with suppress(errors.HypervisorFault):
            self._endings.append(link.end())

    def _grow(self, *, quietly: bool, beside: int = 0) -> None:
        """Begin to open another, unless there are enough of these.

        Args:
            quietly: not being able to is no error: there are other links.
            beside: how many are wanted though nobody waits for them.
        """
        now = time.monotonic()
        fresh = sum(now - began < self._connect_timeout for began in self._attempts.values())
        if (
            len(self._attempts) >= _MOST_ATTEMPTS
            or len(self._links) + len(self._attempts) >= _MOST_LINKS
            or fresh > self._waiting + beside - (beside > 0)
        ):
            return
        try:
            if now < self._not_before - _WAITED_FOR:
                raise _again(self._failure)
            if now < self._not_before:
                return
            begun = descriptors.begin()
            link = Link(self.workers)
            self._attempts[link] = now
            try:
                opening = link.submit(partial(self._open_one, self._hangs_up))
            except errors.HypervisorFault:
                del self._attempts[link]
                descriptors.end(begun)
                raise
            opening.add_done_callback(lambda _: descriptors.end(begun))
        except errors.HypervisorError:
            # another attempt of this pool is under way: its outcome is this caller's too
            if not quietly and not self._attempts:
                raise
        else:
            opening.add_done_callback(lambda done: self._opened(link, done))

    def _opened(self, link: Link, done: Future[Any]) -> None:
        with self._changed:
            began = self._attempts.pop(link, 0.0)
            error = done.exception()
            if error is None:
                link.connect = done.result()
                self._hung_up = 0
                if self._closed:
                    self._end(link)
                else:
                    self._links.append(link)
            else:
                self._failed = max(self._failed, began)
                self._note_failure(error)
            self._changed.notify_all()

    def _note_failure(self, error: BaseException) -> None:
        if isinstance(error, libvirt.libvirtError):
            self._failure = translate_opening(error)
            self._failure.__cause__ = error
            if error.get_error_code() == _HUNG_UP:
                self._hung_up += 1
                self._hangs_up = True
                pause = min(_FIRST_PAUSE * 2.0 ** min(self._hung_up, 20), _LONGEST_PAUSE)
                self._not_before = time.monotonic() + pause
        elif isinstance(error, errors.HypervisorError):
            self._failure = error
        else:
            self._failure = errors.ConnectionFailed(f"{type(error).__name__}: {error}")
            self._failure.__cause__ = error


def _again(error: errors.HypervisorError) -> errors.HypervisorError:
    copy = type(error)(
        error.message,
        vendor_code=error.vendor_code,
        hint=error.hint,
        retryable=error.retryable,
    )
    copy.__cause__ = error.__cause__
    return copy
