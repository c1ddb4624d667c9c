"""Cleans up after a peer, however the test run ends, even by SIGKILL.

A `Janitor` is a small process of its own that holds the reading end of a pipe. Orders come through
the pipe; when it closes, because the peer was stopped or because the test run died, the janitor
ends the processes that belong to the peer and undoes what it was told to undo.

With ``binds`` (root only) the janitor also owns a mount namespace, in which folders of the system
are replaced by private ones; with ``network`` it has network devices of its own too. Whatever runs
in that namespace belongs to the peer, which makes its processes easy to find with certainty.

This file is run as a script by the janitor process, so it imports nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

_CLONE_NEWNS = 0x00020000
_CLONE_NEWNET = 0x40000000


def processes_of(namespace: str | None, marker: str) -> dict[int, list[str]]:
    """Command lines by process id, of everything in the mount namespace or naming the marker."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            line = (entry / "cmdline").read_bytes().decode(errors="replace")
            command = line.rstrip("\0").split("\0")
            if namespace is not None:
                mine = os.readlink(entry / "ns/mnt") == namespace
            else:
                mine = any(marker in word for word in command) or (
                    f"={marker}" in (entry / "environ").read_bytes().decode(errors="replace")
                )
        except OSError:  # it has ended, or is somebody else's
            continue
        if mine:  # a zombie is in no namespace and has no command line
            found[int(entry.name)] = command
    return found


class Janitor:
    """The test's side: starts the process and gives it its orders."""

    def __init__(
        self, root: Path, binds: dict[str, str] | None = None, *, network: bool = False
    ) -> None:
        order = json.dumps({"root": str(root), "binds": binds, "network": network})
        self._network = network
        self._process = subprocess.Popen(
            [sys.executable, "-I", __file__, order],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # not reached by Ctrl-C on the terminal
        )
        self.root = root
        self.pid = self._process.pid
        answer = self._process.stdout.readline() if self._process.stdout else b""
        if answer.strip() != b"ready":
            self.finish()
            raise OSError(answer.decode() or "the janitor did not start")
        self._namespace = os.readlink(f"/proc/{self.pid}/ns/mnt") if binds else None

    def processes(self) -> dict[int, list[str]]:
        """The peer's processes, without the janitor."""
        found = processes_of(self._namespace, str(self.root))
        found.pop(self.pid, None)
        return found

    def inside(self, *command: str) -> list[str]:
        """The command line that runs ``command`` in the peer's namespaces."""
        if self._namespace is None:
            return list(command)
        mine = f"/proc/{self.pid}"
        # the root too: a test run in a chroot would leave it otherwise
        network = [f"--net={mine}/ns/net"] if self._network else []
        return [
            "nsenter",
            f"--mount={mine}/ns/mnt",
            f"--root={mine}/root",
            *network,
            "--",
            *command,
        ]

    def run_at_end(self, *command: str) -> None:
        """Undo something of the host; the last order is carried out first."""
        pipe = self._process.stdin
        if pipe is None or pipe.closed:
            raise RuntimeError("the peer was stopped")
        pipe.write(json.dumps(command).encode() + b"\n")
        pipe.flush()

    def finish(self) -> None:
        """Clean up now, and wait for it."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait(60)


def _enter_namespace(binds: dict[str, str], *, network: bool) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS | (_CLONE_NEWNET if network else 0)):
        raise OSError(ctypes.get_errno(), "no namespace of its own")
    mounts = [["--make-rprivate", "/"], *(["--bind", *item] for item in binds.items())]
    if network:
        # sysfs shows the devices of its mounter; control groups are mounted below it
        mounts += [
            ["--rbind", "/sys/fs/cgroup", "/mnt"],
            ["-t", "sysfs", "sysfs", "/sys"],
            ["--rbind", "/mnt", "/sys/fs/cgroup"],
            ["--make-rprivate", "/"],
        ]
    if "hugetlbfs" in Path("/proc/filesystems").read_text().split():
        mounts += [["-t", "hugetlbfs", "hugetlbfs", "/mnt"]]  # where libvirt looks for huge pages
    for arguments in mounts:
        done = subprocess.run(["mount", *arguments], capture_output=True, check=False)
        if done.returncode:
            raise OSError(done.stderr.decode().strip())


def _end_processes(namespace: str | None, root: str) -> None:
    """End what belongs to the peer until nothing is left; daemons may start more meanwhile."""
    asked: set[int] = set()
    force = time.monotonic() + 1
    quiet = 0
    while quiet < 3:  # a process is invisible for a moment while it becomes another program
        found = processes_of(namespace, root)
        found.pop(os.getpid(), None)
        quiet = 0 if found else quiet + 1
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                if time.monotonic() > force:
                    os.kill(pid, signal.SIGKILL)
                elif pid not in asked:
                    asked.add(pid)
                    os.kill(pid, signal.SIGTERM)
                    os.kill(pid, signal.SIGCONT)  # a stopped process does not notice a request
        time.sleep(0.03)


def _main() -> None:
    order = json.loads(sys.argv[1])
    root, binds = order["root"], order["binds"]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        if binds:
            _enter_namespace(binds, network=order["network"])
    except OSError as error:
        print(error, flush=True)
        return
    print("ready", flush=True)
    undo = [json.loads(line) for line in sys.stdin]  # until the pipe closes
    namespace = os.readlink("/proc/self/ns/mnt") if binds else None
    _end_processes(namespace, root)
    for command in reversed(undo):
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    _main()
