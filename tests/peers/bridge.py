"""A Linux bridge for taps, with a DHCP server for the guests on it."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.peers.dhcp import DhcpServer, run_ip
from tests.peers.janitor import Janitor
from tests.peers.precondition import PreconditionMissing


class LinuxBridge:
    """A bridge with a name of its own; it goes when the peer ends, however it ends.

    Attributes:
        name: of the device.
    """

    def __init__(self, *, dhcp: bool = True) -> None:
        if os.geteuid() != 0:
            raise PreconditionMissing("root, to make a bridge")
        if shutil.which("ip") is None:
            raise PreconditionMissing("ip (package iproute2)")
        self.name = f"hvbr{uuid.uuid4().hex[:8]}"
        self._dhcp: DhcpServer | None = None
        self.root = Path(tempfile.mkdtemp(prefix="hvb-", dir="/tmp"))
        self._janitor = Janitor(self.root)
        try:
            done = run_ip("link", "add", self.name, "type", "bridge")
            if done.returncode:
                raise PreconditionMissing(f"a bridge in this kernel: {done.stderr.strip()}")
            self._janitor.run_at_end("ip", "link", "delete", self.name)
            run_ip("link", "set", self.name, "up").check_returncode()
            if dhcp:
                self._dhcp = DhcpServer(self.name, self.root)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def address(self) -> str | None:
        """The host's own address on it, or None without DHCP."""
        return self._dhcp.address if self._dhcp else None

    def ports(self) -> set[str]:
        """Names of the devices plugged into it."""
        return set(os.listdir(f"/sys/class/net/{self.name}/brif"))

    def close(self) -> None:
        """Remove it. Idempotent."""
        self._janitor.finish()
        if self._dhcp:
            self._dhcp.wait()
