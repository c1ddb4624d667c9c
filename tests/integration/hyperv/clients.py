"""Clients in processes of their own, for tests of what becomes of two calls at once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.integration.hyperv.client import call
from tests.integration.hyperv.site import Site


class Client:
    """A client in a process of its own."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._ends_with = 0
        command = [sys.executable, "-m", "tests.integration.hyperv.client"]
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        options = {
            "host": "127.0.0.1",
            "port": site.service.port,
            "tls": False,
            "username": "operator",
            "password": "secret",
            "folder": "C:\\hv",
            "pools": {"second": "C:\\hv-second"},
        }
        assert self.ask(options) == "ready"

    def say(self, what: object) -> None:
        """Let it make a call."""
        assert self._child.stdin is not None
        self._child.stdin.write(f"{json.dumps(what)}\n")
        self._child.stdin.flush()

    def ask(self, what: object) -> str:
        """The same; what came of it."""
        self.say(what)
        assert self._child.stdout is not None
        return self._child.stdout.readline().strip()

    def both(self, operation: str, **arguments: Any) -> list[str]:
        """The same call by it and by the driver of this process, at once."""
        with ThreadPoolExecutor(1) as pool:
            theirs = pool.submit(self.ask, [operation, arguments])
            ours = call(self._site.driver, operation, arguments)
            return sorted((ours, theirs.result()))

    def kill(self) -> None:
        self._child.kill()
        self._child.wait()
        self._ends_with = -signal.SIGKILL

    def close(self) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        assert self._child.wait() == self._ends_with
        assert self._child.stdout is not None
        self._child.stdout.close()
