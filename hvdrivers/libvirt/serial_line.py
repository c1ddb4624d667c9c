"""The serial console as a stream of libvirt's (``virDomainOpenConsole``): the daemon opens the
machine's pty, and carries it over a connection that the line has for itself."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from typing import Any
from uuid import UUID

import libvirt

from hvdrivers.contract import errors
from hvdrivers.driverkit.deadline import current_deadline
from hvdrivers.driverkit.serial import SerialLine, SerialLines
from hvdrivers.libvirt.base import Topic
from hvdrivers.libvirt.config import LibvirtConfig
from hvdrivers.libvirt.errors import translate_on_live, translate_opening
from hvdrivers.libvirt.opening import open_connection

_CHUNK = 64 * 1024
_NOT_NOW = -2
"""What a stream says that would have to wait."""
_READ = libvirt.VIR_STREAM_EVENT_READABLE
_READ |= libvirt.VIR_STREAM_EVENT_HANGUP | libvirt.VIR_STREAM_EVENT_ERROR
_LOOKS_APART = 1.0


class LibvirtSerial(Topic, SerialLines):
    """Serial lines."""

    def open_serial(
        self, uuid: UUID, *, force: bool = False, timeout: float | None = None
    ) -> SerialLine:
        """See :class:`hvdrivers.driverkit.serial.SerialLines`."""
        with self.connection.operation(timeout):
            self.domains.checked("get_console", uuid, current_deadline())
        return _Line(self.config, uuid, force=force)


class _Line(SerialLine):
    def __init__(self, config: LibvirtConfig, uuid: UUID, *, force: bool) -> None:
        self._data: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._writable = threading.Event()
        try:
            self._connect = open_connection(config)
        except libvirt.libvirtError as error:
            raise translate_opening(error) from error
        try:
            self._stream = self._opened(uuid, force=force)
            self._stream.eventAddCallback(_READ, self._happened, None)
        except BaseException:
            self._connect.close()
            raise

    def _opened(self, uuid: UUID, *, force: bool) -> Any:
        flags = libvirt.VIR_DOMAIN_CONSOLE_FORCE if force else 0
        try:
            domain = self._connect.lookupByUUIDString(str(uuid))
            stream = self._connect.newStream(libvirt.VIR_STREAM_NONBLOCK)
            domain.openConsole(None, stream, flags)
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_OPERATION_FAILED:
                raise errors.DeviceBusy(
                    "another client has the serial console",
                    instance=uuid,
                    vendor_code="VIR_ERR_OPERATION_FAILED",
                    hint="wait, or take it away with force=True",
                ) from error
            raise translate_on_live(error) from error
        return stream

    def _happened(self, stream: Any, events: int, _opaque: object) -> None:
        """In libvirt's event loop."""
        if events & libvirt.VIR_STREAM_EVENT_WRITABLE:
            self._writable.set()
            stream.eventUpdateCallback(_READ)
        if not events & _READ:
            return
        ended = False
        try:
            data = stream.recv(_CHUNK)
            ended = data == b""
        except libvirt.libvirtError:
            data, ended = b"", True
        with self._changed:
            if data and data != _NOT_NOW:
                self._data.append(data)
            if ended or (data == _NOT_NOW and not events & libvirt.VIR_STREAM_EVENT_READABLE):
                self._ended = True
                with suppress(libvirt.libvirtError):  # or the loop would call again, and again
                    stream.eventRemoveCallback()
            self._changed.notify_all()

    def receive(self) -> bytes:
        with self._changed:
            self._changed.wait_for(lambda: self._data or self._ended)
            data = b"".join(self._data)
            self._data.clear()
            return data

    def send(self, data: bytes) -> None:
        left = data
        try:
            while left:
                if self._ended:
                    raise errors.ConnectionFailed("the serial console has ended")
                sent = self._stream.send(left)
                if sent == _NOT_NOW:
                    self._writable.clear()
                    self._stream.eventUpdateCallback(_READ | libvirt.VIR_STREAM_EVENT_WRITABLE)
                    self._writable.wait(_LOOKS_APART)
                else:
                    left = left[sent:]
        except libvirt.libvirtError as error:
            raise errors.ConnectionFailed("the serial console has ended") from error

    def close(self) -> None:
        with self._changed:
            ended, self._ended = self._ended, True
            self._changed.notify_all()
        with suppress(libvirt.libvirtError):
            if not ended:
                self._stream.eventRemoveCallback()
        with suppress(libvirt.libvirtError):
            self._stream.abort()
        with suppress(libvirt.libvirtError):
            self._connect.close()
