"""A daemon, and whatever it starts and lets go of, buried as soon as it has ended.

QEMU detaches itself from libvirtd, so process 1 becomes its parent. In containers and small virtual
machines that one may look for its dead only now and then, and libvirtd waits for it with every
machine that is powered off: 1.4 seconds instead of a few milliseconds. So a small process between
test and daemon takes that part.

This file is run as a script by that process, so it imports nothing but the standard library.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
from typing import BinaryIO

_PR_SET_CHILD_SUBREAPER = 36


class Daemon:
    """The test's side of one: its process id, and whether it runs."""

    def __init__(self, command: list[str], *, log: BinaryIO, env: dict[str, str]) -> None:
        self._reaper = subprocess.Popen(
            [sys.executable, "-I", __file__, *command],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # not reached by Ctrl-C on the terminal
        )
        assert self._reaper.stdout is not None
        with self._reaper.stdout as pipe:
            self.pid = int(pipe.readline())
        try:
            self._ended = os.pidfd_open(self.pid)
        except ProcessLookupError:
            self._ended = -1

    def running(self) -> bool:
        return not self._wait(0)

    def wait(self, seconds: float) -> None:
        """Wait for its end; what it has started and let go of may run on."""
        if not self._wait(seconds):
            raise TimeoutError(f"process {self.pid} did not end within {seconds:g} s")

    def _wait(self, seconds: float) -> bool:
        return self._ended < 0 or bool(select.select([self._ended], [], [], seconds)[0])

    def send_signal(self, number: signal.Signals) -> None:
        if self.running():
            os.kill(self.pid, number)

    def close(self) -> None:
        """Wait until everything has ended that came from it."""
        self._reaper.wait(30)
        if self._ended >= 0:
            os.close(self._ended)
            self._ended = -1


def _main() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    daemon = os.fork()
    if daemon == 0:
        os.dup2(2, 1)
        os.execvp(sys.argv[1], sys.argv[1:])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    print(daemon, flush=True)
    os.dup2(2, 1)
    try:
        while True:
            os.wait()
    except ChildProcessError:
        return


if __name__ == "__main__":
    _main()
