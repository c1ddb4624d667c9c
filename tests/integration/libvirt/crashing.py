"""What may crash a process, each in a child process of its own."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from hvdrivers.contract import errors
from hvdrivers.guard import guarded
from hvdrivers.libvirt.config import LibvirtConfig
from hvdrivers.libvirt.driver import LibvirtDriver
from hvdrivers.libvirt.link import Link
from hvdrivers.libvirt.remote import Remote
from tests.integration.libvirt.faults import sockets_to
from tests.peers.waiting import wait_until

_ROOT = Path(__file__).parents[3]


def crash_free(what: str, uri: str, number: int, *, tries: int) -> bool:
    """Run it in that many processes, and show what the first one that fails has said."""
    for _ in range(tries):
        done = subprocess.run(
            [sys.executable, "-X", "faulthandler", "-m", __name__, what, uri, str(number)],
            cwd=_ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{what}: {done.returncode}\n{done.stderr[-3000:]}"
    return True


def _driver(uri: str, **options: object) -> LibvirtDriver:
    return LibvirtDriver.connect(LibvirtConfig(uri=uri, virt_type="qemu", **options))


def _cut(uri: str, daemon: int) -> None:
    """Eight threads list machines while their connections are cut again and again."""
    driver = guarded(_driver(uri))
    done = threading.Event()
    listed = [0] * 8

    def work(number: int) -> None:
        while not done.is_set():
            try:
                driver.list_instances()
                listed[number] += 1
            except errors.ConnectionFailed:
                continue

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for each in threads:
        each.start()
    try:
        for _ in range(25):
            before = list(listed)
            for descriptor in sockets_to(daemon):
                try:
                    with socket.socket(fileno=os.dup(descriptor)) as each_socket:
                        each_socket.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue
            wait_until(
                lambda before=before: all(
                    now > was for now, was in zip(listed, before, strict=True)
                ),
                timeout=60,
                what="every thread lists again",
                interval=0.005,
            )
    finally:
        done.set()
    for each in threads:
        each.join(30)
        assert not each.is_alive(), "a thread hangs"
    driver.close()


def _closing(uri: str, number: int) -> None:
    """Two threads look whether connections live, and use what needs no call, while they are
    closed."""
    driver = _driver(uri)
    pool = driver.connection.links
    for _ in range(number):
        link = pool.lease(time.monotonic() + 60)
        remote = Remote(driver.connection, link, link.connect)

        def look(link: Link = link, remote: Remote = remote) -> None:
            try:
                while link.alive:
                    remote.newStream(0)
            except errors.ConnectionFailed:
                return

        threads = [threading.Thread(target=look, daemon=True) for _ in range(2)]
        for each in threads:
            each.start()
        pool.discard(link)
        for each in threads:
            each.join(60)
            assert not each.is_alive(), "a thread hangs"
    driver.close()


def _descriptors(uri: str, limit: int) -> None:
    driver = guarded(_driver(uri))
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    taken = []
    try:
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass
    for spare in range(24):
        os.close(taken.pop())
        told = opened = 0
        for _ in range(3):
            try:
                other = _driver(uri)
            except errors.HypervisorError as error:
                told += "descriptors" in str(error)
            else:
                opened += 1  # a connection of the first driver has ended meanwhile
                other.close()
        threads = [threading.Thread(target=_quietly, args=(driver.list_instances,)) for _ in "1234"]
        for each in threads:
            each.start()
        for each in threads:
            each.join(30)
        assert spare > 8 or told + opened == 3
        assert spare > 0 or told
    for each in taken:
        os.close(each)
    driver.list_instances()
    driver.close()


def _quietly(call: object) -> None:
    try:
        call()  # type: ignore[operator]
    except errors.HypervisorError:
        return


def _hang_up(_uri: str, number: int) -> None:
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
        path = f"{folder}/socket"
        server.bind(path)
        server.listen(64)
        accepted = 0

        def serve() -> None:
            nonlocal accepted
            while True:
                server.accept()[0].close()
                accepted += 1

        threading.Thread(target=serve, daemon=True).start()
        uri = f"qemu+unix:///system?socket={path}"
        driver = LibvirtDriver(LibvirtConfig(uri=uri, virt_type="qemu"))
        _quietly(driver.ping)
        before = len(os.listdir("/proc/self/fd"))
        while accepted < number:
            with contextlib.suppress(errors.ConnectionFailed):
                driver.ping()
        assert len(os.listdir("/proc/self/fd")) - before < 8


def _fork(uri: str, _number: int) -> None:
    raw = _driver(uri)
    driver = guarded(raw)
    driver.list_instances()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            refused = 0
            for call in (driver.list_instances, raw.list_instances, lambda: _driver(uri)):
                try:
                    call()
                except errors.ConnectionFailed as error:
                    refused += not error.retryable and "fork" in str(error)
            code = 0 if refused == 3 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    driver.list_instances()
    driver.close()


_WHAT = {
    "cut": _cut,
    "closing": _closing,
    "descriptors": _descriptors,
    "hang-up": _hang_up,
    "fork": _fork,
}

if __name__ == "__main__":
    _WHAT[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
