"""Consoles on libvirt: the log that virtlogd keeps, read through its storage pool."""

from __future__ import annotations

from contextlib import suppress
from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.contract.consoles import Consoles
from hvdrivers.libvirt.base import Deadline, Topic
from hvdrivers.libvirt.connection import Remote
from hvdrivers.libvirt.naming import console_name
from hvdrivers.libvirt.pools import refresh
from hvdrivers.models.console import ConsoleLog

_CHUNK = 240 * 1024


_KEPT = 3
"""Older files that virtlogd keeps by default; with another setting the oldest are not read."""


class LibvirtConsoles(Topic, Consoles):
    """The log. virtlogd keeps 2 MiB and three older files of that size by default."""

    def get_console_log(
        self, uuid: UUID, *, max_bytes: int = 65536, timeout: float | None = None
    ) -> ConsoleLog:
        """Budget: 6 calls; 2 more if the log is shorter than ``max_bytes``, and 4 for each older
        file that is read."""
        deadline = Deadline(timeout)
        self._checked("get_console_log", uuid)
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
        data = bytearray()
        try:
            while len(data) < size - begin and (chunk := stream.recv(_CHUNK)):
                data += chunk
                deadline.check("the log was read")
        except BaseException:
            with suppress(errors.HypervisorError):
                stream.abort()
            raise
        stream.finish()
        return bytes(data), begin > 0
