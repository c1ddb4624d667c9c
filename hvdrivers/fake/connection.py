"""The connection to a fake host."""

from __future__ import annotations

from hvdrivers.contract.capabilities import Capability
from hvdrivers.contract.connection import Connection
from hvdrivers.fake.base import FakeBase
from hvdrivers.models.host import HostInfo


class FakeConnection(FakeBase, Connection):
    """The connection topic of Core."""

    def ping(self, *, timeout: float | None = None) -> None:
        """1 call."""
        with self.link.task("ping", None, timeout) as task:
            task.call("say-hello", lambda: None, changes=False)

    def host(self, *, timeout: float | None = None) -> HostInfo:
        """1 call."""
        with self.link.task("host", None, timeout) as task:
            return task.call("read-host", lambda: self.fake_host.info, changes=False)

    def close(self, *, timeout: float | None = None) -> None:
        """No call: nothing on the host knows of a connection."""
        del timeout
        self.link.close()

    def narrowed(self) -> dict[Capability, str]:
        """What the configuration leaves out."""
        return dict(self.without)
