"""Whether the host has written all that an upload has sent.

Where a file system is full, the daemon stops writing. libvirt 9.0 may let the stream finish all the
same: the file then ends, or has zeros, where the room ended, and no call has failed. Nothing that
was sent after the failure is in the file. So the last part that is not all zeros is read back: if
it is there, everything is.
"""

from __future__ import annotations

from hvdrivers.contract import errors
from hvdrivers.driverkit.deadline import Deadline
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.streams import read_stream


class LastPart:
    """The last part of an upload that says anything."""

    def __init__(self) -> None:
        self._offset = 0
        self._data = b""

    def note(self, offset: int, data: bytes) -> None:
        """A part that was sent."""
        if data.count(0) != len(data):
            self._offset, self._data = offset, data

    def require_written(self, volume: Remote, deadline: Deadline) -> None:
        """Raise HypervisorFault if the volume has not this part. Two calls, none for zeros."""
        if not self._data:
            return
        stream = volume.connect().newStream(0)
        volume.download(stream, self._offset, len(self._data), 0)
        if read_stream(stream, len(self._data), deadline) != self._data:
            raise errors.HypervisorFault(
                "the host has not written all of what was sent, and did not say so",
                hint="its file system is full, or has been",
            )
