"""Consoles on libvirt: the log that virtlogd keeps, read through its storage pool; the screen."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from uuid import UUID

import libvirt
from pydantic import SecretStr

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability, provides
from hvdrivers.contract.consoles import Consoles, InteractiveConsole, ScreenCapture
from hvdrivers.driverkit.deadline import Deadline, current_deadline
from hvdrivers.libvirt.base import Topic
from hvdrivers.libvirt.domains import xml_of
from hvdrivers.libvirt.naming import console_name
from hvdrivers.libvirt.pictures import png_of_ppm
from hvdrivers.libvirt.pools import refresh
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.streams import read_stream
from hvdrivers.libvirt.xml import Element, attribute, text
from hvdrivers.models.console import ConsoleAccess, ConsoleKind, ConsoleLog, Screenshot

_KEPT = 3
"""Older files that virtlogd keeps by default; with another setting the oldest are not read."""


_PICTURE = 128 << 20
"""Bytes of the largest picture that is read: 8K, uncompressed, has 100 MiB."""
_TICKET = timedelta(minutes=2)
"""How long a password lets somebody in; who is in stays."""
_RANDOM = {ConsoleKind.VNC: 6, ConsoleKind.SPICE: 24}
"""The screen's servers, and the random bytes of a ticket: VNC reads eight characters of a password,
SPICE sixty."""


class LibvirtScreen(Topic, InteractiveConsole, ScreenCapture):
    """The screen: VNC, SPICE, and pictures; the serial port."""

    @provides(Capability.CONSOLE_VNC, Capability.CONSOLE_SPICE, Capability.CONSOLE_SERIAL)
    def get_console(
        self, uuid: UUID, kind: ConsoleKind, *, timeout: float | None = None
    ) -> ConsoleAccess:
        """Budget: 4 calls, 5 where the screen listens on all addresses. Without a ticket of the
        last two minutes nobody gets in. VNC reads eight characters of a password, so its ticket has
        eight; SPICE's has 32.
        SERIAL: ``path`` is the pty on the host; ``open_serial()`` carries the line to the caller.
        """
        del timeout
        domain, _ = self.domains.checked("get_console", uuid, current_deadline())
        if kind is ConsoleKind.SERIAL:
            return self._serial_console(domain)
        if kind not in _RANDOM:
            raise errors.NotSupported(
                f"libvirt machines have no console of the kind {kind} here",
                hint="take serial, vnc or spice",
            )
        screen = xml_of(domain).find(f"devices/graphics[@type='{kind.value}']")
        if screen is None:
            raise _no_screen(f"{kind.value.upper()} server for a screen")
        ticket = secrets.token_urlsafe(_RANDOM[kind])
        expires = datetime.now(UTC).replace(microsecond=0) + _TICKET
        screen.set("passwd", ticket)
        screen.set("passwdValidTo", expires.strftime("%Y-%m-%dT%H:%M:%S"))
        domain.updateDeviceFlags(text(screen), libvirt.VIR_DOMAIN_AFFECT_LIVE)
        listen = screen.get("listen") or "127.0.0.1"
        if ip_address(listen).is_unspecified:
            listen = str(self.connection.remote.getHostname())
        return ConsoleAccess(
            kind=kind,
            host=listen,
            port=_port(screen, "port"),
            tls_port=_port(screen, "tlsPort"),
            ticket=SecretStr(ticket),
            expires_at=expires,
        )

    def _serial_console(self, domain: Remote) -> ConsoleAccess:
        path = attribute(xml_of(domain), "devices/serial[@type='pty']/source", "path")
        if path is None:
            raise errors.NotSupported(
                "this machine has no serial port with a pty", hint="others have changed it"
            )
        host = str(self.connection.remote.getHostname())
        return ConsoleAccess(kind=ConsoleKind.SERIAL, host=host, path=path)

    def screenshot(self, uuid: UUID, *, timeout: float | None = None) -> Screenshot:
        """Budget: 4 calls. PNG, whatever QEMU makes."""
        del timeout
        deadline = current_deadline()
        domain, _ = self.domains.checked("screenshot", uuid, deadline)
        stream = self.connection.remote.newStream(0)
        try:
            media_type = domain.screenshot(stream, 0, 0)
        except errors.InvalidState as error:
            if xml_of(domain).find("devices/video") is not None:
                raise
            raise _no_screen() from error
        except errors.VolumeNotFound as error:
            # the file of the picture, which QEMU could not write
            raise errors.HypervisorFault(
                error.message, vendor_code="VIR_ERR_INTERNAL_ERROR"
            ) from error
        data = read_stream(stream, _PICTURE, deadline)
        if media_type == "image/x-portable-pixmap":
            data, media_type = png_of_ppm(data), "image/png"
        return Screenshot(data=data, media_type=media_type)


def _port(screen: Element, name: str) -> int | None:
    """None where it has no such port: libvirt writes -1 or nothing."""
    number = int(screen.get(name) or 0)
    return number if number > 0 else None


def _no_screen(lacks: str = "screen") -> errors.NotSupported:
    return errors.NotSupported(
        f"this machine has no {lacks}",
        hint="it was made with another value of graphics in the configuration",
    )


class LibvirtConsoles(Topic, Consoles):
    """The log. virtlogd keeps 2 MiB and three older files of that size by default."""

    def get_console_log(
        self, uuid: UUID, *, max_bytes: int = 65536, timeout: float | None = None
    ) -> ConsoleLog:
        """Budget: 6 calls; 2 more if the log is shorter than ``max_bytes``, and 4 for each older
        file that is read."""
        del timeout
        deadline = current_deadline()
        self.domains.checked("get_console_log", uuid, deadline)
        pool = self.pools.consoles()
        name = console_name(uuid)
        try:
            data, more = self._tail(pool, name, max_bytes, deadline)
        except errors.VolumeNotFound:
            return ConsoleLog(data=b"", truncated=False)
        if not more:
            # has the log been rotated? The pool knows only files that it has looked for
            refresh(pool)
        for number in range(_KEPT):
            if more:
                break
            try:
                older, more = self._tail(pool, f"{name}.{number}", max_bytes - len(data), deadline)
            except errors.VolumeNotFound:
                break
            data = older + data
        return ConsoleLog(data=data, truncated=more)

    def _tail(self, pool: Remote, name: str, limit: int, deadline: Deadline) -> tuple[bytes, bool]:
        """The end of one file, and whether it has more before that."""
        volume = pool.storageVolLookupByName(name)
        size = int(volume.info()[1])
        begin = max(0, size - limit)
        if size == begin:
            return b"", size > 0
        stream = self.connection.remote.newStream(0)
        volume.download(stream, begin, size - begin, 0)
        return read_stream(stream, size - begin, deadline), begin > 0
