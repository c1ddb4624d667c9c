"""A stream of events behind the guard (see ``guard.py``).

The stream that a driver returns from ``watch()`` runs the driver's code in the consumer's thread,
long after the call has ended. So its errors and its events are checked as those of a call are.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from math import isnan
from typing import NoReturn, get_args

from hvdrivers.checking import unkept
from hvdrivers.contract import errors
from hvdrivers.contract.events import EventStream
from hvdrivers.models.events import Event
from hvdrivers.raised import in_words, is_whole

_EVENTS = get_args(get_args(Event)[0])


class GuardedStream(EventStream):
    """One subscription, as the caller gets it.

    Args:
        stream: what the driver has returned.
        driver_name: whose fault a fault is.
        complete: gives an error operation and host, and takes secrets out of it.
    """

    def __init__(
        self,
        stream: EventStream,
        driver_name: str,
        complete: Callable[[errors.HypervisorError], None],
    ) -> None:
        self._stream = stream
        self._driver_name = driver_name
        self._complete = complete
        self._pid = os.getpid()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a stream of events cannot be pickled or copied; watch() in each process")

    def next(self, timeout: float | None = None) -> Event | None:
        """See :meth:`EventStream.next`.

        Raises:
            InvalidRequest: ``timeout`` is no number.
            ConnectionFailed: this process was forked from the one that has called watch().
        """
        number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
        if timeout is not None and (not number or isnan(timeout)):
            raise errors.InvalidRequest(
                "timeout must be a number of seconds, or None",
                hint="leave it out to wait until there is an event",
            )
        if os.getpid() != self._pid:
            gone = errors.ConnectionFailed(
                "this stream was opened in the process that this one was forked from",
                hint="connect() and watch() after the fork, in each process",
                retryable=False,
            )
            self._complete(gone)
            raise gone
        try:
            event = self._stream.next(timeout)
        except Exception as error:  # noqa: BLE001 - raised as one of the tree
            final = self._of_the_tree(error, "next()")
        else:
            return self._checked(event)
        raise final

    def _checked(self, event: Event | None) -> Event | None:
        if event is not None and not isinstance(event, _EVENTS):
            raise self._violation(f"delivered {type(event).__name__}, which is no event")
        problem = unkept(event)
        if problem is not None:
            raise self._violation(f"delivered what the contract does not allow: {problem}")
        return event

    def close(self) -> None:
        """See :meth:`EventStream.close`."""
        try:
            self._stream.close()
        except Exception as error:  # noqa: BLE001 - raised as one of the tree
            final = self._of_the_tree(error, "close()")
        else:
            return
        raise final

    @property
    def closed(self) -> bool:
        """See :meth:`EventStream.closed`."""
        return bool(self._stream.closed)

    def _of_the_tree(self, error: Exception, where: str) -> errors.HypervisorError:
        if isinstance(error, errors.HypervisorError) and is_whole(error):
            self._complete(error)
            return error
        made = self._violation(f"raised {in_words(error)} from {where}")
        made.__cause__ = error
        return made

    def _violation(self, what: str) -> errors.ContractViolation:
        made = errors.ContractViolation(f"{self._driver_name}: the stream of watch() {what}")
        self._complete(made)
        return made
