"""The processes of a run, seen from the one that gives them orders: what they answer, and how they
end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory

from hvdrivers.conformance.engine.clauses import Check
from hvdrivers.conformance.engine.worker import Job, work

BEGINNING_SECONDS = 900.0
"""What a process has to make its host and to connect to it."""
GRACE_SECONDS = 20.0
"""What a process has, when it is interrupted, to remove what it made and to end its host."""


@dataclass(frozen=True)
class Lost:
    """In place of an answer: the process has ended."""

    how: str


class Worker:
    """One process.

    Args:
        make: what it begins with, by the folder for its temporary files.
        patience: seconds without an answer to an order after which it counts as one that hangs.
    """

    def __init__(self, make: Callable[[Path], Job], patience: float) -> None:
        self._patience = patience
        self._folder = TemporaryDirectory(prefix="hvct-", ignore_cleanup_errors=True)
        context = multiprocessing.get_context("spawn")
        self.orders, theirs = context.Pipe()
        job = make(Path(self._folder.name))
        self.process: BaseProcess = context.Process(target=work, args=(theirs, job))
        try:
            self.process.start()
        except BaseException:
            self.orders.close()
            self._folder.cleanup()
            raise
        finally:
            theirs.close()
        self._since: float | None = time.monotonic()
        """When it got the order that it has not answered; None: it waits for one."""
        self.begun = False
        self.time_scale = 1.0
        self.check: Check | None = None
        """What it tries now."""

    @property
    def idle(self) -> bool:
        """Whether it waits for an order."""
        return self.begun and self._since is None

    @property
    def busy_for(self) -> float:
        """Seconds since it got its order."""
        return 0.0 if self._since is None else time.monotonic() - self._since

    @property
    def left(self) -> float | None:
        """Seconds until it counts as one that hangs."""
        if self._since is None:
            return None
        most = self._patience * self.time_scale if self.begun else BEGINNING_SECONDS
        return max(0.0, most - self.busy_for)

    def order(self, what: object) -> bool:
        """Tell it to do something. False: it does not hear, because it has ended."""
        try:
            self.orders.send(what)
        except OSError:
            return False
        self._since = time.monotonic()
        return True

    def answer(self) -> object:
        """Its next message, or Lost."""
        with suppress(EOFError, OSError):
            if self.orders.poll():
                message: object = self.orders.recv()
                self._since = None
                return message
        return Lost(self.end(GRACE_SECONDS))

    def give_up(self) -> Lost:
        """It hangs: end it."""
        waited = self.busy_for
        self.end()
        return Lost(f"ended, because it had not answered for {waited:.0f} s")

    def interrupt(self) -> None:
        """Let it stop what it does, remove what it has made, and end."""
        if self.process.is_alive():
            os.kill(self.process.pid or 0, signal.SIGTERM)

    def end(self, seconds: float = 0.0) -> str:
        """Wait so long for its end, then end it and what it has started. Returns how it ended."""
        done = bool(wait([self.process.sentinel], seconds))
        # before it is waited for: until then nobody else has its number
        with suppress(OSError):
            os.killpg(self.process.pid or 0, signal.SIGKILL)
        if not done:
            self.process.kill()
        self.process.join()
        code = self.process.exitcode or 0
        self.process.close()
        self.orders.close()
        self._folder.cleanup()
        return f"killed by {_signal(-code)}" if code < 0 else f"ended by itself with status {code}"


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def answers(workers: Sequence[Worker]) -> Iterator[tuple[Worker, object]]:
    """Wait until one of them answers, ends, or hangs."""
    left = [each.left for each in workers if each.left is not None]
    sources = [each.orders for each in workers], [each.process.sentinel for each in workers]
    ready = wait([*sources[0], *sources[1]], min(left, default=None))
    for each in list(workers):
        if each.orders in ready or each.process.sentinel in ready:
            yield each, each.answer()
        elif each.left == 0:
            yield each, each.give_up()


def end_all(workers: Sequence[Worker]) -> None:
    """Interrupt them, and end those that have not ended then."""
    try:
        for each in workers:
            each.interrupt()
        until = time.monotonic() + GRACE_SECONDS
        for each in workers:
            wait([each.process.sentinel], max(0.0, until - time.monotonic()))
    finally:  # Ctrl-C again: do not wait
        for each in workers:
            each.end()
