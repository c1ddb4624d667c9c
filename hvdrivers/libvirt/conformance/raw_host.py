"""A connection of the tests' own to a libvirt daemon, beside the driver's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from uuid import UUID

import libvirt

from hvdrivers.conformance.engine.observer import PreconditionMissing
from hvdrivers.libvirt.xml import parse


class RawHost:
    """A connection of its own, made again when the suite has cut it."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._lock = threading.Lock()
        self._connect: Any = None

    @property
    def connect(self) -> Any:
        """The raw virConnect; it has just answered."""
        with self._lock:
            if self._connect is not None:
                with suppress(libvirt.libvirtError):
                    self._connect.getLibVersion()
                    return self._connect
                self.drop()
            try:
                self._connect = libvirt.open(self._uri)
            except libvirt.libvirtError as error:
                raise PreconditionMissing(f"no second connection to the host: {error}") from error
            return self._connect

    def domain(self, uuid: UUID) -> Any:
        """A raw virDomain."""
        return self.connect.lookupByUUIDString(str(uuid))

    def content(self, path: str) -> bytes:
        """The file of a volume, as it is."""
        connect = self.connect
        stream = connect.newStream(0)
        connect.storageVolLookupByPath(path).download(stream, 0, 0, 0)
        found = bytearray()
        stream.recvAll(lambda _stream, data, into: into.extend(data), found)
        stream.finish()
        return bytes(found)

    def contents(self, path: str) -> Iterator[bytes]:
        """The file of a volume, and each file that it stands on."""
        while path:
            yield self.content(path)
            volume = self.connect.storageVolLookupByPath(path)
            path = parse(volume.XMLDesc(0)).findtext("backingStore/path") or ""

    def drop(self) -> None:
        """Close it."""
        if self._connect is not None:
            with suppress(libvirt.libvirtError):
                self._connect.close()
            self._connect = None
