"""Consoles: the log, which the host writes from the first serial port into the instance's folder;
tickets for the screen; pictures of it; and the interrupt that makes a hung guest tell why."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from pydantic import SecretStr

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, provides
from hvdrivers.contract.consoles import Consoles, InteractiveConsole, ScreenCapture
from hvdrivers.contract.power import CrashDump
from hvdrivers.models.console import ConsoleAccess, ConsoleKind, ConsoleLog, Screenshot
from hvdrivers.vmware.base import Topic
from hvdrivers.vmware.deadline import timed

_TICKETS = {ConsoleKind.WEBMKS: "webmks", ConsoleKind.MKS: "mks"}
_VALID = timedelta(seconds=30)
"""How long a ticket is valid if it was not used: it is good for one connection, soon ("Virtual
Machine Ticket" in the vSphere Web Services API)."""


class VmwareConsoles(Topic, Consoles, InteractiveConsole, ScreenCapture, CrashDump):
    """Consoles."""

    @timed
    def get_console_log(
        self, uuid: UUID, *, max_bytes: int = 65536, timeout: float | None = None
    ) -> ConsoleLog:
        """Budget: 1 read and 1 request."""
        del timeout
        self.machines.checked("get_console_log", uuid)
        path = f"{self.folders.instance(uuid)}/console.log"
        data, truncated = self.files.read_end(path, max_bytes)
        return ConsoleLog(data=data, truncated=truncated)

    @provides(Capability.CONSOLE_WEBMKS, Capability.CONSOLE_MKS)
    @timed
    def get_console(
        self, uuid: UUID, kind: ConsoleKind, *, timeout: float | None = None
    ) -> ConsoleAccess:
        """Budget: 1 read and 1 call.

        A WebMKS console is the WebSocket ``wss://host:port/ticket/<ticket>``, with the subprotocols
        ``binary`` and ``vmware-vvc``. The host is the ESXi host that runs the machine.
        """
        del timeout
        found = self.machines.checked("get_console", uuid)
        if kind not in _TICKETS:
            raise errors.NotSupported(
                f"vSphere has no {kind.value} console", hint="use webmks or mks"
            )
        ticket = found.obj.AcquireTicket(_TICKETS[kind])
        return ConsoleAccess(
            kind=kind,
            host=ticket.host or self.config.host,
            tls_port=ticket.port or self.config.port,
            path="/ticket" if kind is ConsoleKind.WEBMKS else ticket.cfgFile,
            ticket=SecretStr(ticket.ticket),
            expires_at=datetime.now(UTC) + _VALID,
        )

    @timed
    def screenshot(self, uuid: UUID, *, timeout: float | None = None) -> Screenshot:
        """Budget: 1 read, the task, 2 requests: the host writes the picture beside the machine's
        files, where it is read and deleted."""
        del timeout
        found = self.machines.checked("screenshot", uuid)
        path = self.tasks.run(found.obj.CreateScreenshot_Task, entity=found.obj)
        try:
            data = self.files.read(path)
        finally:
            self.files.delete(path)
        if not data:
            raise errors.HypervisorFault("the host wrote no picture", retryable=True)
        return Screenshot(data=data, media_type="image/png")

    @timed
    def inject_nmi(self, uuid: UUID, *, timeout: float | None = None) -> None:
        """Budget: 1 read and 1 call."""
        del timeout
        self.machines.checked("inject_nmi", uuid).obj.SendNMI()
