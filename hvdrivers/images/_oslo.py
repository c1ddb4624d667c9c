"""oslo.utils' format inspectors, the ones Glance and Nova use, behind two calls."""

from __future__ import annotations

from typing import IO, Any, cast

from oslo_utils.imageutils import format_inspector

from hvdrivers.images._view import reject

# Small enough that its VHDX inspector, which looks for the next structure only in the data that
# follows the piece in which it found the reference, sees each structure in a piece of its own.
_PIECE = 32 * 1024


class _Source:
    """The file object it insists on reading from; holds the piece being fed."""

    piece = b""

    def read(self, _size: int = -1) -> bytes:
        return self.piece


class OsloInspection:
    """Feed everything, then ask. Whatever it raises means: cannot be judged, so refused."""

    def __init__(self) -> None:
        self._source = _Source()
        self._wrapper = format_inspector.InspectWrapper(cast("IO[bytes]", self._source))
        self._pending = bytearray()

    def feed_head(self, data: bytes) -> None:
        """The part in which headers are. It is cut anew into pieces of one size, so that the
        verdict does not depend on how the network cut it."""
        self._pending += data
        while len(self._pending) >= _PIECE:
            self._put(bytes(self._pending[:_PIECE]))
            del self._pending[:_PIECE]

    def feed_rest(self, data: bytes) -> None:
        """What follows the head, a multiple of 32 KiB."""
        self._put(data)

    def finish(self) -> None:
        self._put(bytes(self._pending))
        self._pending.clear()
        self._wrapper.close()

    def _put(self, piece: bytes) -> None:
        if piece:
            self._source.piece = piece
            self._wrapper.read(len(piece))

    def formats(self) -> set[str] | None:
        """Every format the content looks like; ``{"raw"}`` for none of those known. None while it
        is still undecided."""
        matches = self._matches()
        return None if matches is None else {str(match) for match in matches}

    def safety_check(self, name: str) -> None:
        """Raises :class:`ImageRejected` if the inspector of this format finds it unsafe."""
        for match in self._matches() or []:
            if str(match) != name:
                continue
            try:
                match.safety_check()
            except format_inspector.SafetyCheckFailed as error:
                # The names are its own ("backing_file"); the texts may quote the image.
                checks = ", ".join(sorted(error.failures))
                reject(
                    f"the {name} image is unsafe: failed the checks {checks}",
                    f"make a self-contained copy: qemu-img convert -O {name} IMAGE NEW",
                )
            except Exception as error:  # noqa: BLE001  (a parser of hostile input: see the class)
                reject(f"the {name} image is corrupt or truncated ({type(error).__name__})")

    def _matches(self) -> list[Any] | None:
        try:
            return cast("list[Any] | None", self._wrapper.formats)
        except Exception as error:  # noqa: BLE001  (see the class)
            reject(f"the image's format cannot be determined ({type(error).__name__})")
