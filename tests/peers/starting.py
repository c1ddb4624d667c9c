"""QEMU held still while it starts: the machine is "starting up" until a test lets it go on."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress

from tests.peers.libvirtd import LibvirtPeer
from tests.peers.observer import VirshError
from tests.peers.waiting import wait_until


class Held:
    """One machine whose start stands still."""

    def __init__(self, peer: LibvirtPeer, domain: str, start: Future[object]) -> None:
        self._peer = peer
        self._domain = domain
        self.start = start
        """The call that starts it."""
        self._pid = 0

    def hold(self) -> None:
        """Stop QEMU, as soon as it is there."""
        while not self._pid:
            if self.start.done():
                self.start.result()
                raise AssertionError("the start was over before QEMU could be stopped")
            with suppress(AssertionError):
                self._pid = self._peer.qemu_pid(self._domain)
        os.kill(self._pid, signal.SIGSTOP)
        try:
            state = self._peer.virsh("domstate", self._domain, "--reason").strip()
        except VirshError as error:
            state = str(error)
        if "starting up" not in state:
            self.let_go()
            raise AssertionError(f"QEMU was stopped too late: {state}")

    def let_go(self) -> None:
        """Let the start go on."""
        os.kill(self._pid, signal.SIGCONT)

    def kill(self) -> None:
        """Let the start fail."""
        os.kill(self._pid, signal.SIGKILL)


@contextmanager
def held_start(peer: LibvirtPeer, domain: str, call: Callable[[], object]) -> Iterator[Held]:
    """``call`` starts the machine, and has come as far as QEMU when the block begins."""
    start = meanwhile(call)
    held = Held(peer, domain, start)
    held.hold()
    try:
        yield held
    finally:
        with suppress(ProcessLookupError):
            held.let_go()
        wait_until(start.done, timeout=120, what="the start is over")


def meanwhile(call: Callable[[], object]) -> Future[object]:
    """Begin a call in a thread."""
    future: Future[object] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - for the one who asks for the result
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
